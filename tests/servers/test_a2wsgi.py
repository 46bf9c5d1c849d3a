"""a2wsgi: a queue of ten, and an event loop in another thread, which may be busy, stopped or closed."""

from __future__ import annotations

import asyncio
import signal
import socket
import threading
import types
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from ssemiddleware.servers import find_server
from ssemiddleware.servers.a2wsgi import A2wsgi
from ssemiddleware.servers.pools import ExecutorPool
from ssemiddleware.servers.server import Server, StopSign

from .real_servers import DEADLINE, AsgiServer, Cycle, Silent, is_soon, writer_of

Pair = tuple[socket.socket, socket.socket]


@pytest.fixture
def pair() -> Iterator[Pair]:
    """A connection: the server's side and the client's."""
    server, client = socket.socketpair()
    with server, client:
        yield server, client


def run(
    silent: Callable[[Silent, AsgiServer], object], *headers: tuple[str, str], cycle: Cycle | None = None, method: str = "GET"
) -> tuple[Silent, AsgiServer]:
    """Call *silent* while an application is silent."""
    application = Silent(*headers)
    with AsgiServer(application, cycle or Cycle(), method) as server:
        assert application.is_silent.wait(DEADLINE)
        try:
            silent(application, server)
        finally:
            server.may_send.set()
            application.go_on.set()
    return application, server


def test_a_heartbeat_is_sent_while_the_application_is_silent_and_before_its_next_block() -> None:
    def silent(application: Silent, server: AsgiServer) -> None:
        assert type(application.server) is A2wsgi
        assert is_soon(lambda: server.sent == [b""])  # the headers
        assert writer_of(application).write(b":\n")
        assert is_soon(lambda: server.sent == [b"", b":\n"])
        assert writer_of(application).write(b": last\n")

    application, server = run(silent)
    assert server.sent == [b"", b":\n", b": last\n", b"data: 1\n\n", b""]
    assert application.is_iterated_itself
    assert application.block_was_sent


def test_nothing_is_written_into_a_full_queue() -> None:
    def silent(application: Silent, server: AsgiServer) -> None:
        writer = writer_of(application)
        assert is_soon(lambda: server.sent == [b""])
        server.may_send.clear()
        assert writer.write(b": held by the server\n")
        assert is_soon(lambda: writer.write(b": in the queue\n"))
        assert is_soon(lambda: not writer.write(b":\n"))

    _, server = run(silent)
    assert server.sent[:2] == [b"", b": held by the server\n"]
    assert server.sent[-2:] == [b"data: 1\n\n", b""]


def test_a_busy_loop_makes_no_write_wait_and_loses_no_block_of_the_application() -> None:
    def silent(application: Silent, server: AsgiServer) -> None:
        is_busy, go_on = threading.Event(), threading.Event()

        def be_busy() -> None:
            is_busy.set()
            assert go_on.wait(DEADLINE)

        assert is_soon(lambda: server.sent == [b""])
        server.loop.call_soon_threadsafe(be_busy)
        assert is_busy.wait(DEADLINE)
        assert all(writer_of(application).write(b":%d\n" % number) for number in range(12))
        go_on.set()

    _, server = run(silent)
    assert server.sent == [b"", *(b":%d\n" % number for number in range(10)), b"data: 1\n\n", b""]  # the queue is full with ten


def test_a_stopped_or_closed_loop_makes_no_write_wait() -> None:
    wsgi = pytest.importorskip("a2wsgi.wsgi")
    loop = asyncio.new_event_loop()
    asyncio.set_event_loop(loop)
    try:
        responder = wsgi.WSGIResponder(None, None, 10)
    finally:
        asyncio.set_event_loop(None)
    responder.response_started = True
    writer = A2wsgi({}).writer(responder.start_response("200 OK", []))
    assert writer is not None
    assert writer.write(b":\n")  # handed over
    assert writer.room() == 0  # for what must not be left out
    loop.close()
    assert not writer.write(b":\n")


def test_nothing_is_written_to_a_client_that_does_not_read(pair: Pair) -> None:
    server_side, _ = pair
    server_side.setblocking(False)
    with pytest.raises(BlockingIOError):
        while True:
            server_side.send(bytes(65536))
    run(lambda application, _: not_written(application), cycle=Cycle(server_side))


def test_nothing_is_written_to_a_response_with_a_length() -> None:
    cycle = Cycle()
    cycle.expected_content_length = 9
    run(lambda application, _: not_written(application), cycle=cycle)


def not_written(application: Silent) -> None:
    assert not writer_of(application).write(b":\n")


def test_a_response_to_head_has_no_writer() -> None:
    application, _ = run(lambda *_: None, method="HEAD")
    assert application.writer is None


def test_a_replaced_write_gives_no_writer() -> None:
    def silent(application: Silent, _: AsgiServer) -> None:
        assert application.server.writer(lambda _: None) is None
        assert application.server.writer(None) is None

    run(silent)


def test_more_than_64_bytes_are_an_error_and_no_response_is_ended() -> None:
    def silent(application: Silent, _: AsgiServer) -> None:
        with pytest.raises(ValueError, match="at most 64 bytes"):
            writer_of(application).write(b":" * 65)
        assert not writer_of(application).end(b"retry: 1\n\n")

    run(silent)


def test_the_connection_is_that_of_the_transport_and_closes_with_it(pair: Pair) -> None:
    cycle = Cycle(pair[0])

    def silent(application: Silent, _: AsgiServer) -> None:
        connection, transport = application.connection, cycle.transport
        assert connection is not None
        assert transport is not None
        assert (connection.state(), connection.fileno()) == ("open", pair[0].fileno())
        transport.was_closed = True
        assert (connection.state(), connection.fileno()) == ("gone", -1)
        assert not writer_of(application).write(b":\n")

    run(silent, cycle=cycle)


def test_gunicorns_protocol_leads_to_the_transport_and_the_worker(pair: Pair) -> None:
    settings = types.SimpleNamespace(graceful_timeout=30.0, timeout=60.0)
    worker = types.SimpleNamespace(alive=True, cfg=settings, sockets=[], ppid=0)
    cycle: Any = Cycle()
    cycle.protocol = types.SimpleNamespace(transport=Cycle(pair[0]).transport, worker=worker)

    def silent(application: Silent, _: AsgiServer) -> None:
        connection, sign = application.connection, application.server.stop_sign()
        assert connection is not None
        assert connection.state() == "open"
        assert sign is not None
        assert not sign.is_stopping()
        worker.alive = False
        assert sign.is_stopping()

    run(silent, cycle=cycle)


def test_the_threads_are_those_of_the_executor() -> None:
    def ask(server: Server) -> None:
        pool = server.pool()
        assert isinstance(pool, ExecutorPool)
        found.extend([server.threads(), pool.threads])

    found: list[object] = []
    application = Silent()
    application.ask = ask
    with AsgiServer(application, Cycle()):
        assert application.is_silent.wait(DEADLINE)
        application.go_on.set()
    assert found == [2, 2]


def test_without_an_environ_of_a2wsgi_nothing_is_found() -> None:
    server = A2wsgi({})
    assert (server.connection(), server.writer(None), server.pool(), server.threads()) == (None, None, None, None)
    assert type(find_server({"wsgi.input": object()})) is not A2wsgi


# -- uvicorn's stop


class Uvicorn:
    """Stands for uvicorn's Server, whose method handles SIGTERM."""

    def __init__(self, grace: int | None = None) -> None:
        self.should_exit, self.started = False, True
        self.is_serving = True
        self.servers = [types.SimpleNamespace(is_serving=lambda: self.is_serving)]
        self.config = types.SimpleNamespace(timeout_graceful_shutdown=grace)

    def handle_exit(self, *_: object) -> None:
        """Handle a signal."""


Uvicorn.__module__, Uvicorn.__name__ = "uvicorn.server", "Server"


@pytest.fixture
def sign_of() -> Iterator[Callable[[Uvicorn], StopSign]]:
    before = signal.getsignal(signal.SIGTERM)

    def find(server: Uvicorn) -> StopSign:
        signal.signal(signal.SIGTERM, server.handle_exit)
        found = A2wsgi({}).stop_sign()
        assert found is not None
        return found

    yield find
    signal.signal(signal.SIGTERM, before)


def after_a_signal(server: Uvicorn) -> None:
    server.should_exit = True


def after_the_last_request(server: Uvicorn) -> None:
    server.is_serving = False


@pytest.mark.parametrize("stop", [after_a_signal, after_the_last_request])
def test_uvicorns_stop_is_seen(stop: Callable[[Uvicorn], None], sign_of: Callable[[Uvicorn], StopSign]) -> None:
    server = Uvicorn()
    sign = sign_of(server)
    assert not sign.is_stopping()
    stop(server)
    assert sign.is_stopping()


@pytest.mark.parametrize(("grace", "left"), [(None, None), (10, 7.0), (1, 0.0)])
def test_streams_end_before_uvicorns_grace_is_over(
    grace: int | None, left: float | None, sign_of: Callable[[Uvicorn], StopSign]
) -> None:
    assert sign_of(Uvicorn(grace)).seconds_left(2.0) == left


def test_without_uvicorns_signal_handler_there_is_no_sign() -> None:
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
    assert A2wsgi({}).stop_sign() is None
