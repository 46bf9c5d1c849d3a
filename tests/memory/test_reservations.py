"""`ssemiddleware.memory.reservations`: each process sees how much shared memory the others have reserved."""

from __future__ import annotations

import json
import logging
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ssemiddleware.memory.cgroup import Reading
from ssemiddleware.memory.reservations import HOLDS_FOR, Reservations
from ssemiddleware.memory.turns import Turns

from ..applications import DEADLINE
from ..clock import Clock

MB = 1_000_000


class Processes:
    """Stands for processes that share memory."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.file = folder / f"ssemiddleware-{os.geteuid()}"
        self.clock = Clock()

    def start(self, name: str | None = "machine") -> Reservations:
        return Reservations(name, folders=(self.folder,), clock=self.clock)

    def turns(self, used: Callable[[], int] = lambda: 30 * MB) -> Turns:
        def read() -> Reading:
            return Reading(used(), 256 * MB)

        return Turns(
            read,
            read,
            critical=0.92,
            shared=lambda: "machine",
            folders=(self.folder,),
            clock=self.clock,
        )


@pytest.fixture
def processes(tmp_path: Path) -> Processes:
    return Processes(tmp_path)


def reserve(process: Reservations, size: int, until: float) -> int:
    """Reserve bytes as `Turns` does; return the reservation's place."""
    process.of_others()
    place = process.begin(size, until)
    assert place is not None
    return place


def test_each_process_sees_what_the_others_have_reserved(processes: Processes) -> None:
    several = [processes.start() for _ in range(3)]
    until = processes.clock.now + 0.5
    first, second, third = (reserve(process, 10**number * MB, until) for number, process in enumerate(several))
    assert [process.of_others() for process in several] == [110 * MB, 101 * MB, 11 * MB]
    several[1].end(second)
    assert [process.of_others() for process in several] == [100 * MB, 101 * MB, 1 * MB]
    assert reserve(several[0], MB, until) == second, "a place is used again"
    assert len({first, second, third}) == 3


def test_reservations_in_memory_of_another_name_do_not_count(processes: Processes) -> None:
    for process in (processes.start("20-3f8f"), processes.start("20-3fb0")):
        reserve(process, MB, processes.clock.now + 0.5)
        assert process.of_others() == 0
    alone = processes.start(None)
    assert (alone.of_others(), alone.begin(MB, processes.clock.now + 0.5)) == (0, None)
    assert list(processes.folder.iterdir()) == [processes.file], (
        "a file for each name would be left behind for each container that ever ran"
    )


def test_a_reservation_holds_for_a_second_at_most(processes: Processes) -> None:
    first, second = processes.start(), processes.start()
    reserve(first, MB, processes.clock.now + HOLDS_FOR)
    assert second.of_others() == MB
    processes.clock.now += HOLDS_FOR
    assert second.of_others() == 0
    reserve(first, MB, processes.clock.now + HOLDS_FOR + 0.1)  # written before the machine was last started
    assert second.of_others() == 0


def test_the_number_of_places_is_limited_and_a_process_without_one_goes_on(processes: Processes) -> None:
    first, second = processes.start(), processes.start()
    for _ in range(256):
        reserve(first, MB, processes.clock.now + 0.5)
    assert second.of_others() == 256 * MB
    assert second.begin(MB, processes.clock.now + 0.5) is None
    assert processes.file.stat().st_size == 8192
    processes.clock.now += 0.5
    reserve(second, MB, processes.clock.now + 0.5)
    assert first.of_others() == MB


def test_only_one_process_decides_at_a_time(processes: Processes) -> None:
    first, second = processes.start(), processes.start()
    with first.alone() as is_alone:
        assert is_alone
        with second.alone() as also:
            assert not also
    with second.alone() as is_alone:
        assert is_alone


@given(content=st.binary(max_size=9000))
def test_any_content_of_the_file_is_harmless(content: bytes, tmp_path_factory: pytest.TempPathFactory) -> None:
    processes = Processes(tmp_path_factory.mktemp("shared"))
    processes.file.write_bytes(content)
    reservations = processes.start()
    assert reservations.of_others() >= 0
    with reservations.alone() as is_alone:
        assert is_alone


def test_a_file_that_another_user_has_put_there_is_not_touched(processes: Processes, caplog: pytest.LogCaptureFixture) -> None:
    target = processes.folder / "target"
    target.write_bytes(b"precious")
    processes.file.symlink_to(target)
    assert_goes_on_alone(processes)
    processes.file.unlink()
    processes.file.hardlink_to(target)
    assert_goes_on_alone(processes)
    processes.file.unlink()
    os.mkfifo(processes.file)
    assert_goes_on_alone(processes)
    if os.geteuid() == 0:
        processes.file.unlink()
        processes.file.write_bytes(b"precious")
        os.chown(processes.file, 12345, -1)
        assert_goes_on_alone(processes)
        assert processes.file.read_bytes() == b"precious"
    assert target.read_bytes() == b"precious"
    assert {record.message.partition(":")[0] for record in caplog.records} == {
        "the memory that other processes reserve cannot be read, and is ignored from now on"
    }


def assert_goes_on_alone(processes: Processes) -> None:
    reservations = processes.start()
    assert reservations.of_others() == 0
    assert reservations.begin(MB, processes.clock.now + 0.5) is None
    with reservations.alone() as is_alone:
        assert is_alone


def test_the_next_folder_is_used_where_the_first_is_missing(processes: Processes) -> None:
    missing = processes.folder / "missing"
    first, second = (Reservations("machine", folders=(missing, processes.folder), clock=processes.clock) for _ in range(2))
    reserve(first, MB, processes.clock.now + 0.5)
    assert second.of_others() == MB


@pytest.mark.skipif(not os.access("/dev/shm", os.W_OK), reason="/dev/shm is missing")
def test_shared_memory_is_enough_without_a_folder_for_temporary_files(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail() -> str:
        raise FileNotFoundError(2, "No usable temporary directory found")

    monkeypatch.setattr(tempfile, "gettempdir", fail)
    first, second = (Reservations(f"of test {os.getpid()}") for _ in range(2))
    deadline = time.monotonic() + DEADLINE
    place = reserve(first, MB, time.monotonic() + HOLDS_FOR)
    while second.of_others() != MB:  # it has expired, or another process of this machine has taken the place
        assert time.monotonic() < deadline
        place = reserve(first, MB, time.monotonic() + HOLDS_FOR)
    first.end(place)
    assert second.of_others() == 0


def test_where_the_disk_is_full_each_process_counts_by_itself(
    processes: Processes, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(*arguments: object) -> int:
        raise OSError(28, "No space left on device")

    reservations, other = processes.start(), processes.start()
    with caplog.at_level(logging.WARNING, "ssemiddleware"), monkeypatch.context() as patch:
        patch.setattr(os, "pwrite", fail)
        for _ in range(3):
            with reservations.alone() as is_alone:
                assert is_alone
                reservations.of_others()
                assert reservations.begin(MB, processes.clock.now + 0.5) is None
    with other.alone() as is_alone:
        assert is_alone, "the lock is free again"
    assert len(caplog.records) == 1


def test_all_processes_together_have_as_many_turns_as_one_alone(processes: Processes) -> None:
    alone = processes.turns()
    most = sum(alone.maybe_begin(5 * MB) is not None for _ in range(20))
    assert most == 5
    processes.clock.now += 2
    together = [processes.turns() for _ in range(4)]
    taken = [(each, turn) for _ in range(20) for each in together if (turn := each.maybe_begin(5 * MB)) is not None]
    assert len(taken) == most
    for each, turn in taken[:2]:
        each.end(turn)
    assert sum(each.maybe_begin(5 * MB) is not None for each in together) == 2


def test_a_block_that_does_not_fit_is_made_by_one_process_at_a_time(processes: Processes) -> None:
    assert sum(processes.turns().maybe_begin(50 * MB) is not None for _ in range(4)) == 1
    assert processes.turns().maybe_begin(50 * MB, waited=HOLDS_FOR - 0.1) is None
    assert processes.turns().maybe_begin(50 * MB, waited=HOLDS_FOR) is not None, "it waits a second for other processes"


def test_a_large_block_gets_its_turn_among_small_ones(processes: Processes) -> None:
    small, large = (processes.turns(lambda: 100 * MB) for _ in range(2))
    waited, turn = 0.0, small.maybe_begin(5 * MB)
    while large.maybe_begin(20 * MB, waited) is None:
        assert turn is not None
        small.end(turn)
        turn = small.maybe_begin(5 * MB)
        processes.clock.now += 0.05
        waited += 0.05
    assert waited == pytest.approx(HOLDS_FOR, abs=0.06)


def test_a_process_that_keeps_the_lock_delays_others_once(processes: Processes, caplog: pytest.LogCaptureFixture) -> None:
    holder, turns = processes.start(), processes.turns()
    waits = []
    with holder.alone():
        for _ in range(3):
            began = processes.clock.now
            while turns.maybe_begin(5 * MB, processes.clock.now - began) is None:
                processes.clock.now += 0.05
            waits.append(round(processes.clock.now - began))
            processes.clock.now += 2
    assert waits == [1, 0, 0]
    assert len(caplog.records) == 1


def test_a_lock_that_is_held_now_and_then_is_respected(processes: Processes) -> None:
    holder, turns = processes.start(), processes.turns()
    for _ in range(5):
        with holder.alone():
            assert turns.maybe_begin(5 * MB) is None
        assert turns.maybe_begin(5 * MB) is not None
        processes.clock.now += HOLDS_FOR


def test_a_lock_that_is_held_whenever_it_is_asked_for_by_chance_is_respected(processes: Processes) -> None:
    holder, turns = processes.start(), processes.turns()
    for _ in range(5):
        with holder.alone():
            assert turns.maybe_begin(5 * MB) is None
        processes.clock.now += HOLDS_FOR
    assert turns.maybe_begin(5 * MB) is not None


def test_a_block_that_takes_long_to_make_is_seen_by_others_all_the_time(processes: Processes) -> None:
    used = 30 * MB
    first, second = processes.turns(lambda: used), processes.start()
    turn = first.maybe_begin(20 * MB)
    assert turn is not None
    for _ in range(3):
        processes.clock.now += HOLDS_FOR
        assert second.of_others() == 0
        used += 20 * MB
        assert first.maybe_begin(20 * MB) is None
        assert second.of_others() == 160 * MB
    first.end(turn)
    assert second.of_others() == 0


def test_reservations_above_the_limit_are_ignored(processes: Processes, caplog: pytest.LogCaptureFixture) -> None:
    holder, turns = processes.start(), processes.turns()
    with holder.alone():
        for _ in range(256):
            holder.of_others()
            holder.begin(3 * MB, processes.clock.now + HOLDS_FOR)
    assert turns.maybe_begin(5 * MB) is not None
    assert "the file says that 768000000 bytes are reserved, but at most 512000000 can be" in caplog.text


def test_a_deleted_file_is_created_again(processes: Processes) -> None:
    first, second = processes.turns(), processes.turns()
    turn = first.maybe_begin(5 * MB)
    assert turn is not None
    processes.file.unlink()
    taken = [second.maybe_begin(5 * MB) for _ in range(9)]
    assert sum(each is not None for each in taken) == 5
    first.end(turn)
    assert first.maybe_begin(5 * MB) is None
    assert second.maybe_begin(5 * MB) is None


def test_a_turn_that_ends_late_does_not_change_the_next_owner_of_its_place(processes: Processes) -> None:
    first, second = processes.turns(), processes.turns()
    late = first.maybe_begin(5 * MB)
    assert late is not None
    processes.clock.now += HOLDS_FOR
    assert sum(second.maybe_begin(5 * MB) is not None for _ in range(9)) == 5
    first.end(late)
    assert first.maybe_begin(5 * MB) is None


TAKING = """
import json, os, random, sys, time
from pathlib import Path
from ssemiddleware.memory.cgroup import Reading
from ssemiddleware.memory.turns import Turns

reading = Reading(30_000_000, 256_000_000)
turns = Turns(
    lambda: reading,
    lambda: reading,
    critical=0.92,
    shared=lambda: "machine",
    folders=(Path(sys.argv[1]),),
)
until, log = time.monotonic() + 1.5, []
while time.monotonic() < until or (len(log) < 6 and time.monotonic() < until + 30):
    size = random.choice([1_000_000, 5_000_000])
    turn = turns.maybe_begin(size)
    if turn is not None:
        log.append([min(time.monotonic(), turn.until), turn.needs])
        time.sleep(random.random() / 100)
        log.append([min(time.monotonic(), turn.until), -turn.needs])  # a turn is over by then, even if its process slept
        turns.end(turn)
    time.sleep(random.random() / 1000)
print(json.dumps(log))
"""


def test_real_processes_never_reserve_more_than_there_is(tmp_path: Path) -> None:
    command = [sys.executable, "-c", TAKING, str(tmp_path)]
    running = [subprocess.Popen(command, stdout=subprocess.PIPE) for _ in range(4)]
    logs = [json.loads(process.communicate(timeout=60)[0]) for process in running]
    assert all(len(log) > 4 for log in logs), "each process has had turns"
    reserved = most = 0
    for _, change in sorted(change for log in logs for change in log):
        reserved += change
        most = max(most, reserved)
    assert 0 < most <= 0.92 * 256 * MB - 30 * MB


HOLDING = """
import signal, sys, time
from pathlib import Path
from ssemiddleware.memory.reservations import Reservations

reservations = Reservations("machine", folders=(Path(sys.argv[1]),))
with reservations.alone():
    reservations.of_others()
    now = time.monotonic()
    reservations.begin(1_000_000, now + 1)
    print(now, flush=True)
    signal.pause()
"""


def test_a_killed_process_leaves_no_reservation_and_no_lock(tmp_path: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", HOLDING, str(tmp_path)], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        now = float(process.stdout.readline())
        reservations = Reservations("machine", folders=(tmp_path,), clock=lambda: now)
        assert reservations.of_others() == MB
        with reservations.alone() as is_alone:
            assert not is_alone
        process.send_signal(signal.SIGKILL)
        process.wait(DEADLINE)
    with reservations.alone() as is_alone:
        assert is_alone
    later = Reservations("machine", folders=(tmp_path,), clock=lambda: now + 1)
    assert later.of_others() == 0
