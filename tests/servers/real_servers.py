"""Real servers in this process, each on a free port, and an application that is silent until its test lets it go on."""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import socket
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any, cast, final

import pytest

from ssemiddleware.servers import find_server
from ssemiddleware.servers.connection import Connection
from ssemiddleware.servers.loop import has_sent, iterates
from ssemiddleware.servers.server import Server, Writer

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment

DEADLINE = 20.0  # seconds, after which a test fails

EVENT_STREAM = ("Content-Type", "text/event-stream")

Address = tuple[str, int]


class Silent:
    """An application and its iterable, with one event after `go_on`. While it is silent, tests look at its attributes."""

    def __init__(self, *headers: tuple[str, str]) -> None:
        self._headers = [EVENT_STREAM, *headers]
        self._given: list[bytes] = []
        self.is_silent, self.go_on, self.was_closed = threading.Event(), threading.Event(), threading.Event()
        self.server = Server({})
        self.connection: Connection | None = None
        self.writer: Writer | None = None
        self.is_iterated_itself: bool | None = None
        self.block_was_sent: bool | None = None
        self.ask: Callable[[Server], object] = lambda _: None  # called on the server's thread

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        self.server = find_server(environ)
        write = start_response("200 OK", list(self._headers))
        self.connection, self.writer = self.server.connection(), self.server.writer(write)
        return self

    def __iter__(self) -> Iterator[bytes]:
        return self

    def __next__(self) -> bytes:
        if self._given:
            self.block_was_sent = has_sent(self.server.loops, self._given[0])
            raise StopIteration
        self.is_iterated_itself = iterates(self.server.loops, self)
        self.ask(self.server)
        self.is_silent.set()
        assert self.go_on.wait(DEADLINE)
        self._given.append(b"data: %d\n\n" % 1)
        return self._given[0]

    def close(self) -> None:
        self.was_closed.set()


@contextlib.contextmanager
def request_to(address: Address, application: Silent) -> Iterator[http.client.HTTPConnection]:
    """Make a request, and wait until the application is silent. At the end the application goes on.

    Everything is read before the client closes: werkzeug 3.1.9 does not close an iterable whose client has reset the connection
    after the last block.
    """
    client = http.client.HTTPConnection(*address, timeout=DEADLINE)
    try:
        client.request("GET", "/", headers={"Connection": "close"})
        assert application.is_silent.wait(DEADLINE)
        yield client
    finally:
        application.go_on.set()
        with contextlib.suppress(OSError):
            while client.sock is not None and client.sock.recv(65536):
                pass
        client.close()
        assert application.was_closed.wait(DEADLINE)


def is_soon(happens: Callable[[], bool]) -> bool:
    """Return whether *happens* becomes true before the deadline."""
    deadline = time.monotonic() + DEADLINE
    while not happens():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.001)
    return True


def writer_of(application: Silent) -> Writer:
    assert application.writer is not None, application.server.why_no_writer
    return application.writer


# -- the servers


@contextlib.contextmanager
def _in_thread(run: Callable[[], object], stop: Callable[[], object]) -> Iterator[None]:
    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop()
        thread.join(DEADLINE)
        assert not thread.is_alive()


def _serve(server: Any) -> contextlib.AbstractContextManager[None]:
    return _in_thread(lambda: server.serve_forever(poll_interval=0.01), server.shutdown)


@contextlib.contextmanager
def serve_with_wsgiref(application: WSGIApplication) -> Iterator[Address]:
    from wsgiref.simple_server import WSGIRequestHandler, make_server

    class Handler(WSGIRequestHandler):
        def log_message(self, format: str, *args: object) -> None:
            pass

    with make_server("127.0.0.1", 0, application, handler_class=Handler) as server, _serve(server):
        yield "127.0.0.1", server.server_port


@contextlib.contextmanager
def serve_with_runserver(application: WSGIApplication) -> Iterator[Address]:
    from django.core.servers.basehttp import WSGIRequestHandler, WSGIServer

    class Handler(WSGIRequestHandler):  # type: ignore[misc]  # Django has no types
        def log_message(self, *_: object) -> None:
            pass

    with WSGIServer(("127.0.0.1", 0), Handler) as server, _serve(server):
        server.set_app(application)
        yield "127.0.0.1", server.server_port


@contextlib.contextmanager
def serve_with_werkzeug(application: WSGIApplication) -> Iterator[Address]:
    from werkzeug.serving import WSGIRequestHandler, make_server

    class Handler(WSGIRequestHandler):
        def log(self, type: str, message: str, *args: object) -> None:
            pass

    server = make_server("127.0.0.1", 0, application, threaded=True, request_handler=Handler)
    with contextlib.closing(server.socket), _serve(server):
        yield "127.0.0.1", server.server_port


@contextlib.contextmanager
def serve_with_waitress(application: WSGIApplication) -> Iterator[Address]:
    waitress = pytest.importorskip("waitress")
    sockets: dict[int, Any] = {}  # waitress serves while there is one
    server = waitress.create_server(application, host="127.0.0.1", port=0, threads=2, map=sockets)

    def close_all() -> None:
        for each in list(sockets.values()):
            each.close()

    def stop() -> None:
        server.task_dispatcher.shutdown()
        with contextlib.suppress(OSError):  # this closes the trigger, too
            server.trigger.pull_trigger(close_all)

    with _in_thread(server.run, stop):
        yield "127.0.0.1", server.effective_port


@contextlib.contextmanager
def serve_with_cheroot(application: WSGIApplication) -> Iterator[Address]:
    wsgi = pytest.importorskip("cheroot.wsgi")
    server = wsgi.Server(("127.0.0.1", 0), application, numthreads=2)
    server.prepare()
    with _in_thread(server.serve, server.stop):
        yield server.bind_addr


SERVERS: dict[str, Callable[[WSGIApplication], contextlib.AbstractContextManager[Address]]] = {
    "wsgiref": serve_with_wsgiref,
    "runserver": serve_with_runserver,
    "werkzeug": serve_with_werkzeug,
    "waitress": serve_with_waitress,
    "cheroot": serve_with_cheroot,
}


# -- a2wsgi, under a stand-in for an ASGI server


class Cycle:
    """Stands for uvicorn's RequestResponseCycle. Its ``receive`` is in the environ, and leads to the transport."""

    def __init__(self, connection: socket.socket | None = None) -> None:
        self.transport = None if connection is None else Transport(connection)
        self.expected_content_length = 0

    async def receive(self) -> dict[str, object]:
        return {"type": "http.request", "body": b"", "more_body": False}


class Transport:
    """Stands for an asyncio transport."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self.was_closed = False

    def get_extra_info(self, name: str) -> socket.socket:
        assert name == "socket"
        return self._connection

    def is_closing(self) -> bool:
        return self.was_closed


@final
class AsgiServer:
    """Runs an application in a thread, as an ASGI server does. `sent` has the bytes that it would send."""

    def __init__(self, application: WSGIApplication, cycle: Cycle, method: str = "GET", workers: int = 2) -> None:
        wsgi = pytest.importorskip("a2wsgi")
        self._wrapped = wsgi.WSGIMiddleware(application, workers=workers)
        self._scope = {"type": "http", "method": method, "path": "/", "query_string": b"", "http_version": "1.1", "headers": []}
        self._cycle = cycle
        self.sent: list[bytes] = []
        self.loop = asyncio.new_event_loop()
        self.may_send = threading.Event()
        self.may_send.set()
        self._thread = threading.Thread(target=self._run, daemon=True)

    @property
    def executor(self) -> Any:
        return self._wrapped.executor

    def __enter__(self) -> AsgiServer:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._thread.join(DEADLINE)
        assert not self._thread.is_alive()
        self.executor.shutdown()

    def _run(self) -> None:
        self.loop.run_until_complete(self._wrapped(self._scope, self._cycle.receive, self._send))
        self.loop.close()

    async def _send(self, message: dict[str, object]) -> None:
        while not self.may_send.is_set():
            await asyncio.sleep(0.001)
        self.sent.append(cast("bytes", message.get("body", b"")))
