"""`ssemiddleware.lint`: each mistake is found in its line, and nothing else is found."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ssemiddleware import Event
from ssemiddleware.event_stream import BOM, HEARTBEAT, retry_line
from ssemiddleware.lint import MISTAKES, lint
from ssemiddleware.oversized import LONG_LINE

from ..event_stream.streams import cuttings, every_way, texts
from ..growth import is_linear


def found(*blocks: bytes) -> list[tuple[str, int, int]]:
    return [(finding.mistake.name, finding.event, finding.line) for finding in lint(blocks)]


EVENT = b"data: 1\n\n"
WRONG = {
    "no blank line at the end": (EVENT + b"data: 2\n", [("unfinished", 2, 3)]),
    "no line end at the end": (EVENT + b"data: 2", [("unfinished", 2, 3)]),
    "one event that has not ended": (b"data: 1\n", [("unfinished", 1, 1)]),
    "events never ended": (b"data: 1\ndata: 2\ndata: 3\n", [("never-ended", 1, 3)]),
    "two events run together": (b"id: 1\ndata: a\nid: 2\ndata: b\n\n", [("run-together", 1, 3)]),
    "an id that is set again before the data": (b"id: 1\nid: 2\nevent: a\ndata: x\n\n", []),
    "blank lines and comments between are no events": (b":\n\n\n" + EVENT + b"\n\nData: 2\n\n", [("field-name", 2, 8)]),
    "a line feed inside data": (EVENT + b"data: two\nlines\n\n", [("line-feed", 2, 4)]),
    "many line feeds inside data are reported once for each event": (
        b"data: a\nb\nc\n\n" * 2,
        [("line-feed", 1, 2), ("line-feed", 2, 6)],
    ),
    "a colon after a line feed": (b"data: see\nnote: this\n\n", [("line-feed", 1, 2)]),
    "Data:": (EVENT + b"Data: 2\n\n", [("field-name", 2, 3)]),
    "a space before the name": (b" data: 1\n\n", [("field-name", 1, 1)]),
    "a space after the name": (b"event : x\ndata: 1\n\n", [("field-name", 1, 1)]),
    "JSON over several lines": (b'data: {\n  "a": 1\n}\n\n', [("json-lines", 1, 2)]),
    "JSON without data:": (b'{"error": "no"}\n', [("no-field", 1, 1)]),
    "retry with a unit": (b"retry: 3s\n" + EVENT, [("retry", 1, 1)]),
    "retry with a point": (b"retry: 0.5\n" + EVENT, [("retry", 1, 1)]),
    "retry below zero": (b"retry: -5\n" + EVENT, [("retry", 1, 1)]),
    "retry in digits that are not ASCII": ("retry: ٣\n".encode() + EVENT, [("retry", 1, 1)]),
    "NUL in an id": (b"id: 1\0\n" + EVENT, [("nul-in-id", 1, 1)]),
    "a BOM in the middle": (EVENT + BOM + b"data: 2\n\n", [("bom", 2, 3)]),
    "two BOMs at the start": (BOM + BOM + EVENT, [("bom", 1, 1)]),
    "an HTML error page": (b"<!DOCTYPE html>\n<html>\n<title>502</title>\n\n<p>Bad\n</html>", [("html", 1, 1)]),
    "an HTML error page after events": (EVENT + b"  <HTML lang=en>\n<p>\n" + EVENT, [("html", 2, 3)]),
    "two HTML error pages": (b"<html>\n\n" + EVENT + b"<html>\n\n", [("html", 1, 1), ("html", 3, 5)]),
    "NaN in an object": (b'data: {"a": NaN}\n\n', [("nan", 1, 1)]),
    "Infinity in a list over lines": (b"data: [1,\ndata: -Infinity]\n\n", [("nan", 1, 2)]),
    "NaN as the first in a list": (b"data: [NaN, 1]\n\n", [("nan", 1, 1)]),
    "NaN is text in a string": (b'data: {"a": "[NaN, \\"NaN,"}\n\ndata: [NaN is not a number]\n\ndata: NaN\n\n', []),
    "not UTF-8": ("data: für\n\n".encode("latin-1"), [("utf-8", 1, 1)]),
    "a long line": (b"data: " + b"x" * LONG_LINE + b"\n\n", [("long-line", 1, 1)]),
    "a type without data": (b"event: end\n\n", [("no-data", 1, 2)]),
    "a misspelt field is not reported again as missing data": (b"event: end\nData: x\n\n", [("field-name", 1, 2)]),
}


@pytest.mark.parametrize("what", WRONG)
def test_a_mistake_is_found_in_its_line_however_the_stream_is_cut(what: str) -> None:
    stream, expected = WRONG[what]
    ways = every_way(stream) if len(stream) < 200 else [[stream[:9], stream[9:]]]
    for blocks in ways:
        assert found(*blocks) == expected


def test_each_kind_of_mistake_has_an_example() -> None:
    assert {name for _, expected in WRONG.values() for name, *_ in expected} == {mistake.name for mistake in MISTAKES}


def test_a_finding_shows_how_the_line_begins() -> None:
    [finding] = lint([b"Data: " + b"x" * 200 + b"\n\n"])
    assert finding.text == "Data: " + "x" * 74


@given(
    st.lists(
        st.builds(
            Event,
            texts.filter(lambda text: "NaN" not in text and "Infinity" not in text),
            event=st.none() | texts.map(lambda text: "".join(text.split()).replace("\0", "")),
            id=st.none() | texts.map(lambda text: "".join(text.split()).replace("\0", "")),
            retry=st.none() | st.integers(0, 10**6),
        )
    )
)
def test_nothing_is_found_in_what_event_writes_and_the_middleware_adds(events: list[Event]) -> None:
    assert found(b"retry: 3000\n", *(bytes(event) + HEARTBEAT for event in events), retry_line(4000)) == []


@given(st.recursive(st.none() | st.integers() | texts, lambda inner: st.lists(inner) | st.dictionaries(texts, inner)))
def test_nothing_is_found_in_json_that_event_writes(value: object) -> None:
    assert found(bytes(Event(json=value))) == []


@given(cuttings())
def test_any_bytes_give_the_same_findings_however_they_are_cut(blocks: list[bytes]) -> None:
    assert found(*blocks) == found(b"".join(blocks))


@pytest.mark.parametrize("line", [b"data: x\n", b"x\n", b"<html>\n\n", b'data: ["\\""\n', b"\r", b"data: [ NaN ,"], ids=repr)
def test_linting_takes_linear_time(line: bytes) -> None:
    assert is_linear(lambda count: lambda: found(line * count), 3000)


def test_linting_a_line_in_many_blocks_takes_linear_time() -> None:
    assert is_linear(lambda count: lambda: found(b"data: ", *[b"x" * 10] * count, b"\n\n"), 10_000)
