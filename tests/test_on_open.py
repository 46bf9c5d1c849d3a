"""``on_open`` is called once for each stream when its response starts; ``last_event_id_parameter`` finds an ID in the query."""

from __future__ import annotations

import logging
import sys
import threading
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

import pytest

from ssemiddleware import SSEMiddleware

from .applications import ANNOUNCED, EVENT_SOURCE, EVENT_STREAM, MCP, Blocks, Response, application_of, environ_of, respond

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIEnvironment

EVENT = b"data: 1\n\n"
HTML = ("Content-Type", "text/html")
all_requests = pytest.mark.parametrize(
    "request_", [{}, ANNOUNCED, EVENT_SOURCE, MCP], ids=["unannounced", "announced", "EventSource", "MCP"]
)


def lazy(environ: WSGIEnvironment, start_response: StartResponse) -> Iterator[bytes]:
    """Start the response as late as in the first block."""
    start_response("200 OK", [EVENT_STREAM])
    yield EVENT


@all_requests
@pytest.mark.parametrize("application", [application_of([EVENT]), lazy], ids=["at once", "lazily"])
def test_it_is_called_once_before_the_first_event_on_the_servers_thread(application: object, request_: dict[str, str]) -> None:
    opened: list[tuple[WSGIEnvironment, threading.Thread]] = []
    response = respond(application, request_, on_open=lambda environ: opened.append((environ, threading.current_thread())))  # type: ignore[arg-type]
    for block in response.blocks():
        assert block == EVENT
        assert len(opened) == 1
    [(environ, thread)] = opened
    assert thread is threading.current_thread()
    assert environ["ssemiddleware.stream"].reason == "application ended"


@all_requests
def test_it_may_register_what_happens_at_the_end(request_: dict[str, str]) -> None:
    calls: list[str] = []

    def on_open(environ: WSGIEnvironment) -> None:
        calls.append("open")
        environ["ssemiddleware.stream"].on_close(lambda: calls.append("closed"))

    assert respond(application_of([EVENT]), request_, on_open=on_open).body() == EVENT
    assert calls == ["open", "closed"]


@all_requests
def test_it_is_not_called_for_another_response(request_: dict[str, str]) -> None:
    opened: list[WSGIEnvironment] = []
    assert respond(application_of([b"<html>"], HTML), request_, on_open=opened.append).body() == b"<html>"
    assert opened == []


def test_it_is_not_called_for_a_stream_that_is_refused() -> None:
    opened: list[WSGIEnvironment] = []
    middleware = SSEMiddleware(application_of(Blocks([EVENT] * 3)), max_streams=1, on_open=opened.append)
    first, second, third = [Response(middleware, environ_of(given)) for given in (EVENT_SOURCE, EVENT_SOURCE, {})]
    assert (first.status, second.body().startswith(b"retry:"), third.status[:3]) == ("200 OK", True, "503")
    assert len(opened) == 1
    first.close()


@pytest.mark.parametrize("first", [EVENT_STREAM, HTML], ids=["an event stream", "another response"])
def test_it_is_called_once_for_a_response_that_is_started_twice(first: tuple[str, str]) -> None:
    opened: list[WSGIEnvironment] = []

    def application(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        start_response("200 OK", [first])
        try:
            raise LookupError
        except LookupError:
            start_response("500 Internal Server Error", [EVENT_STREAM], sys.exc_info())
        return [EVENT]

    assert respond(application, EVENT_SOURCE, on_open=opened.append).body() == EVENT
    assert len(opened) == 1


def test_what_it_raises_is_logged_once_and_the_streams_go_on(caplog: pytest.LogCaptureFixture) -> None:
    def on_open(environ: WSGIEnvironment) -> None:
        raise LookupError("no such user")

    middleware = SSEMiddleware(application_of([EVENT]), on_open=on_open)
    with caplog.at_level(logging.WARNING, "ssemiddleware"):
        for _ in range(3):
            assert Response(middleware, environ_of(EVENT_SOURCE)).body() == EVENT
    [record] = caplog.records
    assert record.getMessage() == "the callable of on_open raised; the stream goes on"
    assert record.exc_info is not None
    assert str(record.exc_info[1]) == "no such user"


def test_what_is_no_error_but_an_exit_passes() -> None:
    def on_open(environ: WSGIEnvironment) -> None:
        raise SystemExit

    middleware = SSEMiddleware(application_of([EVENT]), on_open=on_open)
    with pytest.raises(SystemExit):
        Response(middleware, environ_of(EVENT_SOURCE))
    assert middleware.stats().open == 0


@pytest.mark.parametrize(
    ("parameter", "header", "expected"),
    [("lastEventId", "", "7"), ("lastEventId", "8", "8"), ("another", "", ""), (None, "", "")],
    ids=["in the query", "the header comes first", "of another name", "not asked for"],
)
def test_the_last_event_id_comes_from_the_header_or_the_query(parameter: str | None, header: str, expected: str) -> None:
    seen: list[str] = []

    def application(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        seen.append(environ["ssemiddleware.stream"].last_event_id)
        return application_of([EVENT])(environ, start_response)

    given = {**EVENT_SOURCE, "QUERY_STRING": "lastEventId=7", **({"HTTP_LAST_EVENT_ID": header} if header else {})}
    respond(application, given, last_event_id_parameter=parameter).body()
    assert seen == [expected]
