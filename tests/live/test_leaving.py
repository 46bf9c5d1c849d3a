"""The client leaves: it is noticed, the server's thread is free, the application is closed, and nothing stays behind."""

from __future__ import annotations

import ssl
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest
import trustme

from .client import Connection
from .conftest import Measure, Pool, Start
from .serving import ALL_SERVERS, SINGLES, SYNC, WSGIREF, Kind, Server, gunicorn, new_key
from .steps import Step, event, pause, repeat, wait_for_release, wait_for_the_end

pytestmark = pytest.mark.live

NOTICED_WITHIN = 1.0  # seconds: the promise
CLOSED_WITHIN = 0.5  # seconds behind the application's next block
VISITS = 50

NEXT_REQUEST = b"GET /ping HTTP/1.1\r\nHost: localhost\r\n\r\n"  # pipelined: it waits unread, in front of the FIN

Leave = Callable[[Connection], float]


def with_fin(connection: Connection) -> float:
    return connection.leave("FIN")


def with_rst(connection: Connection) -> float:
    return connection.leave("RST")


LEAVES = [
    pytest.param(with_fin, b"", id="FIN"),
    pytest.param(with_rst, b"", id="RST"),
    pytest.param(with_fin, NEXT_REQUEST, id="FIN behind a pipelined request"),
    pytest.param(with_rst, NEXT_REQUEST, id="RST behind a pipelined request"),
]


@pytest.fixture(params=SINGLES, ids=str)
def single(request: pytest.FixtureRequest, pool: Pool) -> Server:
    """Each server, with a single thread if it has a number of them."""
    return pool.get(request.param)


@pytest.mark.parametrize(("leave", "more"), LEAVES)
def test_a_leave_is_noticed_while_the_application_is_silent(
    single: Server, leave: Leave, more: bytes, measure: Measure
) -> None:
    key = new_key()
    since = len(single.output())
    connection = single.open(event("hello"), wait_for_the_end(), key=key, more=more)
    connection.read_until(b"hello")
    left_at = leave(connection)
    life = single.life_once(key, lambda life: life.closed_on, within=NOTICED_WITHIN)
    assert life.reason == "client gone"
    assert "Traceback" not in single.output()[since:]
    assert life.noticed_at is not None
    assert 0 <= life.noticed_at - left_at < NOTICED_WITHIN
    measure(f"leave noticed after, {single.kind}", life.noticed_at - left_at)
    assert len(single.life(key).closed_on) == 1


@pytest.mark.parametrize(("leave", "more"), LEAVES)
def test_the_servers_thread_is_free_although_the_application_sleeps_on(single: Server, leave: Leave, more: bytes) -> None:
    key = new_key()
    connection = single.open(event("hello"), wait_for_release(), event("late"), event("later"), key=key, more=more)
    connection.read_until(b"hello")
    leave(connection)
    assert single.get("/ping", within=NOTICED_WITHIN).status == 200
    life = single.life_once(key, lambda life: life.closed, within=NOTICED_WITHIN)
    assert life.closed_on == []
    single.release(key)
    life = single.life_once(key, lambda life: life.closed_on, within=CLOSED_WITHIN)
    assert life.blocks == 2  # it was closed at its first block behind the leave
    assert life.called_on == life.pulled_on == life.closed_on
    assert life.called_on[0].startswith("ssemiddleware-relay-")


def test_a_leave_is_noticed_before_the_application_has_started_its_response(single: Server) -> None:
    key = new_key()
    since = len(single.output())
    connection = single.open(event("hello"), key=key, lazy="1.5")
    time.sleep(0.1)
    connection.leave()
    assert single.get("/ping", within=NOTICED_WITHIN).status == 200
    life = single.life_once(key, lambda life: life.closed_on, within=3)
    assert life.called_on == life.pulled_on == life.closed_on
    assert life.reason == "client gone"
    assert "Traceback" not in single.output()[since:]


@pytest.mark.parametrize("leave", [pytest.param(with_fin, id="FIN"), pytest.param(with_rst, id="RST")])
def test_an_inline_application_is_closed_on_the_servers_thread_when_it_yields(single: Server, leave: Leave) -> None:
    key = new_key()
    connection = single.open(repeat(event("tick"), pause(0.1)), key=key, headers=[])
    connection.read_until(b"tick")
    leave(connection)
    life = single.life_once(key, lambda life: life.closed_on, within=NOTICED_WITHIN)
    assert life.called_on == life.pulled_on == life.closed_on
    assert not life.called_on[0].startswith("ssemiddleware-relay-")


@pytest.mark.parametrize("kind", ALL_SERVERS, ids=str)
def test_fifty_visits_leave_no_descriptor_and_no_thread_behind(kind: Kind, pool: Pool) -> None:
    server = pool.get(kind, "live.applications:app_for_many")  # a place may be free only half a second after a leave
    # A server with one thread in all takes half a second for a visit to a silent stream, so there it ticks.
    rest = repeat(pause(0.01), event("tick")) if kind in (SYNC, WSGIREF) else wait_for_the_end()
    at_once = 1 if kind in (SYNC, WSGIREF) else 10
    worker = server.worker()
    visit(server, 10, at_once, event("hello"), rest)
    descriptors, threads = fewest(worker, seconds=1)
    visit(server, VISITS, at_once, event("hello"), rest)
    descriptors_now, threads_now = fewest(worker, seconds=1)
    assert descriptors_now <= descriptors
    assert threads_now <= threads


def visit(server: Server, visits: int, at_once: int, *steps: Step) -> None:
    for _ in range(visits // at_once):
        connections = [server.open(*steps, key=new_key()) for _ in range(at_once)]
        for connection in connections:
            connection.read_until(b"hello")
        for connection in connections:
            connection.leave()


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
def encrypted(folder: Path, serve: Start) -> Server:
    """gunicorn gthread with one thread, over TLS."""
    authority, trust = trustme.CA(), ssl.create_default_context()
    authority.configure_trust(trust)
    certificate = authority.issue_cert("localhost")
    path = folder / "certificate.pem"
    certificate.private_key_and_cert_chain_pem.write_to_path(path)
    kind = gunicorn("gthread", "--threads=1", f"--certfile={path}", f"--keyfile={path}", name="gunicorn gthread over TLS")
    return serve(kind, trust=trust)


def with_close_notify(connection: Connection) -> float:
    return connection.leave("close_notify")


@pytest.mark.parametrize(
    "leave",
    [
        pytest.param(with_fin, id="FIN"),
        pytest.param(with_close_notify, id="close_notify and FIN"),
        pytest.param(with_rst, id="RST"),
    ],
)
def test_a_leave_is_noticed_over_tls(encrypted: Server, leave: Leave, measure: Measure) -> None:
    test_a_leave_is_noticed_while_the_application_is_silent(encrypted, leave, b"", measure)
    test_a_leave_is_noticed_while_the_application_is_silent(encrypted, leave, NEXT_REQUEST, measure)
    test_the_servers_thread_is_free_although_the_application_sleeps_on(encrypted, leave, b"")
