"""The headers of an event stream, as they arrive."""

from __future__ import annotations

import json

import pytest

from .client import Connection, Headers
from .conftest import BARE, Pool
from .serving import PATHS, WAITRESS, WSGIREF, Kind, Server, play_target
from .steps import event

pytestmark = [pytest.mark.live, pytest.mark.parametrize("path", PATHS)]

# What tutorials send, and what else is wrong for a stream.
UNFIT: Headers = [
    ("Connection", "x-own-hop"),  # gunicorn sends a keep-alive of its own
    ("Keep-Alive", "timeout=77"),
    ("Transfer-Encoding", "identity"),
    ("Proxy-Connection", "keep-alive"),
    ("Content-Length", "3"),
    ("ETag", '"1"'),
]


def read(server: Server, path: Headers, *extra: tuple[str, str], **query: str) -> Connection:
    connection = server.ask(play_target(event("hello"), extra=json.dumps(extra), **query), path)
    connection.read_to_end()
    return connection


def directives(connection: Connection) -> list[str]:
    return [directive.strip() for directive in (connection.header("Cache-Control") or "").split(",")]


def test_a_plain_stream_gets_the_headers_that_keep_its_way_unbuffered(server: Server, path: Headers) -> None:
    connection = read(server, path)
    assert connection.status == 200
    assert connection.header("Content-Type") == "text/event-stream; charset=utf-8"
    assert directives(connection) == ["no-cache", "no-transform"]
    assert connection.header("X-Accel-Buffering") == "no"


def test_the_applications_own_directives_are_kept(server: Server, path: Headers) -> None:
    connection = read(server, path, ("Cache-Control", "private, no-store"), ("X-Accel-Buffering", "yes"))
    assert directives(connection) == ["private", "no-store", "no-transform"]
    assert connection.header("X-Accel-Buffering") == "yes"


def test_a_wrong_character_set_is_put_right(server: Server, path: Headers) -> None:
    connection = read(server, path, type="Text/Event-Stream; charset=latin-1")
    assert connection.header("Content-Type") in {"Text/Event-Stream; charset=utf-8", "text/event-stream; charset=utf-8"}


def test_headers_that_are_wrong_for_a_stream_are_dropped(server: Server, path: Headers) -> None:
    connection = read(server, path, *UNFIT, ("X-Own", "kept"))
    assert connection.body.endswith(b"data: hello\n\n")
    assert connection.ended == "cleanly"
    assert [header for header in connection.headers if header in UNFIT] == []
    assert connection.header("X-Own") == "kept"


def test_the_log_says_once_why_headers_are_dropped(pool: Pool, path: Headers) -> None:
    server = pool.get(WSGIREF)
    for _ in range(2):
        read(server, path, ("Upgrade", "h2c"))
    line = "dropped Upgrade from the headers of an event stream: an application must not set hop-by-hop headers"
    assert server.output_once(line).count(line) == 1


@pytest.mark.parametrize("kind", [WAITRESS, WSGIREF], ids=str)
def test_a_header_that_makes_a_server_answer_500_makes_it_answer_200(kind: Kind, path: Headers, pool: Pool) -> None:
    keep_alive = ("Connection", "keep-alive")
    assert read(pool.get(kind, BARE), path, keep_alive).status == 500
    assert read(pool.get(kind), path, keep_alive).status == 200
