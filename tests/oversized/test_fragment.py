"""A large event is sent in pieces, and read as one whole event or not at all."""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable, Iterable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ssemiddleware import Event, Fragment, FragmentJoiner, read_events
from ssemiddleware.event_stream import received_event
from ssemiddleware.oversized.fragment import Fragmenting, asks_for_fragments

from ..growth import is_linear
from .fragments import cut, fragment, joined

TEXT = b"data: abcdefghijklmnopqrstuvwxyz\n\n"  # 26 bytes
PIECES = (
    b"event: fragment\ndata: 0-14/26\ndata: abcdefghijklmno\n\n",
    b"event: fragment\ndata: 15-25/26\ndata: pqrstuvwxyz\n\n",
)


def test_an_event_with_more_data_than_over_is_sent_in_pieces() -> None:
    assert fragment([TEXT]) == list(PIECES)
    assert fragment([TEXT], over=25) == list(PIECES)
    assert fragment([TEXT], over=26) == [TEXT]


def test_no_line_of_a_fragment_is_longer_than_size_its_end_counted() -> None:
    for size in range(16, 60):
        assert max(len(line) + 1 for line in b"".join(fragment([TEXT * 3], size=size)).split(b"\n")) <= size


def test_each_piece_is_sent_as_soon_as_it_is_full_and_names_the_length_when_it_is_known() -> None:
    fragmenting = Fragmenting(over=20, size=22)
    assert list(fragmenting.feed(TEXT[:20])) == []
    assert list(fragmenting.feed(TEXT[20:30])) == [PIECES[0].replace(b"/26", b"/*")]
    assert list(fragmenting.feed(TEXT[30:-1])) == []
    assert list(fragmenting.feed(TEXT[-1:])) == [PIECES[1]]
    assert not fragmenting.is_holding


def test_the_id_changes_only_when_the_event_is_whole() -> None:
    first, last = fragment([b"id: 7\n" + TEXT])
    assert first == PIECES[0]
    assert last == PIECES[1][:-1] + b"id: 7\n\n"


def test_the_type_goes_into_each_header_once_it_is_known() -> None:
    assert fragment([b"event: a b\n" + TEXT]) == [piece.replace(b"/26", b"/26 a b") for piece in PIECES]
    assert fragment([TEXT[:-1] + b"event: late\n\n"]) == [PIECES[0], PIECES[1].replace(b"/26", b"/26 late")]
    assert fragment([b"event: message\n" + TEXT]) == list(PIECES)


def test_everything_else_is_sent_between_the_fragments_as_it_comes() -> None:
    stream = b"retry: 5\n: c\nfoo: bar\n" + TEXT[:-1] + b": d\nretry: 6\n\n"
    first, last = PIECES
    assert fragment([stream]) == [b"retry: 5\n: c\n", b"foo: bar\n", first, b": d\n", b"retry: 6\n", last]
    blocks = [stream[at : at + 1] for at in range(len(stream))]
    assert b"".join(fragment(blocks)) == b"".join(fragment([stream])).replace(b"-14/26", b"-14/*")  # not known by then


def test_no_line_begins_the_stream_with_a_byte_order_mark_that_did_not_before() -> None:
    stream = b"data\n\xef\xbb\xbfid: 7\n" + TEXT
    out = b"".join(fragment([stream]))
    assert out.startswith(b":\n\xef\xbb\xbfid: 7\n")
    assert [event.id for event in read_events([out], join_fragments=True)] == [None]


def test_comments_inside_an_event_are_sent_at_once() -> None:
    fragmenting = Fragmenting(over=20, size=22)
    assert b"".join(fragmenting.feed(TEXT[:-1])) == PIECES[0].replace(b"/26", b"/*")
    assert b"".join(fragmenting.feed(b": " + b"x" * 10**6)) == b": " + b"x" * 10**6, "unfinished, and no reason to hold it"
    assert b"".join(fragmenting.feed(b"\n:\n")) == b"\n:\n"


def test_what_waits_is_little_in_memory_too() -> None:
    tracemalloc.start()
    try:
        fragmenting = Fragmenting(over=262144, size=65536)
        for _ in fragmenting.feed(b"data: " + b"x" * 5_000_000):
            pass
        assert tracemalloc.get_traced_memory()[0] < 500_000, "no piece keeps its whole block"
        for _ in fragmenting.feed(b"\n" + b"data:\n" * 60_000):
            pass
        assert tracemalloc.get_traced_memory()[0] < 1_000_000
        fragmenting = Fragmenting(over=262144, size=65536)
        tracemalloc.reset_peak()
        comments = b":\n" * 1_000_000
        assert b"".join(fragmenting.feed(comments)) == comments
        assert tracemalloc.get_traced_memory()[1] < 20_000_000
    finally:
        tracemalloc.stop()


ENDLESS = {  # how it begins, and how often which bytes come
    "many id lines": (b"", 200_000, b"id: 7\n"),
    "an id line": (b"id:", 2_000_000, b"7"),
    "a type line": (b"event:", 2_000_000, b"7"),
}


@pytest.mark.parametrize("fields", ENDLESS)
@pytest.mark.parametrize("at_once", [100, 20_000])
def test_an_event_that_is_sent_in_pieces_holds_little_of_its_other_fields(fields: str, at_once: int) -> None:
    first, times, what = ENDLESS[fields]
    fragmenting = Fragmenting(over=262144, size=65536)
    for _ in fragmenting.feed(b"data: " + b"x" * 300_000 + b"\n" + first):
        pass
    tracemalloc.start()
    try:
        for _ in range(times // at_once):
            assert b"".join(fragmenting.feed(what * at_once)) == b""
        assert tracemalloc.get_traced_memory()[1] < 700_000
    finally:
        tracemalloc.stop()


def test_of_several_ids_the_last_that_counts_is_sent() -> None:
    stream = b"id: 1\nid: 2\nid: 3\0\n" + TEXT
    assert fragment([stream])[-1] == PIECES[-1][:-1] + b"id: 2\n\n"
    assert [event.id for event in read_events([stream])] == ["2"]


@pytest.mark.parametrize("size", [1000, 10**9], ids=["in blocks of 1 KB", "whole"])
def test_an_id_that_no_header_can_carry_is_left_out_and_a_type_as_long_is_cut(size: int) -> None:
    stream = b"data: " + b"x" * 30 + b"\nid: 1\nid: %b\nevent: %b\ndata: the end\n\n" % (b"2" * 70_000, b"3" * 70_000)
    blocks = [stream[at : at + size] for at in range(0, len(stream), size)]
    [event] = joined(fragment(blocks))
    assert (event.data, event.id) == ("x" * 30 + "\nthe end", "1")
    assert event.event == "3" * (65536 - len("event: "))


def test_a_lf_that_belongs_to_a_cr_before_it_stays_with_it() -> None:
    blocks = [b"data: " + b"x" * 30 + b"\r\n\r", b"\nid: 2\ndata: 1\n\n"]
    assert b"".join(fragment(blocks)).endswith(b"x\n\nid: 2\ndata: 1\n\n")


def test_what_is_between_two_events_is_sent_at_once() -> None:
    fragmenting = Fragmenting(over=20, size=22)
    for block in (b": comment\n", b"retry: 5\r\n", b"\n", b":\r", b"data: 1\n\n:\n"):
        assert list(fragmenting.feed(block)) == [block]


def test_an_event_of_several_lines_of_data_is_joined_by_lf() -> None:
    event = Event("first\n\nthird is longer than that\n ", event="note", id="1")
    assert joined(fragment([bytes(event)])) == [event]
    assert joined(fragment([bytes(event).replace(b"\n", b"\r\n")])) == [event]
    assert joined(fragment([bytes(event).replace(b"\n", b"\r")])) == [event]


def test_pieces_are_cut_at_characters() -> None:
    event = Event("aä€𝄞" * 20)
    for size in range(16, 40):
        fragments = list(read_events(fragment([bytes(event)], size=size)))
        assert len(fragments) > 1
        assert not any("\ufffd" in piece.data for piece in fragments)
        assert "".join(piece.data.partition("\n")[2] for piece in fragments) == event.data


def test_an_event_that_is_long_but_not_for_its_data_passes_as_it_is() -> None:
    blocks = [b"data: 1\n", *[b": a long comment\n"] * 10_000, b"data: 2\n\n", TEXT]
    assert b"".join(fragment(blocks)) == b"".join(blocks[:-1]) + b"".join(PIECES)


def test_an_event_that_is_unfinished_at_the_stream_s_end_is_incomplete_and_not_wrong() -> None:
    stream = b"id: 3\nevent: note\n" + TEXT
    for length in range(len(stream)):
        for blocks in ([stream[:length]], [stream[index : index + 1] for index in range(length)]):
            fragments = fragment(blocks)
            assert joined(fragments) == []
            events = list(read_events(fragments))
            assert [(event.event, event.id) for event in events] in ([], [("fragment", None)])


def test_a_bom_at_the_start_is_no_part_of_the_event() -> None:
    assert b"".join(fragment([b"\xef\xbb\xbf" + TEXT])) == b"\xef\xbb\xbf" + b"".join(PIECES)
    assert b"".join(fragment([b"\xef", b"\xbb", b"\xbf" + TEXT])) == b"\xef\xbb\xbf" + b"".join(PIECES)


# -- For all input

PARTS = [
    b"data: ",
    b"data:",
    b"data",
    b"id: 7",
    b"id",
    b"id: \0",
    b"event: x y",
    b"event: message",
    b"event:",
    b"retry: 5",
    b": c",
]
PARTS += [b"foo: bar", b"event: fragment", b"data: 0-3/4", b"a", b"\n", b"\n", b"\n\n", b"\r\n", b"\r", b"\x00", b"\xc3\xa9"]
PARTS += [b"\xf0\x9f\x98\x80", b"\xff", b"\xed\xa0\x80", b"\xef\xbb\xbf", b"\xc3", b" ", b"x" * 40]
streams = st.lists(st.sampled_from(PARTS), max_size=60).map(b"".join)
places = st.lists(st.integers(0, 400), max_size=8)
sizes = st.integers(16, 40)


def sent(events: Iterable[Event]) -> list[tuple[str, str | None, str | None]]:
    """Leave out what a reader cannot see: no type and ``message``. A ``fragment`` of the application's may be joined, too."""
    return [(event.data, None if event.event == "message" else event.event, event.id) for event in events]


@given(streams, st.integers(1, 60), sizes, places)
def test_fragmenting_and_joining_is_the_identity(stream: bytes, over: int, size: int, places: list[int]) -> None:
    fragments = fragment(cut(stream, [place % (len(stream) + 1) for place in places]), over=over, size=size)
    before = [joined([bytes_of(event)]) for event in read_events([stream])]
    assert sent(joined(fragments)) == sent(event for events in before for event in events)
    for event in read_events(fragments):
        assert event.event == "fragment" or "\ufffd" in event.data or len(event.data.encode()) <= over, "too large"


def bytes_of(event: Event) -> bytes:
    """Write what was read, as far as a joiner looks at it."""
    return bytes(event) if event.event == "fragment" else bytes(received_event(event.data, event.event, event.id, None))


events = st.builds(Event, st.text(alphabet=st.characters(exclude_categories=["Cs"], exclude_characters="\r"), max_size=100))


@given(st.lists(events, min_size=1, max_size=4), st.integers(0, 2000), places, sizes)
def test_a_stream_that_is_cut_anywhere_and_continued_gives_each_event_once(
    events: list[Event], broken_at: int, places: list[int], size: int
) -> None:
    events = [Event(event.data, id=str(number)) for number, event in enumerate(events)]
    stream = b"".join(fragment([b"".join(map(bytes, events))], over=20, size=size))
    joiner, received, last_event_id = FragmentJoiner(), [], None
    for event in read_events([stream[: broken_at % (len(stream) + 1)]]):  # the connection breaks in the middle of it
        last_event_id = event.id
        received.append(joiner.join(event))
    rest = events[0 if last_event_id is None else int(last_event_id) + 1 :]
    again = b"".join(fragment(cut(b"".join(map(bytes, rest)), [place % 50 for place in places if rest]), over=20, size=size))
    received += [joiner.join(event) for event in read_events([again])]
    assert [event for event in received if event] == events


# -- Options, growth

WRONG = [
    ({"over": 0}, "over must be a whole number of bytes from 1, got 0"),
    ({"size": 15}, "size must be a whole number of bytes from 16, got 15"),
    ({"size": "64K"}, "size must be a whole number of bytes from 16, got '64K'"),
    ({"when": True}, "when must be a callable that takes the environ, got True"),
]


@pytest.mark.parametrize(("options", "error"), WRONG)
def test_a_wrong_option_is_named(options: dict[str, int], error: str) -> None:
    with pytest.raises(ValueError, match=error):
        Fragment(**options)  # type: ignore[arg-type]


QUERIES = {"sse-fragments=1": True, "a=b&sse-fragments=1": True, "": False, "sse-fragments=0": False, "xsse-fragments=1": False}


@pytest.mark.parametrize("query", QUERIES)
def test_a_client_asks_for_fragments_in_the_query(query: str) -> None:
    assert asks_for_fragments({"QUERY_STRING": query}) is QUERIES[query]


SHAPES: dict[str, Callable[[int], bytes]] = {
    "one line": lambda n: b"x" * n,
    "short lines": lambda n: b"\ndata: ".join([b"x" * 10] * (n // 10)),
    "short lines that end with CR": lambda n: b"\rdata: ".join([b"x" * 10] * (n // 10)),
    "empty lines": lambda n: b"\ndata:" * (n // 10),
    "comments": lambda n: b"\n: c" * (n // 10),
    "events that end with CRLF": lambda n: b"\r\n\r\ndata:".join([b"x" * 5000] * (n // 5000)),
    "events that end with CR": lambda n: b"\r\rdata:".join([b"x" * 5000] * (n // 5000)),
    "events with a CR in each": lambda n: b"\n\ndata:a\rdata:".join([b"x" * 5000] * (n // 5000)),
}


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("size", [1, 1000, 10**9], ids=["byte by byte", "in blocks of 1 KB", "whole"])
def test_time_is_linear_in_the_length_of_the_event(shape: str, size: int) -> None:
    n = 20_000 if size == 1 else 400_000

    def work_of(n: int) -> Callable[[], object]:
        stream = b"data: " + SHAPES[shape](n) + b"\n\n"
        blocks = [stream[start : start + size] for start in range(0, len(stream), size)]
        return lambda: fragment(blocks, over=4096, size=1024)

    assert is_linear(work_of, n)
