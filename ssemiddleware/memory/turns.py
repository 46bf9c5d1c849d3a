"""Which streams may make a large block now: only as many at the same time as there is memory for.

While a large event is made, it takes many times the bytes that it has in the end, and no gauge can tell before how many. A
pause before the pull is no help against that: streams that begin together, or that have read at the same speed, all pull at
the end of it. So whoever is about to make a large block takes a `Turn`, which sets memory aside until the block is there, in
view of all processes that share the memory, for a second at most: a stream that has made nothing by then probably waits for
something to tell. It cannot know when the application, once asked, waits and only then makes its block.

>>> from ssemiddleware.memory.cgroup import Reading
>>> turns = Turns(lambda: Reading(used=200_000_000, limit=256_000_000), low=0.7, critical=0.92)
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

from .cgroup import Reading
from .reservations import HOLDS_FOR, Reservations

# Times its own size that a block takes while it is made: 6.6 for orders that `json.dumps` writes from new dictionaries.
_COST = 8
_LIGHT = 65536  # bytes of a block that needs no turn
# Bytes that a stream's first block is taken for as long as there was none; a 64th of the limit if that is less.
_UNKNOWN = 4 * 1024**2
_SEEN_AFTER = 0.1  # seconds until what was made shows in the gauge
# Seconds for which memory is waited for that does not suffice for one block, and then for the next one: the kernel would kill
# all streams for the sake of one. A client that reads 200 KB a second takes 5 MB in that time, and gives their memory back.
_PATIENCE = 30.0
_LOOK_UP_EVERY = 0.1  # seconds; how fast the end of a pause is seen
_ASK_EVERY = 0.05  # seconds; the same for a turn


@dataclass(eq=False, slots=True)
class Turn:
    """Memory that is set aside for the making of one block."""

    needs: int  # bytes
    until: float
    is_first: bool  # of a stream of which nothing is known
    reservations: Reservations | None = None  # where other processes see it
    place: int | None = None  # there


class Turns:
    """The turns of this process. For all threads; after a fork it begins at nothing.

    *read*: the memory used and its limit. Together with what is set aside, it stays below the mark *critical* unless there is
    but one turn. Below *low* one is always to be had; *short* is called when none is. *shared*: a name of the memory, the same
    in all processes that share it, None for one that is not shared; *folders*: see `Reservations`.
    """

    def __init__(
        self,
        read: Callable[[], Reading],
        *,
        low: float,
        critical: float,
        short: Callable[[], object] = lambda: None,
        shared: Callable[[], str | None] = lambda: None,
        folders: tuple[Path, ...] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._read, self._low, self._critical, self._short, self._clock = read, low, critical, short, clock
        self._shared, self._folders = shared, folders
        self._beginning: dict[int, threading.Lock] = {}  # by process: a thread of the parent may have held its own at the fork
        self._begin()

    def _begin_after_fork(self) -> None:
        with self._beginning.setdefault(os.getpid(), threading.Lock()):
            if self._pid != os.getpid():
                self._begin()

    def _begin(self) -> None:
        self._lock = threading.Lock()  # held by who asks for a turn
        self._taken: list[Turn] = []
        self._reservations = Reservations(None)
        self._forced_at = -math.inf  # when a block was last made for which memory did not suffice
        self._expected: int | None = None  # bytes of a stream's first block: as large as lately, None before there was one
        self._pid = os.getpid()  # last: from here on threads use all this

    def maybe_begin(self, last: int, waited: float = 0.0, earlier: Turn | None = None) -> Turn | None:
        """Return a turn for a stream whose last block had *last* bytes, 0 without one; None if it has to wait.

        *waited*: the seconds for which it has. *earlier*: the stream's turn before, whose memory is used again. Whoever gets a
        turn ends it.
        """
        if self._pid != os.getpid():
            self._begin_after_fork()
        reading = self._read()
        with self._lock:
            now = self._clock()
            if earlier is not None:
                earlier.until = now
            self._forget_old(now)
            if self._expected is None:
                self._expected = min(_UNKNOWN, reading.limit // 64)
            expected = last or self._expected
            turn = Turn(_COST * expected if expected >= _LIGHT else 0, now + HOLDS_FOR, is_first=not last)
            if not turn.needs or self._take(turn, reading, waited):
                return turn
        self._short()
        return None

    def expects_large(self) -> bool:
        """Tell whether a stream's first block is expected to be large: as one of the last streams' was. Takes no lock."""
        return self._expected is None or self._expected >= _LIGHT

    def _take(self, turn: Turn, reading: Reading, waited: float) -> bool:
        """Set memory aside for *turn* if there is some; return whether there is."""
        name = self._shared()
        if name != self._reservations.name or self._reservations.is_gone:
            self._reservations = Reservations(name, folders=self._folders, clock=self._clock)
        with self._reservations.alone() as is_alone:
            if not is_alone and waited < HOLDS_FOR:  # whoever decides for longer has been stopped
                return False
            others = self._reservations.of_others()
            if not (self._has_room(turn.needs, reading, others) or self._must_move(waited, others)):
                return False
            self._taken.append(turn)
            turn.reservations = self._reservations
            turn.place = self._reservations.begin(turn.needs, turn.until)
        return True

    def end(self, turn: Turn, size: int) -> None:
        """Say that the block is there, of *size* bytes; 0 if there is none."""
        # No lock: a garbage collection inside `maybe_begin` may end another stream, and with it this one's turn.
        if turn.is_first:
            turn.is_first = False
            self.expect(size)
        now, ends = self._clock(), turn.until
        turn.until = min(ends, now + _SEEN_AFTER)
        if turn.reservations is not None and turn.place is not None and now < ends:  # then another may have the place
            turn.reservations.end(turn.place, turn.until)

    def _forget_old(self, now: float) -> None:
        for turn in self._taken:
            if turn.until <= now and turn.is_first:
                self.expect()
        self._taken = [turn for turn in self._taken if turn.until > now]

    def expect(self, size: int = 0) -> None:
        """Expect streams' first blocks to be as large as one of *size* bytes, or half as large as before."""
        self._expected = max(size, (self._expected or 0) // 2)

    def _has_room(self, needs: int, reading: Reading, others: int) -> bool:
        set_aside = others + sum(turn.needs for turn in self._taken)
        if reading.used + set_aside + needs <= self._critical * reading.limit:
            return True
        return not set_aside and (reading.used + needs <= reading.limit or reading.share < self._low)

    def _must_move(self, waited: float, others: int) -> bool:
        """Tell whether to give up hope that the clients take what waits, and memory falls with it: one stream at a time."""
        now, patience = self._clock(), 2 * _PATIENCE if others or self._taken else _PATIENCE  # smaller ones may always fit
        if waited < patience or now - self._forced_at < _PATIENCE:
            return False
        self._forced_at = now
        return True


def wait_for_memory(
    pause: Callable[[], float],
    has_turn: Callable[[float], bool],
    *,
    is_over: Callable[[float], bool],
    sleep: Callable[[float], object],
    clock: Callable[[], float] = time.monotonic,
) -> float:
    """Wait before a pull for as long as *pause* says, and then until *has_turn*; return the seconds that it took.

    *pause*: seconds, asked again and again, since 0 ends all pauses at once. *has_turn* is given the seconds waited, *is_over*
    the time: whether there is no more to wait for. Sleeps a tenth of a second at most.
    """
    began = now = clock()
    until = now + pause()
    while not is_over(now):
        if now >= until or not pause():
            if has_turn(now - began):
                break
            until = now + _ASK_EVERY
        sleep(min(_LOOK_UP_EVERY, max(0.0, until - now)))
        now = clock()
    return now - began
