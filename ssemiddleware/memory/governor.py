"""How many large blocks may be made at the same time, by how much memory is used.

A `MemoryGovernor` gives turns (see `turns`) to streams that make large blocks, by the readings of a `MemoryGauge`. Small events
never wait. One governor may serve any number of streams, middlewares and threads.

>>> MemoryGovernor("512MiB").limit
'512MiB'
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Literal

from .cgroup import Reading
from .gauge import MemoryGauge
from .turns import Turns

State = Literal["normal", "critical"]


class MemoryGovernor:
    """Lets streams make large blocks only as far as there is memory for them.

    *limit*: see `MemoryGauge`. *critical*: a mark, as a share of the limit. As many large blocks are made at the same time as
    fit below it, and above it one at a time: see `turns`. No stream is refused or ended because memory is low. Each wait is
    limited, because another program may be using the memory.

    *read*: a function that returns the used bytes and the limit, in place of a `MemoryGauge` on *limit*. Any thread may call
    it.
    """

    def __init__(
        self,
        limit: int | str | None = None,  # the cgroup's, else what this process uses and could still get
        *,
        critical: float = 0.92,  # of the limit: in a container of 256 MB, 20 MB are left for the block being made
        read: Callable[[], tuple[int, int]] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        gauge = self._gauge = MemoryGauge(limit, read=read, clock=clock)
        if type(critical) not in (int, float) or not 0 < critical <= 1:
            raise ValueError(f"critical must be a share of the limit with 0 < critical <= 1, got {critical!r}")
        self.limit, self.critical = limit, critical
        self.turns = Turns(gauge.read, gauge.read_now, critical=critical, shared=lambda: gauge.shared, clock=clock)

    def __repr__(self) -> str:
        return f"MemoryGovernor({self.limit!r}, critical={self.critical})"

    @property
    def state(self) -> State:
        """Whether the used memory is above the mark."""
        return "critical" if self.read().share >= self.critical else "normal"

    def read(self) -> Reading:
        """Return the bytes used and the limit, at most 100 ms old; see `MemoryGauge.read`."""
        return self._gauge.read()
