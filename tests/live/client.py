"""An HTTP client that sees what a browser's network layer sees: each HTTP chunk and when it came, and how a body ended."""

from __future__ import annotations

import itertools
import re
import socket
import ssl
import struct
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Literal, NamedTuple

from ..decompressing import decompressor_of
from ..vanishing import vanish

Headers = list[tuple[str, str]]
Framing = Literal["chunked", "length", "until the connection ends"]

PATIENCE = 20.0  # seconds for what comes at once, or not before the applications' waits have ended, of a minute


_OPENING = re.compile(rb"\Aretry: [0-9]{4}\n(?!\n)")  # not the end of a stream


class Arrival(NamedTuple):
    """An HTTP chunk, or what one read returned if the response has no chunks."""

    at: float  # time.monotonic()
    block: bytes


class TooLate(AssertionError):
    """What a test waits for did not come in time."""


class Connection:
    """One request on a connection of its own, read as it arrives. *within*: seconds, and `TooLate` is raised after them."""

    def __init__(self, stream_socket: socket.socket) -> None:
        self._socket = stream_socket
        self._buffer = bytearray()
        self._method = ""
        self._framing: Framing | None = None
        self._length_left = 0
        self.sent_at = 0.0
        self.status = 0
        self.headers: Headers = []
        self.arrivals: list[Arrival] = []
        self.opening: re.Match[bytes] | None = None
        self.decodes = False  # what is compressed, as a browser does
        self._decompress: Callable[[bytes], bytes] = bytes
        self.ended: Literal["cleanly", "cut"] | None = None
        self.ended_at = 0.0

    @property
    def is_whole(self) -> bool:
        """Whether the body has ended in good order, and what compresses it too."""
        decompressor = getattr(self._decompress, "__self__", None)
        return self.ended == "cleanly" and getattr(decompressor, "eof", True)

    # -- the request

    def send(self, method: str, target: str, headers: Headers, *, more: bytes = b"") -> None:
        """Send a request, and *more* bytes in the same write: what a client that pipelines sends."""
        self._method = method
        lines = [f"{method} {target} HTTP/1.1", "Host: localhost", *(f"{name}: {value}" for name, value in headers)]
        self.sent_at = time.monotonic()
        self._socket.sendall("\r\n".join([*lines, "", ""]).encode("latin-1") + more)

    def next_request(self) -> Connection:
        """Return the connection for another request, once the response has been read to its end."""
        assert self.ended == "cleanly"
        return Connection(self._socket)

    # -- the response

    def header(self, name: str) -> str | None:
        """Return a header of the response, its values joined; None if it has no such header."""
        values = [value for given, value in self.headers if given.lower() == name.lower()]
        return ", ".join(values) if values else None

    @property
    def body(self) -> bytes:
        return b"".join(arrival.block for arrival in self.arrivals)

    def read_headers(self, within: float = PATIENCE) -> None:
        """Read the status line and the headers."""
        deadline = time.monotonic() + within
        while b"\r\n\r\n" not in self._buffer:
            if not self._receive(deadline, "the headers"):
                raise AssertionError(f"the connection ended within the headers, after {bytes(self._buffer)!r}")
        head, _, rest = bytes(self._buffer).partition(b"\r\n\r\n")
        status_line, *lines = head.decode("latin-1").split("\r\n")
        self.status = int(status_line.split()[1])
        self.headers = [(name, value.strip()) for name, _, value in (line.partition(":") for line in lines)]
        self._buffer = bytearray(rest)
        self._begin_body()

    def read_until(self, expected: bytes, within: float = PATIENCE) -> float:
        """Read until the body contains *expected*; return when that came."""
        deadline = time.monotonic() + within
        while expected not in self.body:
            goes_on = self._read_on(deadline, f"{expected!r}, behind {self.body[-200:]!r}")
            if not goes_on and expected not in self.body:
                raise AssertionError(f"the body ended ({self.ended}) without {expected!r}: {self.body[-200:]!r}")
        return self.arrivals[-1].at

    def read_bytes(self, size: int, within: float = PATIENCE) -> float:
        """Read until the body has *size* bytes; return when the last of them came."""
        deadline, seen = time.monotonic() + within, 0
        for number in itertools.count():
            while len(self.arrivals) <= number:
                if not self._read_on(deadline, f"{size} bytes, behind {seen}") and len(self.arrivals) <= number:
                    raise AssertionError(f"the body ended ({self.ended}) after {seen} bytes of {size}")
            seen += len(self.arrivals[number].block)
            if seen >= size:
                break
        return self.arrivals[number].at

    def read_to_end(self, within: float = PATIENCE) -> bytes:
        """Read the whole body and return it."""
        deadline = time.monotonic() + within
        while self._read_on(deadline, "the end"):
            pass
        return self.body

    def read_for(self, seconds: float) -> bytes:
        """Return what arrives in the next *seconds*."""
        before, deadline = len(self.arrivals), time.monotonic() + seconds
        try:
            while self._read_on(deadline, ""):
                pass
        except TooLate:
            pass
        return b"".join(arrival.block for arrival in self.arrivals[before:])

    def rest(self, within: float = PATIENCE) -> bytes:
        """Return all that comes until the server closes the connection, whatever it is; nothing if the send has failed."""
        deadline = time.monotonic() + within
        while self._receive(deadline, "the connection's end"):
            pass
        return bytes(self._buffer)

    def take(self, size: int, within: float = PATIENCE) -> int:
        """Receive at most *size* bytes, and return how many came: a client that is slow."""
        before = len(self._buffer)
        self._receive(time.monotonic() + within, "anything", size)
        return len(self._buffer) - before

    # -- the disconnect

    def disconnect(self, how: Literal["FIN", "RST", "close_notify"] = "FIN") -> float:
        """Close the connection; return when. ``close_notify``: say so in TLS first."""
        if how == "close_notify":
            assert isinstance(self._socket, ssl.SSLSocket)
            self._socket.settimeout(0)
            with suppress(ssl.SSLWantReadError):  # the answer is not waited for
                self._socket.unwrap()
        if how == "RST":
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        disconnected_at = time.monotonic()
        self._socket.close()
        return disconnected_at

    def vanish(self) -> None:
        """Drop whatever comes, and acknowledge nothing, until `disconnect`."""
        vanish(self._socket)

    # -- reading

    def _begin_body(self) -> None:
        length = self.header("Content-Length")
        if self._method == "HEAD" or self.status in (204, 304):
            self._framing, self._length_left = "length", 0
        elif self.header("Transfer-Encoding") == "chunked":
            self._framing = "chunked"
        elif length is not None:
            self._framing, self._length_left = "length", int(length)
        else:
            self._framing = "until the connection ends"
        if self.decodes:
            self._decompress = _decompressing(self.header("Content-Encoding"))
        self._decode()

    def _read_on(self, deadline: float, awaited: str) -> bool:
        """Read once; return False if the body has ended."""
        if self._framing is None:
            self.read_headers(deadline - time.monotonic())
        elif self.ended is None and not self._receive(deadline, awaited):
            self._end("cleanly" if self._framing == "until the connection ends" else "cut")
        elif self.ended is None:
            self._decode()
        return self.ended is None

    def _receive(self, deadline: float, awaited: str, size: int = 1 << 20) -> bool:
        seconds = deadline - time.monotonic()
        try:
            self._socket.settimeout(max(seconds, 0.001))
            received = self._socket.recv(size)
        except TimeoutError:
            raise TooLate(f"not in time: {awaited}") from None
        except ConnectionResetError:
            received = b""
        self._buffer += received
        return bool(received)

    def _decode(self) -> None:
        blocks = {"chunked": self._chunks, "length": self._rest_of_length, "until the connection ends": self._all}
        assert self._framing is not None
        for block in filter(None, map(self._decompress, blocks[self._framing]())):
            if not self.arrivals:  # an opening says when to reconnect: it is read as the comment in whose place it stands
                self.opening, block = _OPENING.match(block), _OPENING.sub(b":\n", block)
            self.arrivals.append(Arrival(time.monotonic(), block))

    def _chunks(self) -> Iterator[bytes]:
        while (end_of_size := self._buffer.find(b"\r\n")) >= 0:
            size = int(self._buffer[:end_of_size], 16)
            end = end_of_size + 2 + size
            if len(self._buffer) < end + 2:
                return
            block = bytes(self._buffer[end_of_size + 2 : end])
            assert self._buffer[end : end + 2] == b"\r\n"
            del self._buffer[: end + 2]
            if not block:
                self._end("cleanly")
                return
            yield block

    def _rest_of_length(self) -> Iterator[bytes]:
        block = bytes(self._buffer[: self._length_left])
        self._buffer.clear()
        self._length_left -= len(block)
        if block:
            yield block
        if not self._length_left:
            self._end("cleanly")

    def _all(self) -> Iterator[bytes]:
        block = bytes(self._buffer)
        self._buffer.clear()
        if block:
            yield block

    def _end(self, how: Literal["cleanly", "cut"]) -> None:
        self.ended, self.ended_at = how, time.monotonic()


def _decompressing(encoding: str | None) -> Callable[[bytes], bytes]:
    if encoding == "br":
        import brotli

        decompress: Callable[[bytes], bytes] = brotli.Decompressor().process
        return decompress
    return decompressor_of(encoding).decompress if encoding in ("gzip", "zstd") else bytes
