"""A client disconnects: that is detected, the server's thread is free, the application is closed, and no resource stays."""

from __future__ import annotations

import ssl
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from .client import PATIENCE, Connection, Headers
from .conftest import Measure, Pool, Start
from .serving import ALL_SERVERS, ANNOUNCED, CLIENTS, EVENT_SOURCE, SINGLES, SYNC, WSGIREF, Kind, Server, gunicorn, new_key
from .steps import Step, event, pause, repeat, wait_for_release, wait_for_the_end

pytestmark = pytest.mark.live

PROMISED = 0.75  # seconds until a disconnect is detected: half a second, and the time to ask
TRIES = 3  # of which one has to keep the promise: a machine may be busy with other things
VISITS = 50

NEXT_REQUEST = b"GET /ping HTTP/1.1\r\nHost: localhost\r\n\r\n"  # pipelined: it waits unread, in front of the FIN

Disconnect = Callable[[Connection], float]


def with_fin(connection: Connection) -> float:
    return connection.disconnect("FIN")


def with_rst(connection: Connection) -> float:
    return connection.disconnect("RST")


DISCONNECTS = [
    pytest.param(with_fin, b"", id="FIN"),
    pytest.param(with_rst, b"", id="RST"),
    pytest.param(with_fin, NEXT_REQUEST, id="FIN after a pipelined request"),
    pytest.param(with_rst, NEXT_REQUEST, id="RST after a pipelined request"),
]


@pytest.fixture(params=SINGLES, ids=str)
def single(request: pytest.FixtureRequest, pool: Pool) -> Server:
    """Each server, with a single thread if it has a number of them."""
    return pool.get(request.param)


@pytest.mark.parametrize("path", CLIENTS)
@pytest.mark.parametrize(("disconnect", "more"), DISCONNECTS)
def test_a_disconnect_is_detected_while_the_application_is_silent(
    single: Server, disconnect: Disconnect, more: bytes, path: Headers, measure: Measure
) -> None:
    seconds = [seconds_until_noticed(single, disconnect, more, path)]
    while min(seconds) >= PROMISED and len(seconds) < TRIES:
        seconds.append(seconds_until_noticed(single, disconnect, more, path))
    measure(f"disconnect detected after, {single.kind}", min(seconds))
    assert min(seconds) < PROMISED, seconds


def seconds_until_noticed(single: Server, disconnect: Disconnect, more: bytes, path: Headers) -> float:
    """Disconnect from a silent stream; return how long it took until its application knew."""
    key = new_key()
    since = len(single.output())
    connection = single.open(event("hello"), wait_for_the_end(60), key=key, more=more, headers=path)
    connection.read_until(b"hello")
    disconnected_at = disconnect(connection)
    life = single.life_once(key, lambda life: life.closed_on)
    assert life.reason == "client gone"
    assert life.is_of_one_thread
    assert "Traceback" not in single.output()[since:]
    assert life.noticed_at is not None
    assert life.noticed_at >= disconnected_at
    assert len(single.life(key).closed_on) == 1
    return life.noticed_at - disconnected_at


@pytest.mark.parametrize("kind", [kind for kind in SINGLES if kind not in (SYNC, WSGIREF)], ids=str)
@pytest.mark.parametrize(("disconnect", "more"), DISCONNECTS)
def test_another_request_is_answered_although_the_application_sleeps_on(
    kind: Kind, disconnect: Disconnect, more: bytes, pool: Pool
) -> None:
    single, key = pool.get(kind), new_key()
    connection = single.open(
        event("hello"), wait_for_release(60), event("late"), event("later"), key=key, more=more, headers=EVENT_SOURCE
    )
    connection.read_until(b"hello")
    disconnect(connection)
    assert single.get("/ping").status == 200
    life = single.life_once(key, lambda life: life.closed)
    assert life.closed_on == []
    single.release(key)
    life = single.life_once(key, lambda life: life.closed_on)
    assert life.blocks == 2  # it was closed at its first block after the disconnect
    assert life.is_of_one_thread


def test_a_disconnect_is_detected_before_the_application_has_started_its_response(single: Server) -> None:
    key = new_key()
    since = len(single.output())
    connection = single.open(event("hello"), key=key, lazy="until closed")
    single.output_once(f"{key} waits", since=since)
    connection.disconnect()
    assert single.get("/ping").status == 200
    life = single.life_once(key, lambda life: life.closed_on)
    assert life.is_of_one_thread
    assert life.reason == "client gone"
    assert "Traceback" not in single.output()[since:]


@pytest.mark.parametrize("path", CLIENTS)
@pytest.mark.parametrize("disconnect", [pytest.param(with_fin, id="FIN"), pytest.param(with_rst, id="RST")])
def test_an_application_that_looks_at_nothing_is_closed_when_it_yields(
    single: Server, disconnect: Disconnect, path: Headers
) -> None:
    key = new_key()
    connection = single.open(repeat(event("tick"), pause(0.1)), key=key, headers=path)
    connection.read_until(b"tick")
    disconnect(connection)
    life = single.life_once(key, lambda life: life.closed_on)
    assert life.is_of_one_thread


@pytest.mark.parametrize("kind", ALL_SERVERS, ids=str)
def test_fifty_visits_leave_no_descriptor_and_no_thread_behind(kind: Kind, pool: Pool) -> None:
    server = pool.get(kind, "live.applications:app_for_many")  # a place may be free only half a second after a disconnect
    # A server with one thread in all takes a quarter of a second for a visit to a silent stream, so there it ticks.
    rest = repeat(pause(0.01), event("tick")) if kind in (SYNC, WSGIREF) else wait_for_the_end()
    at_once = 1 if kind in (SYNC, WSGIREF) else 10
    worker = server.worker()
    visit(server, 10, at_once, event("hello"), rest)
    descriptors, threads = fewest(worker, seconds=1)
    visit(server, VISITS, at_once, event("hello"), rest)
    descriptors_now, threads_now = fewest(worker, seconds=1)
    deadline = time.monotonic() + PATIENCE
    while not (descriptors_now <= descriptors and threads_now <= threads):  # nor do they come by and by
        assert time.monotonic() < deadline, (descriptors_now, descriptors, threads_now, threads)
        descriptors_now, threads_now = fewest(worker, seconds=1)


def visit(server: Server, visits: int, at_once: int, *steps: Step) -> None:
    keys = [new_key() for _ in range(visits)]
    for begin in range(0, visits, at_once):
        connections = [server.open(*steps, key=key) for key in keys[begin : begin + at_once]]
        for connection in connections:
            connection.read_until(b"hello")
        for connection in connections:
            connection.disconnect()
    for key in keys:
        server.life_once(key, lambda life: life.closed_on)


def fewest(worker: psutil.Process, seconds: float) -> tuple[int, int]:
    """Return the fewest descriptors and threads that the worker has in the next *seconds*."""
    deadline = time.monotonic() + seconds
    counts = []
    while time.monotonic() < deadline:
        counts.append((worker.num_fds(), worker.num_threads()))
        time.sleep(0.05)
    return min(descriptors for descriptors, _ in counts), min(threads for _, threads in counts)


# -- over TLS


@pytest.fixture
def encrypted(folder: Path, trust: ssl.SSLContext, serve: Start) -> Server:
    """gunicorn gthread with one thread, over TLS."""
    path = folder / "certificate.pem"
    kind = gunicorn("gthread", "--threads=1", f"--certfile={path}", f"--keyfile={path}", name="gunicorn gthread over TLS")
    return serve(kind, trust=trust)


def with_close_notify(connection: Connection) -> float:
    return connection.disconnect("close_notify")


@pytest.mark.parametrize(
    "disconnect",
    [
        pytest.param(with_fin, id="FIN"),
        pytest.param(with_close_notify, id="close_notify and FIN"),
        pytest.param(with_rst, id="RST"),
    ],
)
def test_a_disconnect_is_detected_over_tls(encrypted: Server, disconnect: Disconnect, measure: Measure) -> None:
    for more in (b"", NEXT_REQUEST):
        for path in (EVENT_SOURCE, ANNOUNCED):
            seconds = min(seconds_until_noticed(encrypted, disconnect, more, path) for _ in range(TRIES))
            measure(f"disconnect detected after, {encrypted.kind}", seconds)
            assert seconds < PROMISED
