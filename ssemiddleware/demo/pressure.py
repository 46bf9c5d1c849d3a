"""Memory pressure at the press of a button: bytes that stay resident for a while, and do nothing else."""

from __future__ import annotations

import mmap
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import psutil

from ssemiddleware.memory import MemoryGauge, MemoryGovernor

LASTS = 15.0  # seconds: fifteen ticks of a ticker, so that it is seen to go on
_PIECE = bytes(1 << 20)  # written at a time, so that other threads run in between
_SPARE = 64_000_000  # bytes below the kernel's limit that stay free, so that the pressure does not kill the process


class PressureRefused(Exception):
    """The process cannot be put under pressure now; the text says why."""


class Pressure:
    """Fills the process up to halfway between the *governor*'s mark and its limit: there one large event is made at a time.

    One at a time. It lasts for *lasts* seconds. It ends when `seconds_left` is asked after that time, or when the last user of
    `watched` has gone. Any thread may call anything.
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
        """Hold the bytes that are missing to the goal. Raises `PressureRefused`."""
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
        """Seconds that it will still last; 0 without pressure."""
        with self._lock:
            self._end_if_due()
            return 0.0 if self._held is None else self._ends_at - self._clock()

    @contextmanager
    def watched(self) -> Iterator[None]:
        """Count one more user of it until the end of the ``with`` block."""
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
        """Return the bytes that are missing to the goal: at most the limit."""
        limit = self._governor.read().limit
        size = int(limit * (self._governor.critical + 1) / 2) - psutil.Process().memory_info().rss
        if size <= 0:
            raise PressureRefused("Its memory is that full already.")
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
