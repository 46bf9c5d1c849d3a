"""A crowd of EventSource clients that obey ``retry:``, some that never read, and one that asks for ordinary pages meanwhile.

The crowd is a program of its own, so that it does not delay the process that measures the ordinary requests:

    python -m benchmarks.crowd_clients PORT PATH CLIENTS EVENTS    # prints all visits as JSON

Times are `time.monotonic`, which Linux has once for all processes.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
import select
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import NamedTuple

from .reading import connect, request

_ROOT = Path(__file__).resolve().parent.parent
_RECONNECTION_TIME = 3000  # milliseconds, as long as no server has said otherwise: Chromium's and WebKit's
_RETRY = re.compile(rb"^retry: ?([0-9]+)$", re.MULTILINE)
_EVENT = re.compile(rb"^data:.*\n\n", re.MULTILINE)
_SMALL_BUFFER = 65536  # bytes that the kernel may hold for a client that never reads


class Visit(NamedTuple):
    """One request of one client, and what it got: *events*, and *retry*, the milliseconds after which it should reconnect.

    *status*: 0 where the connection broke.
    """

    client: int
    asked_at: float
    ended_at: float
    status: int
    events: int
    retry: int | None

    @property
    def was_refused(self) -> bool:
        """Whether it was refused: it got only a time to reconnect."""
        return self.retry is not None and not self.events


class Answer(NamedTuple):
    """When an ordinary request was due, and the seconds from then to its answer; None if no answer came in time."""

    due_at: float
    seconds: float | None


# -- a crowd


class EventSource:
    """A client as WHATWG 9.2 describes it. It reconnects until it has got a whole stream of *events*."""

    def __init__(self, number: int, port: int, path: str, events: int) -> None:
        self._number = number
        self._port = port
        self._request = request(path, announced=True)
        self._events = events
        self._reconnection_time = _RECONNECTION_TIME
        self.visits: list[Visit] = []

    async def come_until_served(self) -> None:
        """Ask, and reconnect as the answer says. A status other than 200 is final, as it is in browsers."""
        while True:
            visit = await self._visit()
            self.visits.append(visit)
            if visit.events >= self._events or visit.status not in (0, 200):
                return
            await asyncio.sleep(self._reconnection_time / 1000)

    async def _visit(self) -> Visit:
        asked_at = time.monotonic()
        try:
            status, body = await self._ask()
        except (OSError, EOFError):
            return Visit(self._number, asked_at, time.monotonic(), 0, 0, None)
        retries = _RETRY.findall(body)
        if retries:
            self._reconnection_time = int(retries[-1])
        events = len(_EVENT.findall(body))
        return Visit(self._number, asked_at, time.monotonic(), status, events, int(retries[-1]) if retries else None)

    async def _ask(self) -> tuple[int, bytes]:
        reader, writer = await asyncio.open_connection("127.0.0.1", self._port)
        try:
            writer.write(self._request)
            head = (await reader.readuntil(b"\r\n\r\n")).lower()
            is_chunked = b"\r\ntransfer-encoding: chunked" in head
            is_event_stream = b"\r\ncontent-type: text/event-stream" in head
            status = int(head.split(b" ", 2)[1]) if is_event_stream else 406
            return status, await (_chunks(reader) if is_chunked else reader.read())
        finally:
            writer.close()


async def _chunks(reader: asyncio.StreamReader) -> bytes:
    body = b""
    while True:
        size_line = await reader.readuntil(b"\r\n")
        block = await reader.readexactly(int(size_line, 16) + 2)
        if len(block) == 2:
            return body
        body += block[:-2]


def main(port: str, path: str, clients: str, events: str) -> None:
    """Let so many clients connect at once, and print their visits when all are served."""
    crowd = [EventSource(number, int(port), path, int(events)) for number in range(int(clients))]

    async def come() -> None:
        await asyncio.gather(*(each.come_until_served() for each in crowd))

    asyncio.run(come())
    json.dump([visit for each in crowd for visit in each.visits], sys.stdout)


class Crowd(contextlib.AbstractContextManager["Crowd"]):
    """The crowd as a process: `is_there` until all are served, then `visits`."""

    def __init__(self, port: int, path: str, *, clients: int, events: int, within: float) -> None:
        command = (sys.executable, "-m", "benchmarks.crowd_clients", str(port), path, str(clients), str(events))
        self._process = subprocess.Popen(command, cwd=_ROOT, stdout=subprocess.PIPE)
        self._deadline = time.monotonic() + within
        self._within = within

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.communicate()

    def is_there(self) -> bool:
        """Tell whether there are clients that are not served yet. Raises `TimeoutError` after the deadline."""
        assert self._process.stdout is not None
        # What it prints is more than a pipe holds: it ends when that is read.
        has_printed = bool(select.select([self._process.stdout], [], [], 0)[0])
        if not has_printed and time.monotonic() > self._deadline:
            raise TimeoutError(f"the crowd has not been served within {self._within:g} s")
        return not has_printed

    def visits(self) -> list[Visit]:
        """Return all visits, in the order in which they began."""
        printed, _ = self._process.communicate(timeout=max(1.0, self._deadline - time.monotonic()))
        return sorted((Visit(*each) for each in json.loads(printed)), key=lambda visit: visit.asked_at)


# -- clients that never read


class DeafClients(contextlib.AbstractContextManager["DeafClients"]):
    """So many clients that ask for a stream and never read; they disconnect together."""

    def __init__(self, port: int, path: str, *, clients: int) -> None:
        self._stack = ExitStack()
        self._answered = select.poll()
        asked = request(path, announced=True)
        for _ in range(clients):
            connection = self._stack.enter_context(connect(port, receive_buffer=_SMALL_BUFFER))
            connection.sendall(asked)
            self._answered.register(connection, select.POLLIN)

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def answered(self) -> int:
        """Return how many clients have something to read."""
        return len(self._answered.poll(0))


# -- ordinary requests


def ask_meanwhile(
    port: int, path: str, is_going_on: Callable[[], bool], *, every: float = 0.02, patience: float = 5.0
) -> list[Answer]:
    """Ask for an ordinary page each *every* seconds, on a new connection each, as long as *is_going_on* says.

    The time is taken from when a request was due: if one is late, so are those after it, as they would be for other people.
    """
    asked = request(path, announced=False).replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n")
    answers: list[Answer] = []
    due_at = time.monotonic()
    while is_going_on():
        time.sleep(max(0.0, due_at - time.monotonic()))
        is_answered = _is_answered(port, asked, patience)
        now = time.monotonic()
        answers.append(Answer(due_at, now - due_at if is_answered else None))
        due_at = due_at + every if is_answered else max(now, due_at + every)
    return answers


def _is_answered(port: int, asked: bytes, patience: float) -> bool:
    deadline = time.monotonic() + patience
    response = b""
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=patience) as connection:
            connection.sendall(asked)
            while True:
                connection.settimeout(max(0.001, deadline - time.monotonic()))
                received = connection.recv(65536)
                if not received:
                    return response.startswith(b"HTTP/1.1 200 ")
                response += received
    except OSError:
        return False


def share(values: Iterable[float], percent: float) -> float:
    """Return the least value that so many percent do not exceed."""
    ordered: Sequence[float] = sorted(values)
    return ordered[min(len(ordered) - 1, int(len(ordered) * percent / 100))]


if __name__ == "__main__":
    main(*sys.argv[1:])
