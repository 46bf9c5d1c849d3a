"""What must hold when many clients connect at once: the cost of a refusal, the counts, and when refused clients reconnect."""

from __future__ import annotations

import gc
import os
import re
import subprocess
import sys
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

import ssemiddleware
from ssemiddleware import MemoryGovernor, SSEMiddleware
from ssemiddleware.servers.server import Server

from .applications import ANNOUNCED, EVENT_SOURCE, Response, application_of, environ_of

_PACKAGE = str(Path(ssemiddleware.__file__).parent)


def test_refusing_a_client_costs_the_same_however_many_streams_are_open() -> None:
    assert calls_to_refuse(beside=400) == calls_to_refuse(beside=4)


def calls_to_refuse(*, beside: int) -> int:
    """Return how many functions of ours are called for a request that is refused, while so many streams are open."""
    memory = MemoryGovernor(read=lambda: (1, 100), clock=lambda: 0.0)  # it is read once, however long the test takes
    wrapped = SSEMiddleware(application_of([b"data: 1\n\n"]), max_streams=beside, memory=memory)
    streams = [Response(wrapped, environ_of()) for _ in range(beside)]
    Response(wrapped, environ_of(EVENT_SOURCE))  # the first one is logged
    calls = 0

    def note(frame: FrameType, event: str, _argument: object) -> None:
        nonlocal calls
        calls += event == "call" and frame.f_code.co_filename.startswith(_PACKAGE)

    gc.disable()  # objects of earlier tests must not be collected here
    sys.setprofile(note)
    try:
        response = Response(wrapped, environ_of(EVENT_SOURCE))
    finally:
        sys.setprofile(None)
        gc.enable()
    assert b"retry:" in response.body()
    for stream in streams:
        stream.close()
    return calls


# Makes a rare order of threads likely: they are switched very often.
AFTER_A_FORK = """
import os, sys, threading
from ssemiddleware import MemoryGovernor, Stream
from ssemiddleware.admission import Admission
from ssemiddleware.memory import MemoryGauge

def in_many_threads(ask):
    start, answers = threading.Barrier(8), []
    def come():
        start.wait()
        answers.append(ask())
    threads = [threading.Thread(target=come) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    return answers

def all_are_counted():
    places = Admission(limit=lambda: 6)
    def check():
        admitted = in_many_threads(lambda: places.maybe_admit(Stream()))
        return sum(map(bool, admitted)) == places.stats().open == 6
    return check

def all_read(read):
    return lambda: len(in_many_threads(read)) == 8  # a thread that raises answers nothing

make = {
    "places": all_are_counted,
    "governor": lambda: all_read(MemoryGovernor(read=lambda: (1, 100)).read),
    "gauge": lambda: all_read(MemoryGauge(1 << 30).read),
}[sys.argv[1]]
checks = [make() for _ in range(500)]
child = os.fork()
if child == 0:
    sys.setswitchinterval(1e-6)
    threading.excepthook = lambda arguments: None
    os._exit(min(100, sum(not check() for check in checks)))
wrong = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
assert wrong == 0, f"wrong in {wrong} of 500 processes"
"""


@pytest.mark.parametrize("what", ["places", "governor", "gauge"])
def test_the_first_requests_of_a_forked_process_may_run_at_the_same_time(what: str) -> None:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    subprocess.run([sys.executable, "-c", AFTER_A_FORK, what], env=environment, check=True, timeout=100)


# -- a refused client keeps its time to reconnect until it gets another (WHATWG 9.2.6)


class SilentServer(Server):
    """A known server without a writer: our own lines are yielded."""

    name = "silent"


@pytest.fixture(autouse=True)
def _the_server_is_known(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ssemiddleware.streams.find_server", SilentServer)


def test_an_event_source_that_is_admitted_after_refusals_reconnects_as_soon_as_usual() -> None:
    wrapped, retries = crowded(retry=1000)
    assert max(retries) > 1500, "no client waits longer than usual"
    opening, *blocks = Response(wrapped, environ_of(EVENT_SOURCE)).blocks()
    match = re.fullmatch(rb"retry: ([0-9]+)\n", opening)
    assert match
    assert 750 <= int(match[1]) <= 1500
    assert blocks == [b"data: 1\n\n"]


def test_a_time_to_reconnect_is_sent_without_heartbeats_too() -> None:
    wrapped, _ = crowded(heartbeat=None)
    assert re.fullmatch(rb"retry: [0-9]+\ndata: 1\n\n", Response(wrapped, environ_of(EVENT_SOURCE)).body())


def test_a_time_to_reconnect_is_sent_before_a_first_block_where_the_watcher_would_open_the_stream(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Writes:
        is_delimited = True

        def write(self, block: bytes, most: int = 64) -> bool:
            return True

        def room(self) -> int:
            return 0

    monkeypatch.setattr(SilentServer, "writer", lambda self, write, encoding="": Writes())
    monkeypatch.setattr("ssemiddleware.outside.iterates", lambda loops, iterable, depth: True)
    wrapped, _ = crowded()
    assert re.fullmatch(rb"retry: [0-9]+\ndata: 1\n\n", Response(wrapped, environ_of(EVENT_SOURCE)).body())


def test_a_client_that_is_no_event_source_gets_no_time_to_reconnect() -> None:
    wrapped, _ = crowded()
    assert Response(wrapped, environ_of(ANNOUNCED)).body() == b"data: 1\n\n"


def test_no_time_to_reconnect_is_sent_where_no_request_was_refused() -> None:
    wrapped = SSEMiddleware(application_of([b"data: 1\n\n"]), max_streams=1)
    assert Response(wrapped, environ_of(EVENT_SOURCE)).body() == b":\ndata: 1\n\n"


def crowded(**options: Any) -> tuple[SSEMiddleware, list[int]]:
    """Return an application with free places that has refused clients, and the milliseconds that these got."""
    wrapped = SSEMiddleware(application_of([b"data: 1\n\n"]), max_streams=1, **options)
    stream = Response(wrapped, environ_of())
    retries = [Response(wrapped, environ_of(EVENT_SOURCE)).body() for _ in range(20)]
    stream.close()
    return wrapped, [int(line.removeprefix(b"retry: ")) for line in retries]
