"""What must hold when many come at once: the cost of sending a client away, and the count of those that come first."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from types import FrameType

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


# What is about to happen with one request in thousands, made likely: threads take turns all the time, and often.
FIRST_REQUESTS = """
import os, sys, threading
from ssemiddleware import Stream
from ssemiddleware.admission import Admission
all_places = [Admission(limit=lambda environ: 6) for _ in range(300)]
child = os.fork()
if child == 0:
    sys.setswitchinterval(1e-6)
    lost = 0
    for places in all_places:
        start, admitted = threading.Barrier(8), []
        def come(places=places):
            start.wait()
            admitted.append(places.maybe_admit({}, Stream()))
        threads = [threading.Thread(target=come) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
        lost += sum(map(bool, admitted)) != 6 or places.stats().open != 6
    os._exit(min(lost, 100))
assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0, "not all of the first requests were counted"
"""


def test_all_are_counted_that_come_first_to_a_forked_process() -> None:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    subprocess.run([sys.executable, "-c", FIRST_REQUESTS], env=environment, check=True, timeout=100)
