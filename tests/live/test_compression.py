"""Compressed event streams on each server to which another thread may write, and in the clients that people use."""

from __future__ import annotations

import asyncio
import json
import re
import subprocess
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from pathlib import Path

import pytest

from benchmarks.readers.harness import NPM_PACKAGES, lacks_node

from ..decompressing import decompressor_of
from ..npm import folder_with
from .conftest import Pool, Start
from .serving import (
    EVENT_SOURCE,
    GEVENT,
    GTHREAD,
    SYNC,
    WAITRESS,
    WERKZEUG,
    WSGIREF,
    Kind,
    Server,
    cheroot,
    gunicorn,
    play_target,
    uwsgi,
)  # fmt: skip
from .steps import event, half_an_event, pause, wait_for_the_end

pytestmark = pytest.mark.live

APPLICATION = "live.applications:app_that_compresses"
# What browsers say, and a client that prefers zstd.
ACCEPTED = {"gzip": "gzip, deflate, br, zstd", "zstd": "gzip;q=0.5, zstd"}
WITH_A_WRITER = [
    *(SYNC, GTHREAD, GEVENT, gunicorn("gevent_pywsgi"), WAITRESS, WERKZEUG, WSGIREF, cheroot()),
    uwsgi("--http-socket", name="uWSGI"),
]
PAUSE = 2.0  # seconds: four heartbeats
STEPS = pause(PAUSE), event("one"), pause(PAUSE), half_an_event("two"), "\n", "\n", event("three")

Came = Iterator[tuple[float, bytes]]  # the time, and the bytes


def asking_for(encoding: str) -> list[tuple[str, str]]:
    return [*EVENT_SOURCE, ("Accept-Encoding", ACCEPTED[encoding])]


@pytest.mark.parametrize(
    ("kind", "encoding"), [*((kind, "gzip") for kind in WITH_A_WRITER), (GTHREAD, "zstd"), (GEVENT, "zstd")], ids=str
)
def test_events_come_at_once_and_heartbeats_between_them(kind: Kind, encoding: str, pool: Pool) -> None:
    connection = pool.get(kind, APPLICATION).open(*STEPS, headers=asking_for(encoding))
    connection.read_to_end()
    assert (connection.header("Content-Encoding"), connection.header("Vary")) == (encoding, "Accept-Encoding")
    came: dict[bytes, float] = {}
    decompressor, body = decompressor_of(encoding), b""
    for arrival in connection.arrivals:
        body += decompressor.decompress(arrival.block)
        for name in (b"\n", b"one\n\n", b"two\n\n"):
            if name in body:
                came.setdefault(name, arrival.at)
    assert re.fullmatch(rb"(retry: [0-9]+\n)?(:\n){2,}data: one\n\n(:\n){2,}data: two\n\ndata: three\n\n", body), body
    assert (decompressor.eof, decompressor.unused_data) == (True, b"")
    assert came[b"two\n\n"] - came[b"one\n\n"] > PAUSE / 2
    assert came[b"one\n\n"] - came[b"\n"] > PAUSE / 4


@pytest.mark.parametrize(("kind", "encoding"), [(GTHREAD, "gzip"), (GEVENT, "gzip"), (GTHREAD, "zstd")], ids=str)
def test_after_a_reload_a_silent_stream_has_a_whole_body(kind: Kind, encoding: str, serve: Start) -> None:
    server = serve(kind, APPLICATION)
    connection = server.open(event("one"), wait_for_the_end(), headers=asking_for(encoding))
    connection.read_headers()
    connection.read_for(0.5)
    server.process.terminate()
    decompressor = decompressor_of(encoding)
    body = decompressor.decompress(connection.read_to_end())
    assert re.fullmatch(rb"data: one\n\n(:\n)*retry: [0-9]+\n\n", body), body
    assert (decompressor.eof, connection.ended) == (True, "cleanly")


def test_a_client_that_accepts_no_encoding_gets_the_stream_uncompressed(pool: Pool) -> None:
    connection = pool.get(GTHREAD, APPLICATION).open(event("one"), headers=EVENT_SOURCE)
    assert connection.read_to_end() == b"data: one\n\n"
    assert (connection.header("Content-Encoding"), connection.header("Vary")) == (None, "Accept-Encoding")


# -- clients


def over_httpx(url: str, asks: Mapping[str, str]) -> Came:
    import httpx

    with httpx.stream("GET", url, headers=asks) as response:
        yield 0.0, response.headers.get("content-encoding", "").encode()
        for part in response.iter_bytes():
            yield time.monotonic(), part


def over_requests(url: str, asks: Mapping[str, str]) -> Came:
    import requests

    with requests.get(url, headers=asks, stream=True, timeout=30) as response:
        yield 0.0, response.headers.get("content-encoding", "").encode()
        for part in response.iter_content(None):
            yield time.monotonic(), part


def over_aiohttp(url: str, asks: Mapping[str, str]) -> Came:
    import aiohttp

    async def read() -> AsyncIterator[tuple[float, bytes]]:
        async with aiohttp.ClientSession() as session, session.get(url, headers=asks) as response:
            yield 0.0, response.headers.get("content-encoding", "").encode()
            async for part in response.content.iter_any():
                yield time.monotonic(), part

    async def collected() -> list[tuple[float, bytes]]:
        return [each async for each in read()]

    return iter(asyncio.run(collected()))


@pytest.fixture(scope="session")
def npm_packages(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with the packages."""
    return folder_with(NPM_PACKAGES, tmp_path_factory)


def in_node(reader: str, url: str, *folder: str) -> Came:
    script = Path(__file__).with_name("compressed.mjs")
    command = ["node", str(script), reader, url, *folder]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.stdout, done.stderr
    encoding, came = json.loads(done.stdout)
    yield 0.0, encoding.encode()
    for milliseconds, data in came:
        yield milliseconds / 1000, data.encode()


def assert_reads_at_once(server: Server, read: Callable[[str], Came], encoding: str = "gzip") -> None:
    target = play_target(event("one"), pause(PAUSE), event("two"))
    (_, found), *came = read(f"http://127.0.0.1:{server.port}{target}")
    assert found == encoding.encode()
    at = {name: next(when for when, part in came if name in part) for name in (b"one", b"two")}
    assert at[b"two"] - at[b"one"] > PAUSE / 2


@pytest.mark.parametrize(("kind", "encoding"), [(GTHREAD, "gzip"), (GEVENT, "gzip"), (GTHREAD, "zstd")], ids=str)
@pytest.mark.parametrize("read", [over_httpx, over_requests, over_aiohttp], ids=lambda read: read.__name__)
def test_clients_in_python_read_each_event_at_once(
    kind: Kind, encoding: str, read: Callable[[str, Mapping[str, str]], Came], pool: Pool
) -> None:
    asks = {"Accept": "text/event-stream"}  # what they send by themselves, the middleware answers with gzip
    if encoding == "zstd":
        asks["Accept-Encoding"] = ACCEPTED[encoding]
    assert_reads_at_once(pool.get(kind, APPLICATION), lambda url: read(url, asks), encoding)


def test_node_s_fetch_reads_each_event_at_once(pool: Pool) -> None:
    if lacks_node():
        pytest.skip(f"no {' and no '.join(lacks_node())}")
    assert_reads_at_once(pool.get(GTHREAD, APPLICATION), lambda url: in_node("fetch", url))


def test_npm_s_eventsource_reads_each_event_at_once(pool: Pool, npm_packages: Path) -> None:
    assert_reads_at_once(pool.get(GTHREAD, APPLICATION), lambda url: in_node("eventsource", url, str(npm_packages)))
