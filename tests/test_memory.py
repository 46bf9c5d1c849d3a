"""`ssemiddleware.memory`: three sources, watermarks, bounded pauses, and readings that cost little."""

from __future__ import annotations

import logging
import math
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ssemiddleware import MemoryGovernor
from ssemiddleware import memory as memory_module
from ssemiddleware.cgroup import Reading
from ssemiddleware.memory import MemoryGauge

from .applications import DEADLINE

MiB = 1024**2


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
    gauge = MemoryGauge(limit)
    used, limit_in_bytes = gauge.read()
    assert gauge.source == "process"
    assert limit_in_bytes == expected
    assert abs(used - psutil.Process().memory_info().rss) < 10 * 1024**2


@pytest.mark.parametrize(
    "limit", [0, -1, 1.5, True, b"1MB", "", "0", "-5MB", "0%", "101%", "5 apples", "٣MB", "MiB", "nan", "inf"]
)
@pytest.mark.parametrize("kind", [MemoryGauge, MemoryGovernor])
def test_a_limit_that_makes_no_sense_is_refused(kind: type[MemoryGauge | MemoryGovernor], limit: object) -> None:
    with pytest.raises(ValueError, match=r"limit must be a positive number of bytes, a size .*, or None, got ") as refusal:
        kind(limit)  # type: ignore[arg-type]
    assert str(refusal.value).endswith(repr(limit))


class Group:
    """A recorded cgroup below *root*, with a namespace of its own, and a gauge on it."""

    def __init__(self, root: Path) -> None:
        self.root, self.directory, self.clock = root, root / "sys/fs/cgroup", Clock()
        (root / "proc/self").mkdir(parents=True)
        (root / "proc/self/cgroup").write_text("0::/\n")
        (root / "proc/self/mountinfo").write_text("34 24 0:29 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n")
        self.directory.mkdir(parents=True)
        self.write(current=200 * MiB, max=512 * MiB, high="max", stat=f"anon 1\ninactive_file {50 * MiB}")
        self.gauge = MemoryGauge(root=root, clock=self.clock)

    def write(self, **files: object) -> None:
        for name, content in files.items():
            (self.directory / f"memory.{name}").write_text(f"{content}\n")

    def next_reading(self) -> Reading:
        self.clock.now += 0.1001
        return self.gauge.read()

    def vanish(self) -> None:
        for file in self.directory.iterdir():
            file.unlink()


@pytest.fixture
def group(tmp_path: Path) -> Group:
    return Group(tmp_path)


def test_the_cgroup_is_read_where_it_has_a_limit(group: Group) -> None:
    assert group.gauge.source == "cgroup"
    assert group.gauge.read() == Reading(150 * MiB, 512 * MiB)
    assert group.gauge.read().share == 150 / 512


def assert_is_of_the_machine(gauge: MemoryGauge, read: Callable[[], Reading]) -> None:
    """Read until the system says the same: what others use of the machine may change at any time."""
    deadline = time.monotonic() + DEADLINE
    while True:
        reading, memory = read(), psutil.virtual_memory()
        assert gauge.source == "machine"
        assert reading.limit == memory.total
        if abs(reading.used - (memory.total - memory.available)) < 64 * MiB:
            return
        assert time.monotonic() < deadline


def test_the_machine_is_read_where_there_is_no_cgroup(tmp_path: Path) -> None:
    gauge = MemoryGauge(root=tmp_path)
    assert_is_of_the_machine(gauge, gauge.read)


def test_a_limit_may_be_set_and_lifted_at_any_time(group: Group) -> None:
    group.write(max="max")
    assert_is_of_the_machine(group.gauge, group.next_reading)
    group.write(max=256 * MiB)
    assert group.next_reading() == Reading(150 * MiB, 256 * MiB)
    assert group.gauge.source == "cgroup"
    group.write(max="max")
    assert_is_of_the_machine(group.gauge, group.next_reading)


def test_a_source_can_be_asked_for_before_a_reading(group: Group) -> None:
    assert group.gauge.source == "cgroup"
    assert MemoryGauge(MiB).source == "process"


def test_nothing_is_read_before_the_first_reading(group: Group) -> None:
    gauge = MemoryGauge(root=group.root, clock=group.clock)
    group.write(current=300 * MiB)
    assert gauge.read().used == 250 * MiB


def test_a_reading_is_kept_for_100_ms(group: Group) -> None:
    group.gauge.read()
    group.write(current=300 * MiB)
    group.clock.now += 0.099
    assert group.gauge.read().used == 150 * MiB
    group.clock.now += 0.002
    assert group.gauge.read().used == 250 * MiB


def test_the_gauge_never_waits_for_a_thread_that_reads(group: Group) -> None:
    group.gauge.read()
    current = group.directory / "memory.current"
    current.unlink()
    os.mkfifo(current)  # whoever reads it waits until it is written
    group.clock.now += 1
    reader = threading.Thread(target=group.gauge.read)
    reader.start()
    with current.open("w") as file:  # the reader has opened it now
        group.clock.now += 1
        assert group.gauge.read() == Reading(150 * MiB, 512 * MiB)
        group.clock.now -= 1
        file.write(str(300 * MiB))
    reader.join(DEADLINE)
    assert group.gauge.read() == Reading(250 * MiB, 512 * MiB)


def test_only_the_first_reading_is_waited_for() -> None:
    begun, goes_on, readings = threading.Event(), threading.Event(), list[Reading]()

    def read() -> tuple[int, int]:
        begun.set()
        goes_on.wait(DEADLINE)
        return 80, 100

    gauge = MemoryGauge(read=read)
    threads = [threading.Thread(target=lambda: readings.append(gauge.read())) for _ in range(4)]
    threads[0].start()
    assert begun.wait(DEADLINE)
    for thread in threads[1:]:
        thread.start()
    time.sleep(0.05)
    assert not readings
    goes_on.set()
    for thread in threads:
        thread.join(DEADLINE)
    assert readings == [Reading(80, 100)] * 4


def test_the_last_reading_stays_when_one_fails_and_one_line_tells(group: Group, caplog: pytest.LogCaptureFixture) -> None:
    good = group.next_reading()
    group.write(current="many")
    with caplog.at_level(logging.DEBUG, "ssemiddleware"):
        assert [group.next_reading() for _ in range(3)] == [good] * 3
        group.write(current=100 * MiB)
        assert group.next_reading() == Reading(50 * MiB, 512 * MiB)
        group.write(current="many")
        group.next_reading()
    (record,) = caplog.records
    assert (record.levelname, record.name) == ("WARNING", "ssemiddleware")
    assert record.message.startswith("memory cannot be read, the last reading stays for 10 s: ")
    assert f"'many': '{group.directory}/memory.current'" in record.message


def test_the_last_reading_does_not_lock_anybody_out_for_good(group: Group) -> None:
    good = group.next_reading()
    group.write(current="many")
    group.clock.now += 9.8
    assert group.next_reading() == good
    assert group.next_reading().share == 0


def test_a_failing_reading_is_tried_again_after_100_ms_only(group: Group) -> None:
    group.write(current="many")
    assert group.next_reading().share == 0
    group.write(current=200 * MiB)
    assert group.gauge.read().share == 0
    assert group.next_reading().share == 150 / 512


def test_without_any_reading_the_share_is_0_and_no_stream_waits(group: Group, caplog: pytest.LogCaptureFixture) -> None:
    group.write(current="many")
    assert [group.next_reading().share for _ in range(3)] == [0, 0, 0]
    assert MemoryGovernor(read=group.gauge.read).next_pause() == 0
    assert len(caplog.records) == 1


def test_a_process_whose_cgroup_vanishes_finds_the_next(group: Group, caplog: pytest.LogCaptureFixture) -> None:
    good = group.next_reading()
    group.vanish()
    assert group.next_reading() == good
    inner = group.directory / "inner"
    inner.mkdir()
    for name, content in {"max": 64 * MiB, "high": "max", "current": 32 * MiB, "stat": "anon 1\ninactive_file 0"}.items():
        (inner / f"memory.{name}").write_text(f"{content}\n")
    (group.root / "proc/self/cgroup").write_text("0::/inner\n")
    assert group.next_reading() == Reading(32 * MiB, 64 * MiB)
    assert len(caplog.records) == 1


FORKS = """
import os
from ssemiddleware.memory import MemoryGauge
gauge = MemoryGauge(1 << 30)
before = gauge.read().used
assert gauge._reading.acquire(blocking=False)  # as a thread of the parent may hold it
child = os.fork()
if child == 0:
    held = b"x" * (64 << 20)
    os._exit(0 if gauge.read().used - before > 48 << 20 else 1)  # at once, not 100 ms later
assert os.waitpid(child, 0)[1] == 0, "the child read its parent's memory"
"""


def test_a_forked_process_reads_its_own_memory() -> None:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    subprocess.run([sys.executable, "-c", FORKS], env=environment, check=True, timeout=60)


def test_a_governor_without_a_limit_picks_its_source_by_itself(caplog: pytest.LogCaptureFixture) -> None:
    governor = MemoryGovernor()
    assert governor.limit is None
    assert governor.next_pause() <= 1.0
    assert not caplog.records


def test_a_governor_takes_a_limit_of_0_for_reached() -> None:
    assert MemoryGovernor(read=lambda: (1, 0)).next_pause() == 1.0


@pytest.mark.parametrize(
    "options",
    [
        {"low": 0.9, "high": 0.8}, {"low": 0}, {"high": 1}, {"low": math.nan}, {"high": "80%"}, {"low": True},
        {"critical": 0.8}, {"critical": 1.01}, {"critical": None},
    ],
)  # fmt: skip
def test_watermarks_that_make_no_sense_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"low, high and critical must be shares .* with 0 < low < high < critical <= 1, got"):
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


@pytest.mark.parametrize(
    ("shares", "state"),
    [([0.79], "normal"), ([0.80], "high"), ([0.92], "critical"), ([0.92, 0.75], "high"), ([0.92, 0.69], "normal")],
    ids=str,
)
def test_the_state_is_told_between_the_marks(shares: list[float], state: str) -> None:
    gauge, clock = Gauge(), Clock()
    governor = MemoryGovernor(read=gauge.read, clock=clock)
    for share in shares:
        gauge.used = round(1000 * share)
        clock.now += 0.2
        assert governor.read() == (gauge.used, 1000)
    assert governor.state == state
    assert governor.is_critical == (state == "critical")


def test_memory_that_was_freed_is_given_back_while_it_is_short_and_each_second_at_most(monkeypatch: pytest.MonkeyPatch) -> None:
    given_back: list[float] = []
    gauge, clock = Gauge(), Clock()
    monkeypatch.setattr(memory_module, "give_back_memory", lambda: given_back.append(clock.now))
    governor = MemoryGovernor(read=gauge.read, clock=clock)
    for share in [0.5] * 10 + [0.85] * 25 + [0.6] * 10:
        gauge.used = round(1000 * share)
        clock.now = round(clock.now + 0.1001, 4)
        governor.next_pause()
    assert [round(at - given_back[0], 1) for at in given_back] == [0.0, 1.0, 2.0]


GIVES_BACK = """
import os, psutil
from ssemiddleware.memory import give_back_memory
kept = []
blocks = [bytearray(20_000) for _ in range(10_000)]  # below the size that the allocator maps by itself
kept = blocks[::100]
del blocks
before = psutil.Process().memory_info().rss
assert give_back_memory()
assert before - psutil.Process().memory_info().rss > 50 << 20
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc is Linux's")
def test_the_allocator_gives_back_what_was_freed() -> None:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path)), "MALLOC_ARENA_MAX": "1"}
    subprocess.run([sys.executable, "-c", GIVES_BACK], env=environment, check=True, timeout=60)


@pytest.mark.parametrize("error", [AttributeError, ValueError, OSError], ids=["no confstr", "no such name", "musl"])
def test_another_allocator_is_left_alone(error: type[Exception], monkeypatch: pytest.MonkeyPatch) -> None:
    def confstr(name: str) -> str:
        raise error(name)

    monkeypatch.setattr(os, "confstr", confstr)
    assert not memory_module.give_back_memory()


def test_one_thread_reads_for_all() -> None:
    entered, leave, clock, shares = threading.Event(), threading.Event(), Clock(), [100, 900]

    def read() -> tuple[int, int]:
        used = shares.pop(0)
        if not shares:
            entered.set()
            assert leave.wait(DEADLINE)
        return used, 1000

    governor = MemoryGovernor(read=read, clock=clock)
    assert governor.next_pause() == 0
    clock.now += 1
    reader = threading.Thread(target=governor.next_pause)
    reader.start()
    assert entered.wait(DEADLINE)
    clock.now += 1
    assert governor.next_pause() == 0  # and does not wait for the reader
    assert reader.is_alive()
    clock.now -= 1
    leave.set()
    reader.join(DEADLINE)
    assert governor.next_pause() > 0


def test_a_gauge_that_fails_stops_no_stream_and_is_told_about_once(caplog: pytest.LogCaptureFixture) -> None:
    clock = Clock()

    def read() -> tuple[int, int]:
        raise OSError("no such file")

    governor = MemoryGovernor(read=read, clock=clock)
    with caplog.at_level(logging.WARNING, "ssemiddleware"):
        for _ in range(3):
            clock.now += 1
            assert governor.next_pause() == 0
    (record,) = caplog.records
    assert record.message == "memory cannot be read, the last reading stays for 10 s: no such file"


def test_a_governor_shows_its_settings() -> None:
    assert repr(MemoryGovernor("1GiB", low=0.5)) == "MemoryGovernor('1GiB', low=0.5, high=0.8, critical=0.92, pause=1.0)"
