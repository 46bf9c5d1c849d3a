"""`ssemiddleware.admission`: which streams get a place, and which are refused."""

from __future__ import annotations

import gc
import logging
import os
import subprocess
import sys
import threading
import time
import weakref
from collections.abc import Callable, Iterable, Iterator
from itertools import pairwise, repeat
from types import FrameType
from typing import TYPE_CHECKING, Any
from wsgiref.validate import validator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ssemiddleware import MemoryGovernor, SSEMiddleware, Stream
from ssemiddleware.admission import Admission, Place
from ssemiddleware.servers.server import Server

from .applications import (
    ANNOUNCED,
    DEADLINE,
    EVENT_SOURCE,
    EVENT_STREAM,
    Blocks,
    Response,
    application_of,
    closing_layer,
    environ_of,
    respond,
)
from .clock import Clock

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment

UNANNOUNCED = {"HTTP_ACCEPT": "*/*"}


class Memory:
    """Memory that is as full as a test says."""

    def __init__(self) -> None:
        self.share, self.clock = 0.0, Clock()
        self.governor = MemoryGovernor(read=lambda: (round(1000 * self.share), 1000), clock=self.tick)

    def tick(self) -> float:
        self.clock.now += 1  # so that each look reads
        return self.clock.now


def admission(limit: int | None = None, memory: Memory | None = None, clock: Clock | None = None) -> Admission:
    return Admission(limit=lambda: limit, memory=None if memory is None else memory.governor, clock=clock or Clock())


def admit(to: Admission, reason: str = "application ended") -> Place:
    stream = Stream()
    stream.reason = reason
    place = to.maybe_admit(stream)
    assert place is not None
    return place


# -- places


def test_as_many_streams_are_admitted_as_the_limit_allows() -> None:
    places = admission(3)
    given = [admit(places) for _ in range(3)]
    assert places.maybe_admit(Stream()) is None
    given[1].release()
    admit(places)
    assert places.maybe_admit(Stream()) is None
    assert (places.stats().open, places.stats().refused) == (3, 2)


def test_a_place_is_given_back_once() -> None:
    places = admission(2)
    first, _ = admit(places), admit(places)
    for _ in range(3):
        first.release()
    assert places.stats().open == 1
    assert places.stats().ended == {"application ended": 1}


def test_without_a_limit_every_stream_gets_a_place() -> None:
    places = admission()
    assert len({id(admit(places)) for _ in range(1000)}) == places.stats().open == 1000


def test_a_limit_may_change() -> None:
    limits = [2, 2, 2, 3]
    places = Admission(limit=lambda: limits.pop(0))
    assert [places.maybe_admit(Stream()) is not None for _ in range(4)] == [True, True, False, True]


def test_a_stream_that_must_not_be_refused_gets_a_place_above_the_limit() -> None:
    """A client sends a refused POST again, and it must not run twice."""
    memory = Memory()
    places = admission(1, memory)
    admit(places)
    memory.share = 1.0
    assert places.maybe_admit(Stream(), always=True) is not None
    assert places.maybe_admit(Stream()) is None
    assert (places.stats().open, places.stats().refused) == (2, 1)


def test_a_stand_in_gives_a_place_back_and_the_stream_stays_open() -> None:
    places = admission(1)
    kept = admit(places)
    kept.lend()
    assert places.stats().kept_threads == 1
    other = admit(places)
    assert places.maybe_admit(Stream()) is None
    assert places.stats().open == 2
    kept.release()
    assert places.maybe_admit(Stream()) is None, "a place is given back only once"
    other.release()
    admit(places)
    assert (places.stats().open, places.stats().kept_threads) == (1, 0)


def test_a_place_that_was_given_back_keeps_no_reference_to_its_application() -> None:
    def wake() -> None:
        """Stand for a callback that an application registers."""

    places, stream, seen = admission(), Stream(), weakref.ref(wake)
    stream.on_close(wake)
    place = places.maybe_admit(stream)
    assert place is not None
    stream.reason = "drain"
    place.release()
    del wake, stream, place
    gc.collect()
    assert seen() is None
    assert places.stats().ended == {"drain": 1}


@pytest.fixture
def no_others(monkeypatch: pytest.MonkeyPatch) -> None:
    """Do not count streams that other tests left open towards a shared limit."""
    monkeypatch.setattr("ssemiddleware.admission._of_processes", {})


@pytest.mark.usefixtures("no_others")
def test_of_many_streams_that_ended_together_nothing_stays_after_the_next_tick() -> None:
    """No other stream need begin for that."""
    places = admission()
    given_places = [admit(places) for _ in range(500)]
    for place in given_places:
        place.release()
    del given_places, place
    with places._counted.lock:
        places.look()  # does not wait
    places.look()
    assert sum(type(one) is Place and one._admission is places for one in gc.get_objects()) == 0
    assert sum(places.stats().ended.values()) == 500


def test_admissions_that_share_a_limit_count_together() -> None:
    both = [Admission(limit=lambda: 3, counts_all=True) for _ in range(2)]
    alone = admission(3)
    for _ in range(3):
        admit(alone)
    given_places = [admit(both[0]), admit(both[0]), admit(both[1])]
    assert both[0].maybe_admit(Stream()) is None
    assert both[1].maybe_admit(Stream()) is None
    given_places[0].release()
    given_places.append(admit(both[1]))
    assert (both[0].stats().open, both[1].stats().open) == (1, 2)
    for place in given_places:
        place.release()
    assert (both[0].stats().open, both[1].stats().open) == (0, 0)


@given(st.lists(st.booleans()), st.integers(1, 5))
def test_the_count_is_exact_in_any_order_of_beginnings_and_ends(comes: list[bool], limit: int) -> None:
    places, open_places, refused = admission(limit), list[Place](), 0
    for come in comes:
        if come:
            place = places.maybe_admit(Stream())
            if place is None:
                refused += 1
            else:
                open_places.append(place)
        elif open_places:
            open_places.pop().release()
        stats = places.stats()
        assert stats.open == len(open_places) <= limit
        assert stats.refused == refused


@pytest.mark.usefixtures("no_others")
def test_admissions_that_share_a_limit_never_exceed_it_among_threads() -> None:
    both = [Admission(limit=lambda: 5, counts_all=True) for _ in range(2)]
    held, most = list[Place](), list[int]()

    def come_and_go(places: Admission) -> None:
        for _ in range(1000):
            place = places.maybe_admit(Stream())
            if place is not None:
                held.append(place)
                most.append(len(held))
                time.sleep(0)
                held.remove(place)
                place.release()

    threads = [threading.Thread(target=come_and_go, args=(both[number % 2],)) for number in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert max(most) <= 5  # rarely fewer: the threads may have come one after the other
    assert [places.stats().open for places in both] == [0, 0]
    given_places = [admit(both[0]) for _ in range(5)]
    assert both[1].maybe_admit(Stream()) is None
    for place in given_places:
        place.release()


def test_the_count_is_exact_among_threads() -> None:
    places, most = admission(5), list[int]()

    def come_and_go() -> None:
        for _ in range(300):
            place = places.maybe_admit(Stream())
            most.append(places.stats().open)
            if place is not None:
                place.release()

    threads = [threading.Thread(target=come_and_go) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    stats = places.stats()
    assert max(most) <= 5
    assert stats.open == 0
    assert sum(stats.ended.values()) + stats.refused == 8 * 300


def test_a_place_may_be_given_back_inside_a_garbage_collection_that_admitting_starts() -> None:
    places = admission()

    class Cycle:
        def __init__(self) -> None:
            self.itself, self.place = self, admit(places)

        def __del__(self) -> None:
            self.place.release()

    thresholds = gc.get_threshold()
    gc.set_threshold(1)
    try:
        for _ in range(200):
            Cycle()
    finally:
        gc.set_threshold(*thresholds)
    gc.collect()
    assert places.stats().open == 0


FORKS = """
import os
from ssemiddleware import Stream
from ssemiddleware.admission import Admission
places = Admission(limit=lambda: 1)
place = places.maybe_admit(Stream())
assert places._counted.lock.acquire()  # as if a thread of the parent held it at the fork
child = os.fork()
if child == 0:
    place.release()  # the parent's
    own = places.maybe_admit(Stream())
    os._exit(0 if own and places.stats().open == 1 and not places.stats().ended else 1)
places._counted.lock.release()
assert os.waitpid(child, 0)[1] == 0, "the child counts its parent's streams"
assert places.stats().open == 1
"""


def test_each_process_counts_its_own_streams() -> None:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    subprocess.run([sys.executable, "-c", FORKS], env=environment, check=True, timeout=60)


# -- the time to reconnect


def test_the_time_to_reconnect_has_jitter() -> None:
    places = admission()
    times = {places.next_retry() for _ in range(200)}
    assert 2250 <= min(times) < 2700
    assert 3900 < max(times) <= 4500


def test_a_refused_client_waits_longer_the_more_were_refused_lately() -> None:
    clock = Clock()
    places = admission(10, clock=clock)
    for _ in range(10):
        admit(places)

    def median_retry() -> int:
        return sorted(places.next_retry() for _ in range(201))[100]

    calm = median_retry()
    for _ in range(20):
        places.maybe_admit(Stream())
    pressed = median_retry()
    for _ in range(1000):
        places.maybe_admit(Stream())
    most = median_retry()
    clock.now += 100
    assert 2.5 * calm < pressed < most < 10 * calm
    assert median_retry() < 1.2 * calm


def test_observers_are_called_once_a_tick_while_streams_are_open() -> None:
    looks = threading.Semaphore(0)
    middleware, response = one_stream_open(application_of(Blocks(repeat(b"data: x\n\n"))))
    middleware._streams.admission.observe(looks.release)
    for _ in range(2):
        assert looks.acquire(timeout=DEADLINE), "no observer is called while streams are silent"
    response.close()


@pytest.mark.parametrize("share", [0.79, 0.95, 1.5])
def test_no_stream_is_refused_or_ended_for_memory(share: float) -> None:
    memory = MemoryGovernor(read=lambda: (round(1000 * share), 1000))
    middleware = SSEMiddleware(application_of([b"data: x\n\n"] * 3), memory=memory)
    responses = [Response(middleware, environ_of(EVENT_SOURCE)) for _ in range(3)]
    assert [b"".join(response.blocks()) for response in responses] == [b"data: x\n\n" * 3] * 3
    assert middleware.stats().refused == 0
    assert middleware.stats().pauses == 0


# -- a signal handler may ask for the numbers at any time


def stop_at_each_step(module: str, act: Callable[[], object], look: Callable[[], object]) -> int:
    """Call *act*, and *look* before each line that it runs in *module*; return how many there were."""
    steps = 0

    def trace(frame: FrameType, event: str, argument: object) -> Callable[..., Any] | None:
        nonlocal steps
        if frame.f_globals.get("__name__") != module:
            return None
        if event == "line":
            steps += 1
            sys.settrace(None)  # a signal handler runs to its end, too
            look()
            sys.settrace(trace)
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        act()
    finally:
        sys.settrace(before)
    return steps


def test_the_numbers_are_exact_and_never_wait_at_each_step_of_a_decision(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ssemiddleware.admission._ADD_UP_AT", 1)
    places = admission(6)
    seen = []

    def look() -> None:
        stats = places.stats()
        seen.append(stats)

    def come_and_go() -> None:
        first, second = admit(places), admit(places, "drain")
        for place in (first, second):
            place.carried.count_in(b"data: 1\n\n")
        first.release()
        admit(places).release()
        second.release()
        places.maybe_admit(Stream())

    assert stop_at_each_step("ssemiddleware.admission", come_and_go, look) > 100
    for earlier, later in pairwise(seen):
        assert later.events_in >= earlier.events_in
        assert later.open + sum(later.ended.values()) >= earlier.open + sum(earlier.ended.values())
        assert all(later.ended.get(reason, 0) >= count for reason, count in earlier.ended.items())
    assert (seen[-1].events_in, seen[-1].open, sum(seen[-1].ended.values())) == (2, 1, 3)


def test_a_signal_handler_gets_the_numbers_while_its_thread_holds_the_locks() -> None:
    places = admission(memory=Memory())
    with places._counted.lock, places._memory._gauge._reading:  # type: ignore[union-attr]
        assert places.stats().open == 0


# -- through the middleware


def streaming(closed: list[str] | None = None, lazily: bool = False) -> WSGIApplication:
    """Return an application whose event stream goes on until it is closed."""

    def produce(start: Callable[[], object]) -> Iterator[bytes]:
        try:
            if lazily:
                start()
            while True:
                yield b"data: x\n\n"
        finally:
            if closed is not None:
                closed.append("closed")

    def application(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        def start() -> object:
            return start_response("200 OK", [EVENT_STREAM])

        if not lazily:
            start()
        return produce(start)

    return application


def one_stream_open(application: WSGIApplication, given: dict[str, str] = ANNOUNCED) -> tuple[SSEMiddleware, Response]:
    """Return a middleware for one stream, and that stream."""
    middleware = SSEMiddleware(application, max_streams=1)
    response = Response(middleware, environ_of(given))
    next(iter(response.iterable))
    return middleware, response


PATHS = pytest.mark.parametrize("path", [ANNOUNCED, UNANNOUNCED], ids=["announced", "unannounced"])
BEHAVIOURS = pytest.mark.parametrize("lazily", [False, True], ids=["at once", "lazily"])


@BEHAVIOURS
def test_an_announced_request_that_is_refused_never_reaches_the_application(lazily: bool) -> None:
    calls: list[WSGIEnvironment] = []
    application = streaming(lazily=lazily)

    def counting(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        calls.append(environ)
        return application(environ, start_response)

    middleware, first = one_stream_open(counting)
    Response(middleware, environ_of(ANNOUNCED)).body()
    assert len(calls) == 1
    first.close()


class Closing:
    """An iterable that counts how often it was closed."""

    def __init__(self) -> None:
        self.closed = 0

    def __iter__(self) -> Iterator[bytes]:
        raise AssertionError("iterated although the request was refused")

    def close(self) -> None:
        self.closed += 1


def test_the_iterable_of_an_unannounced_request_that_is_refused_is_closed_and_never_iterated() -> None:
    iterable = Closing()

    def application(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        write = start_response("200 OK", [EVENT_STREAM])
        write(b"data: dropped\n\n")
        return streaming()(environ, lambda *_: write) if environ["PATH_INFO"] == "/first" else iterable

    middleware = SSEMiddleware(application, max_streams=1)
    first = Response(middleware, environ_of({**UNANNOUNCED, "PATH_INFO": "/first"}))
    refused = Response(middleware, environ_of(UNANNOUNCED))
    assert b"dropped" not in refused.body()
    assert refused.status.startswith("503")
    assert iterable.closed == 1
    first.close()


@PATHS
def test_a_response_that_is_no_event_stream_needs_no_place(path: dict[str, str]) -> None:
    def application(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        start_response("200 OK", [("Content-Type", "text/html")])
        return iter([b"page"])

    middleware = SSEMiddleware(application, max_streams=1)
    open_responses = [Response(middleware, environ_of(path)) for _ in range(3)]
    assert [response.body() for response in open_responses] == [b"page"] * 3
    stats = middleware.stats()
    assert (stats.open, stats.refused, dict(stats.ended)) == (0, 0, {})


def test_an_error_page_in_place_of_an_event_stream_gives_its_place_back() -> None:
    def application(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        start_response("200 OK", [EVENT_STREAM])
        try:
            raise KeyError("no such event")
        except KeyError:
            start_response("500 Oops", [("Content-Type", "text/plain")], sys.exc_info())
        return [b"oops"]

    middleware = SSEMiddleware(validator(application), max_streams=1)
    for path in (UNANNOUNCED, ANNOUNCED) * 2:
        assert Response(validator(middleware), environ_of(path)).body() == b"oops"
    assert middleware.stats().open == 0


@PATHS
@pytest.mark.parametrize("when", ["in the call", "in the first block", "later", "in close"])
def test_an_application_that_raises_gives_its_place_back(path: dict[str, str], when: str) -> None:
    class Failing:
        def __iter__(self) -> Iterator[bytes]:
            if when == "in the first block":
                raise ValueError(when)
            yield b"data: x\n\n"
            if when == "later":
                raise ValueError(when)

        def close(self) -> None:
            if when == "in close":
                raise ValueError(when)

    def application(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        start_response("200 OK", [EVENT_STREAM])
        if when == "in the call":
            raise ValueError(when)
        return Failing()

    middleware = SSEMiddleware(application, max_streams=1)
    for _ in range(3):
        with pytest.raises(ValueError, match=when):
            Response(middleware, environ_of(path)).body()
    assert middleware.stats().open == 0


@PATHS
def test_a_response_that_its_server_drops_gives_its_place_back(path: dict[str, str]) -> None:
    middleware = SSEMiddleware(streaming(), max_streams=1)
    for begins in (False, True) * 2:
        iterable = middleware(environ_of(path), lambda *_: lambda _block: None)
        if begins:
            next(iter(iterable))
        assert middleware.stats().open == 1
        del iterable
        gc.collect()
        assert middleware.stats().open == 0


@PATHS
def test_a_head_request_keeps_no_place(path: dict[str, str]) -> None:
    middleware = SSEMiddleware(streaming(), max_streams=1)
    for _ in range(3):
        response = Response(middleware, environ_of({**path, "REQUEST_METHOD": "HEAD"}))
        assert response.body() == b""
        assert response.status == "200 OK"
    assert middleware.stats().open == 0


def test_a_stream_ends_with_a_line_in_the_log_for_debugging(caplog: pytest.LogCaptureFixture) -> None:
    def application(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        start_response("200 OK", [EVENT_STREAM])
        return [b"data: 1\n\n", b"data: 2\n\n"]

    with caplog.at_level(logging.DEBUG, "ssemiddleware"):
        respond(application, ANNOUNCED).body()
    (line,) = [record for record in caplog.records if record.levelno == logging.DEBUG]
    seconds = float(line.message.split(", ")[1].removesuffix(" s"))
    assert line.message == f"stream ended: application ended, {seconds:.3f} s, 18 bytes, 2 events"


@pytest.mark.parametrize("is_closed", [False, True], ids=["bare", "inside a layer that closes it"])
def test_a_collection_that_ends_a_stream_takes_no_lock_of_the_log(is_closed: bool, caplog: pytest.LogCaptureFixture) -> None:
    """It may run inside of one: that of a ``QueueHandler``'s queue is not reentrant."""
    middleware = SSEMiddleware(streaming())
    with caplog.at_level(logging.DEBUG, "ssemiddleware"):
        iterable = middleware(environ_of(ANNOUNCED), lambda *_: lambda _block: None)
    cycle: list[object] = [closing_layer(iterable) if is_closed else iter(iterable)]
    next(cycle[0])  # type: ignore[call-overload]
    cycle.append(cycle)
    if not is_closed:
        del iterable
    lock, log = threading.Lock(), logging.getLogger("ssemiddleware")

    def handle(record: logging.LogRecord) -> bool:
        assert lock.acquire(timeout=1)
        lock.release()
        return True

    log.addFilter(handle)
    try:
        with caplog.at_level(logging.DEBUG, "ssemiddleware"):
            with lock:
                del cycle
                gc.collect()
            middleware._streams.admission.look()
    finally:
        log.removeFilter(handle)
    (line,) = [record.message for record in caplog.records if "stream ended" in record.message]
    assert line.startswith("stream ended: client gone, ")


def test_max_streams_overrides_the_servers_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    class FourThreads(Server):
        def threads(self) -> int:
            return 4

    monkeypatch.setattr("ssemiddleware.streams.find_server", FourThreads)

    def open_at_most(**options: int) -> int | None:
        middleware = SSEMiddleware(streaming(), **options)  # type: ignore[arg-type]
        Response(middleware, environ_of(ANNOUNCED)).close()
        return middleware.stats().most_streams

    assert open_at_most() == 3
    assert open_at_most(max_streams=10) == 10


@pytest.mark.parametrize(("threads", "streams"), [(1, 1), (2, 1), (3, 2), (4, 3), (8, 6), (10, 8), (32, 24), (100, 75)])
def test_the_last_quarter_of_the_threads_stays_free_and_at_least_one(
    threads: int, streams: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    class WithThreads(Server):
        def threads(self) -> int:
            return threads

    monkeypatch.setattr("ssemiddleware.streams.find_server", WithThreads)
    middleware = SSEMiddleware(streaming())
    Response(middleware, environ_of(ANNOUNCED)).close()
    assert middleware.stats().most_streams == streams


def test_a_preflight_request_is_neither_announced_nor_refused() -> None:
    def application(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        if environ["REQUEST_METHOD"] == "OPTIONS":
            start_response("204 No Content", [("Access-Control-Allow-Headers", "authorization")])
            return []
        return streaming()(environ, start_response)

    middleware = SSEMiddleware(application, max_streams=1, announced=lambda environ: True)
    first = Response(middleware, environ_of({"REQUEST_METHOD": "POST"}))
    preflight = Response(middleware, environ_of({"REQUEST_METHOD": "OPTIONS", "HTTP_ORIGIN": "https://page.example"}))
    assert preflight.body() == b""
    assert (preflight.status, preflight.headers["Access-Control-Allow-Headers"]) == ("204 No Content", "authorization")
    first.close()


def test_a_stream_that_becomes_an_error_page_and_a_stream_again_has_a_place() -> None:
    def application(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        start_response("200 OK", [EVENT_STREAM])
        try:
            raise ValueError
        except ValueError:
            start_response("500 Internal Server Error", [("Content-Type", "text/plain")], sys.exc_info())
            start_response("200 OK", [EVENT_STREAM], sys.exc_info())
        return repeat(b"data: x\n\n")

    middleware = SSEMiddleware(application, max_streams=1)
    response = Response(middleware, environ_of(UNANNOUNCED))
    next(iter(response.iterable))
    assert middleware.stats().open == 1
    response.close()
    assert (middleware.stats().open, sum(middleware.stats().ended.values())) == (0, 1)


def stream_in_a_cycle(middleware: SSEMiddleware) -> list[object]:
    """Return a stream that only a garbage collection ends: the layer outside closes it then."""
    layer = closing_layer(Response(middleware, environ_of(ANNOUNCED)).iterable)
    next(layer)
    cycle: list[object] = [layer]
    cycle.append(cycle)
    return cycle


def test_a_stream_that_a_collection_ends_inside_a_decision_takes_no_lock() -> None:
    middleware = SSEMiddleware(streaming())
    threads = []
    middleware._streams.admission.observe(lambda: threads.append(threading.current_thread()))  # the watcher calls it too

    forgotten = stream_in_a_cycle(middleware)
    with (counted := middleware._streams.admission._counted).lock:
        counted.holder = threading.get_ident()
        threads.clear()
        del forgotten
        gc.collect()
        assert threading.current_thread() not in threads
    assert middleware.stats().open == 0


def test_where_threads_cannot_be_counted_there_is_no_limit() -> None:
    middleware = SSEMiddleware(streaming())
    Response(middleware, environ_of(ANNOUNCED)).close()
    assert middleware.stats().most_streams is None


def test_observers_are_not_called_inside_a_collection_whose_thread_may_hold_their_lock() -> None:
    middleware = SSEMiddleware(streaming())
    lock = threading.Lock()

    def notify() -> None:
        assert lock.acquire(timeout=1)
        lock.release()

    middleware._streams.admission.observe(notify)
    forgotten = stream_in_a_cycle(middleware)
    with lock:
        del forgotten
        gc.collect()
    assert middleware.stats().open == 0
