"""What a stream gets beside its application: the opening, heartbeats, a disconnect seen, deadlines and an end in time."""

from __future__ import annotations

import itertools
import logging
from collections.abc import Callable, Iterable, Iterator
from itertools import pairwise
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ssemiddleware import MemoryGovernor, read_events
from ssemiddleware.ending import StreamBroken
from ssemiddleware.event_stream import BOM, HEARTBEAT
from ssemiddleware.memory import Turn
from ssemiddleware.servers.connection import Progress

from .applications import ANNOUNCED, DATASTAR, EVENT_SOURCE, EVENT_STREAM, MCP
from .event_stream.streams import streams
from .servers.fake import Exchange, Step, exchange_of, script

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment

EVENT = b"data: 1\n\n"
UNANNOUNCED: dict[str, str] = {}
FETCH = {**ANNOUNCED, "REQUEST_METHOD": "POST"}  # announced, and no EventSource

both_announced = pytest.mark.parametrize("request_", [EVENT_SOURCE, FETCH, MCP], ids=["EventSource", "fetch", "MCP"])
eager_and_lazy = pytest.mark.parametrize("is_lazy", [False, True], ids=["eager", "lazy"])


def every(seconds: float, *blocks: Step, times: int) -> list[Step]:
    """Return the steps of an application that yields *blocks* again and again, each after a pause."""
    steps: list[Step] = []
    for _ in range(times):
        for block in blocks:
            steps += [seconds, block]
    return steps


def received(*steps: Step, request: dict[str, str] = EVENT_SOURCE, **options: object) -> list[bytes]:
    """Return what the client of such an application receives, write by write."""
    exchange = Exchange(script(*steps), request, **options)  # type: ignore[arg-type]
    exchange.rest()
    assert exchange.failed == []
    return exchange.client.received


def test_a_heartbeat_comes_a_sixteenth_of_its_time_late_at_most() -> None:
    left: list[int] = []
    looks: list[Step] = [lambda exchange: left.append(exchange.client.received.count(HEARTBEAT))]
    received(*every(0.3, EVENT, times=20), 15.0, *looks, 0.7, *looks, EVENT, heartbeat=16.0)
    assert left == [0, 0]
    left.clear()
    received(*every(0.3, EVENT, times=20), 16.0, *looks, 1.3, *looks, EVENT, heartbeat=16.0)
    assert left[1] == 1


@given(st.lists(st.floats(0, 60), min_size=1, max_size=12), st.sampled_from([EVENT_SOURCE, FETCH]))
def test_nothing_is_sent_for_a_heartbeat_and_a_sixteenth_at_most(pauses: list[float], request_: dict[str, str]) -> None:
    steps: list[Step] = []
    for pause in pauses:
        steps += [EVENT, pause]
    exchange = Exchange(script(*steps, EVENT), request_, heartbeat=16.0)
    sent_at, receive = [exchange.clock()], exchange.client.receive

    def note(block: bytes) -> bytes:
        sent_at.append(exchange.clock())
        return receive(block)

    exchange.client.receive = note  # type: ignore[method-assign]
    exchange.rest()
    assert max(after - before for before, after in pairwise(sent_at)) <= 17.0 + 0.25  # of the watcher's ticks


def test_a_stream_that_has_been_silent_rests_until_its_next_heartbeat() -> None:
    rests: list[float] = []

    def look(exchange: Exchange) -> None:
        assert exchange.care is not None
        rests.append(exchange.care.rests_until - exchange.clock())

    received(EVENT, 10.0, look, 10.0, look, EVENT, 16.5, look, 15.0, look, heartbeat=16.0)
    young, silent, moved, silent_again = rests
    assert young <= 1 < silent
    assert moved <= 1 < silent_again


def test_a_stream_that_has_rested_is_forgotten_as_soon_as_its_connection_is_closed() -> None:
    exchange = Exchange(script(EVENT, 20.0, EVENT), EVENT_SOURCE, heartbeat=15.0)
    exchange.rest()
    assert exchange.care is not None
    exchange.tick()
    assert exchange.is_watched
    exchange.care.notice(exchange.callbacks.extend)  # the poll reports a closed descriptor
    exchange.tick()
    assert not exchange.is_watched


def test_a_stream_that_nothing_can_be_written_to_is_not_looked_at_at_each_tick() -> None:
    looked: list[bool] = []

    def look(exchange: Exchange) -> None:
        assert exchange.care is not None
        looked.extend(exchange.care.is_due(exchange.clock() + seconds) for seconds in (1.0, 2.0, 3.0))

    received(EVENT, 20.0, look, can_write=False, send_deadline=None)
    assert looked == [False, False, False]


def test_an_application_that_is_slow_after_its_headers_gets_its_opening_in_time() -> None:
    left: list[list[bytes]] = []

    def silent(exchange: Exchange) -> None:
        for _ in range(4):
            exchange.tick(0.25)
            left.append([*exchange.client.received])

    def application(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        start_response("200 OK", [EVENT_STREAM])
        environ["fake.exchange"].tick(0.25)
        return script(silent, EVENT)(environ, lambda *_: lambda _block: None)

    Exchange(application, EVENT_SOURCE).rest()
    assert left[0] == []
    assert left[-1] == [HEARTBEAT]


# -- the opening


@eager_and_lazy
def test_the_opening_is_written_after_half_a_second_of_silence(is_lazy: bool) -> None:
    left: list[list[bytes]] = []
    looks: list[Step] = [lambda exchange: left.append([*exchange.client.received])]
    Exchange(script(0.25, *looks, 0.25, *looks, 0.25, *looks, 0.25, *looks, EVENT, is_lazy=is_lazy), EVENT_SOURCE).rest()
    assert [len(now) for now in left] in ([0, 0, 1, 1], [0, 1, 1, 1])
    assert left[-1] == [HEARTBEAT]


@eager_and_lazy
@pytest.mark.parametrize(("request_", "silence"), [(EVENT_SOURCE, 0.8), (FETCH, 16.3)], ids=["EventSource", "fetch"])
@pytest.mark.parametrize("before", [0.1, 0.6, 1.6, 20.0])
def test_a_response_that_starts_late_is_opened_in_time(
    before: float, request_: dict[str, str], silence: float, is_lazy: bool
) -> None:
    """A view may query a database before it calls ``start_response``: the watcher has seen the stream before."""

    def play(exchange: Exchange) -> Iterator[bytes]:
        exchange.tick(silence)
        opened.extend(exchange.client.received)
        yield EVENT

    def application(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        exchange: Exchange = exchange_of(environ)
        exchange.tick(before)
        start_response("200 OK", [EVENT_STREAM])
        return play(exchange)

    def lazy(environ: WSGIEnvironment, start_response: StartResponse) -> Iterator[bytes]:
        yield from application(environ, start_response)

    opened: list[bytes] = []
    Exchange(lazy if is_lazy else application, request_).rest()
    assert opened == [HEARTBEAT]


def test_an_application_that_begins_at_once_gets_no_opening() -> None:
    assert received(EVENT, EVENT) == [EVENT, EVENT]


def test_an_application_that_fails_in_the_first_half_second_has_sent_nothing() -> None:
    exchange = Exchange(script(0.4, RuntimeError("no database")), EVENT_SOURCE)
    with pytest.raises(RuntimeError, match="no database"):
        exchange.rest()
    assert exchange.client.received == []


@eager_and_lazy
@pytest.mark.parametrize("request_", [FETCH, MCP, DATASTAR], ids=["fetch", "MCP", "Datastar"])
def test_other_clients_are_opened_by_their_first_heartbeat(request_: dict[str, str], is_lazy: bool) -> None:
    def first_of(seconds: float) -> list[bytes]:
        exchange = Exchange(script(seconds, EVENT, is_lazy=is_lazy), request_)
        exchange.rest()
        return exchange.client.received

    assert first_of(14.0) == [EVENT]
    assert first_of(16.0) == [HEARTBEAT, EVENT]


def test_the_opening_is_sent_alone_before_a_large_first_block() -> None:
    large = b"data: " + b"x" * 600 + b"\n\n"
    assert received(large, EVENT) == [HEARTBEAT, large, EVENT]
    assert received(large[:9], large[9:]) == [large[:9], large[9:]]


def test_where_the_watcher_cannot_write_the_opening_is_yielded_first() -> None:
    assert received(EVENT, can_write=False) == [HEARTBEAT, EVENT]
    assert received(EVENT, request=FETCH, can_write=False) == [EVENT]
    assert received(EVENT, request=UNANNOUNCED, can_write=False) == [EVENT]


@pytest.mark.parametrize("given_", [EVENT_SOURCE, FETCH, UNANNOUNCED], ids=["EventSource", "fetch", "unannounced"])
def test_under_an_unknown_server_nothing_is_added(given_: dict[str, str]) -> None:
    assert received(20.0, EVENT, b"", 20.0, b"", EVENT, request=given_, is_known=False) == [EVENT, b"", b"", EVENT]


def test_the_opening_says_when_an_event_source_should_reconnect() -> None:
    exchange = Exchange(script(1.0, EVENT), EVENT_SOURCE, retry=1000)
    exchange.rest()
    assert exchange.client.received == [HEARTBEAT, EVENT]
    [opening] = exchange.client.openings
    assert opening.count(b"\n") == 1
    assert 750 <= int(opening.removeprefix(b"retry: ")) <= 1500


@pytest.mark.parametrize("request_", [FETCH, UNANNOUNCED], ids=["fetch", "unannounced"])
def test_the_opening_of_any_other_client_says_nothing(request_: dict[str, str]) -> None:
    exchange = Exchange(script(20.0, EVENT), request_)
    exchange.rest()
    assert exchange.client.openings == []


def test_where_the_reconnection_time_is_the_browsers_it_is_sent_only_to_undo_another() -> None:
    for refused in (0, 1):
        exchange = Exchange(script(1.0, EVENT), EVENT_SOURCE, retry=None)
        exchange.middleware._streams.admission.has_refused = bool(refused)
        exchange.rest()
        assert (len(exchange.client.openings), exchange.client.received) == (refused, [HEARTBEAT, EVENT])


def test_an_application_that_begins_at_once_gets_no_retry_line() -> None:
    assert received(EVENT, EVENT) == [EVENT, EVENT]


# -- heartbeats


@both_announced
def test_a_heartbeat_is_written_after_silence_and_a_block_restarts_it(request_: dict[str, str]) -> None:
    assert received(EVENT, 9.0, EVENT, 9.0, EVENT, 25.0, EVENT, request=request_, heartbeat=10) == [
        EVENT, EVENT, EVENT, HEARTBEAT, HEARTBEAT, EVENT,
    ]  # fmt: skip


def test_a_quick_block_restarts_the_silence_too() -> None:
    steps: list[Step] = []
    for _ in range(20):
        steps += [EVENT, 9.0]
    assert received(*steps, heartbeat=10) == [EVENT] * 20


@pytest.mark.parametrize(
    "half", [b"data: 1", b"data: 1\r", b": comment", b"data: \xe2\x82", b"data: 1\n\r", b"data: 1\r\r", BOM[:2]], ids=repr
)
def test_a_heartbeat_never_divides_a_line_a_character_or_a_line_end(half: bytes) -> None:
    assert received(half, 60.0, b"\n\n", 20.0, EVENT) == [half, b"\n\n", HEARTBEAT, EVENT]


def test_a_heartbeat_never_stands_between_cr_and_lf_nor_within_a_blank_line() -> None:
    assert received(b"data: 1\r", 60.0, b"\n\r", 60.0, b"\n", 16.0) == [b"data: 1\r", b"\n\r", b"\n", HEARTBEAT]


def test_a_heartbeat_between_two_lines_of_an_event_keeps_the_event_whole() -> None:
    left = received(b"data: 1\n", 16.0, b"data: 2\n\n")
    assert left == [b"data: 1\n", HEARTBEAT, b"data: 2\n\n"]
    assert [event.data for event in read_events(left)] == ["1\n2"]


def test_nothing_is_written_while_the_server_writes() -> None:
    exchange = Exchange(script(EVENT, 16.0, EVENT), EVENT_SOURCE)
    exchange.next()
    exchange.tick(100)
    assert exchange.client.received == [EVENT]
    exchange.rest()
    assert set(exchange.client.ours) == {HEARTBEAT}


def test_nothing_is_written_after_the_end() -> None:
    exchange = Exchange(script(EVENT), EVENT_SOURCE)
    list(exchange._served)
    exchange.tick(100)
    exchange.close()
    exchange.tick(100)
    assert exchange.client.received == [EVENT]


def test_nothing_is_written_once_the_stream_is_closed_from_inside_the_application() -> None:
    def finishes(exchange: Exchange) -> None:
        assert exchange.service is not None
        exchange.service.finish("client gone")

    exchange = Exchange(script(EVENT, finishes, 100.0, EVENT), EVENT_SOURCE)
    assert exchange.rest() == exchange.client.received == [EVENT]


def test_the_servers_write_is_dropped_before_the_last_return() -> None:
    exchange = Exchange(script(EVENT), EVENT_SOURCE)
    assert exchange.rest() == [EVENT]
    assert exchange.service is not None
    assert exchange.service.outside.writer is None


def test_a_heartbeat_waits_until_the_client_reads() -> None:
    def stops_reading(exchange: Exchange) -> None:
        exchange.client.takes = False

    def reads_again(exchange: Exchange) -> None:
        exchange.client.takes = True

    assert received(EVENT, stops_reading, 60.0, reads_again, 0.25, EVENT) == [EVENT, HEARTBEAT, EVENT]


@pytest.mark.parametrize("request_", [EVENT_SOURCE, FETCH, UNANNOUNCED], ids=["EventSource", "fetch", "unannounced"])
def test_without_heartbeats_nothing_of_ours_is_sent(request_: dict[str, str]) -> None:
    blocks = [BOM + EVENT, b"", EVENT]
    assert received(20.0, blocks[0], 100.0, blocks[1], 100.0, blocks[2], request=request_, heartbeat=None) == blocks


NO_PLACE_FOR_COMMENTS: dict[str, dict[str, object]] = {
    "401": {"status": "401 Unauthorized"},
    "500": {"status": "500 Internal Server Error"},
    "206": {"status": "206 Partial Content"},
    "201": {"status": "201 Created"},
    "gzip": {"headers": [EVENT_STREAM, ("Content-Encoding", "gzip")]},
}


@eager_and_lazy
@pytest.mark.parametrize("can_write", [True, False], ids=["with a writer", "without a writer"])
@pytest.mark.parametrize("answer", NO_PLACE_FOR_COMMENTS.values(), ids=NO_PLACE_FOR_COMMENTS)
@both_announced
def test_no_comment_goes_into_anything_but_a_200_that_is_not_encoded(
    request_: dict[str, str], answer: dict[str, object], can_write: bool, is_lazy: bool
) -> None:
    application = script(20.0, b"{}\n", b"", 20.0, b"", b"{}\n", is_lazy=is_lazy, **answer)  # type: ignore[arg-type]
    exchange = Exchange(application, request_, can_write=can_write)
    assert exchange.rest() == exchange.client.received == [b"{}\n", b"", b"", b"{}\n"]


def test_a_head_request_gets_no_byte() -> None:
    exchange = Exchange(script(EVENT), {**EVENT_SOURCE, "REQUEST_METHOD": "HEAD"})
    assert b"".join(exchange.rest()) == exchange.client.body == b""


def test_a_stream_that_was_not_announced_gets_no_comment() -> None:
    assert received(20.0, EVENT, 100.0, b"", EVENT, request=UNANNOUNCED) == [EVENT, b"", EVENT]


@both_announced
def test_an_empty_block_becomes_a_heartbeat_when_one_is_due_and_was_not_written(request_: dict[str, str]) -> None:
    steps: list[Step] = [EVENT]
    for pause in (5.0, 6.0, 1.0, 10.0):
        steps += [pause, b""]
    assert received(*steps, EVENT, request=request_, heartbeat=10, can_write=False)[-6:] == [
        EVENT, b"", HEARTBEAT, b"", HEARTBEAT, EVENT,
    ]  # fmt: skip


def test_an_empty_block_stays_one_inside_a_line() -> None:
    assert received(b"data: 1", 60.0, b"", b"\n\n", request=FETCH, can_write=False) == [b"data: 1", b"", b"\n\n"]


def test_a_heartbeat_may_come_first_and_takes_the_place_of_a_bom() -> None:
    left = received(1.0, BOM[:1], BOM[1:2], 20.0, BOM[2:], EVENT, BOM + EVENT)
    assert left == [HEARTBEAT, b"", b"", b"", EVENT, BOM + EVENT]


def test_bytes_that_begin_like_a_bom_and_are_not_one_are_sent() -> None:
    assert received(1.0, BOM[:2], b"x") == [HEARTBEAT, b"", BOM[:2] + b"x"]
    assert received(1.0, BOM[:2]) == [HEARTBEAT, b"", BOM[:2]]


@given(st.lists(st.tuples(st.floats(0, 30), streams), max_size=8), st.floats(1, 20), st.sampled_from([EVENT_SOURCE, FETCH]))
def test_heartbeats_change_no_event(blocks: list[tuple[float, bytes]], heartbeat: float, request_: dict[str, str]) -> None:
    steps: list[Step] = []
    for pause, block in blocks:
        steps += [pause, block]
    left = received(*steps, request=request_, heartbeat=heartbeat)
    assert list(read_events(left)) == list(read_events(block for _, block in blocks))


@pytest.mark.parametrize(("lease", "reason"), [(None, "client gone"), (5, "lease")], ids=["a heartbeat", "the end"])
def test_a_write_that_breaks_ends_the_stream_with_a_cut(lease: float | None, reason: str) -> None:
    def breaks(exchange: Exchange) -> None:
        exchange.client.breaks = True

    exchange = Exchange(script(EVENT, breaks, 16.0, EVENT, EVENT), EVENT_SOURCE, lease=lease)
    assert exchange.rest() == [EVENT]
    assert exchange.client.received == [EVENT]
    assert "cut" in exchange.client.done
    assert exchange.stream.reason == reason
    assert exchange.failed == []  # which would be logged


# -- layers outside


def compressing(application: WSGIApplication) -> WSGIApplication:
    """Collect all, as a compressing layer does before it has enough."""

    def layer(environ: WSGIEnvironment, start_response: StartResponse) -> Iterator[bytes]:
        yield b"gzip:"
        yield b"".join(application(environ, start_response))

    return layer


def upper_casing(application: WSGIApplication) -> WSGIApplication:
    def layer(environ: WSGIEnvironment, start_response: StartResponse) -> Iterator[bytes]:
        for block in application(environ, start_response):
            yield block.upper()

    return layer


def mapping(application: WSGIApplication) -> WSGIApplication:
    """Upper-case with no frame of Python's own between the server's and ours."""
    return lambda environ, start_response: map(bytes.upper, application(environ, start_response))


def doubling(application: WSGIApplication) -> WSGIApplication:
    """Pass the objects on, and others between them."""

    def layer(environ: WSGIEnvironment, start_response: StartResponse) -> Iterator[bytes]:
        for block in application(environ, start_response):
            yield block
            yield b"data: of the layer's\n\n"

    return layer


CHANGING = {"compressing": compressing, "upper-casing": upper_casing, "map": mapping, "doubling": doubling}


@pytest.mark.parametrize("layer", CHANGING.values(), ids=CHANGING)
@eager_and_lazy
def test_nothing_is_written_past_a_layer_that_changes_the_blocks(
    layer: Callable[[WSGIApplication], WSGIApplication], is_lazy: bool
) -> None:
    events = [b"data: %d\n\n" % number for number in range(3)]
    steps: list[Step] = []
    for event in events:
        steps += [20.0, event]
    exchange = Exchange(script(*steps, 20.0, is_lazy=is_lazy), EVENT_SOURCE, layer=layer)
    exchange.rest()
    assert exchange.client.ours == []
    begins_with_the_opening = exchange.client.body.removeprefix(b"gzip:").startswith(HEARTBEAT)
    assert begins_with_the_opening is not is_lazy  # there is nothing to open before the response has started


def passing_on(application: WSGIApplication) -> WSGIApplication:
    """Hand on the same objects, as Sentry and OpenTelemetry do."""

    def layer(environ: WSGIEnvironment, start_response: StartResponse) -> Iterator[bytes]:
        yield from application(environ, start_response)

    return layer


class Wrapper:
    """Hands on the same objects, as `werkzeug.wsgi.ClosingIterator` does."""

    def __init__(self, iterable: Iterable[bytes]) -> None:
        self._iterator = iter(iterable)

    def __iter__(self) -> Iterator[bytes]:
        return self

    def __next__(self) -> bytes:
        return next(self._iterator)


def wrapping(application: WSGIApplication) -> WSGIApplication:
    return lambda environ, start_response: Wrapper(application(environ, start_response))


@pytest.mark.parametrize("layer", [passing_on, wrapping])
def test_under_a_layer_that_passes_blocks_on_the_opening_is_yielded_and_heartbeats_are_written(
    layer: Callable[[WSGIApplication], WSGIApplication],
) -> None:
    exchange = Exchange(script(1.0, EVENT, 16.0, EVENT, EVENT, 31.0, EVENT), EVENT_SOURCE, layer=layer)
    exchange.rest()
    assert exchange.client.received == [HEARTBEAT, EVENT, HEARTBEAT, EVENT, EVENT, HEARTBEAT, HEARTBEAT, EVENT]
    assert exchange.client.ours == [HEARTBEAT] * 3


def dropping_empty_blocks(application: WSGIApplication) -> WSGIApplication:
    def layer(environ: WSGIEnvironment, start_response: StartResponse) -> Iterator[bytes]:
        yield from filter(None, application(environ, start_response))

    return layer


@pytest.mark.parametrize(
    ("layer", "before", "steps"),
    [(passing_on, 5.0, [2.0]), (dropping_empty_blocks, 0.1, [EVENT, 9.0, b"", 5.0])],
    ids=["before the first block of a late response", "after an empty block that the layer drops"],
)
def test_heartbeats_go_on_after_a_silence_in_which_nothing_could_be_written(
    layer: Callable[[WSGIApplication], WSGIApplication], before: float, steps: list[Step]
) -> None:
    def look(exchange: Exchange) -> None:
        last.append(exchange.client.received[-1])

    def late(environ: WSGIEnvironment, start_response: StartResponse) -> Iterator[bytes]:
        exchange_of(environ).tick(before)
        yield from script(*steps, EVENT, 4.5, look, EVENT, is_lazy=True)(environ, start_response)

    last: list[bytes] = []
    Exchange(late, FETCH, layer=layer, heartbeat=4.0).rest()
    assert last == [HEARTBEAT]


def test_the_proof_holds_for_one_block_only() -> None:
    upper: list[bool] = []

    def sometimes(application: WSGIApplication) -> WSGIApplication:
        def layer(environ: WSGIEnvironment, start_response: StartResponse) -> Iterator[bytes]:
            for block in application(environ, start_response):
                yield block.upper() if upper else block

        return layer

    steps: list[Step] = [EVENT, 16.0, lambda exchange: upper.append(True), EVENT, 16.0, EVENT, 16.0]
    exchange = Exchange(script(*steps), EVENT_SOURCE, layer=sometimes)
    exchange.rest()
    assert exchange.client.ours == [HEARTBEAT]


def encoding_outside(application: WSGIApplication) -> WSGIApplication:
    """Say that the body is encoded, and pass the blocks on."""

    def layer(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        return application(
            environ, lambda status, headers, *rest: start_response(status, [*headers, ("Content-Encoding", "br")], *rest)
        )

    return layer


def test_nothing_is_written_into_a_body_that_is_encoded_outside() -> None:
    exchange = Exchange(script(EVENT, 60.0, EVENT), EVENT_SOURCE, layer=encoding_outside)
    exchange.rest()
    assert exchange.client.ours == []


# -- drain


def stops(exchange: Exchange) -> None:
    exchange.sign.stops = True


def is_drained(exchange: Exchange) -> None:
    exchange.is_drained = True


both_ways = pytest.mark.parametrize("stop", [stops, is_drained], ids=["the server's sign", "drain()"])


def is_retry(block: bytes) -> bool:
    name, _, value = block.partition(b": ")
    return name == b"retry" and value.endswith(b"\n\n") and 750 <= int(value) <= 1500


@both_ways
def test_a_drain_ends_an_event_source_after_its_event_and_says_when_to_reconnect(stop: Callable[[Exchange], None]) -> None:
    seen: list[tuple[bool, bool]] = []

    def look(exchange: Exchange) -> None:
        seen.append((exchange.stream.closing.is_set(), exchange.stream.closed.is_set()))

    exchange = Exchange(
        script(EVENT, look, stop, 0.25, look, b"data: 2\n", 0.05, b"\n", EVENT, EVENT), EVENT_SOURCE, retry=1000
    )
    *blocks, last = exchange.rest()
    assert blocks == [EVENT, b"data: 2\n", b"\n"]
    assert is_retry(last)
    assert seen == [(False, False), (True, True)]
    assert exchange.stream.reason == "drain"
    assert "cut" not in exchange.client.done
    assert "close" not in exchange.client.done


@pytest.mark.parametrize(("closes_by_itself", "done"), [(False, ["shutdown 0", "restore"]), (True, ["restore"])])
def test_the_read_side_is_shut_after_a_clean_end_on_a_drain_unless_the_server_reads_it(
    closes_by_itself: bool, done: list[str]
) -> None:
    exchange = Exchange(script(EVENT, stops, 0.25, EVENT, EVENT), EVENT_SOURCE, closes_by_itself=closes_by_itself)
    exchange.rest()
    assert exchange.client.done == done


def test_without_retry_the_end_of_a_drained_stream_is_only_the_end() -> None:
    assert Exchange(script(EVENT, stops, 0.25, EVENT, EVENT), EVENT_SOURCE, retry=None).rest() == [EVENT, EVENT]


def test_what_the_application_yields_at_once_is_still_sent_when_it_is_asked_to_stop() -> None:
    goodbye = b"event: bye\ndata: 1\n\n"

    def says_goodbye(environ: WSGIEnvironment, start_response: StartResponse) -> Iterator[bytes]:
        start_response("200 OK", [EVENT_STREAM])
        yield b"data: "
        stops(exchange)
        exchange.tick(0.25)
        yield b"1\n\n" + goodbye
        raise AssertionError("asked again after the end of its event")

    exchange = Exchange(says_goodbye, EVENT_SOURCE, retry=None)
    assert b"".join(exchange.rest()) == EVENT + goodbye


def test_a_drain_cuts_what_comes_late_after_the_event_that_was_unfinished() -> None:
    steps: list[Step] = [b"data: 1\n", stops, 0.25, b"id: 1\n", 0.25, b"id: 2\n", b"\ndata: 2\n\ndata: 3\n\n", EVENT]
    exchange = Exchange(script(*steps), EVENT_SOURCE, retry=None)
    assert exchange.rest() == [b"data: 1\n", b"id: 1\n", b"id: 2\n", b"\n"]
    assert exchange.stream.reason == "drain"


@pytest.mark.parametrize("half", [b"data: 1", b"data: 1\n", b"data: 1\r", b"data: \xe2\x82"], ids=repr)
def test_an_event_that_does_not_end_in_time_is_cut(half: bytes) -> None:
    steps: list[Step] = [half, stops, 0.25]
    for _ in range(100):
        steps += [0.05, b"x"]
    exchange = Exchange(script(*steps), EVENT_SOURCE)
    began = exchange.clock.now
    with pytest.raises(StreamBroken):
        exchange.rest()
    assert exchange.clock.now - began < 0.75
    assert not any(is_retry(block) for block in exchange.client.received[1:] if block.startswith(b"retry"))
    assert exchange.stream.reason == "drain"


def test_a_cut_where_an_end_looks_the_same_closes_the_connection_with_a_reset() -> None:
    exchange = Exchange(script(b"data: 1", stops, 0.25, *every(0.05, b"x", times=20), is_lazy=True), EVENT_SOURCE)
    exchange.client.is_delimited = False
    with pytest.raises(StreamBroken):
        exchange.rest()
    assert "close" in exchange.client.done


def test_a_drain_ends_a_stream_whose_application_stays_silent_from_outside() -> None:
    exchange = Exchange(script(EVENT, stops, 0.25, 0.2, 30.0, EVENT, EVENT), EVENT_SOURCE, retry=1000)
    assert exchange.rest() == [EVENT]
    (last,) = exchange.client.ends
    assert is_retry(last)
    assert exchange.client.received == [EVENT, last]
    assert exchange.stream.reason == "drain"
    assert exchange.client.done == ["shutdown 0", "restore"]


def test_a_silent_stream_that_cannot_be_ended_from_outside_is_cut() -> None:
    exchange = Exchange(script(EVENT, stops, 0.5, 30.0, EVENT), EVENT_SOURCE)
    exchange.client.can_be_ended = False
    assert exchange.rest() == exchange.client.received == [EVENT]
    assert "cut" in exchange.client.done


@pytest.mark.parametrize("half", [b"data: 1", b"data: 1\n", b"data: 1\r"], ids=repr)
def test_a_silent_stream_inside_an_event_is_cut_without_an_end(half: bytes) -> None:
    exchange = Exchange(script(half, stops, 0.25, 30.0, b"\n\n"), EVENT_SOURCE)
    assert exchange.rest() == exchange.client.received == [half]
    assert exchange.client.ends == []
    assert "cut" in exchange.client.done


@pytest.mark.parametrize("request_", [EVENT_SOURCE, FETCH], ids=["EventSource", "fetch"])
def test_without_a_connection_a_stream_that_must_end_inside_an_event_is_never_ended_cleanly(request_: dict[str, str]) -> None:
    def has_no_grace(exchange: Exchange) -> None:
        exchange.sign.grace = 0.0

    steps: list[Step] = [b"data: 1\n", has_no_grace, stops, 5.0, b"data: 2\n", b"\n", EVENT]
    exchange = Exchange(script(*steps), request_, has_connection=False)
    with pytest.raises(StreamBroken):
        exchange.rest()


def test_an_application_that_ends_by_itself_while_the_process_stops_counts_as_drained() -> None:
    exchange = Exchange(script(b"data: 1", stops, 0.25), EVENT_SOURCE)
    assert exchange.rest() == [b"data: 1"]
    assert exchange.stream.reason == "drain"


def test_a_body_that_is_encoded_is_cut_since_its_events_cannot_be_seen() -> None:
    application = script(
        EVENT, stops, 0.25, 0.2, *every(0.05, EVENT, times=20), headers=[EVENT_STREAM, ("Content-Encoding", "gzip")]
    )
    exchange = Exchange(application, EVENT_SOURCE)
    with pytest.raises(StreamBroken):
        exchange.rest()
    assert exchange.client.ends == []


@pytest.mark.parametrize("request_", [FETCH, MCP, UNANNOUNCED], ids=["fetch", "MCP", "unannounced"])
@both_ways
def test_a_drain_lets_the_answer_to_any_other_client_run_to_its_end(
    stop: Callable[[Exchange], None], request_: dict[str, str]
) -> None:
    seen: list[tuple[bool, bool]] = []

    def look(exchange: Exchange) -> None:
        seen.append((exchange.stream.closing.is_set(), exchange.stream.closed.is_set()))

    events = [b"data: %d\n\n" % number for number in range(10)]
    steps: list[Step] = [events[0], stop, 0.25, look]
    for event in events[1:]:
        steps += [event, 1.0]
    exchange = Exchange(script(*steps, look), request_)
    assert exchange.rest() == exchange.client.received == events
    assert seen == [(True, False), (True, False)]
    assert exchange.stream.reason == "application ended"


@pytest.mark.parametrize("request_", [FETCH, UNANNOUNCED], ids=["fetch", "unannounced"])
@pytest.mark.parametrize("is_silent", [True, False], ids=["silent", "speaking"])
def test_once_the_grace_is_over_the_answer_to_any_other_client_is_cut(request_: dict[str, str], is_silent: bool) -> None:
    def has_grace(exchange: Exchange) -> None:
        exchange.sign.grace = 5.0

    steps: list[Step] = [EVENT, has_grace, stops, 4.75, EVENT]
    steps += [100.0] if is_silent else every(0.05, EVENT, times=2000)
    exchange = Exchange(script(*steps), request_)
    began = exchange.clock.now
    if is_silent:
        assert exchange.rest() == [EVENT] * 2
        assert {"cut", "reset on close"} & {*exchange.client.done}
    else:
        with pytest.raises(StreamBroken):
            exchange.rest()
        assert exchange.clock.now - began < 6
    assert not any(block.startswith(b"retry") for block in exchange.client.received)
    assert exchange.client.ends == []
    assert exchange.stream.reason == "drain"


def test_a_cut_from_outside_of_a_response_without_an_end_waits_for_the_close() -> None:
    def has_no_grace(exchange: Exchange) -> None:
        exchange.sign.grace = 0.0

    exchange = Exchange(script(EVENT, has_no_grace, stops, 10.0, is_lazy=True), FETCH)
    exchange.client.is_delimited = False
    exchange.rest()
    assert "reset on close" in exchange.client.done
    assert "cut" not in exchange.client.done


def test_nothing_is_written_after_an_end_from_outside() -> None:
    exchange = Exchange(script(EVENT, stops, 100.0, EVENT), EVENT_SOURCE)
    exchange.rest()
    exchange.tick(100)
    assert exchange.client.received == [EVENT, *exchange.client.ends]


def test_a_write_of_an_application_after_an_end_from_outside_raises() -> None:
    raised: list[BaseException] = []

    def application(environ: WSGIEnvironment, start_response: StartResponse) -> Iterator[bytes]:
        write = start_response("200 OK", [EVENT_STREAM])
        yield EVENT
        stops(exchange)
        exchange.tick(1.0)
        try:
            write(EVENT)
        except ConnectionError as error:
            raised.append(error)

    exchange = Exchange(application, EVENT_SOURCE)
    exchange.rest()
    assert len(raised) == 1
    assert exchange.client.received == [EVENT, *exchange.client.ends]


# -- a client that disconnects


def disconnects(exchange: Exchange) -> None:
    exchange.client.state = "gone"


def half_closes(exchange: Exchange) -> None:
    exchange.client.state = "half closed"


@pytest.mark.parametrize("act", [disconnects, half_closes])
def test_an_event_source_that_disconnects_ends_its_stream(act: Callable[[Exchange], None]) -> None:
    seen: list[bool] = []
    exchange = Exchange(
        script(EVENT, act, 0.25, lambda exchange: seen.append(exchange.stream.closed.is_set()), EVENT, EVENT), EVENT_SOURCE
    )
    assert exchange.rest() == exchange.client.received == [EVENT]
    assert seen == [True]
    assert exchange.stream.reason == "client gone"


@pytest.mark.parametrize("request_", [FETCH, MCP, UNANNOUNCED], ids=["fetch", "MCP", "unannounced"])
def test_any_other_client_may_half_close_and_still_reads(request_: dict[str, str]) -> None:
    seen: list[bool] = []
    exchange = Exchange(
        script(EVENT, half_closes, 0.25, lambda exchange: seen.append(exchange.stream.closed.is_set()), EVENT, EVENT), request_
    )
    assert exchange.rest() == [EVENT] * 3
    assert seen == [True]
    assert exchange.stream.reason == "client gone"


@pytest.mark.parametrize("request_", [FETCH, MCP, UNANNOUNCED], ids=["fetch", "MCP", "unannounced"])
def test_any_client_whose_connection_is_gone_ends_its_stream(request_: dict[str, str]) -> None:
    exchange = Exchange(script(EVENT, half_closes, 0.25, EVENT, disconnects, 0.25, EVENT), request_)
    assert exchange.rest() == [EVENT] * 2


def test_nothing_is_written_to_a_client_that_has_disconnected() -> None:
    assert received(EVENT, disconnects, 100.0, request=EVENT_SOURCE) == [EVENT]


def test_callbacks_run_once_and_on_the_callbacks_thread_when_a_client_disconnects() -> None:
    called: list[str] = []
    exchange = Exchange(
        script(lambda exchange: exchange.stream.on_close(lambda: called.append("x")), EVENT, disconnects, 1.0, EVENT),
        EVENT_SOURCE,
    )
    exchange.rest()
    assert called == []  # given to that thread
    for callback in exchange.callbacks:
        callback()
    assert called == ["x"]


def test_callbacks_run_once_and_on_the_servers_thread_at_a_normal_end() -> None:
    called: list[str] = []
    exchange = Exchange(script(lambda exchange: exchange.stream.on_close(lambda: called.append("x")), EVENT), EVENT_SOURCE)
    exchange.rest()
    exchange.tick(10)
    assert called == ["x"]
    assert exchange.callbacks == []


def test_where_the_server_closes_by_itself_its_connection_is_asked_at_each_tick() -> None:
    exchange = Exchange(script(EVENT, disconnects, 0.5, EVENT), EVENT_SOURCE, closes_by_itself=True)
    assert exchange.rest() == [EVENT]


def test_without_a_connection_a_disconnect_shows_when_the_server_closes() -> None:
    exchange = Exchange(script(EVENT, 1.0, EVENT), EVENT_SOURCE, has_connection=False)
    exchange.next()
    exchange.close()
    assert exchange.stream.reason == "client gone"


def test_the_connection_is_left_as_it_was() -> None:
    exchange = Exchange(script(EVENT), EVENT_SOURCE)
    exchange.rest()
    assert exchange.client.done == ["restore"]


# -- the send deadline


def reads_nothing(exchange: Exchange) -> None:
    exchange.client.progress = Progress(5000, 100)


def test_a_client_that_reads_nothing_while_the_server_writes_is_cut_at_the_deadline() -> None:
    exchange = Exchange(script(EVENT, EVENT), EVENT_SOURCE, send_deadline=10)
    reads_nothing(exchange)
    exchange.next()
    exchange.tick(9)
    assert "cut" not in exchange.client.done
    exchange.tick(3)
    assert exchange.client.done.count("cut") == 1
    assert exchange.stream.reason == "send deadline"
    exchange.close()
    assert exchange.stream.reason == "send deadline"


def test_a_client_that_reads_a_little_now_and_then_is_not_disconnected() -> None:
    exchange = Exchange(script(EVENT), EVENT_SOURCE, send_deadline=10)
    exchange.next()
    for number in range(20):
        exchange.client.progress = Progress(5000, number)  # queued: always the same
        exchange.tick(5)
    assert "cut" not in exchange.client.done


def test_on_a_unix_socket_a_heartbeat_in_the_queue_is_no_client_that_reads_nothing() -> None:
    exchange = Exchange(script(EVENT), EVENT_SOURCE, send_deadline=10)
    exchange.next()
    exchange.client.progress = Progress(768, None, is_writable=True)
    for _ in range(20):
        exchange.tick(5)
    assert "cut" not in exchange.client.done


def test_on_a_unix_socket_the_queue_shows_whether_the_client_reads() -> None:
    exchange = Exchange(script(EVENT), EVENT_SOURCE, send_deadline=10)
    exchange.next()
    for number in range(20):
        exchange.client.progress = Progress(5000 - number, None)
        exchange.tick(5)
    assert "cut" not in exchange.client.done
    exchange.tick(20)
    assert "cut" in exchange.client.done


ENDS: dict[str, Callable[[Exchange], object]] = {
    "lease": lambda exchange: exchange.tick(5.6),
    "revoked": lambda exchange: exchange.stream.end("revoked"),
    "drain": stops,
}


@pytest.mark.parametrize("why", ENDS)
def test_the_deadline_holds_for_a_stream_that_has_to_end_too(why: str) -> None:
    exchange = Exchange(script(EVENT, EVENT), EVENT_SOURCE, send_deadline=10, lease=5)
    reads_nothing(exchange)
    exchange.next()
    ENDS[why](exchange)
    exchange.tick(1)
    assert exchange.stream.reason == why
    assert "cut" not in exchange.client.done
    exchange.tick(13)
    assert exchange.client.done.count("cut") == 1
    assert exchange.stream.reason == why


@pytest.mark.parametrize("pause", [0.1, 0.6, 4.0])
def test_a_client_that_has_vanished_is_cut_at_the_deadline_although_small_events_leave(pause: float) -> None:
    exchange = Exchange(script(EVENT, reads_nothing, *every(pause, EVENT, times=200)), EVENT_SOURCE, send_deadline=10)
    began = exchange.clock()
    exchange.rest()
    assert 10 <= exchange.clock() - began < 10 + 10 / 4 + pause + 0.5
    assert exchange.client.done.count("cut") == 1
    assert exchange.stream.reason == "send deadline"


def test_on_a_unix_socket_a_full_queue_is_no_client_that_has_vanished_while_events_leave() -> None:
    exchange = Exchange(script(*every(0.6, EVENT, times=100)), EVENT_SOURCE, send_deadline=10)
    exchange.client.progress = Progress(5000, None)
    exchange.rest()
    assert "cut" not in exchange.client.done


def test_a_client_that_reads_small_events_is_not_disconnected() -> None:
    acknowledged = itertools.count()

    def reads(exchange: Exchange) -> None:
        exchange.client.progress = Progress(5000, next(acknowledged))

    exchange = Exchange(script(*every(0.6, EVENT, reads, times=100)), EVENT_SOURCE, send_deadline=10)
    exchange.rest()
    assert "cut" not in exchange.client.done


@pytest.mark.parametrize("progress", [None, Progress(0, 100)], ids=["not known", "nothing waits"])
def test_a_client_for_which_nothing_waits_may_be_slow(progress: Progress | None) -> None:
    exchange = Exchange(script(EVENT), EVENT_SOURCE, send_deadline=10)
    exchange.client.progress = progress
    exchange.next()
    exchange.tick(100)
    assert "cut" not in exchange.client.done


def test_without_a_deadline_a_client_may_take_any_time() -> None:
    exchange = Exchange(script(EVENT), EVENT_SOURCE, send_deadline=None)
    reads_nothing(exchange)
    exchange.next()
    exchange.tick(1000)
    assert "cut" not in exchange.client.done


# -- an application that stays


def test_an_application_that_keeps_its_thread_after_a_disconnect_gets_a_stand_in_until_it_returns() -> None:
    lent: list[int] = []

    def look(exchange: Exchange) -> None:
        lent.append(exchange.pool.lent - exchange.pool.taken_back)

    exchange = Exchange(
        script(EVENT, disconnects, 0.75, look, 1.0, look, 10.0, look), {**EVENT_SOURCE, "PATH_INFO": "/queue\n"}
    )
    exchange.rest()
    look(exchange)
    assert lent == [0, 1, 1, 0]
    assert exchange.kept == ["/queue\n"]
    assert exchange.pool.lent == 1


def test_an_application_that_yields_in_time_needs_no_stand_in() -> None:
    exchange = Exchange(script(EVENT, half_closes, *every(0.75, EVENT, times=5)), FETCH)
    exchange.rest()
    assert exchange.pool.lent == 0
    assert exchange.kept == []


def test_no_stand_in_is_lent_by_a_process_that_stops() -> None:
    exchange = Exchange(script(EVENT, stops, 0.25, 10.0), EVENT_SOURCE)
    exchange.rest()
    assert exchange.pool.lent == 0
    assert exchange.kept == []


def test_the_worker_is_reported_alive_as_long_as_the_client_is_connected() -> None:
    reported: list[int] = []

    def look(exchange: Exchange) -> None:
        reported.append(exchange.sign.reports)

    exchange = Exchange(script(EVENT, 10.0, look, disconnects, 1.0, look, 10.0, look), EVENT_SOURCE)
    exchange.sign.needs_reports = True
    exchange.rest()
    assert reported[0] >= 40
    assert reported[1] == reported[2]


# -- memory


LARGE = b"data: " + b"x" * 200_000 + b"\n\n"


@pytest.fixture
def full_memory() -> Iterator[MemoryGovernor]:
    """Full memory, while another stream sends a large block."""
    governor = MemoryGovernor(read=lambda: (250, 256))
    turn = governor.turns.send(Turn(), 0)
    yield governor
    assert turn is not None  # it is kept until here


def test_a_stream_waits_for_its_turn_and_each_wait_is_limited(full_memory: MemoryGovernor) -> None:
    exchange = Exchange(script(LARGE, EVENT), FETCH, memory=full_memory)
    began = exchange.clock.now
    assert b"".join(exchange.rest()) == LARGE + EVENT
    assert 30 <= exchange.clock.now - began < 31


@pytest.mark.parametrize("way", [disconnects, stops])
def test_a_stream_that_waits_for_memory_sees_that_it_must_end(
    way: Callable[[Exchange], None], full_memory: MemoryGovernor
) -> None:
    exchange = Exchange(script(LARGE, EVENT), EVENT_SOURCE, memory=full_memory)
    exchange.next()
    way(exchange)
    exchange.rest()
    assert EVENT not in exchange.client.received
    assert exchange.stream.reason == ("client gone" if way is disconnects else "drain")


# -- errors


@pytest.mark.parametrize("way", [disconnects, stops])
def test_an_exception_of_an_application_that_was_asked_to_end_is_its_end(
    way: Callable[[Exchange], None], caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.DEBUG, "ssemiddleware"):
        exchange = Exchange(script(EVENT, way, 0.25, ValueError("pubsub is closed"), is_lazy=True), EVENT_SOURCE)
        blocks = exchange.rest()
    assert blocks[0] == EVENT
    assert exchange.client.received == blocks
    if way is stops:
        assert blocks[-1].startswith(b"retry: ")
    assert exchange.stream.reason == ("client gone" if way is disconnects else "drain")
    (record,) = [record for record in caplog.records if record.exc_info]
    assert record.levelno == logging.DEBUG


@pytest.mark.parametrize("error", [ValueError("pubsub is closed"), SystemExit()], ids=repr)
def test_what_an_application_raises_inside_an_event_or_to_end_the_process_is_raised(error: BaseException) -> None:
    half = b"data: 1\n" if isinstance(error, Exception) else EVENT
    exchange = Exchange(script(half, stops, 0.25, error), EVENT_SOURCE)
    with pytest.raises(type(error)):
        exchange.rest()


def test_closing_calls_the_applications_close_whatever_ours_raises(caplog: pytest.LogCaptureFixture) -> None:
    closed: list[str] = []

    class Application:
        def __iter__(self) -> Iterator[bytes]:
            return iter([EVENT] * 9)

        def close(self) -> None:
            closed.append("x")

    def application(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        start_response("200 OK", [EVENT_STREAM])
        return Application()

    exchange = Exchange(application, EVENT_SOURCE)
    exchange.next()
    assert exchange.connection is not None
    exchange.client.done = None  # type: ignore[assignment]  # so that each of the connection's methods raises
    with pytest.raises(AttributeError):
        exchange.close()
    assert closed == ["x"]
    assert exchange.middleware.stats().open == 0


def test_errors_of_callbacks_are_logged_and_stop_no_other(caplog: pytest.LogCaptureFixture) -> None:
    called: list[str] = []

    def raises() -> None:
        raise LookupError("no such channel")

    def registers(exchange: Exchange) -> None:
        exchange.stream.on_close(raises)
        exchange.stream.on_close(lambda: called.append("x"))

    with caplog.at_level(logging.ERROR, "ssemiddleware"):
        Exchange(script(registers, EVENT), EVENT_SOURCE).rest()
    assert called == ["x"]
    (record,) = caplog.records
    assert record.getMessage() == "an on_close callback raised"
    assert record.exc_info is not None
    assert str(record.exc_info[1]) == "no such channel"


def test_the_kernel_holds_little_of_a_long_stream_and_as_much_as_before_of_a_short_one() -> None:
    large = Exchange(script(EVENT, b"data: " + b"x" * 65536 + b"\n\n", EVENT), EVENT_SOURCE)
    large.rest()
    assert large.client.done == ["hold little", "restore"]
    many = Exchange(script(*[EVENT] * 20_000), EVENT_SOURCE)
    many.rest()
    assert many.client.done == ["hold little", "restore"]
    short = Exchange(script(EVENT, EVENT), EVENT_SOURCE)
    short.rest()
    assert short.client.done == ["restore"]


def test_the_kernel_holds_more_for_a_client_as_long_as_it_reads_fast() -> None:
    block = b"data: " + b"x" * 32768 + b"\n\n"
    fast, slow = [block] * 100, every(0.01, block, times=100)  # 3 MB at once, and in a second
    exchange = Exchange(script(*fast, *slow), EVENT_SOURCE)
    exchange.rest()
    assert list(dict.fromkeys(exchange.client.done)) == ["hold little", "hold more", "restore"]
    *_, last, restored = exchange.client.done
    assert (last, restored) == ("hold little", "restore")


# -- Stream.end() and a lease


def revoke(exchange: Exchange) -> None:
    exchange.stream.end("session revoked")


def test_an_event_source_whose_stream_the_application_ends_gets_a_time_to_reconnect() -> None:
    exchange = Exchange(script(EVENT, revoke, 0.3, EVENT, 1.0, EVENT), EVENT_SOURCE, retry=1000)
    exchange.rest()
    *events, last = exchange.client.received
    assert events in ([EVENT], [EVENT, EVENT])
    assert is_retry(last)
    assert exchange.stream.reason == "session revoked"
    assert dict(exchange.middleware.stats().ended) == {"session revoked": 1}
    assert exchange.client.done.count("cut") == 0


def test_the_event_under_way_is_finished_before_the_application_s_end() -> None:
    exchange = Exchange(script(b"data: a", revoke, 1.0, b"b\n\n", 1.0, EVENT), EVENT_SOURCE, retry=1000)
    exchange.rest()
    *events, last = exchange.client.received
    assert b"".join(events) == b"data: ab\n\n"
    assert is_retry(last)


def test_a_stream_whose_application_stays_silent_is_ended_from_outside() -> None:
    exchange = Exchange(script(EVENT, revoke, 5.0, EVENT), EVENT_SOURCE, retry=1000)
    exchange.rest()
    assert exchange.client.received[0] == EVENT
    assert [is_retry(last) for last in exchange.client.ends] == [True]
    assert exchange.stream.reason == "session revoked"


def test_an_event_source_s_application_may_end_its_stream_and_return_at_once() -> None:
    exchange = Exchange(script(EVENT, revoke), EVENT_SOURCE, retry=1000)
    exchange.rest()
    assert exchange.client.received[0] == EVENT
    assert is_retry(exchange.client.received[-1])
    assert exchange.stream.reason == "session revoked"


@pytest.mark.parametrize(
    "steps",
    [(EVENT, revoke, 1.0, EVENT), (b"data: a", revoke, 1.0, b"b\n\n"), (EVENT, revoke)],
    ids=["after an event", "inside one", "and the application returns"],
)
@pytest.mark.parametrize("request_", [FETCH, UNANNOUNCED], ids=["fetch", "unannounced"])
def test_the_answer_to_any_other_client_is_cut_also_after_an_event(steps: tuple[Step, ...], request_: dict[str, str]) -> None:
    exchange = Exchange(script(*steps), request_, retry=1000)
    is_cut = False
    try:
        exchange.rest()
    except StreamBroken:
        is_cut = True
    assert is_cut or "cut" in exchange.client.done
    assert exchange.client.ends == []
    assert b"retry" not in exchange.client.body
    assert exchange.stream.reason == "session revoked"


def lengths_of(times: int, **options: object) -> list[float]:
    """Return after how many seconds as many streams of a ticking application have ended, of 300 at most."""
    lengths = []
    for _ in range(times):
        exchange = Exchange(script(*every(0.5, EVENT, times=600)), EVENT_SOURCE, **options)  # type: ignore[arg-type]
        began = exchange.clock.now
        exchange.rest()
        assert exchange.stream.reason == ("lease" if "lease" in options else "application ended")
        assert not options or is_retry(exchange.client.received[-1])
        lengths.append(exchange.clock.now - began)
    return lengths


def test_a_lease_ends_an_event_source_s_stream_after_its_seconds_and_not_all_at_once() -> None:
    lengths = lengths_of(8, lease=100, retry=1000)
    assert 89 < min(lengths) < max(lengths) < 112
    assert len(set(lengths)) > 4


def test_without_a_lease_a_stream_goes_on() -> None:
    assert lengths_of(1) == [pytest.approx(300)]


def test_a_lease_ends_a_silent_stream_too() -> None:
    exchange = Exchange(script(EVENT, 200.0, EVENT), EVENT_SOURCE, lease=100, retry=1000, heartbeat=None)
    exchange.rest()
    assert [is_retry(last) for last in exchange.client.ends] == [True]


@pytest.mark.parametrize("request_", [FETCH, MCP, UNANNOUNCED], ids=["fetch", "MCP", "unannounced"])
def test_a_lease_is_for_an_event_source_only(request_: dict[str, str]) -> None:
    exchange = Exchange(script(*every(1.0, EVENT, times=30)), request_, lease=10)
    exchange.rest()
    assert exchange.client.body.replace(HEARTBEAT, b"") == EVENT * 30
    assert exchange.stream.reason == "application ended"


def test_a_response_that_has_not_begun_when_its_lease_is_over_ends_as_soon_as_it_has() -> None:
    exchange = Exchange(script(20.0, EVENT, EVENT, is_lazy=True), EVENT_SOURCE, lease=10, retry=1000)
    exchange.rest()
    assert exchange.stream.reason == "lease"


# -- where a stream delays the other requests of its connection


def test_a_stream_that_delays_others_has_a_short_lease() -> None:
    exchange = Exchange(script(*every(0.5, EVENT, times=60)), EVENT_SOURCE, delays_others=True, can_write=False, retry=1000)
    began = exchange.clock.now
    exchange.rest()
    assert 8.5 < exchange.clock.now - began < 12
    assert exchange.stream.reason == "lease"
    assert is_retry(exchange.client.received[-1])


def test_its_connection_is_not_cut_while_its_application_is_silent() -> None:
    exchange = Exchange(script(EVENT, 60.0, EVENT, EVENT), EVENT_SOURCE, delays_others=True, can_write=False, retry=1000)
    exchange.rest()
    assert exchange.client.body.startswith(HEARTBEAT + EVENT)
    assert is_retry(exchange.client.received[-1])
    assert not {"cut", "close", "reset on close"} & set(exchange.client.done)


def test_a_shorter_lease_stays() -> None:
    exchange = Exchange(script(*every(0.5, EVENT, times=60)), EVENT_SOURCE, delays_others=True, lease=5)
    began = exchange.clock.now
    exchange.rest()
    assert 4 < exchange.clock.now - began < 6.5


def test_the_answer_to_any_other_client_may_delay_others_until_its_end() -> None:
    exchange = Exchange(script(*every(0.5, EVENT, times=60)), FETCH, delays_others=True, can_write=False)
    exchange.rest()
    assert exchange.stream.reason == "application ended"


# -- an application that raises in mid-answer


@pytest.mark.parametrize(("is_delimited", "done"), [(True, []), (False, ["close"])], ids=["chunks", "no chunks"])
def test_where_the_end_of_the_connection_is_the_answer_s_an_error_resets_it(is_delimited: bool, done: list[str]) -> None:
    exchange = Exchange(script(EVENT, RuntimeError("in mid-answer")), UNANNOUNCED)
    exchange.service.is_delimited = is_delimited  # type: ignore[union-attr]  # the response has been started
    with pytest.raises(RuntimeError, match="in mid-answer"):
        exchange.rest()
    assert [each for each in exchange.client.done if each in ("close", "cut")] == done


def test_an_error_before_the_first_block_resets_nothing_since_the_server_answers() -> None:
    exchange = Exchange(script(RuntimeError("at once")), UNANNOUNCED)
    exchange.service.is_delimited = False  # type: ignore[union-attr]  # the response has been started
    with pytest.raises(RuntimeError, match="at once"):
        exchange.rest()
    assert "close" not in exchange.client.done
