"""Which streams may make a large block now: only as many at the same time as there is memory for.

To make a large event takes many times the memory of the finished event, and no gauge can know beforehand how much. To slow all
streams down does not help: those that start together, or whose clients read at the same speed, all pull at the same time. So a
stream takes a `Turn` before it makes a large block. A turn reserves memory until the block is made, and all processes that
share the memory see it. While little memory is used it lasts for a second, and for all blocks of a burst in that time; between
them another stream may have its memory. After a second a turn ends if nothing shows that a block is being made: the stream
probably waits for something to send. An application that waits longer before it makes its block is not covered.

A stream waits for a turn only while this process makes or sends another large block, since the memory of that block will be
freed. Memory that other programs or the page cache use makes no stream wait.

>>> from ssemiddleware.memory.cgroup import Reading
>>> reading = Reading(used=200_000_000, limit=256_000_000)
>>> turns = Turns(lambda: reading, lambda: reading, critical=0.92)
>>> turn = turns.maybe_begin(5_000_000)
>>> turns.maybe_begin(5_000_000) is None
True
"""

from __future__ import annotations

import math
import os
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from weakref import WeakSet

from .cgroup import Reading
from .reservations import HOLDS_FOR, Reservations

# The memory that a block takes while it is made, as a multiple of its size. Measured: 6.6, for orders that `json.dumps` writes
# from new dictionaries.
_COST = 8
_MOST_SPARE = 4  # a turn that lasts has reserved so many times what its blocks need, at most
_LIGHT = 65536  # bytes; a smaller block needs no turn
_UNKNOWN = 4 * 1024**2  # bytes that are expected of a process's first block; a 64th of the limit if that is less
_PATHS = 256  # the number of paths whose first blocks' sizes are remembered
# In a second, one of these shows that a block is being made: memory has grown by this fraction of what the block needs, or its
# thread has used so many seconds of a core. A thread that asks an empty queue each 10 ms uses 2 to 4 ms.
_GROWS, _COMPUTES = 16, 0.01
# Below this share of the limit memory is not read anew before each turn: that takes up to 110 us, and sending 128 KiB takes 50.
# Nor is a turn taken for each block of a burst: that takes 50 us more.
_PLENTY = 0.25
# Seconds that a stream waits while there is not enough memory for one block, and then the next stream: without the wait the
# kernel would kill all streams. A client that reads 200 KB a second reads 5 MB in that time, whose memory is then free.
# It holds for first blocks of paths with large ones too: when those waited for a second at most, the kernel killed each of four
# runs with 100 clients of 5 MB in 256 MiB. None was killed where they waited for up to 35 s.
_LONGEST_WAIT = 30.0
_OF_A_THREAD = 6  # CPUCLOCK_PERTHREAD_MASK | CPUCLOCK_SCHED of Linux' posix-timers.h, for clock_gettime(2)
_ASK_EVERY = (0.002, 0.05)  # seconds; how soon a free turn is noticed, at the beginning and later


@dataclass(eq=False)
class Turn:
    """Memory that is reserved while one block is made."""

    needs: int = 0  # bytes
    until: float = -math.inf
    first_of: str | None = None  # the path, if it is for a stream's first block
    used_before: int = 0  # bytes of used memory, when they were last compared
    thread: int = 0  # its system's number for the thread that makes the block
    computed_before: float = 0.0  # seconds of a core that the thread had used, when they were last compared
    is_made: bool = False  # the block is made
    has_room: bool = False  # there was enough memory for it when it began
    lasts: bool = False  # there was so much that it need not end with its block, but when its second is over
    reservations: Reservations | None = None  # where other processes see it
    place: int | None = None  # its place there


class Turns:
    """The turns of this process. For all threads. After a fork it starts again without turns.

    *read*: returns the used memory and its limit of a moment ago; *read_now*: of now. The used and the reserved memory together
    stay below the mark *critical*, unless there is only one turn. *shared*: returns a name for the memory, the same in all
    processes that share it, or None if it is not shared. *folders*: see `Reservations`.
    """

    def __init__(
        self,
        read: Callable[[], Reading],
        read_now: Callable[[], Reading],
        *,
        critical: float,
        shared: Callable[[], str | None] = lambda: None,
        folders: tuple[Path, ...] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._read, self._read_now, self._critical, self._clock = read, read_now, critical, clock
        self._shared, self._folders = shared, folders
        self._beginning: dict[int, threading.Lock] = {}  # by process id: the parent's may have been held at the fork
        self._begin()

    def _begin_after_fork(self) -> None:
        with self._beginning.setdefault(os.getpid(), threading.Lock()):
            if self._pid != os.getpid():
                self._begin()

    def _begin(self) -> None:
        self._lock = threading.Lock()  # guards what follows while a turn is asked for
        self._taken: list[Turn] = []
        # The turns whose blocks are made but not sent. Weak, since a stream that another thread closes may not end its turn.
        self._being_sent: WeakSet[Turn] = WeakSet()
        self._reservations = Reservations(None)
        self._forced_at = -math.inf  # when a turn was last given without enough memory
        self._expected: int | None = None  # the expected size of a stream's first block in bytes, None before there was one
        self._expected_of: dict[str, int] = {}  # the same by path
        self._pid = os.getpid()  # last: other threads use all this once it is set

    def maybe_begin(self, last: int, waited: float = 0.0, *, path: str = "") -> Turn | None:
        """Return a turn for a stream whose last block had *last* bytes, 0 for a first block; None if it has to wait.

        *waited*: the seconds that it has waited so far. The caller has to end the turn, and that of the block before first.
        """
        if self._pid != os.getpid():
            self._begin_after_fork()
        with self._lock:
            reading = self._read()  # here: a thread may have waited long for the lock
            expected = last or self._expected_for(path)
            size = min(_UNKNOWN, reading.limit // 64) if expected is None else expected
            if size < _LIGHT:
                return Turn()
            turn = Turn(min(_COST * size, reading.limit), self._clock() + HOLDS_FOR, None if last else path, reading.used)
            return turn if self._take(turn, reading, waited) else None

    def expects_large(self, path: str = "") -> bool:
        """Return whether a stream's first block is expected to be large, as one was lately. Takes no lock."""
        expected = self._expected_for(path)
        return expected is None or expected >= _LIGHT

    def expect(self, path: str, size: int) -> None:
        """Expect first blocks of *size* bytes, or of a quarter of what was expected if that is more. Takes no lock."""
        expected = self._expected or 0
        self._expected = max(size, expected // 4)
        of_path = max(size, self._expected_of.get(path, expected) // 4)
        if path not in self._expected_of and len(self._expected_of) >= _PATHS:
            known = self._expected_of.copy().items()  # since other threads add to it
            large = {each: of_each for each, of_each in known if of_each >= _LIGHT}
            self._expected_of = large if len(large) < _PATHS // 2 else {}
        self._expected_of[path] = of_path

    def _expected_for(self, path: str) -> int | None:
        return self._expected_of.get(path, self._expected)

    def goes_on(self, turn: Turn, size: int) -> bool:
        """Return whether *turn* is for the next block as well, after one of *size* bytes. Takes no lock."""
        return turn.lasts and turn.needs / _MOST_SPARE <= _COST * size <= turn.needs and self._clock() < turn.until

    def send(self, turn: Turn, size: int) -> Turn:
        """Note that the large block of *turn* is made, and has *size* bytes. The turn has to be ended after it is sent."""
        if not self.goes_on(turn, size):
            self.end(turn)
        self._being_sent.add(turn)
        return turn

    def make_another(self, turn: Turn) -> None:
        """Note that the block of a turn that lasts is sent, and that another is being made."""
        self._being_sent.discard(turn)
        turn.computed_before = time.thread_time()

    def end(self, turn: Turn) -> None:
        """Note that the block is made, and is not being sent. Safe to call twice.

        Takes no lock: a garbage collection inside `maybe_begin` may end another stream, and its turn.
        """
        turn.is_made = True
        self._end_reservation(turn)
        self._being_sent.discard(turn)

    def _end_reservation(self, turn: Turn) -> None:
        ends, turn.until = turn.until, -math.inf
        if turn.reservations is not None and turn.place is not None and self._clock() < ends:  # later it may be another's place
            turn.reservations.end(turn.place)

    def _forget_old(self, now: float) -> None:
        for turn in self._taken:
            if turn.until <= now and not turn.is_made and turn not in self._being_sent:
                if self._is_being_made(turn):
                    turn.place = self._reservations.begin(turn.needs, now + HOLDS_FOR)
                    turn.until, turn.lasts = now + HOLDS_FOR, False  # then others may have a turn
                elif turn.first_of is not None:  # the stream is silent
                    self.expect(turn.first_of, 0)
        self._taken = [turn for turn in self._taken if turn.until > now]

    def _is_being_made(self, turn: Turn) -> bool:
        """Return whether that shows since it was asked last."""
        used_before, computed_before = turn.used_before, turn.computed_before
        turn.used_before, turn.computed_before = self._read_now().used, _computed(turn.thread)
        return (
            turn.used_before - used_before > turn.needs // _GROWS
            # A greenlet shares its thread with this one, so it makes nothing now.
            or (turn.computed_before - computed_before > _COMPUTES and turn.thread != threading.get_native_id())
        )

    def _take(self, turn: Turn, reading: Reading, waited: float) -> bool:
        """Reserve memory for *turn* if there is enough; return whether there is."""
        name = self._shared()
        if name != self._reservations.name or self._reservations.is_gone:
            self._reservations = Reservations(name, folders=self._folders, clock=self._clock)
        with self._reservations.alone() as is_alone:
            if not is_alone:
                return False
            others = self._reservations.of_others(2 * reading.limit)
            self._forget_old(self._clock())
            if not (self._has_room(turn.needs, reading, others, waited) or self._must_move(waited, others)):
                return False
            needed = self._needed(self._read(), turn.needs, others)
            turn.has_room = needed <= self._critical
            turn.lasts = needed < _PLENTY and self._reservations.has_many_places
            turn.thread, turn.computed_before = threading.get_native_id(), time.thread_time()
            self._taken.append(turn)
            turn.reservations = self._reservations
            turn.place = self._reservations.begin(turn.needs, turn.until)
        return True

    def _has_room(self, needs: int, reading: Reading, others: int, waited: float) -> bool:
        """Return whether there is enough memory. Much may have happened since the *reading*, so that it may only deny."""
        if not self._has_room_by(reading, needs, others, waited):
            self._end_those_being_sent()
            if not self._has_room_by(reading, needs, others, waited):
                return False
        return reading.used + needs < _PLENTY * reading.limit or self._has_room_by(self._read_now(), needs, others, waited)

    def _end_those_being_sent(self) -> None:
        """End the turns that last although their blocks are made: another stream needs the memory."""
        for turn in self._taken:
            if turn in self._being_sent:
                self._end_reservation(turn)
        self._taken = [turn for turn in self._taken if turn not in self._being_sent]

    def _has_room_by(self, reading: Reading, needs: int, others: int, waited: float) -> bool:
        if self._needed(reading, needs, others) <= self._critical:
            return True
        if self._taken or (others and waited < HOLDS_FOR):
            return False
        # If no block is being sent, waiting would free no memory. A single turn may use a quarter of the memory between the
        # mark and the limit. With all of it, the kernel killed two of four runs with 100 clients. With half of it, one run
        # on a busy machine was killed.
        most = (1 + 3 * self._critical) / 4 * reading.limit
        return not self._being_sent or (not others and reading.used + needs <= most)

    def _needed(self, reading: Reading, needs: int, others: int) -> float:
        """Return which share of the limit is used and reserved with another *needs* bytes."""
        return (reading.used + sum(turn.needs for turn in self._taken) + others + needs) / max(1, reading.limit)

    def _must_move(self, waited: float, others: int) -> bool:
        """Return whether the stream has waited long enough, so that it goes on without enough memory: one at a time."""
        # Twice as long while there are other turns: smaller ones may always find memory before this one.
        now, longest = self._clock(), 2 * _LONGEST_WAIT if others or self._taken else _LONGEST_WAIT
        if waited < longest or now - self._forced_at < _LONGEST_WAIT:
            return False
        self._forced_at = now
        return True


def _computed(thread: int) -> float:
    """Return the seconds of a core that a thread has used, by its system's number; 0 if that cannot be known."""
    try:
        return time.clock_gettime(~thread << 3 | _OF_A_THREAD)
    # The thread has ended, or there are no such clocks. From CPython 3.13 a number too high for Linux is a TypeError.
    except (OSError, OverflowError, TypeError, AttributeError):
        return 0.0


def wait_for_turn(
    has_turn: Callable[[float], bool],
    *,
    is_over: Callable[[float], bool],
    sleep: Callable[[float], object],
    clock: Callable[[], float] = time.monotonic,
) -> float:
    """Wait until *has_turn*, which gets the seconds waited so far. Return the seconds waited.

    *is_over* gets the time, and returns whether to stop waiting. One sleep takes a twentieth of a second at most.
    """
    began = now = clock()
    while not is_over(now) and not has_turn(now - began):
        sleep(min(_ASK_EVERY[1], max(_ASK_EVERY[0], (now - began) / 4)))
        now = clock()
    return now - began
