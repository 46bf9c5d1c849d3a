"""What may follow the last byte sent: case by case, and what must hold for all input."""

from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from ssemiddleware import read_events
from ssemiddleware.event_stream import BOM, OpaquePosition, Position
from ssemiddleware.event_stream import position as position_module

from .streams import cuttings, every_way, streams

POSITIONS = {
    # stream: (takes a comment, takes the end)
    b"": (True, True),
    b"data: a\n\n": (True, True),
    b"data: a\r\n\r\n": (True, True),
    b"data: a\r\r": (False, True),
    b"data: a\n\r": (False, True),
    b"data: a\n": (True, False),
    b"data: a\r": (False, False),
    b"data: a\r\n": (True, False),
    b"data: a": (False, False),
    b":": (False, False),
    b": comment": (False, False),
    b":\n": (True, True),
    b": comment\r\n": (True, True),
    b": c\ndata: a\n": (True, False),
    b"data: a\n\n: c\n": (True, True),
    b"data: a\n\nid: 5\n": (True, False),
    b"data: a\n\n\n": (True, True),
    b"\n": (True, True),
}


@pytest.mark.parametrize("stream", POSITIONS, ids=repr)
def test_a_position_knows_what_may_follow(stream: bytes) -> None:
    for blocks in every_way(stream):
        position = Position()
        for block in filter(None, blocks):
            position.advance(block)
        assert (position.takes_comment, position.takes_end) == POSITIONS[stream], blocks


@given(cuttings())
def test_a_position_does_not_depend_on_the_blocks(blocks: list[bytes]) -> None:
    pieces, whole = Position(), Position()
    for block in filter(None, blocks):
        pieces.advance(block)
    if stream := b"".join(blocks):
        whole.advance(stream)
    assert (pieces.takes_comment, pieces.takes_end) == (whole.takes_comment, whole.takes_end)


@example([b"data: a\ndata: b\n\n: c\n"], 20)
@example([b"data: a\ndata: b\n: c"], 14)
@given(cuttings(), st.integers(1, 20))
def test_a_position_does_not_depend_on_where_a_field_is_looked_for(blocks: list[bytes], tail: int) -> None:
    everywhere, at_the_end = Position(), Position()
    for block in filter(None, blocks):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(position_module, "_TAIL", tail)
            at_the_end.advance(block)
            patch.setattr(Position, "_pass_field", lambda *_: False)
            everywhere.advance(block)
    seen = [(each.in_event, each._last, each._in_comment) for each in (everywhere, at_the_end)]
    assert seen[0] == seen[1]


@given(streams, streams)
def test_a_comment_where_one_is_taken_changes_nothing(before: bytes, after: bytes) -> None:
    position = Position()
    if before:
        position.advance(before)
    if position.takes_comment and not (not before and after.startswith(BOM)):
        assert list(read_events([before, b":\n", after])) == list(read_events([before, after]))


@example(b"", BOM + b"data: y\n\n")
@given(streams, streams)
def test_an_end_where_one_is_taken_loses_no_event(before: bytes, after: bytes) -> None:
    position = Position()
    if before:
        position.advance(before)
    if position.takes_end:
        within = BOM if before else b""  # so that a BOM of what comes after is none, unless it is the stream's first character
        events, rest = list(read_events([before])), list(read_events([within, after.removeprefix(b"\n")]))
        assert [e.data for e in read_events([before, after])] == [e.data for e in events + rest]


@given(streams, streams)
def test_the_end_of_an_event_is_where_the_stream_may_end(before: bytes, block: bytes) -> None:
    position = Position()
    if before:
        position.advance(before)
    end = position.event_end(block)
    if end > 0:
        position.advance(block[:end])
        assert position.takes_end
    elif end < 0 and block and position.in_event:
        position.advance(block)
        assert not position.takes_end


def test_a_position_anywhere_waits_for_a_blank_line() -> None:
    position = Position(anywhere=True)
    position.advance(b"\n")
    assert not position.takes_end
    position.advance(b"\n")
    assert position.takes_end


def test_an_opaque_position_allows_nothing_to_be_added() -> None:
    position = OpaquePosition()
    position.advance(b"data: a\n\n")
    assert not position.takes_comment
    assert not position.takes_end
    assert position.event_end(b"\n\n") == -1
