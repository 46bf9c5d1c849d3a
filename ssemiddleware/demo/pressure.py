"""Memory pressure at the press of a button: bytes that do nothing but be resident, for a while."""

from __future__ import annotations

import mmap
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import psutil

from ssemiddleware.memory import MemoryGauge, MemoryGovernor, give_back_memory

LASTS = 15.0  # seconds: fifteen ticks of a ticker, so that it is seen to go on
_PIECE = bytes(1 << 20)  # written at a time, so that other threads run in between
_SPARE = 64_000_000  # bytes that stay free of what the kernel allows: pressure is to be seen, not to kill the process


class PressureRefused(Exception):
    """The process cannot be put under pressure now; the text says why."""


class Pressure:
    """Fills the process up to halfway between the *governor*'s high and critical mark: there streams wait, and all may begin.

    One at a time. It lasts for *lasts* seconds, and ends when somebody asks for the `seconds_left` behind that, or when the
    last who `watched` it has gone. Any thread may call anything.
    """

    def __init__(self, governor: MemoryGovernor, *, lasts: float = LASTS, clock: Callable[[], float] = time.monotonic) -> None:
        self._governor = governor
        self._lasts = lasts
        self._clock = clock
        self._lock = threading.Lock()  # guards all below
        self._held: mmap.mmap | None = None
        self._ends_at = 0.0
        self._watchers = 0

    def begin(self) -> None:
        """Hold as many bytes as are missing; raises `PressureRefused`."""
        with self._lock:
            self._end_if_due()
            if self._held is not None:
                raise PressureRefused("It is under pressure already.")
            pieces = self._missing() // len(_PIECE) + 1
            held = mmap.mmap(-1, pieces * len(_PIECE))  # not the allocator's, which might keep it afterwards
            for _ in range(pieces):
                held.write(_PIECE)  # a page is resident once it has been written to
            self._held, self._ends_at = held, self._clock() + self._lasts

    def end(self) -> None:
        """Give it all back at once; does nothing if nothing is held."""
        with self._lock:
            self._end()

    @property
    def seconds_left(self) -> float:
        """How long it will last; 0 when there is none."""
        with self._lock:
            self._end_if_due()
            return 0.0 if self._held is None else self._ends_at - self._clock()

    @contextmanager
    def watched(self) -> Iterator[None]:
        """Be one of those who look at it."""
        with self._lock:
            self._watchers += 1
        try:
            yield
        finally:
            with self._lock:
                self._watchers -= 1
                if not self._watchers:
                    self._end()

    def _missing(self) -> int:
        """Return the bytes that are missing to what is wanted: at most the limit."""
        give_back_memory()  # as the governor does above its high mark; what that frees would be missing in the end
        limit = self._governor.read().limit
        size = int(limit * (self._governor.high + self._governor.critical) / 2) - psutil.Process().memory_info().rss
        if size <= 0:
            raise PressureRefused("Its memory is as full as that already.")
        allowed = MemoryGauge().read()  # by the container, else by the machine
        if size > allowed.limit - allowed.used - _SPARE:
            raise PressureRefused("The container or the machine has not enough free memory for that.")
        return size

    def _end_if_due(self) -> None:
        if self._clock() >= self._ends_at:
            self._end()

    def _end(self) -> None:
        if self._held is not None:
            self._held.close()
            self._held = None
