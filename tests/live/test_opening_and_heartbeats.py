"""What a silent stream sends: its opening at once, a heartbeat now and then."""

from __future__ import annotations

from itertools import pairwise

import pytest

from .applications import HEARTBEAT
from .conftest import WITH_HEARTBEATS, Pool
from .serving import ALL_SERVERS, GTHREAD, INLINE, Server
from .steps import event, half_an_event, nothing, pause, repeat

pytestmark = pytest.mark.live

AT_ONCE = 0.4  # seconds, on a busy machine; half a second is how often the middleware would look by itself


@pytest.fixture(params=ALL_SERVERS, ids=str)
def beating(request: pytest.FixtureRequest, pool: Pool) -> Server:
    """Each server, with an application whose heartbeats are quick."""
    return pool.get(request.param, WITH_HEARTBEATS)


def test_the_opening_leaves_before_the_application_yields(server: Server) -> None:
    connection = server.open(pause(2), event("late"))
    opened_at = connection.read_until(b":\n", within=AT_ONCE)
    assert opened_at - connection.sent_at < AT_ONCE
    assert connection.body == b":\n"


def test_the_opening_leaves_when_a_lazy_application_starts_its_response(server: Server) -> None:
    connection = server.open(pause(2), event("late"), lazy="0.05")
    connection.read_until(b":\n", within=AT_ONCE)
    assert connection.body == b":\n"


def test_heartbeats_come_in_their_interval_while_the_application_is_silent(beating: Server) -> None:
    connection = beating.open(pause(5 * HEARTBEAT), event("late"))
    connection.read_to_end()
    assert connection.body.startswith(b":\n:\n:\n:\n")
    assert connection.body.endswith(b":\ndata: late\n\n")
    beats = [arrival.at for arrival in connection.arrivals if arrival.block == b":\n"]
    gaps = [later - earlier for earlier, later in pairwise(beats)]
    assert len(gaps) >= 3
    assert all(HEARTBEAT - 0.1 < gap < HEARTBEAT + 0.5 for gap in gaps), gaps


def test_each_block_puts_the_heartbeat_off(beating: Server) -> None:
    connection = beating.open(repeat(event("tick"), pause(HEARTBEAT / 3), times=10))
    assert connection.read_to_end() == b":\n" + b"data: tick\n\n" * 10


def test_a_heartbeat_stands_inside_an_event_but_never_inside_a_line(beating: Server) -> None:
    connection = beating.open("data: one\nda", pause(3 * HEARTBEAT), "ta: two\n", pause(1.5 * HEARTBEAT), "\n")
    assert connection.read_to_end() == b":\ndata: one\ndata: two\n:\n\n"


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
    assert connection.read_to_end() == b"data: early\n\n" + 2 * b":\n" + b"data: late"
