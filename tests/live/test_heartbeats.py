"""A heartbeat a second while the application is in time.sleep, on each server to which another thread may write."""

from __future__ import annotations

import re
from itertools import pairwise

import pytest

from .asgi import BUSY
from .client import Connection
from .conftest import Measure, Start
from .serving import (
    ANNOUNCED,
    EVENT_SOURCE,
    GEVENT,
    GTHREAD,
    SYNC,
    WAITRESS,
    WERKZEUG,
    WSGIREF,
    Kind,
    cheroot,
    flask_run,
    granian,
    gunicorn,
    hypercorn,
    runserver,
    uvicorn,
    uwsgi,
)  # fmt: skip
from .steps import event, pause

pytestmark = pytest.mark.live

WSGI = "live.applications:app_with_a_heartbeat_a_second"
ASGI = "live.asgi:bridged_with_a_heartbeat_a_second"
HEARTBEAT = 1.0  # seconds, of these applications
AT_MOST = HEARTBEAT + 0.75  # seconds between two: the watcher looks each quarter of one, and a machine may be busy
TRIES = 3
SILENCE = 3.6

WITH_A_WRITER = [
    *((kind, WSGI) for kind in (SYNC, GTHREAD, GEVENT, gunicorn("gevent_pywsgi"), WAITRESS, WERKZEUG, WSGIREF, cheroot())),
    (flask_run(), "live.development_servers:flask"),
    (runserver(), "live.development_servers"),
    (uvicorn(), ASGI),
    (gunicorn("asgi", name="gunicorn asgi with a2wsgi"), ASGI),
    (gunicorn("uvicorn_worker.UvicornWorker", name="gunicorn uvicorn worker with a2wsgi"), ASGI),
    (hypercorn(), ASGI),
    (uwsgi("--http-socket", name="uWSGI"), WSGI),
    (uwsgi("--http-socket", "--threads=4", name="uWSGI with threads"), WSGI),
    (uwsgi("--http", name="uWSGI behind its router"), WSGI),
    (uwsgi("--http", "--threads=4", name="uWSGI with threads behind its router"), WSGI),
]
WITHOUT = [(granian(), WSGI), (hypercorn(), f"wsgi:{WSGI}")]


def parametrize(servers: list[tuple[Kind, str]]) -> pytest.MarkDecorator:
    ids = [f"{kind}{', WSGI' if application.startswith('wsgi:') else ''}" for kind, application in servers]
    return pytest.mark.parametrize(("kind", "application"), servers, ids=ids)


@parametrize(WITH_A_WRITER)
def test_a_heartbeat_comes_each_second_while_the_application_sleeps(
    kind: Kind, application: str, serve: Start, measure: Measure
) -> None:
    server = serve(kind, application)
    longest: list[float] = []
    while not longest or (min(longest) > AT_MOST and len(longest) < TRIES):
        # To an EventSource, so that the stream is opened, also where a first block has to leave before the watcher may write.
        connection = server.open(pause(SILENCE), event("late"), headers=EVENT_SOURCE)
        body = connection.read_to_end()
        connection.leave()
        assert re.fullmatch(rb"(:\n){3,}data: late\n\n", body), body
        longest.append(max(later - earlier for earlier, later in pairwise(times_of_comments(connection))))
    measure(f"between two heartbeats, {kind}", min(longest))
    assert min(longest) < AT_MOST
    assert re.fullmatch(rb"(:\n)*data: late\n\n", server.open(pause(1.2), event("late"), headers=ANNOUNCED).read_to_end())
    assert "Traceback" not in server.output()


def times_of_comments(connection: Connection) -> list[float]:
    return [connection.sent_at, *(arrival.at for arrival in connection.arrivals if arrival.block == b":\n")]


@parametrize(WITHOUT)
def test_where_nobody_may_write_the_opening_leaves_first_and_nothing_behind_it(
    kind: Kind, application: str, serve: Start
) -> None:
    server = serve(kind, application)
    for _ in range(TRIES):
        connection = server.open(pause(SILENCE), event("late"), headers=EVENT_SOURCE)
        opened_after = connection.read_until(b":\n") - connection.sent_at
        assert connection.read_to_end() == b":\ndata: late\n\n"
        if opened_after < SILENCE / 2:
            return
    raise AssertionError(f"opened after {opened_after} s, and not sooner in {TRIES} tries")


def test_a_busy_event_loop_delays_heartbeats_and_stops_nothing(serve: Start) -> None:
    server = serve(uvicorn(), "live.asgi:bridged_beside_a_busy_loop")
    connection = server.open(pause(3 * BUSY), event("late"), headers=EVENT_SOURCE)
    connection.read_until(b":\n")
    busy = server.ask("/busy")
    busy.read_to_end()
    assert busy.ended_at - busy.sent_at > BUSY * 0.9
    assert server.get("/ping").body == b"pong"
    before = len(connection.body)
    connection.read_until(b"data: late\n\n")
    assert re.fullmatch(rb"(:\n){2,}data: late\n\n", connection.body[before:]), "the watcher has stopped"
