"""Many clients, each with one event stream open: a program of its own, which reads all of them through one epoll.

    python -m benchmarks.many_clients PORT PATH CLIENTS SETTLE SECONDS

It prints ``open`` once each client has its first event, ``begin`` after *SETTLE* seconds more, and ``end`` after *SECONDS*
more; then, as JSON, what came between these two. Each client asks as an EventSource does.
"""

from __future__ import annotations

import json
import os
import re
import select
import socket
import subprocess
import sys
import time
from bisect import bisect_left
from collections.abc import Iterator
from itertools import accumulate, pairwise
from pathlib import Path
from typing import NamedTuple

from .machine import allow_many_files
from .reading import connect, request
from .serving import Server, cpu_seconds

_ROOT = Path(__file__).resolve().parent.parent
_STAMP = re.compile(rb"data: ([0-9]+)\n\n")  # time.monotonic_ns() of its making; Linux has one clock for all processes
_EVENT_END = b"\n\n"
_COMMENT = b"\r\n:\n"  # after the line with the chunk's size
_AT_ONCE = 50  # new connections before those that are there are read
_OPEN_WITHIN = 120.0  # seconds
_TICK = 1 / os.sysconf("SC_CLK_TCK")  # seconds, in which the kernel counts


class Seen(NamedTuple):
    """What many clients got in so many *seconds*, and what the server's process took for it."""

    seconds: float
    cpu: float  # seconds of a core
    memory: int  # bytes of resident memory at the end
    events: int
    comments: int  # heartbeats
    reconnects: int  # of clients whose stream had ended
    latencies: list[float]  # microseconds from the making of each event to its arrival, in order
    gaps: list[float]  # milliseconds, each client's longest between two events, in order

    @property
    def cpu_of_an_event(self) -> float:
        """Microseconds of a core."""
        return 1e6 * max(self.cpu, _TICK) / self.events  # a short run may take less than the kernel counts

    @property
    def share(self) -> float:
        """Percent of a core."""
        return 100 * self.cpu / self.seconds


def watch(server: Server, path: str, *, clients: int, settle: float, seconds: float) -> Seen:
    """Open that many streams of *path*, and return what came in *seconds*, from *settle* seconds after all are open."""
    command = (sys.executable, "-m", "benchmarks.many_clients", str(server.port), path, str(clients), str(settle), str(seconds))
    process = subprocess.Popen(command, cwd=_ROOT, stdout=subprocess.PIPE, text=True)
    try:
        _expect(process, "open")
        _expect(process, "begin")
        cpu, began = cpu_seconds(server.worker), time.monotonic()
        _expect(process, "end")
        cpu, took = cpu_seconds(server.worker) - cpu, time.monotonic() - began
        memory: int = server.worker.memory_info().rss
        printed, _ = process.communicate()
    finally:
        process.kill()
        process.wait()
    return Seen(took, cpu, memory, **json.loads(printed))


def _expect(process: subprocess.Popen[str], word: str) -> None:
    assert process.stdout is not None
    line = process.stdout.readline()
    if line != f"{word}\n":
        raise RuntimeError(f"the clients said {line!r} instead of {word!r}")


# -- the program


class _Clients:
    """Connections to one server, and what has come on them since `forget`."""

    def __init__(self, port: int, path: str) -> None:
        self._port, self._request = port, request(path, announced=True)
        self._connections: dict[int, socket.socket] = {}
        self._poll = select.epoll()
        self._silent: dict[int, bytes] = {}  # what has come on those that have had no event yet
        self._came: list[tuple[int, int, bytes]] = []  # descriptor, time.monotonic_ns(), bytes
        self._reconnects = 0

    def open(self, number: int) -> None:
        """Connect so many, and return once each has an event."""
        deadline = time.monotonic() + _OPEN_WITHIN
        while len(self._connections) < number or self._silent:
            for _ in range(min(_AT_ONCE, number - len(self._connections))):
                self._connect()
            self.read(0.02)
            self._see_first_events()
            if time.monotonic() > deadline:
                raise TimeoutError(f"{len(self._silent)} of {number} clients have got no event within {_OPEN_WITHIN:g} s")

    def _connect(self) -> None:
        connection = connect(self._port)
        connection.setblocking(False)
        connection.send(self._request)
        self._connections[connection.fileno()] = connection
        self._silent[connection.fileno()] = b""
        self._poll.register(connection, select.EPOLLIN)

    def _see_first_events(self) -> None:
        for descriptor, _, block in self._came:
            if descriptor not in self._silent:
                continue
            self._silent[descriptor] += block
            if _EVENT_END in self._silent[descriptor]:
                del self._silent[descriptor]
        self._came.clear()

    def read_for(self, seconds: float) -> None:
        """Read what comes, for so long."""
        end = time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0:
            self.read(left)

    def read(self, seconds: float) -> None:
        """Wait for so long until something comes, and read it."""
        for descriptor, _ in self._poll.poll(seconds):
            block = self._connections[descriptor].recv(65536)
            self._came.append((descriptor, time.monotonic_ns(), block))
            if not block and descriptor in self._silent:
                raise ConnectionError(f"the server closed a stream; it began with {self._silent[descriptor]!r}")
            if not block:
                self._connections.pop(descriptor).close()
                self._connect()
                self._reconnects += 1

    def forget(self) -> None:
        """Forget what has come."""
        self._came.clear()
        self._reconnects = 0

    def results(self) -> dict[str, object]:
        """Return what has come as `Seen` has it."""
        by_client: dict[int, list[tuple[int, bytes]]] = {}
        for descriptor, at, block in self._came:
            by_client.setdefault(descriptor, []).append((at, block))
        bodies = [b"".join(block for _, block in came) for came in by_client.values()]
        arrivals = [list(arrivals_in(came, _STAMP)) for came in by_client.values()]
        return {
            "events": sum(body.count(_EVENT_END) for body in bodies),
            "comments": sum(body.count(_COMMENT) for body in bodies),
            "reconnects": self._reconnects,
            "latencies": sorted((arrived - made) / 1000 for client in arrivals for arrived, made in client),
            "gaps": sorted(_longest_gap([arrived for arrived, _ in client]) / 1e6 for client in arrivals),
        }


def arrivals_in(came: list[tuple[int, bytes]], stamp: re.Pattern[bytes]) -> Iterator[tuple[int, int]]:
    """Yield when each event arrived and was made, in nanoseconds; *came*: the nanoseconds at which bytes came, and these."""
    ends = list(accumulate(len(block) for _, block in came))
    for found in stamp.finditer(b"".join(block for _, block in came)):
        yield came[bisect_left(ends, found.end())][0], int(found[1])


def _longest_gap(arrivals: list[int]) -> int:
    return max((after - before for before, after in pairwise(arrivals)), default=0)


def main(port: str, path: str, clients: str, settle: str, seconds: str) -> None:
    """Open the streams, read them, and print what came."""
    allow_many_files()
    crowd = _Clients(int(port), path)
    crowd.open(int(clients))
    print("open", flush=True)
    crowd.read_for(float(settle))
    crowd.forget()
    print("begin", flush=True)
    crowd.read_for(float(seconds))
    print("end", flush=True)
    json.dump(crowd.results(), sys.stdout)


if __name__ == "__main__":
    main(*sys.argv[1:])
