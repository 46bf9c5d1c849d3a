"""`ssemiddleware.memory.pulls`: when a stream pulls its next block at once, and when it waits for memory first."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import pytest

from ssemiddleware import MemoryGovernor
from ssemiddleware.ending import Round
from ssemiddleware.memory import Turn
from ssemiddleware.memory.pulls import Pulls
from ssemiddleware.memory.reservations import Reservations

from ..clock import Clock

KB, MB = 1000, 1_000_000


class Memory:
    """A container of 256 MB that is as full as a test says. Waiting streams move its clock, and `log` has their waits."""

    def __init__(self, share: float = 0.1) -> None:
        self.share, self.clock = share, Clock()
        self.reads = 0
        self.governor = MemoryGovernor(read=self.read, clock=self.clock)
        self.log: list[float] = []
        self.kept: dict[Pulls, bytes] = {}

    def read(self) -> tuple[int, int]:
        self.reads += 1
        return round(256 * MB * self.share), 256 * MB

    def sleep(self, seconds: float) -> None:
        self.clock.now += seconds

    def pulls(self) -> Pulls:
        return Pulls(self.governor, large=131072, kept=self.kept, paused=self.log.append, clock=self.clock, sleep=self.sleep)

    def sending(self, size: int) -> Pulls:
        """Return the pulls of a stream that has made its first block, of *size* bytes, and sends it."""
        pulls = self.pulls()
        assert pulls.wait(goes_on)
        pulls.note_block(bytes(size))
        return pulls

    def burst(self, sizes: Iterable[int], each: float = 0.001) -> list[int]:
        """Let one stream make blocks of those *sizes*, and return by number before which of them it took a turn."""
        pulls, taken, before = self.pulls(), list[int](), None
        for number, size in enumerate(sizes):
            assert pulls.wait(goes_on)
            if pulls._turn is not before and pulls._turn is not None:
                taken.append(number)
            before = pulls._turn
            self.clock.now += each
            pulls.note_block(bytes(size))
        return taken

    @property
    def turns_taken(self) -> int:
        return sum(turn.until > self.clock.now for turn in self.governor.turns._taken)


def goes_on(_now: float) -> bool:
    return False


def test_without_a_governor_no_stream_waits() -> None:
    pulls = Pulls(None, large=131072, sleep=lambda seconds: pytest.fail("waits"))
    for size in (1, 10 * MB):
        assert pulls.wait(goes_on)
        pulls.note_block(bytes(size))


def test_no_stream_waits_while_there_is_memory() -> None:
    memory = Memory()
    pulls = memory.pulls()
    for size in (100, 100 * KB, 10 * MB, 100):
        assert pulls.wait(goes_on)
        pulls.note_block(bytes(size))
    assert memory.log == []


@pytest.mark.parametrize("share", [0.79, 0.85, 0.91, 0.95, 0.99, 1.2])
def test_small_events_and_a_first_event_never_wait_for_memory(share: float) -> None:
    memory = Memory(share)
    for _ in range(30):
        pulls = memory.pulls()
        for _ in range(1100):
            assert pulls.wait(goes_on)
            pulls.note_block(bytes(60))
    assert memory.log == []


def test_memory_is_not_read_for_small_events() -> None:
    memory = Memory()
    pulls = memory.pulls()
    pulls.wait(goes_on)
    pulls.note_block(bytes(60))
    before = memory.reads
    for _ in range(500):
        memory.clock.now += 1
        pulls.wait(goes_on)
        pulls.note_block(bytes(60))
    assert memory.reads == before


@pytest.mark.parametrize("size", [60, 10 * KB, 64 * KB, 128 * KB, 10 * MB])
@pytest.mark.parametrize("share", [0.85, 0.99])
def test_a_stream_alone_never_waits_whatever_others_use(size: int, share: float) -> None:
    memory = Memory(share)
    pulls = memory.pulls()
    for _ in range(100):
        assert pulls.wait(goes_on)
        pulls.note_block(bytes(size))
    assert memory.log == []


def test_a_stream_that_must_end_does_not_pull() -> None:
    memory = Memory(0.85)
    slow, pulls = memory.pulls(), memory.pulls()
    slow.note_block(bytes(10 * MB))  # its client reads slowly
    pulls.note_block(bytes(10 * MB))
    assert not pulls.wait(lambda now: now > 1000.2)
    assert 0.15 < memory.log[0] < 0.4


def test_a_wait_ends_as_soon_as_a_turn_is_free() -> None:
    memory = Memory(0.85)
    slow = memory.pulls()

    def sleep(seconds: float) -> None:
        memory.clock.now += seconds
        if memory.clock.now > 1002:
            slow.close()  # its block has been sent

    slow.note_block(bytes(10 * MB))
    pulls = Pulls(memory.governor, large=131072, paused=memory.log.append, clock=memory.clock, sleep=sleep)
    pulls.note_block(bytes(10 * MB))
    assert pulls.wait(goes_on)
    assert memory.log == [pytest.approx(2.0, abs=0.06)]


def test_a_large_block_is_being_sent_until_the_next_is_pulled_or_the_stream_ends() -> None:
    memory = Memory(0.85)
    finishes: list[Callable[[Pulls], object]] = [
        lambda pulls: pulls.wait(goes_on),
        lambda pulls: pulls.note_block(b""),
        Pulls.close,
    ]
    for finish in finishes:
        slow = memory.pulls()
        slow.note_block(bytes(10 * MB))
        assert memory.governor.turns.maybe_begin(10 * MB) is None
        finish(slow)
        slow.note_block(b"")
        memory.clock.now += 2
        turn = memory.governor.turns.maybe_begin(10 * MB)
        assert turn is not None
        memory.governor.turns.end(turn)
        memory.clock.now += 2


def test_a_first_block_and_one_after_a_large_one_take_a_turn() -> None:
    memory = Memory()
    pulls = memory.pulls()
    taken = []
    for size in (60, 60, 10 * MB, 60, 60):
        pulls.wait(goes_on)
        taken.append(pulls._turn is not None)
        pulls.note_block(bytes(size))
    assert taken == [True, False, False, True, False]


def test_a_turn_ends_when_its_block_has_come_and_when_the_stream_ends() -> None:
    memory = Memory()
    for size in (5 * MB, 0):
        pulls = memory.pulls()
        pulls.wait(goes_on)
        assert memory.turns_taken == 1
        pulls.note_block(bytes(size))
        assert memory.turns_taken == 0


def test_a_stream_that_makes_one_large_block_after_another_does_not_wait() -> None:
    memory = Memory()
    pulls = memory.pulls()
    for _ in range(100):
        assert pulls.wait(goes_on)
        pulls.note_block(bytes(5 * MB))
        memory.clock.now += 0.001
    assert sum(memory.log) == 0


def test_wait_and_came_may_be_called_twice() -> None:
    pulls = Memory().pulls()
    pulls.wait(goes_on)
    pulls.note_block(bytes(100))
    pulls.note_block(b"")
    pulls.note_block(b"")
    assert pulls.wait(goes_on)


# -- a turn that lasts


def test_a_burst_takes_a_turn_once_a_second_while_little_memory_is_used() -> None:
    assert Memory(0.1).burst([200 * KB] * 250, each=0.01) == [0, 1, 102, 203]  # a first block's size is not known


@pytest.mark.parametrize(("size", "share"), [(200 * KB, 0.3), (200 * KB, 0.95), (5 * MB, 0.1)])
def test_each_block_takes_a_turn_where_much_memory_is_used_or_needed(size: int, share: float) -> None:
    assert Memory(share).burst([size] * 5) == [0, 1, 2, 3, 4]


def test_a_turn_lasts_only_for_blocks_of_about_that_size() -> None:
    sizes = [200 * KB, 200 * KB, 150 * KB, 300 * KB, 300 * KB, 4 * MB, 4 * MB, 2 * MB, 200 * KB, 200 * KB]
    assert Memory(0.1).burst(sizes) == [0, 1, 4, 6, 9]


def test_a_turn_does_not_last_beyond_a_small_block() -> None:
    assert Memory(0.1).burst([150 * KB, 150 * KB, 60, 60, 150 * KB, 150 * KB, 150 * KB]) == [0, 1, 5]


def test_the_end_of_a_turn_that_lasts_is_not_taken_for_a_silent_stream() -> None:
    memory = Memory(0.1)
    _stream = memory.sending(2 * MB)
    assert memory.turns_taken == 1
    memory.clock.now += 1.1
    turn = memory.governor.turns.maybe_begin(2 * MB)  # forgets those whose second is over
    assert turn is not None
    assert memory.governor.turns._expected_for("") == 2 * MB


def test_a_turn_that_is_prolonged_lasts_no_longer_than_its_block() -> None:
    memory = Memory(0.1)
    pulls = memory.sending(2 * MB)
    pulls.wait(goes_on)
    lasting = pulls._turn
    memory.clock.now += 1.1
    memory.share = 0.15  # it grows, so that a block is being made
    other = memory.governor.turns.maybe_begin(2 * MB)
    assert lasting is not None and other is not None
    assert lasting.until > memory.clock.now
    pulls.note_block(bytes(2 * MB))
    assert lasting.until < memory.clock.now


def test_the_turn_of_a_block_that_is_sent_is_not_prolonged() -> None:
    memory = Memory(0.1)
    _stream = memory.sending(2 * MB)
    memory.clock.now += 1.1
    memory.share = 0.15  # another stream's block
    turn = memory.governor.turns.maybe_begin(2 * MB)
    assert turn is not None
    assert memory.turns_taken == 1


def test_a_turn_that_lasts_keeps_no_other_stream_waiting() -> None:
    memory = Memory(0.1)
    _stream = memory.sending(2 * MB)
    assert memory.turns_taken == 1
    turn = memory.governor.turns.maybe_begin(25 * MB)
    assert turn is not None and turn.has_room
    assert memory.turns_taken == 1


def test_a_block_that_is_sent_for_longer_than_its_turn_lasts_is_still_being_sent() -> None:
    memory = Memory(0.1)
    slow = memory.sending(2 * MB)
    memory.clock.now += 1.5
    memory.share = 0.93
    assert memory.governor.turns.maybe_begin(3 * MB) is None
    slow.close()
    assert memory.governor.turns.maybe_begin(3 * MB) is not None


def test_no_turn_lasts_where_few_places_are_left_to_show_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Reservations, "has_many_places", False)
    assert Memory(0.1).burst([200 * KB] * 4) == [0, 1, 2, 3]


def test_a_stream_that_is_closed_while_it_takes_a_turn_has_none() -> None:
    memory = Memory(0.1)
    pulls = memory.pulls()
    begin = memory.governor.turns.maybe_begin

    def begin_and_close(last: int, waited: float = 0.0, *, path: str = "") -> Turn | None:
        turn = begin(last, waited, path=path)
        pulls.close()
        return turn

    memory.governor.turns.maybe_begin = begin_and_close  # type: ignore[method-assign]
    pulls.wait(goes_on)
    assert memory.turns_taken == 0


# -- what is kept

LARGE = bytes(10 * MB)


def test_a_large_block_is_kept_until_the_next_one_has_come() -> None:
    memory = Memory()
    pulls = memory.pulls()
    for block in (LARGE, bytes(5 * MB)):
        pulls.note_block(block)
        assert pulls.wait(goes_on)
        assert list(memory.kept.values()) == [block]
    pulls.note_block(bytes(60))
    assert memory.kept == {}


def test_a_small_block_is_not_kept() -> None:
    memory = Memory()
    memory.pulls().note_block(bytes(131072))
    assert memory.kept == {}


@pytest.mark.parametrize("share", [0.1, 0.6, 0.7, 0.95])
def test_a_large_block_is_kept_only_if_there_is_memory_to_make_the_next_one(share: float) -> None:
    memory = Memory(share)
    pulls = memory.pulls()
    pulls.note_block(LARGE)
    assert pulls.wait(goes_on)
    assert bool(memory.kept) is (share + 80 / 256 < 0.92)


def test_a_stream_that_waits_for_memory_keeps_no_block() -> None:
    memory = Memory(0.85)
    slow, pulls = memory.pulls(), memory.pulls()
    slow.note_block(LARGE)
    pulls.note_block(LARGE)
    kept = []

    def must_stop(now: float) -> bool:
        kept.append(pulls in memory.kept)
        return now > 1001

    pulls.wait(must_stop)
    assert slow in memory.kept
    assert not any(kept)


def test_a_stream_that_has_ended_keeps_no_block_even_one_that_comes_later() -> None:
    memory = Memory()
    pulls = memory.pulls()
    pulls.note_block(LARGE)
    pulls.close()
    assert memory.kept == {}
    pulls.note_block(LARGE)  # another thread has closed the stream
    assert memory.kept == {}


def test_a_tick_forgets_what_is_kept() -> None:
    """An application that has made no other block since may wait for long."""
    of_process = Round(lambda: False, lambda: None)
    pulls = Pulls(None, large=131072, kept=of_process.kept)
    pulls.note_block(LARGE)
    assert of_process.kept == {pulls: LARGE}
    of_process.look(1.0)
    assert of_process.kept == {}
    assert pulls.wait(goes_on)
