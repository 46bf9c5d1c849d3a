"""`ssemiddleware.memory.pulls`: when a stream pulls its next block at once, and when it waits for memory before."""

from __future__ import annotations

import pytest

from ssemiddleware import MemoryGovernor
from ssemiddleware.memory.pulls import Pulls

from ..clock import Clock

KB, MB = 1000, 1_000_000


class Memory:
    """A container of 256 MB that is as full as a test says; its clock goes as streams wait, and `log` has their waits."""

    def __init__(self, share: float = 0.1, *, pause: float = 1.0) -> None:
        self.share, self.clock = share, Clock()
        self.reads = 0
        self.governor = MemoryGovernor(read=self.read, clock=self.clock, pause=pause)
        self.log: list[float] = []

    def read(self) -> tuple[int, int]:
        self.reads += 1
        return round(256 * MB * self.share), 256 * MB

    def sleep(self, seconds: float) -> None:
        self.clock.now += seconds

    def pulls(self) -> Pulls:
        return Pulls(self.governor, large=131072, paused=self.log.append, clock=self.clock, sleep=self.sleep)

    @property
    def turns_taken(self) -> int:
        return sum(turn.until > self.clock.now for turn in self.governor.turns._taken)


def goes_on(_now: float) -> bool:
    return False


def test_nothing_is_waited_for_without_a_governor() -> None:
    pulls = Pulls(None, large=131072, sleep=lambda seconds: pytest.fail("waits"))
    for size in (1, 10 * MB):
        assert pulls.wait(goes_on)
        pulls.came(size)


def test_nothing_is_waited_for_while_there_is_memory() -> None:
    memory = Memory()
    pulls = memory.pulls()
    for size in (100, 100 * KB, 10 * MB, 100):
        assert pulls.wait(goes_on)
        pulls.came(size)
    assert memory.log == []


def test_a_pull_waits_for_as_long_as_the_governor_says_and_then_goes_on() -> None:
    memory = Memory(0.85)
    pulls = memory.pulls()
    assert pulls.wait(goes_on)
    assert memory.log == [pytest.approx(memory.governor.next_pause())]


def test_a_wait_is_over_as_soon_as_memory_is_there() -> None:
    memory = Memory(0.85)

    def sleep(seconds: float) -> None:
        memory.clock.now += seconds
        memory.share = 0.1

    pulls = Pulls(memory.governor, large=131072, paused=memory.log.append, clock=memory.clock, sleep=sleep)
    assert pulls.wait(goes_on)
    assert memory.log[0] < 0.2


def test_waits_are_paid_by_the_byte() -> None:
    """Small events do not wait for each, but for each 64 KiB of them."""
    memory = Memory(0.85)
    pulls = memory.pulls()
    for _ in range(1100):
        assert pulls.wait(goes_on)
        pulls.came(60)
    assert len(memory.log) == 2, "before the first block, and after 64 KiB"


def test_what_came_in_quick_blocks_counts() -> None:
    memory = Memory(0.85)
    pulls = memory.pulls()
    pulls.wait(goes_on)
    pulls.came(60, before=65536)
    pulls.wait(goes_on)
    assert len(memory.log) == 2


def test_small_events_cost_no_look_at_memory() -> None:
    memory = Memory()
    pulls = memory.pulls()
    pulls.wait(goes_on)
    pulls.came(60)
    before = memory.reads
    for _ in range(500):
        memory.clock.now += 1
        pulls.wait(goes_on)
        pulls.came(60)
    assert memory.reads == before


@pytest.mark.parametrize("share", [0.85, 0.1], ids=["pauses", "no turn is to be had"])
def test_a_stream_that_must_end_does_not_pull(share: float) -> None:
    memory = Memory(share)
    if share == 0.1:
        while memory.governor.turns.maybe_begin(0) is not None:
            pass
    pulls = memory.pulls()
    assert not pulls.wait(lambda now: now > 1000.2)
    assert 0.15 < memory.log[0] < 0.4


def test_the_first_block_and_one_behind_a_large_one_take_a_turn() -> None:
    memory = Memory()
    pulls = memory.pulls()
    taken = []
    for size in (60, 60, 10 * MB, 60, 60):
        pulls.wait(goes_on)
        taken.append(pulls._turn is not None)
        pulls.came(size)
    assert taken == [True, False, False, True, False]


def test_a_turn_ends_when_its_block_has_come_and_when_the_stream_ends() -> None:
    memory = Memory()
    for size in (5 * MB, 0):
        pulls = memory.pulls()
        pulls.wait(goes_on)
        assert memory.turns_taken == 1
        pulls.came(size)
        memory.clock.now += 0.11  # by then what was made shows in the gauge
        assert memory.turns_taken == 0


def test_a_stream_that_makes_one_large_block_after_another_goes_on() -> None:
    memory = Memory()
    pulls = memory.pulls()
    for _ in range(100):
        assert pulls.wait(goes_on)
        pulls.came(5 * MB)
        memory.clock.now += 0.001
    assert sum(memory.log) == 0


def test_what_wait_and_came_do_twice_does_no_harm() -> None:
    pulls = Memory().pulls()
    pulls.wait(goes_on)
    pulls.came(100)
    pulls.came(0)
    pulls.came(0)
    assert pulls.wait(goes_on)
