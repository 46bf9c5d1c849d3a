"""A client's connection, as another thread sees and changes it: without waiting, and without reading from it."""

from __future__ import annotations

import contextlib
import functools
import os
import random
import socket
import ssl
import struct
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from ssemiddleware.servers.connection import Connection, Progress, State
from ssemiddleware.servers.server import MOST_JOINED

from ..applications import DEADLINE

Pair = tuple[socket.socket, socket.socket]


@pytest.fixture(params=["tcp", "unix"])
def pair(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Pair]:
    """A connection: the server's side and the client's."""
    if request.param == "unix":
        server, client = socket.socketpair()
    else:
        server, client = tcp_pair()
    with client, server:
        yield server, client


@pytest.fixture
def tcp() -> Iterator[Pair]:
    server, client = tcp_pair()
    with client, server:
        yield server, client


def tcp_pair() -> Pair:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        client = socket.create_connection(listener.getsockname())
        server, _ = listener.accept()
    return server, client


def is_soon(connection: Connection, *states: State) -> bool:
    """Return whether *connection* is seen in one of *states* before a deadline."""
    deadline = time.monotonic() + DEADLINE
    while connection.state() not in states and time.monotonic() < deadline:
        time.sleep(0.001)
    return connection.state() in states


def disconnect_with_fin(client: socket.socket) -> None:
    client.close()


def disconnect_with_reset(client: socket.socket) -> None:
    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    client.close()


def disconnect_after_pipelined_bytes(client: socket.socket) -> None:
    client.sendall(b"GET / HTTP/1.1\r\n\r\n")
    client.close()


def half_close(client: socket.socket) -> None:
    client.shutdown(socket.SHUT_WR)


@pytest.mark.parametrize("act", [disconnect_with_fin, disconnect_with_reset, disconnect_after_pipelined_bytes, half_close])
@pytest.mark.parametrize("timeout", [None, 0.0, 5.0], ids=["blocking", "non-blocking", "with a timeout"])
def test_a_disconnect_is_seen_without_reading(act: Callable[[socket.socket], None], timeout: float | None, tcp: Pair) -> None:
    server, client = tcp
    server.settimeout(timeout)
    connection = Connection(server)
    client.sendall(b"pipelined")
    assert connection.state() == "open"
    act(client)
    assert is_soon(connection, "half closed", "gone")
    if act is not disconnect_with_reset:
        assert server.recv(9) == b"pipelined"


def test_a_client_that_half_closes_still_reads_but_one_that_resets_is_gone(tcp: Pair) -> None:
    server, client = tcp
    connection = Connection(server)
    half_close(client)
    assert is_soon(connection, "half closed")
    server.sendall(b"data: 1\n\n")
    assert client.recv(100) == b"data: 1\n\n"
    disconnect_with_reset(client)
    assert is_soon(connection, "gone")


def test_a_closed_connection_is_gone_even_if_its_descriptor_is_used_again(pair: Pair) -> None:
    server, _ = pair
    connection = Connection(server)
    number = server.fileno()
    with socket.socket() as other:
        server.close()
        os.dup2(other.fileno(), number)  # the descriptor now belongs to another socket
        try:
            assert connection.fileno() == -1
            assert connection.state() == "gone"
            assert not connection.is_writable()
            assert connection.progress() is None
            connection.cut()
            connection.restore()
            os.fstat(number)
        finally:
            os.close(number)


def test_a_descriptor_that_the_application_has_closed_is_gone_even_if_it_is_used_again(tcp: Pair) -> None:
    server, _client = tcp
    connection, number = Connection(server), server.fileno()
    assert (connection.is_lost, connection.state()) == (False, "open")
    os.closerange(number, number + 1)
    assert (connection.is_lost, connection.state()) == (True, "gone")
    new_server, new_client = tcp_pair()
    with new_server, new_client:
        assert number in (new_server.fileno(), new_client.fileno())
        assert (connection.fileno(), connection.state()) == (-1, "gone")
        assert not connection.is_writable()
        assert connection.progress() is None
        for act in (connection.hold_little, connection.restore, connection.cut, connection.disown, connection.close):
            act()
        assert server.fileno() == -1  # the server can neither write to it nor close it
        with pytest.raises(OSError, match="Bad file descriptor"):
            server.sendall(b"data: 1\n\n")
        new_server.sendall(b"data: 2\n\n")
        assert new_client.recv(100) == b"data: 2\n\n"


def test_a_descriptor_that_is_not_lost_is_not_detached(pair: Pair) -> None:
    server, client = pair
    connection = Connection(server)
    connection.disown()
    client.close()
    assert is_soon(connection, "gone", "half closed")
    connection.disown()
    assert server.fileno() >= 0


def test_a_server_that_closes_by_itself_is_asked_whether_it_has(pair: Pair) -> None:
    server, _ = pair
    is_closed: list[bool] = []
    connection = Connection(server, is_closed=lambda: bool(is_closed))
    assert connection.is_closed_by_itself
    assert connection.state() == "open"
    is_closed.append(True)
    assert connection.state() == "gone"
    assert not Connection(server).is_closed_by_itself


@pytest.mark.parametrize("error", [OSError("bad file descriptor"), ValueError("closed"), RuntimeError("closed")], ids=repr)
def test_a_socket_whose_fileno_raises_is_gone(error: Exception) -> None:
    class Socket:
        def fileno(self) -> int:
            raise error

    connection = Connection(Socket())
    assert connection.fileno() == -1
    assert connection.state() == "gone"
    connection.close()


def test_a_client_that_does_not_read_soon_becomes_unwritable(pair: Pair) -> None:
    server, _client = pair
    connection = Connection(server)
    assert connection.is_writable()
    server.settimeout(0.05)
    with pytest.raises(TimeoutError):
        while True:
            server.send(b"x" * 65536)
    assert not connection.is_writable()


@pytest.mark.parametrize("segment", [None, 536])
@pytest.mark.parametrize("holds_little", [False, True], ids=["", "little held"])
@pytest.mark.parametrize("buffer", [None, 4096, 12288], ids=["the kernel's buffer", "8 KB", "24 KB"])
def test_what_is_joined_is_taken_at_once_where_it_has_room(segment: int | None, holds_little: bool, buffer: int | None) -> None:
    """After what the connection already holds, for a client that reads now and then."""
    with socket.socket() as listener:
        if segment is not None:
            listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_MAXSEG, segment)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        server = socket.create_connection(listener.getsockname())
        client, _ = listener.accept()
    with server, client:
        if buffer is not None:
            server.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, buffer)  # the kernel doubles it
        connection = Connection(server)
        assert connection.holds_much == (buffer != 4096)
        if holds_little:
            connection.hold_little()
        server.setblocking(False)
        client.setblocking(False)
        if connection.holds_much:
            write_joined(connection, server, client)


def write_joined(connection: Connection, server: socket.socket, client: socket.socket) -> None:
    """Write `MOST_JOINED` bytes and what a server puts around them, wherever they are taken, and some of the server's."""
    chance, written = random.Random(1), 0
    for _ in range(1000):
        if connection.is_writable():
            block = bytes(MOST_JOINED + 32)
            assert server.send(block) == len(block), "a part only: a blocking socket would wait"
            written += 1
        else:
            with contextlib.suppress(BlockingIOError):
                client.recv(chance.randint(1, 30000))
        if chance.random() < 0.4:
            with contextlib.suppress(BlockingIOError):
                server.send(bytes(chance.randint(1, 3000)))
    assert written > 100


def test_a_client_that_is_gone_is_not_writable(pair: Pair) -> None:
    server, client = pair
    disconnect_with_reset(client)
    assert is_soon(Connection(server), "gone")
    assert not Connection(server).is_writable()


# -- bytes in the kernel


def test_the_kernel_holds_little_until_that_is_undone(tcp: Pair) -> None:
    def limit() -> int:
        return server.getsockopt(socket.IPPROTO_TCP, 25)

    server, _ = tcp
    server.setsockopt(socket.IPPROTO_TCP, 25, 999_999)
    connection = Connection(server)
    connection.hold_little()
    assert limit() == 16384
    connection.hold_little(is_fast=True)
    assert limit() == 1_048_576
    connection.hold_little()
    assert limit() == 16384
    connection.restore()
    connection.restore()
    assert limit() == 999_999


def test_on_a_unix_socket_nothing_is_changed(pair: Pair) -> None:
    connection = Connection(pair[0])
    connection.hold_little()
    connection.restore()


def test_there_is_progress_only_when_a_client_reads(pair: Pair) -> None:
    server, client = pair
    connection = Connection(server)
    beginning = connection.progress()
    assert beginning is not None
    assert beginning.queued == 0
    server.settimeout(0.05)
    with pytest.raises(TimeoutError):
        while True:
            server.send(b"x" * 65536)
    full = connection.progress()
    assert full is not None
    assert full.queued > 0
    later = connection.progress()
    assert later is not None
    assert not later.has_moved_since(full)
    client.settimeout(DEADLINE)
    while not (connection.progress() or full).has_moved_since(full):
        assert client.recv(65536)


@pytest.mark.parametrize(
    ("earlier", "later", "has_moved"),
    [
        (Progress(5, 10), Progress(5, 10), False),
        (Progress(5, 10), Progress(5, 11), True),  # the queue of a client that reads may not change
        (Progress(5, 10), Progress(4, 10), False),
        (Progress(5, None), Progress(4, None), True),
        (Progress(5, None), Progress(5, None), False),
        (Progress(5, None), Progress(6, None), True),  # a full queue grows only where the client has made room
        (Progress(5, None), Progress(5, None, is_writable=True), True),
    ],
)
def test_progress_means_more_acknowledged_bytes_or_if_unknown_a_queue_that_changes_or_is_short(
    earlier: Progress, later: Progress, has_moved: bool
) -> None:
    assert later.has_moved_since(earlier) is has_moved


def test_a_heartbeat_that_was_sent_just_now_does_not_look_like_a_client_that_reads_nothing(pair: Pair) -> None:
    server, client = pair
    connection, looks = Connection(server), []
    for _ in range(3):
        server.send(b":\n")
        looks.append(connection.progress())
        client.recv(2)
    first, second, third = looks
    assert first and second and third
    assert second.has_moved_since(first) and third.has_moved_since(second)


# -- ending it


def test_a_server_reads_the_end_of_a_connection_that_is_shut_for_reading(pair: Pair) -> None:
    server, client = pair
    Connection(server).shutdown(socket.SHUT_RD)
    server.settimeout(DEADLINE)
    assert server.recv(1) == b""
    server.sendall(b"still")
    assert client.recv(5) == b"still"


def test_a_cut_frees_a_thread_that_writes(tcp: Pair) -> None:
    server, _client = tcp
    raised: list[BaseException] = []
    writes = threading.Event()

    def write() -> None:
        try:
            while True:
                writes.set()
                server.sendall(b"x" * 65536)
        except OSError as error:
            raised.append(error)

    thread = threading.Thread(target=write)
    thread.start()
    assert writes.wait(DEADLINE)
    Connection(server).cut()
    thread.join(DEADLINE)
    assert len(raised) == 1


def test_a_cut_frees_a_thread_that_reads(tcp: Pair) -> None:
    server, _client = tcp
    received: list[object] = []

    def read() -> None:
        try:
            received.append(server.recv(1))
        except OSError as error:
            received.append(error)

    thread = threading.Thread(target=read)
    thread.start()
    Connection(server).cut()
    thread.join(DEADLINE)
    assert len(received) == 1


def test_bytes_that_were_sent_before_a_reset_arrive() -> None:
    received: list[bytes] = []

    def read() -> None:
        time.sleep(0.02)  # meanwhile the bytes are queued on the server's side
        with contextlib.suppress(ConnectionResetError):
            received.extend(iter(functools.partial(client.recv, 65536), b""))

    with socket.socket() as client, socket.create_server(("127.0.0.1", 0)) as listener:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        client.settimeout(DEADLINE)
        client.connect(listener.getsockname())
        server, _ = listener.accept()
        reading = threading.Thread(target=read)
        with server:
            server.sendall(b"x" * 50_000)
            reading.start()
            Connection(server).close()
        reading.join(DEADLINE)
    assert len(b"".join(received)) == 50_000


@pytest.mark.parametrize("way", ["reset_on_close", "close"])
def test_a_reset_does_not_look_like_an_end(way: str, tcp: Pair) -> None:
    server, client = tcp
    server.sendall(b"data: half")
    client.settimeout(DEADLINE)
    assert client.recv(100) == b"data: half"
    getattr(Connection(server), way)()
    server.close()
    with pytest.raises(ConnectionResetError):
        client.recv(1)


def test_a_tls_connection_is_shut_below_tls(tcp: Pair) -> None:
    class Socket(socket.socket):
        """Looks like a TLS socket. Its own shutdown must not be called: later writes would be in plain text."""

        def cipher(self) -> None:
            return None

        def shutdown(self, how: int) -> None:
            raise AssertionError(ssl.OPENSSL_VERSION)

    server, _ = tcp
    with Socket(fileno=server.detach()) as tls:
        connection = Connection(tls)
        assert connection.is_tls
        connection.shutdown(socket.SHUT_RD)
        assert tls.recv(1) == b""
    assert not Connection(server).is_tls
