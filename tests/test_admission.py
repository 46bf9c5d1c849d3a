"""`ssemiddleware.admission`: who gets a place, who is sent away and how, and who is ended when memory stays critical."""

from __future__ import annotations

import gc
import logging
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from itertools import repeat
from typing import TYPE_CHECKING
from wsgiref.validate import validator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ssemiddleware import MemoryGovernor, SSEMiddleware, Stream
from ssemiddleware.admission import Admission, Place
from ssemiddleware.hand_off import HandOff

from .applications import (
    ANNOUNCED,
    EVENT_SOURCE,
    EVENT_STREAM,
    Response,
    application_of,
    environ_of,
    respond,
    respond_unchecked,
)
from .clock import Clock

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment

INLINE = {"HTTP_ACCEPT": "*/*"}


class Memory:
    """Memory that is as full as a test says."""

    def __init__(self) -> None:
        self.share, self.clock = 0.0, Clock()
        self.governor = MemoryGovernor(read=lambda: (round(1000 * self.share), 1000), clock=self.tick)

    def tick(self) -> float:
        self.clock.now += 1  # so that each look reads
        return self.clock.now


def admission(limit: int | None = None, memory: Memory | None = None, clock: Clock | None = None) -> Admission:
    return Admission(limit=lambda environ: limit, memory=None if memory is None else memory.governor, clock=clock or Clock())


def admit(to: Admission, reason: str = "application ended") -> Place:
    stream = Stream()
    stream.reason = reason
    place = to.maybe_admit({}, stream)
    assert place is not None
    return place


# -- places


def test_there_are_as_many_places_as_the_limit_says() -> None:
    places = admission(3)
    given = [admit(places) for _ in range(3)]
    assert places.maybe_admit({}, Stream()) is None
    given[1].leave()
    admit(places)
    assert places.maybe_admit({}, Stream()) is None
    assert (places.stats().open, places.stats().shed) == (3, 2)


def test_a_place_is_given_back_once() -> None:
    places = admission(2)
    first, _ = admit(places), admit(places)
    for _ in range(3):
        first.leave()
    assert places.stats().open == 1
    assert places.stats().ended == {"application ended": 1}


def test_without_a_limit_everyone_gets_a_place() -> None:
    places = admission()
    assert len({id(admit(places)) for _ in range(1000)}) == places.stats().open == 1000


def test_a_limit_may_differ_from_request_to_request() -> None:
    places = Admission(limit=lambda environ: environ["limit"])
    for _ in range(2):
        assert places.maybe_admit({"limit": 2}, Stream())
    assert places.maybe_admit({"limit": 2}, Stream()) is None
    assert places.maybe_admit({"limit": 3}, Stream())


def test_admissions_that_share_a_limit_count_together() -> None:
    both = [Admission(limit=lambda environ: 3, counts_all=True) for _ in range(2)]
    alone = admission(3)
    for _ in range(3):
        admit(alone)
    given_places = [admit(both[0]), admit(both[0]), admit(both[1])]
    assert both[0].maybe_admit({}, Stream()) is None
    assert both[1].maybe_admit({}, Stream()) is None
    given_places[0].leave()
    given_places.append(admit(both[1]))
    assert (both[0].stats().open, both[1].stats().open) == (1, 2)
    for place in given_places:
        place.leave()
    assert (both[0].stats().open, both[1].stats().open) == (0, 0)


@given(st.lists(st.booleans()), st.integers(1, 5))
def test_the_count_is_exact_whoever_comes_and_goes(comes: list[bool], limit: int) -> None:
    places, open_places, shed = admission(limit), list[Place](), 0
    for come in comes:
        if come:
            place = places.maybe_admit({}, Stream())
            if place is None:
                shed += 1
            else:
                open_places.append(place)
        elif open_places:
            open_places.pop().leave()
        stats = places.stats()
        assert stats.open == len(open_places) <= limit
        assert stats.shed == shed


def test_admissions_that_share_a_limit_never_exceed_it_among_threads() -> None:
    both = [Admission(limit=lambda environ: 5, counts_all=True) for _ in range(2)]
    held, most = list[Place](), list[int]()

    def come_and_go(places: Admission) -> None:
        for _ in range(1000):
            place = places.maybe_admit({}, Stream())
            if place is not None:
                held.append(place)
                most.append(len(held))
                time.sleep(0)
                held.remove(place)
                place.leave()

    threads = [threading.Thread(target=come_and_go, args=(both[number % 2],)) for number in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert max(most) <= 5  # rarely fewer: the threads may have come one after the other
    assert [places.stats().open for places in both] == [0, 0]
    given_places = [admit(both[0]) for _ in range(5)]
    assert both[1].maybe_admit({}, Stream()) is None
    for place in given_places:
        place.leave()


def test_the_count_is_exact_among_threads() -> None:
    places, most = admission(5), list[int]()

    def come_and_go() -> None:
        for _ in range(300):
            place = places.maybe_admit({}, Stream())
            most.append(places.stats().open)
            if place is not None:
                place.leave()

    threads = [threading.Thread(target=come_and_go) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    stats = places.stats()
    assert max(most) <= 5
    assert stats.open == 0
    assert sum(stats.ended.values()) + stats.shed == 8 * 300


def test_a_place_may_be_left_inside_a_garbage_collection_that_admitting_sets_off() -> None:
    places = admission()

    class Cycle:
        def __init__(self) -> None:
            self.itself, self.place = self, admit(places)

        def __del__(self) -> None:
            self.place.leave()

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
places = Admission(limit=lambda environ: 1)
place = places.maybe_admit({}, Stream())
assert places._counted._lock.acquire()  # as a thread of the parent may hold it
child = os.fork()
if child == 0:
    place.leave()  # the parent's
    own = places.maybe_admit({}, Stream())
    os._exit(0 if own and places.stats().open == 1 and not places.stats().ended else 1)
places._counted._lock.release()
assert os.waitpid(child, 0)[1] == 0, "the child counts its parent's streams"
assert places.stats().open == 1
"""


def test_each_process_counts_its_own_streams() -> None:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    subprocess.run([sys.executable, "-c", FORKS], env=environment, check=True, timeout=60)


# -- when to come back


def test_a_client_is_told_to_come_back_with_jitter() -> None:
    places = admission()
    times = {places.next_retry() for _ in range(200)}
    assert 2250 <= min(times) < 2700
    assert 3900 < max(times) <= 4500


def test_who_is_shed_stays_away_the_longer_the_more_are_shed_and_this_fades() -> None:
    clock = Clock()
    places = admission(10, clock=clock)
    for _ in range(10):
        admit(places)

    def median_retry() -> int:
        return sorted(places.next_retry() for _ in range(201))[100]

    calm = median_retry()
    for _ in range(20):
        places.maybe_admit({}, Stream())
    pressed = median_retry()
    for _ in range(1000):
        places.maybe_admit({}, Stream())
    most = median_retry()
    clock.now += 100
    assert 2.5 * calm < pressed < most < 10 * calm
    assert median_retry() < 1.2 * calm


# -- memory


def test_none_is_admitted_while_memory_is_critical() -> None:
    memory = Memory()
    places = admission(memory=memory)
    memory.share = 0.91
    admit(places)
    memory.share = 0.92
    assert places.maybe_admit({}, Stream()) is None
    memory.share = 0.91
    admit(places)


def test_nobody_is_locked_out_for_good_by_memory_that_does_not_fall() -> None:
    memory = Memory()
    memory.share = 1.5
    places = admission(memory=memory)
    first = admit(places)
    assert places.maybe_admit({}, Stream()) is None
    first.leave()
    admit(places)


def open_places(places: Admission, held: Iterable[int]) -> list[Place]:
    """Open streams that hold so many bytes each."""
    found = []
    for size in held:
        place = admit(places)
        place.hand_off = HandOff(read_ahead=10**9, max_block=100)
        place.hand_off.hand_over(b"x" * size) if size else None
        found.append(place)
    return found


def ended(streams: list[Place]) -> list[int]:
    return [index for index, place in enumerate(streams) if place.must_end]


def test_when_memory_stays_critical_the_hungriest_streams_end_one_by_one() -> None:
    memory, now = Memory(), 1000.0
    places = admission(memory=memory)
    streams = open_places(places, [10, 30, 0, 20])
    memory.share = 0.95
    seen = {}
    for _ in range(60):
        places.relieve(now)
        seen[round(now - 1000.0, 1)] = ended(streams)
        now += 0.1
    assert seen[1.9] == []
    assert seen[2.0] == [1]
    assert seen[2.4] == [1]
    assert seen[2.5] == [1, 3]
    assert seen[3.0] == seen[5.9] == [0, 1, 3], "who holds and pulls nothing is left alone"


def test_who_pulls_much_is_hungry_too_although_it_holds_little() -> None:
    memory = Memory()
    places = admission(memory=memory)
    streams = open_places(places, [50, 10])
    for place in streams:
        place.carried.bytes_in = 10**6  # long ago
    memory.share = 0.95
    places.relieve(1000.0)
    streams[1].carried.bytes_in += 100
    places.relieve(1002.0)
    assert ended(streams) == [1]


def test_who_comes_long_after_others_is_not_ended_for_what_they_saw() -> None:
    memory = Memory()
    places = admission(memory=memory)
    memory.share = 0.95
    places.relieve(1000.0)
    streams = open_places(places, [10])  # an hour later; nobody has looked meanwhile
    places.relieve(4600.0)
    places.relieve(4601.9)
    assert ended(streams) == []
    places.relieve(4602.0)
    assert ended(streams) == [0]


def test_no_stream_ends_once_memory_has_fallen() -> None:
    memory = Memory()
    places = admission(memory=memory)
    streams = open_places(places, [10, 20])
    memory.share = 0.95
    places.relieve(1000.0)
    memory.share = 0.91
    places.relieve(1001.9)
    memory.share = 0.95
    places.relieve(1002.0)
    places.relieve(1003.9)
    assert ended(streams) == []
    places.relieve(1004.0)
    assert ended(streams) == [1]


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


PATHS = pytest.mark.parametrize("path", [ANNOUNCED, INLINE], ids=["announced", "inline"])
BEHAVIOURS = pytest.mark.parametrize("lazily", [False, True], ids=["at once", "lazily"])


@PATHS
@BEHAVIOURS
def test_an_event_source_that_gets_no_stream_is_told_when_to_come_back(path: dict[str, str], lazily: bool) -> None:
    middleware = SSEMiddleware(streaming(lazily=lazily), max_streams=1, announced=lambda environ: path is ANNOUNCED)
    first = Response(middleware, environ_of(EVENT_SOURCE))
    blocks = first.blocks()
    next(blocks)
    shed = Response(middleware, environ_of(EVENT_SOURCE))
    body = shed.body()
    assert shed.status == "200 OK"
    assert shed.headers["Content-Type"] == "text/event-stream; charset=utf-8"
    assert shed.headers["X-Accel-Buffering"] == "no"
    assert body.startswith(b"retry: ")
    assert body.endswith(b"\n\n")
    assert 2000 < int(body[7:]) < 10000
    first.close()
    again = Response(middleware, environ_of(EVENT_SOURCE))
    assert next(again.blocks()) in (b":\n", b"data: x\n\n")
    again.close()
    assert (middleware.stats().open, middleware.stats().shed) == (0, 1)


@PATHS
@BEHAVIOURS
def test_any_other_client_that_gets_no_stream_gets_503(path: dict[str, str], lazily: bool) -> None:
    closed: list[str] = []
    middleware = SSEMiddleware(validator(streaming(closed, lazily)), max_streams=1)
    first = Response(middleware, environ_of(path))
    blocks = first.blocks()
    while not next(blocks):
        pass
    shed = Response(validator(middleware), environ_of(path))
    body = shed.body()
    assert shed.status == "503 Service Unavailable"
    assert 2 < int(shed.headers["Retry-After"]) < 10
    assert shed.headers["Content-Type"] == "text/plain; charset=utf-8"
    assert int(shed.headers["Content-Length"]) == len(body) > 0
    assert len(closed) == (0 if path is ANNOUNCED else lazily), "an iterable that never began has nothing to close"
    first.close()


OTHER_ORIGIN = {"HTTP_ORIGIN": "https://page.example"}


@PATHS
@pytest.mark.parametrize("client", [EVENT_SOURCE, {"HTTP_ACCEPT": "*/*"}], ids=["EventSource", "other client"])
def test_a_page_of_another_origin_may_read_that_it_is_shed(path: dict[str, str], client: dict[str, str]) -> None:
    application = application_of(repeat(b"data: x\n\n"), EVENT_STREAM, ("Access-Control-Allow-Origin", "*"))
    middleware = SSEMiddleware(application, max_streams=1, announced=lambda environ: path is ANNOUNCED)
    first = Response(middleware, environ_of({**EVENT_SOURCE, **OTHER_ORIGIN}))
    next(iter(first.iterable))
    shed = Response(validator(middleware), environ_of({**client, **OTHER_ORIGIN}))
    shed.body()
    assert shed.status[:3] == ("200" if client is EVENT_SOURCE else "503")
    assert shed.headers["Access-Control-Allow-Origin"] == "https://page.example"
    assert shed.headers["Access-Control-Allow-Credentials"] == "true"
    assert shed.headers["Access-Control-Expose-Headers"] == "Retry-After"
    assert shed.headers["Vary"] == "Origin"
    of_the_site = Response(validator(middleware), environ_of(client))
    of_the_site.body()
    assert not any(name.startswith("Access-Control") for name in of_the_site.headers)
    first.close()


@pytest.mark.parametrize(
    ("method", "header", "is_left_to_others"),
    [("GET", "X-Other", True), ("GET", "access-control-allow-origin", False), ("POST", "X-Other", False)],
)
def test_other_origins_are_left_to_a_proxy_where_the_application_does_so(
    method: str, header: str, is_left_to_others: bool
) -> None:
    application = application_of(repeat(b"data: x\n\n"), EVENT_STREAM, (header, "https://page.example"))
    middleware = SSEMiddleware(application, max_streams=1)
    asking = {**EVENT_SOURCE, **OTHER_ORIGIN, "REQUEST_METHOD": method}
    first = Response(middleware, environ_of(asking))
    next(iter(first.iterable))
    shed = Response(middleware, environ_of(asking))
    assert shed.body().startswith(b"retry: ")
    assert ("Access-Control-Allow-Origin" not in shed.headers) is is_left_to_others
    first.close()


def test_a_page_that_is_not_allowed_locks_no_other_out() -> None:
    application = application_of(repeat(b"data: x\n\n"), EVENT_STREAM)
    middleware = SSEMiddleware(application, max_streams=1)
    first = Response(middleware, environ_of({**EVENT_SOURCE, "HTTP_ORIGIN": "https://other.example"}))
    next(iter(first.iterable))
    shed = Response(middleware, environ_of({**EVENT_SOURCE, **OTHER_ORIGIN}))
    shed.body()
    assert shed.headers["Access-Control-Allow-Origin"] == "https://page.example"
    first.close()


def test_an_application_that_allows_one_origin_and_not_another_answers_for_all() -> None:
    def application(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        allowed = [("Access-Control-Allow-Origin", "https://page.example")]
        start_response("200 OK", [EVENT_STREAM, *(allowed if environ["HTTP_ORIGIN"] == "https://page.example" else [])])
        return repeat(b"data: x\n\n")

    middleware = SSEMiddleware(application, max_streams=1)
    for origin in ("https://other.example", "https://page.example", "https://other.example"):
        stream = Response(middleware, environ_of({**EVENT_SOURCE, "HTTP_ORIGIN": origin}))
        next(iter(stream.iterable))
        stream.close()
    holder = Response(middleware, environ_of({**EVENT_SOURCE, **OTHER_ORIGIN}))
    next(iter(holder.iterable))
    shed = Response(middleware, environ_of({**EVENT_SOURCE, **OTHER_ORIGIN}))
    shed.body()
    assert shed.headers["Access-Control-Allow-Origin"] == "https://page.example"
    holder.close()


@BEHAVIOURS
def test_an_announced_request_that_is_shed_never_reaches_the_application(lazily: bool) -> None:
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
    """An iterable that tells whether it was closed."""

    def __init__(self) -> None:
        self.closed = 0

    def __iter__(self) -> Iterator[bytes]:
        raise AssertionError("iterated although the request was shed")

    def close(self) -> None:
        self.closed += 1


def test_the_iterable_of_an_inline_request_that_is_shed_is_closed_and_never_iterated() -> None:
    iterable = Closing()

    def application(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        write = start_response("200 OK", [EVENT_STREAM])
        write(b"data: dropped\n\n")
        return streaming()(environ, lambda *_: write) if environ["PATH_INFO"] == "/first" else iterable

    middleware = SSEMiddleware(application, max_streams=1)
    first = Response(middleware, environ_of({**INLINE, "PATH_INFO": "/first"}))
    shed = Response(middleware, environ_of(INLINE))
    assert b"dropped" not in shed.body()
    assert shed.status.startswith("503")
    assert iterable.closed == 1
    first.close()


@PATHS
def test_what_is_no_event_stream_needs_no_place(path: dict[str, str]) -> None:
    def application(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        start_response("200 OK", [("Content-Type", "text/html")])
        return iter([b"page"])

    middleware = SSEMiddleware(application, max_streams=1)
    open_responses = [Response(middleware, environ_of(path)) for _ in range(3)]
    assert [response.body() for response in open_responses] == [b"page"] * 3
    stats = middleware.stats()
    assert (stats.open, stats.shed, dict(stats.ended)) == (0, 0, {})


def test_an_error_page_in_place_of_an_event_stream_gives_its_place_back() -> None:
    def application(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        start_response("200 OK", [EVENT_STREAM])
        try:
            raise KeyError("no such event")
        except KeyError:
            start_response("500 Oops", [("Content-Type", "text/plain")], sys.exc_info())
        return [b"oops"]

    middleware = SSEMiddleware(validator(application), max_streams=1)
    for path in (INLINE, ANNOUNCED) * 2:
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
def test_a_server_that_forgets_the_response_gives_its_place_back(path: dict[str, str]) -> None:
    middleware = SSEMiddleware(streaming(), max_streams=1)
    for begins in (False, True) * 2:
        response = Response(middleware, environ_of(path))
        if begins:
            next(iter(response.iterable))
        del response
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


@pytest.mark.parametrize("given", [EVENT_SOURCE, ANNOUNCED], ids=["event source", "other"])
def test_a_head_request_that_is_shed_has_no_body(given: dict[str, str]) -> None:
    middleware, first = one_stream_open(streaming())
    assert Response(validator(middleware), environ_of({**given, "REQUEST_METHOD": "HEAD"})).body() == b""
    first.close()


@PATHS
def test_on_shed_answers_in_place_of_the_middleware(path: dict[str, str]) -> None:
    def on_shed(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        start_response("429 Too Many Requests", [("Content-Type", "text/plain")])
        return [f"back in {environ['ssemiddleware.retry']} ms".encode()]

    middleware = SSEMiddleware(streaming(), max_streams=1, on_shed=on_shed)
    first = Response(middleware, environ_of(path))
    next(iter(first.iterable))
    shed = Response(middleware, environ_of(path))
    assert shed.body().startswith(b"back in ")
    assert shed.status.startswith("429")
    first.close()


def test_the_first_request_that_is_shed_is_told_about(caplog: pytest.LogCaptureFixture) -> None:
    middleware, first = one_stream_open(streaming())
    for _ in range(3):
        Response(middleware, environ_of({**ANNOUNCED, "PATH_INFO": "/news"})).body()
    first.close()
    (line,) = [record.message for record in caplog.records if "sent away" in record.message]
    assert line.startswith("/news was sent away")
    assert "max_streams=" in line


@PATHS
def test_a_stream_that_must_end_ends_behind_its_event(path: dict[str, str]) -> None:
    memory = Memory()
    middleware = SSEMiddleware(streaming(), memory=memory.governor, announced=lambda environ: path is ANNOUNCED)
    response = Response(middleware, environ_of(EVENT_SOURCE))
    blocks = response.blocks()
    next(blocks)
    (place,) = middleware._admission._open
    place.must_end = True
    body = b"".join(blocks)
    assert body.endswith(b"\n\n")
    assert body.rpartition(b"retry: ")[0].endswith(b"data: x\n\n")
    assert place.stream.reason == "shed"
    assert dict(middleware.stats().ended) == {"shed": 1}


def test_a_stream_ends_with_a_line_in_the_log_for_debugging(caplog: pytest.LogCaptureFixture) -> None:
    def application(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        start_response("200 OK", [EVENT_STREAM])
        return [b"data: 1\n\n", b"data: 2\n\n"]

    with caplog.at_level(logging.DEBUG, "ssemiddleware"):
        respond(application, ANNOUNCED).body()
    (line,) = [record for record in caplog.records if record.levelno == logging.DEBUG]
    seconds = float(line.message.split(", ")[1].removesuffix(" s"))
    assert line.message == f"stream ended: application ended, {seconds:.3f} s, 20 bytes, 2 events"


def test_max_streams_wins_over_the_servers_threads(caplog: pytest.LogCaptureFixture) -> None:
    class Channel:
        class server:
            class adj:
                threads = 4

        def check(self) -> bool:
            return False

    environ = {"waitress.client_disconnected": Channel().check}

    def open_at_most(**options: int) -> int | None:
        middleware = SSEMiddleware(streaming(), **options)  # type: ignore[arg-type]
        Response(middleware, {**environ_of(ANNOUNCED), **environ}).close()
        return middleware.stats().most_streams

    with caplog.at_level(logging.INFO, "ssemiddleware"):
        assert open_at_most() == 3
        assert open_at_most(max_streams=10) == 10
    (line,) = [record.message for record in caplog.records if record.levelno == logging.INFO]
    assert line.startswith("at most 3 event streams at a time in this process, so that 1 of its 4 threads stay free")


@pytest.mark.parametrize(("threads", "streams"), [(1, 1), (2, 1), (3, 2), (4, 3), (8, 6), (10, 8), (32, 24), (100, 75)])
def test_the_last_quarter_of_the_threads_stays_free_and_at_least_one(threads: int, streams: int) -> None:
    middleware = SSEMiddleware(streaming())
    middleware._limit_streams(threads)
    Response(middleware, environ_of(ANNOUNCED)).close()
    assert middleware.stats().most_streams == streams


def test_a_server_with_one_thread_is_told_so(caplog: pytest.LogCaptureFixture) -> None:
    middleware = SSEMiddleware(streaming())
    with caplog.at_level(logging.INFO, "ssemiddleware"):
        middleware._limit_streams(1)
    assert [record.message for record in caplog.records] == [
        "one event stream at a time takes the only thread of this process: give the server more threads"
    ]


def test_a_preflight_request_is_neither_announced_nor_shed() -> None:
    def application(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        if environ["REQUEST_METHOD"] == "OPTIONS":
            start_response("204 No Content", [("Access-Control-Allow-Headers", "authorization")])
            return []
        return streaming()(environ, start_response)

    middleware = SSEMiddleware(application, max_streams=1, announced=lambda environ: True)
    first = Response(middleware, environ_of({"REQUEST_METHOD": "POST"}))
    preflight = Response(middleware, environ_of({"REQUEST_METHOD": "OPTIONS", **OTHER_ORIGIN}))
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
    response = Response(middleware, environ_of(INLINE))
    next(iter(response.iterable))
    assert middleware.stats().open == 1
    response.close()
    assert (middleware.stats().open, sum(middleware.stats().ended.values())) == (0, 1)


def test_a_stream_that_a_collection_ends_inside_a_decision_waits_for_nobody() -> None:
    middleware = SSEMiddleware(streaming())
    told = []
    middleware._admission.observers.append(lambda has_changed: told.append(middleware.stats().open))

    def outer(iterable: Iterable[bytes]) -> Iterator[bytes]:
        try:
            yield from iterable
        finally:
            iterable.close()  # type: ignore[attr-defined]  # a layer outside that closes what it wraps

    response = Response(middleware, environ_of(ANNOUNCED))
    forgotten = [outer(response.iterable)]
    next(forgotten[0])
    forgotten.append(forgotten)  # type: ignore[arg-type]
    with middleware._admission._counted.deciding():
        before = len(told)
        del forgotten, response
        gc.collect()
        assert len(told) == before
    assert middleware.stats().open == 0


def test_where_threads_cannot_be_counted_there_is_no_limit() -> None:
    response = respond_unchecked(streaming(), ANNOUNCED)
    middleware = SSEMiddleware(streaming())
    Response(middleware, environ_of(ANNOUNCED)).close()
    assert middleware.stats().most_streams is None
    response.close()
