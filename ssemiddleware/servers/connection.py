"""A client's connection, asked and changed from a thread that does not own it: without waiting, and without reading a byte.

It is reached through the server's own socket object. A duplicate of its descriptor would double the descriptors of a process
and hold back the server's FIN. A number alone may be another client's a moment later, also the socket object's own: an
application may call ``os.closerange``. So the socket's inode is remembered, and nothing is done to any other.
"""

from __future__ import annotations

import _socket  # under gevent, `socket` is another one, which waits in greenlets
import contextlib
import fcntl
import os
import select
import socket
import struct
import sys
from collections.abc import Callable
from typing import Any, Literal, NamedTuple, Protocol, TypeVar

_Result = TypeVar("_Result")

State = Literal["open", "half closed", "gone"]

# `select` lacks POLLRDHUP outside Linux: there a disconnect shows when a block is sent.
CAN_POLL = hasattr(select, "POLLRDHUP")
HALF_CLOSED = getattr(select, "POLLRDHUP", 0)
GONE = select.POLLHUP | select.POLLERR | select.POLLNVAL

# Bytes that the kernel holds for a client and has not sent. A producer of 2 MB/s and a reader of 200 KB/s, of which the kernel
# keeps 128 KB on the reader's side: with 4, 16, 64 and 128 KiB events are 0.7, 0.7, 0.8 and 0.9 s old and take 54, 59, 60 and
# 137 KB, with the default 8 to 11 s and 3.8 MB. A client that does not read: 35 KB instead of 3.9 MB. The throughput of
# events of 10 KB, 100 KB and 10 MB is the same with 16 KiB, 128 KiB and the default.
_MOST_NOT_SENT = 16384
_TCP_NOTSENT_LOWAT = getattr(socket, "TCP_NOTSENT_LOWAT", 25)
_SIOCOUTQ = 0x5411
_TCP_INFO_SIZE, _BYTES_ACKED_AT = 128, 120  # struct tcp_info of linux/tcp.h


class HasDescriptor(Protocol):
    """A socket, or what a server has in its place."""

    def fileno(self) -> int:
        """Return the descriptor, -1 once it is closed."""


class Progress(NamedTuple):
    """How far what was sent has got."""

    queued: int  # bytes that the kernel holds
    acknowledged: int | None  # bytes since the connection's start; None on a Unix socket

    def has_moved_since(self, earlier: Progress) -> bool:
        """Tell whether the client has taken anything since *earlier*; with little held, an unchanged queue says nothing."""
        if self.acknowledged is None or earlier.acknowledged is None:
            return self.queued < earlier.queued
        return self.acknowledged > earlier.acknowledged


class Connection:
    """A client's connection. *is_closed*: asks a server that closes connections by itself whether it has.

    For any thread, but only while the server cannot close the descriptor: in the watcher with `Baton.ours`, or on the
    server's thread. Nothing here waits or raises for a connection that is gone.
    """

    __slots__ = ("_inode", "_is_closed", "_not_sent_before", "_socket")

    def __init__(self, connection: HasDescriptor, is_closed: Callable[[], bool] | None = None) -> None:
        self._socket = connection
        self._is_closed = is_closed
        self._inode = _inode(connection)
        self._not_sent_before: int | None = None

    @property
    def is_closed_by_itself(self) -> bool:
        """Whether the server may close the descriptor at any time, so that no event tells of it."""
        return self._is_closed is not None

    @property
    def is_tls(self) -> bool:
        """Whether it is one of the standard library's TLS sockets, or gevent's."""
        return hasattr(self._socket, "cipher")

    def fileno(self) -> int:
        """Return the descriptor, -1 once it is closed, by whomever."""
        try:
            descriptor = -1 if self._is_closed is not None and self._is_closed() else self._socket.fileno()
        except (OSError, ValueError, RuntimeError):
            return -1
        return descriptor if self._inode == _inode(self._socket) >= 0 else -1

    @property
    def is_lost(self) -> bool:
        """Whether the descriptor was closed behind the server's back."""
        return not self.is_closed_by_itself and self.fileno() < 0

    def disown(self) -> None:
        """Have the server's socket forget a number that is lost: it would write to another client, and close it."""
        detach = getattr(self._socket, "detach", None)
        if detach is not None and self.is_lost:
            with contextlib.suppress(OSError, ValueError):
                detach()

    def state(self) -> State:
        """Tell whether the client is there. Sees a FIN and a RST behind TLS and pipelined bytes too, where a peek does not."""
        events = self._poll(HALF_CLOSED)
        return "gone" if events & GONE else "half closed" if events else "open"

    def is_writable(self) -> bool:
        """Tell whether a write of `MOST_WRITTEN` bytes will not wait."""
        return self._poll(select.POLLOUT) == select.POLLOUT

    def _poll(self, events: int) -> int:
        descriptor = self.fileno()
        if descriptor < 0:
            return select.POLLHUP
        poll = original_poll()
        poll.register(descriptor, events)
        return next((seen for _, seen in poll.poll(0)), 0)

    # -- what the kernel holds for it

    def hold_little(self) -> None:
        """Have the kernel hold little that it cannot send yet, until `restore`. On TCP only."""

        def hold(found: Any) -> None:
            before = found.getsockopt(socket.IPPROTO_TCP, _TCP_NOTSENT_LOWAT)
            found.setsockopt(socket.IPPROTO_TCP, _TCP_NOTSENT_LOWAT, _MOST_NOT_SENT)
            self._not_sent_before = before

        self._set_option(hold)

    def restore(self) -> None:
        """Leave the connection as it was: the server may keep it for other requests."""
        before, self._not_sent_before = self._not_sent_before, None
        if before is not None:
            self._set_option(lambda found: found.setsockopt(socket.IPPROTO_TCP, _TCP_NOTSENT_LOWAT, before))

    def progress(self) -> Progress | None:
        """Return how far what was sent has got, None where the kernel does not tell."""
        return self._on_raw(_progress)

    # -- ending it

    def shutdown(self, how: int) -> None:
        """Shut down a direction of the connection, below any TLS: `ssl.SSLSocket.shutdown` would go on in plain text."""
        self._on_raw(lambda raw: raw.shutdown(how))

    def reset_on_close(self) -> None:
        """Have whoever closes the connection, the kernel too when the process ends, send a RST: a FIN may look like an end."""
        self._on_raw(lambda raw: raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0)))

    def cut(self) -> None:
        """End both directions at once, so that a server's thread that writes or reads is freed with an error."""
        self.reset_on_close()
        self.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """Close the server's socket with a RST. On the server's thread only, which goes on to close what is closed.

        A server that closes by itself still watches its socket, in an event loop, and uvloop's cannot be closed: it is cut.
        """
        if self.is_closed_by_itself:
            self.cut()
            return
        self.disown()
        self.reset_on_close()
        close = getattr(self._socket, "close", None)
        if close is not None:
            with contextlib.suppress(OSError, ValueError):
                close()

    def _set_option(self, act: Callable[[Any], None]) -> None:
        """Do something to the options of the server's own socket, if it has some: a plain one takes four more system calls."""
        if not hasattr(self._socket, "setsockopt"):
            self._on_raw(act)
            return
        if self.fileno() < 0:
            return
        with contextlib.suppress(OSError, ValueError):  # ValueError: uvloop's, which is closed
            act(self._socket)

    def _on_raw(self, act: Callable[[_socket.socket], _Result]) -> _Result | None:
        """Do something to the plain socket of the descriptor; None where it is closed or the system refuses."""
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
    """Return what tells a socket from any other that gets its number, -1 for one that is closed."""
    try:
        return os.fstat(connection.fileno()).st_ino
    except (OSError, ValueError, RuntimeError):
        return -1


def _progress(raw: _socket.socket) -> Progress | None:
    queued = struct.unpack("i", fcntl.ioctl(raw.fileno(), _SIOCOUTQ, b"\0\0\0\0"))[0]
    if raw.family == socket.AF_UNIX:
        return Progress(queued, None)
    info = raw.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _TCP_INFO_SIZE)
    return Progress(queued, struct.unpack_from("Q", info, _BYTES_ACKED_AT)[0]) if len(info) >= _TCP_INFO_SIZE else None


def original_poll() -> select.poll:
    """Return a poll object that only looks: gevent's own lets other greenlets run, and takes a round of its loop."""
    monkey = sys.modules.get("gevent.monkey")
    poll: Callable[[], select.poll] = monkey.get_original("select", "poll") if monkey else select.poll
    return poll()
