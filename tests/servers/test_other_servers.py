"""cheroot's stop and threads, hypercorn's WSGI mode, granian and mod_wsgi; and how a response of each server ends."""

from __future__ import annotations

import contextlib
import functools
import io
import socket
import types
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import pytest

from ssemiddleware import SSEMiddleware
from ssemiddleware.servers import find_server
from ssemiddleware.servers.granian import Granian
from ssemiddleware.servers.hypercorn import Hypercorn
from ssemiddleware.servers.mod_wsgi import ModWsgi
from ssemiddleware.servers.server import Server, StopSign
from ssemiddleware.servers.stopping import AskedSign

from .real_servers import DEADLINE, SERVERS, Silent, is_soon, request_to, writer_of

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIEnvironment


def test_cheroots_stop_is_seen_and_its_threads_are_counted() -> None:
    def ask(server: Server) -> None:
        found.extend([server.stop_sign(), server.threads()])

    found: list[Any] = []
    application = Silent()
    application.ask = ask
    with SERVERS["cheroot"](application) as address, request_to(address, application):
        sign, threads = found
        assert threads == 2
        assert not sign.is_stopping()
    assert sign.is_stopping()
    assert sign.seconds_left(9.0) is None  # cheroot waits forever


@pytest.mark.parametrize("name", ["waitress", "cheroot"])
def test_it_is_seen_when_the_last_chunk_is_sent_after_close(name: str) -> None:
    asked: list[Callable[[], bool] | None] = []
    in_close: list[bool] = []

    class Closing(Silent):
        def close(self) -> None:
            is_sent = self.server.last_bytes()
            assert is_sent is not None
            asked.append(is_sent)
            in_close.append(is_sent())
            super().close()

    application = Closing()
    with SERVERS[name](application) as address, request_to(address, application):
        application.go_on.set()
        assert application.was_closed.wait(DEADLINE)
        (is_sent,) = asked
        assert is_sent is not None
        assert is_soon(is_sent)
    assert in_close == [False]


@pytest.mark.parametrize(
    ("name", "version", "is_delimited"),
    [
        ("waitress", "1.1", True),
        ("waitress", "1.0", False),
        ("cheroot", "1.1", True),
        ("cheroot", "1.0", False),
        ("werkzeug", "1.1", True),
        ("werkzeug", "1.0", True),
        ("wsgiref", "1.1", False),
        ("runserver", "1.1", False),
    ],
)
def test_the_end_of_a_response_shows_by_its_chunks_if_it_has_some(name: str, version: str, is_delimited: bool) -> None:
    application = Silent()
    with SERVERS[name](application) as address, socket.create_connection(address, DEADLINE) as client:
        client.sendall(f"GET / HTTP/{version}\r\nHost: testserver\r\nConnection: close\r\n\r\n".encode())
        assert application.is_silent.wait(DEADLINE)
        assert writer_of(application).is_delimited is is_delimited
        application.go_on.set()
        assert (b"chunked" in b"".join(iter(functools.partial(client.recv, 65536), b""))) is is_delimited


def fail_or_answer(environ: WSGIEnvironment, start_response: StartResponse) -> Iterator[bytes]:
    start_response("200 OK", [("Content-Type", "text/event-stream")])
    yield b"data: hello\n\n"
    if environ["PATH_INFO"] == "/fail":
        raise RuntimeError("in mid-answer")


@pytest.mark.parametrize("name", SERVERS)
def test_a_server_goes_on_after_an_answer_that_was_reset(name: str) -> None:
    with SERVERS[name](SSEMiddleware(fail_or_answer, max_streams=9)) as address:
        for path in ("/fail", "/fail", "/", "/"):
            with socket.create_connection(address, DEADLINE) as client, contextlib.suppress(ConnectionResetError):
                client.sendall(f"GET {path} HTTP/1.0\r\nHost: testserver\r\n\r\n".encode())
                received = b"".join(iter(functools.partial(client.recv, 65536), b""))
        assert b"data: hello\n\n" in received


@pytest.mark.parametrize(
    ("grace", "stopping_for", "left"),
    [(None, 5.0, None), (5.0, 0.0, 4.0), (5.0, 4.5, 0.0), (1.0, 0.0, 0.5), (0.0, 0.0, 0.0)],
)
def test_streams_end_shortly_before_the_grace(grace: float | None, stopping_for: float, left: float | None) -> None:
    sign: StopSign = AskedSign(lambda: False, grace)
    sign.report_alive()
    assert sign.seconds_left(stopping_for) == left


# -- hypercorn: objects and a frame that look like its own


class H11Protocol:
    """Stands for hypercorn's protocol of one connection."""

    def __init__(self, connection: socket.socket) -> None:
        transport = types.SimpleNamespace(writer=Writer(connection))
        self.send = types.MethodType(lambda _: None, transport)

    def stream_send(self) -> None:
        pass


class Writer:
    """Stands for asyncio's StreamWriter."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection

    def get_extra_info(self, name: str) -> object:
        return {"socket": self._connection}[name]

    def is_closing(self) -> bool:
        return False


class HTTPStream:
    """Stands for hypercorn's object for one request."""

    def __init__(self, protocol: H11Protocol) -> None:
        self.send, self.closed, self.has_terminated = protocol.stream_send, False, False
        terminated = types.SimpleNamespace(is_set=lambda: self.has_terminated)
        self.context = types.SimpleNamespace(terminated=terminated)
        self.config = types.SimpleNamespace(graceful_timeout=3)

    def app_send(self) -> None:
        pass


H11Protocol.__module__ = "hypercorn.protocol.h11"
HTTPStream.__module__ = "hypercorn.protocol.http_stream"

_RUN_APP = """
def run_app(self, environ, send, ask):
    response_body = None
    return ask(environ)
"""

RunApp = Callable[..., Any]


@pytest.fixture
def run_app(monkeypatch: pytest.MonkeyPatch) -> RunApp:
    """A frame like the one in which hypercorn calls an application."""
    module = types.ModuleType("hypercorn.app_wrappers")
    exec(_RUN_APP, vars(module))
    monkeypatch.setitem(__import__("sys").modules, module.__name__, module)
    return functools.partial(module.run_app, object(), {"wsgi.input": io.BytesIO()})


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    server, client = socket.socketpair()
    with server, client:
        yield server, client


def ask_all(environ: dict[str, Any]) -> tuple[Server, Any, Any]:
    server = find_server(environ)
    return server, server.connection(), server.stop_sign()


def test_hypercorn_is_recognised_by_its_frame_and_shows_nothing_elsewhere(run_app: RunApp) -> None:
    server, connection, sign = run_app(None, ask_all)
    assert type(server) is Hypercorn
    assert (connection, sign, server.writer(None)) == (None, None, None)
    assert (server.connection(), server.stop_sign()) == (None, None)  # another frame asks here


def test_the_connection_and_the_stop_are_found_through_hypercorns_stream(
    run_app: RunApp, pair: tuple[socket.socket, socket.socket]
) -> None:
    stream = HTTPStream(H11Protocol(pair[0]))
    server, connection, sign = run_app(functools.partial(lambda _: None, stream.app_send), ask_all)
    assert type(server) is Hypercorn
    assert connection.state() == "open"
    stream.closed = True
    assert connection.state() == "gone"
    assert not sign.is_stopping()
    stream.has_terminated = True
    assert sign.is_stopping()
    assert sign.seconds_left(0.0) == 2.0


@pytest.mark.usefixtures("run_app")
def test_a_unit_test_in_a_process_that_has_loaded_hypercorn_is_not_hypercorn() -> None:
    assert type(find_server({"wsgi.input": io.BytesIO()})) is Server


# -- granian, mod_wsgi


def test_granian_shows_nothing_but_its_name() -> None:
    server = find_server({"SERVER_SOFTWARE": "Granian"})
    assert type(server) is Granian
    shown = server.connection(), server.writer(None), server.stop_sign(), server.pool(), server.threads()
    assert shown == (None, None, None, None, None)


@pytest.mark.parametrize(("found", "threads"), [(15, 15), (0, None), ("many", None)])
def test_mod_wsgi_shows_how_many_threads_it_has(found: object, threads: int | None, monkeypatch: pytest.MonkeyPatch) -> None:
    server = find_server({"mod_wsgi.version": (6, 1, 1)})
    assert type(server) is ModWsgi
    monkeypatch.setitem(__import__("sys").modules, "mod_wsgi", types.SimpleNamespace(threads_per_process=found))
    assert server.threads() == threads
