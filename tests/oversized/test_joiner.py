"""Fragments are joined to one whole event, or thrown away."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from ssemiddleware import Event, FragmentJoiner, read_events

from ..growth import is_linear
from .fragments import fragment, joined

NOTE = Event("a text of twenty-six bytes", event="note", id="7", retry=5)


def fragments_of(event: Event) -> list[Event]:
    return list(read_events(fragment([bytes(event)])))


def test_a_reader_gets_the_event_that_the_application_sent() -> None:
    assert joined(fragment([bytes(NOTE), bytes(Event("small")), bytes(NOTE)])) == [
        NOTE,
        Event("small", id="7"),
        NOTE,
    ]


@pytest.mark.parametrize("gone", [0, 1])
def test_an_event_of_which_a_fragment_is_missing_is_thrown_away(gone: int) -> None:
    joiner = FragmentJoiner()
    fragments = fragments_of(NOTE)
    del fragments[gone]
    received = [joiner.join(event) for event in [*fragments, Event("another"), *fragments_of(NOTE)]]
    assert [event for event in received if event] == [Event("another"), NOTE]


def test_an_event_that_begins_again_begins_anew() -> None:
    joiner = FragmentJoiner()
    first, last = fragments_of(NOTE)
    assert [joiner.join(event) for event in (first, first, last)] == [None, None, NOTE]


def test_another_event_in_between_ends_an_unfinished_one() -> None:
    joiner = FragmentJoiner()
    first, last = fragments_of(NOTE)
    assert [joiner.join(event) for event in (first, Event("another"), last)] == [None, Event("another"), None]


def test_discard_forgets_what_came_before_the_stream_broke_off() -> None:
    joiner = FragmentJoiner()
    first, last = fragments_of(NOTE)
    joiner.join(first)
    joiner.discard()
    assert joiner.join(last) is None


def test_the_length_stays_what_it_was() -> None:
    joiner = FragmentJoiner()
    assert joiner.join(Event("0-1/4\nab", "fragment")) is None
    assert joiner.join(Event("2-4/5\ncde", "fragment")) is None


FOREIGN = [
    "",
    "0-3/4",
    "text\nabcd",
    "00-3/4\nabcd",
    "0-3/4 \nabcd",
    "0-3/\nabcd",
    "+0-3/4\nabcd",
    "0-٣/4\nabcd",
    "0-3/4message\nabcd",
]


@pytest.mark.parametrize("data", FOREIGN)
def test_an_application_s_own_event_of_that_type_stays_one(data: str) -> None:
    event = Event(data, event="fragment")
    assert FragmentJoiner().join(event) is event
    assert list(read_events([bytes(event)], join_fragments=True)) == [event]


def test_fragments_are_not_joined_unless_that_is_asked_for() -> None:
    assert [event.event for event in read_events(fragment([bytes(NOTE)]))] == ["fragment", "fragment"]


def test_joining_is_linear_in_the_length_of_the_event() -> None:
    def work_of(n: int) -> Callable[[], object]:
        stream = fragment([b"data: " + b"x" * n + b"\n\n"], over=4096, size=1024)
        assert [len(event.data) for event in joined(stream)] == [n]
        return lambda: joined(stream)

    assert is_linear(work_of, 2_000_000)
