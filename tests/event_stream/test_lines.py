"""Where lines and events end, and where a block is cut: case by case, and what must hold for all input."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ssemiddleware.event_stream import count_event_ends, first_event_end, first_line_end, next_cut

from ..growth import is_linear
from .streams import streams, texts

CUTS = {
    "at the last event's end": (b"data: a\n\ndata: b\n\ndata: cccc\n", 27, b"data: a\n\ndata: b\n\n"),
    "an event's end by CRLF": (b"data: a\r\n\r\ndata: bbbbbbbb", 18, b"data: a\r\n\r\n"),
    "an event's end by CR": (b"data: a\r\rdata: bbbbbbbb", 18, b"data: a\r\r"),
    "an event's end by LF and CR": (b"data: a\n\rdata: bbbbbbbb", 18, b"data: a\n\r"),
    "an event's end by LF and CRLF": (b"data: a\n\r\ndata: bbbbbbb", 18, b"data: a\n\r\n"),
    "at a line's end if no event ends": (b"data: a\ndata: bbbbbbbbbbbbbb", 20, b"data: a\n"),
    "at a CR if no event ends": (b"data: a\rdata: bbbbbbbbbbbbbb", 20, b"data: a\r"),
    "never between CR and LF": (b"data: 789012345\r\nx", 16, b"data: 789012345"),
    "after CRLF if it fits": (b"data: 78901234\r\nx", 16, b"data: 78901234\r\n"),
    "before a character of two bytes": ("data: 789012345ä...".encode(), 16, b"data: 789012345"),
    "before a character of four bytes": ("data: 7890123😀...".encode(), 16, b"data: 7890123"),
    "anywhere in what is no UTF-8": (b"\x80" * 40, 16, b"\x80" * 16),
    "not at all if it fits": (b"data: a\n\n", 16, b"data: a\n\n"),
}


@pytest.mark.parametrize(("block", "size", "first"), CUTS.values(), ids=CUTS.keys())
def test_a_block_is_cut(block: bytes, size: int, first: bytes) -> None:
    assert block[: next_cut(block, 0, size)] == first
    assert (b"?" * 5 + block)[5 : next_cut(b"?" * 5 + block, 5, size)] == first


@given(streams, st.integers(16, 64))
def test_pieces_are_bounded_and_lose_nothing(block: bytes, size: int) -> None:
    start, pieces = 0, []
    while start < len(block):
        end = next_cut(block, start, size)
        pieces.append(block[start:end])
        assert block[end - 1 : end + 1] != b"\r\n"
        start = end
    assert b"".join(pieces) == block
    assert all(0 < len(piece) <= size for piece in pieces)


@given(texts.map(lambda text: text.replace("\r", "").replace("\n", "").encode()), st.integers(16, 64))
def test_no_character_is_cut(line: bytes, size: int) -> None:
    start = 0
    while start < len(line):
        end = next_cut(line, start, size)
        line[start:end].decode()
        start = end


def cut_all(block: bytes) -> None:
    start = 0
    while start < len(block):
        start = next_cut(block, start, 4096)


SHAPES: dict[str, Callable[[int], bytes]] = {
    "one line": lambda size: b"x" * size,
    "short lines": lambda size: b"data: x\n" * (size // 8),
    "short events": lambda size: b"data: x\n\n" * (size // 9),
    "a short line before each long one": lambda size: (b"\n" + b"x" * 4096) * (size // 4097),
    "CR": lambda size: b"data: x\r" * (size // 8),
}


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES.keys())
def test_cutting_is_linear(shape: Callable[[int], bytes]) -> None:
    assert is_linear(lambda size: partial(cut_all, shape(size)), 1 << 21, below=8, slack=0)


@pytest.mark.parametrize("line_end", [b"\n", b"\r", b"\r\n"], ids=["LF", "CR", "CRLF"])
@pytest.mark.parametrize("length", [1, 2, *range(16_376, 16_392), 32_767, 32_768, 50_000])
def test_the_first_line_and_the_first_event_are_found_however_long_they_are(length: int, line_end: bytes) -> None:
    for before in (b"", b"a\n\n", b"a\r\r"):
        line = before + b"x" * length
        for behind in (b"", b"y", b"y\n\n", b"y\r\r"):
            assert first_line_end(line + line_end + behind, len(before)) == len(line)
            assert first_event_end(line + line_end * 2 + behind, len(before)) == len(line + line_end * 2)
        assert first_line_end(line, len(before)) == -1
        assert first_line_end(line + line_end, len(before), len(line)) == -1
        assert first_event_end(line + line_end + b"y" * length, len(before)) == 0


SMALL, LARGE = b"data: 1\n\n", b"data: " + b"x" * 10_000 + b"\n\n"


@pytest.mark.parametrize(
    ("block", "ends"),
    [
        (b"", 0),
        (b"data: 1\n", 0),
        (SMALL, 1),
        (SMALL * 7, 7),
        (b"data: 1\r\n\r\n", 1),
        (b"data: 1\r\rdata: 2\r\r", 2),
        (b":\n", 0),
        (SMALL * 10_000, 10_000),
        (b"event: a\ndata: 1\n\n" * 5000, 5000),
        (LARGE, 1),
        (LARGE[:-1], 0),
        (LARGE[:-2] + b"\r\n\r\n", 1),
        (b"x" * 10_000, 0),
    ],
    ids=lambda value: f"{value[:12]!r} of {len(value)}" if isinstance(value, bytes) else None,
)
def test_the_ends_of_events_are_counted(block: bytes, ends: int) -> None:
    assert count_event_ends(block) == ends
