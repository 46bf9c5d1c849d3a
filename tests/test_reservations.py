"""`ssemiddleware.reservations`: processes see what each other have set aside of a memory that they share."""

from __future__ import annotations

import json
import logging
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ssemiddleware.cgroup import Reading
from ssemiddleware.reservations import HOLDS_FOR, Reservations
from ssemiddleware.turns import Turns

from .test_memory import Clock

MB = 1_000_000


class Processes:
    """Processes that share a memory, as far as `Reservations` can tell."""

    def __init__(self, folder: Path, patch: pytest.MonkeyPatch) -> None:
        self.folder = folder
        self.clock = Clock()
        self._patch = patch
        self._next = 1000

    def start(self, name: str | None = "machine") -> Reservations:
        self._next += 1
        with self._patch.context() as patch:
            patch.setattr(os, "getpid", lambda: self._next)
            return Reservations(name, folder=self.folder, clock=self.clock)


@pytest.fixture
def processes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Processes:
    return Processes(tmp_path, monkeypatch)


def test_each_process_sees_what_all_others_have_set_aside(processes: Processes) -> None:
    first, second, third = (processes.start() for _ in range(3))
    until = processes.clock.now + 0.5
    for size, process in enumerate((first, second, third)):
        process.write(10**size * MB, until)
    assert [process.of_others() for process in (first, second, third)] == [110 * MB, 101 * MB, 11 * MB]
    second.write(0, 0.0)
    assert [process.of_others() for process in (first, second, third)] == [100 * MB, 101 * MB, 1 * MB]


def test_a_memory_of_another_name_is_another(processes: Processes) -> None:
    first, second, alone = processes.start("20-3f8f"), processes.start("20-3fb0"), processes.start(None)
    for process in (first, second, alone):
        process.write(MB, processes.clock.now + 0.5)
        assert process.of_others() == 0
    assert len(list(processes.folder.iterdir())) == 1, "a file for each would stay behind for each container there ever was"


def test_it_holds_for_a_second_at_most(processes: Processes) -> None:
    first, second = processes.start(), processes.start()
    first.write(MB, processes.clock.now + HOLDS_FOR)
    assert second.of_others() == MB
    processes.clock.now += HOLDS_FOR
    assert second.of_others() == 0
    first.write(MB, processes.clock.now + HOLDS_FOR + 0.1)  # written before the machine was last started
    assert second.of_others() == 0


def test_while_one_decides_the_others_do_not(processes: Processes) -> None:
    first, second = processes.start(), processes.start()
    with first.alone() as is_alone:
        assert is_alone
        with second.alone() as also:
            assert not also
    with second.alone() as is_alone:
        assert is_alone


@given(content=st.binary(max_size=7000))
def test_whatever_is_in_the_file_is_read_without_harm(content: bytes, tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = tmp_path_factory.mktemp("shared")
    (folder / f"ssemiddleware-{os.geteuid()}").write_bytes(content)
    reservations = Reservations("machine", folder=folder)
    assert reservations.of_others() >= 0
    with reservations.alone() as is_alone:
        assert is_alone


def test_what_somebody_else_has_put_there_is_not_touched(processes: Processes, caplog: pytest.LogCaptureFixture) -> None:
    name = processes.folder / f"ssemiddleware-{os.geteuid()}"
    target = processes.folder / "target"
    target.write_bytes(b"precious")
    name.symlink_to(target)
    assert_goes_on_alone(processes)
    name.unlink()
    os.mkfifo(name)
    assert_goes_on_alone(processes)
    if os.geteuid() == 0:
        name.unlink()
        name.write_bytes(b"precious")
        os.chown(name, 12345, -1)
        assert_goes_on_alone(processes)
        assert name.read_bytes() == b"precious"
    assert target.read_bytes() == b"precious"
    assert {record.message.partition(":")[0] for record in caplog.records} == {
        "what other processes set aside of the memory cannot be seen"
    }


def assert_goes_on_alone(processes: Processes) -> None:
    reservations = processes.start()
    reservations.write(MB, processes.clock.now + 0.5)
    assert reservations.of_others() == 0
    with reservations.alone() as is_alone:
        assert is_alone


def test_where_there_is_no_room_for_a_file_each_counts_by_itself(
    processes: Processes, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(*arguments: object) -> int:
        raise OSError(28, "No space left on device")

    reservations, other = processes.start(), processes.start()
    with caplog.at_level(logging.WARNING, "ssemiddleware"), monkeypatch.context() as patch:
        patch.setattr(os, "pwrite", fail)
        with reservations.alone() as is_alone:
            assert is_alone
            for _ in range(3):
                reservations.write(MB, processes.clock.now + 0.5)
    with other.alone() as is_alone:
        assert is_alone, "its lock has gone with the file"
    assert len(caplog.records) == 1


def test_the_turns_of_all_processes_together_are_as_many_as_those_of_one(processes: Processes) -> None:
    def turns() -> Turns:
        return Turns(
            lambda: Reading(30 * MB, 256 * MB),
            low=0.70,
            critical=0.92,
            reservations=processes.start,
            clock=processes.clock,
        )

    alone = turns()
    most = sum(alone.maybe_begin(5 * MB) is not None for _ in range(20))
    assert most == 5
    processes.clock.now += 2
    together = [turns() for _ in range(4)]
    taken = [(each, turn) for _ in range(20) for each in together if (turn := each.maybe_begin(5 * MB)) is not None]
    assert len(taken) == most
    for each, turn in taken[:2]:
        each.end(turn, 5 * MB)
    processes.clock.now += 0.11
    assert sum(each.maybe_begin(5 * MB) is not None for each in together) == 2


def test_one_that_does_not_fit_is_made_by_one_process_at_a_time(processes: Processes) -> None:
    def turns() -> Turns:
        return Turns(
            lambda: Reading(30 * MB, 256 * MB), low=0.7, critical=0.92, reservations=processes.start, clock=processes.clock
        )

    assert sum(turns().maybe_begin(50 * MB) is not None for _ in range(4)) == 1
    assert sum(turns().maybe_begin(50 * MB, waited=31) is not None for _ in range(4)) == 0


TAKING = """
import json, os, random, sys, time
from pathlib import Path
from ssemiddleware.cgroup import Reading
from ssemiddleware.reservations import Reservations
from ssemiddleware.turns import Turns

turns = Turns(
    lambda: Reading(30_000_000, 256_000_000),
    low=0.7,
    critical=0.92,
    reservations=lambda: Reservations("machine", folder=Path(sys.argv[1])),
)
until, log = time.monotonic() + 1.5, []
while time.monotonic() < until:
    size = random.choice([1_000_000, 5_000_000])
    turn = turns.maybe_begin(size)
    if turn is not None:
        log.append([time.monotonic(), turn.needs])
        time.sleep(random.random() / 100)
        log.append([time.monotonic(), -turn.needs])
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
from ssemiddleware.reservations import Reservations

reservations = Reservations("machine", folder=Path(sys.argv[1]))
with reservations.alone():
    reservations.write(1_000_000, time.monotonic() + 1)
    print("holds", flush=True)
    signal.pause()
"""


def test_a_process_that_is_killed_leaves_nothing_behind(tmp_path: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", HOLDING, str(tmp_path)], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"holds\n"
        reservations = Reservations("machine", folder=tmp_path)
        assert reservations.of_others() == MB
        with reservations.alone() as is_alone:
            assert not is_alone
        process.send_signal(signal.SIGKILL)
        process.wait(10)
    with reservations.alone() as is_alone:
        assert is_alone
    later = Reservations("machine", folder=tmp_path, clock=lambda: time.monotonic() + 1)
    assert later.of_others() == 0
