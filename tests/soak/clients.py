"""The clients of the soak: each reads the one sequence of events in its order, however its connections end.

A client keeps the number of the last event that it has got whole, and asks for what is after it, as an EventSource does.
What it gets has to be exactly that: no gap, no event twice, nothing but whole events before a clean end.
"""

from __future__ import annotations

import asyncio
import random
import socket
import struct
from collections import Counter
from collections.abc import AsyncIterator, Callable

import h11

from ..vanishing import vanish
from .application import ANSWER, event_of

SMALL_BUFFER = 4096  # bytes that the kernel holds for a client that reads slowly, or not at all
STALLS_FOR = 5.0  # seconds, longer than `send_deadline`
_STREAMS = ("/steady", "/deaf", "/each", "/silent")

# How a client behaves in a visit, and what it asks for.
READS, SLOW, STALLS, RESETS = "reads", "reads slowly", "stalls", "resets"
VANISHES, HALF_CLOSES, FINITE = "vanishes", "half-closes", "an answer"
WAYS = {
    READS: _STREAMS,
    SLOW: ("/flow",),
    STALLS: ("/flow",),
    RESETS: _STREAMS,
    VANISHES: _STREAMS,
    HALF_CLOSES: _STREAMS,
    FINITE: ("/answer",),
}
_OFTEN = (8, 1, 1, 2, 1, 1, 2)


class Wrong(AssertionError):
    """A client has got what it must not get."""


class Events:
    """Checks the events of a stream against the sequence that follows *last*."""

    def __init__(self, last: int) -> None:
        self.last = last
        self.retry: int | None = None
        self._rest = bytearray()  # a line that has not ended
        self._fields: list[bytes] = []  # of an event that has not ended

    def feed(self, block: bytes) -> None:
        """Take what was received."""
        self._rest += block
        if b"\n" in block:
            *lines, rest = bytes(self._rest).split(b"\n")
            self._rest = bytearray(rest)
            for line in lines:
                self._take(line)

    @property
    def is_between_events(self) -> bool:
        """Whether all that has come are whole events."""
        return not self._rest and not self._fields

    def _take(self, line: bytes) -> None:
        if line.startswith(b"retry: "):
            self.retry = int(line[7:])
        elif line and not line.startswith(b":"):
            self._fields.append(line)
        elif not line and self._fields:
            if b"\n".join(self._fields) + b"\n\n" != event_of(self.last + 1):
                raise Wrong(f"after event {self.last} came {self._fields[0]!r}")
            self.last += 1
            self._fields.clear()


class Client:
    """Visits a server again and again. *figures*: what is counted of all clients."""

    def __init__(self, number: int, port: int, figures: Counter[str]) -> None:
        self._random = random.Random(number)
        self._port = port
        self._figures = figures
        self._vanished: list[socket.socket] = []
        self.last = 0  # the number of the last event

    async def come_and_go(self, is_over: Callable[[], bool]) -> None:
        """Connect again and again until it is over: before CPython 3.12 `asyncio.wait_for` may swallow a cancellation."""
        while not is_over():
            (way,) = self._random.choices(list(WAYS), _OFTEN)
            path, stays_for = self._random.choice(WAYS[way]), self._random.uniform(0.2, 8)
            retry = None
            try:
                retry = await self._visit(way, path, stays_for)
            except OSError:
                self._figures["refused connections"] += 1  # the server is being started again
            await asyncio.sleep(0.3 if retry is None else retry / 1000)

    def close_vanished(self) -> None:
        """Close the connections that have vanished: until then the server can only know by its own deadline."""
        for connection in self._vanished:
            connection.close()
        self._vanished.clear()

    async def _visit(self, way: str, path: str, stays_for: float) -> int | None:
        """Ask for what is after the last event; return after how many milliseconds the server wants to be asked again."""
        connection = socket.socket()
        if way in (SLOW, STALLS):
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, SMALL_BUFFER)
        connection.setblocking(False)
        events = Events(self.last)
        try:
            await asyncio.get_running_loop().sock_connect(connection, ("127.0.0.1", self._port))
            self._figures["visits"] += 1
            await asyncio.wait_for(self._read(connection, way, path, events), stays_for if way != FINITE else 30)
        except asyncio.TimeoutError:
            self._figures["left"] += 1
        finally:
            if way == VANISHES:
                vanish(connection)
                self._vanished.append(connection)
                self._figures["vanished"] += 1
            else:
                if way == RESETS:
                    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                connection.close()
        return events.retry

    async def _read(self, connection: socket.socket, way: str, path: str, events: Events) -> None:
        before = self.last
        if self._random.random() < 0.1 and way == RESETS:
            return  # without having asked for anything
        is_clean = False
        try:
            async for block in self._blocks(connection, way, path):
                events.feed(block)
                self._figures["events"] += events.last - self.last
                self.last = events.last
            is_clean = True
        except (h11.RemoteProtocolError, ConnectionError):
            self._figures["cut"] += 1
        if is_clean and not events.is_between_events and way != HALF_CLOSES:  # such an EventSource has left
            raise Wrong(f"a clean end inside the event after {self.last}: {path}, a client that {way}")
        if is_clean and way == FINITE and self.last - before not in (0, ANSWER):
            raise Wrong(f"a clean end after {self.last - before} of {ANSWER} events of an answer")
        self._figures["clean ends" if self.last > before else "refused"] += is_clean

    async def _blocks(self, connection: socket.socket, way: str, path: str) -> AsyncIterator[bytes]:
        """Yield the body's blocks until its end; raises an exception of h11's if that is no clean one."""
        loop, http = asyncio.get_running_loop(), h11.Connection(h11.CLIENT, max_incomplete_event_size=1 << 20)
        # A lease ends only the streams of an EventSource: half of the clients that vanish are none.
        is_event_source = way != FINITE and (way != VANISHES or self._random.random() < 0.5)
        accept = [("Accept", "text/event-stream"), ("Cache-Control", "no-cache")] if is_event_source else [("Accept", "*/*")]
        headers = [("Host", "localhost"), *accept, ("Last-Event-ID", str(self.last))]
        asked = http.send(h11.Request(method="GET", target=path, headers=headers)), http.send(h11.EndOfMessage())
        await loop.sock_sendall(connection, b"".join(each or b"" for each in asked))
        if way == HALF_CLOSES:
            connection.shutdown(socket.SHUT_WR)
        if way == STALLS:
            await asyncio.sleep(STALLS_FOR)
        while not isinstance(event := http.next_event(), h11.EndOfMessage):
            if event is h11.NEED_DATA:
                http.receive_data(await loop.sock_recv(connection, 512 if way == SLOW else 1 << 17))
                await asyncio.sleep(0.05 if way == SLOW else 0)
            elif isinstance(event, h11.Response) and event.status_code == 503 and not is_event_source:
                return
            elif isinstance(event, h11.Response) and event.status_code != 200:
                raise Wrong(f"{event.status_code} for {path}")
            elif isinstance(event, h11.Data):
                yield bytes(event.data)
