"""`ssemiddleware.memory.reservations`: processes see what each other have set aside of a memory that they share."""

from __future__ import annotations

import json
import logging
import os
import signal
import subprocess
import sys
import tempfile
import time
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
    """Processes that share a memory, as far as `Reservations` can tell."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.file = folder / f"ssemiddleware-{os.geteuid()}"
        self.clock = Clock()

    def start(self, name: str | None = "machine") -> Reservations:
        return Reservations(name, folders=(self.folder,), clock=self.clock)

    def turns(self, used: int = 30 * MB) -> Turns:
        return Turns(
            lambda: Reading(used, 256 * MB),
            low=0.70,
            critical=0.92,
            shared=lambda: "machine",
            folders=(self.folder,),
            clock=self.clock,
        )


@pytest.fixture
def processes(tmp_path: Path) -> Processes:
    return Processes(tmp_path)


def set_aside(process: Reservations, size: int, until: float) -> int:
    """Set bytes aside as `Turns` does; return where that stands."""
    process.of_others()
    place = process.begin(size, until)
    assert place is not None
    return place


def test_each_process_sees_what_all_others_have_set_aside(processes: Processes) -> None:
    several = [processes.start() for _ in range(3)]
    until = processes.clock.now + 0.5
    first, second, third = (set_aside(process, 10**number * MB, until) for number, process in enumerate(several))
    assert [process.of_others() for process in several] == [110 * MB, 101 * MB, 11 * MB]
    several[1].end(second, processes.clock.now)
    assert [process.of_others() for process in several] == [100 * MB, 101 * MB, 1 * MB]
    assert set_aside(several[0], MB, until) == second, "a place is used again"
    assert len({first, second, third}) == 3


def test_a_memory_of_another_name_is_another(processes: Processes) -> None:
    for process in (processes.start("20-3f8f"), processes.start("20-3fb0")):
        set_aside(process, MB, processes.clock.now + 0.5)
        assert process.of_others() == 0
    alone = processes.start(None)
    assert (alone.of_others(), alone.begin(MB, processes.clock.now + 0.5)) == (0, None)
    assert list(processes.folder.iterdir()) == [processes.file], (
        "one for each would stay behind for each container there ever was"
    )


def test_it_holds_for_a_second_at_most(processes: Processes) -> None:
    first, second = processes.start(), processes.start()
    set_aside(first, MB, processes.clock.now + HOLDS_FOR)
    assert second.of_others() == MB
    processes.clock.now += HOLDS_FOR
    assert second.of_others() == 0
    set_aside(first, MB, processes.clock.now + HOLDS_FOR + 0.1)  # written before the machine was last started
    assert second.of_others() == 0


def test_there_is_room_for_many_and_who_finds_none_goes_on(processes: Processes) -> None:
    first, second = processes.start(), processes.start()
    for _ in range(256):
        set_aside(first, MB, processes.clock.now + 0.5)
    assert second.of_others() == 256 * MB
    assert second.begin(MB, processes.clock.now + 0.5) is None
    assert processes.file.stat().st_size == 8192
    processes.clock.now += 0.5
    set_aside(second, MB, processes.clock.now + 0.5)
    assert first.of_others() == MB


def test_while_one_decides_the_others_do_not(processes: Processes) -> None:
    first, second = processes.start(), processes.start()
    with first.alone() as is_alone:
        assert is_alone
        with second.alone() as also:
            assert not also
    with second.alone() as is_alone:
        assert is_alone


@given(content=st.binary(max_size=9000))
def test_whatever_is_in_the_file_is_read_without_harm(content: bytes, tmp_path_factory: pytest.TempPathFactory) -> None:
    processes = Processes(tmp_path_factory.mktemp("shared"))
    processes.file.write_bytes(content)
    reservations = processes.start()
    assert reservations.of_others() >= 0
    with reservations.alone() as is_alone:
        assert is_alone


def test_what_somebody_else_has_put_there_is_not_touched(processes: Processes, caplog: pytest.LogCaptureFixture) -> None:
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
        "the memory that other processes have reserved cannot be read"
    }


def assert_goes_on_alone(processes: Processes) -> None:
    reservations = processes.start()
    assert reservations.of_others() == 0
    assert reservations.begin(MB, processes.clock.now + 0.5) is None
    with reservations.alone() as is_alone:
        assert is_alone


def test_another_folder_will_do(processes: Processes) -> None:
    missing = processes.folder / "missing"
    first, second = (Reservations("machine", folders=(missing, processes.folder), clock=processes.clock) for _ in range(2))
    set_aside(first, MB, processes.clock.now + 0.5)
    assert second.of_others() == MB


@pytest.mark.skipif(not os.access("/dev/shm", os.W_OK), reason="there is no shared memory in a folder")
def test_shared_memory_will_do_where_there_is_no_folder_for_temporary_files(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail() -> str:
        raise FileNotFoundError(2, "No usable temporary directory found")

    monkeypatch.setattr(tempfile, "gettempdir", fail)
    first, second = (Reservations(f"of test {os.getpid()}") for _ in range(2))
    deadline = time.monotonic() + DEADLINE
    place = set_aside(first, MB, time.monotonic() + HOLDS_FOR)
    while second.of_others() != MB:  # it is over already, or another process that uses the memory has taken the place
        assert time.monotonic() < deadline
        place = set_aside(first, MB, time.monotonic() + HOLDS_FOR)
    first.end(place, 0.0)
    assert second.of_others() == 0


def test_where_there_is_no_room_for_a_file_each_counts_by_itself(
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
        assert is_alone, "it has let go"
    assert len(caplog.records) == 1


def test_the_turns_of_all_processes_together_are_as_many_as_those_of_one(processes: Processes) -> None:
    alone = processes.turns()
    most = sum(alone.maybe_begin(5 * MB) is not None for _ in range(20))
    assert most == 5
    processes.clock.now += 2
    together = [processes.turns() for _ in range(4)]
    taken = [(each, turn) for _ in range(20) for each in together if (turn := each.maybe_begin(5 * MB)) is not None]
    assert len(taken) == most
    for each, turn in taken[:2]:
        each.end(turn, 5 * MB)
    assert not any(each.maybe_begin(5 * MB) for each in together), "not before the block shows in the gauge"
    processes.clock.now += 0.11
    assert sum(each.maybe_begin(5 * MB) is not None for each in together) == 2


def test_one_that_does_not_fit_is_made_by_one_process_at_a_time(processes: Processes) -> None:
    assert sum(processes.turns().maybe_begin(50 * MB) is not None for _ in range(4)) == 1
    assert sum(processes.turns().maybe_begin(50 * MB, waited=31) is not None for _ in range(4)) == 0


def test_a_large_one_gets_its_turn_among_small_ones_in_the_end(processes: Processes) -> None:
    small, large = processes.turns(100 * MB), processes.turns(100 * MB)
    waited, turn = 0.0, small.maybe_begin(5 * MB)
    while large.maybe_begin(20 * MB, waited) is None:
        assert turn is not None
        small.end(turn, 5 * MB)
        turn = small.maybe_begin(5 * MB, earlier=turn)
        processes.clock.now += 0.05
        waited += 0.05
    assert 59 < waited < 61


def test_a_process_that_is_stopped_while_it_decides_stops_the_others_for_a_second_only(processes: Processes) -> None:
    stopped, turns = processes.start(), processes.turns()
    with stopped.alone():
        assert turns.maybe_begin(5 * MB) is None
        assert turns.maybe_begin(5 * MB, waited=HOLDS_FOR) is not None


def test_a_file_that_was_deleted_is_made_again(processes: Processes) -> None:
    first, second = processes.turns(), processes.turns()
    turn = first.maybe_begin(5 * MB)
    assert turn is not None
    processes.file.unlink()
    taken = [second.maybe_begin(5 * MB) for _ in range(9)]
    assert sum(each is not None for each in taken) == 5
    first.end(turn, 5 * MB)
    processes.clock.now += 0.11
    assert first.maybe_begin(5 * MB) is None
    assert second.maybe_begin(5 * MB) is None


def test_a_turn_that_ends_late_leaves_the_next_owner_of_its_place_alone(processes: Processes) -> None:
    first, second = processes.turns(), processes.turns()
    late = first.maybe_begin(5 * MB)
    assert late is not None
    processes.clock.now += HOLDS_FOR
    assert sum(second.maybe_begin(5 * MB) is not None for _ in range(9)) == 5
    first.end(late, 5 * MB)
    processes.clock.now += 0.11
    assert first.maybe_begin(5 * MB) is None


TAKING = """
import json, os, random, sys, time
from pathlib import Path
from ssemiddleware.memory.cgroup import Reading
from ssemiddleware.memory.turns import Turns

turns = Turns(
    lambda: Reading(30_000_000, 256_000_000),
    low=0.7,
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
        log.append([min(time.monotonic(), turn.until), -turn.needs])  # a turn is over by then, whatever became of its process
        turns.end(turn, size)
    time.sleep(random.random() / 1000)
print(json.dumps(log))
"""


def test_real_processes_never_set_more_aside_than_there_is(tmp_path: Path) -> None:
    command = [sys.executable, "-c", TAKING, str(tmp_path)]
    running = [subprocess.Popen(command, stdout=subprocess.PIPE) for _ in range(4)]
    logs = [json.loads(process.communicate(timeout=60)[0]) for process in running]
    assert all(len(log) > 4 for log in logs), "each has had turns"
    set_aside = most = 0
    for _, change in sorted(change for log in logs for change in log):
        set_aside += change
        most = max(most, set_aside)
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


def test_a_process_that_is_killed_leaves_nothing_behind(tmp_path: Path) -> None:
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
