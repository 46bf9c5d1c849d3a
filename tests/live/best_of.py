"""Compare what streams take bare and wrapped, on a machine that has other things to do.

Whatever delays each stream on purpose delays the best of several too. Other work on the machine does not delay all of them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

MORE = 0.05  # seconds
TURNS = 20  # one or two are enough on a quiet machine


class Times(NamedTuple):
    """Seconds until the first event, and until the last."""

    first: float
    last: float


def best_of_each(take: Callable[[str], Times]) -> tuple[Times, Times]:
    """Let *take* measure ``bare`` and ``wrapped`` in turn, until wrapped's best are at most `MORE` later than bare's.

    Return the best of both ways. Raises `AssertionError` if wrapped is late in every turn.
    """
    bare, wrapped = [], []
    for _ in range(TURNS):
        bare.append(take("bare"))
        wrapped.append(take("wrapped"))
        best = best_of(bare), best_of(wrapped)
        if all(late <= early + MORE for early, late in zip(*best, strict=True)):
            return best
    raise AssertionError(f"more than {MORE} s later in each of {TURNS} turns: bare {best[0]}, wrapped {best[1]}")


def best_of(times: list[Times]) -> Times:
    """Return the least of each."""
    firsts, lasts = zip(*times, strict=True)
    return Times(min(firsts), min(lasts))
