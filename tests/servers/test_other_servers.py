"""cheroot's stop and threads, hypercorn's WSGI mode, granian and mod_wsgi; and how a response of each server ends."""

from __future__ import annotations

import functools
import io
import socket
import types
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from ssemiddleware.servers import find_server
from ssemiddleware.servers.granian import Granian
from ssemiddleware.servers.hypercorn import Hypercorn
from ssemiddleware.servers.mod_wsgi import ModWsgi
from ssemiddleware.servers.server import Server, StopSign
from ssemiddleware.servers.stopping import AskedSign

from .real_servers import DEADLINE, SERVERS, Silent, is_soon, request_to, writer_of


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
    assert sign.seconds_left(9.0) is None  # it waits for ever


@pytest.mark.parametrize("name", ["waitress", "cheroot"])
def test_it_is_seen_when_the_last_chunk_has_left_behind_close(name: str) -> None:
    asked: list[Callable[[], bool] | None] = []
    in_close: list[bool] = []

    class Closing(Silent):
        def close(self) -> None:
            has_left = self.server.last_bytes()
            assert has_left is not None
            asked.append(has_left)
            in_close.append(has_left())
            super().close()

    application = Closing()
    with SERVERS[name](application) as address, request_to(address, application):
        application.go_on.set()
        assert application.was_closed.wait(DEADLINE)
        (has_left,) = asked
        assert has_left is not None
        assert is_soon(has_left)
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
def test_a_response_tells_its_end_by_chunks_or_not_at_all(name: str, version: str, is_delimited: bool) -> None:
    application = Silent()
    with SERVERS[name](application) as address, socket.create_connection(address, DEADLINE) as client:
        client.sendall(f"GET / HTTP/{version}\r\nHost: testserver\r\nConnection: close\r\n\r\n".encode())
        assert application.is_silent.wait(DEADLINE)
        assert writer_of(application).is_delimited is is_delimited
        application.go_on.set()
        assert (b"chunked" in b"".join(iter(functools.partial(client.recv, 65536), b""))) is is_delimited


@pytest.mark.parametrize(
    ("grace", "stopping_for", "left"),
    [(None, 5.0, None), (5.0, 0.0, 4.0), (5.0, 4.5, 0.0), (1.0, 0.0, 0.5), (0.0, 0.0, 0.0)],
)
def test_streams_end_shortly_before_a_grace_does(grace: float | None, stopping_for: float, left: float | None) -> None:
    sign: StopSign = AskedSign(lambda: False, grace)
    sign.tell_alive()
    assert sign.seconds_left(stopping_for) == left


# -- hypercorn: its objects by their shapes, and a frame of the name of its own


class H11Protocol:
    """What is asked of hypercorn's protocol of one connection."""

    def __init__(self, connection: socket.socket) -> None:
        transport = types.SimpleNamespace(writer=Writer(connection))
        self.send = types.MethodType(lambda _: None, transport)

    def stream_send(self) -> None:
        pass


class Writer:
    """asyncio's StreamWriter."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection

    def get_extra_info(self, name: str) -> object:
        return {"socket": self._connection}[name]

    def is_closing(self) -> bool:
        return False


class HTTPStream:
    """What is asked of hypercorn's object of one request."""

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


def ask_everything(environ: dict[str, Any]) -> tuple[Server, Any, Any]:
    server = find_server(environ)
    return server, server.connection(), server.stop_sign()


def test_hypercorn_is_known_by_the_frame_that_calls_us_and_shows_nothing_elsewhere(run_app: RunApp) -> None:
    server, connection, sign = run_app(None, ask_everything)
    assert type(server) is Hypercorn
    assert (connection, sign, server.writer(None)) == (None, None, None)
    assert (server.connection(), server.stop_sign()) == (None, None)  # it is another thread's or a later frame that asks


def test_hypercorns_stream_leads_to_the_connection_and_the_stop(
    run_app: RunApp, pair: tuple[socket.socket, socket.socket]
) -> None:
    stream = HTTPStream(H11Protocol(pair[0]))
    server, connection, sign = run_app(functools.partial(lambda _: None, stream.app_send), ask_everything)
    assert type(server) is Hypercorn
    assert connection.state() == "open"
    stream.closed = True
    assert connection.state() == "gone"
    assert not sign.is_stopping()
    stream.has_terminated = True
    assert sign.is_stopping()
    assert sign.seconds_left(0.0) == 2.0


@pytest.mark.usefixtures("run_app")
def test_a_unit_test_in_a_process_that_has_hypercorn_is_not_taken_for_it() -> None:
    assert type(find_server({"wsgi.input": io.BytesIO()})) is Server


# -- granian, mod_wsgi


def test_granian_shows_nothing_but_its_name() -> None:
    server = find_server({"SERVER_SOFTWARE": "Granian"})
    assert type(server) is Granian
    shown = server.connection(), server.writer(None), server.stop_sign(), server.pool(), server.threads()
    assert shown == (None, None, None, None, None)


@pytest.mark.parametrize(("found", "threads"), [(15, 15), (0, None), ("many", None)])
def test_mod_wsgi_tells_how_many_threads_it_has(found: object, threads: int | None, monkeypatch: pytest.MonkeyPatch) -> None:
    server = find_server({"mod_wsgi.version": (6, 1, 1)})
    assert type(server) is ModWsgi
    monkeypatch.setitem(__import__("sys").modules, "mod_wsgi", types.SimpleNamespace(threads_per_process=found))
    assert server.threads() == threads
