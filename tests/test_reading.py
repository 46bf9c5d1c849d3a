"""`ssemiddleware.reading`: WHATWG 9.2.5 and 9.2.6, example by example, and what must hold for all input."""

from __future__ import annotations

from functools import partial

import pytest
from hypothesis import given

from ssemiddleware.event_stream import BOM
from ssemiddleware.reading import EventReader, read_events

from .event_stream.streams import cuttings, every_way
from .growth import is_linear


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


@pytest.mark.parametrize("block", [1 << 6, 1 << 16], ids=["small blocks", "large blocks"])
def test_reading_a_long_line_is_linear(block: int) -> None:
    def read(size: int) -> None:
        for _ in read_events(b"x" * block for _ in range(size // block)):
            pass

    assert is_linear(lambda size: partial(read, size), 1 << 20, below=8, slack=0)
