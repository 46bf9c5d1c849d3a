"""Django under WSGI: its GZipMiddleware holds no event back, and its connections are closed where they were opened."""

from __future__ import annotations

import gzip
import json
import time
from itertools import pairwise

import pytest

from .client import PATIENCE, Headers, TooLate
from .conftest import Pool
from .serving import ANNOUNCED, GEVENT, GTHREAD, PATHS, SYNC, UNANNOUNCED, WAITRESS, Kind, Server, new_key

pytest.importorskip("django")
pytestmark = pytest.mark.live

GZIP = ("Accept-Encoding", "gzip, deflate, br")
TICKS = b"data: tick 0 of 2\n\ndata: tick 1 of 2\n\ndata: tick 2 of 2\n\n"

Threads = dict[str, list[int]]


@pytest.fixture(params=[SYNC, GTHREAD, GEVENT, WAITRESS], ids=str)
def django(request: pytest.FixtureRequest, pool: Pool) -> Server:
    """A server with the wrapped Django application."""
    return pool.get(request.param, "live.django_application:application")


def threads_once_closed(server: Server, key: str) -> Threads:
    """Return which threads did what for the request of that key, once it has finished with its connection closed."""
    deadline = time.monotonic() + PATIENCE
    while True:
        threads: Threads = json.loads(server.get(f"/life?key={key}").body)
        if threads["closed"]:
            return threads
        if time.monotonic() > deadline:
            raise TooLate(f"not finished within {PATIENCE} s: {threads}")
        time.sleep(0.02)


def test_events_of_an_announced_stream_arrive_at_once_and_uncompressed(django: Server) -> None:
    connection = django.ask(f"/ticks?key={new_key()}&pause=1.5", [*ANNOUNCED, GZIP])
    assert connection.read_to_end() == TICKS
    assert connection.header("Content-Encoding") is None
    ticks = [arrival.at for arrival in connection.arrivals if b"tick" in arrival.block]
    assert len(ticks) == 3
    # The application pauses after each: none waits for the next one or for the end.
    assert all(later - earlier > 0.3 for earlier, later in pairwise([*ticks, connection.ended_at])), ticks


def test_an_ordinary_page_is_still_compressed(django: Server) -> None:
    response = django.get("/page", [*UNANNOUNCED, GZIP])
    assert response.header("Content-Encoding") == "gzip"
    assert gzip.decompress(response.body) == b"<p>Lorem ipsum dolor sit amet</p>" * 1000


def test_a_compressed_unannounced_stream_arrives_as_it_was_compressed(django: Server) -> None:
    response = django.get(f"/ticks?key={new_key()}", [*UNANNOUNCED, GZIP])
    assert response.header("Content-Encoding") == "gzip"
    assert gzip.decompress(response.body) == TICKS


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("leaves_early", [pytest.param(False, id="to its end"), pytest.param(True, id="left early")])
def test_connections_are_closed_on_the_thread_that_opened_them(django: Server, path: Headers, leaves_early: bool) -> None:
    key, since = new_key(), len(django.output())
    connection = django.ask(f"/{'endless' if leaves_early else 'ticks'}?key={key}", path)
    connection.read_until(b" of 2\n\n")
    if not leaves_early:
        connection.read_to_end()
    connection.disconnect()
    threads = threads_once_closed(django, key)
    assert len(threads["opened"]) == len(threads["closed"]) == 1
    assert set(threads["used"]) == set(threads["opened"]) == set(threads["closed"])
    assert "Traceback" not in django.output()[since:]


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("kind", [GTHREAD, GEVENT], ids=str)
def test_on_open_gives_the_views_connection_back_before_the_stream_begins(pool: Pool, kind: Kind, path: Headers) -> None:
    for application, first in [("application", b"data: connected\n\n"), ("releasing", b"data: not connected\n\n")]:
        server = pool.get(kind, f"live.django_application:{application}")
        assert server.get(f"/connected?key={new_key()}", path).body.removeprefix(b":\n") == first + b"data: 2\n\n"
