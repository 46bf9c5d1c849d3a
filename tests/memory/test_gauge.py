"""`ssemiddleware.memory.gauge`: three sources, and cheap readings."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import psutil
import pytest

from ssemiddleware import MemoryGovernor
from ssemiddleware.memory import MemoryGauge, Reading

from ..applications import DEADLINE
from ..clock import Clock

MiB = 1024**2


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
        self.write(
            current=200 * MiB, max=512 * MiB, high="max", stat=f"anon 1\ninactive_file {30 * MiB}\nactive_file {20 * MiB}"
        )
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
    """Read until psutil says the same: the memory that other programs use may change at any time."""
    deadline = time.monotonic() + DEADLINE
    while True:
        reading, memory = read(), psutil.virtual_memory()
        assert gauge.source == "machine"
        used = psutil.Process().memory_info().rss
        if abs(reading.used - used) < 16 * MiB and abs(reading.limit - reading.used - memory.available) < 64 * MiB:
            return
        assert time.monotonic() < deadline


def test_the_machine_is_read_where_there_is_no_cgroup(tmp_path: Path) -> None:
    gauge = MemoryGauge(root=tmp_path)
    assert_is_of_the_machine(gauge, gauge.read)


def test_other_programs_count_by_the_memory_that_they_leave_available(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class OneGigabyteLeft(NamedTuple):
        total: int = 1000 * 1024 * MiB
        available: int = 1024 * MiB

    monkeypatch.setattr(psutil, "virtual_memory", OneGigabyteLeft)
    reading = MemoryGauge(root=tmp_path).read()
    assert reading.limit == reading.used + 1024 * MiB
    assert reading.share < 0.5  # of a machine that is 99.9 % full


def test_a_limit_may_be_set_and_lifted_at_any_time(group: Group) -> None:
    group.write(max="max")
    assert_is_of_the_machine(group.gauge, group.next_reading)
    group.write(max=256 * MiB)
    assert group.next_reading() == Reading(150 * MiB, 256 * MiB)
    assert group.gauge.source == "cgroup"
    group.write(max="max")
    assert_is_of_the_machine(group.gauge, group.next_reading)


def test_the_source_is_known_before_the_first_reading(group: Group) -> None:
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
    os.mkfifo(current)  # reading it waits until it is written
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


def test_a_reading_of_now_is_taken_at_once_and_kept(group: Group) -> None:
    assert group.gauge.read_now().used == 150 * MiB
    group.write(current=300 * MiB)
    assert group.gauge.read_now().used == 250 * MiB
    assert group.gauge.read().used == 250 * MiB


def test_a_reading_of_now_waits_for_a_thread_that_reads() -> None:
    begun, goes_on, readings = threading.Event(), threading.Event(), list[Reading]()

    def read() -> tuple[int, int]:
        is_first = not begun.is_set()
        begun.set()
        goes_on.wait(DEADLINE)
        return 80 if is_first else 90, 100

    gauge = MemoryGauge(read=read)
    first = threading.Thread(target=gauge.read)
    first.start()
    assert begun.wait(DEADLINE)
    second = threading.Thread(target=lambda: readings.append(gauge.read_now()))
    second.start()
    second.join(0.05)
    assert not readings
    goes_on.set()
    second.join(DEADLINE)
    first.join(DEADLINE)
    assert readings == [Reading(90, 100)], "its own reading, not that of the first"


def test_threads_wait_for_the_first_reading_only() -> None:
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


def test_the_last_reading_is_used_when_one_fails_and_one_line_is_logged(group: Group, caplog: pytest.LogCaptureFixture) -> None:
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
    assert record.message.startswith("memory cannot be read: the last reading is used for 10 s, then no stream waits: ")
    assert f"'many': '{group.directory}/memory.current'" in record.message


def test_the_last_reading_is_used_for_ten_seconds_only(group: Group) -> None:
    good = group.next_reading()
    group.write(current="many")
    group.clock.now += 9.8
    assert group.next_reading() == good
    assert group.next_reading().share == 0


def test_a_failed_reading_is_tried_again_only_after_100_ms(group: Group) -> None:
    group.write(current="many")
    assert group.next_reading().share == 0
    group.write(current=200 * MiB)
    assert group.gauge.read().share == 0
    assert group.next_reading().share == 150 / 512


def test_without_any_reading_the_share_is_0_and_no_stream_waits(group: Group, caplog: pytest.LogCaptureFixture) -> None:
    group.write(current="many")
    assert [group.next_reading().share for _ in range(3)] == [0, 0, 0]
    assert MemoryGovernor(read=group.gauge.read).turns.maybe_begin(5_000_000) is not None
    assert len(caplog.records) == 1


def test_a_process_whose_cgroup_is_gone_finds_its_new_one(group: Group, caplog: pytest.LogCaptureFixture) -> None:
    good = group.next_reading()
    group.vanish()
    assert group.next_reading() == good
    inner = group.directory / "inner"
    inner.mkdir()
    for name, content in {
        "max": 64 * MiB,
        "high": "max",
        "current": 32 * MiB,
        "stat": "anon 1\ninactive_file 0\nactive_file 0",
    }.items():
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
assert os.waitpid(child, 0)[1] == 0, "the child has read its parent's memory"
"""


def test_a_forked_process_reads_its_own_memory() -> None:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    subprocess.run([sys.executable, "-c", FORKS], env=environment, check=True, timeout=60)
