"""A client's connection, asked and changed from a thread that does not own it, without waiting and without reading a byte."""

from __future__ import annotations

import os
import socket
import ssl
import struct
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from ssemiddleware.servers.connection import Connection, Progress, State

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
    """Tell whether *connection* is seen to be in one of *states*: the kernel may take a moment to bring the news."""
    deadline = time.monotonic() + DEADLINE
    while connection.state() not in states and time.monotonic() < deadline:
        time.sleep(0.001)
    return connection.state() in states


def leave_with_fin(client: socket.socket) -> None:
    client.close()


def leave_with_reset(client: socket.socket) -> None:
    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    client.close()


def leave_behind_pipelined_bytes(client: socket.socket) -> None:
    client.sendall(b"GET / HTTP/1.1\r\n\r\n")
    client.close()


def half_close(client: socket.socket) -> None:
    client.shutdown(socket.SHUT_WR)


@pytest.mark.parametrize("leave", [leave_with_fin, leave_with_reset, leave_behind_pipelined_bytes, half_close])
@pytest.mark.parametrize("timeout", [None, 0.0, 5.0], ids=["blocking", "non-blocking", "with a timeout"])
def test_a_disconnect_is_seen_and_the_look_takes_nothing(
    leave: Callable[[socket.socket], None], timeout: float | None, tcp: Pair
) -> None:
    server, client = tcp
    server.settimeout(timeout)
    connection = Connection(server)
    client.sendall(b"pipelined")
    assert connection.state() == "open"
    leave(client)
    assert is_soon(connection, "half closed", "gone")
    if leave is not leave_with_reset:
        assert server.recv(9) == b"pipelined"


def test_a_client_that_half_closes_still_reads_and_one_that_resets_is_gone(tcp: Pair) -> None:
    server, client = tcp
    connection = Connection(server)
    half_close(client)
    assert is_soon(connection, "half closed")
    server.sendall(b"data: 1\n\n")
    assert client.recv(100) == b"data: 1\n\n"
    leave_with_reset(client)
    assert is_soon(connection, "gone")


def test_a_closed_connection_is_gone_and_no_other_is_taken_for_it(pair: Pair) -> None:
    server, _ = pair
    connection = Connection(server)
    number = server.fileno()
    with socket.socket() as other:
        server.close()
        os.dup2(other.fileno(), number)  # the number lives on as something else
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


def test_a_number_that_others_have_closed_is_gone_and_no_other_client_is_taken_for_it(tcp: Pair) -> None:
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


def test_a_number_that_is_still_its_own_is_not_taken_away(pair: Pair) -> None:
    server, client = pair
    connection = Connection(server)
    connection.disown()
    client.close()
    assert is_soon(connection, "gone", "half closed")
    connection.disown()
    assert server.fileno() >= 0


def test_a_server_that_closes_by_itself_is_asked(pair: Pair) -> None:
    server, _ = pair
    is_closed: list[bool] = []
    connection = Connection(server, is_closed=lambda: bool(is_closed))
    assert connection.is_closed_by_itself
    assert connection.state() == "open"
    is_closed.append(True)
    assert connection.state() == "gone"
    assert not Connection(server).is_closed_by_itself


@pytest.mark.parametrize("error", [OSError("bad file descriptor"), ValueError("closed"), RuntimeError("closed")], ids=repr)
def test_a_socket_that_cannot_say_its_number_is_gone(error: Exception) -> None:
    class Socket:
        def fileno(self) -> int:
            raise error

    connection = Connection(Socket())
    assert connection.fileno() == -1
    assert connection.state() == "gone"
    connection.close()


def test_a_client_that_does_not_read_is_soon_not_writable_to(pair: Pair) -> None:
    server, _client = pair
    connection = Connection(server)
    assert connection.is_writable()
    server.settimeout(0.05)
    with pytest.raises(TimeoutError):
        while True:
            server.send(b"x" * 65536)
    assert not connection.is_writable()


def test_a_client_that_is_gone_is_not_writable_to(pair: Pair) -> None:
    server, client = pair
    leave_with_reset(client)
    assert is_soon(Connection(server), "gone")
    assert not Connection(server).is_writable()


# -- what the kernel holds


def test_little_is_held_until_the_connection_is_left_as_it_was(tcp: Pair) -> None:
    def limit() -> int:
        return server.getsockopt(socket.IPPROTO_TCP, 25)

    server, _ = tcp
    server.setsockopt(socket.IPPROTO_TCP, 25, 1_000_000)
    connection = Connection(server)
    connection.hold_little()
    assert limit() == 16384
    connection.restore()
    connection.restore()
    assert limit() == 1_000_000


def test_on_a_unix_socket_there_is_nothing_to_hold(pair: Pair) -> None:
    connection = Connection(pair[0])
    connection.hold_little()
    connection.restore()


def test_what_a_client_takes_is_progress_and_what_it_does_not_is_none(pair: Pair) -> None:
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
        (Progress(5, 10), Progress(5, 11), True),  # with little held, an unchanged queue is what a reading client looks like
        (Progress(5, 10), Progress(4, 10), False),
        (Progress(5, None), Progress(4, None), True),
        (Progress(5, None), Progress(5, None), False),
        (Progress(5, None), Progress(6, None), False),
    ],
)
def test_progress_is_what_is_acknowledged_or_where_that_is_not_known_a_shorter_queue(
    earlier: Progress, later: Progress, has_moved: bool
) -> None:
    assert later.has_moved_since(earlier) is has_moved


# -- ending it


def test_a_connection_that_is_shut_for_reading_is_at_its_end_for_the_server(pair: Pair) -> None:
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


@pytest.mark.parametrize("way", ["reset_on_close", "close"])
def test_a_reset_is_not_taken_for_an_end(way: str, tcp: Pair) -> None:
    server, client = tcp
    server.sendall(b"data: half")
    client.settimeout(DEADLINE)
    assert client.recv(100) == b"data: half"
    getattr(Connection(server), way)()
    server.close()
    with pytest.raises(ConnectionResetError):
        client.recv(1)


def test_a_tls_connection_is_shut_below_its_tls(tcp: Pair) -> None:
    class Socket(socket.socket):
        """A TLS socket as far as is asked, whose own shutdown would go on in plain text."""

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
