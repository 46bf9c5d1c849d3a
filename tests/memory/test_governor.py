"""`ssemiddleware.memory.governor`: marks, and limited pauses."""

from __future__ import annotations

import logging
import math
import os
import subprocess
import sys
import threading
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ssemiddleware import MemoryGovernor
from ssemiddleware.memory import governor as governor_module

from ..applications import DEADLINE
from ..clock import Clock

LARGE = 65536  # bytes; after a block of at least this size a stream waits longest


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
    assert governor.next_pause(LARGE) <= 1.0
    assert not caplog.records


def test_a_limit_of_0_counts_as_reached() -> None:
    assert MemoryGovernor(read=lambda: (1, 0)).next_pause(LARGE) == 1.0


@pytest.mark.parametrize(
    "options",
    [
        {"high": 0}, {"high": 1}, {"high": math.nan}, {"high": "80%"}, {"high": True}, {"high": 0.95},
        {"critical": 0.8}, {"critical": 1.01}, {"critical": None},
    ],
)  # fmt: skip
def test_marks_that_make_no_sense_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"high and critical must be shares .* with 0 < high < critical <= 1, got"):
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
        found.append(governor.next_pause(LARGE))
    return found


def test_pauses_begin_at_the_high_mark_and_grow_up_to_the_limit() -> None:
    quiet, first, later, full, over, again = pauses([0.80, 0.81, 0.90, 1.00, 1.20, 0.79])
    assert quiet == again == 0
    assert 0 < first < later < full == over == 1.0


def test_a_pause_grows_with_the_size_of_the_last_block() -> None:
    governor = MemoryGovernor(read=lambda: (900, 1000))
    assert [governor.next_pause(size) for size in (0, 60, 10_000, 16_384)] == [0, 0, 0, 0]
    assert governor.next_pause(32_768) == pytest.approx(0.25)
    assert governor.next_pause(LARGE) == governor.next_pause(10 * LARGE) == pytest.approx(0.5)


@given(st.lists(st.floats(0, 10), max_size=30))
def test_every_pause_is_limited(shares: list[float]) -> None:
    assert all(0 <= pause <= 1.0 for pause in pauses(shares))


def test_the_gauge_is_read_every_100_ms_however_often_it_is_asked() -> None:
    gauge, clock = Gauge(), Clock()
    governor = MemoryGovernor(read=gauge.read, clock=clock)
    assert gauge.readings == 0
    for step in range(1000):
        clock.now = 1000.0 + step / 1000
        governor.next_pause(LARGE)
    assert gauge.readings == 10


@pytest.mark.parametrize(
    ("shares", "state"),
    [([0.79], "normal"), ([0.80], "high"), ([0.92], "critical"), ([0.92, 0.81], "high"), ([0.92, 0.79], "normal")],
    ids=str,
)
def test_the_state_is_the_highest_mark_that_memory_is_above(shares: list[float], state: str) -> None:
    gauge, clock = Gauge(), Clock()
    governor = MemoryGovernor(read=gauge.read, clock=clock)
    for share in shares:
        gauge.used = round(1000 * share)
        clock.now += 0.2
        assert governor.read() == (gauge.used, 1000)
    assert governor.state == state


def test_freed_memory_is_returned_while_memory_is_low_once_a_second_at_most(monkeypatch: pytest.MonkeyPatch) -> None:
    given_back: list[float] = []
    gauge, clock = Gauge(), Clock()
    monkeypatch.setattr(governor_module, "give_back_memory", lambda: given_back.append(clock.now))
    governor = MemoryGovernor(read=gauge.read, clock=clock)
    for share in [0.5] * 10 + [0.85] * 25 + [0.6] * 10:
        gauge.used = round(1000 * share)
        clock.now = round(clock.now + 0.1001, 4)
        governor.next_pause(LARGE)
    assert [round(at - given_back[0], 1) for at in given_back] == [0.0, 1.0, 2.0]


GIVES_BACK = """
import os, psutil
from ssemiddleware.memory import give_back_memory
kept = []
blocks = [bytearray(20_000) for _ in range(10_000)]  # below the size that the allocator maps separately
kept = blocks[::100]
del blocks
before = psutil.Process().memory_info().rss
assert give_back_memory()
assert before - psutil.Process().memory_info().rss > 50 << 20
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc is only on Linux")
def test_the_allocator_returns_freed_memory() -> None:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path)), "MALLOC_ARENA_MAX": "1"}
    subprocess.run([sys.executable, "-c", GIVES_BACK], env=environment, check=True, timeout=60)


@pytest.mark.parametrize("error", [AttributeError, ValueError, OSError], ids=["no confstr", "no such name", "musl"])
def test_other_allocators_are_not_called(error: type[Exception], monkeypatch: pytest.MonkeyPatch) -> None:
    def confstr(name: str) -> str:
        raise error(name)

    monkeypatch.setattr(os, "confstr", confstr)
    assert not governor_module.give_back_memory()


def test_only_one_thread_reads_at_a_time() -> None:
    entered, leave, clock, shares = threading.Event(), threading.Event(), Clock(), [100, 900]

    def read() -> tuple[int, int]:
        used = shares.pop(0)
        if not shares:
            entered.set()
            assert leave.wait(DEADLINE)
        return used, 1000

    governor = MemoryGovernor(read=read, clock=clock)
    assert governor.next_pause(LARGE) == 0
    clock.now += 1
    reader = threading.Thread(target=governor.next_pause, args=(LARGE,))
    reader.start()
    assert entered.wait(DEADLINE)
    clock.now += 1
    assert governor.next_pause(LARGE) == 0  # without waiting for the reader
    assert reader.is_alive()
    clock.now -= 1
    leave.set()
    reader.join(DEADLINE)
    assert governor.next_pause(LARGE) > 0


def test_a_gauge_that_fails_stops_no_stream_and_is_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    clock = Clock()

    def read() -> tuple[int, int]:
        raise OSError("no such file")

    governor = MemoryGovernor(read=read, clock=clock)
    with caplog.at_level(logging.WARNING, "ssemiddleware"):
        for _ in range(3):
            clock.now += 1
            assert governor.next_pause(LARGE) == 0
    (record,) = caplog.records
    assert record.message == "memory cannot be read: the last reading is used for 10 s, then no stream waits: no such file"


def test_a_governor_shows_its_settings() -> None:
    assert repr(MemoryGovernor("1GiB", high=0.5)) == "MemoryGovernor('1GiB', high=0.5, critical=0.92, pause=1.0)"
