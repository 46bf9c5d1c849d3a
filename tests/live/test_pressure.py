"""Low memory, on real servers: streams of large blocks wait, small events do not, and no stream is refused or ended."""

from __future__ import annotations

import re
import time
from functools import partial
from typing import NamedTuple

import pytest

from .best_of import Times, best_of_each
from .client import PATIENCE, Connection
from .conftest import Measure, Start
from .serving import EVENT_SOURCE, GEVENT, GTHREAD, UNANNOUNCED, WAITRESS, Kind, Server
from .steps import event, large_event, pause, repeat

pytestmark = [pytest.mark.live, pytest.mark.parametrize("kind", [GTHREAD, GEVENT, WAITRESS], ids=str)]

APPLICATION = "live.applications:app_under_pressure"
TICKS = repeat(event("tick"), pause(0.02))
LARGE = 65536  # bytes of a block with the full wait
LARGE_TICKS = repeat(large_event(LARGE, many_lines=True), pause(0.02))
HIGH, LOW = 93, 50  # percent; at 93 a stream waits for two seconds
SMALL = "." * (60 - len("data: \n\n"))
BURST = 5000  # events: they would take seconds with a wait for each 64 KiB
TICKS_WITHOUT_WAITS, GO_ON_WITHIN = 40, 20.0  # seconds; they take one without waits, and more than 80 with a wait before each


def fill(server: Server, percent: int) -> None:
    assert server.get(f"/fill?percent={percent}").status == 200


def test_streams_of_large_blocks_wait_while_memory_is_low_and_others_do_not(kind: Kind, serve: Start, measure: Measure) -> None:
    server = serve(kind, APPLICATION)
    announced, unannounced = server.open(LARGE_TICKS), server.open(LARGE_TICKS, headers=UNANNOUNCED)
    small = server.open(TICKS)
    for stream in (announced, unannounced, small):
        stream.read_until(b"data: ")
    fill(server, HIGH)
    deadline = time.monotonic() + PATIENCE  # blocks that were pulled before may still arrive
    while not (are_waiting := wait_in_turn(announced, unannounced)).all_do:
        assert time.monotonic() < deadline, are_waiting
    small.read_for(0.1)
    assert_goes_on(small, event_size=len("data: tick\n\n"))
    fill(server, LOW)
    measure(f"{TICKS_WITHOUT_WAITS} large events after memory has fallen, {kind}", assert_goes_on(announced, event_size=LARGE))


def assert_goes_on(stream: Connection, event_size: int) -> float:
    """Read more events than could arrive with waits; return the seconds."""
    began, before = time.monotonic(), len(stream.body)
    while len(stream.body) - before < TICKS_WITHOUT_WAITS * event_size:
        stream.read_for(0.05)
        assert time.monotonic() - began < GO_ON_WITHIN
    return time.monotonic() - began


class Waiting(NamedTuple):
    """What arrived from streams in some seconds, when they wait for two seconds before each large block."""

    blocks: float
    unannounced_blocks: float
    heartbeats: int

    @property
    def all_do(self) -> bool:
        return 0 < self.blocks <= 4 and 0 < self.unannounced_blocks <= 4 and self.heartbeats >= 2


def wait_in_turn(announced: Connection, unannounced: Connection) -> Waiting:
    """Read both for five seconds. Without waits two hundred blocks would arrive."""
    came = announced.read_for(5)
    return Waiting(len(came) / LARGE, len(unannounced.read_for(0.1)) / LARGE, len(re.findall(rb"(?m)^:\n", came)))


@pytest.mark.parametrize("percent", [79, 85, 91, 95, 99])
def test_small_events_never_wait_for_memory(kind: Kind, percent: int, serve: Start, measure: Measure) -> None:
    """No stream is refused, ended or slowed down, and no first event is late, however full the memory is."""
    server = serve(kind, APPLICATION)
    fill(server, percent)
    time.sleep(0.15)  # a reading may be 100 ms old
    for way, best in zip(("bare", "wrapped"), best_of_each(partial(read_burst, server)), strict=True):
        measure(f"the first of {BURST} small events in memory that is full to {percent} %, {kind}, {way}", best.first)
        measure(f"{BURST} small events in memory that is full to {percent} %, {kind}, {way}", best.last)


def read_burst(server: Server, way: str) -> Times:
    """Read events of 60 bytes that are there at once."""
    stream = server.open(event("hello"), repeat(event(SMALL), times=BURST), headers=EVENT_SOURCE, way=way)
    first = stream.read_until(b"hello\n\n")
    body = stream.read_to_end()
    stream.disconnect()
    assert (stream.status, stream.ended, body.count(b"data: .")) == (200, "cleanly", BURST)
    return Times(first - stream.sent_at, stream.ended_at - stream.sent_at)
