"""How many streams may be open for one key, such as a client's address or a session's user: the option ``max_streams_per``."""

from __future__ import annotations

from collections.abc import Hashable
from typing import Generic, TypeVar

_Place = TypeVar("_Place")

_SWEEP_FROM = 64  # keys


class PlacesPerKey(Generic[_Place]):
    """The places of open streams by their key, at most *limit* for each.

    For the thread that holds the lock of admission. Only a place that is given back is taken out of its set without the lock,
    because that may happen inside a garbage collection. So an empty set stays until there are many keys.
    """

    __slots__ = ("_by_key", "_limit", "_sweep_at")

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._by_key: dict[Hashable, set[_Place]] = {}
        self._sweep_at = _SWEEP_FROM

    def is_full(self, key: Hashable) -> bool:
        """Tell whether as many streams of *key* are open as are allowed."""
        return len(self._by_key.get(key, ())) >= self._limit

    def add(self, key: Hashable, place: _Place) -> set[_Place]:
        """Add *place*, and return the set from which to remove it at its end."""
        if len(self._by_key) >= self._sweep_at:
            self._by_key = {each: places for each, places in self._by_key.items() if places}
            self._sweep_at = max(_SWEEP_FROM, 2 * len(self._by_key))
        places = self._by_key.setdefault(key, set())
        places.add(place)
        return places
