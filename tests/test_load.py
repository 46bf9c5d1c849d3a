"""What must not grow with load: the cost of sending a client away."""

from __future__ import annotations

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
