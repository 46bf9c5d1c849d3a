"""`ssemiddleware.memory.governor`: a mark, and how full the memory is."""

from __future__ import annotations

import logging
import math
from typing import Any

import pytest

from ssemiddleware import MemoryGovernor

from ..clock import Clock


class Gauge:
    """A gauge that shows what a test says, and counts its readings."""

    def __init__(self) -> None:
        self.used, self.readings = 0, 0

    def read(self) -> tuple[int, int]:
        self.readings += 1
        return self.used, 1000


def test_a_governor_without_a_limit_chooses_its_source(caplog: pytest.LogCaptureFixture) -> None:
    governor = MemoryGovernor()
    assert governor.limit is None
    assert governor.read().limit > 0
    assert not caplog.records


def test_a_limit_of_0_counts_as_reached() -> None:
    assert MemoryGovernor(read=lambda: (1, 0)).state == "critical"


@pytest.mark.parametrize("critical", [0, -1, 1.01, math.nan, math.inf, "92%", True, None])
def test_a_mark_that_makes_no_sense_is_refused(critical: Any) -> None:
    with pytest.raises(ValueError, match=r"critical must be a share of the limit with 0 < critical <= 1, got"):
        MemoryGovernor(critical=critical)


def test_the_gauge_is_read_every_100_ms_however_often_it_is_asked() -> None:
    gauge, clock = Gauge(), Clock()
    governor = MemoryGovernor(read=gauge.read, clock=clock)
    assert gauge.readings == 0
    for step in range(1000):
        clock.now = 1000.0 + step / 1000
        governor.read()
    assert gauge.readings == 10


@pytest.mark.parametrize(
    ("shares", "state"),
    [([0.91], "normal"), ([0.92], "critical"), ([1.2], "critical"), ([0.92, 0.91], "normal")],
    ids=str,
)
def test_the_state_is_whether_memory_is_above_the_mark(shares: list[float], state: str) -> None:
    gauge, clock = Gauge(), Clock()
    governor = MemoryGovernor(read=gauge.read, clock=clock)
    for share in shares:
        gauge.used = round(1000 * share)
        clock.now += 0.2
        assert governor.read() == (gauge.used, 1000)
    assert governor.state == state


def test_a_gauge_that_fails_stops_no_stream_and_is_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    clock = Clock()

    def read() -> tuple[int, int]:
        raise OSError("no such file")

    governor = MemoryGovernor(read=read, clock=clock)
    with caplog.at_level(logging.WARNING, "ssemiddleware"):
        for _ in range(3):
            clock.now += 1
            assert governor.turns.maybe_begin(5_000_000) is not None
    (record,) = caplog.records
    assert record.message == "memory cannot be read: the last reading is used for 10 s, then no stream waits: no such file"


def test_a_governor_shows_its_settings() -> None:
    assert repr(MemoryGovernor("1GiB", critical=0.5)) == "MemoryGovernor('1GiB', critical=0.5)"
