"""What a silent stream sends: its opening at once, a heartbeat now and then."""

from __future__ import annotations

import re
from collections.abc import Callable

import pytest

from .applications import HEARTBEAT, SLOW_HEARTBEAT
from .client import PATIENCE, Connection
from .conftest import WITH_HEARTBEATS, Pool
from .serving import ALL_SERVERS, GTHREAD, INLINE, Kind, Server
from .steps import event, half_an_event, nothing, pause, repeat

pytestmark = pytest.mark.live

AT_ONCE = 0.4  # seconds; half a second is how often the middleware would look by itself
TRIES = 5  # of which one has to be as quick: a machine may be busy with other things


@pytest.fixture(params=ALL_SERVERS, ids=str)
def beating(request: pytest.FixtureRequest, pool: Pool) -> Server:
    """Each server, with an application whose heartbeats are quick."""
    return pool.get(request.param, WITH_HEARTBEATS)


def test_the_opening_leaves_before_the_application_yields(server: Server) -> None:
    assert_opened_at_once(server, lambda: server.open(pause(PATIENCE), event("late")))


def test_the_opening_leaves_when_a_lazy_application_starts_its_response(server: Server) -> None:
    assert_opened_at_once(server, lambda: server.open(pause(PATIENCE), event("late"), lazy="0.05"))


def assert_opened_at_once(server: Server, ask: Callable[[], Connection]) -> None:
    seconds: list[float] = []
    while min(seconds, default=AT_ONCE) >= AT_ONCE and len(seconds) < TRIES:
        assert server.get("/ping").status == 200  # its only thread may still have the try before
        connection = ask()
        seconds.append(connection.read_until(b":\n", within=PATIENCE / 2) - connection.sent_at)
        assert connection.body == b":\n"
        connection.leave()
    assert min(seconds) < AT_ONCE, seconds


def test_heartbeats_come_in_their_interval_while_the_application_is_silent(beating: Server) -> None:
    connection = beating.open(pause(8 * HEARTBEAT), event("late"))
    assert re.fullmatch(rb"(:\n)+data: late\n\n", connection.read_to_end())
    heartbeats = connection.body.count(b":") - 2  # but for the opening and the data
    seconds = connection.ended_at - connection.sent_at
    assert 4 <= heartbeats <= seconds / HEARTBEAT  # seven are usual; a busy machine makes them fewer, never more


@pytest.mark.parametrize("kind", ALL_SERVERS, ids=str)
def test_each_block_puts_the_heartbeat_off(kind: Kind, pool: Pool) -> None:
    server = pool.get(kind, "live.applications:app_with_slow_heartbeats")
    connection = server.open(repeat(event("tick"), pause(SLOW_HEARTBEAT / 3), times=4))
    assert connection.read_to_end() == b":\n" + b"data: tick\n\n" * 4
    assert connection.ended_at - connection.sent_at > SLOW_HEARTBEAT


def test_a_heartbeat_stands_inside_an_event_but_never_inside_a_line(beating: Server) -> None:
    connection = beating.open("data: one\nda", pause(3 * HEARTBEAT), "ta: two\n", pause(4 * HEARTBEAT), "\n")
    assert re.fullmatch(rb":\ndata: one\ndata: two\n(:\n)+\n", connection.read_to_end())


def test_no_heartbeat_stands_between_cr_and_lf(pool: Pool) -> None:
    connection = pool.get(GTHREAD, WITH_HEARTBEATS).open("data: one\r", pause(1.5 * HEARTBEAT), "\n\r\n")
    assert connection.read_to_end() == b":\ndata: one\r\n\r\n"


def test_an_inline_stream_gets_neither(beating: Server) -> None:
    connection = beating.open(pause(1.5 * HEARTBEAT), event("late"), headers=INLINE)
    assert connection.read_to_end() == b"data: late\n\n"


def test_an_inline_application_that_yields_nothing_gets_heartbeats_in_their_interval(beating: Server) -> None:
    connection = beating.open(
        event("early"), repeat(pause(HEARTBEAT / 4), nothing(), times=10), half_an_event("late"), headers=INLINE
    )
    assert re.fullmatch(rb"data: early\n\n(:\n){2,}data: late", connection.read_to_end())
    assert connection.body.count(b":\n") <= (connection.ended_at - connection.sent_at) / HEARTBEAT
