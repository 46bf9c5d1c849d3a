"""As many streams as the server's threads can bear: who comes too late is told so in its own language, and places come back."""

from __future__ import annotations

import json
import re
import time
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest

from .client import Connection, Headers, TooLate
from .conftest import WRAPPED, Measure, Start
from .serving import ANNOUNCED, EVENT_SOURCE, GEVENT, INLINE, Kind, Server, gunicorn, new_key, uvicorn, waitress
from .steps import event, pause, repeat, wait_for_the_end

pytestmark = pytest.mark.live

FREE_WITHIN = 1.0  # seconds after a leave, until a place is free: the promise
AT_ONCE = 5.0  # seconds; a thread that is free answers in some milliseconds, one that is not waits for a stream of 30 s

GTHREAD = gunicorn("gthread", "--threads", "8", name="gunicorn gthread with 8 threads")
PRELOADED = gunicorn("gthread", "--threads", "8", "--workers", "2", "--preload", name="gunicorn with two preloaded workers")
WAITRESS = waitress("--threads=8", name="waitress with 8 threads")

# How many streams each admits by default: three quarters of its threads, of which a2wsgi has ten.
SERVERS = [
    pytest.param(GTHREAD, WRAPPED, 6, id=str(GTHREAD)),
    pytest.param(WAITRESS, WRAPPED, 6, id=str(WAITRESS)),
    pytest.param(uvicorn(), "live.asgi:bridged", 8, id=str(uvicorn())),
]
on_each_server = pytest.mark.parametrize(("kind", "application", "limit"), SERVERS)

SILENT = (event("hello"), wait_for_the_end())
# Under a bridge that calls no close(), an inline stream is looked at only when it yields.
BUSY = (event("hello"), repeat(pause(0.1), event("again")))


def stats_of(server: Server) -> Any:
    return json.loads(server.get("/stats", within=AT_ONCE).body)


def stats_once(server: Server, holds: Callable[[Any], object], *, within: float) -> Any:
    """Return what the middleware says once *holds* does."""
    deadline = time.monotonic() + within
    while not holds(stats := stats_of(server)):
        if time.monotonic() > deadline:
            raise TooLate(f"not within {within} s: {stats}")
        time.sleep(0.02)
    return stats


def fill(server: Server, limit: int, headers: Headers = EVENT_SOURCE) -> list[Connection]:
    """Open as many streams as are admitted."""
    steps = BUSY if headers == INLINE else SILENT
    streams = [server.open(*steps, headers=headers) for _ in range(limit)]
    for stream in streams:
        stream.read_until(b"data: hello\n\n")
    return streams


def assert_sent_away_as_an_event_source(connection: Connection) -> None:
    body = connection.read_to_end()
    assert connection.status == 200
    assert connection.ended == "cleanly"
    assert connection.header("Content-Type") == "text/event-stream; charset=utf-8"
    assert re.fullmatch(rb"retry: [0-9]+\n\n", body)


def assert_sent_away_with_503(connection: Connection) -> None:
    body = connection.read_to_end()
    assert connection.status == 503
    assert connection.header("Content-Type") == "text/plain; charset=utf-8"
    assert int(connection.header("Retry-After") or "") > 0
    assert body == b"Too many event streams are open. Please come back later.\n"


@on_each_server
def test_who_comes_too_late_is_told_so_in_its_own_language(
    kind: Kind, application: str, limit: int, serve: Start, measure: Measure
) -> None:
    server = serve(kind, application)
    streams = fill(server, limit)
    assert_sent_away_as_an_event_source(server.open(*SILENT, headers=EVENT_SOURCE))
    fetched, inline = new_key(), new_key()
    assert_sent_away_with_503(server.open(*SILENT, headers=ANNOUNCED, key=fetched))
    assert_sent_away_with_503(server.open(*BUSY, headers=INLINE, key=inline))
    assert server.get(f"/life?key={fetched}", within=AT_ONCE).body == b"null", "the application was called"
    life = server.life(inline)
    assert (len(life.closed_on), life.blocks, life.reason) == (1, 0, "shed")
    pong = server.get("/ping", within=AT_ONCE)
    assert pong.body == b"pong"
    measure(f"an ordinary request beside as many streams as may be, {kind}", pong.ended_at - pong.sent_at)
    stats = stats_of(server)
    assert (stats["open_announced"], stats["open_inline"], stats["most_streams"], stats["shed"]) == (limit, 0, limit, 3)
    assert stats["ended"] == {}
    for stream in streams:
        assert stream.ended is None


@on_each_server
@pytest.mark.parametrize("headers", [pytest.param(EVENT_SOURCE, id="announced"), pytest.param(INLINE, id="inline")])
def test_a_place_is_free_within_a_second_after_a_leave(
    kind: Kind, application: str, limit: int, headers: Headers, serve: Start, measure: Measure
) -> None:
    server = serve(kind, application)
    streams = fill(server, limit, headers)
    for _ in range(limit):
        left_at = streams.pop(0).leave()
        stats_once(server, lambda stats: stats["open_announced"] + stats["open_inline"] == limit - 1, within=FREE_WITHIN)
        measure(f"a place is free after a leave, {kind}", time.monotonic() - left_at)
        streams += fill(server, 1, headers)
    stats = stats_of(server)
    assert stats["open_announced"] + stats["open_inline"] == limit
    assert (stats["shed"], stats["ended"]) == (0, {"client gone": limit})
    server.leave_all()
    stats = stats_once(server, lambda stats: stats["open_announced"] + stats["open_inline"] == 0, within=FREE_WITHIN)
    assert stats["ended"] == {"client gone": 2 * limit}


@on_each_server
def test_all_places_come_back_when_all_leave_at_once(kind: Kind, application: str, limit: int, serve: Start) -> None:
    server = serve(kind, application)
    for visit in range(1, 6):
        fill(server, limit)
        server.leave_all()
        stats = stats_once(server, lambda stats: stats["open_announced"] == 0, within=FREE_WITHIN)
        assert (stats["shed"], stats["ended"]) == (0, {"client gone": visit * limit})


def test_gevent_admits_any_number(serve: Start) -> None:
    server = serve(GEVENT)
    fill(server, 100)
    stats = stats_of(server)
    assert (stats["open_announced"], stats["most_streams"], stats["shed"]) == (100, None, 0)


def test_each_preloaded_worker_counts_its_own_streams(serve: Start) -> None:
    server = serve(PRELOADED)
    admitted: Counter[str | None] = Counter()
    shed = 0
    deadline = time.monotonic() + 60
    while sum(admitted.values()) < 12:  # the kernel picks the worker: one may be full long before the other
        assert time.monotonic() < deadline, f"admitted {admitted}, sent away {shed}"
        stream = server.open(*SILENT, headers=EVENT_SOURCE)
        stream.read_headers()
        if stream.header("X-Process"):
            admitted[stream.header("X-Process")] += 1
        else:
            assert_sent_away_as_an_event_source(stream)
            shed += 1
    assert set(admitted.values()) == {6}, admitted
    told: dict[str | None, Any] = {}
    while len(told) < 2:
        assert time.monotonic() < deadline, f"only {told} answered"
        answer = server.get("/stats", within=AT_ONCE)
        told[answer.header("X-Process")] = json.loads(answer.body)
    assert told.keys() == admitted.keys()
    assert [(stats["open_announced"], stats["most_streams"]) for stats in told.values()] == [(6, 6), (6, 6)]
    assert sum(stats["shed"] for stats in told.values()) == shed
