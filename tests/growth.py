"""How the time that work takes grows with its size, on a machine that has other things to do."""

from __future__ import annotations

import time
from collections.abc import Callable

_ROUNDS = 3
_PATIENCE = 20.0  # seconds


def is_linear(work_of: Callable[[int], Callable[[], object]], size: int, *, below: float = 10, slack: float = 0.01) -> bool:
    """Tell whether four times the *size* takes less than *below* times as long, and *slack* seconds.

    *work_of*: given a size, prepares the work and returns it. Both sizes are measured in turns, and the best of each counts.
    Neighbours on the machine may have slowed one of them in all of the first rounds, so there are more of them if need be: work
    that grows with the square of its size takes sixteen times as long in each.
    """
    small, large = work_of(size), work_of(4 * size)
    best_small = best_large = float("inf")
    rounds, until = 0, time.monotonic() + _PATIENCE
    while rounds < _ROUNDS or time.monotonic() < until:
        rounds += 1
        best_small = min(best_small, _seconds(small))
        best_large = min(best_large, _seconds(large))
        if rounds >= _ROUNDS and best_large < below * best_small + slack:
            return True
    return False


def _seconds(work: Callable[[], object]) -> float:
    began = time.thread_time()
    work()
    return time.thread_time() - began
