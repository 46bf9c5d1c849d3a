"""`Stream.each`: an application that blocks in a queue or in Redis is ended with its stream, and its source's thread too."""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from .client import PATIENCE
from .conftest import Measure, Start
from .serving import EVENT_SOURCE, GEVENT, GTHREAD, Kind, Server, new_key

pytestmark = [pytest.mark.live, pytest.mark.parametrize("kind", [GTHREAD, GEVENT], ids=str)]

APPLICATION = "live.sources:app"
STREAMS = 5


def inside_once_at_rest(server: Server) -> Any:
    """Return what is in the process once no stream is open and no source is pulled."""
    deadline = time.monotonic() + PATIENCE
    while True:
        seen = json.loads(server.get("/inside").body)
        sources = sum(name.startswith("ssemiddleware-source") for name in seen["threads"])
        if sources == seen["open_announced"] == seen["kept_threads"] == 0:
            return seen
        assert time.monotonic() < deadline, seen
        time.sleep(0.05)


def test_streams_from_queues_end_with_their_clients(kind: Kind, serve: Start, measure: Measure) -> None:
    server, keys = serve(kind, APPLICATION), [new_key() for _ in range(STREAMS)]
    streams = [server.ask(f"/queue?key={key}&each=1", EVENT_SOURCE) for key in keys]
    for stream in streams:
        stream.read_until(b"hello")
    for stream in streams:
        stream.disconnect()
    disconnected_at = time.monotonic()
    assert inside_once_at_rest(server)["ended"] == {"client gone": STREAMS}
    measure(f"{STREAMS} streams from queues are closed after, {kind}", time.monotonic() - disconnected_at)
    assert "Traceback" not in server.output()


def test_a_stream_from_a_queue_that_ends_by_itself_ends_cleanly(kind: Kind, serve: Start) -> None:
    server, key = serve(kind, APPLICATION), new_key()
    stream = server.ask(f"/queue?key={key}&each=1", EVENT_SOURCE)
    stream.read_until(b"hello")
    server.get(f"/feed?key={key}&times=1")
    assert stream.read_to_end() == b"data: hello\n\n"
    assert stream.ended == "cleanly"
    assert inside_once_at_rest(server)["ended"] == {"application ended": 1}


# -- Redis


@pytest.fixture(scope="module")
def redis_port(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    pytest.importorskip("redis")
    program = shutil.which("redis-server")
    if program is None:
        pytest.skip("no redis-server: apt-get install redis-server")
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
    folder: Path = tmp_path_factory.mktemp("redis")
    options = ["--port", str(port), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no", "--dir", str(folder)]
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen([program, *options], stdout=log, stderr=log)
    try:
        deadline = time.monotonic() + PATIENCE
        while not is_up(port):
            assert process.poll() is None, (folder / "log").read_text()
            assert time.monotonic() < deadline
            time.sleep(0.02)
        yield port
    finally:
        process.terminate()
        process.wait(PATIENCE)


def is_up(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port)).close()
    except OSError:
        return False
    return True


def test_streams_from_redis_end_with_their_clients_and_at_a_drain(
    kind: Kind, serve: Start, redis_port: int, monkeypatch: pytest.MonkeyPatch, measure: Measure
) -> None:
    import redis

    monkeypatch.setenv("REDIS_PORT", str(redis_port))
    client: Any = redis.Redis(port=redis_port)
    server, channel = serve(kind, APPLICATION), new_key()
    streams = [server.ask(f"/redis?channel={channel}", EVENT_SOURCE) for _ in range(STREAMS)]
    for stream in streams:
        stream.read_until(b"hello")
    assert client.publish(channel, "news") == STREAMS
    for stream in streams:
        stream.read_until(b"data: news\n\n")
    for stream in streams[1:]:
        stream.disconnect()
    disconnected_at = time.monotonic()
    while client.pubsub_numsub(channel)[0][1] > 1:
        assert time.monotonic() - disconnected_at < PATIENCE
        time.sleep(0.02)
    measure(f"{STREAMS - 1} subscriptions to Redis are given up after, {kind}", time.monotonic() - disconnected_at)
    stopped_at = time.monotonic()
    server.process.terminate()
    streams[0].read_to_end()
    measure(f"a stream from Redis has ended at a drain after, {kind}", streams[0].ended_at - stopped_at)
    assert streams[0].ended == "cleanly"
    assert streams[0].body.rpartition(b"retry: ")[2].strip().isdigit(), streams[0].body
    server.process.wait(PATIENCE)
    assert client.pubsub_numsub(channel)[0][1] == 0
    assert "Traceback" not in server.output()
    client.close()
