"""`ssemiddleware.refusing`: the answer to a refused request, by the kind of client and whether its application has run."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from itertools import repeat
from typing import TYPE_CHECKING
from wsgiref.validate import validator

import pytest

from ssemiddleware import SSEMiddleware, read_events
from ssemiddleware.refusing import Refusals
from ssemiddleware.request import Request, accepts_event_stream

from .applications import ANNOUNCED, EVENT_SOURCE, EVENT_STREAM, MCP, Response, environ_of

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment

Headers = list[tuple[str, str]]

VARNISHED = {**ANNOUNCED, "HTTP_PRAGMA": "no-cache"}  # Varnish strips Cache-Control
FETCH = {**ANNOUNCED, "HTTP_SEC_FETCH_MODE": "cors"}
CURL = {"HTTP_ACCEPT": "*/*"}


class Streams:
    """An application of endless streams that counts its calls, and how many of its iterables were closed."""

    def __init__(self, *headers: tuple[str, str], lazily: bool = False) -> None:
        self.headers, self.lazily = [EVENT_STREAM, *headers], lazily
        self.calls = self.closed = self.asked = 0

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        self.calls += 1
        if not self.lazily:
            start_response("200 OK", self.headers)
        return self.produce(start_response)

    def produce(self, start_response: StartResponse) -> Iterator[bytes]:
        try:
            if self.lazily:
                start_response("200 OK", self.headers)
            while True:
                self.asked += 1
                yield b"data: x\n\n"
        finally:
            self.closed += 1


class Full:
    """A middleware whose only place is taken."""

    def __init__(self, application: WSGIApplication, first: dict[str, str] = ANNOUNCED, **options: object) -> None:
        self.middleware = SSEMiddleware(application, max_streams=1, **options)  # type: ignore[arg-type]
        self.holder = Response(self.middleware, environ_of(first))
        while not next(iter(self.holder.iterable)):
            pass

    def ask(self, given: dict[str, str], **more: str) -> tuple[Response, bytes]:
        response = Response(validator(self.middleware), environ_of({**given, **more}))
        return response, response.body()

    def free_the_place(self) -> None:
        self.holder.close()


lazily = pytest.mark.parametrize("lazily", [False, True], ids=["at once", "lazily"])
each_announced = pytest.mark.parametrize(
    "announced", [accepts_event_stream, lambda environ: False], ids=["announced", "unannounced"]
)


def assert_is_retry_and_end(response: Response, body: bytes) -> None:
    assert response.status == "200 OK"
    assert response.headers["Content-Type"] == "text/event-stream; charset=utf-8"
    assert response.headers["Cache-Control"] == "no-cache, no-transform"
    assert response.headers["X-Accel-Buffering"] == "no"
    assert body.startswith(b"retry: ")
    assert body.endswith(b"\n\n")
    assert 2000 < int(body[7:]) < 10_000
    assert list(read_events([body])) == []


def assert_is_503(response: Response, body: bytes, *, has_body: bool = True) -> None:
    assert response.status == "503 Service Unavailable"
    assert 2 < int(response.headers["Retry-After"]) < 11
    assert response.headers["Content-Type"] == "text/plain; charset=utf-8"
    assert response.headers["Cache-Control"] == "no-store"
    assert int(response.headers["Content-Length"]) > 0
    assert len(body) == (int(response.headers["Content-Length"]) if has_body else 0)


# -- by the kind of client


@pytest.mark.parametrize("client", [EVENT_SOURCE, VARNISHED], ids=["as sent", "behind Varnish"])
@each_announced
@lazily
def test_a_refused_event_source_gets_the_time_to_reconnect(
    client: dict[str, str], announced: Callable[[WSGIEnvironment], bool], lazily: bool
) -> None:
    full = Full(Streams(lazily=lazily), announced=announced)
    assert_is_retry_and_end(*full.ask(client))
    full.free_the_place()
    again = Response(full.middleware, environ_of(client))
    assert next(again.blocks()) == b"data: x\n\n"
    again.close()
    assert (full.middleware.stats().open, full.middleware.stats().refused) == (0, 1)


@pytest.mark.parametrize(
    "client",
    [
        FETCH,
        {"HTTP_ACCEPT": "text/event-stream;q=0.9", "HTTP_CACHE_CONTROL": "no-cache"},
        {**EVENT_SOURCE, "REQUEST_METHOD": "POST"},
        {**EVENT_SOURCE, "REQUEST_METHOD": "DELETE"},
    ],
    ids=["fetch", "another Accept", "POST", "DELETE"],
)
def test_any_other_client_gets_503_before_its_application_runs(client: dict[str, str]) -> None:
    application = Streams()
    full = Full(application)
    assert_is_503(*full.ask(client))
    assert application.calls == 1
    full.free_the_place()


@pytest.mark.parametrize(
    "client",
    [CURL, {"HTTP_ACCEPT": "text/event-stream, */*", "HTTP_CACHE_CONTROL": "no-cache"}, {**MCP, "REQUEST_METHOD": "GET"}],
    ids=["curl", "takes anything", "MCP"],
)
@lazily
def test_a_get_request_gets_503_after_its_application_has_run_too(client: dict[str, str], lazily: bool) -> None:
    application = Streams(lazily=lazily)
    full = Full(validator(application))
    assert_is_503(*full.ask(client))
    assert (application.calls, application.asked) == (2, 1 + lazily), "an event was made for no client"
    assert application.closed == lazily, "an iterable that never began has nothing to close"
    full.free_the_place()


@pytest.mark.parametrize("client", [MCP, {**CURL, "REQUEST_METHOD": "POST"}, {**CURL, "REQUEST_METHOD": "DELETE"}])
@lazily
def test_a_request_that_must_not_run_twice_is_never_refused_after_it_has_run(client: dict[str, str], lazily: bool) -> None:
    application = Streams(lazily=lazily)
    full = Full(application)
    response = Response(full.middleware, environ_of(client))
    assert next(iter(response.iterable)) == b"data: x\n\n"
    assert response.status == "200 OK"
    response.close()
    full.free_the_place()
    assert full.middleware.stats().refused == 0


@pytest.mark.parametrize("client", [EVENT_SOURCE, FETCH, CURL], ids=["like an EventSource", "fetch", "curl"])
def test_a_head_request_that_is_refused_has_no_body(client: dict[str, str]) -> None:
    full = Full(Streams())
    assert_is_503(*full.ask(client, REQUEST_METHOD="HEAD"), has_body=False)
    full.free_the_place()


def test_an_application_sees_that_its_stream_was_refused() -> None:
    called, handles = [], []

    def application(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        handles.append(environ["ssemiddleware.stream"])
        handles[-1].on_close(lambda: called.append(len(handles)))
        start_response("200 OK", [EVENT_STREAM])
        return repeat(b"data: x\n\n")

    full = Full(application)
    full.ask(CURL)
    assert called == [2]
    assert (handles[1].reason, handles[1].closed.is_set()) == ("refused", True)
    full.free_the_place()


@lazily
def test_an_exception_after_a_stream_was_refused_reaches_the_server(lazily: bool) -> None:
    def application(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        def produce() -> Iterator[bytes]:
            if lazily:
                start_response("200 OK", [EVENT_STREAM])
            if environ["PATH_INFO"] == "/faulty":
                raise RuntimeError("on purpose")
            yield b"data: x\n\n"

        if not lazily:
            start_response("200 OK", [EVENT_STREAM])
            if environ["PATH_INFO"] == "/faulty":
                raise RuntimeError("on purpose")
        return produce()

    full = Full(application)
    with pytest.raises(RuntimeError, match="on purpose"):
        Response(full.middleware, environ_of({**CURL, "PATH_INFO": "/faulty"})).body()
    full.free_the_place()


def test_an_error_page_in_place_of_a_refused_stream_is_sent() -> None:
    def application(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        start_response("200 OK", [EVENT_STREAM])
        if environ["PATH_INFO"] != "/faulty":
            return repeat(b"data: x\n\n")
        try:
            raise ValueError
        except ValueError:
            start_response("500 Oops", [("Content-Type", "text/plain")], sys.exc_info())
        return [b"oops"]

    full = Full(application)
    response, body = full.ask(CURL, PATH_INFO="/faulty")
    assert (response.status, body) == ("500 Oops", b"oops")
    full.free_the_place()


# -- another answer, and the log


@pytest.mark.parametrize("client", [FETCH, CURL], ids=["before", "after its application has run"])
def test_on_refused_answers_in_place_of_the_middleware(client: dict[str, str]) -> None:
    def on_refused(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        start_response("429 Too Many Requests", [("Content-Type", "text/plain")])
        return [f"back in {environ['ssemiddleware.retry']} ms".encode()]

    full = Full(Streams(), on_refused=on_refused)
    response, body = full.ask(client)
    assert body.startswith(b"back in ")
    assert 2000 < int(body.split()[2]) < 10_000
    assert response.status.startswith("429")
    full.free_the_place()


def test_the_first_refused_request_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    full = Full(Streams())
    for _ in range(3):
        full.ask(ANNOUNCED, PATH_INFO="/news\n")
    full.free_the_place()
    (line,) = [record.getMessage() for record in caplog.records]
    assert line.startswith(r"refused '/news\n': 1 event streams are open (max_streams)")
    assert "stats().refused_by" in line


# -- pages of other origins (Fetch, 3.3.3)

PAGE, OTHER = "https://page.example", "https://other.example"
ALLOWS_ALL = [("Access-Control-Allow-Origin", "*")]


def cors_of(response: Response) -> Headers:
    return [(name, value) for name, value in response.starts[-1][1] if name.lower().startswith("access-control")]


def reflecting(*origins: str) -> WSGIApplication:
    """Return an application that allows *origins*, any if there are none, by naming them."""

    def application(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        origin = environ.get("HTTP_ORIGIN", "")
        allowed = [("Access-Control-Allow-Origin", origin), ("Access-Control-Allow-Credentials", "true"), ("Vary", "Origin")]
        start_response("200 OK", [EVENT_STREAM, *(allowed if origin and (not origins or origin in origins) else [])])
        return repeat(b"data: x\n\n")

    return application


@pytest.mark.parametrize("client", [EVENT_SOURCE, FETCH, CURL], ids=["EventSource", "fetch", "curl"])
def test_a_refusal_has_the_cors_headers_of_the_streams(client: dict[str, str]) -> None:
    full = Full(reflecting(PAGE), {**EVENT_SOURCE, "HTTP_ORIGIN": PAGE})
    response, _ = full.ask(client, HTTP_ORIGIN=PAGE)
    allowed = [("Access-Control-Allow-Origin", PAGE), ("Access-Control-Allow-Credentials", "true")]
    assert cors_of(response) == allowed
    assert response.headers["Vary"] == "Origin"
    full.free_the_place()


@pytest.mark.parametrize("client", [EVENT_SOURCE, FETCH], ids=["EventSource", "fetch"])
def test_a_refusal_has_no_cors_headers_for_a_page_that_was_not_allowed(client: dict[str, str]) -> None:
    full = Full(reflecting(PAGE), {**EVENT_SOURCE, "HTTP_ORIGIN": PAGE})
    for origin in (OTHER, PAGE + ".evil.example", PAGE.upper(), "null", ""):
        response, _ = full.ask(client, HTTP_ORIGIN=origin)
        assert cors_of(response) == []
    of_the_site, _ = full.ask(client)
    assert cors_of(of_the_site) == []
    full.free_the_place()


def test_where_the_application_sends_no_cors_headers_a_refusal_has_none() -> None:
    full = Full(Streams(), {**EVENT_SOURCE, "HTTP_ORIGIN": PAGE})
    response, _ = full.ask(EVENT_SOURCE, HTTP_ORIGIN=PAGE)
    assert cors_of(response) == []
    full.free_the_place()


def test_a_page_that_is_not_allowed_changes_nothing_for_one_that_is() -> None:
    middleware = SSEMiddleware(reflecting(PAGE), max_streams=1)
    for origin in (OTHER, PAGE, OTHER):
        Response(middleware, environ_of({**EVENT_SOURCE, "HTTP_ORIGIN": origin})).close()
    holder = Response(middleware, environ_of(EVENT_SOURCE))
    refused = Response(middleware, environ_of({**EVENT_SOURCE, "HTTP_ORIGIN": PAGE}))
    assert dict(cors_of(refused))["Access-Control-Allow-Origin"] == PAGE
    holder.close()


@pytest.mark.parametrize("name", ["Access-Control-Allow-Origin", "access-control-allow-origin"])
def test_where_all_origins_are_allowed_a_refusal_is_readable_for_a_new_one(name: str) -> None:
    full = Full(Streams((name, "*"), ("X-Other", "1")), {**EVENT_SOURCE, "HTTP_ORIGIN": PAGE})
    response, _ = full.ask(EVENT_SOURCE, HTTP_ORIGIN=OTHER)
    assert cors_of(response) == [(name, "*")]
    assert "X-Other" not in response.headers
    full.free_the_place()


@pytest.mark.parametrize("application", [reflecting(), Streams(*ALLOWS_ALL)], ids=["by name", "all at once"])
def test_invented_origins_make_no_refusal_unreadable(application: WSGIApplication) -> None:
    middleware = SSEMiddleware(application)
    for origin in (PAGE, PAGE, *(f"https://{number}.evil.example" for number in range(1000))):
        Response(middleware, environ_of({**EVENT_SOURCE, "HTTP_ORIGIN": origin})).close()
    request = Request(environ_of({**EVENT_SOURCE, "HTTP_ORIGIN": PAGE}), accepts_event_stream)
    starts: list[Headers] = []
    body = middleware._streams.refusals.answer(request, lambda status, headers, exc_info=None: starts.append(headers), 1000)  # type: ignore[arg-type]
    assert list(body) == [b"retry: 1000\n\n"]
    assert dict(starts[0])["Access-Control-Allow-Origin"] in (PAGE, "*")


def test_the_number_of_remembered_origins_is_limited() -> None:
    refusals = Refusals()
    for number in range(1000):
        see(refusals, f"https://{number}.example")
    assert len(refusals._answered) == 64


def test_several_threads_may_remember_origins() -> None:
    refusals, faults = Refusals(), list[BaseException]()

    def see_many(name: str) -> None:
        try:
            for number in range(2000):
                see(refusals, f"https://{name}-{number % 100}.example")
        except BaseException as error:
            faults.append(error)

    threads = [threading.Thread(target=see_many, args=(name,)) for name in "abcd"]
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
    finally:
        sys.setswitchinterval(interval)
    assert faults == []
    assert len(refusals._answered) <= 64 + len(threads)


def see(refusals: Refusals, origin: str) -> None:
    refusals.see_headers(origin, [EVENT_STREAM, ("Access-Control-Allow-Origin", origin)])
