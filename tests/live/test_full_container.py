"""A container that another program or the page cache has filled does not delay small events."""

from __future__ import annotations

import contextlib
import socket
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import pytest

from benchmarks.memory_group import MemoryGroup, memory_group
from benchmarks.serving import gunicorn

from .best_of import Times, best_of_each
from .client import PATIENCE, Connection
from .conftest import Measure
from .serving import EVENT_SOURCE
from .test_container import container

__all__ = ["container"]  # a fixture

pytestmark = [pytest.mark.live, pytest.mark.timeout(300), pytest.mark.usefixtures("container")]

LIMIT = 512 * 2**20  # bytes
CLIENTS, THREADS = 30, 60  # a quarter of the threads is for other requests
EVENTS, EVENT = 100, 60  # bytes each
PERCENTS = (79, 85, 91, 95, 99)

FILLS_WITH_BYTES = """
import sys
from ssemiddleware.memory.cgroup import CgroupMemory

group, kept = CgroupMemory.find(), []
while group.read().share < float(sys.argv[1]):
    kept.append(b"x" * 2**20)
print("full", flush=True)
sys.stdin.read()
"""
FILLS_WITH_PAGES = """
import sys

with open(sys.argv[2], "wb") as file:
    for _ in range(int(float(sys.argv[1]) * 512)):
        file.write(b"x" * 2**20)
for _ in range(3):
    with open(sys.argv[2], "rb") as file:
        while file.read(2**20):
            pass
print("full", flush=True)
sys.stdin.read()
"""
FILLS = {"another program": FILLS_WITH_BYTES, "the page cache": FILLS_WITH_PAGES}


@contextlib.contextmanager
def filled(group: MemoryGroup, how: str, percent: int, folder: Path) -> Iterator[None]:
    """Let another process fill the container."""
    command = group.command([sys.executable, "-c", FILLS[how], str(percent / 100), str(folder / "file")])
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"full\n"
        try:
            yield
        finally:
            process.kill()


def crowd(port: int, way: str) -> Times:
    """Let all clients send a request at once, and read all events; return when the latest had its first and its last one."""

    def read(_number: int) -> Times:
        stream = Connection(socket.create_connection(("127.0.0.1", port), PATIENCE))
        stream.send("GET", f"/{way}/ready/{EVENTS}/{EVENT}", EVENT_SOURCE)
        first = stream.read_until(b"\n\n")
        stream.read_to_end()
        assert (stream.status, stream.ended, stream.body.count(b"\n\n")) == (200, "cleanly", EVENTS)
        stream.disconnect()
        return Times(first - stream.sent_at, stream.ended_at - stream.sent_at)

    with ThreadPoolExecutor(CLIENTS) as clients:
        firsts, lasts = zip(*clients.map(read, range(CLIENTS)), strict=True)
    return Times(max(firsts), max(lasts))


@pytest.mark.parametrize("kind", ["gthread", "gevent"])
@pytest.mark.parametrize("how", FILLS)
def test_a_full_container_does_not_delay_small_events(kind: str, how: str, tmp_path: Path, measure: Measure) -> None:
    with memory_group(LIMIT) as group, gunicorn(kind, threads=THREADS, group=group) as server:
        crowd(server.port, "bare")  # afterwards all threads exist, with their memory
        for percent in PERCENTS:
            with filled(group, how, percent, tmp_path):
                bare, wrapped = best_of_each(partial(crowd, server.port))
            for way, best in {"bare": bare, "wrapped": wrapped}.items():
                where = f"of {CLIENTS} clients, {percent} % filled by {how}, {kind}, {way}"
                measure(f"the latest first event {where}", best.first)
                measure(f"the latest of {EVENTS} events {where}", best.last)
        assert not group.kills
