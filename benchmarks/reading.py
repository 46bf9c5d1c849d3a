"""A client that costs almost nothing: a socket, one big buffer, and a check of the bytes after the time is taken.

Run as a program, it reads one announced stream and drops it, until it is ended: another client of the same server.

    python -m benchmarks.reading PORT PATH
"""

from __future__ import annotations

import re
import socket
import struct
import sys
import time
from collections.abc import Iterable, Iterator

from .shapes import events_of

LAST_CHUNK = b"\r\n0\r\n\r\n"
OPENING = re.compile(rb":\n|retry: [0-9]+\n(?!\n)")  # what a wrapped stream may begin with

AS_AN_EVENT_SOURCE = "Accept: text/event-stream\r\nCache-Control: no-cache"  # header lines
ACCEPT_ANYTHING = "Accept: */*"

_TIMEOUT = 60  # seconds without a byte, after which the server is taken for stuck
_LARGEST_HEAD = 65536  # bytes


def connect(port: int, *, receive_buffer: int | None = None) -> socket.socket:
    """Open a connection. *receive_buffer*: bytes that the kernel may hold for us, instead of its own choice."""
    connection = socket.socket()
    if receive_buffer is not None:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
    # The kernel's own timeout: Python's would ask poll() before each recv().
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, struct.pack("@ll", _TIMEOUT, 0))
    try:
        connection.connect(("127.0.0.1", port))
    except OSError:
        connection.close()
        raise
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return connection


def request(path: str, *, announced: bool) -> bytes:
    """Return a GET as an EventSource sends it, or, not announced, as fetch() does."""
    return request_with(AS_AN_EVENT_SOURCE if announced else ACCEPT_ANYTHING, path)


def request_with(headers: str, path: str) -> bytes:
    """Return a GET with these header lines."""
    return f"GET {path} HTTP/1.1\r\nHost: localhost\r\n{headers}\r\n\r\n".encode()


def receive(connection: socket.socket, landing: memoryview, *, until: bytes = LAST_CHUNK) -> int:
    """Receive one response into *landing*, until it ends as *until*; return its size. Each byte is seen by the kernel only."""
    end = 0
    while landing[max(0, end - len(until)) : end] != until:
        received = connection.recv_into(landing[end:])
        if not received:
            raise ConnectionError(f"the server closed the connection after {end:,} bytes")
        end += received
    return end


def read_stream(port: int, path: str, landing: memoryview, *, announced: bool) -> tuple[float, memoryview]:
    """Read a stream to its end on a connection of its own; return the seconds from request to last byte, and the response."""
    with connect(port) as connection:
        asked = request(path, announced=announced)
        began = time.perf_counter()
        connection.sendall(asked)
        size = receive(connection, landing)
        return time.perf_counter() - began, landing[:size]


def blocks_of(response: memoryview) -> Iterator[memoryview]:
    """Yield the chunks of a response's body (RFC 9112, 7.1)."""
    head, found, _ = bytes(response[:_LARGEST_HEAD]).partition(b"\r\n\r\n")
    if not (found and head.startswith(b"HTTP/1.1 200 ") and b"\r\ntransfer-encoding: chunked" in head.lower()):
        raise ValueError(f"not a chunked response: {head!r}")
    at = len(head) + len(found)
    while True:
        size_line = bytes(response[at : at + 20]).partition(b"\r\n")[0]
        at += len(size_line) + 2
        size = int(size_line, 16)
        if not size:
            return
        yield response[at : at + size]
        at += size + 2


def event_blocks_of(response: memoryview) -> Iterator[memoryview]:
    """Yield the chunks of a response's body without the comment that may open a wrapped stream."""
    blocks = blocks_of(response)
    first = next(blocks, memoryview(b""))
    opening = OPENING.match(first)
    yield first[opening.end() :] if opening else first
    yield from blocks


def check_size(response: memoryview, size: int) -> None:
    """Raise `ValueError` unless the events have *size* bytes."""
    received = sum(map(len, event_blocks_of(response)))
    if received != size:
        raise ValueError(f"expected events of {size:,} bytes, got {received:,}")


def check_bytes(response: memoryview, stream: str) -> int:
    """Raise `ValueError` unless the body is exactly the events of *stream*, except for an opening; return their size."""
    blocks = filter(None, event_blocks_of(response))
    block, size = memoryview(b""), 0
    for event in events_of(stream):
        rest = memoryview(event)
        while rest:
            block = block or next(blocks, memoryview(b""))
            common = min(len(rest), len(block))
            if not common or bytes(rest[:common]) != bytes(block[:common]):  # bytes: memoryviews compare item by item
                raise ValueError(f"the body differs from {stream} at byte {size:,}")
            rest, block, size = rest[common:], block[common:], size + common
    if block or next(blocks, None) is not None:
        raise ValueError(f"the body goes on after the end of {stream}")
    return size


def new_landing(size: int) -> memoryview:
    """Return room for a response with a body of *size* bytes, whose pages are there already."""
    landing = bytearray(b"\1") * (size + size // 4 + 2**20)  # zeros would be pages yet to come
    return memoryview(landing)


def answer_of(port: int, path: str) -> bytes:
    """Return the body of a small response that ends with the connection or its length."""
    with connect(port) as connection:
        connection.sendall(request(path, announced=False).replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n"))
        response = b"".join(_received(connection))
    return response.partition(b"\r\n\r\n")[2]


def _received(connection: socket.socket) -> Iterable[bytes]:
    while block := connection.recv(65536):
        yield block


def main(port: str, path: str) -> None:
    """Read the announced stream *path*, and drop it."""
    landing = bytearray(2**20)
    with connect(int(port)) as connection:
        connection.sendall(request(path, announced=True))
        while connection.recv_into(landing):
            pass


if __name__ == "__main__":
    main(*sys.argv[1:])
