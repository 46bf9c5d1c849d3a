"""What is written is read, and what would be read as something else is refused."""

from __future__ import annotations

import json
import re
from collections.abc import Callable

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
