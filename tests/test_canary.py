"""The canary: a stream of the middleware's own, at the given path."""

from __future__ import annotations

import json
import time

import pytest

from ssemiddleware import SSEMiddleware
from ssemiddleware.canary import CLOCK, TYPE
from ssemiddleware.testing import open_stream

from .applications import ANNOUNCED, Response, application_of, environ_of

APPLICATION = application_of([b"data: 1\n\n"])


def test_it_sends_a_number_and_the_server_s_time_each_second() -> None:
    with open_stream(SSEMiddleware(APPLICATION, canary="/canary"), "/canary") as stream:
        assert float(stream.headers[CLOCK]) == pytest.approx(time.time(), abs=5)
        events = [stream.next_event() for _ in range(2)]
        assert [event.event for event in events] == [TYPE, TYPE]
        one, other = (json.loads(event.data) for event in events)
    assert (one["sequence"], other["sequence"]) == (1, 2)
    assert 0.9 < other["time"] - one["time"] < 3
    assert one["time"] == pytest.approx(time.time(), abs=5)


@pytest.mark.parametrize("options", [{}, {"canary": "/canary"}], ids=["off", "another path"])
def test_the_application_answers_at_all_other_paths(options: dict[str, str]) -> None:
    wrapped = SSEMiddleware(APPLICATION, **options)  # type: ignore[arg-type]
    path = "/canary" if not options else "/canary/"
    assert Response(wrapped, environ_of({**ANNOUNCED, "PATH_INFO": path})).body() == b"data: 1\n\n"


def test_it_ends_when_the_server_stops_and_has_a_place_among_the_streams() -> None:
    wrapped = SSEMiddleware(APPLICATION, canary="/canary", max_streams=1)
    with open_stream(wrapped, "/canary") as stream:
        stream.next_event()
        assert wrapped.stats().open == 1
        wrapped.drain()
        assert len(list(stream)) <= 1  # on a busy machine one more may come, before the watcher sees it


def test_head_is_answered_with_the_time_alone() -> None:
    wrapped = SSEMiddleware(APPLICATION, canary="/canary")
    response = Response(wrapped, environ_of({**ANNOUNCED, "PATH_INFO": "/canary", "REQUEST_METHOD": "HEAD"}))
    assert response.body() == b""
    assert CLOCK in dict(response.headers)
