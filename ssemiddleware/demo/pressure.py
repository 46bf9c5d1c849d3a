"""Memory pressure at the press of a button: bytes that do nothing but be resident, for a while."""

from __future__ import annotations

import mmap
import threading
import time

import psutil

from ssemiddleware.memory import MemoryGauge, MemoryGovernor, give_back_memory

LASTS = 15.0  # seconds: ten ticks of a ticker that waits
_PIECE = bytes(1 << 20)  # written at a time, so that other threads run in between
_SPARE = 64_000_000  # bytes that stay free of what the kernel allows: pressure is to be seen, not to kill the process


class PressureRefused(Exception):
    """The process cannot be put under pressure now; the text says why."""


class Pressure:
    """Fills the process up to halfway between the *governor*'s high and critical mark: there streams wait, and all may begin.

    One at a time; it ends by itself after *lasts* seconds, on a timer's thread. Any thread may call anything.
    """

    def __init__(self, governor: MemoryGovernor, *, lasts: float = LASTS) -> None:
        self._governor = governor
        self._lasts = lasts
        self._lock = threading.Lock()  # guards all below
        self._held: mmap.mmap | None = None
        self._timer: threading.Timer | None = None
        self._ends_at = 0.0

    def begin(self) -> None:
        """Hold as many bytes as are missing; raises `PressureRefused`."""
        with self._lock:
            if self._held is not None:
                raise PressureRefused("It is under pressure already.")
            pieces = self._missing() // len(_PIECE) + 1
            held = mmap.mmap(-1, pieces * len(_PIECE))  # not the allocator's, which might keep it afterwards
            for _ in range(pieces):
                held.write(_PIECE)  # a page is resident once it has been written to
            self._timer = threading.Timer(self._lasts, self._end, [held])
            self._timer.name, self._timer.daemon = "ssemiddleware-demo-pressure", True
            self._timer.start()
            self._held, self._ends_at = held, time.monotonic() + self._lasts

    def end(self) -> None:
        """Give it all back at once; does nothing if nothing is held."""
        self._end(self._held)

    @property
    def seconds_left(self) -> float:
        """How long it will last; 0 when there is none."""
        return 0.0 if self._held is None else max(0.0, self._ends_at - time.monotonic())

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

    def _end(self, held: mmap.mmap | None) -> None:
        """End the pressure that is made of *held*: a timer may come late, when the next one has begun."""
        with self._lock:
            if held is None or held is not self._held:
                return
            held.close()
            self._held = None
            if self._timer is not None:
                self._timer.cancel()
