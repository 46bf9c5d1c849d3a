"""The first line that is too long for some readers is found, however the stream is cut."""

from __future__ import annotations

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from ssemiddleware.oversized import LONG_LINE, LongLineWatch


@given(
    st.lists(st.sampled_from([b"data: ", b"x" * (LONG_LINE // 2), b"x" * 40_000, b"\n", b"\r", b"\r\n", b": "]), max_size=12),
    st.lists(st.integers(0, 300_000), max_size=4),
)
def test_only_lines_that_are_too_long_are_reported(parts: list[bytes], places: list[int]) -> None:
    stream = b"".join(parts)
    cuts = [0, *sorted(place % (len(stream) + 1) for place in places), len(stream)]
    logged: list[bytes] = []
    watch = LongLineWatch(logged.append)
    for start, stop in pairwise(sorted(set(cuts))):
        assert list(watch.feed(stream[start:stop])) == [stream[start:stop]]
    lines = stream.replace(b"\r", b"\n").split(b"\n")
    long_lines = [line for line in lines if len(line) > LONG_LINE and line.startswith(b"data:")]
    assert bool(logged) == bool(long_lines)
