"""Events in fragments, and joined again."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import pairwise

from ssemiddleware import Event, read_events
from ssemiddleware.oversized.fragment import Fragmenting


def fragment(blocks: Iterable[bytes], *, over: int = 20, size: int = 22) -> list[bytes]:
    fragmenting = Fragmenting(over=over, size=size)
    pieces = [piece for block in blocks for piece in fragmenting.feed(block)]
    assert all(pieces), "an empty piece"
    return pieces + list(fragmenting.finish())


def cut(stream: bytes, places: Iterable[int]) -> list[bytes]:
    return [stream[start:stop] for start, stop in pairwise([0, *sorted(places), len(stream)])]


def joined(blocks: Iterable[bytes]) -> list[Event]:
    return list(read_events(blocks, join_fragments=True))
