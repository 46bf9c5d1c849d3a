"""What must hold when many come at once: the cost of sending a client away, and the count of those that come first."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from types import FrameType

import pytest

import ssemiddleware
from ssemiddleware import SSEMiddleware

from .applications import EVENT_SOURCE, Response, application_of, environ_of

_PACKAGE = str(Path(ssemiddleware.__file__).parent)


def test_sending_a_client_away_costs_the_same_however_many_streams_are_open() -> None:
    assert calls_to_send_away(beside=400) == calls_to_send_away(beside=4)


def calls_to_send_away(*, beside: int) -> int:
    """Return how many functions of ours are called for a request that is shed, while so many streams are open."""
    wrapped = SSEMiddleware(application_of([b"data: 1\n\n"]), max_streams=beside)
    streams = [Response(wrapped, environ_of()) for _ in range(beside)]
    Response(wrapped, environ_of(EVENT_SOURCE))  # of the first one the log is told
    calls = 0

    def note(frame: FrameType, event: str, _argument: object) -> None:
        nonlocal calls
        calls += event == "call" and frame.f_code.co_filename.startswith(_PACKAGE)

    sys.setprofile(note)
    try:
        response = Response(wrapped, environ_of(EVENT_SOURCE))
    finally:
        sys.setprofile(None)
    assert b"retry:" in response.body()
    for stream in streams:
        stream.close()
    return calls


# What is about to happen to one request in thousands, made likely: threads take turns all the time, and often.
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
    places = Admission(limit=lambda environ: 6)
    def check():
        admitted = in_many_threads(lambda: places.maybe_admit({}, Stream()))
        return sum(map(bool, admitted)) == places.stats().open == 6
    return check

def all_read(read):
    return lambda: len(in_many_threads(read)) == 8  # a thread that raises answers nothing

make = {
    "places": all_are_counted,
    "governor": lambda: all_read(MemoryGovernor(read=lambda: (1, 100)).next_pause),
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
def test_the_first_requests_of_a_forked_process_may_come_at_the_same_time(what: str) -> None:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    subprocess.run([sys.executable, "-c", AFTER_A_FORK, what], env=environment, check=True, timeout=100)
