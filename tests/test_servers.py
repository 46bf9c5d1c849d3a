"""`ssemiddleware.servers`: probes by duck typing that are right where there is a server, and silent where there is none."""

from __future__ import annotations

import os
import socket
import struct
import time
import types
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from ssemiddleware import servers

from .applications import DEADLINE

Pair = tuple[socket.socket, socket.socket]


@pytest.fixture
def pair() -> Iterator[Pair]:
    """A connection: the server's side and the client's."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        client = socket.create_connection(listener.getsockname())
        server, _ = listener.accept()
    with client, server:
        yield server, client


def is_soon_gone(client: servers.ClientSocket) -> bool:
    """Tell whether *client* is seen to be gone: the kernel may take a moment to bring the news."""
    deadline = time.monotonic() + DEADLINE
    while not client.is_gone() and time.monotonic() < deadline:
        time.sleep(0.001)
    return client.is_gone()


def holder(**attributes: object) -> Any:
    return types.SimpleNamespace(**attributes)


class Channel:
    def __init__(self, socket: socket.socket) -> None:
        self.socket = socket

    def check_client_disconnected(self) -> bool:
        return False


class Transport:
    def __init__(self, socket: socket.socket) -> None:
        self.socket = socket

    def get_extra_info(self, name: str) -> object:
        return self.socket if name == "socket" else None


class Cycle:
    def __init__(self, **attributes: object) -> None:
        vars(self).update(attributes)

    def receive(self) -> None:
        pass


ENVIRONS: dict[str, Callable[[socket.socket], dict[str, object]]] = {
    "gunicorn": lambda s: {"gunicorn.socket": s},
    "gunicorn's gevent_pywsgi": lambda s: {"gunicorn.sock": s},
    "werkzeug": lambda s: {"werkzeug.socket": s},
    "waitress": lambda s: {"waitress.client_disconnected": Channel(s).check_client_disconnected},
    "wsgiref": lambda s: {"wsgi.input": holder(raw=holder(_sock=s))},
    "a2wsgi under uvicorn": lambda s: {"wsgi.input": holder(receive=Cycle(transport=Transport(s)).receive)},
    "a2wsgi under gunicorn's asgi worker": lambda s: {
        "wsgi.input": holder(receive=Cycle(protocol=holder(transport=Transport(s))).receive)
    },
    "cheroot": lambda s: {"wsgi.input": holder(rfile=holder(raw=holder(_sock=s)))},
}


@pytest.mark.parametrize("environ", ENVIRONS.values(), ids=ENVIRONS.keys())
def test_the_clients_connection_is_found(environ: Callable[[socket.socket], dict[str, object]], pair: Pair) -> None:
    server, client = pair
    found = servers.find_client(environ(server))
    assert found is not None
    assert not found.is_gone()
    client.close()
    assert is_soon_gone(found)


@pytest.mark.parametrize("environ", [{}, {"wsgi.input": None}, {"gunicorn.socket": object()}, {"wsgi.input": holder(raw=None)}])
def test_without_a_connection_there_is_nothing_to_ask(environ: dict[str, object]) -> None:
    assert servers.find_client(environ) is None


def leave_with_fin(client: socket.socket) -> None:
    client.close()


def leave_with_reset(client: socket.socket) -> None:
    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    client.close()


def leave_behind_pipelined_bytes(client: socket.socket) -> None:
    client.sendall(b"GET / HTTP/1.1\r\n\r\n")
    client.close()


@pytest.mark.parametrize("leave", [leave_with_fin, leave_with_reset, leave_behind_pipelined_bytes])
@pytest.mark.parametrize("timeout", [None, 0.0, 5.0], ids=["blocking", "non-blocking", "with a timeout"])
def test_a_leave_is_seen_and_the_look_takes_nothing(
    leave: Callable[[socket.socket], None], timeout: float | None, pair: Pair
) -> None:
    server, client = pair
    server.settimeout(timeout)
    found = servers.ClientSocket(server)
    client.sendall(b"pipelined")
    assert not found.is_gone()
    leave(client)
    assert is_soon_gone(found)
    if leave is not leave_with_reset:
        assert server.recv(9) == b"pipelined"


def test_a_closed_connection_is_gone_and_no_other_is_taken_for_it(pair: Pair) -> None:
    server, _ = pair
    found = servers.ClientSocket(server)
    number = server.fileno()
    server.close()
    with socket.socket() as other:
        os.dup2(other.fileno(), number)  # the number lives on as something else
        try:
            assert found.is_gone()
        finally:
            os.close(number)


def test_a_connection_that_is_not_read_any_more_is_at_its_end_for_the_server(pair: Pair) -> None:
    server, _ = pair
    servers.ClientSocket(server).stop_reading()
    server.settimeout(DEADLINE)
    assert server.recv(1) == b""
    server.close()
    servers.ClientSocket(server).stop_reading()
    servers.ClientSocket(holder(fileno=server.fileno)).stop_reading()


def test_a_socket_that_cannot_say_its_number_is_gone() -> None:
    def fileno() -> int:
        raise OSError("bad file descriptor")

    assert servers.ClientSocket(holder(fileno=fileno)).is_gone()


class Worker:
    """Looks like what all of gunicorn's workers are."""


Worker.__module__ = "gunicorn.workers.base"


class SyncWorker(Worker):
    """Looks like a gunicorn worker, and calls an application as one does."""

    cfg = ppid = None
    notified = 0

    def __init__(self) -> None:
        self.alive = True

    def notify(self) -> None:
        self.notified += 1

    def handle_request(self, application: Callable[[], object]) -> object:
        return application()


@pytest.fixture
def no_workers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(servers, "_workers", {})


@pytest.mark.usefixtures("no_workers")
def test_a_worker_is_found_among_the_callers_once_for_its_process() -> None:
    worker = SyncWorker()
    environ = {"gunicorn.socket": object()}
    found = worker.handle_request(lambda: servers.find_worker(environ))
    assert isinstance(found, servers.Worker)
    assert servers.find_worker(environ) is found
    assert not found.is_going()
    worker.alive = False
    assert found.is_going()
    assert worker.notified == 2


def test_a_worker_that_is_not_sync_is_not_told_that_it_lives() -> None:
    class GeventWorker:
        alive, cfg, ppid = True, None, 1

        def notify(self) -> None:
            raise AssertionError("gevent's notify may end the process")

    assert not servers.Worker(GeventWorker()).is_going()


@pytest.mark.usefixtures("no_workers")
def test_without_gunicorn_no_worker_is_looked_for() -> None:
    assert servers.find_worker({}) is None
    assert servers._workers == {}


class Settings:
    """Has whatever is asked for."""

    def __getattr__(self, name: str) -> None:
        return None

    def call(self, this: Callable[[], object]) -> object:
        return this()


class Unready(Settings):
    """Has nothing yet."""

    @property
    def alive(self) -> bool:
        raise RuntimeError("not started")


@pytest.mark.usefixtures("no_workers")
@pytest.mark.parametrize("caller", [Settings(), Unready()])
def test_other_callers_are_not_taken_for_a_worker(caller: Settings) -> None:
    assert caller.call(servers.find_calling_worker) is None


@pytest.mark.usefixtures("no_workers")
def test_a_server_that_hides_its_worker_has_none() -> None:
    assert servers.find_worker({"gunicorn.socket": object()}) is None


class ThreadWorker(SyncWorker):
    """Looks like gunicorn's gthread worker."""

    cfg = holder(threads=32)


class Responder:
    """Looks like a2wsgi's, and calls an application as that does."""

    executor = holder(_max_workers=10)

    def wsgi(self, application: Callable[[], object]) -> object:
        return application()


class WaitressChannel:
    server = holder(adj=holder(threads=4))

    def check_client_disconnected(self) -> bool:
        return False


@pytest.mark.usefixtures("no_workers")
@pytest.mark.parametrize(
    ("environ", "call", "threads"),
    [
        ({"gunicorn.socket": object()}, ThreadWorker().handle_request, 32),
        ({"gunicorn.socket": object()}, SyncWorker().handle_request, None),
        ({"waitress.client_disconnected": WaitressChannel().check_client_disconnected}, lambda ask: ask(), 4),
        ({"waitress.client_disconnected": object()}, lambda ask: ask(), None),
        ({"asgi.scope": {}}, Responder().wsgi, 10),
        ({"asgi.scope": {}}, lambda ask: ask(), None),
        ({}, Responder().wsgi, None),
        ({}, lambda ask: ask(), None),
    ],
    ids=["gthread", "gunicorn sync", "waitress", "not waitress", "a2wsgi", "not a2wsgi", "not asgi", "nothing"],
)
def test_threads_are_counted_where_the_server_shows_them(
    environ: dict[str, object], call: Callable[[Callable[[], object]], object], threads: int | None
) -> None:
    assert call(lambda: servers.count_threads(environ)) == threads


@pytest.mark.usefixtures("no_workers")
def test_a_worker_that_loads_the_application_is_found_without_a_request() -> None:
    found = ThreadWorker().handle_request(servers.find_calling_worker)
    assert isinstance(found, servers.Worker)
    assert found.threads == 32


def test_threads_can_be_started_but_under_geventless_greenlets() -> None:
    class Input:
        __module__ = "gevent.pywsgi"

    assert servers.can_start_threads({"wsgi.input": object()})
    assert servers.can_start_threads({})
    assert not servers.can_start_threads({"wsgi.input": Input()})
