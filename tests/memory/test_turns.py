"""`ssemiddleware.memory.turns`: as many large blocks at once as memory allows, and no endless wait."""

from __future__ import annotations

import sys
import threading
import time

import pytest

from ssemiddleware.memory.cgroup import Reading
from ssemiddleware.memory.turns import Turn, Turns, _computed

from ..applications import DEADLINE

MB = 1_000_000


class Container:
    """A container of 256 MB, its used memory, and a clock that only a test moves."""

    def __init__(self, used: int = 30 * MB, *, sends: bool = False) -> None:
        self.now, self.used = 1000.0, used
        self.seen = 0  # the used memory that was read last
        self.turns = Turns(self.read, self.read_now, critical=0.92, clock=lambda: self.now)
        self.sent = self.turns.send(Turn(), 0) if sends else None

    def read(self) -> Reading:
        return Reading(self.seen or self.used, 256 * MB)

    def read_now(self) -> Reading:
        return Reading(self.used, 256 * MB)

    def begin(self, streams: int, last: int = 0, waited: float = 0.0) -> int:
        """Return how many of so many streams get a turn."""
        return sum(self.turns.maybe_begin(last, waited) is not None for _ in range(streams))

    def begin_all(self, streams: int, first: int | None) -> float:
        """Open so many streams, each with a first block of *first* bytes, if any; return the seconds until the last begins."""
        began, waiting = self.now, streams
        while waiting:
            for _ in range(waiting):
                turn = self.turns.maybe_begin(0, self.now - began) if self.turns.expects_large() else Turn()
                if turn is not None:
                    waiting -= 1
                    if first is not None:
                        self.turns.expect("", first)
                        self.turns.end(turn)
            self.now += 0.05
        return round(self.now - began, 2) - 0.05


@pytest.mark.parametrize("used", [75, 88, 99], ids="{} %".format)
def test_streams_with_small_first_blocks_begin_at_once_however_full_memory_is(used: int) -> None:
    assert Container(used * 256 * MB // 100).begin_all(1000, first=60) == 0


@pytest.mark.parametrize("used", [10, 75, 88, 99], ids="{} %".format)
def test_silent_streams_begin_within_a_second(used: int) -> None:
    assert Container(used * 256 * MB // 100).begin_all(1000, first=None) <= 1.051


def test_a_stream_does_not_wait_for_memory_that_other_programs_use() -> None:
    container = Container(used=255 * MB)
    for _ in range(5):
        turn = container.turns.maybe_begin(5 * MB)
        assert turn is not None
        container.turns.end(turn)


def test_a_stream_waits_while_a_large_block_is_being_sent() -> None:
    container = Container(used=220 * MB)
    turn = container.turns.maybe_begin(5 * MB)
    assert turn is not None
    assert container.turns.send(turn, 0) is turn
    assert container.begin(1, last=5 * MB) == 0
    container.turns.end(turn)
    assert container.begin(1, last=5 * MB) == 1


def test_once_a_first_block_was_large_the_next_streams_take_turns() -> None:
    container = Container()
    container.turns.expect("/orders", 30 * MB)
    assert container.turns.expects_large("/orders")
    assert container.begin(100) == 1


def test_a_path_of_small_blocks_is_soon_known_among_large_ones() -> None:
    turns = Container().turns
    for _ in range(4):
        turns.expect("/orders", 5 * MB)
        assert turns.expects_large("/ticks")
        turns.expect("/ticks", 60)
    assert not turns.expects_large("/ticks")
    assert turns.expects_large("/orders")
    assert turns.expects_large("/unknown")


def test_a_path_whose_first_blocks_were_small_waits_for_no_other_path_s_large_ones() -> None:
    turns = Container().turns
    turns.expect("/ticks", 60)
    turns.expect("/orders", 5 * MB)
    assert not turns.expects_large("/ticks")
    assert turns.expects_large("/orders")


@pytest.mark.parametrize("size", [60, 5 * MB])
def test_the_number_of_remembered_paths_is_limited(size: int) -> None:
    turns = Container().turns
    for number in range(10_000):
        turns.expect(f"/{number}", size)
        assert len(turns._expected_of) <= 256


def test_many_paths_of_small_blocks_let_no_path_of_large_ones_be_forgotten() -> None:
    turns = Container().turns
    turns.expect("/orders", 5 * MB)
    for number in range(10_000):
        turns.expect(f"/{number}", 60)
    assert turns.expects_large("/orders")


def test_small_blocks_need_no_turn() -> None:
    container = Container(used=250 * MB)
    assert container.begin(100, last=60_000) == 100


def test_the_larger_the_blocks_the_fewer_are_made_at_once() -> None:
    assert Container().begin(100, last=500_000) == 51
    assert Container().begin(100, last=5 * MB) == 5
    assert Container(used=150 * MB).begin(100, last=5 * MB) == 2


def test_a_block_that_does_not_fit_is_made_alone() -> None:
    assert Container().begin(100, last=50 * MB) == 1
    assert Container(used=178 * MB).begin(100, last=50 * MB) == 1


def test_reserved_memory_is_free_once_the_block_is_made() -> None:
    container = Container(used=200 * MB)
    turn = container.turns.maybe_begin(5 * MB)
    assert turn is not None
    assert container.begin(1, last=5 * MB) == 0
    container.turns.end(turn)
    assert container.begin(2, last=5 * MB) == 1


def test_a_block_that_is_made_counts_although_the_last_reading_is_older() -> None:
    container = Container(used=180 * MB)
    container.seen = 180 * MB
    turn = container.turns.maybe_begin(5 * MB)
    assert turn is not None
    container.used += 25 * MB
    container.turns.send(turn, 0)
    assert container.begin(1, last=5 * MB) == 0


def test_while_memory_is_plenty_it_is_not_read_anew() -> None:
    container = Container()
    container.turns._read_now = lambda: pytest.fail("read")
    assert container.begin(5, last=200_000) == 5


def test_a_thread_that_waited_for_the_lock_goes_by_what_is_used_afterwards() -> None:
    container, taken = Container(sends=True), list[Turn | None]()
    with container.turns._lock:
        waiting = threading.Thread(target=lambda: taken.append(container.turns.maybe_begin(5 * MB)))
        waiting.start()
        waiting.join(0.1)
        container.used = container.seen = 250 * MB
    waiting.join(DEADLINE)
    assert taken == [None]


def test_a_stream_that_makes_one_block_after_another_reserves_memory_once() -> None:
    container = Container(used=180 * MB)
    for _ in range(100):
        turn = container.turns.maybe_begin(5 * MB)
        assert turn is not None
        container.turns.send(turn, 0)
        container.turns.end(turn)


def test_a_silent_stream_makes_the_others_wait_for_a_second_only() -> None:
    container = Container(used=200 * MB)
    assert container.begin(2, last=5 * MB) == 1
    container.now += 0.9
    assert container.begin(1, last=5 * MB) == 0
    container.now += 0.11
    assert container.begin(2, last=5 * MB) == 1


def test_when_no_block_fits_one_is_made_after_half_a_minute() -> None:
    container = Container(used=240 * MB, sends=True)
    assert container.turns.maybe_begin(5 * MB) is None
    assert container.turns.maybe_begin(5 * MB, waited=29.9) is None
    assert container.turns.maybe_begin(5 * MB, waited=30.0) is not None
    container.now += 29.9
    assert container.turns.maybe_begin(5 * MB, waited=59.9) is None  # one at a time
    container.now += 0.2
    assert container.turns.maybe_begin(5 * MB, waited=60.1) is not None


def test_a_forked_process_starts_again_without_turns() -> None:
    container = Container(used=200 * MB)
    assert container.begin(2, last=5 * MB) == 1
    container.turns._pid = -1
    container.turns._lock.acquire()  # as if another thread of the parent held it at the fork
    assert container.begin(2, last=5 * MB) == 1


def test_a_turn_may_end_inside_a_garbage_collection_while_another_begins() -> None:
    container = Container(used=200 * MB)
    turn = container.turns.maybe_begin(5 * MB)
    assert turn is not None
    with container.turns._lock:
        container.turns.end(turn)
    assert container.begin(1, last=5 * MB) == 1


def test_a_slow_first_block_keeps_its_turn_while_memory_grows() -> None:
    container = Container(used=220 * MB)
    assert container.turns.maybe_begin(0) is not None
    for _ in range(3):
        container.used += 4 * MB
        container.now += 1.0
        assert container.begin(1) == 0
    container.now += 1.0
    assert container.begin(1) == 1, "memory no longer grows: the stream is silent"


def test_a_stream_that_was_dropped_sends_no_block() -> None:
    container = Container(used=250 * MB, sends=True)
    assert container.begin(1, last=5 * MB) == 0
    container.sent = None
    assert container.begin(1, last=5 * MB) == 1


def test_a_slow_later_block_keeps_its_turn_while_memory_grows() -> None:
    container = Container(used=190 * MB)
    turn = container.turns.maybe_begin(5 * MB)
    assert turn is not None
    container.used += 10 * MB
    container.now += 1.0
    assert container.begin(1, last=5 * MB) == 0
    container.turns.end(turn)
    assert container.begin(1, last=5 * MB) == 1, "its block is made, whatever memory does"


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells how long another thread has computed")
def test_a_slow_block_keeps_its_turn_while_its_thread_computes() -> None:
    container, computes, rests, may_end = Container(used=220 * MB), *(threading.Event() for _ in range(3))

    def make() -> None:
        assert container.turns.maybe_begin(5 * MB) is not None
        while time.thread_time() < 0.1:
            pass
        computes.set()
        rests.wait(DEADLINE)
        may_end.wait(DEADLINE)

    thread = threading.Thread(target=make)
    thread.start()
    try:
        assert computes.wait(DEADLINE)
        container.now += 1.0
        assert container.begin(1, last=5 * MB) == 0
        rests.set()
        container.now += 1.0
        assert container.begin(1, last=5 * MB) == 1, "it has done nothing for a second"
    finally:
        rests.set()
        may_end.set()
        thread.join(DEADLINE)


@pytest.mark.parametrize("thread", [2**22 + 1, 2**40, 2**70], ids="{:#x}".format)  # Linux' highest number is 2**22
def test_a_thread_that_is_not_there_has_not_computed(thread: int) -> None:
    assert _computed(thread) == 0


def test_a_greenlet_s_turn_does_not_depend_on_what_others_of_its_thread_compute() -> None:
    container = Container(used=220 * MB)
    assert container.turns.maybe_begin(5 * MB) is not None
    began = time.thread_time()
    while time.thread_time() < began + 0.1:
        pass
    container.now += 1.0
    assert container.begin(1, last=5 * MB) == 1
