"""A clock for tests."""

from __future__ import annotations


class Clock:
    """A clock that a test moves."""

    now = 1000.0

    def __call__(self) -> float:
        return self.now
