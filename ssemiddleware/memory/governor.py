"""How long a stream waits before its next block, and when new streams are refused: by how full the memory is.

A `MemoryGovernor` turns the readings of a `MemoryGauge` into pauses before a stream pulls its next block: none below the high
watermark, longer the fuller, each bounded, none again once the gauge has fallen below the low watermark. One governor may
serve any number of streams, middlewares and threads.

>>> MemoryGovernor("512MiB").limit
'512MiB'
"""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable
from typing import Literal

from .cgroup import Reading
from .gauge import MemoryGauge
from .turns import Turns

State = Literal["normal", "high", "critical"]

_GIVE_BACK_EVERY = 1.0  # seconds while memory is short; in five, what was given back is used again


class MemoryGovernor:
    """Slows streams down when memory is low, and says when new ones should be refused.

    *limit*: see `MemoryGauge`. *low*, *high*, *critical*: marks, as shares of the limit. Pauses begin above *high* and end, for
    all streams at once, below *low*; between the marks nothing changes. Above *critical* new streams are refused, and if it
    lasts some are ended. *pause*: the longest wait before one block, in seconds, reached at the limit. Resident memory often
    does not fall although its cause is gone, so each wait is limited. Streams make
    large blocks at the same time only as far as the memory below *critical* suffices for that: see `turns`.

    *read*: how the used bytes and the limit are found, instead of a `MemoryGauge` on *limit*. May be called by any thread.
    """

    def __init__(
        self,
        limit: int | str | None = None,  # the cgroup's, else what this process has and could still get
        *,
        low: float = 0.70,  # of the limit
        high: float = 0.80,  # of the limit
        critical: float = 0.92,  # of the limit: in a container of 256 MB, 20 MB are left for what is in the making
        pause: float = 1.0,  # seconds; many times longer than it takes a server to send a block to a client that reads
        read: Callable[[], tuple[int, int]] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        gauge = self._gauge = MemoryGauge(limit, read=read, clock=clock)
        if not (all(map(_is_number, (low, high, critical))) and 0 < low < high < critical <= 1):
            shares = f"{low!r}, {high!r} and {critical!r}"
            raise ValueError(
                f"low, high and critical must be shares of the limit with 0 < low < high < critical <= 1, got {shares}"
            )
        if not (_is_number(pause) and 0 < pause < math.inf):
            raise ValueError(f"pause must be a positive number of seconds, got {pause!r}")
        self.limit, self.low, self.high, self.critical, self.pause = limit, low, high, critical, pause
        self._clock = clock
        self._seen: Reading | None = None  # the reading that what follows was worked out from
        self._pause_now = 0.0
        self._gave_back_at = -math.inf
        self.turns = Turns(
            self.read,
            low=low,
            critical=critical,
            short=self._maybe_give_back,
            shared=lambda: gauge.shared,
            clock=clock,
        )

    def __repr__(self) -> str:
        marks = f"low={self.low}, high={self.high}, critical={self.critical}"
        return f"MemoryGovernor({self.limit!r}, {marks}, pause={self.pause})"

    def next_pause(self) -> float:
        """Return how many seconds to wait before the next block is pulled: 0 below the high watermark.

        Cheap enough for every block.
        """
        self.read()
        return self._pause_now

    @property
    def is_critical(self) -> bool:
        """Whether memory is so short that no stream should begin."""
        return self.read().share >= self.critical

    @property
    def state(self) -> State:
        """Between which marks the memory is; ``"high"`` until it has fallen below the low one."""
        return "critical" if self.is_critical else "high" if self._pause_now else "normal"

    def read(self) -> Reading:
        """Return the bytes used and the bytes there may be, at most 100 ms old; see `MemoryGauge.read`."""
        reading = self._gauge.read()
        if reading is not self._seen:
            self._seen = reading
            self._pause_now = self._pause_for(reading.share)
            if self._pause_now:
                self._maybe_give_back()
        return reading

    def _maybe_give_back(self) -> None:
        now = self._clock()
        if now - self._gave_back_at >= _GIVE_BACK_EVERY:
            self._gave_back_at = now
            give_back_memory()

    def _pause_for(self, share: float) -> float:
        if share >= self.high or (self._pause_now and share >= self.low):
            fullness = (share - self.low) / (1 - self.low)
            return self.pause * min(1.0, max(0.1, fullness))
        return 0.0


def give_back_memory() -> bool:
    """Give the kernel back what the allocator keeps of freed memory, where it is glibc's; return whether it is.

    With 16 streams of events of 1 to 8 MB on gthread this gave 25 to 40 MB, in 6 ms of one core and without the GIL; a
    ``gc.collect()`` gave nothing and held the GIL for longer, so it is left out (see benchmarks/give_back.py).
    """
    try:
        if not (os.confstr("CS_GNU_LIBC_VERSION") or "").startswith("glibc"):
            return False
        import ctypes  # 2.6 ms, and no server of ours has it already

        ctypes.CDLL(None).malloc_trim(ctypes.c_size_t(0))
    except (AttributeError, ValueError, OSError, ImportError):  # no confstr, not this name (musl), no malloc_trim, no ctypes
        return False
    return True


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and not math.isnan(value)
