"""What holds for every step that a stream's bytes go through."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ssemiddleware.oversized import LongLineWatch, OversizedEvents
from ssemiddleware.oversized.fold import Folding
from ssemiddleware.oversized.fragment import Fragmenting


@given(st.lists(st.binary(max_size=30) | st.sampled_from([b"data: [1, 2, 3, 4, 5, 6, 7]\n\n", b"data: a\n\n"]), max_size=12))
def test_what_needs_no_change_is_the_same_object(blocks: list[bytes]) -> None:
    for step in (Folding(over=1000, width=1000), Fragmenting(over=1000, size=1000), LongLineWatch(lambda data: None)):
        chain = OversizedEvents([step])
        left = [piece for block in blocks for piece in chain.feed(block)]
        assert b"".join([*left, *chain.finish()]) == b"".join(blocks)


def test_an_empty_block_changes_nothing_between_cr_and_lf_either() -> None:
    stream = b"\xef\xbb\xbfdata: [1,\r\ndata: 2, 3, 4, 5, 6, 7]\r\n\r\ndata: text of some length\r\n\r\n"
    for make in (lambda: Folding(over=16, width=16), lambda: Fragmenting(over=16, size=16)):
        left = []
        for empty in ([], [b""]):
            step = make()
            blocks = [block for index in range(len(stream)) for block in (*empty, stream[index : index + 1])]
            left.append([piece for block in blocks for piece in step.feed(block)])
        assert left[0] == left[1]


@pytest.mark.parametrize("line_end", [b"\n", b"\r\n"], ids=["LF", "CRLF"])
def test_a_block_of_whole_small_events_is_not_searched(line_end: bytes) -> None:
    block = b"data: 1\n\ndata: [2, 3]\n\n".replace(b"\n", line_end)
    for step in (Folding(over=1000, width=1000), Fragmenting(over=1000, size=1000)):
        assert step.passes(block)
        for _ in step.feed(b"data: [1"):
            pass
        assert not step.passes(block), "it belongs to what came before"
