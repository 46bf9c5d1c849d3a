"""Memory that is short, on real servers: streams wait, none begins, the hungriest end, and all goes on once it has fallen."""

from __future__ import annotations

import re
import time

import pytest

from .conftest import Measure, Start
from .serving import ANNOUNCED, EVENT_SOURCE, GEVENT, GTHREAD, INLINE, WAITRESS, Kind, Server, new_key
from .steps import event, large_event, pause, repeat, wait_for_the_end

pytestmark = [pytest.mark.live, pytest.mark.parametrize("kind", [GTHREAD, GEVENT, WAITRESS], ids=str)]

APPLICATION = "live.applications:app_under_pressure"
TICKS = repeat(event("tick"), pause(0.02))
HIGH, CRITICAL, LOW = 90, 95, 50  # percent; at 90 a stream waits for two thirds of a second


def fill(server: Server, percent: int) -> None:
    assert server.get(f"/fill?percent={percent}").status == 200


def test_streams_wait_while_memory_is_short_and_their_heartbeats_go_on(kind: Kind, serve: Start, measure: Measure) -> None:
    server = serve(kind, APPLICATION)
    announced, inline = server.open(TICKS), server.open(TICKS, headers=INLINE)
    announced.read_until(b"tick")
    inline.read_until(b"tick")
    fill(server, HIGH)
    announced.read_for(0.5)
    inline.read_for(0.5)
    before, inline_before = len(announced.body), len(inline.body)
    announced.read_for(2.5)
    inline.read_for(0.1)
    waiting = announced.body[before:]
    assert 1 <= waiting.count(b"tick") <= 8
    assert 1 <= inline.body[inline_before:].count(b"tick") <= 10
    assert waiting.count(b":\n") >= 2
    fill(server, LOW)
    fell_at = time.monotonic()
    before = len(announced.body)
    while announced.body[before:].count(b"tick") < 10:
        announced.read_for(0.05)
        assert time.monotonic() - fell_at < 5
    measure(f"ten ticks after memory has fallen, {kind}", time.monotonic() - fell_at)


def test_no_stream_begins_while_memory_is_critical_but_where_there_is_none(kind: Kind, serve: Start) -> None:
    server = serve(kind, APPLICATION)
    fill(server, CRITICAL)
    first = server.open(event("hello"), wait_for_the_end(), headers=EVENT_SOURCE)
    first.read_until(b"hello")
    assert re.fullmatch(rb"retry: [0-9]+\n\n", server.open(event("hello"), headers=EVENT_SOURCE).read_to_end())
    refused = server.open(event("hello"), headers=ANNOUNCED)
    refused.read_to_end()
    assert refused.status == 503
    assert server.get("/file").status == 200
    fill(server, LOW)
    deadline = time.monotonic() + 5  # a reading may be 100 ms old
    while b"hello" not in (again := server.open(event("hello"), headers=EVENT_SOURCE)).read_to_end():
        assert time.monotonic() < deadline
        again.leave()  # waitress has 100 connections, and a refusal takes less than a millisecond
        time.sleep(0.02)


def test_the_hungriest_streams_end_when_memory_stays_critical(kind: Kind, serve: Start, measure: Measure) -> None:
    server = serve(kind, APPLICATION)
    idle_key, hungry_key = new_key(), new_key()
    idle = server.open(event("hello"), wait_for_the_end(), headers=EVENT_SOURCE, key=idle_key)
    idle.read_until(b"hello")
    many = repeat(large_event(65536, many_lines=True), pause(0.1))
    hungry = server.open(many, headers=EVENT_SOURCE, key=hungry_key)
    hungry.read_for(0.5)
    fill(server, CRITICAL)
    filled_at = time.monotonic()
    body = hungry.read_to_end(within=15)
    assert hungry.ended == "cleanly"
    assert re.search(rb"\n\n(:\n)*retry: [0-9]+\n\n\Z", body)
    assert hungry.ended_at - filled_at > 1.5, "before two seconds of it"
    measure(f"the hungriest stream ends at critical memory after, {kind}", hungry.ended_at - filled_at)
    assert server.life_once(hungry_key, lambda life: life.closed, within=5).reason == "shed"
    assert server.life(idle_key).reason is None
    fill(server, LOW)
