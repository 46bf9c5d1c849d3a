"""Memory that is short, on real servers: streams wait, none begins, the hungriest end, and all goes on once it has fallen."""

from __future__ import annotations

import re
import time
from typing import NamedTuple

import pytest

from .client import PATIENCE, Connection
from .conftest import Measure, Start
from .serving import ANNOUNCED, EVENT_SOURCE, GEVENT, GTHREAD, UNANNOUNCED, WAITRESS, Kind, Server, new_key
from .steps import event, large_event, pause, repeat, wait_for_the_end

pytestmark = [pytest.mark.live, pytest.mark.parametrize("kind", [GTHREAD, GEVENT, WAITRESS], ids=str)]

APPLICATION = "live.applications:app_under_pressure"
TICKS = repeat(event("tick"), pause(0.02))
LARGE = 65536  # bytes: a wait is paid by so many
LARGE_TICKS = repeat(large_event(LARGE, many_lines=True), pause(0.02))
HIGH, CRITICAL, LOW = 90, 95, 50  # percent; at 90 a stream waits for two seconds
TRIES = 5
TICKS_WITHOUT_WAITS, GO_ON_WITHIN = 40, 20.0  # seconds; they take one, and more than 80 if there is a wait before each


def fill(server: Server, percent: int) -> None:
    assert server.get(f"/fill?percent={percent}").status == 200


def test_streams_of_large_blocks_wait_while_memory_is_short_and_others_do_not(
    kind: Kind, serve: Start, measure: Measure
) -> None:
    server = serve(kind, APPLICATION)
    announced, unannounced = server.open(LARGE_TICKS), server.open(LARGE_TICKS, headers=UNANNOUNCED)
    small = server.open(TICKS)
    for stream in (announced, unannounced, small):
        stream.read_until(b"data: ")
    fill(server, HIGH)
    deadline = time.monotonic() + PATIENCE  # what they had pulled before may still be on its way
    while not (are_waiting := wait_in_turn(announced, unannounced)).all_do:
        assert time.monotonic() < deadline, are_waiting
    small.read_for(0.1)
    assert_goes_on(small, event_size=len("data: tick\n\n"))
    fill(server, LOW)
    measure(f"{TICKS_WITHOUT_WAITS} large events after memory has fallen, {kind}", assert_goes_on(announced, event_size=LARGE))


def assert_goes_on(stream: Connection, event_size: int) -> float:
    """Read as many events as there would not be with waits; return the seconds."""
    began, before = time.monotonic(), len(stream.body)
    while len(stream.body) - before < TICKS_WITHOUT_WAITS * event_size:
        stream.read_for(0.05)
        assert time.monotonic() - began < GO_ON_WITHIN
    return time.monotonic() - began


class Waiting(NamedTuple):
    """What came from streams in some seconds, of which they have to spend two before each large block."""

    blocks: float
    unannounced_blocks: float
    heartbeats: int

    @property
    def all_do(self) -> bool:
        return 0 < self.blocks <= 4 and 0 < self.unannounced_blocks <= 4 and self.heartbeats >= 2


def wait_in_turn(announced: Connection, unannounced: Connection) -> Waiting:
    """Read both for five seconds; without waits there would be two hundred blocks."""
    came = announced.read_for(5)
    return Waiting(len(came) / LARGE, len(unannounced.read_for(0.1)) / LARGE, len(re.findall(rb"(?m)^:\n", came)))


def test_no_stream_begins_while_memory_is_critical_but_where_there_is_none(kind: Kind, serve: Start) -> None:
    server = serve(kind, APPLICATION)
    fill(server, CRITICAL)
    for _ in range(TRIES):
        key = new_key()
        first = server.open(event("hello"), wait_for_the_end(), headers=EVENT_SOURCE, key=key)
        first.read_until(b"hello")
        answer = server.open(event("hello"), headers=EVENT_SOURCE).read_to_end()
        refused = server.open(event("hello"), headers=ANNOUNCED)
        refused.read_to_end()
        if server.life(key).reason is None:  # in more than two seconds, it may have been the hungriest, and nothing is open
            break
    assert re.fullmatch(rb"retry: [0-9]+\n\n", answer)
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
    assert server.life_once(hungry_key, lambda life: life.closed).reason == "memory"
    assert server.life(idle_key).reason is None
    fill(server, LOW)
