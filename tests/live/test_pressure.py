"""Memory that others have filled, on real servers: it delays no stream, and none is refused or ended."""

from __future__ import annotations

import time
from functools import partial

import pytest

from .best_of import Times, best_of_each
from .conftest import Measure, Start
from .serving import EVENT_SOURCE, GEVENT, GTHREAD, WAITRESS, Kind, Server
from .steps import event, same_event

pytestmark = [pytest.mark.live, pytest.mark.parametrize("kind", [GTHREAD, GEVENT, WAITRESS], ids=str)]

APPLICATION = "live.applications:app_under_pressure"
# Bytes of an event, and how many are sent at once. Only the last are so large that they need a turn.
BURSTS = {60: 5000, 30_000: 100, 100_000: 50, 1_000_000: 10}


def fill(server: Server, percent: int) -> None:
    assert server.get(f"/fill?percent={percent}").status == 200


@pytest.mark.parametrize("percent", [79, 85, 91, 95, 99])
@pytest.mark.parametrize("size", BURSTS)
def test_memory_that_others_use_delays_no_event(kind: Kind, size: int, percent: int, serve: Start, measure: Measure) -> None:
    """However full the memory is, no first event is late, and the last one comes as soon as bare."""
    server = serve(kind, APPLICATION)
    fill(server, percent)
    time.sleep(0.15)  # a reading may be 100 ms old
    for way, best in zip(("bare", "wrapped"), best_of_each(partial(read_burst, server, size)), strict=True):
        what = f"{BURSTS[size]} events of {size} bytes in memory that is full to {percent} %, {kind}, {way}"
        measure(f"the first of {what}", best.first)
        measure(what, best.last)


def read_burst(server: Server, size: int, way: str) -> Times:
    """Read events that are there at once."""
    # Each made anew would take longer wrapped, where memory is low: the last one is freed first, and new memory has to be got.
    many = same_event(size, times=BURSTS[size])
    stream = server.open(event("hello"), many, headers=EVENT_SOURCE, way=way)
    first = stream.read_until(b"hello\n\n")
    stream.read_to_end()
    stream.disconnect()
    assert (stream.status, stream.ended, stream.body.count(b"\n\n")) == (200, "cleanly", BURSTS[size] + 1)
    return Times(first - stream.sent_at, stream.ended_at - stream.sent_at)
