"""What a silent stream sends: an opening to an EventSource after half a second, a heartbeat now and then."""

from __future__ import annotations

import re

import pytest

from .applications import HEARTBEAT, SLOW_HEARTBEAT
from .client import PATIENCE, Headers
from .conftest import WITH_HEARTBEATS, Measure, Pool
from .serving import ALL_SERVERS, ANNOUNCED, CLIENTS, EVENT_SOURCE, GTHREAD, GUNICORNS, UNANNOUNCED, Kind, Server, play_target
from .steps import event, fail, half_an_event, large_event, large_event_bytes, nothing, pause, repeat

pytestmark = pytest.mark.live

SILENCE = 0.5  # seconds, before an EventSource's stream is opened
SOON = 1.0  # seconds: the watcher looks each quarter of one
SILENT = pause(1.5), event("late")
TRIES = 5  # of which one has to be as quick: a machine may be busy with other things


@pytest.fixture(params=ALL_SERVERS, ids=str)
def beating(request: pytest.FixtureRequest, pool: Pool) -> Server:
    """Each server, with an application whose heartbeats are quick."""
    return pool.get(request.param, WITH_HEARTBEATS)


# -- the opening


@pytest.mark.parametrize(
    "target",
    [
        pytest.param(play_target(*SILENT), id="started at once"),
        pytest.param(play_target(*SILENT, lazy="0.05"), id="started in the first next()"),
    ],
)
def test_an_event_source_gets_an_opening_after_half_a_second_of_silence(server: Server, target: str, measure: Measure) -> None:
    seconds: list[float] = []
    while min(seconds, default=SOON) >= SOON and len(seconds) < TRIES:
        assert server.get("/ping").status == 200  # its only thread may still have the try before
        connection = server.ask(target, EVENT_SOURCE)
        seconds.append(connection.read_until(b":\n", within=PATIENCE / 2) - connection.sent_at)
        assert connection.status == 200
        assert connection.read_to_end() == b":\ndata: late\n\n"
    measure(f"the opening of a silent stream, {server.kind}", min(seconds))
    assert SILENCE * 0.9 < min(seconds) < SOON, seconds


def test_any_other_client_gets_no_opening(server: Server) -> None:
    assert server.open(pause(1.2), event("late"), headers=ANNOUNCED).read_to_end() == b"data: late\n\n"


@pytest.mark.parametrize("path", CLIENTS)
def test_an_application_that_yields_at_once_needs_no_opening(server: Server, path: Headers) -> None:
    connection = server.open(event("early"), pause(1), event("late"), headers=path)
    assert connection.read_to_end() == b"data: early\n\ndata: late\n\n"


def test_before_a_first_block_of_512_bytes_it_is_sent_alone(server: Server) -> None:
    connection = server.open(large_event(512, many_lines=True), event("small"), headers=EVENT_SOURCE)
    assert connection.read_to_end() == b":\n" + large_event_bytes(512, many_lines=True) + b"data: small\n\n"
    if connection.header("Transfer-Encoding") == "chunked":
        assert connection.arrivals[0].block == b":\n"


@pytest.mark.parametrize(
    ("size", "path"), [(511, EVENT_SOURCE), (512, ANNOUNCED), (512, UNANNOUNCED)], ids=["smaller", "announced", "unannounced"]
)
def test_before_a_smaller_one_or_for_other_clients_no_opening_is_sent(server: Server, size: int, path: Headers) -> None:
    connection = server.open(large_event(size, many_lines=True), event("small"), headers=path)
    assert connection.read_to_end() == large_event_bytes(size, many_lines=True) + b"data: small\n\n"


@pytest.mark.parametrize("kind", GUNICORNS, ids=str)
def test_an_application_that_fails_in_its_first_quarter_of_a_second_still_answers_500(kind: Kind, pool: Pool) -> None:
    connection = pool.get(kind).open(pause(0.25), fail("early"), headers=EVENT_SOURCE)
    connection.read_to_end()
    assert connection.status == 500


# -- heartbeats


@pytest.mark.parametrize("path", CLIENTS[:2])
def test_heartbeats_come_in_their_interval_while_the_application_is_silent(beating: Server, path: Headers) -> None:
    connection = beating.open(pause(8 * HEARTBEAT), event("late"), headers=path)
    assert re.fullmatch(rb"(:\n)+data: late\n\n", connection.read_to_end())
    heartbeats = connection.body.count(b":\n")
    seconds = connection.ended_at - connection.sent_at
    assert 3 <= heartbeats <= seconds / HEARTBEAT  # six are usual; a busy machine makes them fewer, never more


@pytest.mark.parametrize("kind", ALL_SERVERS, ids=str)
def test_each_block_delays_the_heartbeat(kind: Kind, pool: Pool) -> None:
    server = pool.get(kind, "live.applications:app_with_slow_heartbeats")
    connection = server.open(repeat(event("tick"), pause(SLOW_HEARTBEAT / 3), times=4))
    assert connection.read_to_end() == b"data: tick\n\n" * 4
    assert connection.ended_at - connection.sent_at > SLOW_HEARTBEAT


def test_a_heartbeat_stands_inside_an_event_but_never_inside_a_line(beating: Server) -> None:
    connection = beating.open("data: one\nda", pause(3 * HEARTBEAT), "ta: two\n", pause(4 * HEARTBEAT), "\n")
    assert re.fullmatch(rb"data: one\ndata: two\n(:\n)+\n", connection.read_to_end())


def test_no_heartbeat_stands_between_cr_and_lf(pool: Pool) -> None:
    connection = pool.get(GTHREAD, WITH_HEARTBEATS).open("data: one\r", pause(3 * HEARTBEAT), "\n\r\n")
    assert connection.read_to_end() == b"data: one\r\n\r\n"


def test_an_unannounced_stream_gets_neither(beating: Server) -> None:
    connection = beating.open(pause(3 * HEARTBEAT), event("late"), nothing(), headers=UNANNOUNCED)
    assert connection.read_to_end() == b"data: late\n\n"


def test_an_announced_application_that_yields_nothing_gets_heartbeats_in_their_interval(beating: Server) -> None:
    connection = beating.open(event("early"), repeat(pause(HEARTBEAT / 4), nothing(), times=16), half_an_event("late"))
    assert re.fullmatch(rb"data: early\n\n(:\n){2,}data: late", connection.read_to_end())
    assert connection.body.count(b":\n") <= (connection.ended_at - connection.sent_at) / HEARTBEAT
