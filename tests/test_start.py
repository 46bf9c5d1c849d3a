"""`Start`: the ``start_response`` that an application is given."""

from __future__ import annotations

import contextlib
import gc
import sys
import weakref
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING

import pytest

from ssemiddleware import Compress, SSEMiddleware
from ssemiddleware.ending import StreamOver

from .applications import (
    ANNOUNCED,
    DATASTAR,
    EVENT_SOURCE,
    EVENT_STREAM,
    MCP,
    Blocks,
    Headers,
    Response,
    application_of,
    environ_of,
    respond,
)
from .servers.fake import Exchange

if TYPE_CHECKING:
    from _typeshed import OptExcInfo
    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment

EVENT = b"data: 1\n\n"
HTML = ("Content-Type", "text/html")
UNANNOUNCED: dict[str, str] = {}
all_requests = pytest.mark.parametrize(
    "request_", [UNANNOUNCED, ANNOUNCED, EVENT_SOURCE, MCP], ids=["unannounced", "announced", "EventSource", "MCP"]
)
all_kinds = pytest.mark.parametrize("kind", [EVENT_STREAM, HTML], ids=["event stream", "html"])


class Failure(Exception):
    pass


def failed() -> OptExcInfo:
    try:
        raise Failure("late")
    except Failure:
        return sys.exc_info()


@all_kinds
@all_requests
@pytest.mark.parametrize("by_keyword", [False, True], ids=["by position", "by keyword"])
def test_an_error_replaces_the_headers_until_they_are_sent(
    by_keyword: bool, request_: dict[str, str], kind: tuple[str, str]
) -> None:
    def application(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        start_response("200 OK", [kind])
        status, headers = "500 Internal Server Error", [("Content-Type", "text/plain")]
        if by_keyword:
            start_response(status, headers, exc_info=failed())  # type: ignore[call-arg]  # PEP 3333 names the parameter
        else:
            start_response(status, headers, failed())
        return [b"sorry"]

    # `wsgiref.validate` takes no keywords, so there is no referee inside.
    response = Response(SSEMiddleware(application), environ_of(request_))
    assert response.body() == b"sorry"
    assert response.status == "500 Internal Server Error"
    assert response.headers == {"Content-Type": "text/plain"}
    assert response.starts[-1][2] is not None


@all_requests
def test_a_stream_may_be_replaced_by_another_stream(request_: dict[str, str]) -> None:
    def application(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        start_response("200 OK", [EVENT_STREAM])
        start_response("503 Service Unavailable", [EVENT_STREAM], failed())
        return [EVENT]

    response = respond(application, request_)
    assert response.body() == EVENT
    assert response.status == "503 Service Unavailable"
    assert response.headers["X-Accel-Buffering"] == "no"


@all_requests
def test_a_page_may_be_replaced_by_a_stream(request_: dict[str, str]) -> None:
    def application(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        start_response("200 OK", [HTML])
        start_response("200 OK", [EVENT_STREAM], failed())
        return [EVENT]

    response = respond(application, request_)
    assert response.body() == EVENT
    assert response.headers["X-Accel-Buffering"] == "no"


@all_requests
def test_a_page_whose_iterable_the_server_has_is_not_replaced_by_a_stream(request_: dict[str, str]) -> None:
    """Its end would not be seen, and its place never given back."""

    class Page(Blocks):
        def __next__(self) -> bytes:
            block = super().__next__()
            self.start_response("200 OK", [EVENT_STREAM], failed())
            return block

        start_response: StartResponse

    def application(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        start_response("200 OK", [HTML])
        page.start_response = start_response
        return page

    page, middleware = Page([EVENT]), SSEMiddleware(application)
    response = Response(middleware, environ_of(request_))
    assert response.iterable is page
    assert response.body() == EVENT
    assert response.headers == dict([EVENT_STREAM])
    assert middleware.stats().open == 0


@all_kinds
@all_requests
def test_headers_may_be_an_iterator_where_the_server_takes_one(kind: tuple[str, str], request_: dict[str, str]) -> None:
    """gunicorn does. PEP 3333 wants a list, so there is no referee inside."""

    def application(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        start_response("200 OK", iter([kind, ("X-Name", "value")]))  # type: ignore[arg-type]
        return [EVENT]

    response = Response(SSEMiddleware(application), environ_of(request_))
    assert response.body() == EVENT
    assert response.headers["X-Name"] == "value"
    assert response.headers["Content-Type"].startswith(kind[1])


@all_kinds
@all_requests
def test_an_error_that_is_raised_again_keeps_nothing_of_the_request(kind: tuple[str, str], request_: dict[str, str]) -> None:
    def application(environ: WSGIEnvironment, start_response: StartResponse) -> Iterator[bytes]:
        environ["held"] = held = Blocks([])
        references.append(weakref.ref(held))
        start_response("200 OK", [EVENT_STREAM])
        yield EVENT
        try:
            raise Failure
        except Failure:
            start_response("500 Internal Server Error", [kind], sys.exc_info())

    def server_starts(status: str, headers: Headers, exc_info: OptExcInfo | None = None) -> Callable[[bytes], object]:
        try:
            if exc_info is not None:
                raise exc_info[1]  # type: ignore[misc]
        finally:
            exc_info = None
        return lambda block: None

    references: list[weakref.ref[Blocks]] = []
    gc.disable()
    try:
        iterable = SSEMiddleware(application)(environ_of(request_), server_starts)
        with contextlib.suppress(Failure):
            list(iterable)
        iterable.close()  # type: ignore[attr-defined]
        del iterable
        assert [reference() for reference in references] == [None]
    finally:
        gc.enable()


@all_kinds
@all_requests
def test_an_error_is_raised_in_the_application_once_the_headers_are_sent(
    kind: tuple[str, str], request_: dict[str, str]
) -> None:
    def application(environ: WSGIEnvironment, start_response: StartResponse) -> Iterator[bytes]:
        start_response("200 OK", [kind])
        yield EVENT
        start_response("500 Internal Server Error", [HTML], failed())
        yield b"never"

    blocks = respond(application, request_).blocks()
    assert next(blocks) == EVENT
    with pytest.raises(Failure, match="late"):
        next(blocks)


@pytest.mark.parametrize("kind", [EVENT_STREAM, HTML], ids=["event stream", "html"])
def test_after_that_error_no_heartbeat_divides_the_line_that_the_application_finishes(kind: tuple[str, str]) -> None:
    def application(environ: WSGIEnvironment, start_response: StartResponse) -> Iterator[bytes]:
        start_response("200 OK", [EVENT_STREAM])
        yield b"data: half"
        with pytest.raises(Failure):
            start_response("500 Internal Server Error", [kind], failed())
        exchange.tick(60)
        yield b" an event\n\n"

    exchange = Exchange(application, EVENT_SOURCE)
    exchange.rest()
    assert exchange.client.received == [b"data: half", b" an event\n\n"]


@all_requests
def test_starting_twice_without_an_error_is_the_applications_fault(request_: dict[str, str]) -> None:
    def application(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        start_response("200 OK", [EVENT_STREAM])
        start_response("200 OK", [EVENT_STREAM])
        return []

    middleware = SSEMiddleware(application)
    with pytest.raises(AssertionError):
        Response(middleware, environ_of(request_))
    assert middleware.stats().open == 0


@all_requests
def test_an_error_that_begins_a_response_is_passed_on(request_: dict[str, str]) -> None:
    def application(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        start_response("500 Internal Server Error", [HTML], failed())
        return [b"sorry"]

    response = respond(application, request_)
    assert response.body() == b"sorry"
    ((_, _, exc_info),) = response.starts
    assert exc_info is not None
    assert exc_info[0] is Failure


def test_the_server_is_called_without_a_third_argument_where_there_is_no_error() -> None:
    def start_response(status: str, headers: Headers) -> Callable[[bytes], object]:
        return lambda block: None

    assert list(SSEMiddleware(application_of([EVENT]))(environ_of(EVENT_SOURCE), start_response)) == [EVENT]  # type: ignore[arg-type]


# -- write()


@all_kinds
@all_requests
def test_what_is_written_comes_before_what_is_yielded(kind: tuple[str, str], request_: dict[str, str]) -> None:
    def application(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        write = start_response("200 OK", [kind])
        write(b"data: 1\n\n")
        write(b"data: 2\n\n")
        return [b"data: 3\n\n"]

    assert respond(application, request_).body() == b"data: 1\n\ndata: 2\n\ndata: 3\n\n"


@all_requests
def test_what_is_written_and_yielded_in_turns_keeps_its_order(request_: dict[str, str]) -> None:
    def application(environ: WSGIEnvironment, start_response: StartResponse) -> Iterator[bytes]:
        write = start_response("200 OK", [EVENT_STREAM])
        for number in range(5):
            write(b"data: %d\n\n" % (2 * number))
            yield b"data: %d\n\n" % (2 * number + 1)

    exchange = Exchange(application, request_)
    exchange.rest()
    assert exchange.client.received == [b"data: %d\n\n" % number for number in range(10)]


@all_requests
def test_a_large_block_that_is_written_is_cut_as_well(request_: dict[str, str]) -> None:
    def application(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        start_response("200 OK", [EVENT_STREAM])(b"data: " + b"x" * 100 + b"\n\n")
        return []

    response = respond(application, request_, max_block=16)
    pieces = [*response.written, *response.blocks()]
    assert b"".join(pieces) == b"data: " + b"x" * 100 + b"\n\n"
    assert max(map(len, pieces)) == 16


@all_requests
def test_an_empty_block_may_be_written(request_: dict[str, str]) -> None:
    def application(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        write = start_response("200 OK", [EVENT_STREAM])
        write(b"")
        write(EVENT)
        return []

    assert respond(application, request_).body() == EVENT


@pytest.mark.parametrize("written", [b"", b"data: half an event"], ids=repr)
@pytest.mark.parametrize("options", [{}, {"compress": Compress()}], ids=["as it is", "compressed"])
@all_kinds
@all_requests
def test_writing_any_block_sends_the_headers(
    request_: dict[str, str], kind: tuple[str, str], options: dict[str, object], written: bytes
) -> None:
    """As on any server, which sends them with the first call of ``write``."""

    def application(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        start_response("200 OK", [kind])(written)
        return []

    response = respond(application, {**request_, "HTTP_ACCEPT_ENCODING": "gzip"}, **options)
    has_sent = response.has_sent
    response.body()
    assert has_sent


@all_requests
def test_what_is_written_has_to_be_bytes(request_: dict[str, str]) -> None:
    def application(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        start_response("200 OK", [EVENT_STREAM])("text")  # type: ignore[arg-type]
        return []

    with pytest.raises(TypeError, match="must be bytes, got str"):
        Response(SSEMiddleware(application), environ_of(request_))


def test_no_heartbeat_divides_an_event_whose_first_half_was_written() -> None:
    def application(environ: WSGIEnvironment, start_response: StartResponse) -> Iterator[bytes]:
        write = start_response("200 OK", [EVENT_STREAM])
        exchange.tick(16)
        write(b"data: 1")
        exchange.tick(60)
        yield b""
        exchange.tick(60)
        yield b"\n\n"
        exchange.tick(16)
        write(b"data: 2\n\n")

    exchange = Exchange(application, EVENT_SOURCE)
    exchange.rest()
    assert exchange.client.body.strip(b":\n") == b"data: 1\n\n:\ndata: 2"


def test_a_write_after_the_end_raises_and_sends_nothing() -> None:
    writes: list[Callable[[bytes], object]] = []

    def application(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        writes.append(start_response("200 OK", [EVENT_STREAM]))
        return [EVENT]

    for request in (UNANNOUNCED, EVENT_SOURCE):
        response = Response(SSEMiddleware(application), environ_of(request))
        assert response.body() == EVENT
        with pytest.raises(StreamOver):
            writes[-1](EVENT)
        assert response.written == []


# -- a response that is started late


def lazily(*steps: object) -> WSGIApplication:
    def application(environ: WSGIEnvironment, start_response: StartResponse) -> Iterator[bytes]:
        for step in steps:
            if isinstance(step, bytes):
                yield step
            elif isinstance(step, BaseException):
                raise step
            else:
                start_response("200 OK", [step])  # type: ignore[list-item]

    return application


@all_requests
@all_kinds
@pytest.mark.parametrize("blocks", [[], [EVENT], [EVENT, EVENT]], ids=["empty", "one", "two"])
def test_an_application_may_start_its_response_with_the_first_block(
    blocks: list[bytes], kind: tuple[str, str], request_: dict[str, str]
) -> None:
    response = respond(lazily(kind, *blocks), request_)
    assert list(response.blocks()) == blocks
    assert response.status == "200 OK"
    assert ("X-Accel-Buffering" in response.headers) is (kind is EVENT_STREAM)


@all_requests
def test_a_response_that_is_started_late_is_counted_like_any_other(request_: dict[str, str]) -> None:
    for kind, ended in ((EVENT_STREAM, {"application ended": 1}), (HTML, {})):
        for blocks in ([], [EVENT]):
            middleware = SSEMiddleware(lazily(kind, *blocks))
            Response(middleware, environ_of(request_)).body()
            assert (middleware.stats().open, dict(middleware.stats().ended)) == (0, ended)


@all_requests
@pytest.mark.parametrize("steps", [[Failure("late")], [EVENT_STREAM, Failure("late")], [HTML, Failure("late")]], ids=str)
def test_an_error_of_a_response_that_is_started_late_is_raised(steps: list[object], request_: dict[str, str]) -> None:
    middleware = SSEMiddleware(lazily(*steps))
    response = Response(middleware, environ_of(request_))
    with pytest.raises(Failure, match="late"):
        response.body()
    assert middleware.stats().open == 0


def test_a_response_that_is_started_after_its_close_is_over() -> None:
    raised: list[BaseException] = []

    class Late(Blocks):
        def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
            self.start_response = start_response
            return self

        def __next__(self) -> bytes:
            responses[-1].close()  # as from another thread
            try:
                self.start_response("200 OK", [EVENT_STREAM])
            except ConnectionError as error:
                raised.append(error)
                raise
            return EVENT

    responses: list[Response] = []
    for request in (UNANNOUNCED, ANNOUNCED, EVENT_SOURCE, MCP):
        middleware = SSEMiddleware(Late([]))
        responses.append(Response(middleware, environ_of(request)))
        with contextlib.suppress(StreamOver, StopIteration):
            next(iter(responses[-1].iterable))
        assert responses[-1].starts == []
        assert middleware.stats().open == 0
    assert [type(error) for error in raised] == [StreamOver] * 4


# -- who is asked for a place, and when


def test_only_a_request_that_accepts_only_an_event_stream_needs_a_place_before_its_application_runs() -> None:
    def asked_before(request: dict[str, str]) -> bool:
        seen: list[int] = []

        def application(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
            seen.append(middleware.stats().open)
            start_response("200 OK", [EVENT_STREAM])
            return []

        middleware = SSEMiddleware(application)
        Response(middleware, environ_of(request)).body()
        return seen == [1]

    assert [asked_before(request) for request in (EVENT_SOURCE, ANNOUNCED)] == [True, True]
    assert [asked_before(request) for request in (MCP, DATASTAR, UNANNOUNCED)] == [False] * 3


@pytest.mark.parametrize("request_", [MCP, {"REQUEST_METHOD": "POST"}, {"REQUEST_METHOD": "PUT"}], ids=["MCP", "POST", "PUT"])
@pytest.mark.parametrize("is_lazy", [False, True], ids=["eager", "lazy"])
def test_what_must_not_run_twice_is_never_refused_after_it_has_run(request_: dict[str, str], is_lazy: bool) -> None:
    middleware = SSEMiddleware(lazily(EVENT_STREAM, EVENT) if is_lazy else application_of([EVENT]), max_streams=1)
    first = Response(middleware, environ_of(EVENT_SOURCE))
    second = Response(middleware, environ_of(request_))
    assert second.body() == EVENT
    assert second.status == "200 OK"
    assert middleware.stats().refused == 0
    first.close()


@pytest.mark.parametrize("is_lazy", [False, True], ids=["eager", "lazy"])
def test_a_get_that_takes_other_types_is_refused_after_it_has_run(is_lazy: bool) -> None:
    closed: list[str] = []

    class Closes(Blocks):
        def close(self) -> None:
            closed.append("x")

    def eager(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        start_response("200 OK", [EVENT_STREAM])
        return Closes([EVENT])

    def lazy(environ: WSGIEnvironment, start_response: StartResponse) -> Iterator[bytes]:
        try:
            start_response("200 OK", [EVENT_STREAM])
            yield EVENT
        finally:
            closed.append("x")

    middleware = SSEMiddleware(lazy if is_lazy else eager, max_streams=1)
    first = Response(middleware, environ_of(EVENT_SOURCE))
    second = Response(middleware, environ_of(DATASTAR))
    body = second.body()
    assert second.status == "503 Service Unavailable"
    assert EVENT not in body
    assert closed == ["x"]
    assert middleware.stats().refused == 1
    first.close()


def test_json_is_never_refused() -> None:
    middleware = SSEMiddleware(application_of([b"{}"], ("Content-Type", "application/json")), max_streams=1)
    streams = SSEMiddleware(application_of([EVENT]), max_streams=1)
    first = Response(streams, environ_of(EVENT_SOURCE))
    for request in (MCP, DATASTAR):
        assert Response(middleware, environ_of(request)).body() == b"{}"
    first.close()
