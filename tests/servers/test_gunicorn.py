"""`servers.gunicorn`: what may be written to its responses, how another thread ends them, and when workers are killed."""

from __future__ import annotations

import io
import os
import signal
import socket
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace
from typing import Any

import pytest

from ssemiddleware.servers import find_server
from ssemiddleware.servers import gunicorn as module
from ssemiddleware.servers.connection import HasDescriptor
from ssemiddleware.servers.gunicorn import (
    GeventStops,
    Gunicorn,
    GunicornPywsgi,
    SyncStops,
    ThreadsStops,
    WorkerStops,
    find_worker,
)
from ssemiddleware.servers.pools import ExecutorPool

from ..clock import Clock
from .conftest import Pair, TlsSocket


@pytest.mark.parametrize(("key", "kind"), [("gunicorn.socket", Gunicorn), ("gunicorn.sock", GunicornPywsgi)])
def test_its_requests_are_recognised_by_their_socket(key: str, kind: type, pair: Pair) -> None:
    found = find_server({key: pair[0]})
    assert type(found) is kind
    connection = found.connection()
    assert connection is not None
    assert connection.fileno() == pair[0].fileno()
    assert not connection.is_closed_by_itself


def test_without_a_socket_there_is_no_connection() -> None:
    assert Gunicorn({"gunicorn.socket": None}).connection() is None
    assert GunicornPywsgi({"gunicorn.sock": object()}).connection() is None


# -- the writer


def response_to(sock: socket.socket, *, method: str = "GET", version: tuple[int, int] = (1, 1), kind: str = "") -> Any:
    """Return a response of gunicorn's own class."""
    wsgi = pytest.importorskip("gunicorn.http.wsgi")
    body = pytest.importorskip("gunicorn.http.body")
    request = SimpleNamespace(
        method=method, version=version, should_close=lambda: version == (1, 0), body=body.Body(body.LengthReader(None, 0))
    )
    config = pytest.importorskip("gunicorn.config").Config()
    if kind:
        return type(kind, (wsgi.Response,), {})(request, sock, config)
    return wsgi.Response(request, sock, config)


def start(response: Any, *headers: tuple[str, str], status: str = "200 OK") -> Any:
    return response.start_response(status, [("Content-Type", "text/event-stream"), *headers])


def writer_to(response: Any) -> Any:
    writer = Gunicorn({}).writer(start(response))
    assert writer is not None
    return writer


def what_arrived(client: socket.socket) -> bytes:
    """Return what *client* has received by now, without the headers."""
    client.setblocking(False)
    try:
        got = client.recv(65536)
    except BlockingIOError:
        return b""
    return got.partition(b"\r\n\r\n")[2] if got.startswith(b"HTTP/") else got


def read_all(client: socket.socket) -> bytes:
    with client.makefile("rb") as file:
        return file.read()


def test_a_block_is_sent_as_a_chunk_after_the_headers(pair: Pair) -> None:
    server, client = pair
    assert writer_to(response_to(server)).write(b":\n")
    got = client.recv(65536)
    assert got.startswith(b"HTTP/1.1 200 OK\r\n")
    client.setblocking(False)
    assert (got.partition(b"\r\n\r\n")[2] or client.recv(65536)) == b"2\r\n:\n\r\n"


def test_a_client_that_does_not_read_makes_no_write_wait(pair: Pair) -> None:
    server, _ = pair
    response = response_to(server)
    writer = writer_to(response)
    response.send_headers()
    server.setblocking(False)
    with pytest.raises(BlockingIOError):
        while True:
            server.send(bytes(65536))
    server.setblocking(True)
    assert not writer.write(b":\n")
    assert writer.room() == 0
    assert not writer.end(b"retry: 1\n\n")


def test_a_block_of_more_than_64_bytes_is_an_error(pair: Pair) -> None:
    with pytest.raises(ValueError, match="at most 64 bytes"):
        writer_to(response_to(pair[0])).write(bytes(65))


def end_by_itself(response: Any) -> None:
    response.close()


def yield_late(response: Any) -> None:
    response.write(b"data: late\n\n")
    response.close()


def start_anew(response: Any) -> None:
    with pytest.raises(ValueError, match="late"):
        response.start_response("500 Error", [], (ValueError, ValueError("late"), None))


def answer_500(response: Any) -> None:
    util = pytest.importorskip("gunicorn.util")
    with pytest.raises(BrokenPipeError):
        util.write_error(response.sock, 500, "Internal Server Error", "")


@pytest.mark.parametrize("wake", [end_by_itself, yield_late, start_anew, answer_500])
@pytest.mark.parametrize(
    ("version", "body"),
    [((1, 1), b"A\r\ndata: 1\n\n\n\r\nA\r\nretry: 1\n\n\r\n0\r\n\r\n"), ((1, 0), b"data: 1\n\n\nretry: 1\n\n")],
    ids=["HTTP/1.1", "HTTP/1.0"],
)
def test_an_end_from_another_thread_is_whole_and_nothing_follows_it(
    wake: Callable[[Any], None], version: tuple[int, int], body: bytes, pair: Pair
) -> None:
    server, client = pair
    response = response_to(server, version=version)
    writer = writer_to(response)
    response.write(b"data: 1\n\n\n")
    assert writer.end(b"retry: 1\n\n")
    assert response.should_close()
    wake(response)
    assert read_all(client).partition(b"\r\n\r\n")[2] == body


def test_an_end_from_another_thread_sends_the_headers_first(pair: Pair) -> None:
    server, client = pair
    assert writer_to(response_to(server)).end(b"")
    headers, _, body = read_all(client).partition(b"\r\n\r\n")
    assert headers.startswith(b"HTTP/1.1 200 OK\r\n")
    assert b"Connection: close" in headers
    assert body == b"0\r\n\r\n"


@pytest.mark.parametrize(
    "headers",
    [[("Content-Length", "22")], [("content-encoding", "gzip")], [("Upgrade", "websocket"), ("Connection", "upgrade")]],
    ids=["a length", "an encoding", "an upgrade"],
)
def test_a_response_that_was_changed_outside_has_no_writer(headers: list[tuple[str, str]], pair: Pair) -> None:
    assert Gunicorn({}).writer(start(response_to(pair[0]), *headers)) is None


@pytest.mark.parametrize(("method", "status"), [("HEAD", "200 OK"), ("GET", "204 No Content"), ("GET", "304 Not Modified")])
def test_a_response_without_a_body_has_no_writer(method: str, status: str, pair: Pair) -> None:
    assert Gunicorn({}).writer(start(response_to(pair[0], method=method), status=status)) is None


def test_a_response_of_another_kind_has_no_writer(pair: Pair) -> None:
    assert Gunicorn({}).writer(start(response_to(pair[0], kind="HTTP2Response"))) is None


def test_only_write_itself_gives_a_writer(pair: Pair) -> None:
    response = response_to(pair[0])
    start(response)
    assert Gunicorn({}).writer(response.send_headers) is None
    assert Gunicorn({}).writer(lambda block: response.write(block)) is None
    assert Gunicorn({}).writer(None) is None


READERS = {
    "no body": (lambda body, _: body.LengthReader(None, 0), True),
    "a length left": (lambda body, _: body.LengthReader(None, 3), False),
    "chunks left": (lambda body, unreader: body.ChunkedReader(None, unreader), False),
    "all chunks read": (lambda body, unreader: read_chunks(body.ChunkedReader(None, unreader)), True),
    "until the end of the connection": (lambda body, unreader: body.EOFReader(unreader), False),
}


def read_chunks(reader: Any) -> Any:
    assert reader.read(10) == b"abc"
    return reader


@pytest.mark.parametrize(("make", "is_written"), READERS.values(), ids=READERS.keys())
def test_over_tls_a_request_must_have_been_read(make: Callable[[Any, Any], Any], is_written: bool, pair: Pair) -> None:
    body = pytest.importorskip("gunicorn.http.body")
    unreader = pytest.importorskip("gunicorn.http.unreader")
    for kind in (TlsSocket, socket.socket):
        with kind(fileno=os.dup(pair[0].fileno())) as server:
            response = response_to(server)
            response.req.body = body.Body(make(body, unreader.IterUnreader([b"3\r\nabc\r\n0\r\n\r\n"])))
            assert (Gunicorn({}).writer(start(response)) is not None) == (is_written or kind is socket.socket)


def test_over_tls_another_thread_can_end_only_chunks(pair: Pair) -> None:
    with TlsSocket(fileno=os.dup(pair[0].fileno())) as server:
        assert not writer_to(response_to(server, version=(1, 0))).end(b"retry: 1\n\n")
    assert what_arrived(pair[1]) == b""


# -- stopping


class FakeWorker:
    """A worker whose arbiter is this process, which listens as long as `listener` is open."""

    alive = True

    def __init__(self, grace: float = 30, timeout: float = 60, threads: int = 1) -> None:
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.cfg = SimpleNamespace(graceful_timeout=grace, timeout=timeout, threads=threads)
        self.pid = self.ppid = os.getpid()
        self.sockets: Sequence[HasDescriptor] = [self.listener]
        self.tpool: ThreadPoolExecutor | None = None
        self.notified = 0

    def notify(self) -> None:
        self.notified += 1

    def on_signal(self, number: int, frame: object) -> None:
        pass


@pytest.fixture
def worker() -> Iterator[FakeWorker]:
    worker = FakeWorker()
    with worker.listener:
        yield worker


KINDS = [WorkerStops, SyncStops, ThreadsStops, GeventStops]


@pytest.mark.parametrize("kind", KINDS)
def test_a_worker_that_is_no_longer_alive_stops(kind: type[WorkerStops], worker: FakeWorker) -> None:
    sign = kind(worker)
    assert not sign.is_stopping()
    worker.alive = False
    assert sign.is_stopping()


@pytest.mark.parametrize("kind", KINDS)
def test_an_arbiter_that_stops_kills_after_the_grace(kind: type[WorkerStops], worker: FakeWorker) -> None:
    sign = kind(worker)
    worker.listener.close()
    assert sign.seconds_left(0.0) == 29.0
    assert sign.seconds_left(28.5) == 0.5
    assert sign.seconds_left(31.0) == 0.0


@pytest.mark.parametrize(
    ("kind", "seconds"), [(WorkerStops, 29.0), (SyncStops, 89.0), (ThreadsStops, 88.0), (GeventStops, 30.0)]
)
def test_with_an_arbiter_that_goes_on_each_kind_ends_by_itself(
    kind: type[WorkerStops], seconds: float, worker: FakeWorker
) -> None:
    sign = kind(worker)
    assert sign.seconds_left(0.0) == seconds
    assert sign.seconds_left(10.0) == seconds - 10


@pytest.mark.parametrize("kind", [SyncStops, ThreadsStops])
def test_without_a_timeout_a_worker_whose_arbiter_goes_on_is_not_killed(kind: type[WorkerStops], worker: FakeWorker) -> None:
    worker.cfg.timeout = 0
    sign = kind(worker)
    assert sign.seconds_left(1000.0) is None
    worker.listener.close()
    assert sign.seconds_left(1001.0) == 28.0


def test_an_arbiter_that_stops_after_a_reload_kills_a_grace_later(worker: FakeWorker) -> None:
    sign = ThreadsStops(worker)
    assert sign.seconds_left(0.0) == 88.0
    assert sign.seconds_left(10.0) == 78.0
    worker.listener.close()
    assert sign.seconds_left(11.0) == 28.0  # it was seen to listen at 10
    assert sign.seconds_left(38.5) == 0.5


def test_the_arbiter_is_looked_at_once_a_tick(worker: FakeWorker) -> None:
    sign = ThreadsStops(worker)
    assert sign.seconds_left(5.0) == 83.0
    worker.listener.close()
    assert sign.seconds_left(5.0) == 83.0
    assert sign.seconds_left(5.1) == pytest.approx(28.9)


def test_an_arbiter_that_cannot_be_seen_is_taken_to_stop(worker: FakeWorker) -> None:
    worker.ppid = 2**22 + 1  # above the largest process id
    assert ThreadsStops(worker).seconds_left(0.0) == 29.0


def test_a_short_grace_leaves_half_of_itself(worker: FakeWorker) -> None:
    worker.cfg.graceful_timeout = 1
    sign = GeventStops(worker)
    worker.listener.close()
    assert sign.seconds_left(0.0) == 0.5


def test_a_sync_worker_reports_that_it_is_alive_until_its_grace_is_over(worker: FakeWorker) -> None:
    clock = Clock()
    sign = SyncStops(worker, clock)
    clock.now += 100
    sign.report_alive()
    worker.alive = False
    assert sign.is_stopping()
    clock.now += 30
    sign.report_alive()
    assert worker.notified == 2
    clock.now += 1
    assert sign.is_stopping()
    sign.report_alive()
    assert worker.notified == 2


@pytest.mark.parametrize("kind", [WorkerStops, ThreadsStops, GeventStops])
def test_other_workers_report_by_themselves_that_they_are_alive(kind: type[WorkerStops], worker: FakeWorker) -> None:
    kind(worker).report_alive()
    assert worker.notified == 0


def test_a_worker_that_has_closed_its_file_reports_nothing(worker: FakeWorker, monkeypatch: pytest.MonkeyPatch) -> None:
    file = io.BytesIO()
    file.close()
    monkeypatch.setattr(worker, "notify", file.getvalue)
    SyncStops(worker).report_alive()


# -- the worker of this process


@pytest.fixture
def no_worker(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_own", None)


Base = type("Worker", (FakeWorker,), {"__module__": "gunicorn.workers.base"})


def worker_of(kind: str, **settings: int) -> Any:
    return type(kind, (Base,), {})(**settings)


@pytest.fixture
def run(no_worker: None) -> Iterator[Callable[[Any], None]]:
    """Make a worker that of this process: its method handles a signal, as in gunicorn."""
    before = signal.getsignal(signal.SIGWINCH)
    listeners = []

    def run(worker: Any) -> None:
        listeners.append(worker.listener)
        signal.signal(signal.SIGWINCH, worker.on_signal)

    yield run
    signal.signal(signal.SIGWINCH, before)
    for listener in listeners:
        listener.close()


@pytest.mark.parametrize(
    ("name", "kind", "threads"),
    [
        ("SyncWorker", SyncStops, 1),
        ("ThreadWorker", ThreadsStops, 7),
        ("AsyncWorker", GeventStops, None),
        ("TornadoWorker", WorkerStops, None),
    ],
)
def test_a_worker_is_found_by_the_signals_it_handles(
    name: str, kind: type, threads: int | None, run: Callable[[Any], None]
) -> None:
    worker = worker_of(name, threads=7)
    run(worker)
    assert find_worker() is worker
    for server in (Gunicorn({}), GunicornPywsgi({})):
        assert type(server.stop_sign()) is kind
        assert server.stop_sign() is server.stop_sign()
    assert Gunicorn({}).threads() == threads
    assert Gunicorn({}).pool() is None


def test_a_gthread_worker_lends_its_threads(run: Callable[[Any], None]) -> None:
    worker = worker_of("ThreadWorker")
    with ThreadPoolExecutor(3) as worker.tpool:
        run(worker)
        pool = Gunicorn({}).pool()
        assert isinstance(pool, ExecutorPool)
        assert pool.threads == 3


def test_a_worker_is_found_among_the_callers_too(no_worker: None) -> None:
    def load_wsgi(self: Any) -> Any:
        return find_worker()

    worker = worker_of("SyncWorker")
    with worker.listener:
        assert load_wsgi(worker) is worker


def test_another_processs_worker_is_not_this_ones(run: Callable[[Any], None], monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = worker_of("SyncWorker"), worker_of("SyncWorker")
    run(first)
    assert find_worker() is first
    run(second)
    assert find_worker() is first  # it is looked for only once
    monkeypatch.setattr(os, "getpid", lambda: 1)  # as in a fork, where the same methods handle signals
    assert find_worker() is None
    second.pid = 1
    assert find_worker() is second


def test_without_gunicorn_there_is_no_worker(no_worker: None) -> None:
    assert find_worker() is None
    server = Gunicorn({})
    assert (server.stop_sign(), server.pool(), server.threads()) == (None, None, None)
