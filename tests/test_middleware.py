"""`SSEMiddleware`: PEP 3333 kept on the server's thread, streams tended, and everything else left alone."""

from __future__ import annotations

import contextlib
import contextvars
import gc
import io
import logging
import socket
import threading
import traceback
import weakref
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING
from wsgiref.validate import validator

import pytest
from hypothesis import given as given_any
from hypothesis import strategies as st

from ssemiddleware import Event, Fold, Fragment, MemoryGovernor, SSEMiddleware, Stream, read_events
from ssemiddleware.event_stream import BOM

from .applications import (
    ANNOUNCED,
    DATASTAR,
    DEADLINE,
    EVENT_SOURCE,
    EVENT_STREAM,
    MCP,
    Blocks,
    Response,
    application_of,
    environ_of,
    respond,
    respond_unchecked,
)
from .event_stream.streams import cuttings
from .servers.fake import Exchange

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment

EVENT = b"data: 1\n\n"
HTML = ("Content-Type", "text/html")
UNANNOUNCED: dict[str, str] = {}
REQUESTS = {
    "unannounced": UNANNOUNCED, "announced": ANNOUNCED, "EventSource": EVENT_SOURCE, "MCP": MCP, "Datastar": DATASTAR,
}  # fmt: skip
all_requests = pytest.mark.parametrize("request_", REQUESTS.values(), ids=REQUESTS)
all_kinds = pytest.mark.parametrize("kind", [EVENT_STREAM, HTML], ids=["event stream", "html"])


# -- what is an event stream and what is not


@all_requests
def test_a_unit_test_sees_exactly_the_applications_own_bytes(request_: dict[str, str]) -> None:
    blocks = Blocks([BOM + b"data: 1\n\n", b"", b"data: " + b"x" * 1000 + b"\n\n", b"data: half"])
    response = respond(application_of(blocks), request_)
    assert response.body() == BOM + b"data: 1\n\ndata: " + b"x" * 1000 + b"\n\ndata: half"
    assert len(blocks.closed_on) == 1


@all_requests
@pytest.mark.parametrize("status", ["200 OK", "201 Created", "404 Not Found", "503 Service Unavailable"])
def test_an_event_stream_is_recognised_by_its_type_whatever_its_status(status: str, request_: dict[str, str]) -> None:
    response = respond(application_of([EVENT], status=status), request_)
    assert response.body() == EVENT
    assert response.status == status
    assert response.headers["X-Accel-Buffering"] == "no"


@all_requests
def test_a_response_that_is_no_event_stream_is_the_same_object(request_: dict[str, str]) -> None:
    headers = [HTML, ("Connection", "x")]
    for iterable in ([b"<html>"], (b"<html>",), [], Blocks([b"<html>"]), io.BytesIO(b"<html>"), iter([b"<html>"])):
        before = set(threading.enumerate())
        middleware = SSEMiddleware(application_of(iterable, *headers))
        response = Response(middleware, environ_of(request_))
        assert response.iterable is iterable
        assert response.starts == [("200 OK", headers, None)]
        assert {thread.name for thread in set(threading.enumerate()) - before} <= {"ssemiddleware-watcher"}
        assert middleware.stats().open == 0


@all_requests
def test_wrapping_twice_is_wrapping_once(request_: dict[str, str]) -> None:
    inner = SSEMiddleware(application_of([EVENT]))
    response = respond(inner, request_)
    assert response.body() == EVENT
    assert sum(inner.stats().ended.values()) == 0


@all_requests
def test_wrapping_twice_is_wrapping_once_also_where_a_layer_between_is_a_generator(request_: dict[str, str]) -> None:
    """It calls the inner middleware when the server iterates the outer one's response. The stream has one place."""

    def layer(environ: WSGIEnvironment, start_response: StartResponse) -> Iterator[bytes]:
        yield from inner(environ, start_response)

    inner = SSEMiddleware(application_of([EVENT]))
    outer = SSEMiddleware(layer)
    assert Response(outer, environ_of(request_)).body() == EVENT
    assert (dict(inner.stats().ended), dict(outer.stats().ended)) == ({}, {"application ended": 1})


@all_requests
@all_kinds
def test_a_lazy_answer_that_is_over_does_not_keep_its_environ_from_another_middleware(
    kind: tuple[str, str], request_: dict[str, str]
) -> None:
    def lazy(environ: WSGIEnvironment, start_response: StartResponse) -> Iterator[bytes]:
        start_response("200 OK", [kind])
        yield EVENT

    environ = environ_of(request_)
    assert Response(SSEMiddleware(lazy), environ).body() == EVENT
    middleware = SSEMiddleware(application_of([EVENT]))
    assert Response(middleware, environ).body() == EVENT
    assert dict(middleware.stats().ended) == {"application ended": 1}


@all_requests
def test_an_environ_that_is_answered_twice_is_wrapped_twice(request_: dict[str, str]) -> None:
    environ = environ_of(request_)
    for _ in range(2):
        middleware = SSEMiddleware(application_of([EVENT]))
        assert Response(middleware, environ).body() == EVENT
        assert dict(middleware.stats().ended) == {"application ended": 1}


@all_requests
def test_an_environ_that_comes_again_after_an_error_is_wrapped_again(request_: dict[str, str]) -> None:
    """repoze.retry asks again with the same environ."""
    environ, handles = environ_of(request_), list[Stream]()

    def application(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        handles.append(environ["ssemiddleware.stream"])
        if len(handles) == 1:
            raise LookupError
        return application_of([EVENT])(environ, start_response)

    middleware = SSEMiddleware(application)
    with pytest.raises(LookupError):
        middleware(environ, lambda status, headers, exc_info=None: lambda block: None)
    response = Response(middleware, environ)
    assert handles[0].closed.is_set()
    assert not handles[1].closed.is_set()
    assert response.body() == EVENT
    assert dict(middleware.stats().ended) == {"application ended": 1}


@all_requests
def test_an_application_that_never_starts_its_response_is_the_server_s_to_handle(request_: dict[str, str]) -> None:
    response = respond_unchecked(lambda environ, start_response: [b"x"], request_)
    assert list(iter(response.iterable)) == [b"x"]
    assert response.starts == []
    response.close()


# -- PEP 3333


@all_requests
@all_kinds
@pytest.mark.parametrize(
    "make",
    [list, tuple, iter, Blocks, lambda blocks: (block for block in blocks)],
    ids=["list", "tuple", "iterator", "closable", "generator"],
)
@pytest.mark.parametrize("blocks", [[], [EVENT], [EVENT, EVENT]], ids=["empty", "one", "two"])
def test_any_iterable_will_do(
    blocks: list[bytes], make: Callable[[list[bytes]], Iterable[bytes]], kind: tuple[str, str], request_: dict[str, str]
) -> None:
    assert respond(application_of(make(blocks), kind), request_).body() == b"".join(blocks)


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


@all_requests
@all_kinds
def test_what_close_raises_is_raised_once_and_after_all_blocks(kind: tuple[str, str], request_: dict[str, str]) -> None:
    iterable = Closes([EVENT])
    response = respond(application_of(iterable, kind), request_)
    blocks = response.blocks()
    assert next(blocks) == EVENT
    with pytest.raises(OSError, match="close failed"):
        next(blocks)
    if kind is EVENT_STREAM:
        response.close()
    assert iterable.closed == 1


class Failure(Exception):
    pass


@all_requests
def test_what_the_application_raises_before_it_answers_is_raised_by_the_call(request_: dict[str, str]) -> None:
    def application(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        handles.append(environ["ssemiddleware.stream"])
        raise Failure("before")

    handles: list[Stream] = []
    middleware = SSEMiddleware(application)
    with pytest.raises(Failure, match="before") as raised:
        Response(middleware, environ_of(request_))
    assert traceback.extract_tb(raised.value.__traceback__)[-1].name == "application"
    assert handles[0].reason == "application raised"
    assert middleware.stats().open == 0


@all_requests
@all_kinds
@pytest.mark.parametrize("before", [[], [EVENT, EVENT]], ids=["first", "later"])
@pytest.mark.parametrize("error", [Failure, KeyboardInterrupt, SystemExit, GeneratorExit])
def test_what_iterating_raises_comes_after_the_blocks_before_it(
    error: type[BaseException], before: list[object], kind: tuple[str, str], request_: dict[str, str]
) -> None:
    blocks = Blocks([*before, error("between")])
    response = respond(application_of(blocks, kind), request_)
    received: list[bytes] = []
    with pytest.raises(error, match="between") as raised:
        received.extend(response.blocks())
    assert received == before
    assert "__next__" in [frame.name for frame in traceback.extract_tb(raised.value.__traceback__)]
    assert len(blocks.closed_on) == 1


@all_requests
@pytest.mark.parametrize("block", ["text", None, 5, Event("x")], ids=lambda block: type(block).__name__)
def test_a_block_that_is_not_bytes_is_a_type_error_that_names_the_type(block: object, request_: dict[str, str]) -> None:
    for before in ([], [EVENT], [EVENT] * 8):
        blocks = Blocks([*before, block])
        response = respond_unchecked(application_of(blocks), request_)
        received: list[bytes] = []
        with pytest.raises(TypeError, match=rf"an event stream's blocks must be bytes, got {type(block).__name__}") as raised:
            received.extend(response.blocks())
        assert received == before
        assert ("yield bytes(event)" in str(raised.value)) is isinstance(block, Event)
        assert len(blocks.closed_on) == 1


@all_requests
def test_a_block_of_a_subclass_is_sent_as_plain_bytes(request_: dict[str, str]) -> None:
    class Subclass(bytes):
        pass

    blocks = list(respond_unchecked(application_of([Subclass(EVENT)] * 8), request_).blocks())
    assert blocks == [EVENT] * 8
    assert {type(block) for block in blocks} == {bytes}


@all_requests
def test_a_head_request_is_answered_with_headers_alone(request_: dict[str, str]) -> None:
    def endless() -> Iterator[bytes]:
        while True:
            yield EVENT

    request = {**request_, "REQUEST_METHOD": "HEAD"}
    blocks = Blocks(endless())
    response = respond(application_of(blocks), request)
    assert response.body() == b""
    assert response.headers["X-Accel-Buffering"] == "no"
    assert len(blocks.closed_on) == 1

    def lazy_endless(environ: WSGIEnvironment, start_response: StartResponse) -> Iterator[bytes]:
        start_response("200 OK", [EVENT_STREAM])
        yield from endless()

    assert respond(lazy_endless, request).body() == b""


@pytest.mark.parametrize("status", ["204 No Content", "304 Not Modified"])
@pytest.mark.parametrize("request_", [ANNOUNCED, EVENT_SOURCE], ids=["announced", "EventSource"])
def test_nothing_is_added_where_a_status_has_no_body(request_: dict[str, str], status: str) -> None:
    exchange = Exchange(application_of([], status=status), request_)
    exchange.tick(60)
    assert b"".join(exchange.rest()) == exchange.client.body == b""


# -- one request, one thread, one Context


@all_requests
@all_kinds
def test_all_of_a_request_runs_on_the_servers_thread_in_its_context(kind: tuple[str, str], request_: dict[str, str]) -> None:
    variable: contextvars.ContextVar[str] = contextvars.ContextVar("variable")
    variable.set("the server's")
    seen: list[tuple[str, threading.Thread]] = []

    def see() -> None:
        seen.append((variable.get(), threading.current_thread()))

    class Application(Blocks):
        def __next__(self) -> bytes:
            see()
            return super().__next__()

        def close(self) -> None:
            see()
            variable.set("set in close()")
            super().close()

    def application(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        see()
        environ["ssemiddleware.stream"].on_close(see)
        variable.set("the application's")
        start_response("200 OK", [kind])
        return Application([EVENT] * 3)

    respond(application, request_).body()
    assert [value for value, _ in seen] == ["the server's"] + ["the application's"] * (6 if kind is EVENT_STREAM else 5)
    assert {thread for _, thread in seen} == {threading.current_thread()}
    assert variable.get() == "set in close()"


@all_requests
@all_kinds
def test_leaving_early_closes_the_application_once(kind: tuple[str, str], request_: dict[str, str]) -> None:
    blocks = Blocks(EVENT for _ in range(10**9))
    response = respond(application_of(blocks, kind), request_)
    iterator = response.blocks()
    next(iterator)
    iterator.close()  # type: ignore[attr-defined]
    assert blocks.closed_on == [threading.current_thread()]


@all_requests
def test_a_generator_is_closed_where_it_is(request_: dict[str, str]) -> None:
    events: list[str] = []

    def application(environ: WSGIEnvironment, start_response: StartResponse) -> Iterator[bytes]:
        start_response("200 OK", [EVENT_STREAM])
        try:
            for _ in range(10**9):
                yield EVENT
        except GeneratorExit:
            events.append("GeneratorExit")
            raise
        finally:
            events.append("finally")

    blocks = respond(application, request_).blocks()
    assert [next(blocks), next(blocks)] == [EVENT] * 2
    blocks.close()  # type: ignore[attr-defined]
    assert events == ["GeneratorExit", "finally"]


# -- the request


def test_only_a_request_that_accepts_only_an_event_stream_loses_its_accept_encoding() -> None:
    seen: dict[str, str | None] = {}

    def application(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        seen[environ["name"]] = environ.get("HTTP_ACCEPT_ENCODING")
        start_response("200 OK", [EVENT_STREAM])
        return []

    for name, request in REQUESTS.items():
        respond(application, {**request, "HTTP_ACCEPT_ENCODING": "gzip", "name": name}).body()
    assert seen == {"unannounced": "gzip", "announced": None, "EventSource": None, "MCP": "gzip", "Datastar": "gzip"}


def test_announced_may_be_any_rule() -> None:
    middleware = SSEMiddleware(application_of([EVENT]), announced=lambda environ: environ["PATH_INFO"] == "/chat")
    for path in ("/chat", "/other"):
        response = Response(middleware, environ_of({"PATH_INFO": path}))
        stats = middleware.stats()
        assert (stats.open_announced, stats.open_unannounced) == ((1, 0) if path == "/chat" else (0, 1))
        assert response.body() == EVENT


@all_requests
def test_the_application_finds_a_handle_on_its_stream(request_: dict[str, str]) -> None:
    streams: list[Stream] = []

    def application(environ: WSGIEnvironment, start_response: StartResponse) -> Iterator[bytes]:
        streams.append(environ["ssemiddleware.stream"])
        start_response("200 OK", [EVENT_STREAM])
        yield EVENT
        yield EVENT

    response = respond(application, {**request_, "HTTP_LAST_EVENT_ID": "ä€".encode().decode("latin-1")})
    blocks = response.blocks()
    next(blocks)
    (stream,) = streams
    assert stream.last_event_id == "ä€"
    assert stream.reason is None
    assert not stream.closed.is_set()
    blocks.close()  # type: ignore[attr-defined]
    assert stream.closed.is_set()
    assert stream.closing.is_set()
    assert stream.reason == "client gone"


@all_requests
@pytest.mark.parametrize(
    ("blocks", "reason"),
    [([EVENT], "application ended"), ([], "application ended"), ([EVENT, Failure()], "application raised")],
)
def test_the_handle_knows_how_the_stream_ended(blocks: list[object], reason: str, request_: dict[str, str]) -> None:
    called: list[str | None] = []
    handles: list[Stream] = []

    def application(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        handles.append(environ["ssemiddleware.stream"])
        handles[0].on_close(lambda: called.append(handles[0].reason))
        start_response("200 OK", [EVENT_STREAM])
        return Blocks(blocks)

    with contextlib.suppress(Failure):
        respond(application, request_).body()
    assert called == [reason]
    assert handles[0].closed.is_set()


# -- blocks


@given_any(cuttings(), st.integers(16, 40), st.sampled_from([*REQUESTS.values()]))
def test_what_goes_out_is_what_came_in(blocks: list[bytes], max_block: int, request_: dict[str, str]) -> None:
    sent = list(respond(application_of(Blocks(blocks)), request_, max_block=max_block).blocks())
    assert b"".join(sent) == b"".join(blocks)
    assert all(len(block) <= max_block for block in sent)


@given_any(cuttings(), st.sampled_from([*REQUESTS.values()]))
def test_a_stream_reads_as_it_would_have(blocks: list[bytes], request_: dict[str, str]) -> None:
    assert list(read_events(respond(application_of(Blocks(blocks)), request_, max_block=16).blocks())) == list(
        read_events(blocks)
    )


@all_requests
@pytest.mark.parametrize(
    "oversized", [None, Fold(over=60, width=60), Fragment(over=100, size=60)], ids=["none", "fold", "fragment"]
)
def test_the_rest_of_an_unfinished_line_is_sent_and_counted(
    request_: dict[str, str], oversized: Fold | Fragment | None
) -> None:
    stream = b"data: 1\n\ndata: [1, 2"
    middleware = SSEMiddleware(application_of([stream]), oversized=oversized)
    assert Response(middleware, environ_of(request_)).body() == stream
    assert middleware.stats().bytes_out == len(stream)


@pytest.mark.parametrize(
    "oversized",
    [None, Fragment(over=100, size=60), [Fold(over=60, width=60), Fragment(over=100, size=60)]],
    ids=["neither", "fragment", "both"],
)
def test_an_event_that_is_leaving_may_end_before_a_drain(oversized: Fragment | list[Fold | Fragment] | None) -> None:
    def produce(environ: WSGIEnvironment, start_response: StartResponse) -> Iterator[bytes]:
        start_response("200 OK", [EVENT_STREAM])
        yield b"id: 1\ndata: one\n\n"
        yield b"id: 2\ndata: " + b"x" * 300
        exchange.is_drained = True
        exchange.tick()
        yield b"y" * 100
        exchange.tick(0.1)
        yield b"z" * 10 + b"\n\n"
        for _ in range(100):
            exchange.tick(0.02)
            yield b"data: next\n\n"

    exchange = Exchange(produce, {**EVENT_SOURCE, "QUERY_STRING": "sse-fragments=1"}, oversized=oversized, retry=None)
    exchange.rest()
    events = list(read_events(exchange.client.received, join_fragments=True))
    assert [(event.id, len(event.data)) for event in events[:2]] == [("1", 3), ("2", 410)]
    assert dict(exchange.middleware.stats().ended) == {"drain": 1}


# -- the end, in time


def test_drain_ends_streams_that_are_open() -> None:
    def application(environ: WSGIEnvironment, start_response: StartResponse) -> Iterator[bytes]:
        start_response("200 OK", [EVENT_STREAM])
        yield EVENT
        assert environ["ssemiddleware.stream"].closed.wait(DEADLINE)  # a real watcher's doing
        reasons.append(environ["ssemiddleware.stream"].reason)
        yield EVENT
        yield EVENT

    reasons: list[str] = []
    middleware = SSEMiddleware(application, retry=1000)
    blocks = Response(middleware, environ_of(EVENT_SOURCE)).blocks()
    assert next(blocks) == EVENT
    middleware.drain()
    *rest, last = blocks
    assert rest == [EVENT]
    assert last.startswith(b"retry: ")
    assert 750 <= int(last.removeprefix(b"retry: ")) <= 1500
    assert reasons == ["drain"]


def test_drain_may_be_called_in_a_signal_handler() -> None:
    middleware = SSEMiddleware(application_of([EVENT]))
    with middleware._streams.admission._counted.lock:  # wherever the thread that is interrupted stands
        middleware.drain()


def ended_after(middleware: SSEMiddleware, seconds: float) -> threading.Timer:
    """Open a stream to a client that is no EventSource, and close it after *seconds*, on another thread."""
    blocks = Response(middleware, environ_of(ANNOUNCED)).blocks()
    assert next(blocks) == EVENT
    timer = threading.Timer(seconds, lambda: list(blocks))
    timer.start()
    return timer


def test_drain_returns_whether_all_streams_are_over_and_waits_for_that_if_asked_to() -> None:
    middleware = SSEMiddleware(application_of([EVENT, EVENT]))
    timer = ended_after(middleware, 0.3)
    try:
        assert not middleware.drain()
        assert not middleware.drain(wait=0.01)
        assert middleware.drain(wait=DEADLINE)
        assert middleware.stats().open == 0
    finally:
        timer.join(DEADLINE)
    assert middleware.drain()


def test_drain_waits_for_the_server_to_close_a_stream_that_has_ended() -> None:
    middleware = SSEMiddleware(application_of([EVENT]))
    iterable = middleware(environ_of(ANNOUNCED), lambda *_: lambda _block: None)
    assert list(iterable) == [EVENT]
    assert middleware.stats().open == 0
    assert not middleware.drain(wait=0.05)  # the server writes the last chunk now
    iterable.close()  # type: ignore[attr-defined]  # an EventStream
    assert middleware.drain(wait=DEADLINE)


def test_drain_does_not_wait_for_another_middleware() -> None:
    middleware, other = SSEMiddleware(application_of([EVENT])), SSEMiddleware(application_of([EVENT, EVENT]))
    Response(middleware, environ_of(ANNOUNCED)).body()
    timer = ended_after(other, 0.6)  # until then the watcher has adopted it
    assert middleware.drain(wait=DEADLINE)
    assert other.stats().open == 1
    timer.join(DEADLINE)


@pytest.mark.parametrize("wait", [-1, float("inf"), float("nan"), "1", True])
def test_a_wait_that_is_none_is_refused(wait: object) -> None:
    with pytest.raises(ValueError, match=f"^wait must be a number of seconds from 0, or None, got {wait!r}$"):
        SSEMiddleware(application_of([])).drain(wait=wait)  # type: ignore[arg-type]


# -- the log


def test_why_a_stream_that_delays_others_is_short_is_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    middleware = SSEMiddleware(application_of([b"data: 1\n\n"]))
    with socket.socket() as connection:
        for request_ in (ANNOUNCED, EVENT_SOURCE, EVENT_SOURCE):
            environ = environ_of({**request_, "HTTP_VERSION": "2"})
            environ["gunicorn.socket"] = connection
            assert Response(middleware, environ).body().endswith(b"data: 1\n\n")
    (line,) = [record.getMessage() for record in caplog.records if "one connection" in record.getMessage()]
    assert line.startswith("over HTTP/2 gunicorn answers the requests of one connection one after another")
    assert line.endswith("an EventSource's stream ends after 10 s at the latest")


def test_dropped_headers_are_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    middleware = SSEMiddleware(application_of([], EVENT_STREAM, ("Connection", "keep-alive"), ("ETag", "x")))
    for _ in range(3):
        response = Response(middleware, environ_of(ANNOUNCED))
        assert "ETag" not in response.headers
        response.close()
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert record.getMessage().startswith(
        "dropped Connection, ETag from the headers of an event stream: an application must not set hop-by-hop headers"
    )


FORGED = "/chat\nCRITICAL:root:forged"


def test_a_path_with_a_line_feed_is_quoted_in_the_log(caplog: pytest.LogCaptureFixture) -> None:
    request = {**EVENT_SOURCE, "PATH_INFO": FORGED}
    long_line = SSEMiddleware(application_of([b"data: " + b"x" * 100_000 + b"\n\n"]), max_streams=1)
    first = Response(long_line, environ_of(request))
    Response(long_line, environ_of(request)).body()  # refused
    first.body()
    long_line._streams._log_kept(FORGED)
    messages = [record.getMessage() for record in caplog.records]
    assert len(messages) == 3
    assert all(repr(FORGED) in message and "\n" not in message for message in messages)


# -- servers and layers that behave oddly


def layered(application: WSGIApplication) -> WSGIApplication:
    """Wrap in a layer that delegates, and so closes the iterator rather than the iterable."""

    def layer(environ: WSGIEnvironment, start_response: StartResponse) -> Iterator[bytes]:
        yield from application(environ, start_response)

    return layer


@all_requests
def test_a_layer_outside_that_delegates_still_closes_the_application(request_: dict[str, str]) -> None:
    blocks = Blocks([EVENT] * 3)
    response = Response(layered(SSEMiddleware(application_of(blocks))), environ_of(request_))
    iterator = iter(response.iterable)
    next(iterator)
    iterator.close()  # type: ignore[attr-defined]
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


@all_requests
def test_a_lazy_response_whose_client_disconnects_is_closed_once(request_: dict[str, str]) -> None:
    lazy = Lazy([b"1", b"2", b"3"])
    response = respond_unchecked(lazy, request_)
    blocks = response.blocks()
    assert [next(blocks), next(blocks)] == [b"1", b"2"]
    blocks.close()  # type: ignore[attr-defined]
    assert len(lazy.closed_on) == 1


@all_requests
def test_what_the_application_raised_lives_no_longer_than_its_request(request_: dict[str, str]) -> None:
    class Held:
        pass

    def raises_at_once(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        held = Held()
        references.append(weakref.ref(held))
        raise Failure

    def raises_later(environ: WSGIEnvironment, start_response: StartResponse) -> Iterator[bytes]:
        held = Held()
        references.append(weakref.ref(held))
        start_response("200 OK", [EVENT_STREAM])
        yield EVENT
        raise Failure

    references: list[weakref.ref[Held]] = []
    gc.disable()
    try:
        for application in (raises_at_once, raises_later):
            with contextlib.suppress(Failure):
                iterable = SSEMiddleware(application)(environ_of(request_), lambda *_: lambda block: None)
                try:
                    list(iterable)
                finally:
                    iterable.close()  # type: ignore[attr-defined]
                    del iterable
        assert [reference() for reference in references] == [None, None]
    finally:
        gc.enable()


@all_requests
@all_kinds
def test_nothing_of_a_request_outlives_it(kind: tuple[str, str], request_: dict[str, str]) -> None:
    class Held:
        pass

    def application(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        environ["held"] = held = Held()
        references.append(weakref.ref(held))
        start_response("200 OK", [kind])
        return Blocks([EVENT])

    references: list[weakref.ref[Held]] = []
    middleware = SSEMiddleware(application)
    gc.disable()
    try:
        for _ in range(3):
            Response(middleware, environ_of(request_)).body()
        assert [reference() for reference in references] == [None] * 3
    finally:
        gc.enable()


@all_requests
def test_memory_pressure_concerns_no_response_but_event_streams(request_: dict[str, str]) -> None:
    governor = MemoryGovernor(read=lambda: (2000, 1000))
    assert respond(application_of(Blocks([b"<html>"] * 9), HTML), request_, memory=governor).body() == b"<html>" * 9

    def lazy(environ: WSGIEnvironment, start_response: StartResponse) -> Iterator[bytes]:
        start_response("200 OK", [HTML])
        yield from [b"x" * 100_000] * 9

    assert len(respond(lazy, UNANNOUNCED, memory=governor).body()) == 900_000


def test_streams_on_many_threads_keep_apart() -> None:
    def application(environ: WSGIEnvironment, start_response: StartResponse) -> Iterator[bytes]:
        start_response("200 OK", [EVENT_STREAM])
        for number in range(200):
            yield b"data: %s %d\n\n" % (environ["PATH_INFO"].encode(), number)

    middleware = SSEMiddleware(application)
    bodies: dict[str, bytes] = {}

    def visit(path: str) -> None:
        bodies[path] = Response(middleware, environ_of({**EVENT_SOURCE, "PATH_INFO": path})).body()

    visitors = [threading.Thread(target=visit, args=(f"/{number}",)) for number in range(20)]
    for visitor in visitors:
        visitor.start()
    for visitor in visitors:
        visitor.join(DEADLINE)
    assert len(bodies) == 20
    assert all(
        body == b"".join(b"data: %s %d\n\n" % (path.encode(), number) for number in range(200)) for path, body in bodies.items()
    )
    stats = middleware.stats()
    assert (stats.open, stats.events_in, stats.events_out) == (0, 4000, 4000)


def test_the_validator_on_both_sides_has_no_complaint_about_a_served_stream() -> None:
    def application(environ: WSGIEnvironment, start_response: StartResponse) -> Iterator[bytes]:
        start_response("200 OK", [EVENT_STREAM])
        yield EVENT
        yield b""
        yield EVENT

    for request in REQUESTS.values():
        wrapped = SSEMiddleware(validator(application))
        assert Response(validator(wrapped), environ_of(request)).body() == EVENT * 2
