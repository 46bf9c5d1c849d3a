"""The limit of streams on real servers: how requests above it are refused, and when places are free again."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable
from statistics import median
from typing import Any

import pytest

from .client import PATIENCE, Connection, Headers, TooLate
from .conftest import WRAPPED, Measure, Start
from .serving import (
    ANNOUNCED,
    CLIENTS,
    EVENT_SOURCE,
    GEVENT,
    UNANNOUNCED,
    Kind,
    Server,
    gunicorn,
    new_key,
    play_target,
    uvicorn,
    waitress,
)
from .steps import event, wait_for_the_end

pytestmark = pytest.mark.live

FREE_WITHIN = 2.0  # seconds from most disconnects until a place is free; the promise is one, on an idle machine

GTHREAD = gunicorn("gthread", "--threads", "8", name="gunicorn gthread with 8 threads")
PRELOADED = gunicorn(
    "gthread", "--threads", "8", "--workers", "2", "--preload", "--timeout", "120", name="gunicorn with two preloaded workers"
)
WAITRESS = waitress("--threads=8", name="waitress with 8 threads")

# How many streams each admits by default: three quarters of its threads, of which a2wsgi has ten.
SERVERS = [
    pytest.param(GTHREAD, WRAPPED, 6, id=str(GTHREAD)),
    pytest.param(WAITRESS, WRAPPED, 6, id=str(WAITRESS)),
    pytest.param(uvicorn(), "live.asgi:bridged", 8, id=str(uvicorn())),
]
on_each_server = pytest.mark.parametrize(("kind", "application", "limit"), SERVERS)

SILENT = (event("hello"), wait_for_the_end())


def stats_of(server: Server) -> Any:
    return json.loads(server.get("/stats").body)


def stats_once(server: Server, holds: Callable[[Any], object]) -> Any:
    """Return the middleware's numbers once *holds* is true of them."""
    deadline = time.monotonic() + PATIENCE
    while not holds(stats := stats_of(server)):
        if time.monotonic() > deadline:
            raise TooLate(f"not within {PATIENCE} s: {stats}")
        time.sleep(0.02)
    return stats


def fill(server: Server, limit: int, headers: Headers = EVENT_SOURCE) -> list[Connection]:
    """Open streams until the limit is reached."""
    streams = [server.open(*SILENT, headers=headers) for _ in range(limit)]
    for stream in streams:
        stream.read_until(b"data: hello\n\n")
    return streams


def assert_refused_as_an_event_source(connection: Connection) -> None:
    body = connection.read_to_end()
    assert connection.status == 200
    assert connection.ended == "cleanly"
    assert connection.header("Content-Type") == "text/event-stream; charset=utf-8"
    assert re.fullmatch(rb"retry: [0-9]+\n\n", body)


def assert_refused_with_503(connection: Connection) -> None:
    body = connection.read_to_end()
    assert connection.status == 503
    assert connection.header("Content-Type") == "text/plain; charset=utf-8"
    assert int(connection.header("Retry-After") or "") > 0
    assert body == b"Too many event streams are open. Please try again later.\n"


@on_each_server
def test_each_kind_of_client_is_refused_in_its_own_way(
    kind: Kind, application: str, limit: int, serve: Start, measure: Measure
) -> None:
    server = serve(kind, application)
    streams = fill(server, limit)
    assert_refused_as_an_event_source(server.open(*SILENT, headers=EVENT_SOURCE))
    fetched, unannounced = new_key(), new_key()
    assert_refused_with_503(server.open(*SILENT, headers=ANNOUNCED, key=fetched))
    assert_refused_with_503(server.open(*SILENT, headers=UNANNOUNCED, key=unannounced))
    assert server.get(f"/life?key={fetched}").body == b"null", "the application was called"
    life = server.life(unannounced)
    assert (len(life.closed_on), life.blocks, life.reason) == (1, 0, "refused")
    pong = server.get("/ping")
    assert pong.body == b"pong"
    measure(f"an ordinary request beside as many streams as may be, {kind}", pong.ended_at - pong.sent_at)
    stats = stats_of(server)
    assert (stats["open_announced"], stats["open_unannounced"], stats["most_streams"], stats["refused"]) == (limit, 0, limit, 3)
    assert stats["ended"] == {}
    for stream in streams:
        assert stream.ended is None


@on_each_server
@pytest.mark.parametrize("headers", CLIENTS)
def test_a_place_is_free_soon_after_a_disconnect(
    kind: Kind, application: str, limit: int, headers: Headers, serve: Start, measure: Measure
) -> None:
    server = serve(kind, application)
    streams, seconds = fill(server, limit, headers), []
    for _ in range(limit):
        disconnected_at = streams.pop(0).disconnect()
        stats_once(server, lambda stats: stats["open_announced"] + stats["open_unannounced"] == limit - 1)
        seconds.append(time.monotonic() - disconnected_at)
        measure(f"a place is free after a disconnect, {kind}", seconds[-1])
        streams += fill(server, 1, headers)
    assert median(seconds) < FREE_WITHIN, seconds
    stats = stats_of(server)
    assert stats["open_announced"] + stats["open_unannounced"] == limit
    assert (stats["refused"], stats["ended"]) == (0, {"client gone": limit})
    server.disconnect_all()
    stats = stats_once(server, lambda stats: stats["open_announced"] + stats["open_unannounced"] == 0)
    assert stats["ended"] == {"client gone": 2 * limit}


@on_each_server
def test_all_places_are_free_after_all_clients_disconnect_at_once(
    kind: Kind, application: str, limit: int, serve: Start
) -> None:
    server = serve(kind, application)
    for visit in range(1, 6):
        fill(server, limit)
        server.disconnect_all()
        stats = stats_once(server, lambda stats: stats["open_announced"] == 0)
        assert (stats["refused"], stats["ended"]) == (0, {"client gone": visit * limit})


def test_gevent_admits_any_number(serve: Start) -> None:
    server = serve(GEVENT)
    fill(server, 100)
    stats = stats_of(server)
    assert (stats["open_announced"], stats["most_streams"], stats["refused"]) == (100, None, 0)


def test_each_preloaded_worker_counts_its_own_streams(serve: Start) -> None:
    server = serve(PRELOADED)
    for worker in server.workers(2):
        with server.only(worker):
            streams = fill(server, 6)
            assert_refused_as_an_event_source(server.open(*SILENT, headers=EVENT_SOURCE))
            stats = stats_of(server)
        assert {stream.header("X-Process") for stream in streams} == {str(worker.pid)}
        assert (stats["open_announced"], stats["most_streams"], stats["refused"]) == (6, 6, 1)


def test_the_seventh_tab_of_one_user_is_refused_until_another_is_closed(serve: Start) -> None:
    server = serve(gunicorn("gthread", "--threads", "32"), "live.applications:app_for_six_tabs")
    user, other = [*EVENT_SOURCE, ("X-User", "one")], [*EVENT_SOURCE, ("X-User", "two")]
    tabs = fill(server, 6, user)
    assert b"hello" not in server.get(play_target(*SILENT), user).body
    assert server.get(play_target(*SILENT), [*ANNOUNCED, ("X-User", "one")]).status == 503
    fill(server, 6, other)
    fill(server, 3)  # without a key
    tabs[0].disconnect()
    deadline = time.monotonic() + PATIENCE
    while b"hello" not in (again := server.open(*SILENT, headers=user)).read_for(0.5):
        assert time.monotonic() < deadline
        again.disconnect()
    assert b"hello" not in server.get(play_target(*SILENT), user).body
