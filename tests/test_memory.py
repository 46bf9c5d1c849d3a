"""`ssemiddleware.memory`: watermarks, bounded pauses, and readings that cost little."""

from __future__ import annotations

import logging
import math
import threading
from typing import Any

import psutil
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ssemiddleware import MemoryGovernor
from ssemiddleware.memory import MemoryGauge


class Clock:
    """A clock that goes when it is told to."""

    now = 1000.0

    def __call__(self) -> float:
        return self.now


class Gauge:
    """A gauge that shows what it is told to, and counts its readings."""

    def __init__(self) -> None:
        self.used, self.readings = 0, 0

    def read(self) -> tuple[int, int]:
        self.readings += 1
        return self.used, 1000


@pytest.mark.parametrize(
    ("limit", "expected"),
    [
        (1_000_000, 1_000_000),
        ("512MiB", 512 * 1024**2),
        ("512 mib", 512 * 1024**2),
        ("1.5GB", 1_500_000_000),
        ("2Gi", 2 * 1024**3),
        ("300k", 300_000),
        ("123", 123),
        ("50%", psutil.virtual_memory().total // 2),
    ],
)
def test_a_limit_is_bytes_a_size_or_a_share_of_the_machine(limit: int | str, expected: int) -> None:
    used, limit_in_bytes = MemoryGauge(limit).read()
    assert limit_in_bytes == expected
    assert abs(used - psutil.Process().memory_info().rss) < 10 * 1024**2


@pytest.mark.parametrize(
    "limit", [0, -1, 1.5, True, None, "", "0", "-5MB", "0%", "101%", "5 apples", "٣MB", "MiB", "nan", "inf"]
)
def test_a_limit_that_makes_no_sense_is_refused(limit: object) -> None:
    with pytest.raises(ValueError, match=r"limit must be a positive number of bytes, a size .* got "):
        MemoryGovernor(limit)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "options",
    [
        {"low": 0.9, "high": 0.8}, {"low": 0}, {"high": 1}, {"low": math.nan}, {"high": "80%"}, {"low": True},
    ],
)  # fmt: skip
def test_watermarks_that_make_no_sense_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"low and high must be shares of the limit with 0 < low < high < 1, got"):
        MemoryGovernor(**options)


@pytest.mark.parametrize("pause", [0, -1, math.nan, math.inf, "1", True, None])
def test_a_pause_that_makes_no_sense_is_refused(pause: object) -> None:
    with pytest.raises(ValueError, match="pause must be a positive number of seconds, got"):
        MemoryGovernor(pause=pause)  # type: ignore[arg-type]


def pauses(shares: list[float]) -> list[float]:
    """Return the pauses as memory fills to *shares* of its limit, one reading each."""
    gauge, clock = Gauge(), Clock()
    governor = MemoryGovernor(read=gauge.read, clock=clock)
    found = []
    for share in shares:
        gauge.used = round(1000 * share)
        clock.now += 0.2
        found.append(governor.next_pause())
    return found


def test_pauses_begin_at_the_high_watermark_and_grow_to_the_limit() -> None:
    quiet, first, later, full, over = pauses([0.79, 0.80, 0.90, 1.00, 1.20])
    assert quiet == 0
    assert 0 < first < later < full == over == 1.0


def test_between_the_watermarks_what_was_the_case_goes_on() -> None:
    rising, high, falling, low, rising_again = pauses([0.75, 0.85, 0.75, 0.69, 0.75])
    assert rising == low == rising_again == 0
    assert high > falling > 0


@given(st.lists(st.floats(0, 10), max_size=30))
def test_every_pause_is_bounded(shares: list[float]) -> None:
    assert all(0 <= pause <= 1.0 for pause in pauses(shares))


def test_the_gauge_is_read_each_100_ms_however_many_ask() -> None:
    gauge, clock = Gauge(), Clock()
    governor = MemoryGovernor(read=gauge.read, clock=clock)
    assert gauge.readings == 0
    for step in range(1000):
        clock.now = 1000.0 + step / 1000
        governor.next_pause()
    assert gauge.readings == 10


def test_one_thread_reads_for_all() -> None:
    entered, leave = threading.Event(), threading.Event()

    def read() -> tuple[int, int]:
        entered.set()
        assert leave.wait(5)
        return 900, 1000

    governor = MemoryGovernor(read=read)
    reader = threading.Thread(target=governor.next_pause)
    reader.start()
    assert entered.wait(5)
    assert governor.next_pause() == 0  # and does not wait for the reader
    leave.set()
    reader.join(5)
    assert governor.next_pause() > 0


def test_a_gauge_that_fails_stops_no_stream_and_is_told_about_once(caplog: pytest.LogCaptureFixture) -> None:
    clock = Clock()

    def read() -> tuple[int, int]:
        raise OSError("no such file")

    governor = MemoryGovernor(read=read, clock=clock)
    with caplog.at_level(logging.ERROR, "ssemiddleware"):
        for _ in range(3):
            clock.now += 1
            assert governor.next_pause() == 0
    assert [record.message for record in caplog.records] == [
        "memory cannot be read; streams go on without backpressure from it"
    ]


def test_a_governor_shows_its_settings() -> None:
    assert repr(MemoryGovernor("1GiB", low=0.5)) == "MemoryGovernor('1GiB', low=0.5, high=0.8, pause=1.0)"
