"""`ssemiddleware.testing`: streams of wrapped and bare applications, read as a client reads them."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

import pytest

from ssemiddleware import Event, SSEMiddleware
from ssemiddleware.testing import open_stream

from .applications import DEADLINE, EVENT_STREAM, Blocks, application_of

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment


@pytest.fixture(params=["wrapped", "bare"])
def wrapped(request: pytest.FixtureRequest) -> bool:
    return bool(request.param == "wrapped")


def maybe_wrap(application: WSGIApplication, wrapped: bool) -> WSGIApplication:
    return SSEMiddleware(application, heartbeat=0.05) if wrapped else application


def test_events_come_one_by_one_to_the_end(wrapped: bool) -> None:
    application = maybe_wrap(application_of([b"id: 5\nretry: 70\ndata: 1\n\ndata: 2\n\n", b"data: 3\n\ndata: torn"]), wrapped)
    with open_stream(application) as stream:
        assert stream.status == "200 OK"
        assert stream.status_code == 200
        assert stream.headers["Content-Type"].startswith("text/event-stream")
        assert stream.next_event() == Event("1", id="5", retry=70)
        assert [event.data for event in stream] == ["2", "3"]
        assert (stream.last_event_id, stream.retry) == ("5", 70)
        with pytest.raises(EOFError, match=r"the stream ended after \d+ bytes: .*torn"):
            stream.next_event()


def test_an_event_that_does_not_come_is_a_timeout_and_the_next_one_is_not_lost(wrapped: bool) -> None:
    comes = threading.Event()

    def produce() -> Iterator[bytes]:
        yield b"data: 1\n\n"
        comes.wait(DEADLINE)
        yield b"data: 2\n\n"

    with open_stream(maybe_wrap(application_of(produce()), wrapped)) as stream:
        assert stream.next_event().data == "1"
        with pytest.raises(TimeoutError, match="no event within the deadline"):
            stream.next_event(timeout=0.1)
        comes.set()
        assert stream.next_event().data == "2"


def test_headers_are_there_before_the_first_event(wrapped: bool) -> None:
    release = threading.Event()

    def produce() -> Iterator[bytes]:
        release.wait(DEADLINE)
        yield b"data: 1\n\n"

    with open_stream(maybe_wrap(application_of(produce(), EVENT_STREAM, ("X-Other", "x")), wrapped)) as stream:
        assert stream.headers["X-Other"] == "x"
        assert stream.received == b""
        release.set()
        stream.next_event()
        assert stream.received.startswith(b":\n") is wrapped


def test_no_answer_within_the_deadline_is_a_timeout(wrapped: bool) -> None:
    def application(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        environ["werkzeug.socket"].recv(1)  # until the client has left
        start_response("200 OK", [EVENT_STREAM])
        return []

    with pytest.raises(TimeoutError, match="no headers within the deadline"):
        open_stream(maybe_wrap(application, wrapped), timeout=0.05)


def test_leaving_early_is_a_leave_for_the_application() -> None:
    seen: list[tuple[bool, str]] = []
    ended = threading.Event()

    def application(environ: WSGIEnvironment, start_response: StartResponse) -> Iterator[bytes]:
        start_response("200 OK", [EVENT_STREAM])
        try:
            yield b"data: 1\n\n"
        finally:
            stream = environ["ssemiddleware.stream"]
            seen.append((stream.closed.wait(DEADLINE), stream.reason))
            ended.set()

    with open_stream(SSEMiddleware(application)) as stream:
        stream.next_event()
    assert ended.wait(2 * DEADLINE)
    assert seen == [(True, "client gone")]


def test_leaving_closes_the_application(wrapped: bool) -> None:
    blocks = Blocks(b"data: 1\n\n" for _ in range(10**9))
    with open_stream(maybe_wrap(application_of(blocks), wrapped)) as stream:
        stream.next_event()
    assert blocks.was_closed.wait(DEADLINE)
    assert len(blocks.closed_on) == 1
    assert blocks.threads == set(blocks.closed_on)


def test_what_the_application_raises_is_raised(wrapped: bool) -> None:
    def application(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        raise LookupError("no such stream")

    with pytest.raises(LookupError, match="no such stream"):
        open_stream(maybe_wrap(application, wrapped))
    with open_stream(maybe_wrap(application_of(Blocks([b"data: 1\n\n", LookupError("later")])), wrapped)) as stream:
        assert stream.next_event().data == "1"
        with pytest.raises(LookupError, match="later"):
            stream.next_event()


def test_the_request_is_an_event_sources_unless_told_otherwise() -> None:
    seen: list[tuple[str, ...]] = []

    def application(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        seen.append(
            tuple(environ.get(key, "") for key in ("REQUEST_METHOD", "HTTP_ACCEPT", "HTTP_CACHE_CONTROL", "QUERY_STRING"))
        )
        start_response("404 Not Found", [("Content-Type", "text/plain")])
        return [environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))]

    with open_stream(application, "/x", query_string={"a": "b"}) as stream:
        assert stream.status_code == 404
    with open_stream(application, "/x", headers={"Accept": "*/*"}, method="POST", data=b"body") as stream:
        with pytest.raises(EOFError, match="body"):
            stream.next_event()
    assert seen == [("GET", "text/event-stream", "no-cache", "a=b"), ("POST", "*/*", "no-cache", "")]
