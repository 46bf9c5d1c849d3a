"""A client's connection, as other threads see and change it: without waiting, and without reading from it.

It is reached through the server's own socket object. A duplicate of the descriptor would double the number of descriptors and
delay the server's FIN. A descriptor's number may belong to another client a moment later, even the one in the socket object:
an application may call ``os.closerange``. So the socket's inode is remembered, and no other socket is touched.
"""

from __future__ import annotations

import _socket  # under gevent, `socket` is gevent's own, which waits in greenlets
import contextlib
import os
import socket
import struct
import time
from collections.abc import Callable
from typing import Any, Literal, NamedTuple, Protocol, TypeVar

from .polling import GONE, HALF_CLOSED, HUNG_UP, WRITABLE, new_poll

try:
    import fcntl
except ImportError:  # Windows, where a socket has no inode either
    fcntl = None  # type: ignore[assignment]
_HAS_FCNTL = bool(fcntl)

_Result = TypeVar("_Result")

State = Literal["open", "half closed", "gone"]

# The most unsent bytes that the kernel holds for a client. Measured with a producer of 2 MB/s and a reader of 200 KB/s, whose
# kernel holds 128 KB. With 4, 16, 64 and 128 KiB events are 0.7, 0.7, 0.8 and 0.9 s old when they arrive, and take 54, 59, 60
# and 137 KB of memory. With the default they are 8 to 11 s old and take 3.8 MB. A client that does not read takes 35 KB instead
# of 3.9 MB. The throughput of events of 100 KB and 10 MB is the same with 16 KiB, 128 KiB and the default.
_LITTLE = 16384
# A client that reads fast gets more, since a sender that waits for its reader that often is slow: events of 10 KB reach it with
# 1.5 GB/s, and with the above with 1.1. If it stops to read, it takes 1 MB until it goes on.
_MUCH = 1048576
# Bytes of the least send buffer that takes 4 KiB after a POLLOUT, whatever it holds. Of 1,000 to 1,200 such writes to a client
# that reads little, with the above and without, in segments of 524 bytes and of 32 KB, so many went in part only: with a buffer
# of 20 KB or more none, with 16 KB up to 3, with 12 KB up to 240. A connection over TCP begins with 38 KB or more.
_TAKES_JOINED = 24576
_TCP_NOTSENT_LOWAT = getattr(socket, "TCP_NOTSENT_LOWAT", 25)
_SIOCOUTQ = 0x5411
_ACKNOWLEDGED_WITHIN = 0.2  # seconds; Linux acknowledges within 0.04, and Nagle's algorithm waits for that before it sends more
_TCP_INFO_SIZE, _BYTES_ACKED_AT = 128, 120  # struct tcp_info of linux/tcp.h


class HasDescriptor(Protocol):
    """A socket, or a server's object in its place."""

    def fileno(self) -> int:
        """Return the descriptor, -1 once it is closed."""


class Progress(NamedTuple):
    """How much of what was sent has arrived."""

    queued: int  # bytes that the kernel holds
    acknowledged: int | None  # bytes since the connection's start; None on a Unix socket
    is_writable: bool = False  # on a Unix socket: three quarters of its queue are free

    def has_moved_since(self, earlier: Progress) -> bool:
        """Return whether the client has received anything since *earlier*, as far as the kernel shows it.

        After `hold_little` the queue of a client that reads may not change, so on TCP the acknowledged bytes are compared.
        On a Unix socket, the queue of a client that does not read grows until it is full, and then does not change. A short
        queue shows nothing: each time it may be the heartbeat that was sent just now.
        """
        if self.acknowledged is None or earlier.acknowledged is None:
            return self.is_writable or self.queued != earlier.queued
        return self.acknowledged > earlier.acknowledged


class Connection:
    """A client's connection. *is_closed*: returns whether the server, which closes connections by itself, has closed it.

    For any thread, but only while the server cannot close the descriptor: in the watcher with `Baton.ours`, or on the server's
    thread. No method waits, and none raises because the connection is gone.
    """

    __slots__ = ("_inode", "_is_closed", "_not_sent_before", "_socket")

    def __init__(self, connection: HasDescriptor, is_closed: Callable[[], bool] | None = None) -> None:
        self._socket = connection
        self._is_closed = is_closed
        self._inode = _inode(connection)
        self._not_sent_before: int | None = None

    def is_of(self, connection: object) -> bool:
        """Tell whether it is the one over that socket."""
        return self._socket is connection

    @property
    def is_closed_by_itself(self) -> bool:
        """Whether the server may close the descriptor at any time, so that no epoll event comes."""
        return self._is_closed is not None

    @property
    def is_tls(self) -> bool:
        """Whether the socket is a TLS socket of the standard library or of gevent."""
        return hasattr(self._socket, "cipher")

    def fileno(self) -> int:
        """Return the descriptor, -1 once anybody has closed it."""
        try:
            descriptor = -1 if self._is_closed is not None and self._is_closed() else self._socket.fileno()
        except (OSError, ValueError, RuntimeError):
            return -1
        return descriptor if self._inode == _inode(self._socket) >= 0 else -1

    @property
    def is_lost(self) -> bool:
        """Whether the descriptor was closed without the server's knowledge."""
        return not self.is_closed_by_itself and self.fileno() < 0

    def disown(self) -> None:
        """Detach the server's socket from a lost descriptor. Else the server may write to another client, and close it."""
        detach = getattr(self._socket, "detach", None)
        if detach is not None and self.is_lost:
            with contextlib.suppress(OSError, ValueError):
                detach()

    def state(self) -> State:
        """Return whether the client is there. Sees a FIN or RST behind TLS or pipelined bytes too; `MSG_PEEK` does not."""
        events = self._poll(HALF_CLOSED)
        return "gone" if events & GONE else "half closed" if events else "open"

    def is_writable(self) -> bool:
        """Return whether a write of `MOST_WRITTEN` bytes will not wait."""
        return self._poll(WRITABLE) == WRITABLE

    @property
    def holds_much(self) -> bool:
        """Whether the kernel takes `MOST_JOINED` bytes at once where a poll says that it takes any."""
        return (self._on_socket(lambda found: found.getsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF)) or 0) >= _TAKES_JOINED

    def _poll(self, events: int) -> int:
        descriptor = self.fileno()
        return _poll(descriptor, events) if descriptor >= 0 else HUNG_UP

    # -- its bytes in the kernel

    def hold_little(self, *, is_fast: bool = False) -> None:
        """Limit the unsent bytes that the kernel holds, until `restore`: to more if its client reads fast. On TCP only."""

        def hold(found: Any) -> None:
            if self._not_sent_before is None:
                self._not_sent_before = found.getsockopt(socket.IPPROTO_TCP, _TCP_NOTSENT_LOWAT)
            found.setsockopt(socket.IPPROTO_TCP, _TCP_NOTSENT_LOWAT, _MUCH if is_fast else _LITTLE)

        self._on_socket(hold)

    def restore(self) -> None:
        """Undo `hold_little`, since the server may keep the connection for other requests."""
        before, self._not_sent_before = self._not_sent_before, None
        if before is not None:
            self._on_socket(lambda found: found.setsockopt(socket.IPPROTO_TCP, _TCP_NOTSENT_LOWAT, before))

    def progress(self) -> Progress | None:
        """Return how much of what was sent has arrived, or None if the kernel does not say."""
        return self._on_socket(_progress)

    # -- ending it

    def shutdown(self, how: int) -> None:
        """Shut down a direction of the connection, below TLS: after `ssl.SSLSocket.shutdown` writes would be in plain text."""
        self._on_raw(lambda raw: raw.shutdown(how))

    def reset_on_close(self) -> None:
        """Make the close of the connection send a RST, also when the process ends, since a FIN may look like a clean end."""
        self._on_raw(lambda raw: raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0)))

    def cut(self) -> None:
        """End both directions at once, so that a server's thread that writes or reads gets an error."""
        self.reset_on_close()
        self.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """Close the connection with a RST. On the server's thread only.

        A RST drops what is still queued, so this waits a moment until what was written is acknowledged.

        The server's socket then has an unconnected socket in place of the connection, and the server closes that: cheroot 11
        ends itself over a socket that is closed already. A server that closes by itself still watches its socket in an event
        loop, and a socket of uvloop cannot be closed. There the connection is cut.
        """
        if self.is_closed_by_itself:
            self.cut()
            return
        self._wait_until_acknowledged()
        self.disown()
        self.reset_on_close()
        descriptor = self.fileno()
        if descriptor >= 0 and hasattr(self._socket, "close"):
            with contextlib.suppress(OSError, ValueError), socket.socket() as unconnected:
                os.dup2(unconnected.fileno(), descriptor, inheritable=False)
            self._inode = _inode(self._socket)

    def _wait_until_acknowledged(self) -> None:
        deadline = time.monotonic() + _ACKNOWLEDGED_WITHIN
        while (progress := self.progress()) is not None and progress.queued and time.monotonic() < deadline:
            time.sleep(0.002)

    def _on_socket(self, act: Callable[[Any], _Result]) -> _Result | None:
        """Do as `_on_raw`, with the server's socket if it has options: making a plain one takes four more system calls."""
        if not hasattr(self._socket, "getsockopt"):
            return self._on_raw(act)
        if self.fileno() < 0:
            return None
        try:
            return act(self._socket)
        except (OSError, ValueError):  # ValueError: a socket of uvloop that is closed
            return None

    def _on_raw(self, act: Callable[[_socket.socket], _Result]) -> _Result | None:
        """Return what *act* does with a plain socket of the descriptor; None if it is closed or the system refuses."""
        descriptor = self.fileno()
        if descriptor < 0:
            return None
        try:
            raw = _socket.socket(fileno=descriptor)
        except OSError:
            return None
        try:
            return act(raw)
        except OSError:
            return None
        finally:
            raw.detach()


def _inode(connection: HasDescriptor) -> int:
    """Return a number that no other socket has, even one with the same descriptor; -1 for a closed socket."""
    try:
        return os.fstat(connection.fileno()).st_ino if _HAS_FCNTL else min(connection.fileno(), 0)
    except (OSError, ValueError, RuntimeError):
        return -1


def _poll(descriptor: int, events: int) -> int:
    poll = new_poll()
    poll.register(descriptor, events)
    return next((seen for _, seen in poll.poll(0)), 0)


def _progress(found: Any) -> Progress | None:
    if not _HAS_FCNTL:
        return None
    queued = struct.unpack("i", fcntl.ioctl(found.fileno(), _SIOCOUTQ, b"\0\0\0\0"))[0]
    if found.family == socket.AF_UNIX:
        return Progress(queued, None, _poll(found.fileno(), WRITABLE) == WRITABLE)
    info = found.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _TCP_INFO_SIZE)
    return Progress(queued, struct.unpack_from("Q", info, _BYTES_ACKED_AT)[0]) if len(info) >= _TCP_INFO_SIZE else None
