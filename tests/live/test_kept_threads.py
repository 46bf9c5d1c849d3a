"""Applications that keep their threads after a disconnect: the server still answers, and threads do not pile up."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest

from .client import PATIENCE, Connection
from .conftest import Measure, Start
from .serving import EVENT_SOURCE, Kind, Server, gunicorn, new_key, waitress

pytestmark = pytest.mark.live

THREADS = 8
QUICK, VISITORS = 40, 40
ANSWERED_WITHIN = 1.0  # seconds
TRIES = 3  # one of them has to keep the promise

KINDS = [
    pytest.param(gunicorn("gthread", f"--threads={THREADS}", "--timeout=120"), "live.sources:app", id="gunicorn gthread"),
    pytest.param(waitress(f"--threads={THREADS}"), "live.sources:app", id="waitress"),
]


def inside(server: Server) -> Any:
    return json.loads(server.get("/inside").body)


@pytest.mark.parametrize(("kind", "application"), KINDS)
def test_forty_disconnects_from_blocked_applications_do_not_block_the_server(
    kind: Kind, application: str, serve: Start, measure: Measure
) -> None:
    server, key = serve(kind, application), new_key()
    for _ in range(QUICK):
        assert server.get("/ping").status == 200
    begun = 0
    for _ in range(VISITORS):
        visitor = server.ask(f"/queue?key={key}", EVENT_SOURCE)
        begun += b"hello" in read_a_little(visitor)
        visitor.disconnect()
    assert begun >= THREADS * 3 // 4
    seconds = [seconds_until_answered(server)]
    while min(seconds) > ANSWERED_WITHIN and len(seconds) < TRIES:
        seconds.append(seconds_until_answered(server))
    measure(f"a ping beside kept threads, {kind}", min(seconds))
    assert min(seconds) < ANSWERED_WITHIN, seconds
    seen = inside(server)
    assert sum(name.startswith("ssemiddleware-stand-in") for name in seen["threads"]) <= THREADS
    assert seen["kept_threads"] <= 2 * THREADS
    assert len(seen["threads"]) <= 2 * THREADS + 5
    assert server.get(f"/feed?key={key}&times={VISITORS}").status == 200
    deadline = time.monotonic() + PATIENCE
    while not is_as_before(seen := inside(server)):
        assert time.monotonic() < deadline, seen
        time.sleep(0.1)
    # the server can serve as many streams as before
    streams = [server.ask(f"/queue?key={key}", EVENT_SOURCE) for _ in range(THREADS * 3 // 4)]
    for stream in streams:
        stream.read_until(b"hello")
    assert server.get(f"/feed?key={key}&times={VISITORS}").status == 200


def read_a_little(visitor: Connection) -> bytes:
    """Read until the stream has begun, or the visitor was refused."""
    visitor.read_headers()
    visitor.read_until(b"\n\n")
    return visitor.body


def seconds_until_answered(server: Server) -> float:
    pong = server.get("/ping")
    assert pong.body == b"pong"
    return pong.ended_at - pong.sent_at


def is_as_before(seen: Any) -> bool:
    stand_ins = sum(name.startswith("ssemiddleware-stand-in") for name in seen["threads"])
    return stand_ins == seen["kept_threads"] == seen["open_announced"] == 0 and len(seen["threads"]) <= THREADS + 5
