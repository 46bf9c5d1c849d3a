"""`servers.pywsgi`: gevent's own server has a writer only with monkey patching."""

from __future__ import annotations

import io
import os
import socket
import sys
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest

from ssemiddleware.servers import find_server
from ssemiddleware.servers.pywsgi import PatchedPywsgi, UnpatchedPywsgi

from .conftest import Pair, TlsSocket

Input = type("Input", (SimpleNamespace,), {"__module__": "gevent.pywsgi"})


@pytest.mark.parametrize("is_patched", [False, True])
def test_it_is_recognised_by_its_input_and_by_its_monkey_patching(
    is_patched: bool, pair: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "gevent.monkey", SimpleNamespace(is_module_patched=lambda name: is_patched))
    found = find_server({"wsgi.input": Input(rfile=SimpleNamespace(raw=SimpleNamespace(_sock=pair[0])))})
    assert type(found) is (PatchedPywsgi if is_patched else UnpatchedPywsgi)
    assert found.has_writer is is_patched
    connection = found.connection()
    assert connection is not None
    assert connection.fileno() == pair[0].fileno()


def test_without_a_socket_there_is_no_connection() -> None:
    assert UnpatchedPywsgi({"wsgi.input": Input()}).connection() is None


def handler_of(sock: socket.socket, *, command: str = "GET", version: str = "HTTP/1.1", kind: str = "") -> Any:
    """Return gevent's own handler in the middle of a request without a body."""
    pywsgi = pytest.importorskip("gevent.pywsgi")
    made = type(kind, (pywsgi.WSGIHandler,), {}) if kind else pywsgi.WSGIHandler
    handler = made(sock, ("127.0.0.1", 1), None, rfile=io.BytesIO())
    handler.command, handler.request_version, handler.environ = command, version, {}
    handler.wsgi_input = pywsgi.Input(handler.rfile, None)
    return handler


def start(handler: Any, *headers: tuple[str, str], status: str = "200 OK") -> Any:
    return handler.start_response(status, [("Content-Type", "text/event-stream"), *headers])


def writer_to(handler: Any) -> Any:
    writer = PatchedPywsgi({}).writer(start(handler))
    assert writer is not None
    return writer


def read_all(client: socket.socket) -> bytes:
    with client.makefile("rb") as file:
        return file.read()


def end_by_itself(handler: Any) -> None:
    handler.result = []
    handler.process_result()


def yield_late(handler: Any) -> None:
    handler.result = [b"data: late\n\n"]
    with pytest.raises(BrokenPipeError):
        handler.process_result()


@pytest.mark.parametrize("wake", [end_by_itself, yield_late])
@pytest.mark.parametrize(
    ("version", "body"),
    [("HTTP/1.1", b"2\r\n:\n\r\na\r\nretry: 1\n\n\r\n0\r\n\r\n"), ("HTTP/1.0", b":\nretry: 1\n\n")],
)
def test_an_end_from_another_thread_is_whole_and_nothing_follows_it(
    wake: Callable[[Any], None], version: str, body: bytes, pair: Pair
) -> None:
    server, client = pair
    handler = handler_of(server, version=version)
    writer = writer_to(handler)
    assert writer.write(b":\n")
    assert writer.end(b"retry: 1\n\n")
    assert handler.close_connection
    wake(handler)
    assert read_all(client).partition(b"\r\n\r\n")[2] == body


def test_over_tls_another_thread_can_end_only_chunks(pair: Pair) -> None:
    with TlsSocket(fileno=os.dup(pair[0].fileno())) as server:
        assert not writer_to(handler_of(server, version="HTTP/1.0")).end(b"")
        assert writer_to(handler_of(server)).end(b"")


@pytest.mark.parametrize("header", [("Content-Length", "22"), ("content-encoding", "gzip")])
def test_a_response_that_was_changed_outside_has_no_writer(header: tuple[str, str], pair: Pair) -> None:
    assert PatchedPywsgi({}).writer(start(handler_of(pair[0]), header)) is None


@pytest.mark.parametrize(("command", "status"), [("HEAD", "200 OK"), ("GET", "204 No Content"), ("GET", "304 Not Modified")])
def test_a_response_without_a_body_has_no_writer(command: str, status: str, pair: Pair) -> None:
    assert PatchedPywsgi({}).writer(start(handler_of(pair[0], command=command), status=status)) is None


def test_a_subclass_of_the_handler_has_no_writer(pair: Pair) -> None:
    assert PatchedPywsgi({}).writer(start(handler_of(pair[0], kind="WebSocketHandler"))) is None
    assert PatchedPywsgi({}).writer(None) is None


def test_without_patching_there_is_no_writer(pair: Pair) -> None:
    assert UnpatchedPywsgi({}).writer(start(handler_of(pair[0]))) is None


INPUTS = {
    "no body": ({"content_length": None}, b"", True),
    "a length left": ({"content_length": 3}, b"", False),
    "a length read": ({"content_length": 3}, b"abc", True),
    "chunks left": ({"content_length": None, "chunked_input": True}, b"", False),
    "chunks read": ({"content_length": None, "chunked_input": True}, b"3\r\nabc\r\n0\r\n\r\n", True),
}


@pytest.mark.parametrize(("arguments", "read", "is_written"), INPUTS.values(), ids=INPUTS.keys())
def test_over_tls_a_request_must_have_been_read(arguments: dict[str, Any], read: bytes, is_written: bool, pair: Pair) -> None:
    pywsgi = pytest.importorskip("gevent.pywsgi")
    for kind in (TlsSocket, socket.socket):
        with kind(fileno=os.dup(pair[0].fileno())) as server:
            handler = handler_of(server)
            handler.wsgi_input = pywsgi.Input(io.BytesIO(read), **arguments)
            if read:
                assert handler.wsgi_input.read() == b"abc"
            assert (PatchedPywsgi({}).writer(start(handler)) is not None) == (is_written or kind is socket.socket)


def test_a_request_that_waits_for_100_continue_has_no_writer_until_it_is_read(pair: Pair) -> None:
    pywsgi = pytest.importorskip("gevent.pywsgi")
    handler = handler_of(pair[0])
    handler.wsgi_input = pywsgi.Input(io.BytesIO(b"abc"), 3, socket=pair[0])
    write = start(handler)
    assert PatchedPywsgi({}).writer(write) is None
    handler.wsgi_input.read()
    assert PatchedPywsgi({}).writer(write) is not None
