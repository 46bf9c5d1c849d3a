"""How full the memory is, and when to pull the next block.

A `MemoryGauge` reads how many bytes are used of how many there may be. A `MemoryGovernor` turns that into pauses before a
stream pulls its next block: none below the high watermark, longer the fuller, each bounded, none again once the gauge has
fallen below the low watermark. One governor may serve any number of streams, middlewares and threads.

>>> MemoryGovernor("512MiB").limit
'512MiB'
"""

from __future__ import annotations

import logging
import math
import re
import threading
import time
from collections.abc import Callable

import psutil

_log = logging.getLogger("ssemiddleware")

_UNITS = {"": 1, "k": 1000, "m": 1000**2, "g": 1000**3, "t": 1000**4, "ki": 1024, "mi": 1024**2, "gi": 1024**3, "ti": 1024**4}
_AMOUNT = re.compile(r"(?P<number>[0-9]+(?:\.[0-9]+)?) ?(?:(?P<percent>%)|(?P<unit>[kmgt]i?)?b?)", re.IGNORECASE)
_READ_EVERY = 0.1  # seconds; a reading costs 20 microseconds, and all streams of a process share it


class MemoryGauge:
    """The resident memory of this process against an explicit limit.

    *limit*: bytes, ``"512MiB"``, ``"2GB"``, or ``"80%"`` of the machine. Nothing is read before the first `read`.
    """

    def __init__(self, limit: int | str) -> None:
        self._limit = limit
        self._bytes = _parse_limit(limit)

    def read(self) -> tuple[int, int]:
        """Return the bytes used and the bytes there may be."""
        return psutil.Process().memory_info().rss, self._bytes()


def _parse_limit(limit: int | str) -> Callable[[], int]:
    if type(limit) is int and limit > 0:
        return lambda: limit
    amount = _AMOUNT.fullmatch(limit.strip()) if isinstance(limit, str) else None
    number = float(amount["number"]) if amount else 0
    if amount is None or number <= 0 or (amount["percent"] and number > 100):
        allowed = 'a positive number of bytes, a size like "512MiB", or a share of the machine like "80%"'
        raise ValueError(f"limit must be {allowed}, got {limit!r}")
    if amount["percent"]:
        return lambda: int(psutil.virtual_memory().total * number / 100)
    size = int(number * _UNITS[(amount["unit"] or "").lower()])
    return lambda: size


class MemoryGovernor:
    """Makes streams wait before they pull their next block while memory is short. It never stops one for good.

    *limit*: see `MemoryGauge`. *low*, *high*: watermarks, as shares of the limit: pauses begin above *high* and end, for all
    streams at once, below *low*; between them what was the case goes on. *pause*: the longest wait before one block, in
    seconds, reached at the limit. Resident memory often does not fall although its cause is gone, hence the bound: with
    nothing else to do, every stream still moves.

    *read*: how the used bytes and the limit are found, instead of a `MemoryGauge` on *limit*. May be called by any thread.
    """

    def __init__(
        self,
        limit: int | str = "80%",  # of the machine: an honest guess where nobody named a limit
        *,
        low: float = 0.70,  # of the limit
        high: float = 0.80,  # of the limit
        pause: float = 1.0,  # seconds; many times longer than it takes a server to send a block to a client that reads
        read: Callable[[], tuple[int, int]] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        gauge = MemoryGauge(limit)
        if not (_is_number(low) and _is_number(high) and 0 < low < high < 1):
            raise ValueError(f"low and high must be shares of the limit with 0 < low < high < 1, got {low!r} and {high!r}")
        if not (_is_number(pause) and 0 < pause < math.inf):
            raise ValueError(f"pause must be a positive number of seconds, got {pause!r}")
        self.limit, self.low, self.high, self.pause = limit, low, high, pause
        self._read = gauge.read if read is None else read
        self._clock = clock
        self._reading = threading.Lock()  # held by the one thread that reads the gauge
        self._pause_now = 0.0
        self._read_at = -math.inf
        self._failed = False

    def __repr__(self) -> str:
        return f"MemoryGovernor({self.limit!r}, low={self.low}, high={self.high}, pause={self.pause})"

    def next_pause(self) -> float:
        """Return how many seconds to wait before the next block is pulled: 0 below the high watermark.

        Cheap enough for every block: the gauge is read at most every 100 ms, by one thread for all.
        """
        if self._clock() - self._read_at >= _READ_EVERY and self._reading.acquire(blocking=False):
            try:
                self._read_gauge()
            finally:
                self._read_at = self._clock()
                self._reading.release()
        return self._pause_now

    def _read_gauge(self) -> None:
        try:
            used, limit = self._read()
        except Exception:
            # Without a reading nobody waits: a broken gauge must not stop a stream.
            self._pause_now = 0.0
            if not self._failed:
                self._failed = True
                _log.exception("memory cannot be read; streams go on without backpressure from it")
            return
        self._pause_now = self._pause_for(used / limit)

    def _pause_for(self, share: float) -> float:
        if share >= self.high or (self._pause_now and share >= self.low):
            fullness = (share - self.low) / (1 - self.low)
            return self.pause * min(1.0, max(0.1, fullness))
        return 0.0


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and not math.isnan(value)
