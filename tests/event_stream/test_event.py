"""What is written is read, and what would be read as something else is refused."""

from __future__ import annotations

import datetime as dt
import json
import math
import re
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ssemiddleware import Event, read_events

from .streams import texts

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


CIRCLE: list[object] = []
CIRCLE.append(CIRCLE)

BAD_EVENTS: dict[str, tuple[Callable[[], Event], str]] = {
    "LF in event": (lambda: Event("x", event="a\nb"), r"event must be a str without CR, LF and NUL, or None, got 'a\\nb'"),
    "CR in id": (lambda: Event("x", id="a\rb"), r"id must be .* got 'a\\rb'"),
    "NUL in id": (lambda: Event("x", id="\0"), r"id must be .* got '\\x00'"),
    "NUL in event": (lambda: Event("x", event="\0"), "event must be"),
    "id of another type": (lambda: Event("x", id=5.0), r"id must be an int or a str without .* got 5\.0"),  # type: ignore[arg-type]
    "id is a bool": (lambda: Event("x", id=True), "id must be .* got True"),
    "negative retry": (lambda: Event("x", retry=-1), "retry must be a whole number of milliseconds from 0, or None, got -1"),
    "retry of another type": (lambda: Event("x", retry=1.5), "retry must be .* got 1.5"),  # type: ignore[arg-type]
    "retry is a bool": (lambda: Event("x", retry=True), "retry must be .* got True"),
    "lone surrogate in data": (lambda: Event("\ud800"), "data must be text that UTF-8 can hold: .* surrogates not allowed"),
    "lone surrogate in event": (lambda: Event("x", event="\ud800"), "event must be text that UTF-8 can hold"),
    "lone surrogate in id": (lambda: Event("x", id="\ud800"), "id must be text that UTF-8 can hold"),
    "lone surrogate in comment": (lambda: Event("x", comment="\ud800"), "comment must be text that UTF-8 can hold"),
    "NaN in json": (lambda: Event(json={"price": math.nan}), "json must be a value that JSON can write: "),
    "Infinity as a key in json": (lambda: Event(json=[{-math.inf: 1}]), "json must be a value that JSON can write: "),
    "circle in json": (lambda: Event(json=CIRCLE), "json must be .*: Circular"),
    "NaN from default": (lambda: Event(json=object(), default=lambda _: math.nan), "json must be"),
}


@pytest.mark.parametrize(("make", "says"), BAD_EVENTS.values(), ids=BAD_EVENTS.keys())
def test_a_field_that_would_inject_or_be_ignored_is_refused(make: Callable[[], Event], says: str) -> None:
    with pytest.raises(ValueError, match=f"^{says}"):
        make()


@pytest.mark.parametrize(
    "arguments",
    [
        {},
        {"data": "x", "json": 1},
        {"data": "x", "default": str},
        {"comment": "x", "id": "7"},
        {"comment": "x", "default": str},
    ],
    ids=" and ".join,
)
def test_an_event_takes_either_data_or_json(arguments: dict[str, Any]) -> None:
    with pytest.raises(TypeError, match="takes either data or json"):
        Event(**arguments)


def test_a_text_that_is_no_str_is_refused() -> None:
    with pytest.raises(TypeError, match=r"data must be a str, got b'x'; json= takes other values"):
        Event(b"x")  # type: ignore[arg-type]
    with pytest.raises(TypeError, match=r"comment must be a str or None, got b'x'"):
        Event("x", comment=b"x")  # type: ignore[arg-type]


def test_a_number_may_be_an_id() -> None:
    assert Event("x", id=7) == Event("x", id="7")
    assert bytes(Event("x", id=0)) == b"id: 0\ndata: x\n\n"


def test_default_writes_what_json_cannot() -> None:
    assert bytes(Event(json=[dt.date(2020, 2, 29)], default=str)) == b'data: ["2020-02-29"]\n\n'
    with pytest.raises(TypeError, match="date"):
        Event(json=[dt.date(2020, 2, 29)])


@given(texts, texts)
def test_a_comment_changes_nothing_for_a_reader(comment: str, data: str) -> None:
    with_comment, without = bytes(Event(data, id="7", comment=comment)), bytes(Event(data, id="7"))
    assert list(read_events([with_comment])) == list(read_events([without]))
    assert with_comment.endswith(b"\n" + without)


@given(texts)
def test_a_comment_alone_is_no_event(comment: str) -> None:
    alone = bytes(Event(comment=comment))
    assert alone.startswith(b": ")
    assert alone.endswith(b"\n")
    assert list(read_events([b"data: x\n", alone, b"\n"])) == [Event("x")]


def test_each_line_of_a_comment_is_a_comment() -> None:
    assert bytes(Event(comment="two\rlines")) == b": two\n: lines\n"
    assert bytes(Event("", event="done", comment="x")) == b": x\nevent: done\ndata: \n\n"
    assert Event(comment="x") != Event("", comment="x")


def test_an_event_is_immutable() -> None:
    with pytest.raises(AttributeError):
        Event("x").data = "y"  # type: ignore[misc]
