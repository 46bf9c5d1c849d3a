"""Long lines of JSON become short ones, and a reader of JSON sees no difference."""

from __future__ import annotations

import json
import re
import tracemalloc
from collections.abc import Callable, Iterable
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ssemiddleware import Event, Fold, read_events
from ssemiddleware.oversized.fold import Folding

from ..growth import is_linear

LINE_END = re.compile(rb"\r\n|\n|\r")
ONE_TOKEN = re.compile(rb'data: ?(?:"(?:[^"\\]|\\.)*"|[-+.\w]+)')


def fold(blocks: Iterable[bytes], *, over: int = 24, width: int = 24, logged: list[str] | None = None) -> list[bytes]:
    folding = Folding(over=over, width=width, report=(logged if logged is not None else []).append)
    folded = [piece for block in blocks for piece in folding.feed(block)]
    assert all(folded), "an empty piece"
    return folded + list(folding.finish())


def cut(stream: bytes, places: Iterable[int]) -> list[bytes]:
    return [stream[start:stop] for start, stop in pairwise([0, *sorted(places), len(stream)])]


def lines(folded: Iterable[bytes]) -> list[bytes]:
    return LINE_END.split(b"".join(folded))


def in_every_way(stream: bytes) -> bytes:
    """Fold *stream* whole, byte by byte and cut in two at every place; it must be the same each time."""
    whole = b"".join(fold([stream]))
    assert b"".join(fold([stream[index : index + 1] for index in range(len(stream))])) == whole
    for place in range(len(stream)):
        assert b"".join(fold(cut(stream, [place]))) == whole
    return whole


# -- What is folded, and where

CASES = {
    "before a string": (b'data: ["twelve bytes", "and more"]', b'data: ["twelve bytes", \ndata: "and more"]'),
    "after a comma": (b"data: [1000000, 2000000, 3000000]", b"data: [1000000, 2000000,\ndata:  3000000]"),
    "not in a number": (b"data: [1.5e300,1.25e-3012]", b"data: [1.5e300,\ndata: 1.25e-3012]"),
    "not in a literal": (b"data: [true,false,null,true]", b"data: [true,false,null,\ndata: true]"),
    "not in a string with commas": (b'data: ["a, b, c", "d, e, f, g"]', b'data: ["a, b, c", \ndata: "d, e, f, g"]'),
    "not at an escaped quote": (rb'data: ["a\",\"bcdefg","c\\,"]', b'data: ["a\\",\\"bcdefg",\ndata: "c\\\\,"]'),
    "around a longer string": (
        b'data: [1,"a string that is longer than a line",2]',
        b'data: [1,\ndata: "a string that is longer than a line"\ndata: ,2]',
    ),
    "around a longer number": (
        b"data: [1,12345678901234567890123,2]",
        b"data: [1,\ndata: 12345678901234567890123\ndata: ,2]",
    ),
    "between brackets": (
        b"data: " + b"[" * 20 + b"]" * 20,
        b"data: " + b"[" * 18 + b"\ndata: [[" + b"]" * 16 + b"\ndata: ]]]]",
    ),
    "without a space after the colon": (b'data:{"a":1,"b":2,"c":3,"d":4}', b'data:{"a":1,"b":2,"c":3,\ndata: "d":4}'),
    "with whitespace before the JSON": (b"data:   [1, 2, 3, 4, 5, 6, 7]", b"data:   [1, 2, 3, 4, 5, \ndata: 6, 7]"),
    "whitespace that hides half of what is before it": (
        b"data: [true" + b" " * 29 + b",10]",
        b"data: [true" + b" " * 13 + b"\ndata: " + b" " * 16 + b",\ndata: 10]",
    ),
    "whitespace that hides half of what is after it": (
        b"data: [10000000000," + b" " * 35 + b"null]",
        b"data: [10000000000,     \ndata: " + b" " * 18 + b"\ndata: " + b" " * 12 + b"null]",
    ),
    "an indented line that is one string": (
        b'data: [\ndata:     "a string that is longer than a line"\ndata: ]',
        b'data: [\ndata:     \ndata: "a string that is longer than a line"\ndata: ]',
    ),
    "a later line of the data": (b"data: [1,\ndata: 2, 3, 4, 5, 6, 7, 8]", b"data: [1,\ndata: 2, 3, 4, 5, 6, 7, \ndata: 8]"),
    "after other fields": (
        b"id: 1\nevent: note\n: comment\ndata: [1, 2, 3, 4, 5, 6, 7]",
        b"id: 1\nevent: note\n: comment\ndata: [1, 2, 3, 4, 5, 6,\ndata:  7]",
    ),
    "not UTF-8 in a string": (
        b'data: ["\xff\xed\xa0\x80\x00\xc3", 1, 2, 34]',
        b'data: ["\xff\xed\xa0\x80\x00\xc3", 1, 2, \ndata: 34]',
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_a_long_line_of_json_breaks_between_tokens(case: str) -> None:
    line, folded = CASES[case]
    for line_end in (b"\n", b"\r\n", b"\r"):
        end = line_end * 2
        stream = line.replace(b"\n", line_end) + end
        # What was a line end stays as it was; what is new is a LF.
        assert in_every_way(stream).replace(line_end, b"\n") == folded + b"\n\n"


UNFOLDED = {
    "a short line": b'data: {"a": [1, 2, 3]}\n\n',
    "a string": b'data: "a JSON string is longer than a line, too"\n\n',
    "text": b"data: Once upon a time, there was a text, [and so on].\n\n",
    "a log line": b"data: [INFO] 12, 13, 14 and some more numbers\n\n",
    "a word in brackets": b"data: [nothing, at, all, is, json, here]\n\n",
    "base64": b"data: QUJDQUJDQUJDQUJDQUJDQUJDQUJD\n\n",
    "a comment": b": [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11]\n\n",
    "another field": b"dating: [1, 2, 3, 4, 5, 6, 7, 8, 9]\n\n",
    "a field called data and more": b"data2: [1, 2, 3, 4, 5, 6, 7, 8, 9]\n\n",
    "JSON after a line of text": b"data: text\ndata: [1, 2, 3, 4, 5, 6, 7, 8, 9]\n\n",
    "JSON after an empty line of data": b"data\ndata: [1, 2, 3, 4, 5, 6, 7, 8, 9]\n\n",
    "whitespace": b"data:                                     \n\n",
    "lines that are folded already": b'data: {"a": 1,\ndata: "b": 2,\ndata: "c": [3, 4, 5]}\n\n',
    "a line that is not finished": b"data: [1, 2, 3, 4",
    "no line at all": b"",
}


@pytest.mark.parametrize("case", UNFOLDED)
def test_anything_else_passes_as_it_is(case: str) -> None:
    stream = UNFOLDED[case]
    assert in_every_way(stream) == stream


NO_JSON = {
    "prose after a bracket": b"data: [1] Well, there are 5, 6 or 7 of them, or even 8\n\n",
    "two documents": b'data: {"a": 1} {"b": 2} {"c": 3} {"d": 4}\n\n',
    "an unquoted key": b"data: {} colour: red, size: 12, weight: 13\n\n",
    "a NaN": b"data: [NaN, NaN, NaN, NaN, NaN, NaN, NaN]\n\n",
    "a number with a leading zero": b"data: [0012, 0013, 0014, 0015, 0016]\n\n",
    "base64 after a bracket": b"data: [1UJDQUJDQUJDQUJDQUJDQUJDQUJDQUJDQUJDQUJD\n\n",
    "a string that is not closed": b'data: ["a string that its line leaves open, and so on\n\n',
}


@pytest.mark.parametrize("case", NO_JSON)
def test_data_that_looks_like_json_and_is_not_passes_and_is_logged(case: str) -> None:
    stream = NO_JSON[case]
    logged: list[str] = []
    folded = b"".join(fold([stream], logged=logged))
    assert in_every_way(stream) == folded
    (before,), (after,) = read_events([stream]), read_events([folded])
    assert after.data.replace("\n", "") == before.data
    if case == "a NaN":  # its data does not even begin as JSON
        assert folded == stream
        return
    assert [line.startswith("an event whose data begins as JSON and is not JSON (") for line in logged] == [True]
    if case != "a string that is not closed":  # there is a place to cut before it
        assert folded == stream


def test_the_rest_of_an_event_that_is_no_json_passes_and_the_next_event_is_folded() -> None:
    broken = b"data: [1, 2, 3, 4, 5, 6, 7, 8, 9 and some more, 10, 11\n\n"
    logged: list[str] = []
    folded = fold([broken + b"data: [1, 2, 3, 4, 5, 6, 7, 8, 9]\n\n"], logged=logged)
    assert b"".join(folded) == (
        b"data: [1, 2, 3, 4, 5, 6,\ndata:  7, 8, 9 and some more, 10, 11\n\ndata: [1, 2, 3, 4, 5, 6,\ndata:  7, 8, 9]\n\n"
    )
    assert len(logged) == 1


def test_a_stream_that_ends_inside_a_folded_event_is_incomplete_and_not_wrong() -> None:
    stream = b'data: {"a": 1, "b": [1, 2, 3, 4], "c": "d"}\n\n'
    for length in range(len(stream)):
        folded = fold([stream[:length]])
        assert list(read_events(folded)) == []
        assert b"".join(folded).replace(b"\ndata: ", b"") == stream[:length]


def test_a_bom_at_the_start_alone_is_no_part_of_the_line() -> None:
    line = b"data: [1, 2, 3, 4, 5, 6, 7, 8, 9]\n\n"
    folded = b"data: [1, 2, 3, 4, 5, 6,\ndata:  7, 8, 9]\n\n"
    assert in_every_way(b"\xef\xbb\xbf" + line) == b"\xef\xbb\xbf" + folded
    assert in_every_way(line + b"\xef\xbb\xbf" + line) == folded + b"\xef\xbb\xbf" + line


def test_after_a_bom_too_the_first_line_shows_whether_data_is_json() -> None:
    text = b"\xef\xbb\xbfdata: text\ndata: [1, 2, 3, 4, 5, 6, 7, 8, 9]\n\n"
    assert in_every_way(text) == text
    assert in_every_way(text.replace(b"text", b"[")) == (b"\xef\xbb\xbfdata: [\ndata: [1, 2, 3, 4, 5, 6,\ndata:  7, 8, 9]\n\n")


@pytest.mark.parametrize("spaces", [8, 14, 30, 300])
def test_what_is_json_does_not_depend_on_the_cuts_of_the_stream(spaces: int) -> None:
    in_every_way(b"data: {" + b" " * spaces + b'"a":1,"b":2,"c":3,"d":4}\n\n')


# -- For all input

values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.integers(min_value=10**20)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=30)
    | st.text(alphabet='"\\/\n,:[]{}', max_size=60),
    lambda children: st.lists(children, max_size=6) | st.dictionaries(st.text(max_size=10), children, max_size=6),
    max_leaves=40,
)
documents = st.lists(values) | st.dictionaries(st.text(), values)
separators = st.sampled_from(
    [None, (",", ":"), (" ,\t ", " : "), (",     ", "       :"), (" " * 30 + ",", ":" + "\t" * 29), ("," + " " * 90, ":")]
)
indents = st.sampled_from([None, None, None, 1, 4, 40])
places = st.lists(st.integers(0, 400), max_size=8)


@given(
    st.lists(documents, min_size=1, max_size=3),
    st.booleans(),
    separators,
    indents,
    st.sampled_from(["\n", "\r\n", "\r"]),
    st.sampled_from(["data: ", "data:", "id: 1\ndata: ", "\ufeffdata: ", ": c\nevent: x\ndata:  "]),
    st.integers(16, 60),
    st.integers(0, 30),
    places,
)
def test_folding_changes_nothing_that_a_reader_of_json_sees(
    documents: list[object],
    ascii: bool,
    separators: tuple[str, str] | None,
    indent: int | None,
    end: str,
    head: str,
    width: int,
    more: int,
    places: list[int],
) -> None:
    texts = [json.dumps(document, ensure_ascii=ascii, separators=separators, indent=indent) for document in documents]
    texts = [text.replace("\n", f"{end}data: ") for text in texts]
    text = head.replace("\n", end) + (end * 2 + head.lstrip("\ufeff").replace("\n", end)).join(texts) + end * 2
    stream = text.encode(errors="surrogatepass")
    logged: list[str] = []
    folded = fold(cut(stream, [place % (len(stream) + 1) for place in places]), over=width + more, width=width, logged=logged)
    before, after = list(read_events([stream])), list(read_events(folded))
    assert [json.loads(event.data) for event in after] == [json.loads(event.data) for event in before]
    assert [event.data.replace("\n", "") for event in after] == [event.data.replace("\n", "") for event in before]
    assert [(event.id, event.event) for event in after] == [(event.id, event.event) for event in before]
    assert not logged
    for line in lines(folded):
        assert len(line.removeprefix(b"\xef\xbb\xbf")) <= width + more or ONE_TOKEN.fullmatch(line), "longer than it must be"


@given(st.text(alphabet='[]{}",:1e tru\\e\n\r-.0', max_size=200), places)
def test_no_data_gets_another_value_by_folding(text: str, places: list[int]) -> None:
    stream = f"data: [{text}\n\n".encode()
    folded = fold(cut(stream, [place % (len(stream) + 1) for place in places]), over=16, width=16)
    before, after = list(read_events([stream])), list(read_events(folded))
    assert [value_of(event) for event in after] == [value_of(event) for event in before]
    assert [event.data.replace("\n", "") for event in after] == [event.data.replace("\n", "") for event in before]


def value_of(event: Event) -> object:
    try:
        return json.loads(event.data)
    except ValueError:
        return "no JSON"


@given(
    st.binary(max_size=200)
    | st.lists(st.sampled_from([b"data: [", b"data", b"1,", b'"', b"\\", b"\n", b"\r", b"]"])).map(b"".join),
    places,
)
def test_any_bytes_pass_unchanged_except_for_line_breaks(stream: bytes, places: list[int]) -> None:
    folded = b"".join(fold(cut(stream, [place % (len(stream) + 1) for place in places]), over=16, width=16))
    assert folded.replace(b"\ndata: ", b"") == stream.replace(b"\ndata: ", b"")


@given(st.lists(st.integers(0, 10**6), min_size=50), st.integers(1, 64))
def test_at_most_a_few_widths_are_held_back(numbers: list[int], size: int) -> None:
    stream = f"data: {json.dumps(numbers)}\n\n".encode()
    folding = Folding(over=64, width=64)
    come = gone = 0
    for start in range(0, len(stream), size):
        block = stream[start : start + size]
        come += len(block)
        gone += sum(map(len, folding.feed(block)))
        assert come - gone <= 2 * 64 + size
    assert not folding.is_holding, "a whole event is held back"


# -- Options, growth

WRONG = [
    ({"width": 15}, r"width must be a whole number of bytes from 16, got 15"),
    ({"width": 1000.0}, r"width must be a whole number of bytes from 16, got 1000.0"),
    ({"over": 1000}, r"over must be a whole number of bytes from width \(61440\), got 1000"),
    ({"over": None}, r"over must be a whole number of bytes from width \(61440\), got None"),
]


@pytest.mark.parametrize(("options", "error"), WRONG)
def test_a_wrong_option_is_named(options: dict[str, int], error: str) -> None:
    with pytest.raises(ValueError, match=error):
        Fold(**options)


SHAPES: dict[str, Callable[[int], str]] = {
    "records": lambda n: json.dumps([{"id": i, "name": "some\nname", "tags": ["a", "b"]} for i in range(n // 50)]),
    "one string": lambda n: json.dumps(['"\\' * (n // 4)]),
    "one number": lambda n: f"[{'1' * n}]",
    "brackets": lambda n: "[" * (n // 2) + "]" * (n // 2),
    "whitespace": lambda n: "[" + " " * n + "]",
    "no JSON": lambda n: "[1" + "x" * n,
}


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("size", [1, 1000, 10**9], ids=["byte by byte", "in blocks of 1 KB", "whole"])
def test_time_is_linear_in_the_length_of_the_event(shape: str, size: int) -> None:
    n = 20_000 if size == 1 else 1_000_000

    def work_of(n: int) -> Callable[[], object]:
        stream = f"data: {SHAPES[shape](n)}\n\n".encode()
        blocks = [stream[start : start + size] for start in range(0, len(stream), size)]
        return lambda: fold(blocks, over=1024, width=1024)

    assert is_linear(work_of, n)


@pytest.mark.parametrize("line_end", [b"\n", b"\r\n", b"\r"], ids=repr)
def test_time_is_linear_in_fields_whose_names_begin_like_data(line_end: bytes) -> None:
    def work_of(n: int) -> Callable[[], object]:
        stream = line_end.join((b"data: [1,", *[b"datax: 1"] * n))
        return lambda: fold([stream], over=10**6, width=1024)

    assert is_linear(work_of, 2000)


@pytest.mark.parametrize("token", [b'"' + b"x" * 5_000_000 + b'"', b"1" * 5_000_000], ids=["string", "number"])
@pytest.mark.parametrize("behind", [b"]\n\n", b"", b", 2]\n\n"], ids=["the end", "nothing yet", "more"])
def test_a_long_token_is_sent_in_pieces_and_is_not_copied_whole(token: bytes, behind: bytes) -> None:
    block = b"data: [1, " + token + behind
    folding = Folding(over=61440, width=61440)
    tracemalloc.start()
    try:
        sizes = [len(piece) for piece in folding.feed(block)]
        assert tracemalloc.get_traced_memory()[1] < 1_000_000
    finally:
        tracemalloc.stop()
    assert sum(sizes) >= len(token)


def test_the_pieces_of_a_long_string_are_cut_at_characters() -> None:
    block = 'data: ["{}"]\n\n'.format("aä€𝄞" * 100_000).encode()
    pieces = fold([block], over=61440, width=61440)
    assert len(pieces) > 5
    assert "".join(piece.decode() for piece in pieces).replace("\ndata: ", "") == block.decode()


@pytest.mark.parametrize(
    ("first", "second"),
    [
        (b'{"a":1}', b'{"b":[1,2,3,4,5,6,7,8,9]}'),
        (b"[1,2,3]", b"4,5,6,7,8,9,10,11,12,13,14"),
        (b'{"a":1}', b'"text, and more of it, on"'),
    ],
)
@pytest.mark.parametrize("line_end", [b"\n", b"\r\n", b"\r"], ids=repr)
@pytest.mark.parametrize("size", [1, 7, 1000])
def test_json_on_several_lines_that_is_not_one_document_stays_as_it_is(
    first: bytes, second: bytes, line_end: bytes, size: int
) -> None:
    stream = line_end.join((b"data: " + first, b": comment", b"data: " + second, b"", b""))
    logged: list[str] = []
    folding = Folding(over=24, width=24, report=logged.append)
    blocks = [stream[at : at + size] for at in range(0, len(stream), size)]
    assert b"".join([piece for block in blocks for piece in folding.feed(block)] + list(folding.finish())) == stream
    assert len(logged) == 1


def test_json_on_several_lines_that_is_one_document_is_folded() -> None:
    stream = b'data: {"a":[1,2],\ndata: "b":[1,2,3,4,5,6,7,8,9]}\n\n'
    folded = b'data: {"a":[1,2],\ndata: "b":[1,2,3,4,5,6,7\ndata: ,8,9]}\n\n'
    assert b"".join(Folding(over=24, width=24).feed(stream)) == folded


def test_whitespace_before_the_first_token_is_no_reason_not_to_fold() -> None:
    stream = b"data: [" + b" " * 300 + b"1" + b",1" * 50_000 + b"]\n\n"
    folded = b"".join(Folding(over=61440, width=61440).feed(stream))
    assert max(map(len, folded.split(b"\n"))) <= 61440
