"""`Stream.each`: a source that blocks, iterated in a stream that may end meanwhile."""

from __future__ import annotations

import contextvars
import gc
import logging
import queue
import threading
import time
import traceback
import weakref
from collections.abc import Callable, Iterator

import pytest

from ssemiddleware import SSEMiddleware, Stream
from ssemiddleware.source import Sources, _Pull

from .applications import DEADLINE, EVENT_SOURCE, EVENT_STREAM, Response, environ_of


class Source:
    """A source that blocks, as a pub-sub's ``listen()`` does: it yields what it is given until it is stopped."""

    def __init__(self) -> None:
        self.given: queue.SimpleQueue[object] = queue.SimpleQueue()
        self.made = 0
        self.stops = 0
        self.thread: threading.Thread | None = None

    def __iter__(self) -> Iterator[int]:
        self.thread = threading.current_thread()
        while True:
            item = self.given.get(timeout=DEADLINE)
            if isinstance(item, BaseException):
                raise item
            if item is None:
                return
            self.made += 1
            assert isinstance(item, int)
            yield item

    def stop(self) -> None:
        self.stops += 1
        self.given.put(None)


def stream_with(sources: Sources | None = None) -> tuple[Stream, Sources]:
    sources = sources or Sources()
    return Stream("", "/events\nforged", sources), sources


def wait_until(is_so: Callable[[], bool]) -> None:
    deadline = time.monotonic() + DEADLINE
    while not is_so():
        assert time.monotonic() < deadline
        time.sleep(0.001)


def iterated(stream: Stream, source: Source, *, endless: bool = False) -> tuple[threading.Thread, list[int]]:
    """Iterate over *source* on a thread, as a server's would, and return when it waits for an item."""
    received: list[int] = []

    def iterate() -> None:
        received.extend(stream.each(source, stop=source.stop, endless=endless))

    server = threading.Thread(target=iterate)
    server.start()
    wait_until(lambda: source.thread is not None)
    return server, received


def test_all_items_come_in_order_and_then_the_end() -> None:
    stream, sources = stream_with()
    stopped: list[str] = []
    assert list(stream.each(iter(range(100)), stop=lambda: stopped.append("x"))) == list(range(100))
    assert stopped == ["x"]
    wait_until(lambda: not sources.left)


def test_the_source_is_at_most_one_item_ahead() -> None:
    stream, _ = stream_with()
    made: list[int] = []

    def produce() -> Iterator[int]:
        for number in range(20):
            made.append(number)
            yield number

    for taken, _item in enumerate(stream.each(produce(), stop=lambda: None), 1):
        wait_until(lambda taken=taken: len(made) >= min(20, taken + 1))  # type: ignore[misc]
        assert len(made) <= taken + 1


def test_nothing_is_begun_before_the_first_item_is_asked_for() -> None:
    stream, _ = stream_with()
    source = Source()
    items = stream.each(source, stop=source.stop)
    assert source.thread is None
    source.given.put(1)
    assert next(items) == 1
    items.close()  # type: ignore[attr-defined]
    assert source.stops == 1


@pytest.mark.parametrize("endless", [False, True], ids=["finite", "endless"])
def test_the_loop_ends_when_the_stream_is_closed_and_the_source_is_stopped_once(endless: bool) -> None:
    stream, sources = stream_with()
    source = Source()
    server, received = iterated(stream, source, endless=endless)
    source.given.put(1)
    wait_until(lambda: received == [1] or source.made == 1)
    stream.finish("client gone")
    server.join(DEADLINE)
    assert not server.is_alive()
    assert source.stops == 1
    assert source.thread is not None
    source.thread.join(DEADLINE)
    wait_until(lambda: not sources.left)


def test_only_an_endless_loop_ends_when_the_stream_is_closing() -> None:
    for endless in (True, False):
        stream, _ = stream_with()
        source = Source()
        server, received = iterated(stream, source, endless=endless)
        stream.begin_closing()
        if not endless:
            source.given.put(1)
            source.given.put(None)
        server.join(DEADLINE)
        assert not server.is_alive()
        assert received == ([] if endless else [1])
        assert source.stops == 1


def test_a_finite_loop_that_is_closing_ends_when_it_is_closed() -> None:
    stream, _ = stream_with()
    source = Source()
    server, _received = iterated(stream, source)
    stream.begin_closing()
    stream.finish("drain")
    server.join(DEADLINE)
    assert not server.is_alive()
    assert source.stops == 1


def test_the_loop_ends_even_if_the_stream_s_callbacks_do_not_run() -> None:
    stream, _ = stream_with()
    source = Source()
    server, _received = iterated(stream, source)
    stream.on_close(lambda: None)
    assert stream.finish("client gone")  # the callbacks' thread may be kept by another stream's
    server.join(DEADLINE)
    assert not server.is_alive()


def test_a_loop_over_a_stream_that_has_ended_gives_nothing() -> None:
    stream, _ = stream_with()
    stream.finish("client gone")
    source = Source()
    assert list(stream.each(source, stop=source.stop)) == []
    assert source.stops == 1


def test_what_the_source_raises_is_raised_with_its_traceback() -> None:
    def listen() -> Iterator[int]:
        yield 1
        raise LookupError("no such channel")

    stream, sources = stream_with()
    items = stream.each(listen(), stop=lambda: None)
    assert next(items) == 1
    with pytest.raises(LookupError, match="no such channel") as raised:
        next(items)
    assert traceback.extract_tb(raised.value.__traceback__)[-1].name == "listen"
    wait_until(lambda: not sources.left)


def test_what_the_source_raised_lives_no_longer_than_the_loop() -> None:
    class Held:
        pass

    references: list[weakref.ref[Held]] = []

    def listen() -> Iterator[int]:
        held = Held()
        references.append(weakref.ref(held))
        yield 1
        raise LookupError("no such channel")

    stream, sources = stream_with()
    gc.disable()
    try:
        with pytest.raises(LookupError) as raised:
            list(stream.each(listen(), stop=lambda: None))
        wait_until(lambda: not sources.left)
        del raised
        wait_until(lambda: references[0]() is None)
    finally:
        gc.enable()


def test_what_the_source_raises_once_the_stream_is_closed_is_its_end() -> None:
    stream, _ = stream_with()
    source = Source()
    raised: list[BaseException] = []

    def iterate() -> None:
        try:
            list(stream.each(source, stop=lambda: source.given.put(ConnectionError("closed"))))
        except BaseException as error:
            raised.append(error)

    server = threading.Thread(target=iterate)
    server.start()
    wait_until(lambda: source.thread is not None)
    stream.finish("client gone")
    server.join(DEADLINE)
    assert raised == []


def test_the_source_runs_on_one_thread_in_one_copy_of_the_context() -> None:
    variable: contextvars.ContextVar[str] = contextvars.ContextVar("variable")
    variable.set("the request's")
    seen: list[tuple[str, threading.Thread]] = []

    def produce() -> Iterator[int]:
        for number in range(3):
            seen.append((variable.get(), threading.current_thread()))
            variable.set("the source's")
            yield number

    stream, _ = stream_with()
    assert list(stream.each(produce(), stop=lambda: None)) == [0, 1, 2]
    assert [value for value, _ in seen] == ["the request's", "the source's", "the source's"]
    (thread,) = {thread for _, thread in seen}
    assert thread is not threading.current_thread()
    assert thread.daemon
    assert variable.get() == "the request's"


def test_what_stop_raises_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    def stop() -> None:
        raise LookupError("closed twice")

    stream, _ = stream_with()
    with caplog.at_level(logging.ERROR, "ssemiddleware"):
        assert list(stream.each([1], stop=stop)) == [1]
    (record,) = caplog.records
    assert record.exc_info is not None
    assert str(record.exc_info[1]) == "closed twice"


def test_a_source_without_stop_is_logged_once_for_each_path_and_quoted(caplog: pytest.LogCaptureFixture) -> None:
    _, sources = stream_with()
    for _ in range(3):
        stream, _ = stream_with(sources)
        assert list(stream.each([1])) == [1]
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert record.getMessage().startswith(r"'/events\nforged' iterates a source without stop=")


def test_threads_that_stay_are_counted_and_limited_and_go_once_their_source_yields() -> None:
    sources = Sources(most=2)
    left: list[Source] = []
    for _ in range(2):
        stream, _ = stream_with(sources)
        source = Source()
        server, _received = iterated(stream, source)
        source.stop = lambda: None  # type: ignore[method-assign]
        left.append(source)
        stream.finish("client gone")
        server.join(DEADLINE)
    wait_until(lambda: all(source.stops for source in left))
    wait_until(lambda: not sources.left)  # those had a stop

    for number in range(2):
        stream, _ = stream_with(sources)
        stuck = Source()
        left[number] = stuck
        server = threading.Thread(target=lambda stream=stream, stuck=stuck: list(stream.each(stuck)))
        server.start()
        wait_until(lambda stuck=stuck: stuck.thread is not None)  # type: ignore[misc]
        stream.finish("client gone")
        server.join(DEADLINE)
    assert len(sources.left) == 2
    stream, _ = stream_with(sources)
    with pytest.raises(RuntimeError, match=r"^2 sources of Stream\.each have not returned although their streams have ended$"):
        next(stream.each([1], stop=lambda: None))
    left[0].given.put(1)
    wait_until(lambda: len(sources.left) == 1)
    assert list(stream.each([1], stop=lambda: None)) == [1]
    left[1].given.put(None)
    wait_until(lambda: not sources.left)


def test_no_source_that_has_ended_counts_however_its_end_falls_together_with_the_loops() -> None:
    stream, sources = stream_with()
    for _ in range(500):
        assert list(stream.each([1], stop=lambda: None)) == [1]
    wait_until(lambda: not any(thread.is_alive() for thread in sources.left))
    assert sources.left == set()


def test_a_source_that_has_ended_does_not_count_although_its_thread_takes_a_moment_to_end() -> None:
    sources = Sources()
    pull = _Pull([1], sources)
    pull.wanted.put(False)
    pull.thread = threading.current_thread()  # alive, and after the source's end
    pull._run()
    pull.end()
    assert sources.left == set()


def test_an_item_that_has_been_taken_is_not_kept() -> None:
    class Item:
        pass

    references: list[weakref.ref[Item]] = []
    wants_more = threading.Event()

    def produce() -> Iterator[Item]:
        item = Item()
        references.append(weakref.ref(item))
        yield item
        del item
        wants_more.wait(DEADLINE)

    stream, _ = stream_with()
    items = stream.each(produce(), stop=wants_more.set)
    next(items)
    gc.disable()
    try:
        server = threading.Thread(target=lambda: list(items))
        server.start()
        wait_until(lambda: references[0]() is None)
    finally:
        gc.enable()
        wants_more.set()
    server.join(DEADLINE)


def test_a_loop_that_has_ended_leaves_nothing_in_its_stream() -> None:
    """Some applications loop over each batch of a poll, thousands of times in one stream."""

    def loops() -> int:
        gc.collect()
        return sum(type(one) is _Pull for one in gc.get_objects())

    stream, _ = stream_with()
    before = loops()
    for _ in range(100):
        assert list(stream.each(iter([1]), stop=lambda: None)) == [1]
    assert loops() <= before


def test_a_loop_in_an_application_is_counted_and_ends_with_its_stream() -> None:
    source = Source()

    def application(environ: dict[str, object], start_response: Callable[..., object]) -> Iterator[bytes]:
        stream = environ["ssemiddleware.stream"]
        assert isinstance(stream, Stream)
        start_response("200 OK", [EVENT_STREAM])
        for item in stream.each(source, stop=source.stop):
            yield b"data: %d\n\n" % item

    middleware = SSEMiddleware(application)
    response = Response(middleware, environ_of(EVENT_SOURCE))
    source.given.put(1)
    assert next(iter(response.iterable)) == b"data: 1\n\n"
    response.close()
    assert source.stops == 1
    wait_until(lambda: middleware.stats().kept_threads == 0)
