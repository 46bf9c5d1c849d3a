"""`Stream`: what an application finds in its environ."""

from __future__ import annotations

import functools
import gc
import logging
import sys
import threading
from collections.abc import Callable

import pytest

from ssemiddleware import Stream
from ssemiddleware.handle import run_all

from .applications import DEADLINE


def end(stream: Stream, reason: str = "client gone") -> None:
    for callback in stream.finish(reason):
        callback()


def test_a_stream_begins_open_and_ends_closed_for_one_reason() -> None:
    stream = Stream()
    assert (stream.closing.is_set(), stream.closed.is_set(), stream.reason) == (False, False, None)
    end(stream, "drain")
    end(stream, "application ended")
    assert (stream.closing.is_set(), stream.closed.is_set(), stream.reason) == (True, True, "drain")


def test_closing_comes_before_closed() -> None:
    stream = Stream()
    stream.begin_closing()
    stream.begin_closing()
    assert (stream.closing.is_set(), stream.closed.is_set(), stream.reason) == (True, False, None)


@pytest.mark.parametrize("name", ["closing", "closed"])
def test_an_event_that_is_first_asked_for_after_the_end_is_set(name: str) -> None:
    stream = Stream()
    end(stream)
    assert getattr(stream, name).is_set()
    assert getattr(stream, name) is getattr(stream, name)


@pytest.mark.parametrize("name", ["closing", "closed"])
def test_a_thread_that_waits_is_woken(name: str) -> None:
    stream, waits, woken = Stream(), threading.Event(), threading.Event()

    def wait() -> None:
        event = getattr(stream, name)
        waits.set()
        if event.wait(DEADLINE):
            woken.set()

    thread = threading.Thread(target=wait)
    thread.start()
    assert waits.wait(DEADLINE)
    end(stream)
    thread.join(DEADLINE)
    assert woken.is_set()


def test_the_events_are_made_only_when_they_are_asked_for() -> None:
    stream = Stream()
    end(stream)
    assert vars(stream) == {}


def test_callbacks_are_called_once_in_their_order() -> None:
    called: list[int] = []
    stream = Stream()
    for number in range(3):
        stream.on_close(lambda number=number: called.append(number))  # type: ignore[misc]
    assert called == []
    end(stream)
    end(stream)
    assert called == [0, 1, 2]


def test_a_callback_that_comes_too_late_is_called_at_once() -> None:
    called: list[threading.Thread] = []
    stream = Stream()
    end(stream)
    stream.on_close(lambda: called.append(threading.current_thread()))
    assert called == [threading.current_thread()]


def test_an_exception_in_a_late_callback_is_logged_and_stops_no_other(caplog: pytest.LogCaptureFixture) -> None:
    def raises() -> None:
        raise LookupError("gone")

    stream = Stream()
    end(stream)
    with caplog.at_level(logging.ERROR, "ssemiddleware"):
        stream.on_close(raises)
    (record,) = caplog.records
    assert record.exc_info is not None
    assert str(record.exc_info[1]) == "gone"


def test_a_callback_that_exits_stops_no_other() -> None:
    called: list[int] = []
    with pytest.raises(SystemExit):
        run_all([sys.exit, lambda: called.append(1), sys.exit, lambda: called.append(2)])
    assert called == [1, 2]


def test_a_callback_may_register_another() -> None:
    called: list[str] = []
    stream = Stream()
    stream.on_close(lambda: stream.on_close(lambda: called.append("second")))
    end(stream)
    assert called == ["second"]


def test_callbacks_are_called_once_however_many_threads_end_the_stream() -> None:
    for _ in range(50):
        assert sorted(called_by_many()) == list(range(40))


def called_by_many() -> list[int]:
    """Return which callbacks were called of a stream that three threads end while a fourth registers more."""
    called: list[int] = []
    stream, barrier = Stream(), threading.Barrier(4)

    def register(numbers: range) -> None:
        for number in numbers:
            stream.on_close(functools.partial(called.append, number))

    def ends() -> None:
        barrier.wait(DEADLINE)
        end(stream)

    def registers() -> None:
        barrier.wait(DEADLINE)
        register(range(20, 40))

    register(range(20))
    threads = [threading.Thread(target=act) for act in (ends, ends, ends, registers)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(DEADLINE)
    return called


def test_a_closing_callback_is_called_at_closing_at_closed_and_at_once_if_late() -> None:
    seen: list[tuple[str, str | None]] = []
    stream = Stream()
    stream.on_closing(lambda: seen.append(("in time", stream.reason)))
    stream.begin_closing()
    stream.on_closing(lambda: seen.append(("late", stream.reason)))
    assert seen == [("in time", None), ("late", None)]
    stream.finish("drain")
    assert seen[2:] == [("in time", "drain"), ("late", "drain")]


@pytest.mark.parametrize(
    ("sent", "read"),
    [("", ""), ("7", "7"), ("ä€".encode().decode("latin-1"), "ä€"), ("\xff", "\ufffd")],
    ids=["none", "ASCII", "UTF-8", "not UTF-8"],
)
def test_the_last_event_id_is_utf_8(sent: str, read: str) -> None:
    assert Stream(sent).last_event_id == read


def test_the_first_reason_to_end_a_stream_stays() -> None:
    stream = Stream()
    stream.end("session revoked")
    stream.end("another")
    assert stream.requested_end == "session revoked"
    assert not stream.closed.is_set()  # the watcher ends it


def test_a_stream_that_is_over_is_not_ended_again() -> None:
    stream = Stream()
    end(stream)
    stream.end("session revoked")
    assert (stream.requested_end, stream.reason) == (None, "client gone")


@pytest.mark.parametrize("reason", ["", None, 1, b"revoked"])
def test_a_reason_that_is_no_text_is_refused(reason: object) -> None:
    with pytest.raises(ValueError, match=r"^reason must be a text of one character or more, got "):
        Stream().end(reason)  # type: ignore[arg-type]


def test_ending_a_stream_while_its_event_is_made_locks_nothing() -> None:
    stream = Stream()

    class Ends:
        def __del__(self) -> None:
            stream.finish("client gone")

    ends: list[object] = [Ends()]
    ends.append(ends)  # a cycle, which only a garbage collection breaks
    threshold = gc.get_threshold()
    del ends
    gc.set_threshold(1)
    try:
        assert stream.closed.wait(DEADLINE)
    finally:
        gc.set_threshold(*threshold)


def test_a_stream_of_its_own_has_no_path() -> None:
    assert Stream().path == ""


def test_a_handle_iterates_a_source() -> None:
    stream = Stream()
    items: Callable[[], list[int]] = lambda: list(stream.each(range(3), stop=lambda: None))  # noqa: E731
    assert items() == [0, 1, 2]
