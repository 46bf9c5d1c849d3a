"""Memory that is short, on real servers: streams wait, none begins, the hungriest end, and all goes on once it has fallen."""

from __future__ import annotations

import re
import time
from typing import NamedTuple

import pytest

from .client import PATIENCE, Connection
from .conftest import Measure, Start
from .serving import ANNOUNCED, EVENT_SOURCE, GEVENT, GTHREAD, INLINE, WAITRESS, Kind, Server, new_key
from .steps import event, large_event, pause, repeat, wait_for_the_end

pytestmark = [pytest.mark.live, pytest.mark.parametrize("kind", [GTHREAD, GEVENT, WAITRESS], ids=str)]

APPLICATION = "live.applications:app_under_pressure"
TICKS = repeat(event("tick"), pause(0.02))
HIGH, CRITICAL, LOW = 90, 95, 50  # percent; at 90 a stream waits for two thirds of a second
TICKS_WITHOUT_WAITS, GO_ON_WITHIN = 40, 10.0  # seconds; they take one, and more than 25 if there is a wait before each


def fill(server: Server, percent: int) -> None:
    assert server.get(f"/fill?percent={percent}").status == 200


def test_streams_wait_while_memory_is_short_and_their_heartbeats_go_on(kind: Kind, serve: Start, measure: Measure) -> None:
    server = serve(kind, APPLICATION)
    announced, inline = server.open(TICKS), server.open(TICKS, headers=INLINE)
    announced.read_until(b"tick")
    inline.read_until(b"tick")
    fill(server, HIGH)
    deadline = time.monotonic() + PATIENCE  # what they had pulled before may still be on its way
    while not (are_waiting := wait_in_turn(announced, inline)).all_do:
        assert time.monotonic() < deadline, are_waiting
    fill(server, LOW)
    fell_at = time.monotonic()
    before = len(announced.body)
    while announced.body[before:].count(b"tick") < TICKS_WITHOUT_WAITS:
        announced.read_for(0.05)
        assert time.monotonic() - fell_at < GO_ON_WITHIN
    measure(f"{TICKS_WITHOUT_WAITS} ticks after memory has fallen, {kind}", time.monotonic() - fell_at)


class Waiting(NamedTuple):
    """What came from streams in some seconds, of which they have to spend two thirds before each tick."""

    ticks: int
    inline_ticks: int
    heartbeats: int

    @property
    def all_do(self) -> bool:
        return 1 <= self.ticks <= 8 and 1 <= self.inline_ticks <= 8 and self.heartbeats >= 2


def wait_in_turn(announced: Connection, inline: Connection) -> Waiting:
    """Read both for two and a half seconds; without waits there would be a hundred ticks."""
    came = announced.read_for(2.5)
    return Waiting(came.count(b"tick"), inline.read_for(0.1).count(b"tick"), came.count(b":\n"))


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
    deadline = time.monotonic() + PATIENCE  # a reading may be 100 ms old
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
    hungry.read_until(b"data: ")
    hungry.read_for(0.5)
    filled_at = time.monotonic()  # not sooner, at least
    fill(server, CRITICAL)
    body = hungry.read_to_end()
    assert hungry.ended == "cleanly"
    assert re.search(rb"\n\n(:\n)*retry: [0-9]+\n\n\Z", body)
    assert hungry.ended_at - filled_at > 1.5, "before two seconds of it"
    measure(f"the hungriest stream ends at critical memory after, {kind}", hungry.ended_at - filled_at)
    assert server.life_once(hungry_key, lambda life: life.closed).reason == "shed"
    assert server.life(idle_key).reason is None
    fill(server, LOW)
