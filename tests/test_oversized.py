"""Oversized events on their way through the middleware; and the line in the log about those left as they are."""

from __future__ import annotations

import json
import logging
import threading
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

import pytest

from ssemiddleware import Event, Fold, Fragment, SSEMiddleware, read_events
from ssemiddleware.event_stream import HEARTBEAT
from ssemiddleware.oversized import LONG_LINE
from ssemiddleware.oversized.steps import OversizedSteps
from ssemiddleware.request import Request, accepts_event_stream
from ssemiddleware.servers.server import Server

from .applications import (
    ANNOUNCED,
    DEADLINE,
    EVENT_SOURCE,
    EVENT_STREAM,
    Blocks,
    Response,
    application_of,
    environ_of,
    respond,
    respond_unchecked,
)

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIEnvironment

ASKS = {"QUERY_STRING": "sse-fragments=1"}
both_paths = pytest.mark.parametrize("request_", [{}, ANNOUNCED], ids=["unannounced", "announced"])

VALUE = [{"id": number, "text": 'some, "text" with {brackets}'} for number in range(40)]
LARGE = Event(json=VALUE, id="1")
FOLDS = Fold(over=100, width=100)
FRAGMENTS = Fragment(over=100, size=100)


def longest_line(body: bytes) -> int:
    return max(map(len, body.splitlines()))


# -- Through the middleware


@both_paths
@pytest.mark.parametrize("size", [1, 10, 1000, 100_000])
def test_a_large_event_is_folded(size: int, request_: dict[str, str]) -> None:
    stream = b"data: 1\n\n" + bytes(LARGE) + b"data: 2\n\n"
    blocks = [stream[start : start + size] for start in range(0, len(stream), size)]
    body = respond(application_of(blocks), request_, oversized=FOLDS).body()
    first, large, last = read_events([body])
    assert (first.data, large.id, last.data) == ("1", "1", "2")
    assert json.loads(large.data) == VALUE
    assert longest_line(body) <= 100


@both_paths
@pytest.mark.parametrize("size", [1, 10, 1000, 100_000])
def test_a_large_event_is_sent_in_fragments_if_the_client_asks_for_them(size: int, request_: dict[str, str]) -> None:
    stream = b"data: 1\n\n" + bytes(LARGE) + b"data: 2\n\n"
    blocks = [stream[start : start + size] for start in range(0, len(stream), size)]
    body = respond(application_of(blocks), request_ | ASKS, oversized=FRAGMENTS).body()
    events = list(read_events([body]))
    assert [event.event for event in events] == [None, *["fragment"] * (len(events) - 2), None]
    assert [event.id for event in events] == [None] * (len(events) - 2) + ["1", "1"]
    assert list(read_events([body], join_fragments=True)) == [Event("1"), LARGE, Event("2", id="1")]


@both_paths
def test_the_whole_length_is_named_at_once_if_the_event_is_one_block(request_: dict[str, str]) -> None:
    body = respond(application_of([bytes(LARGE)]), request_ | ASKS, oversized=FRAGMENTS).body()
    lengths = {event.data.partition("\n")[0].partition("/")[2] for event in read_events([body])}
    assert lengths == {str(len(LARGE.data))}


@both_paths
def test_a_client_that_does_not_ask_gets_no_fragments(request_: dict[str, str]) -> None:
    body = respond(application_of([bytes(LARGE)]), request_, oversized=FRAGMENTS, heartbeat=None).body()
    assert body == bytes(LARGE)


@both_paths
def test_when_decides_which_clients_get_fragments(request_: dict[str, str]) -> None:
    fragments = Fragment(over=100, size=100, when=lambda environ: environ["PATH_INFO"] == "/large")
    for path, types in (("/large", {"fragment"}), ("/other", {None})):
        body = respond(application_of([bytes(LARGE)]), request_ | {"PATH_INFO": path}, oversized=fragments).body()
        assert {event.event for event in read_events([body])} == types


@both_paths
def test_with_both_a_client_that_asks_gets_fragments_and_any_other_gets_folded_lines(request_: dict[str, str]) -> None:
    medium = Event(json=list(range(60)))  # too long for a line, too short for fragments
    blocks = [bytes(LARGE), bytes(medium)]
    options = [Fold(over=100, width=100), Fragment(over=300, size=100)]
    asks, other = (respond(application_of(blocks), request_ | more, oversized=options).body() for more in (ASKS, {}))
    assert longest_line(asks) <= 100
    assert longest_line(other) <= 100
    assert [event.event for event in read_events([other])] == [None, None]
    large, folded = read_events([asks], join_fragments=True)
    assert large == LARGE
    assert (json.loads(folded.data), folded.event) == (json.loads(medium.data), None)


@both_paths
def test_a_body_that_is_encoded_is_left_alone(request_: dict[str, str]) -> None:
    blocks = [bytes(LARGE)]
    for encoding, is_left_alone in (("gzip", True), ("identity", False)):
        application = application_of(blocks, EVENT_STREAM, ("Content-Encoding", encoding))
        body = respond(application, request_, oversized=FOLDS, heartbeat=None).body()
        assert (body == bytes(LARGE)) == is_left_alone


@both_paths
def test_what_is_written_is_folded_as_well(request_: dict[str, str]) -> None:
    def application(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        write = start_response("200 OK", [EVENT_STREAM])
        for start in range(0, len(stream), 50):
            write(stream[start : start + 50])
        return []

    stream = bytes(LARGE) + b"data: [1, 2"
    body = respond(application, request_, oversized=FOLDS, heartbeat=None).body()
    assert longest_line(body) <= 100
    assert body.replace(b"\ndata: ", b"") == stream.replace(b"\ndata: ", b"")


@both_paths
def test_no_block_is_larger_than_max_block(request_: dict[str, str]) -> None:
    response = respond(application_of([bytes(LARGE)]), request_, oversized=FOLDS, max_block=32)
    blocks = list(response.blocks())
    assert max(map(len, blocks)) <= 32
    (event,) = read_events(blocks)
    assert json.loads(event.data) == VALUE


@both_paths
def test_an_unfinished_event_is_sent_at_the_stream_s_end_as_it_came(request_: dict[str, str]) -> None:
    for oversized in (FOLDS, FRAGMENTS, [FOLDS, FRAGMENTS]):
        unfinished = b"data: 1\n\nid: 1\ndata: [1, 2"
        body = respond(application_of([unfinished]), request_ | ASKS, oversized=oversized, heartbeat=None).body()
        assert body == unfinished


def test_each_block_that_comes_is_answered_with_one() -> None:
    """PEP 3333: an empty block if need be, so that a server with one thread can do other work."""
    stream = bytes(LARGE)
    pulled = 0

    def produce() -> Iterator[bytes]:
        nonlocal pulled
        for index in range(len(stream)):
            pulled += 1
            yield stream[index : index + 1]

    response = respond(application_of(produce()), {}, oversized=FOLDS)
    for number, _ in enumerate(response.blocks(), 1):
        assert number >= pulled


def test_a_heartbeat_may_be_sent_while_the_beginning_of_an_event_is_held_back(monkeypatch: pytest.MonkeyPatch) -> None:
    class SilentServer(Server):
        name = "silent"

    monkeypatch.setattr("ssemiddleware.streams.find_server", SilentServer)
    blocks = [b"data: 1\n\n", b"data: [1, 2", b"", b"", b", 3]\n\n"]
    response = respond(application_of(blocks), ANNOUNCED, oversized=FOLDS, heartbeat=1e-9)
    body = response.body()
    assert body.count(HEARTBEAT) >= 2
    assert body.startswith(b"data: 1\n\n:\n:\ndata: [1")
    assert [event.data for event in read_events([body])] == ["1", "[1, 2, 3]"]


def test_no_event_is_made_before_the_one_before_has_left() -> None:
    made = 0

    def produce() -> Iterator[bytes]:
        nonlocal made
        for _ in range(100):
            made += 1
            yield bytes(LARGE)

    response = respond(application_of(produce()), ANNOUNCED, oversized=FOLDS, max_block=500)
    size = len(bytes(LARGE))
    received = 0
    for block in response.blocks():
        received += len(block)
        assert made <= received / size + 1


@both_paths
def test_a_drain_ends_the_stream_of_an_event_source_whose_next_event_is_held_back(request_: dict[str, str]) -> None:
    is_seen = threading.Event()

    def application(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        environ["ssemiddleware.stream"].on_close(is_seen.set)
        start_response("200 OK", [EVENT_STREAM])
        return produce()

    def produce() -> Iterator[bytes]:
        yield b"data: 1\n\ndata: [1, 2"
        middleware.drain()
        assert is_seen.wait(DEADLINE)
        while True:
            yield b""

    announced = bool(request_)
    middleware = SSEMiddleware(application, oversized=FOLDS, retry=None, heartbeat=None, announced=lambda _: announced)
    response = Response(middleware, environ_of(EVENT_SOURCE))
    assert response.body() == b"data: 1\n\n"


@pytest.mark.parametrize("oversized", [FOLDS, FRAGMENTS, [FOLDS, FRAGMENTS], None], ids=["fold", "fragment", "both", "none"])
def test_whole_small_events_pass_without_a_copy(oversized: object) -> None:
    block = b"data: 1\n\ndata: [2, 3]\n\n"
    blocks = list(respond_unchecked(application_of(Blocks([block])), ASKS, oversized=oversized).blocks())
    assert blocks[0] is block


# -- The line in the log

JSON_LINE = b"data: " + json.dumps(["x" * 100] * 1000).encode() + b"\n\n"
TEXT_LINE = b"data: " + b"x" * 100_000 + b"\n\n"
STRING_LINE = b"data: " + json.dumps(["x" * 100_000]).encode() + b"\n\n"


def long_lines_logged(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if "KiB" in record.getMessage()]


REMEDIES = {
    "JSON": (JSON_LINE, None, "oversized=Fold() breaks such JSON"),
    "text": (TEXT_LINE, None, "oversized=Fragment() sends it in pieces"),
    "one JSON string": (STRING_LINE, Fold(), "oversized=Fragment() sends it in pieces"),
    "JSON in fragments": (JSON_LINE, Fragment(), "oversized=Fold() breaks such JSON"),
    "text in fragments": (TEXT_LINE, Fragment(), "a client that asks for fragments (sse-fragments=1 in the query)"),
    "folded JSON": (JSON_LINE, Fold(), None),
}


@both_paths
@pytest.mark.parametrize("case", REMEDIES)
def test_the_first_long_line_is_logged_with_its_remedy(
    case: str, request_: dict[str, str], caplog: pytest.LogCaptureFixture
) -> None:
    stream, oversized, remedy = REMEDIES[case]
    middleware = SSEMiddleware(application_of([b"data: 1\n\n", stream, stream]), oversized=oversized)
    for _ in range(2):
        assert len(Response(middleware, environ_of(request_)).body()) >= 2 * len(stream)
    logged = long_lines_logged(caplog)
    assert [str(remedy) in line for line in logged] == ([] if remedy is None else [True])
    assert not logged or logged[0].startswith(
        "'/' sends an event line of more than 64 KiB: WebKit (Safari) takes quadratic time"
    )


@both_paths
@pytest.mark.parametrize("size", [10, 1000, 65536, 80_000])
def test_a_long_line_in_small_blocks_is_reported_too(
    size: int, request_: dict[str, str], caplog: pytest.LogCaptureFixture
) -> None:
    stream = b"data: 1\n\n" + JSON_LINE
    blocks = [stream[start : start + size] for start in range(0, len(stream), size)]
    assert respond(application_of(blocks), request_, heartbeat=None).body() == stream
    assert len(long_lines_logged(caplog)) == 1


@both_paths
@pytest.mark.parametrize("before", range(10))
def test_a_long_line_is_reported_however_many_short_ones_come_before(
    before: int, request_: dict[str, str], caplog: pytest.LogCaptureFixture
) -> None:
    blocks = [b"data: 1\n\n"] * before + [JSON_LINE[start : start + 1000] for start in range(0, len(JSON_LINE), 1000)]
    respond(application_of(blocks), request_, heartbeat=None).body()
    assert len(long_lines_logged(caplog)) == 1


@both_paths
def test_a_long_line_after_a_byte_order_mark_is_reported(request_: dict[str, str], caplog: pytest.LogCaptureFixture) -> None:
    respond(application_of([b"\xef\xbb\xbf" + JSON_LINE]), request_, heartbeat=None).body()
    assert len(long_lines_logged(caplog)) == 1


UNTOLD = {
    "lines of just 64 KiB": [b"data: " + b"x" * (LONG_LINE - 6) + b"\n\n"] * 3,
    "many short lines": [b"data: 1\ndata: 2\n" * 10_000],
    "a long comment": [b":" + b" " * 100_000 + b"\n"],
    "a long comment before a short line": [b":" + b" " * 100_000 + b"\ndata: 1\n\n" * 2],
    "short lines in parts": [b"data: 1", b"2", b"3\n", b"\n"] * 1000,
}


@both_paths
@pytest.mark.parametrize("case", UNTOLD)
def test_nothing_is_logged_without_a_long_line(case: str, request_: dict[str, str], caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING)
    blocks = UNTOLD[case]
    assert respond(application_of(blocks), request_, heartbeat=None).body() == b"".join(blocks)
    assert long_lines_logged(caplog) == []


def test_data_that_began_as_json_and_is_not_json_is_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    middleware = SSEMiddleware(application_of([b"data: [1, 2" + b" or 3, 4" * 100 + b"\n\n"] * 2), oversized=FOLDS)
    for _ in range(2):
        Response(middleware, environ_of(ANNOUNCED)).body()
    logged = [record.getMessage() for record in caplog.records if "begins as JSON" in record.getMessage()]
    assert len(logged) == 1
    assert logged[0].startswith("'/' sends")


def test_lines_are_not_watched_any_more_once_a_long_one_was_logged() -> None:
    lines: list[tuple[str, str]] = []
    steps = OversizedSteps([Fragment()], lambda subject, line: lines.append((subject, line)))  # which is never asked
    request = Request(environ_of({"PATH_INFO": "/a\n"}), accepts_event_stream)
    events = steps.maybe_events(request)
    assert events is not None
    assert b"".join(events.feed(JSON_LINE)) == JSON_LINE
    ((subject, line),) = lines
    assert subject == "long line"
    assert line.startswith(r"'/a\n' sends an event line"), "what a client sent is quoted"
    assert steps.maybe_events(request) is None


# -- The option

WRONG = [True, "fold", Fold, [Fold(), "fold"], [Fold(), Fold()], {"over": 1}]


@pytest.mark.parametrize("oversized", WRONG)
def test_a_wrong_option_is_named(oversized: object) -> None:
    with pytest.raises(
        ValueError, match=r"oversized must be Fold\(\.\.\.\), Fragment\(\.\.\.\), a list with one of each, or None"
    ):
        SSEMiddleware(application_of([]), oversized=oversized)  # type: ignore[arg-type]
