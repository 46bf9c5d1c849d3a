"""Flask, from 2.3 on: streams that use a connection which belongs to a thread, in a context which belongs to a Context."""

from __future__ import annotations

import json
import time

import pytest

from .client import PATIENCE, Headers, TooLate
from .conftest import Pool
from .serving import ANNOUNCED, GEVENT, GTHREAD, PATHS, WERKZEUG, Server, new_key

pytest.importorskip("flask")
pytestmark = pytest.mark.live


Threads = dict[str, list[int]]


@pytest.fixture(params=[GTHREAD, GEVENT, WERKZEUG], ids=str)
def flask(request: pytest.FixtureRequest, pool: Pool) -> Server:
    """A server with the wrapped Flask application."""
    return pool.get(request.param, "live.flask_application:app")


def threads_once_closed(server: Server, key: str) -> Threads:
    """Return which threads did what for the request of that key, once all it opened is closed.

    Flask 3.1 tears its context down after the view too, so that the stream opens a second connection.
    """
    deadline = time.monotonic() + PATIENCE
    while True:
        threads: Threads = json.loads(server.get(f"/life?key={key}").body)
        if len(threads["closed"]) == len(threads["opened"]):
            return threads
        if time.monotonic() > deadline:
            raise TooLate(f"not closed within {PATIENCE} s: {threads}")
        time.sleep(0.02)


def assert_one_thread(threads: Threads) -> None:
    assert len(threads["opened"]) in (1, 2)
    assert len(set(threads["used"])) == 1
    assert set(threads["used"]) == set(threads["opened"]) == set(threads["closed"])


def assert_no_error(server: Server, since: int) -> None:
    written = server.output()[since:]
    assert "Traceback" not in written
    assert "Error" not in written


@pytest.mark.parametrize("path", PATHS)
def test_a_stream_uses_the_connection_that_the_view_opened(flask: Server, path: Headers) -> None:
    key, since = new_key(), len(flask.output())
    response = flask.get(f"/doubles?key={key}", path)
    body = response.body.removeprefix(b":\n")
    assert body == b"data: 2 on /doubles\n\ndata: 4 on /doubles\n\ndata: 6 on /doubles\n\n"
    assert response.ended == "cleanly"
    threads = threads_once_closed(flask, key)
    assert len(threads["used"]) == 4
    assert_one_thread(threads)
    assert_no_error(flask, since)


@pytest.mark.parametrize("path", PATHS)
def test_the_context_is_torn_down_where_it_was_made_when_the_client_disconnects(flask: Server, path: Headers) -> None:
    key, since = new_key(), len(flask.output())
    connection = flask.ask(f"/ticks?key={key}", path)
    connection.read_until(b"data: 2\n\n")
    connection.disconnect()
    assert_one_thread(threads_once_closed(flask, key))
    assert_no_error(flask, since)


def test_the_context_is_torn_down_when_the_client_of_a_silent_stream_disconnects(flask: Server) -> None:
    key, since = new_key(), len(flask.output())
    connection = flask.ask(f"/silence?key={key}", ANNOUNCED)
    connection.read_until(b"data: 2\n\n")
    connection.disconnect()
    assert_one_thread(threads_once_closed(flask, key))
    assert_no_error(flask, since)


@pytest.mark.parametrize("path", PATHS)
def test_the_context_is_torn_down_when_the_stream_raises(flask: Server, path: Headers) -> None:
    key = new_key()
    connection = flask.ask(f"/fails?key={key}", path)
    assert connection.read_to_end().removeprefix(b":\n") == b"data: 2\n\n"
    assert connection.ended == "cut"
    assert_one_thread(threads_once_closed(flask, key))
    output = flask.output_once(f"RuntimeError: the stream of {key}")
    assert "different Context" not in output
