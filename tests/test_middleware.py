"""`SSEMiddleware` on both paths: PEP 3333 kept, streams tended, and everything else left alone."""

from __future__ import annotations

import contextlib
import contextvars
import gc
import io
import logging
import math
import socket
import sys
import threading
import time
import traceback
import weakref
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given as given_any
from hypothesis import strategies as st

from ssemiddleware import Event, Fold, Fragment, MemoryGovernor, SSEMiddleware, Stream, read_events, wrap
from ssemiddleware import stream as stream_module
from ssemiddleware.event_stream import BOM

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
    wait_for_relays,
)
from .event_stream.streams import cuttings

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment

INLINE: dict[str, str] = {}
both_paths = pytest.mark.parametrize("request_", [INLINE, ANNOUNCED], ids=["inline", "announced"])
HTML = ("Content-Type", "text/html")


# -- what is an event stream and what is not


@both_paths
def test_an_event_stream_arrives_as_it_was_sent(request_: dict[str, str]) -> None:
    blocks = Blocks([b"data: 1\n\n", b"", b"data: 2\n\n"])
    body = respond(application_of(blocks), request_, heartbeat=None).body()
    assert body == b"data: 1\n\ndata: 2\n\n"
    assert len(blocks.closed_on) == 1


@both_paths
@pytest.mark.parametrize("status", ["200 OK", "201 Created", "404 Not Found", "503 Service Unavailable"])
def test_an_event_stream_is_told_by_its_type_whatever_its_status(status: str, request_: dict[str, str]) -> None:
    response = respond(application_of([b"data: 1\n\n"], status=status), request_)
    response.body()
    assert response.status == status
    assert response.headers["X-Accel-Buffering"] == "no"


def test_a_response_that_is_no_event_stream_is_the_very_same_object() -> None:
    headers = [HTML, ("Connection", "x")]
    for iterable in ([b"<html>"], (b"<html>",), Blocks([b"<html>"]), io.BytesIO(b"<html>"), iter([b"<html>"])):
        before = set(threading.enumerate())
        response = respond_unchecked(application_of(iterable, *headers))
        assert response.iterable is iterable
        assert response.starts == [("200 OK", headers, None)]
        assert set(threading.enumerate()) <= before


def test_an_announced_response_that_is_no_event_stream_is_relayed_block_by_block() -> None:
    blocks = Blocks([b"<html>", b"", b"</html>"])
    response = respond(application_of(blocks, HTML, ("X-Other", "x")), ANNOUNCED, max_block=16)
    assert list(response.blocks()) == [b"<html>", b"", b"</html>"]
    assert response.starts == [("200 OK", [HTML, ("X-Other", "x")], None)]
    (closed_on,) = blocks.closed_on
    assert blocks.threads == {closed_on}
    assert response.threads == {threading.current_thread()}


@pytest.mark.parametrize("iterable", [[b"<html>"], (b"<html>",), []], ids=repr)
def test_an_announced_list_is_the_very_same_object(iterable: Iterable[bytes]) -> None:
    assert respond_unchecked(application_of(iterable, HTML), ANNOUNCED).iterable is iterable


@both_paths
def test_wrapping_twice_is_wrapping_once(request_: dict[str, str]) -> None:
    response = respond(SSEMiddleware(application_of([b"data: 1\n\n"])), request_)
    assert response.body().removeprefix(b":\n") == b"data: 1\n\n"


# -- PEP 3333, on both paths


def lazy(environ: WSGIEnvironment, start_response: StartResponse) -> Iterator[bytes]:
    start_response("200 OK", [EVENT_STREAM])
    yield b"data: 1\n\n"


def lazy_html(environ: WSGIEnvironment, start_response: StartResponse) -> Iterator[bytes]:
    start_response("200 OK", [HTML])
    yield b"<html>"
    yield b"</html>"


@both_paths
def test_an_application_may_start_its_response_with_the_first_block(request_: dict[str, str]) -> None:
    response = respond(lazy, request_, heartbeat=None)
    assert response.body() == b"data: 1\n\n"
    assert response.headers["Cache-Control"] == "no-cache, no-transform"
    response = respond(lazy_html, request_)
    assert list(response.blocks()) == [b"<html>", b"</html>"]
    assert response.headers == {"Content-Type": "text/html"}


@both_paths
@pytest.mark.parametrize("kind", [EVENT_STREAM, HTML], ids=["event stream", "html"])
@pytest.mark.parametrize(
    "make",
    [list, tuple, iter, Blocks, lambda blocks: (block for block in blocks)],
    ids=["list", "tuple", "iterator", "closable", "generator"],
)
@pytest.mark.parametrize("blocks", [[], [b"data: 1\n\n"], [b"data: 1\n\n", b"data: 2\n\n"]], ids=["empty", "one", "two"])
def test_any_iterable_will_do(
    blocks: list[bytes], make: Callable[[list[bytes]], Iterable[bytes]], kind: tuple[str, str], request_: dict[str, str]
) -> None:
    assert respond(application_of(make(blocks), kind), request_, heartbeat=None).body() == b"".join(blocks)


class Closes:
    """Iterates over *blocks*; its close() raises."""

    def __init__(self, blocks: list[object]) -> None:
        self.blocks = Blocks(blocks)
        self.closed = 0

    def __iter__(self) -> Iterator[bytes]:
        return self.blocks

    def close(self) -> None:
        self.closed += 1
        raise OSError("close failed")


@both_paths
@pytest.mark.parametrize("kind", [EVENT_STREAM, HTML], ids=["event stream", "html"])
def test_what_close_raises_is_raised_once_and_after_all_blocks(kind: tuple[str, str], request_: dict[str, str]) -> None:
    iterable = Closes([b"data: 1\n\n"])
    response = respond(application_of(iterable, kind), request_, heartbeat=None)
    blocks = response.blocks()
    assert next(blocks) == b"data: 1\n\n"
    with pytest.raises(OSError, match="close failed"):
        next(blocks)
    if kind is EVENT_STREAM:
        response.close()
    assert iterable.closed == 1


class Failure(Exception):
    pass


@both_paths
def test_what_the_application_raises_before_it_answers_is_raised_by_the_call(request_: dict[str, str]) -> None:
    def application(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        raise Failure("before")

    with pytest.raises(Failure, match="before") as raised:
        respond(application, request_)
    assert traceback.extract_tb(raised.value.__traceback__)[-1].name == "application"


@both_paths
@pytest.mark.parametrize("kind", [EVENT_STREAM, HTML], ids=["event stream", "html"])
@pytest.mark.parametrize("before", [[], [b"data: 1\n\n", b"data: 2\n\n"]], ids=["first", "later"])
@pytest.mark.parametrize("error", [Failure, KeyboardInterrupt, SystemExit, GeneratorExit])
def test_what_iterating_raises_comes_after_the_blocks_before_it(
    error: type[BaseException], before: list[object], kind: tuple[str, str], request_: dict[str, str]
) -> None:
    blocks = Blocks([*before, error("between")])
    response = respond(application_of(blocks, kind), request_, heartbeat=None)
    received: list[bytes] = []
    with pytest.raises(error, match="between") as raised:
        received.extend(response.blocks())
    assert b"".join(received) == b"".join(before)  # type: ignore[arg-type]
    assert "__next__" in [frame.name for frame in traceback.extract_tb(raised.value.__traceback__)]
    assert len(blocks.closed_on) == 1


@both_paths
@pytest.mark.parametrize("kind", [EVENT_STREAM, HTML], ids=["event stream", "html"])
def test_an_error_replaces_the_headers_as_long_as_they_have_not_left(kind: tuple[str, str], request_: dict[str, str]) -> None:
    def application(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        start_response("200 OK", [kind])
        try:
            raise Failure("late")
        except Failure:
            start_response("500 Internal Server Error", [("Content-Type", "text/plain")], sys.exc_info())
        return [b"sorry"]

    response = respond(application, request_)
    assert response.body() == b"sorry"
    assert response.status == "500 Internal Server Error"
    assert response.headers == {"Content-Type": "text/plain"}


@both_paths
@pytest.mark.parametrize("kind", [EVENT_STREAM, HTML], ids=["event stream", "html"])
def test_an_error_is_raised_in_the_application_once_the_headers_have_left(
    kind: tuple[str, str], request_: dict[str, str]
) -> None:
    def application(environ: WSGIEnvironment, start_response: StartResponse) -> Iterator[bytes]:
        start_response("200 OK", [kind])
        yield b"data: 1\n\n"
        sent.wait(DEADLINE)
        try:
            raise Failure("late")
        except Failure:
            start_response("500 Internal Server Error", [HTML], sys.exc_info())
        yield b"never"

    sent = threading.Event()
    blocks = respond(application, request_, heartbeat=None).blocks()
    assert next(blocks) == b"data: 1\n\n"
    sent.set()
    with pytest.raises(Failure, match="late"):
        next(blocks)


@both_paths
def test_starting_twice_without_an_error_is_the_applications_fault(request_: dict[str, str]) -> None:
    def application(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        start_response("200 OK", [EVENT_STREAM])
        start_response("200 OK", [EVENT_STREAM])
        return []

    with pytest.raises(AssertionError):
        respond(application, request_)


@both_paths
def test_an_error_that_begins_a_response_is_passed_on(request_: dict[str, str]) -> None:
    def application(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        try:
            raise Failure
        except Failure:
            start_response("500 Internal Server Error", [HTML], sys.exc_info())
        return [b"sorry"]

    response = respond(application, request_)
    assert response.body() == b"sorry"
    ((_, _, exc_info),) = response.starts
    assert exc_info is not None
    assert exc_info[0] is Failure


@both_paths
@pytest.mark.parametrize("kind", [EVENT_STREAM, HTML], ids=["event stream", "html"])
def test_what_is_written_comes_before_what_is_yielded(kind: tuple[str, str], request_: dict[str, str]) -> None:
    def application(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        write = start_response("200 OK", [kind])
        write(b"data: 1\n\n")
        write(b"data: 2\n\n")
        return [b"data: 3\n\n"]

    response = respond(application, request_, heartbeat=None)
    assert response.body() == b"data: 1\n\ndata: 2\n\ndata: 3\n\n"


@both_paths
def test_a_large_block_that_is_written_is_cut_as_well(request_: dict[str, str]) -> None:
    def application(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        start_response("200 OK", [EVENT_STREAM])(b"data: " + b"x" * 100 + b"\n\n")
        return []

    response = respond(application, request_, max_block=16, heartbeat=None)
    pieces = [*response.written, *response.blocks()]
    assert b"".join(pieces) == b"data: " + b"x" * 100 + b"\n\n"
    assert max(map(len, pieces)) == 16


@both_paths
@pytest.mark.parametrize(
    "block", ["text", bytearray(b"x"), memoryview(b"x"), None, 5, Event("x")], ids=lambda block: type(block).__name__
)
def test_a_block_that_is_not_bytes_is_a_type_error_that_names_the_type(block: object, request_: dict[str, str]) -> None:
    for before in ([], [b"data: 1\n\n"], [b"data: 1\n\n"] * 8):
        blocks = Blocks([*before, block])
        response = respond_unchecked(application_of(blocks), request_, heartbeat=None)
        received: list[bytes] = []
        with pytest.raises(TypeError, match=rf"an event stream's blocks must be bytes, got {type(block).__name__}") as raised:
            received.extend(response.blocks())
        assert b"".join(received) == b"".join(before)
        assert ("yield bytes(event)" in str(raised.value)) is isinstance(block, Event)
        assert len(blocks.closed_on) == 1


@both_paths
def test_a_block_of_a_subclass_leaves_as_plain_bytes(request_: dict[str, str]) -> None:
    class Subclass(bytes):
        pass

    blocks = list(respond_unchecked(application_of([Subclass(b"data: 1\n\n")] * 8), request_, heartbeat=None).blocks())
    assert b"".join(blocks) == b"data: 1\n\n" * 8
    assert {type(block) for block in blocks} == {bytes}


def test_an_application_that_never_starts_its_response_is_left_to_the_server() -> None:
    for request_ in (INLINE, ANNOUNCED):
        response = respond_unchecked(lambda environ, start_response: [b"x"], request_)
        assert response.starts == []
        assert list(iter(response.iterable)) == [b"x"]


@both_paths
def test_a_head_request_is_answered_with_headers_alone(request_: dict[str, str]) -> None:
    def endless() -> Iterator[bytes]:
        while True:
            yield b"data: 1\n\n"

    blocks = Blocks(endless())
    response = respond(application_of(blocks), {**request_, "REQUEST_METHOD": "HEAD"})
    assert response.body() == b""
    assert response.headers["X-Accel-Buffering"] == "no"
    assert blocks.was_closed.wait(DEADLINE)
    assert len(blocks.closed_on) == 1

    def lazy_endless(environ: WSGIEnvironment, start_response: StartResponse) -> Iterator[bytes]:
        start_response("200 OK", [EVENT_STREAM])
        yield from endless()

    assert respond(lazy_endless, {**request_, "REQUEST_METHOD": "HEAD"}).body() == b""


@pytest.mark.parametrize("status", ["204 No Content", "304 Not Modified"])
def test_nothing_is_added_where_a_status_has_no_body(status: str) -> None:
    response = respond_unchecked(application_of([], status=status), ANNOUNCED)
    assert response.body() == b""


# -- one request, one thread, one Context


def test_an_announced_request_runs_on_one_thread_in_one_copied_context() -> None:
    variable: contextvars.ContextVar[str] = contextvars.ContextVar("variable")
    variable.set("the server's")
    seen: list[tuple[str, threading.Thread]] = []

    def application(environ: WSGIEnvironment, start_response: StartResponse) -> Iterator[bytes]:
        seen.append((variable.get(), threading.current_thread()))
        variable.set("the application's")
        start_response("200 OK", [EVENT_STREAM])
        try:
            for _ in range(3):
                seen.append((variable.get(), threading.current_thread()))
                yield b"data: 1\n\n"
        finally:
            seen.append((variable.get(), threading.current_thread()))

    respond(application, ANNOUNCED).body()
    assert [value for value, _ in seen] == ["the server's"] + ["the application's"] * 4
    ((thread),) = {thread for _, thread in seen}
    assert thread is not threading.current_thread()
    assert variable.get() == "the server's"


def test_an_inline_request_runs_on_the_servers_thread() -> None:
    blocks = Blocks([b"data: 1\n\n"] * 3)
    respond(application_of(blocks)).body()
    assert blocks.threads == {threading.current_thread()} == set(blocks.closed_on)


@both_paths
def test_leaving_early_closes_the_application_once_and_on_its_thread(request_: dict[str, str]) -> None:
    blocks = Blocks(b"data: 1\n\n" for _ in range(10**9))
    response = respond(application_of(blocks), request_)
    iterator = response.blocks()
    next(iterator)
    iterator.close()  # type: ignore[attr-defined]
    response.close()
    assert blocks.was_closed.wait(DEADLINE)
    (closed_on,) = blocks.closed_on
    assert blocks.threads <= {closed_on}


def test_closing_before_the_first_block_closes_the_application_too() -> None:
    for request_ in (INLINE, ANNOUNCED):
        blocks = Blocks([b"data: 1\n\n"] * 3)
        respond(application_of(blocks), request_).close()
        assert blocks.was_closed.wait(DEADLINE)
        assert len(blocks.closed_on) == 1


def test_close_does_not_wait_for_an_application_that_sleeps() -> None:
    sleeping, wakes = threading.Event(), threading.Event()

    def sleeps() -> Iterator[bytes]:
        yield b"data: 1\n\n"
        sleeping.set()
        assert wakes.wait(DEADLINE)
        yield b"data: 2\n\n"

    blocks = Blocks(sleeps())
    response = respond(application_of(blocks), ANNOUNCED, heartbeat=None)
    assert sleeping.wait(DEADLINE)
    response.close()
    assert not blocks.was_closed.is_set()
    wakes.set()
    assert blocks.was_closed.wait(DEADLINE)
    assert len(blocks.closed_on) == 1


def test_what_the_application_raises_after_its_stream_has_ended_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    sleeping, wakes, raised = threading.Event(), threading.Event(), threading.Event()

    def application(environ: WSGIEnvironment, start_response: StartResponse) -> Iterator[bytes]:
        start_response("200 OK", [EVENT_STREAM])
        yield b"data: 1\n\n"
        sleeping.set()
        wakes.wait(DEADLINE)
        raised.set()
        raise Failure("too late")

    response = respond(application, ANNOUNCED)
    assert sleeping.wait(DEADLINE)
    response.close()
    wakes.set()
    assert raised.wait(DEADLINE)
    wait_for_relays()
    (record,) = caplog.records
    assert record.exc_info is not None
    assert str(record.exc_info[1]) == "too late"


def test_no_heartbeat_divides_an_event_whose_first_half_was_written() -> None:
    def application(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        start_response("200 OK", [EVENT_STREAM])(b"data: 1")
        return iter([b"", b"\n\n", b"", b"data: 2\n\n"])

    assert respond(application, INLINE, heartbeat=1e-9).body() == b"data: 1\n\n:\ndata: 2\n\n"


def test_a_write_to_a_stream_that_has_ended_raises_in_the_application() -> None:
    outcome: list[BaseException] = []
    sleeping, wakes, ended = threading.Event(), threading.Event(), threading.Event()

    def application(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        write = start_response("200 OK", [EVENT_STREAM])
        write(b"data: 1\n\n")
        sleeping.set()
        assert wakes.wait(DEADLINE)
        try:
            write(b"data: 2\n\n")
        except ConnectionError as error:
            outcome.append(error)
        ended.set()
        return []

    response = respond(application, ANNOUNCED, heartbeat=None)
    assert sleeping.wait(DEADLINE)
    response.close()
    wakes.set()
    assert ended.wait(DEADLINE)
    assert len(outcome) == 1


# -- the request


def test_compression_inside_never_starts_for_an_announced_request() -> None:
    seen: list[str | None] = []

    def application(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        seen.append(environ.get("HTTP_ACCEPT_ENCODING"))
        start_response("200 OK", [EVENT_STREAM])
        return []

    for request_ in (ANNOUNCED, INLINE):
        respond(application, {**request_, "HTTP_ACCEPT_ENCODING": "gzip"}).body()
    assert seen == [None, "gzip"]


def test_announced_may_be_any_rule() -> None:
    blocks = Blocks([b"data: 1\n\n"])
    response = respond(
        application_of(blocks), {"PATH_INFO": "/chat"}, announced=lambda environ: environ["PATH_INFO"] == "/chat"
    )
    assert response.body() == b":\ndata: 1\n\n"
    assert threading.current_thread() not in blocks.threads


@both_paths
def test_the_application_finds_a_handle_on_its_stream(request_: dict[str, str]) -> None:
    streams: list[Stream] = []

    def application(environ: WSGIEnvironment, start_response: StartResponse) -> Iterator[bytes]:
        stream = environ["ssemiddleware.stream"]
        streams.append(stream)
        start_response("200 OK", [EVENT_STREAM])
        for _ in range(10**9):
            yield b"data: 1\n\n"
            if stream.closed.wait(0.01):
                return

    response = respond(application, {**request_, "HTTP_LAST_EVENT_ID": "ä€".encode().decode("latin-1")})
    blocks = response.blocks()
    next(blocks)
    (stream,) = streams
    assert stream.last_event_id == "ä€"
    assert stream.reason is None
    assert not stream.closed.is_set()
    blocks.close()  # type: ignore[attr-defined]
    assert stream.closed.wait(DEADLINE)
    assert stream.reason == "client gone"


@both_paths
def test_the_handle_knows_how_the_stream_ended(request_: dict[str, str]) -> None:
    def ended(*blocks: object) -> str | None:
        streams: list[Stream] = []

        def application(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
            streams.append(environ["ssemiddleware.stream"])
            start_response("200 OK", [EVENT_STREAM])
            return Blocks(blocks)

        try:
            respond(application, request_).body()
        except Failure:
            pass
        assert streams[0].closed.is_set()
        return streams[0].reason

    assert ended(b"data: 1\n\n") == "application ended"
    assert ended(b"data: 1\n\n", Failure()) == "application raised"


# -- blocks


@given_any(cuttings(), st.integers(16, 40), st.sampled_from([INLINE, ANNOUNCED]), st.sampled_from([1, 20, 10**6]))
def test_what_goes_out_is_what_came_in_but_for_what_we_add(
    blocks: list[bytes], max_block: int, request_: dict[str, str], read_ahead: int
) -> None:
    response = respond(application_of(Blocks(blocks)), request_, max_block=max_block, read_ahead=read_ahead, retry=None)
    sent = list(response.blocks())
    if request_ is ANNOUNCED:
        assert sent.pop(0) == b":\n"
        assert b"".join(sent) == b"".join(blocks).removeprefix(BOM)
    else:
        assert b"".join(sent) == b"".join(blocks)
    assert all(len(block) <= max_block for block in sent)


@given_any(cuttings())
def test_an_announced_stream_reads_as_it_would_have(blocks: list[bytes]) -> None:
    response = respond(application_of(Blocks(blocks)), ANNOUNCED, max_block=16)
    assert list(read_events(response.blocks())) == list(read_events(blocks))


def test_blocks_that_wait_leave_joined_and_end_with_an_event() -> None:
    blocks = Blocks([b"data: %03d\n\n" % number for number in range(100)])
    response = respond(application_of(blocks), ANNOUNCED, max_block=100)
    assert blocks.was_closed.wait(DEADLINE)  # all of them wait
    sent = list(response.blocks())
    assert len(sent) == 1 + 12
    assert all(block.endswith(b"\n\n") for block in sent[1:])


def test_a_large_block_is_not_joined_with_others() -> None:
    large = b"data: " + b"x" * 500 + b"\n\n"
    blocks = Blocks([b"data: 1\n\n", b"data: 2\n\n", large, b"data: 3\n\n", b"data: 4\n\n"])
    response = respond(application_of(blocks), ANNOUNCED, max_block=600)
    assert blocks.was_closed.wait(DEADLINE)
    sent = list(response.blocks())
    assert sent[1:] == [b"data: 1\n\ndata: 2\n\n", large, b"data: 3\n\ndata: 4\n\n"]


def test_the_application_stays_read_ahead_before_the_client() -> None:
    def produce() -> Iterator[bytes]:
        for number in range(1, 10**9):
            produced[0] = number
            yield b"data: 1\n\n"

    produced = [0]
    response = respond(application_of(produce()), ANNOUNCED, read_ahead=900, max_block=90)
    blocks = response.blocks()
    next(blocks)
    deadline = time.monotonic() + DEADLINE
    while produced[0] < 100 and time.monotonic() < deadline:
        time.sleep(0.001)
    assert produced[0] == 100
    for _ in range(200):
        next(blocks)
        assert produced[0] <= 2000 + 200
    response.close()


# -- comments and the end, in time


def test_a_body_that_is_encoded_gets_no_comments() -> None:
    for request_ in (INLINE, ANNOUNCED):
        response = respond(application_of([b"\x1f\x8b\n\n"], EVENT_STREAM, ("Content-Encoding", "gzip")), request_)
        assert response.body() == b"\x1f\x8b\n\n"


def test_drain_ends_streams_that_are_open_and_those_to_come() -> None:
    def application(environ: WSGIEnvironment, start_response: StartResponse) -> Iterator[bytes]:
        start_response("200 OK", [EVENT_STREAM])
        yield b"data: 1\n\n"
        environ["ssemiddleware.stream"].closed.wait(DEADLINE)
        reasons.append(environ["ssemiddleware.stream"].reason)

    reasons: list[str] = []
    middleware = SSEMiddleware(application, retry=1000)
    blocks = Response(middleware, environ_of(EVENT_SOURCE)).blocks()
    assert [next(blocks), next(blocks)] == [b":\n", b"data: 1\n\n"]
    middleware.drain()
    *_, last = blocks
    name, _, value = last.partition(b": ")
    assert name == b"retry"
    assert value.endswith(b"\n\n")
    assert 750 <= int(value) <= 1500
    assert Response(middleware, environ_of(ANNOUNCED)).body() in (b":\n", b":\ndata: 1\n\n")
    wait_for_relays()
    assert reasons[0] == "drain"


def test_memory_pressure_makes_streams_wait_but_never_for_good() -> None:
    governor = MemoryGovernor(read=lambda: (2000, 1000), pause=0.02)
    for request_ in (INLINE, ANNOUNCED):
        started = time.monotonic()
        response = respond(application_of(Blocks([b"data: 1\n\n"] * 5)), request_, memory=governor)
        assert response.body().removeprefix(b":\n") == b"data: 1\n\n" * 5
        assert time.monotonic() - started >= 5 * 0.02


# -- the log


def test_headers_that_are_dropped_are_told_about_once(caplog: pytest.LogCaptureFixture) -> None:
    middleware = SSEMiddleware(application_of([], EVENT_STREAM, ("Connection", "keep-alive"), ("ETag", "x")))
    for _ in range(3):
        Response(middleware, environ_of(ANNOUNCED)).body()
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert record.message.startswith("dropped Connection, ETag from an event stream: hop-by-hop headers belong to the server")


def test_a_stream_nobody_announced_is_told_about_once_with_the_remedy(caplog: pytest.LogCaptureFixture) -> None:
    middleware = SSEMiddleware(application_of([b"data: 1\n\n"]))
    for path in ("/chat", "/other"):
        Response(middleware, environ_of({"PATH_INFO": path, "HTTP_ACCEPT": "*/*"})).body()
    (record,) = caplog.records
    assert record.message.startswith("/chat streams events to a client that did not announce it (Accept: */*)")
    assert "announced=" in record.message


# -- options


@pytest.mark.parametrize(
    ("option", "value", "allowed"),
    [
        *[
            (option, value, "a positive number of seconds or None")
            for option in ("heartbeat", "send_deadline")
            for value in (0, -1, math.nan, math.inf, "15", True)
        ],
        *[("max_block", value, "a whole number of bytes from 16") for value in (15, 0, 1.5, "1", None, True, math.nan)],
        *[("read_ahead", value, "a positive whole number of bytes") for value in (0, -1, 1.5, None, math.inf)],
        *[("retry", value, "a positive whole number of milliseconds or None") for value in (0, -1, 1.5, "3000", True)],
        *[
            ("memory", value, r'a MemoryGovernor, such as MemoryGovernor\("512MiB"\), or None')
            for value in (0.8, "80%", MemoryGovernor)
        ],
        *[("max_streams", value, "a positive whole number of streams or None") for value in (0, -1, 1.5, "10", True)],
        *[("on_shed", value, r"a WSGI application \(a callable\) or None") for value in (0, "shop:busy")],
        *[("announced", value, "a callable that takes the environ") for value in (None, True, "/chat")],
        *[("application", value, r"a WSGI application \(a callable\)") for value in (None, "shop:app")],
    ],
)
def test_an_option_that_makes_no_sense_is_refused(option: str, value: object, allowed: str) -> None:
    options: dict[str, Any] = {"application": application_of([]), option: value}
    with pytest.raises(ValueError, match=rf"^{option} must be {allowed}, got "):
        SSEMiddleware(**options)


def test_an_unknown_option_is_refused_with_those_there_are() -> None:
    options: dict[str, Any] = {"hartbeat": 20}
    with pytest.raises(
        TypeError, match="unknown option hartbeat=20; the options are announced, heartbeat, max_block, read_ahead"
    ):
        SSEMiddleware(application_of([]), **options)


def test_the_middleware_is_immutable() -> None:
    middleware = SSEMiddleware(application_of([]))
    with pytest.raises(AttributeError, match="immutable"):
        middleware.heartbeat = 5


def test_the_middleware_shows_what_was_chosen() -> None:
    def application(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        return []

    assert repr(SSEMiddleware(application, heartbeat=20)).endswith(">, heartbeat=20)")


# -- wrap


def create_app(count: int = 1, *, data: str = "x") -> WSGIApplication:
    return application_of([bytes(Event(data))] * count)


app = create_app()


class namespace:
    app = app


WRAPPED = {"app": 1, "create_app()": 1, "create_app(3, data='y')": 3, "namespace.app": 1, " create_app( 2 ) ": 2}


@pytest.mark.parametrize("expression", WRAPPED)
def test_wrap_takes_a_name_or_a_factory(expression: str) -> None:
    middleware = wrap(f"{__name__}:{expression}", heartbeat=20)
    assert middleware.heartbeat == 20
    assert len(list(read_events(Response(middleware, environ_of()).blocks()))) == WRAPPED[expression]


@pytest.mark.parametrize(
    "name",
    [
        "app",
        ":app",
        "module:",
        "module:create_app(",
        "module:create_app(f())",
        "module:f(**x)",
        "module:f(**{'a': 1})",
        "module:f()()",
        "module:1+1 2",
        "",
        None,
    ],
)
def test_wrap_refuses_what_is_no_name(name: str) -> None:
    with pytest.raises(ValueError, match=r'name must be "module:attribute" or "module:factory\(literal arguments\)", got'):
        wrap(name)


def test_wrap_says_what_is_missing() -> None:
    with pytest.raises(ImportError, match="no_such_module"):
        wrap("no_such_module:app")
    with pytest.raises(AttributeError, match="no_such_app"):
        wrap(f"{__name__}:no_such_app")
    with pytest.raises(ValueError, match="heartbeat must be"):
        wrap(f"{__name__}:app", heartbeat=0)


# -- servers and layers that behave oddly


def test_a_byte_order_mark_by_itself_hides_nothing_behind_it() -> None:
    blocks = Blocks([BOM, b"data: " + b"x" * 1000 + b"\n\n"])
    response = respond(application_of(blocks), ANNOUNCED, max_block=100)
    assert blocks.was_closed.wait(DEADLINE)
    assert response.body() == b":\ndata: " + b"x" * 1000 + b"\n\n"


def layered(application: WSGIApplication) -> WSGIApplication:
    """Wrap in a layer that delegates, and so closes the iterator rather than the iterable."""

    def layer(environ: WSGIEnvironment, start_response: StartResponse) -> Iterator[bytes]:
        yield from application(environ, start_response)

    return layer


def test_a_layer_outside_that_delegates_still_closes_the_application() -> None:
    blocks = Blocks([b"data: 1\n\n"] * 3)
    response = Response(layered(SSEMiddleware(application_of(blocks))), environ_of())
    iterator = iter(response.iterable)
    next(iterator)
    iterator.close()  # type: ignore[attr-defined]
    assert len(blocks.closed_on) == 1


@both_paths
def test_a_server_that_forgets_to_close_leaves_nothing_behind(request_: dict[str, str]) -> None:
    blocks = Blocks(b"data: 1\n\n" for _ in range(10**9))
    iterable = SSEMiddleware(application_of(blocks))(environ_of(request_), lambda *_: lambda block: None)
    next(iter(iterable))
    del iterable
    gc.collect()
    assert blocks.was_closed.wait(DEADLINE)
    assert len(blocks.closed_on) == 1


class Lazy(Blocks):
    """Starts its response with its first block."""

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        self.start_response = start_response
        return self

    def __next__(self) -> bytes:
        if not self.threads:
            self.start_response("200 OK", [HTML])
        return super().__next__()


@both_paths
def test_a_lazy_response_that_is_left_is_closed_once(request_: dict[str, str]) -> None:
    lazy_ = Lazy([b"1", b"2", b"3"])
    response = respond_unchecked(lazy_, request_)
    blocks = response.blocks()
    assert [next(blocks), next(blocks)] == [b"1", b"2"]
    blocks.close()  # type: ignore[attr-defined]
    assert lazy_.was_closed.wait(DEADLINE)
    assert len(lazy_.closed_on) == 1


def test_ending_a_stream_while_its_event_is_made_locks_nothing() -> None:
    stream = Stream()

    class Ends:
        def __del__(self) -> None:
            stream.end("client gone")

    ends = [Ends()]
    ends.append(ends)  # type: ignore[arg-type]  # a cycle, which only a garbage collection breaks
    threshold = gc.get_threshold()
    del ends
    gc.set_threshold(1)
    try:
        assert stream.closed.wait(DEADLINE)
    finally:
        gc.set_threshold(*threshold)


@pytest.mark.parametrize("request_", [INLINE, ANNOUNCED], ids=["inline", "announced"])
def test_what_the_application_raised_lives_no_longer_than_its_request(request_: dict[str, str]) -> None:
    class Held:
        pass

    def application(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        held = Held()
        references.append(weakref.ref(held))
        raise Failure

    references: list[weakref.ref[Held]] = []
    gc.disable()
    try:
        with contextlib.suppress(Failure):
            SSEMiddleware(application)(environ_of(request_), lambda *_: lambda block: None)
        wait_for_relays()
        assert references[0]() is None
    finally:
        gc.enable()


def test_an_environ_that_is_answered_twice_is_wrapped_twice() -> None:
    environ = environ_of(ANNOUNCED)
    for _ in range(2):
        assert Response(SSEMiddleware(application_of([b"data: 1\n\n"])), environ).body() == b":\ndata: 1\n\n"


def test_memory_pressure_concerns_no_response_but_event_streams() -> None:
    governor = MemoryGovernor(read=lambda: (2000, 1000), pause=60)
    response = respond(application_of(Blocks([b"<html>"] * 9), HTML), ANNOUNCED, memory=governor)
    assert response.body() == b"<html>" * 9


def test_a_client_that_left_is_no_error_of_an_application_that_writes(caplog: pytest.LogCaptureFixture) -> None:
    sleeping, wakes = threading.Event(), threading.Event()

    def application(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        write = start_response("200 OK", [EVENT_STREAM])
        write(b"data: 1\n\n")
        sleeping.set()
        assert wakes.wait(DEADLINE)
        write(b"data: 2\n\n")
        return []

    response = respond(application, ANNOUNCED)
    assert sleeping.wait(DEADLINE)
    response.close()
    wakes.set()
    wait_for_relays()
    assert caplog.records == []


def test_a_client_that_leaves_before_the_answer_frees_the_server_at_once() -> None:
    def application(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        stream = environ["ssemiddleware.stream"]
        assert stream.closed.wait(DEADLINE)
        reasons.append(stream.reason)
        ended.set()
        start_response("200 OK", [EVENT_STREAM])
        return []

    reasons: list[str] = []
    ended = threading.Event()
    client, servers_side = socket.socketpair()
    with client, servers_side:
        client.shutdown(socket.SHUT_WR)
        environ = {**environ_of(ANNOUNCED), "werkzeug.socket": servers_side}
        response = Response(SSEMiddleware(application), environ)
        assert response.status == "499 Client Closed Request"
        assert response.body() == b""
    assert ended.wait(DEADLINE)
    assert reasons == ["client gone"]


def test_wrap_shows_what_an_import_lacks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "shop_with_a_fault.py").write_text("import missing_dependency\n", encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ModuleNotFoundError, match=r"^No module named 'missing_dependency'$"):
        wrap("shop_with_a_fault:app")


@pytest.mark.parametrize("way", ["leave", "drain"])
@both_paths
def test_a_stream_that_waits_for_its_first_turn_sees_that_it_must_end(request_: dict[str, str], way: str) -> None:
    # Critical, and nobody else has a stream: one may begin, and waits.
    governor = MemoryGovernor(read=lambda: (250, 256), pause=100 * DEADLINE)
    middleware = SSEMiddleware(application_of([b"data: x\n\n"]), memory=governor)
    ours, theirs = socket.socketpair()
    with ours, theirs:
        environ = environ_of({"HTTP_ACCEPT": "*/*", **request_}) | {"gunicorn.socket": ours}
        response = Response(middleware, environ)
        blocks: list[bytes] = []
        server = threading.Thread(target=lambda: blocks.extend(response.iterable))
        server.start()
        time.sleep(0.1)
        if way == "leave":
            theirs.close()
        else:
            middleware.drain()
        server.join(DEADLINE)
        assert not server.is_alive()
        response.close()
    assert environ["ssemiddleware.stream"].reason == ("client gone" if way == "leave" else "drain")


def test_a_stream_may_be_closed_by_its_own_application() -> None:
    responses: list[Response] = []
    has_response, was_closed = threading.Event(), threading.Event()

    def produce() -> Iterator[bytes]:
        yield b"data: x\n\n"
        assert has_response.wait(DEADLINE)
        responses[0].iterable.close()  # type: ignore[attr-defined]  # as a garbage collection on this thread may do
        was_closed.set()
        yield b"data: y\n\n"

    responses.append(Response(SSEMiddleware(application_of(produce())), environ_of(ANNOUNCED)))
    has_response.set()
    assert was_closed.wait(DEADLINE)


@both_paths
@pytest.mark.parametrize("oversized", [None, Fold(over=60, width=60)], ids=["as it is", "folded"])
def test_what_is_left_of_an_unfinished_line_is_counted(request_: dict[str, str], oversized: Fold | None) -> None:
    stream = b"data: 1\n\ndata: [1, 2"
    middleware = SSEMiddleware(application_of([stream]), oversized=oversized, heartbeat=None)
    assert Response(middleware, environ_of(request_)).body() == stream
    assert middleware.stats().bytes_out == len(stream)


@both_paths
@pytest.mark.parametrize("told_before", [False, True])
def test_nothing_may_be_written(request_: dict[str, str], told_before: bool) -> None:
    def application(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        write = start_response("200 OK", [EVENT_STREAM])
        write(b"")
        write(b"data: 1\n\n")
        return []

    middleware = SSEMiddleware(application, heartbeat=None)
    middleware._told.update({"long line"} if told_before else ())
    assert Response(middleware, environ_of(request_)).body() == b"data: 1\n\n"


@both_paths
@pytest.mark.parametrize(
    "oversized", [None, Fragment(over=100, size=60), [Fold(over=60, width=60), Fragment(over=100, size=60)]]
)
def test_an_event_that_is_leaving_may_end_before_a_drain(
    request_: dict[str, str], oversized: Fragment | list[Fold | Fragment] | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(stream_module._FINISH_EVENT_WITHIN, "drain", DEADLINE)

    def produce() -> Iterator[bytes]:
        yield b"id: 1\ndata: one\n\n"
        yield b"id: 2\ndata: " + b"x" * 300
        middleware.drain()
        time.sleep(0.9)  # the drain is seen within half a second
        yield b"y" * 100
        time.sleep(0.1)
        yield b"z" * 10 + b"\n\n"
        while True:
            time.sleep(0.02)
            yield b"data: next\n\n"

    middleware = SSEMiddleware(application_of(produce()), oversized=oversized, retry=None, heartbeat=None)
    body = Response(middleware, environ_of({**request_, "QUERY_STRING": "sse-fragments=1"})).body()
    events = list(read_events([body], join_fragments=True))
    assert [(event.id, len(event.data)) for event in events[:2]] == [("1", 3), ("2", 410)]
    assert sum(middleware.stats().ended.values()) == middleware.stats().ended["drain"] == 1


def test_a_heartbeat_tears_no_byte_order_mark() -> None:
    def produce() -> Iterator[bytes]:
        for block in (b"\xef", b"\xbb", b"\xbfda"):
            yield block
            time.sleep(0.01)
            yield b""
        yield b"ta: [1,2]\n\n"

    middleware = SSEMiddleware(application_of(produce()), heartbeat=0.005, oversized=Fold(over=60, width=60))
    body = Response(middleware, environ_of()).body()
    assert [event.data for event in read_events([body])] == ["[1,2]"]
