"""a2wsgi: a queue of ten and an event loop of another thread, which may be busy, stopped or closed."""

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
    """Have an application be silent for as long as *silent* takes."""
    application = Silent(*headers)
    with AsgiServer(application, cycle or Cycle(), method) as server:
        assert application.is_silent.wait(DEADLINE)
        try:
            silent(application, server)
        finally:
            server.may_send.set()
            application.go_on.set()
    return application, server


def test_a_heartbeat_leaves_while_the_application_is_silent_and_before_what_it_yields_next() -> None:
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


def test_a_full_queue_takes_nothing() -> None:
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


def test_a_busy_loop_makes_nobody_wait_and_loses_nothing() -> None:
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
    assert server.sent == [b"", *(b":%d\n" % number for number in range(10)), b"data: 1\n\n", b""]  # ten are a full queue


def test_a_loop_that_is_stopped_or_closed_makes_nobody_wait() -> None:
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
    loop.close()
    assert not writer.write(b":\n")


def test_a_client_that_takes_nothing_gets_nothing(pair: Pair) -> None:
    server_side, _ = pair
    server_side.setblocking(False)
    with pytest.raises(BlockingIOError):
        while True:
            server_side.send(bytes(65536))
    run(lambda application, _: not_written(application), cycle=Cycle(server_side))


def test_a_response_that_the_server_counts_gets_nothing() -> None:
    cycle = Cycle()
    cycle.expected_content_length = 9
    run(lambda application, _: not_written(application), cycle=cycle)


def not_written(application: Silent) -> None:
    assert not writer_of(application).write(b":\n")


def test_a_response_to_head_has_no_writer() -> None:
    application, _ = run(lambda *_: None, method="HEAD")
    assert application.writer is None


def test_a_write_of_anothers_is_not_used() -> None:
    def silent(application: Silent, _: AsgiServer) -> None:
        assert application.server.writer(lambda _: None) is None
        assert application.server.writer(None) is None

    run(silent)


def test_more_than_a_few_bytes_are_an_error_and_no_response_is_ended() -> None:
    def silent(application: Silent, _: AsgiServer) -> None:
        with pytest.raises(ValueError, match="at most 64 bytes"):
            writer_of(application).write(b":" * 65)
        assert not writer_of(application).end(b"retry: 1\n\n")

    run(silent)


def test_a_connection_is_the_transports_and_is_gone_with_it(pair: Pair) -> None:
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


def test_the_threads_are_the_executors() -> None:
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


def test_without_an_environ_of_a2wsgis_there_is_nothing() -> None:
    server = A2wsgi({})
    assert (server.connection(), server.writer(None), server.pool(), server.threads()) == (None, None, None, None)
    assert type(find_server({"wsgi.input": object()})) is not A2wsgi


# -- uvicorn's stop


class Uvicorn:
    """What is asked of uvicorn's Server, which handles SIGTERM by a method of its own."""

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


def told_to_exit(server: Uvicorn) -> None:
    server.should_exit = True


def with_enough_requests_served(server: Uvicorn) -> None:
    server.is_serving = False


@pytest.mark.parametrize("stop", [told_to_exit, with_enough_requests_served])
def test_uvicorns_stop_is_seen(stop: Callable[[Uvicorn], None], sign_of: Callable[[Uvicorn], StopSign]) -> None:
    server = Uvicorn()
    sign = sign_of(server)
    assert not sign.is_stopping()
    stop(server)
    assert sign.is_stopping()


@pytest.mark.parametrize(("grace", "left"), [(None, None), (10, 7.0), (1, 0.0)])
def test_uvicorn_waits_as_long_as_it_was_told(
    grace: int | None, left: float | None, sign_of: Callable[[Uvicorn], StopSign]
) -> None:
    assert sign_of(Uvicorn(grace)).seconds_left(2.0) == left


def test_another_handler_of_the_signal_is_no_sign() -> None:
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
    assert A2wsgi({}).stop_sign() is None
