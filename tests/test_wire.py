"""`Wire`: the bytes of one stream on their way, without I/O, thread or clock."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ssemiddleware import Event
from ssemiddleware.event_stream import BOM, HEARTBEAT
from ssemiddleware.stats import Carried
from ssemiddleware.wire import QUICK, Wire, only_bytes

from .event_stream.streams import cuttings, every_way
from .growth import is_linear

EVENT = b"data: 1\n\n"


def sent(wire: Wire, *blocks: bytes) -> bytes:
    return b"".join(piece for block in blocks for piece in wire.feed(block))


@given(cuttings(), st.integers(16, 40))
def test_the_bytes_sent_are_those_that_came_in_pieces_of_the_largest_size(blocks: list[bytes], max_block: int) -> None:
    wire = Wire(max_block=max_block)
    pieces = [piece for block in blocks for piece in wire.feed(block)] + list(wire.finish())
    assert b"".join(pieces) == b"".join(blocks)
    assert all(0 < len(piece) <= max_block for piece in pieces)


@pytest.mark.parametrize("stream", [BOM + b"data: 1\n\n", BOM + BOM, BOM, BOM[:2], BOM[:1] + b"x", b"x" + BOM, b""], ids=repr)
def test_only_a_first_byte_order_mark_after_a_line_of_ours_is_dropped(stream: bytes) -> None:
    for blocks in every_way(stream):
        wire = Wire(max_block=16)
        wire.note_ours(HEARTBEAT)
        assert sent(wire, *blocks) + b"".join(wire.finish()) == stream.removeprefix(BOM)
        wire = Wire(max_block=16)
        assert sent(wire, *blocks) + b"".join(wire.finish()) == stream


def test_a_byte_order_mark_by_itself_hides_nothing_behind_it() -> None:
    wire = Wire(max_block=100)
    wire.note_ours(HEARTBEAT)
    assert sent(wire, BOM, b"data: " + b"x" * 1000 + b"\n\n") == b"data: " + b"x" * 1000 + b"\n\n"


@pytest.mark.parametrize("held", [BOM[:1], BOM[:2]], ids=repr)
def test_nothing_goes_between_the_bytes_of_a_byte_order_mark_that_is_held(held: bytes) -> None:
    wire = Wire(max_block=16)
    wire.note_ours(HEARTBEAT)
    assert sent(wire, held) == b""
    assert (wire.takes_comment, wire.takes_end) == (False, False)
    sent(wire, BOM[len(held) :])
    assert (wire.takes_comment, wire.takes_end) == (True, True)


@pytest.mark.parametrize(
    ("stream", "takes_comment", "takes_end"),
    [
        (b"", True, True),
        (b"data: 1", False, False),
        (b"data: 1\n", True, False),
        (b"data: 1\n\n", True, True),
        (b"data: 1\r", False, False),
        (b"data: 1\r\r", False, True),
        (b"data: 1\r\n\r", False, True),
        (b"data: 1\r\n\r\n", True, True),
        (b": comment", False, False),
        (b": comment\n", True, True),
        (BOM[:2], False, False),
    ],
    ids=repr,
)
def test_where_a_line_of_ours_and_the_end_may_be(stream: bytes, takes_comment: bool, takes_end: bool) -> None:
    for blocks in every_way(stream):
        wire = Wire(max_block=16)
        sent(wire, *blocks)
        assert (wire.takes_comment, wire.takes_end) == (takes_comment, takes_end)


def test_of_an_encoded_body_nothing_is_known() -> None:
    wire = Wire(max_block=16, is_opaque=True)
    assert sent(wire, b"", EVENT) == EVENT
    assert (wire.takes_comment, wire.takes_end, wire.is_quick) == (False, False, False)


def test_what_comes_after_the_end_of_the_event_is_dropped_once_that_is_said() -> None:
    for blocks in every_way(b"2\ndata: 3\n\ndata: 4\n\n"):
        wire = Wire(max_block=16)
        sent(wire, b"data: 1\n\ndata: ")
        wire.stops_at_event_end = True
        left = b""
        for block in blocks:
            left += sent(wire, block)
            if wire.takes_end:
                break
        assert left == b"2\ndata: 3\n\n"


def test_a_wire_is_quick_between_whole_events() -> None:
    wire = Wire(max_block=QUICK)
    quick = [wire.is_quick]
    for block in (EVENT, b"data: 1", b"\n\n"):
        sent(wire, block)
        quick.append(wire.is_quick)
    assert quick == [True, True, False, True]


def test_a_wire_that_cuts_smaller_blocks_is_never_quick() -> None:
    wire = Wire(max_block=QUICK - 1)
    sent(wire, EVENT)
    assert not wire.is_quick


def test_what_is_carried_is_counted() -> None:
    carried = Carried()
    wire = Wire(max_block=16, carried=carried)
    wire.note_ours(HEARTBEAT)
    sent(wire, b"", b"data: 1\n\ndata: 2\n\n")
    assert wire.end(b"retry: 5\n\n") == b"retry: 5\n\n"
    assert (carried.blocks_in, carried.bytes_in, carried.events_in) == (2, 18, 2)
    assert (carried.blocks_out, carried.bytes_out, carried.events_out) == (4, 2 + 18 + 10, 2)
    assert carried.heartbeats == 1


@pytest.mark.parametrize("block", ["text", None, 5, Event("x")], ids=lambda block: type(block).__name__)
def test_a_block_that_is_not_bytes_is_a_type_error_that_names_the_type(block: object) -> None:
    with pytest.raises(TypeError, match=rf"an event stream's blocks must be bytes, got {type(block).__name__}") as raised:
        only_bytes(block)
    assert ("yield bytes(event)" in str(raised.value)) is isinstance(block, Event)


def test_a_block_of_a_subclass_or_a_buffer_becomes_plain_bytes_and_plain_bytes_stay_the_same_object() -> None:
    class Subclass(bytes):
        pass

    for block in (Subclass(EVENT), bytearray(EVENT), memoryview(EVENT)):
        assert type(only_bytes(block)) is bytes
        assert only_bytes(block) == EVENT
    assert only_bytes(EVENT) is EVENT


@pytest.mark.parametrize("end", [b"\n", b"\r", b"\r\n", b"x", b"\n\n"], ids=repr)
def test_the_work_grows_with_the_bytes(end: bytes) -> None:
    def feed(count: int) -> object:
        wire, block = Wire(max_block=4096), (b"data: x" + end) * count
        return lambda: sum(map(len, wire.feed(block)))

    assert is_linear(feed, 50_000)  # type: ignore[arg-type]
