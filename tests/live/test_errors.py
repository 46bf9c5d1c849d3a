"""The application fails: the server says so as it always does, and a stream is not ended as if it were whole."""

from __future__ import annotations

import pytest

from .client import Connection, Headers
from .serving import PATHS, Server, new_key
from .steps import event, fail, large_event, large_event_bytes, pause, text

pytestmark = [pytest.mark.live, pytest.mark.parametrize("path", PATHS)]


def traceback_of(message: str) -> str:
    """Return a regular expression for the application's error with its own frames."""
    return rf"(?s)Traceback.*in fail_as_requested\n.*RuntimeError: {message}"


def is_cut(connection: Connection) -> bool:
    """Tell whether the client can see that the body is not whole; with wsgiref, which sends HTTP/1.0, it never can."""
    return connection.ended == "cut" or connection.header("Transfer-Encoding") is None


def test_an_application_that_raises_before_its_response_gets_the_servers_500(server: Server, path: Headers) -> None:
    message = new_key()
    response = server.get(f"/fail?message={message}", path)
    assert response.status == 500
    assert response.ended == "cleanly"
    assert "in fail_at_once" in server.output_once(traceback_of(message))


def test_a_stream_that_raises_before_its_first_block_says_so_in_the_log(server: Server, path: Headers) -> None:
    message = new_key()
    connection = server.open(fail(message), headers=path)
    connection.read_to_end()
    assert connection.body in {b"", b":\n"} or connection.status == 500
    server.output_once(traceback_of(message))


def test_all_blocks_before_an_error_arrive_and_the_transfer_is_cut(server: Server, path: Headers) -> None:
    message = new_key()
    connection = server.open(
        event("one"), pause(0.1), large_event(1_000_000, many_lines=True), event("two"), fail(message), headers=path
    )
    body = connection.read_to_end()
    expected = b"data: one\n\n" + large_event_bytes(1_000_000, many_lines=True) + b"data: two\n\n"
    assert body.removeprefix(b":\n") == expected
    assert is_cut(connection)
    server.output_once(traceback_of(message))


def test_a_block_of_text_is_a_type_error_that_names_the_type(server: Server, path: Headers) -> None:
    since = len(server.output())
    connection = server.open(event("one"), pause(0.1), text("data: two\n\n"), event("three"), headers=path)
    body = connection.read_to_end()
    assert body.removeprefix(b":\n") == b"data: one\n\n"
    assert is_cut(connection)
    server.output_once("TypeError: an event stream's blocks must be bytes, got str", since=since)
