"""Why and how a stream ends."""

from __future__ import annotations

import errno

import pytest

from ssemiddleware.ending import LEAVE_WHOLE_FOR, REASONS, WAKE_WITHIN, Round, StreamBroken, StreamOver, finish_event_within

from .servers.fake import FakeSign


def round_of(sign: FakeSign | None = None, *, is_drained: bool = False) -> Round:
    made = Round(lambda: is_drained, lambda: None)
    made.sign = sign
    return made


def test_a_process_goes_on_until_its_sign_or_the_application_says_that_it_stops() -> None:
    sign = FakeSign()
    going_on, seen = round_of(sign), list[float | None]()
    for now in (1.0, 2.0):
        going_on.look(now)
        seen.append(going_on.stopping_since)
        sign.stops = True
    assert seen == [None, 2.0]
    drained = round_of(is_drained=True)
    drained.look(5.0)
    assert drained.stopping_since == 5.0


def test_a_process_that_stops_does_not_go_on_again() -> None:
    sign = FakeSign()
    stopping = round_of(sign)
    sign.stops = True
    stopping.look(2.0)
    sign.stops = False
    stopping.look(9.0)
    assert stopping.stopping_since == 2.0


def test_the_grace_is_what_the_server_leaves() -> None:
    sign = FakeSign()
    stopping = round_of(sign)
    sign.stops, sign.grace = True, 5.0
    for now, is_over in ((10.0, False), (14.9, False), (15.0, True), (99.0, True)):
        stopping.look(now)
        assert stopping.is_grace_over is is_over


def test_where_no_server_kills_the_grace_is_never_over() -> None:
    sign = FakeSign()
    stopping = round_of(sign)
    sign.stops = True  # for as long as it takes
    drained = round_of(is_drained=True)  # by the application: the server goes on
    for made in (stopping, drained, round_of()):
        made.look(1.0)
        made.look(1e6)
        assert not made.is_grace_over


def test_what_else_there_is_to_call_is_called_once_a_tick() -> None:
    called: list[float] = []
    made = Round(lambda: False, lambda: called.append(made.looked_at))
    assert [made.look(now) for now in (1.0, 2.0, 3.0)] == [False, False, False]
    assert called == [1.0, 2.0, 3.0]


def test_each_stream_is_concerned_once_the_process_stops() -> None:
    assert round_of(is_drained=True).look(1.0)


@pytest.mark.parametrize("error", [StreamBroken(), StreamOver()], ids=repr)
def test_servers_take_what_is_raised_for_a_connection_that_is_gone(error: OSError) -> None:
    assert isinstance(error, ConnectionError)
    assert error.errno == errno.EPIPE


def test_a_stream_has_time_to_end_by_itself_before_it_is_ended_from_outside() -> None:
    assert WAKE_WITHIN < LEAVE_WHOLE_FOR < min(map(finish_event_within, REASONS)) <= 0.3
