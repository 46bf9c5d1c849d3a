"""wsgiref, runserver, werkzeug, waitress and cheroot: another thread writes while the application is silent."""

from __future__ import annotations

import contextlib
import functools
import socket
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, cast

import pytest

from ssemiddleware.servers import find_server
from ssemiddleware.servers.cheroot import Cheroot
from ssemiddleware.servers.server import MOST_JOINED
from ssemiddleware.servers.waitress import Waitress
from ssemiddleware.servers.werkzeug import Werkzeug
from ssemiddleware.servers.wsgiref import Wsgiref

from .real_servers import DEADLINE, SERVERS, Silent, is_soon, request_to, writer_of

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment

CLASSES = {"wsgiref": Wsgiref, "runserver": Wsgiref, "werkzeug": Werkzeug, "waitress": Waitress, "cheroot": Cheroot}

every_server = pytest.mark.parametrize("name", SERVERS)


@every_server
def test_a_server_is_recognised_by_its_environ(name: str) -> None:
    application = Silent()
    with SERVERS[name](application) as address, request_to(address, application):
        assert type(application.server) is CLASSES[name]


@every_server
def test_a_heartbeat_arrives_while_the_application_is_silent_and_nothing_is_torn(name: str) -> None:
    application = Silent()
    with SERVERS[name](application) as address, request_to(address, application) as client:
        assert writer_of(application).write(b":\n")
        response = client.getresponse()
        assert response.readline() == b":\n"  # the headers were sent with it
        assert writer_of(application).write(b": again\n")
        assert response.readline() == b": again\n"
        application.go_on.set()
        assert response.read() == b"data: 1\n\n"  # to its last chunk, or to the end of the connection


@every_server
def test_more_than_64_bytes_are_an_error(name: str) -> None:
    application = Silent()
    with SERVERS[name](application) as address, request_to(address, application):
        with pytest.raises(ValueError, match="a writer takes at most 64 bytes, got 65"):
            writer_of(application).write(b":" * 65)


@every_server
def test_there_is_room_for_what_is_joined(name: str) -> None:
    application = Silent()
    with SERVERS[name](application) as address, request_to(address, application) as client:
        writer, block = writer_of(application), b"data: %s\n\n" % bytes(MOST_JOINED - 8)
        assert writer.room() == MOST_JOINED
        assert writer.write(block, MOST_JOINED)
        with pytest.raises(ValueError, match="a writer takes at most 4096 bytes, got 4097"):
            writer.write(bytes(MOST_JOINED + 1), MOST_JOINED)
        application.go_on.set()
        assert client.getresponse().read() == block + b"data: 1\n\n"


@every_server
def test_no_response_can_be_ended_by_another_thread(name: str) -> None:
    application = Silent()
    with SERVERS[name](application) as address, request_to(address, application):
        assert not writer_of(application).end(b"retry: 1\n\n")


@every_server
@pytest.mark.parametrize("header", [("content-length", "9"), ("Content-Encoding", "gzip")], ids=["length", "encoding"])
def test_a_response_whose_length_or_encoding_is_set_has_no_writer(name: str, header: tuple[str, str]) -> None:
    application = Silent(header)
    with SERVERS[name](application) as address, request_to(address, application):
        assert application.writer is None


@every_server
def test_a_response_to_head_has_no_writer(name: str) -> None:
    def ask(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        server = find_server(environ)
        found.append(server.writer(start_response("200 OK", [("Content-Type", "text/event-stream")])))
        return [b""]

    found: list[object] = []
    with SERVERS[name](ask) as address, socket.create_connection(address) as client:
        client.sendall(b"HEAD / HTTP/1.1\r\nHost: testserver\r\nConnection: close\r\n\r\n")
        assert client.recv(65536)
    assert found == [None]


@every_server
def test_a_replaced_write_gives_no_writer(name: str) -> None:
    application = Silent()
    with SERVERS[name](application) as address, request_to(address, application):
        assert application.server.writer(lambda _: None) is None
        assert application.server.writer(None) is None
        assert application.server.writer(application.__call__) is None


@every_server
def test_a_disconnect_is_seen_while_the_application_is_silent(name: str) -> None:
    application = Silent()
    with SERVERS[name](application) as address, request_to(address, application) as client:
        connection = application.connection
        assert connection is not None
        assert connection.state() == "open"
        client.close()
        assert is_soon(lambda: connection.state() != "open")


@every_server
def test_a_client_that_does_not_read_makes_no_write_wait(name: str) -> None:
    application = Silent()
    with SERVERS[name](application) as address, request_to(address, application) as client:
        assert application.connection is not None
        application.connection.hold_little()
        writer, most = writer_of(application), 10_000_000 // 64
        assert not all(writer.write(b":" + b"." * 62 + b"\n") for _ in range(most))  # until the kernel takes no more
        client.close()


# -- layers outside


def passing_on(application: WSGIApplication, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    with contextlib.closing(cast("Silent", application(environ, start_response))) as blocks:
        yield from blocks


def upper_casing(application: WSGIApplication, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    with contextlib.closing(cast("Silent", application(environ, start_response))) as blocks:
        yield from map(bytes.upper, blocks)


@every_server
@pytest.mark.parametrize(
    ("layer", "is_iterated_itself", "block_was_sent"),
    [(None, True, True), (passing_on, False, True), (upper_casing, False, False)],
    ids=["no layer", "a layer that passes the blocks on", "a layer that changes them"],
)
def test_the_servers_frame_shows_whether_a_layer_changes_the_blocks(
    name: str, layer: Callable[..., Any] | None, is_iterated_itself: bool, block_was_sent: bool
) -> None:
    application = Silent()
    wrapped = application if layer is None else functools.partial(layer, application)
    with SERVERS[name](wrapped) as address, request_to(address, application) as client:
        assert application.is_iterated_itself is is_iterated_itself
        application.go_on.set()
        client.getresponse().read()
        assert application.was_closed.wait(DEADLINE)
        assert application.block_was_sent is block_was_sent
