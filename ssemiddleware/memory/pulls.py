"""When a stream may pull its next block from the application: at once, or after a wait for memory."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from .turns import Turn, wait_for_memory

if TYPE_CHECKING:
    from .governor import MemoryGovernor

_LIGHT = 65536  # bytes pulled between two looks at memory: small events are not what it is lost to


class Pulls:
    """One stream's pulls. *paused* is called with the seconds of each wait. For the server's thread.

    *large*: bytes of a block behind which the next one is expected to be as large, and so takes a turn.
    """

    __slots__ = ("_clock", "_earlier_turn", "_governor", "_large", "_last", "_paused", "_pulled", "_sleep", "_turn")

    def __init__(
        self,
        governor: MemoryGovernor | None,
        *,
        large: int,
        paused: Callable[[float], object] = lambda seconds: None,  # noqa: ARG005
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], object] | None = None,
    ) -> None:
        self._governor = governor
        self._large = large
        self._paused = paused
        self._clock, self._sleep = clock, sleep or time.sleep  # looked up late: greenlets have another one
        self._last: int | None = None  # bytes of the block that came last, None before the first
        self._pulled = 0  # bytes since the last look
        self._turn: Turn | None = None  # held while a large block is made, or the first one
        self._earlier_turn: Turn | None = None

    def wait(self, must_stop: Callable[[float], bool]) -> bool:
        """Wait for memory if it is short; return False if *must_stop* held meanwhile, so that there is no need to pull."""
        governor, last = self._governor, self._last
        if governor is None or (last is not None and last <= self._large and self._pulled < _LIGHT):
            return True
        if last is None and not governor.turns.expects_large():
            return True  # nearly always: nothing is set aside for a stream that may well be one of small events
        self._pulled = 0
        if not governor.next_pause() and self._has_turn(0.0):
            return True
        waited = wait_for_memory(governor.next_pause, self._has_turn, is_over=must_stop, sleep=self._sleep, clock=self._clock)
        self._paused(waited)
        return not must_stop(self._clock())

    def go_on(self, size: int) -> bool:
        """Note that a small block of *size* bytes came, and return True, if the next may be pulled without a wait."""
        if self._governor is not None and self._governor.next_pause():
            return False
        self._last, self._pulled = size, 0
        return True

    def came(self, size: int, before: int = 0) -> None:
        """Say that a block of *size* bytes has come, 0 for the end, and *before* it that many bytes in small blocks."""
        if self._last is None and size >= _LIGHT and self._turn is None and self._governor is not None:
            self._governor.turns.expect(size)
        self._last = size
        self._pulled += before + size
        if self._turn is not None and self._governor is not None:
            self._governor.turns.end(self._turn, size)
            self._earlier_turn, self._turn = self._turn, None

    def _has_turn(self, waited: float) -> bool:
        """Take a turn if the next block may be large: the first, or behind a large one. Return False if none is to be had."""
        if self._governor is None or (self._last is not None and self._last <= self._large):
            return True
        self._turn = self._governor.turns.maybe_begin(self._last or 0, waited, self._earlier_turn)
        return self._turn is not None
