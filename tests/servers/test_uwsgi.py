"""uWSGI: when its descriptor may be written to, and for which options the body is sent unchanged."""

from __future__ import annotations

import os
import socket
import types
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import pytest

from ssemiddleware.servers.server import Server, Writer
from ssemiddleware.servers.uwsgi import Uwsgi

from .real_servers import is_soon

if TYPE_CHECKING:
    from _typeshed.wsgi import WSGIEnvironment

Pair = tuple[socket.socket, socket.socket]
Start = Callable[..., None]


@pytest.fixture
def pair() -> Iterator[Pair]:
    """A connection: the server's side and the client's."""
    server, client = socket.socketpair()
    server.setblocking(False)
    with server, client:
        yield server, client


@pytest.fixture
def start(monkeypatch: pytest.MonkeyPatch) -> Start:
    """Act as if uWSGI had started the process with these options."""

    def start_with(**options: object) -> None:
        given = {name.replace("_", "-"): value for name, value in options.items()}
        monkeypatch.setitem(__import__("sys").modules, "uwsgi", types.SimpleNamespace(opt=given))

    start_with(http_socket=b"127.0.0.1:0", master=True)
    return start_with


def environ_over(connection: socket.socket, **more: str) -> WSGIEnvironment:
    return {"uwsgi.version": b"2.0.30", "wsgi.input": connection, "REQUEST_METHOD": "GET", **more}


def uwsgi_write(_: bytes) -> None:
    """Stand for the function that uWSGI's ``start_response`` returns."""


def writer_over(connection: socket.socket, **more: str) -> Writer | None:
    return Uwsgi(environ_over(connection, **more)).writer(uwsgi_write)


@pytest.mark.usefixtures("start")
def test_a_heartbeat_is_written_to_the_descriptor(pair: Pair) -> None:
    writer = writer_over(pair[0])
    assert writer is not None
    assert writer.write(b":\n")
    assert pair[1].recv(99) == b":\n"
    assert not writer.is_delimited
    assert not writer.end(b"retry: 1\n\n")
    assert writer.room() == 0  # since map(bytes.upper, stream) is not seen


@pytest.mark.usefixtures("start")
def test_nothing_is_written_to_a_client_that_does_not_read(pair: Pair) -> None:
    writer = writer_over(pair[0])
    assert writer is not None
    with pytest.raises(BlockingIOError):
        while True:
            pair[0].send(bytes(65536))
    assert not writer.write(b":\n")
    with pytest.raises(ValueError, match="at most 64 bytes"):
        writer.write(b":" * 65)


@pytest.mark.usefixtures("start")
def test_a_descriptor_that_belongs_to_another_client_is_not_written_to(pair: Pair) -> None:
    server, _ = pair
    writer, connection, number = writer_over(server), Uwsgi(environ_over(server)).connection(), server.fileno()
    assert writer is not None
    assert connection is not None
    assert connection.state() == "open"
    other, others_client = socket.socketpair()
    with other, others_client:
        os.dup2(other.fileno(), number)
        assert (connection.fileno(), connection.state()) == (-1, "gone")
        assert not writer.write(b":\n")
        others_client.setblocking(False)
        with pytest.raises(BlockingIOError):
            others_client.recv(1)


@pytest.mark.usefixtures("start")
def test_a_disconnect_is_seen(pair: Pair) -> None:
    connection = Uwsgi(environ_over(pair[0])).connection()
    assert connection is not None
    pair[1].close()
    assert is_soon(lambda: connection.state() != "open")


@pytest.mark.parametrize(
    "options",
    [
        {"https_socket": b"127.0.0.1:0,cert,key"},
        {"fastcgi_socket": b"/run/app"},
        {"http_socket": b"127.0.0.1:0", "response_route_run": b"gzip:"},
        {"http11_socket": b"127.0.0.1:0"},
        {"http_socket": b"127.0.0.1:0", "gevent": b"100"},
        {b"socket-protocol".decode().replace("-", "_"): b"scgi"},
    ],
    ids=lambda options: " ".join(options),
)
def test_a_body_that_uwsgi_changes_has_no_writer(options: dict[str, bytes], start: Start, pair: Pair) -> None:
    start(**options)
    assert writer_over(pair[0]) is None


@pytest.mark.parametrize(
    "options",
    [
        {"http_socket": b"127.0.0.1:0", "threads": b"4"},
        {"http": b"127.0.0.1:0", "http_auto_chunked": True, "http_keepalive": True},
        {"https": b"127.0.0.1:0,cert,key"},  # the router's
        {"socket": [b"/run/one", b"/run/two"], "processes": b"2"},
    ],
    ids=lambda options: " ".join(options),
)
def test_a_body_that_uwsgi_sends_unchanged_has_a_writer(options: dict[str, object], start: Start, pair: Pair) -> None:
    start(**options)
    assert writer_over(pair[0]) is not None


@pytest.mark.usefixtures("start")
def test_a_response_to_head_and_a_replaced_write_have_no_writer(pair: Pair) -> None:
    assert writer_over(pair[0], REQUEST_METHOD="HEAD") is None
    assert Uwsgi(environ_over(pair[0])).writer(lambda _: None) is None


@pytest.mark.parametrize(("options", "threads"), [({}, None), ({"threads": b"1"}, None), ({"threads": b"4"}, 4)])
def test_the_number_of_threads_is_that_of_its_option(options: dict[str, bytes], threads: int | None, start: Start) -> None:
    start(**options)
    assert Uwsgi({}).threads() == threads


@pytest.mark.parametrize("found", [None, object(), socket.socket()], ids=["nothing", "an object", "a closed socket"])
def test_an_input_without_a_descriptor_shows_no_connection(found: object) -> None:
    if isinstance(found, socket.socket):
        found.close()
    server = Uwsgi({"wsgi.input": found})
    assert server.connection() is None
    assert server.writer(uwsgi_write) is None


def test_its_writer_cannot_send_the_headers_and_it_iterates_in_c() -> None:
    assert (Uwsgi.can_open, Uwsgi.iterates_in_c) == (False, True)
    assert (Server.can_open, Server.iterates_in_c) == (True, False)
