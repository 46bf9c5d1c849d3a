"""`ssemiddleware.memory.turns`: as many large blocks are made at once as memory suffices for, and nobody waits for ever."""

from __future__ import annotations

from ssemiddleware.memory.cgroup import Reading
from ssemiddleware.memory.turns import Turns

MB = 1_000_000


class Container:
    """A container of 256 MB, what is used of it, and a clock that goes when it is told to."""

    def __init__(self, used: int = 30 * MB) -> None:
        self.now, self.used, self.trims = 1000.0, used, 0
        self.turns = Turns(self.read, low=0.70, critical=0.92, short=self.trim, clock=lambda: self.now)

    def read(self) -> Reading:
        return Reading(self.used, 256 * MB)

    def trim(self) -> None:
        self.trims += 1

    def begin(self, streams: int, last: int = 0) -> int:
        """Return how many of so many streams get a turn."""
        return sum(self.turns.maybe_begin(last) is not None for _ in range(streams))


def test_streams_of_which_nothing_is_known_begin_a_few_at_a_time() -> None:
    assert Container().begin(100) == 6


def test_small_blocks_need_no_turn() -> None:
    container = Container(used=250 * MB)
    assert container.begin(100, last=60_000) == 100


def test_the_larger_the_block_the_fewer_make_one() -> None:
    assert Container().begin(100, last=500_000) == 51
    assert Container().begin(100, last=5 * MB) == 5
    assert Container(used=150 * MB).begin(100, last=5 * MB) == 2


def test_one_that_does_not_fit_is_made_alone() -> None:
    assert Container().begin(100, last=50 * MB) == 1
    assert Container(used=178 * MB).begin(100, last=50 * MB) == 1


def test_memory_that_was_set_aside_is_free_once_the_block_shows_in_the_gauge() -> None:
    container = Container(used=200 * MB)
    turn = container.turns.maybe_begin(5 * MB)
    assert turn is not None
    assert container.begin(1, last=5 * MB) == 0
    container.turns.end(turn, 5 * MB)
    assert container.begin(1, last=5 * MB) == 0
    container.now += 0.11
    assert container.begin(2, last=5 * MB) == 1


def test_a_stream_that_makes_one_block_after_another_sets_memory_aside_once() -> None:
    container, turn = Container(used=180 * MB), None
    for _ in range(100):
        turn = container.turns.maybe_begin(5 * MB, earlier=turn)
        assert turn is not None
        container.turns.end(turn, 5 * MB)
        container.now += 0.001


def test_a_stream_that_is_silent_keeps_the_others_waiting_for_a_second() -> None:
    container = Container(used=200 * MB)
    assert container.begin(2, last=5 * MB) == 1
    container.now += 0.9
    assert container.begin(1, last=5 * MB) == 0
    container.now += 0.11
    assert container.begin(2, last=5 * MB) == 1


def test_many_silent_streams_all_begin_within_a_few_seconds() -> None:
    container, waiting = Container(), 1000
    while waiting:
        waiting -= container.begin(waiting)
        container.now += 0.05
    assert container.now - 1000 < 3


def test_many_small_streams_all_begin_within_a_second() -> None:
    container, waiting = Container(), 1000
    while waiting:
        for _ in range(waiting):
            if (turn := container.turns.maybe_begin(0)) is not None:
                waiting -= 1
                container.turns.end(turn, 100)
        container.now += 0.05
    assert container.now - 1000 < 1


def test_a_large_first_block_makes_the_next_ones_wait() -> None:
    container = Container()
    turn = container.turns.maybe_begin(0)
    assert turn is not None
    container.turns.end(turn, 30 * MB)
    container.now += 0.11
    assert container.begin(100) == 1


def test_where_no_block_fits_one_is_made_after_half_a_minute() -> None:
    container = Container(used=240 * MB)
    assert container.turns.maybe_begin(5 * MB) is None
    assert container.turns.maybe_begin(5 * MB, waited=29.9) is None
    assert container.turns.maybe_begin(5 * MB, waited=30.0) is not None
    container.now += 29.9
    assert container.turns.maybe_begin(5 * MB, waited=59.9) is None  # one
    container.now += 0.2
    assert container.turns.maybe_begin(5 * MB, waited=60.1) is not None


def test_whoever_has_to_wait_has_the_allocator_give_memory_back() -> None:
    container = Container(used=240 * MB)
    assert container.begin(3, last=5 * MB) == 0
    assert container.trims == 3


def test_a_forked_process_begins_at_nothing() -> None:
    container = Container(used=200 * MB)
    assert container.begin(2, last=5 * MB) == 1
    container.turns._pid = -1
    container.turns._lock.acquire()  # as another thread of the parent may have had it
    assert container.begin(2, last=5 * MB) == 1


def test_a_turn_may_end_inside_a_garbage_collection_while_another_begins() -> None:
    container = Container(used=200 * MB)
    turn = container.turns.maybe_begin(5 * MB)
    assert turn is not None
    with container.turns._lock:
        container.turns.end(turn, 0)
    container.now += 0.11
    assert container.begin(1, last=5 * MB) == 1
