"""Descriptors that an application closes behind the server's back: the next client reads nothing of the old stream."""

from __future__ import annotations

import json
import time

import pytest

from .client import PATIENCE
from .conftest import Start
from .serving import EVENT_SOURCE, UNANNOUNCED, gunicorn, new_key

pytestmark = pytest.mark.live

STREAMS = 4
GTHREAD = gunicorn("gthread", "--threads=20")
HELLO = b"data: hello\n\n"
INSIDE = "/inside?heartbeats=1"


def test_no_client_gets_a_byte_of_a_stream_whose_descriptor_the_application_has_closed(serve: Start) -> None:
    server, old_key, new = serve(GTHREAD, "live.sources:app_with_heartbeats"), new_key(), new_key()
    for _ in range(STREAMS):
        server.ask(f"/queue?key={old_key}", EVENT_SOURCE).read_until(HELLO + b":\n")
    closed = json.loads(server.get("/close-descriptors").body)
    others = [server.ask(f"/queue?key={new}", UNANNOUNCED) for _ in range(2 * STREAMS)]  # and so without a heartbeat
    for other in others:
        other.read_until(HELLO)
    assert set(closed) <= set(json.loads(server.get("/descriptors").body)), "the new clients have the numbers"
    assert b"".join(other.read_for(0.2) for other in others) == b"", "three heartbeats later"
    deadline = time.monotonic() + PATIENCE
    while json.loads(server.get(INSIDE).body)["kept_threads"] < STREAMS:  # their end was seen, and heartbeats were due
        assert time.monotonic() < deadline, server.get(INSIDE).body
        time.sleep(0.1)
    assert server.get(f"/feed?key={old_key}&times={STREAMS}").status == 200  # and so the server ends its responses
    while json.loads(server.get(INSIDE).body)["open_announced"]:
        assert time.monotonic() < deadline, server.get(INSIDE).body
        time.sleep(0.1)
    assert b"".join(other.read_for(0.1) for other in others) == b""
    assert server.get(f"/feed?key={new}&times={len(others)}").status == 200
    assert [(other.read_to_end(), other.ended) for other in others] == [(HELLO, "cleanly")] * len(others)
