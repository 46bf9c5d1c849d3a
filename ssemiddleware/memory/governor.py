"""How long a stream waits before its next block, by how full the memory is.

A `MemoryGovernor` computes from the readings of a `MemoryGauge` how long a stream pauses before it pulls its next block. Below
the mark *high* there is no pause. Above it the pause grows with the used memory and with the size of the last block, up to a
limit. Small events never wait. One governor may serve any number of streams, middlewares and threads.

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

_SMALL = 16384  # bytes: after a block of at most this size there is no pause, since small events do not fill the memory
_LARGE = 65536  # bytes: after a block of at least this size the pause is longest
_GIVE_BACK_EVERY = 1.0  # seconds while memory is low; after five seconds the memory that was given back is in use again


class MemoryGovernor:
    """Slows streams of large blocks down when memory is low.

    *limit*: see `MemoryGauge`. *high*, *critical*: marks, as shares of the limit. Above *high* a stream waits before it pulls
    its next block. At the limit it waits *pause* seconds if its last block had 64 KiB or more. It waits less if that block was
    smaller or less memory is used, and not at all after a block of 16 KiB or less. Above *critical* only one large block is
    made at a time: see `turns`. No stream is refused or ended because memory is low. Each wait is limited, because another
    program may be using the memory.

    *read*: a function that returns the used bytes and the limit, in place of a `MemoryGauge` on *limit*. Any thread may call
    it.
    """

    def __init__(
        self,
        limit: int | str | None = None,  # the cgroup's, else what this process uses and could still get
        *,
        high: float = 0.80,  # of the limit
        critical: float = 0.92,  # of the limit: in a container of 256 MB, 20 MB are left for the block being made
        pause: float = 1.0,  # seconds; many times longer than a server needs to send a block to a client that reads
        read: Callable[[], tuple[int, int]] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        gauge = self._gauge = MemoryGauge(limit, read=read, clock=clock)
        if not (_is_number(high) and _is_number(critical) and 0 < high < critical <= 1):
            raise ValueError(
                f"high and critical must be shares of the limit with 0 < high < critical <= 1, got {high!r} and {critical!r}"
            )
        if not (_is_number(pause) and 0 < pause < math.inf):
            raise ValueError(f"pause must be a positive number of seconds, got {pause!r}")
        self.limit, self.high, self.critical, self.pause = limit, high, critical, pause
        self._clock = clock
        self._gave_back_at = -math.inf
        self.turns = Turns(
            gauge.read,
            read_now=gauge.read_now,
            critical=critical,
            short=self._maybe_give_back,
            shared=lambda: gauge.shared,
            clock=clock,
        )

    def __repr__(self) -> str:
        return f"MemoryGovernor({self.limit!r}, high={self.high}, critical={self.critical}, pause={self.pause})"

    def next_pause(self, size: int) -> float:
        """Return the seconds to wait before a stream whose last block had *size* bytes pulls the next.

        Cheap enough for every block.
        """
        if size <= _SMALL:
            return 0.0
        fullness = (self.read().share - self.high) / (1 - self.high)
        if fullness <= 0:
            return 0.0
        self._maybe_give_back()
        return self.pause * min(1.0, fullness) * min(1.0, size / _LARGE)

    @property
    def state(self) -> State:
        """The highest mark that the used memory is above."""
        share = self.read().share
        return "critical" if share >= self.critical else "high" if share >= self.high else "normal"

    def read(self) -> Reading:
        """Return the bytes used and the limit, at most 100 ms old; see `MemoryGauge.read`."""
        return self._gauge.read()

    def _maybe_give_back(self) -> None:
        now = self._clock()
        if now - self._gave_back_at >= _GIVE_BACK_EVERY:
            self._gave_back_at = now
            give_back_memory()


def give_back_memory() -> bool:
    """Return freed memory that glibc's allocator keeps to the kernel. Return False where the allocator is another one.

    With 16 streams of events of 1 to 8 MB on gthread this returned 25 to 40 MB, in 6 ms of one core and without the GIL. A
    ``gc.collect()`` returned nothing and held the GIL for longer, so there is none (see benchmarks/give_back.py).
    """
    try:
        if not (os.confstr("CS_GNU_LIBC_VERSION") or "").startswith("glibc"):
            return False
        import ctypes  # takes 2.6 ms, and none of the servers has imported it already

        ctypes.CDLL(None).malloc_trim(ctypes.c_size_t(0))
    except (AttributeError, ValueError, OSError, ImportError):  # no confstr, not this name (musl), no malloc_trim, no ctypes
        return False
    return True


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and not math.isnan(value)
