"""WSGI applications to wrap, and requests to make of them."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING
from wsgiref.util import setup_testing_defaults
from wsgiref.validate import validator

from ssemiddleware import SSEMiddleware

if TYPE_CHECKING:
    from _typeshed import OptExcInfo
    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment

Headers = list[tuple[str, str]]

EVENT_STREAM = ("Content-Type", "text/event-stream")
ANNOUNCED = {"HTTP_ACCEPT": "text/event-stream"}
EVENT_SOURCE = {**ANNOUNCED, "HTTP_CACHE_CONTROL": "no-cache"}
MCP = {"REQUEST_METHOD": "POST", "HTTP_ACCEPT": "application/json, text/event-stream"}  # takes JSON as well
DATASTAR = {"HTTP_ACCEPT": "text/event-stream, text/html, application/json"}
DEADLINE = 20.0  # seconds; what is not there by then will not come


def environ_of(given: dict[str, str] | None = None) -> WSGIEnvironment:
    """Return the environ of a GET request, with *given* on top."""
    environ: WSGIEnvironment = {}
    setup_testing_defaults(environ)
    environ.update({"QUERY_STRING": "", **(given or {})})
    return environ


class Blocks:
    """An iterable of *given* blocks that knows who iterates and closes it; an exception among them is raised in its place."""

    def __init__(self, given: Iterable[object]) -> None:
        self._given = iter(given)
        self.threads: set[threading.Thread] = set()
        self.closed_on: list[threading.Thread] = []
        self.was_closed = threading.Event()

    def __iter__(self) -> Iterator[bytes]:
        return self

    def __next__(self) -> bytes:
        self.threads.add(threading.current_thread())
        block = next(self._given)
        if isinstance(block, BaseException):
            raise block
        return block  # type: ignore[return-value]  # wrong types are a test's point

    def close(self) -> None:
        self.closed_on.append(threading.current_thread())
        self.was_closed.set()


def application_of(iterable: Iterable[bytes], *headers: tuple[str, str], status: str = "200 OK") -> WSGIApplication:
    """Return an application that answers with *iterable*, an event stream unless *headers* say otherwise."""

    def application(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        start_response(status, list(headers) or [EVENT_STREAM])
        return iterable

    return application


def closing_layer(iterable: Iterable[bytes]) -> Iterator[bytes]:
    """Pass the blocks on, as a layer outside does that closes what it wraps; a garbage collection closes it otherwise."""
    try:
        yield from iterable
    finally:
        iterable.close()  # type: ignore[attr-defined]


class Response:
    """A server's side of one response: calls the application as PEP 3333 says, and records what it gets."""

    def __init__(self, application: WSGIApplication, environ: WSGIEnvironment) -> None:
        self.starts: list[tuple[str, Headers, OptExcInfo | None]] = []
        self.written: list[bytes] = []
        self.threads: set[threading.Thread] = set()
        self.has_sent = False
        self.iterable = application(environ, self.start_response)

    def start_response(self, status: str, headers: Headers, exc_info: OptExcInfo | None = None, /) -> Callable[[bytes], object]:
        self.threads.add(threading.current_thread())
        if exc_info is not None and self.has_sent:
            raise exc_info[1]  # type: ignore[misc]
        assert exc_info is not None or not self.starts
        self.starts.append((status, headers, exc_info))
        return self._write

    def _write(self, block: bytes) -> None:
        self.has_sent = True
        self.written.append(block)

    @property
    def status(self) -> str:
        return self.starts[-1][0]

    @property
    def headers(self) -> dict[str, str]:
        return dict(self.starts[-1][1])

    def blocks(self) -> Iterator[bytes]:
        """Iterate, then close, as every server does."""
        try:
            for block in self.iterable:
                assert self.starts or not block
                self.has_sent = self.has_sent or bool(block)
                yield block
        finally:
            self.close()

    def close(self) -> None:
        if hasattr(self.iterable, "close"):
            self.iterable.close()

    def body(self) -> bytes:
        """Return the whole body, and close."""
        return b"".join([*self.written, *self.blocks()])


def respond(application: WSGIApplication, given: dict[str, str] | None = None, **options: object) -> Response:
    """Wrap *application* with a referee on both sides and make one request of it."""
    wrapped = SSEMiddleware(validator(application), **options)  # type: ignore[arg-type]
    return Response(validator(wrapped), environ_of(given))


def respond_unchecked(application: WSGIApplication, given: dict[str, str] | None = None, **options: object) -> Response:
    """The same without referees, for what they object to, and for identity."""
    return Response(SSEMiddleware(application, **options), environ_of(given))  # type: ignore[arg-type]
