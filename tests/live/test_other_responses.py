"""What is no event stream arrives as it does without the middleware, whether the request was announced or not."""

from __future__ import annotations

import pytest

from .applications import FILE
from .client import Connection, Headers
from .conftest import BARE, Pool
from .serving import ALL_SERVERS, PATHS, Kind, Server, new_key, play_target
from .steps import event, large_event, pause, repeat, wait_for_the_end

pytestmark = [pytest.mark.live, pytest.mark.parametrize("path", PATHS)]

GENERATED = play_target(repeat(event("part"), times=3), large_event(200_000, many_lines=True), type="text/plain")


RESPONSES = [
    pytest.param("GET", "/file", id="a file through wsgi.file_wrapper"),
    pytest.param("HEAD", "/file", id="HEAD of a file"),
    pytest.param("GET", "/list", id="a list with Content-Length"),
    pytest.param("GET", "/empty", id="an empty body"),
    pytest.param("GET", "/no-content", id="204"),
    pytest.param("GET", GENERATED, id="a generator"),
]


def seen(server: Server, method: str, target: str, path: Headers) -> tuple[object, ...]:
    """Return all of a response that does not change from one to the next."""
    connection = server.ask(target, [*path, ("Connection", "close")], method=method)
    connection.read_to_end()
    headers = [(name, value) for name, value in connection.headers if name.lower() not in ("date", "x-process")]
    return connection.status, headers, connection.body, connection.ended


@pytest.mark.parametrize(("method", "target"), RESPONSES)
@pytest.mark.parametrize("kind", ALL_SERVERS, ids=str)
def test_a_response_that_is_no_event_stream_is_unchanged(
    kind: Kind, method: str, target: str, path: Headers, pool: Pool
) -> None:
    assert seen(pool.get(kind), method, target, path) == seen(pool.get(kind, BARE), method, target, path)


def test_a_file_arrives_whole(server: Server, path: Headers) -> None:
    assert server.get("/file", path).body == FILE


@pytest.mark.parametrize(
    "steps",
    [
        pytest.param((repeat(event("tick"), pause(1)),), id="that ticks"),
        pytest.param((event("hello"), wait_for_the_end(60)), id="that is silent"),
    ],
)
def test_head_of_an_endless_stream_is_answered_at_once(
    server: Server, path: Headers, steps: tuple[dict[str, object] | str, ...]
) -> None:
    key = new_key()
    connection: Connection = server.open(*steps, headers=path, method="HEAD", key=key)
    connection.read_headers()
    assert connection.status == 200
    assert connection.header("Content-Type") == "text/event-stream; charset=utf-8"
    assert connection.read_for(0.2) == b""
    connection.disconnect()
    life = server.life_once(key, lambda life: life.closed_on)
    assert life.called_on == life.closed_on
    assert life.blocks <= 2
