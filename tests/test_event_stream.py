"""`ssemiddleware.event_stream`: WHATWG 9.2.5 and 9.2.6, example by example, and what must hold for all input."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from functools import partial

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ssemiddleware.event_reader import EventReader, read_events
from ssemiddleware.event_stream import (
    BOM,
    Event,
    OpaquePosition,
    Position,
    count_event_ends,
    first_event_end,
    first_line_end,
    next_cut,
)

from .growth import is_linear

# Pieces that streams are made of: line ends in all forms, comments, fields, characters of several bytes.
PIECES = [
    b"\n", b"\r", b"\r\n", b"\n\n", b"\r\r", b"\r\n\r\n", b":", b":\n", b": c\n", b"data: x", b"data", b"id: 7", b"event: e",
    b"retry: 9", b" ", "ä€😀".encode(), b"\xef\xbb\xbf", b"\xff\xfe", b"\0", b"data: y\n\n",
]  # fmt: skip
streams = st.lists(st.one_of(st.sampled_from(PIECES), st.binary(max_size=5)), max_size=30).map(b"".join)


@st.composite
def cuttings(draw: st.DrawFn, of: st.SearchStrategy[bytes] = streams) -> list[bytes]:
    """A stream in blocks of any sizes."""
    stream = draw(of)
    cuts = sorted(draw(st.lists(st.integers(0, len(stream)), max_size=12)))
    return [stream[start:end] for start, end in zip([0, *cuts], [*cuts, len(stream)], strict=True)]


def every_way(stream: bytes) -> Iterator[list[bytes]]:
    """Yield *stream* whole, byte by byte, and cut at each place in two, also with an empty block between."""
    yield [stream]
    yield [stream[index : index + 1] for index in range(len(stream))]
    for index in range(len(stream) + 1):
        yield [stream[:index], stream[index:]]
        yield [stream[:index], b"", stream[index:]]


def event(data: str, event: str | None = None, id: str | None = None, retry: int | None = None) -> tuple[object, ...]:
    return data, event, id, retry


READ = {
    "three lines are one event (9.2.6, stocks)": (b"data: YHOO\ndata: +2\ndata: 10\n\n", [event("YHOO\n+2\n10")]),
    "comment, id and its reset (9.2.6, blocks)": (
        b": test stream\n\ndata: first event\nid: 1\n\ndata:second event\nid\n\ndata:  third event\n\n",
        [event("first event", id="1"), event("second event"), event(" third event")],
    ),
    "data without a colon is empty data (9.2.6)": (b"data\n\ndata\ndata\n\ndata:", [event(""), event("\n")]),
    "one space is removed, not two (9.2.6)": (b"data:test\n\ndata: test\n\n", [event("test"), event("test")]),
    "CR alone ends lines": (b"data: a\rdata: b\r\r", [event("a\nb")]),
    "CRLF ends lines": (b"data: a\r\ndata: b\r\n\r\n", [event("a\nb")]),
    "line ends are mixed": (b"data: a\r\n\rdata: b\n\r\ndata: c\r\r\n", [event("a"), event("b"), event("c")]),
    "a BOM at the start is dropped": (BOM + b"data: a\n\n", [event("a")]),
    "only one BOM is dropped": (BOM + BOM + b"data: a\n\n", []),
    "a BOM further on is text": (b"data: a\n\n" + BOM + b"data: b\n\ndata: c\n\n", [event("a"), event("c")]),
    "a half event at the end is none": (b"data: a\n\ndata: b\n", [event("a")]),
    "a half line at the end is none": (b"data: a\n\ndata: b", [event("a")]),
    "type, and back to none": (b"event: add\ndata: 1\n\ndata: 2\n\n", [event("1", "add"), event("2")]),
    "a block without data resets the type": (b"event: add\n\ndata: 2\n\n", [event("2")]),
    "a block without data keeps its id": (b"id: 5\n\ndata: 2\n\n", [event("2", id="5")]),
    "an id with NUL is ignored": (b"id: 1\ndata: a\n\nid: 2\0\ndata: b\n\n", [event("a", id="1"), event("b", id="1")]),
    "a type may hold NUL": (b"event: a\0\ndata: b\n\n", [event("b", "a\0")]),
    "unknown fields are ignored": (b"foo: 1\n: c\ndata: a\nDATA: b\n data: c\n\n", [event("a")]),
    "retry is whole digits": (b"retry: 10\ndata: a\n\n", [event("a", retry=10)]),
    "retry is not what int() takes": (
        "retry: -5\nretry: 1_000\nretry: ٣\nretry: +1\nretry: 1.5\nretry:  7\nretry:\ndata: a\n\n".encode(),
        [event("a")],
    ),
    "characters of several bytes": ("data: ä€😀\n\n".encode(), [event("ä€😀")]),
    "what is no UTF-8 is replaced": (b"data: \xff\xc3\n\n", [event("\ufffd\ufffd")]),
    "other line separators are text": ("data: a\u2028b\u0085c\x0bd\x0ce\n\n".encode(), [event("a\u2028b\u0085c\x0bd\x0ce")]),
}


@pytest.mark.parametrize(("stream", "events"), READ.values(), ids=READ.keys())
def test_reading_is_what_the_standard_says_however_the_stream_is_cut(stream: bytes, events: list[tuple[object, ...]]) -> None:
    for blocks in every_way(stream):
        assert [(e.data, e.event, e.id, e.retry) for e in read_events(blocks)] == events, blocks


@given(cuttings())
def test_reading_does_not_depend_on_the_blocks(blocks: list[bytes]) -> None:
    assert list(read_events(blocks)) == list(read_events([b"".join(blocks)]))


def test_nothing_complete_is_held_back() -> None:
    reader = EventReader()
    assert [e.data for e in reader.feed(b"data: a\r\n\r")] == ["a"]
    assert [e.data for e in reader.feed(b"\ndata: b\n\n")] == ["b"]


def test_a_reader_remembers_what_a_reconnect_needs() -> None:
    reader = EventReader()
    list(reader.feed(b"retry: 250\nid: \xc3\xa4\n\n"))
    assert (reader.retry, reader.last_event_id) == (250, "ä")


texts = st.text(st.characters(exclude_categories=["Cs"]))
names = st.none() | st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\r\n\0"))


@given(texts, names, names, st.none() | st.integers(0, 10**9))
def test_what_is_written_is_read(data: str, event: str | None, id: str | None, retry: int | None) -> None:
    (read,) = read_events([bytes(Event(data, event, id, retry))])
    assert read == Event(re.sub("\r\n|\r", "\n", data), event or None, id or None, retry)


@given(st.recursive(st.none() | st.booleans() | st.integers() | st.text(), st.lists))
def test_json_is_one_line_that_any_reader_takes(value: object) -> None:
    written = bytes(Event(json=value))
    assert written.isascii()
    assert len(written.splitlines()) == 2
    (read,) = read_events([written])
    assert json.loads(read.data) == value


BAD_EVENTS: dict[str, tuple[Callable[[], Event], str]] = {
    "LF in event": (lambda: Event("x", event="a\nb"), r"event must be a str without CR, LF and NUL, or None, got 'a\\nb'"),
    "CR in id": (lambda: Event("x", id="a\rb"), r"id must be .* got 'a\\rb'"),
    "NUL in id": (lambda: Event("x", id="\0"), r"id must be .* got '\\x00'"),
    "NUL in event": (lambda: Event("x", event="\0"), "event must be"),
    "id of another type": (lambda: Event("x", id=5), "id must be a str"),  # type: ignore[arg-type]
    "negative retry": (lambda: Event("x", retry=-1), "retry must be a whole number of milliseconds from 0, or None, got -1"),
    "retry of another type": (lambda: Event("x", retry=1.5), "retry must be .* got 1.5"),  # type: ignore[arg-type]
    "retry is a bool": (lambda: Event("x", retry=True), "retry must be .* got True"),
    "lone surrogate in data": (lambda: Event("\ud800"), "surrogates not allowed"),
}


@pytest.mark.parametrize(("make", "says"), BAD_EVENTS.values(), ids=BAD_EVENTS.keys())
def test_a_field_that_would_inject_or_be_ignored_is_refused(make: Callable[[], Event], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        bytes(make())


def test_an_event_takes_either_data_or_json() -> None:
    for arguments in ({}, {"data": "x", "json": 1}):
        with pytest.raises(TypeError, match="either data or json"):
            Event(**arguments)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match=r"data must be a str, got b'x'; json= takes other values"):
        Event(b"x")  # type: ignore[arg-type]


def test_an_event_is_immutable() -> None:
    with pytest.raises(AttributeError):
        Event("x").data = "y"  # type: ignore[misc]


# -- cuts


CUTS = {
    "at the last event's end": (b"data: a\n\ndata: b\n\ndata: cccc\n", 27, b"data: a\n\ndata: b\n\n"),
    "an event's end by CRLF": (b"data: a\r\n\r\ndata: bbbbbbbb", 18, b"data: a\r\n\r\n"),
    "an event's end by CR": (b"data: a\r\rdata: bbbbbbbb", 18, b"data: a\r\r"),
    "an event's end by LF and CR": (b"data: a\n\rdata: bbbbbbbb", 18, b"data: a\n\r"),
    "an event's end by LF and CRLF": (b"data: a\n\r\ndata: bbbbbbb", 18, b"data: a\n\r\n"),
    "at a line's end if no event ends": (b"data: a\ndata: bbbbbbbbbbbbbb", 20, b"data: a\n"),
    "at a CR if no event ends": (b"data: a\rdata: bbbbbbbbbbbbbb", 20, b"data: a\r"),
    "never between CR and LF": (b"data: 789012345\r\nx", 16, b"data: 789012345"),
    "behind CRLF if it fits": (b"data: 78901234\r\nx", 16, b"data: 78901234\r\n"),
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


@pytest.mark.parametrize("block", [1 << 6, 1 << 16], ids=["small blocks", "large blocks"])
def test_reading_a_long_line_is_linear(block: int) -> None:
    def read(size: int) -> None:
        for _ in read_events(b"x" * block for _ in range(size // block)):
            pass

    assert is_linear(lambda size: partial(read, size), 1 << 20, below=8, slack=0)


# -- searching


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


# -- positions


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


@given(streams, streams)
def test_a_comment_where_one_is_taken_changes_nothing(before: bytes, after: bytes) -> None:
    position = Position()
    if before:
        position.advance(before)
    if position.takes_comment and not (not before and after.startswith(BOM)):
        assert list(read_events([before, b":\n", after])) == list(read_events([before, after]))


@given(streams, streams)
def test_an_end_where_one_is_taken_loses_no_event(before: bytes, after: bytes) -> None:
    position = Position()
    if before:
        position.advance(before)
    if position.takes_end:
        events, rest = list(read_events([before])), list(read_events([BOM, after.removeprefix(b"\n")]))
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


def test_an_opaque_position_takes_nothing() -> None:
    position = OpaquePosition()
    position.advance(b"data: a\n\n")
    assert not position.takes_comment
    assert not position.takes_end
    assert position.event_end(b"\n\n") == -1


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
