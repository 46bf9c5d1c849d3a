"""The process stops: a deploy, a reload, or its last request. Streams end as they should, and so does the worker."""

from __future__ import annotations

import re
import signal
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import psutil
import pytest

from .client import Connection, Headers
from .conftest import WRAPPED, Measure, Start, require
from .serving import (
    ANNOUNCED,
    EVENT_SOURCE,
    GUNICORNS,
    UNANNOUNCED,
    WERKZEUG,
    WSGIREF,
    Kind,
    Server,
    gunicorn,
    new_key,
    start,
    waitress,
)  # fmt: skip
from .steps import Step, event, go_on_until_closing, half_an_event, pause, repeat, wait_for_the_end

pytestmark = pytest.mark.live

PROMISED = 2.5  # seconds until most streams to EventSources have ended: half a second, and what a busy machine adds
ENDED_WITHIN = 5.0  # seconds, for any of them; without a drain they would be cut after the grace
BEGUN_WITHIN = 60.0  # seconds: many workers may have to start first
RETRY = 3000  # milliseconds: the default
GRACE = 6  # seconds

SLEEPS = wait_for_the_end(), pause(2)  # as an application that sleeps when the process has to stop, and wakes

# What is open when the process has to go: who asked for it, and what the application does.
STREAMS: dict[str, tuple[Headers, list[Step]]] = {
    "a silent one": (EVENT_SOURCE, [event("hello"), wait_for_the_end()]),
    "one whose application sleeps": (EVENT_SOURCE, [event("hello"), *SLEEPS, event("late")]),
    "one that ticks": (EVENT_SOURCE, [repeat(event("tick"), pause(0.05))]),
    "one of events in halves": (EVENT_SOURCE, [repeat("data: in ", pause(0.1), "halves\n\n", pause(0.02))]),
    "one inside an event": (EVENT_SOURCE, [event("hello"), half_an_event("never ends"), *SLEEPS]),
    "an answer to a client that is no EventSource": (ANNOUNCED, [repeat(event("token"), pause(0.05), times=50), event("done")]),
    "an unannounced answer": (UNANNOUNCED, [repeat(event("token"), pause(0.05), times=50), event("done")]),
    "one that looks at closing": (ANNOUNCED, [event("hello"), go_on_until_closing(0.05, event("tick"))]),
    "an endless one to a client that is no EventSource": (ANNOUNCED, [repeat(event("tick"), pause(0.05))]),
    "an unannounced endless one": (UNANNOUNCED, [repeat(event("tick"), pause(0.05))]),
}
BEGUN = {"one of events in halves": b"in ", "one inside an event": b"ends"}  # how far each has come when the process has to go
TO_EVENT_SOURCES = [name for name, (headers, _) in STREAMS.items() if headers is EVENT_SOURCE and name != "one inside an event"]
ANSWERS = ["an answer to a client that is no EventSource", "an unannounced answer"]
ENDLESS = ["an endless one to a client that is no EventSource", "an unannounced endless one"]


@dataclass(frozen=True)
class Way:
    """How a worker comes to go: a signal to gunicorn's main process, or else its last request."""

    name: str
    signal: signal.Signals | None


@dataclass
class Drained:
    """What was seen of the streams, and when the workers had to stop and did."""

    label: str
    streams: dict[str, Connection]
    stopped_at: dict[str, float]
    gone_after: float
    successor: int | None  # the status of its next response
    output: str

    def ended_after(self, name: str) -> float:
        return self.streams[name].ended_at - self.stopped_at[name]

    def reconnects_after(self, name: str) -> int:
        [milliseconds] = re.findall(rb"retry: ([0-9]+)\n\n\Z", self.streams[name].body)
        return int(milliseconds)


WAYS = [Way("SIGTERM", signal.SIGTERM), Way("SIGHUP", signal.SIGHUP), Way("max_requests", None)]


def worker_of(name: str, way: Way) -> Kind:
    """Return gunicorn with that worker class, and room for all streams; without a signal, the last request drains it."""
    # A sync worker serves one request at a time, so there the stream is itself the last one.
    number = 1 if name == "sync" else len(STREAMS) + 1
    last = () if way.signal else (f"--max-requests={number}",)
    room = {"sync": (f"--workers={len(STREAMS)}", "--preload"), "gthread": ("--threads=20",), "gevent": ()}
    return gunicorn(name, *room[name], *last, f"--graceful-timeout={GRACE}", "--timeout=4")


@pytest.fixture(
    scope="module",
    params=[pytest.param((name, way), id=f"{name}, {way.name}") for name in ("sync", "gthread", "gevent") for way in WAYS],
)
def drained(request: pytest.FixtureRequest, folder: Path) -> Iterator[Drained]:
    """A worker that went with all streams open."""
    name, way = request.param
    kind = worker_of(name, way)
    require(kind)
    server = start(kind, WRAPPED, folder)
    try:
        yield drain(server, way)
    finally:
        server.end()


def drain(server: Server, way: Way) -> Drained:
    keys = {name: new_key() for name in STREAMS}
    streams = {name: server.open(*steps, headers=headers, key=keys[name]) for name, (headers, steps) in STREAMS.items()}
    with ThreadPoolExecutor(len(streams)) as readers:
        if server.kind.name == "gunicorn sync" and not way.signal:  # each is stopped by its own request
            stopped_at = dict(zip(streams, readers.map(read_from_the_start, streams.values()), strict=True))
        else:
            for name, connection in streams.items():
                connection.read_until(BEGUN.get(name, b"\n\n"), within=BEGUN_WITHIN)
            stopped_at = dict.fromkeys(streams, time.monotonic())
            if way.signal:
                server.process.send_signal(way.signal)
            else:
                server.get("/ping")
            list(readers.map(read_as_browsers_do, streams.values()))
    workers = {int(connection.header("X-Process") or "") for connection in streams.values()}
    gone_after = wait_until_gone(workers) - max(stopped_at.values())
    successor = None if way.signal is signal.SIGTERM else server.get("/ping", within=BEGUN_WITHIN).status
    return Drained(f"{server.kind}, {way.name}", streams, stopped_at, gone_after, successor, server.output())


def read_as_browsers_do(connection: Connection) -> None:
    """Read to the end, and keep the connection for other requests, unless the response was cut."""
    connection.read_to_end(within=60)
    if connection.ended == "cut":
        connection.disconnect()


def read_from_the_start(connection: Connection) -> float:
    """The same from the start; return when the first block came."""
    connection.read_until(b"\n", within=BEGUN_WITHIN)
    read_as_browsers_do(connection)
    return connection.arrivals[0].at


def wait_until_gone(workers: set[int]) -> float:
    deadline = time.monotonic() + 60
    while any(psutil.pid_exists(worker) for worker in workers) and time.monotonic() < deadline:
        time.sleep(0.02)
    return time.monotonic()


# -- to EventSources


@pytest.mark.parametrize("name", TO_EVENT_SOURCES)
def test_every_stream_of_an_event_source_ends_cleanly_and_soon(drained: Drained, name: str, measure: Measure) -> None:
    measure(f"stream ended after, {drained.label}", drained.ended_after(name))
    assert drained.streams[name].ended == "cleanly"
    assert drained.ended_after(name) < ENDED_WITHIN


def test_most_streams_end_within_half_a_second(drained: Drained) -> None:
    assert median(drained.ended_after(name) for name in TO_EVENT_SOURCES) < PROMISED


@pytest.mark.parametrize("name", TO_EVENT_SOURCES)
def test_only_whole_events_are_sent(drained: Drained, name: str) -> None:
    events = re.compile(rb"((data: (hello|tick|in halves)|retry: [0-9]+)\n\n)*")
    assert events.fullmatch(drained.streams[name].body), drained.streams[name].body[-200:]


@pytest.mark.parametrize("name", TO_EVENT_SOURCES)
def test_an_event_source_gets_a_time_to_reconnect_last(drained: Drained, name: str) -> None:
    assert RETRY * 0.75 <= drained.reconnects_after(name) <= RETRY * 1.5
    assert drained.streams[name].body.count(b"retry") == 1


def test_refused_clients_do_not_all_reconnect_at_the_same_time(drained: Drained) -> None:
    assert len({drained.reconnects_after(name) for name in TO_EVENT_SOURCES}) > 1


def test_a_stream_whose_event_cannot_be_finished_is_cut(drained: Drained, measure: Measure) -> None:
    connection = drained.streams["one inside an event"]
    measure(f"stream inside an event cut after, {drained.label}", drained.ended_after("one inside an event"))
    if connection.ended == "cut":
        assert connection.body.endswith(b"data: never ends")
    else:  # the worker was going before the application came to it
        assert drained.label == "gunicorn sync, max_requests"
        assert b"never ends" not in connection.body
    assert drained.ended_after("one inside an event") < ENDED_WITHIN


# -- to other clients: nothing is added, and half an answer never ends like a whole one


@pytest.mark.parametrize("name", ANSWERS)
def test_an_answer_is_finished(drained: Drained, name: str) -> None:
    assert drained.streams[name].body == b"data: token\n\n" * 50 + b"data: done\n\n"
    assert drained.streams[name].ended == "cleanly"


def test_an_application_that_looks_at_closing_ends_its_stream_itself(drained: Drained, measure: Measure) -> None:
    name = "one that looks at closing"
    measure(f"stream that looks at closing ended after, {drained.label}", drained.ended_after(name))
    assert re.fullmatch(rb"data: hello\n\n(data: tick\n\n)*", drained.streams[name].body)
    assert drained.streams[name].ended == "cleanly"
    assert drained.ended_after(name) < ENDED_WITHIN


@pytest.mark.parametrize("name", ENDLESS)
def test_an_endless_one_goes_on_and_is_cut_when_the_grace_is_nearly_over(drained: Drained, name: str, measure: Measure) -> None:
    measure(f"endless answer cut after, grace {GRACE} s, {drained.label}", drained.ended_after(name))
    assert drained.streams[name].ended == "cut"
    assert drained.ended_after(name) > GRACE - 2
    assert b"retry" not in drained.streams[name].body


def test_the_worker_is_gone_when_the_grace_is_over(drained: Drained, measure: Measure) -> None:
    measure(f"worker gone after, grace {GRACE} s, {drained.label}", drained.gone_after)
    assert drained.gone_after < GRACE + ENDED_WITHIN + (4 if "TERM" not in drained.label else 0)  # and --timeout


def test_another_worker_takes_over_unless_all_have_to_go(drained: Drained) -> None:
    assert drained.successor == (None if "SIGTERM" in drained.label else 200)


def test_a_drain_logs_no_error(drained: Drained) -> None:
    assert "Traceback" not in drained.output
    assert "Error handling request" not in drained.output


GONE = [
    pytest.param(gunicorn("sync"), 1.2, id="gunicorn sync"),
    pytest.param(gunicorn("gthread", "--threads=20"), 1.2, id="gunicorn gthread"),
    pytest.param(gunicorn("gevent"), 2.0, id="gunicorn gevent"),
]
TRIES = 3  # one of them has to keep the promise, twice over


@pytest.mark.parametrize(("kind", "promised"), GONE)
def test_a_worker_of_event_sources_is_gone_soon(kind: Kind, promised: float, serve: Start, measure: Measure) -> None:
    """Over connections that are kept, as browsers do: gunicorn would wait 2 s for each."""
    seconds = [seconds_until_gone(kind, serve)]
    while min(seconds) > promised and len(seconds) < TRIES:
        seconds.append(seconds_until_gone(kind, serve))
    measure(f"SIGTERM until gone, streams of EventSources, {kind}", min(seconds))
    assert min(seconds) < 2 * promised, seconds  # on a busy machine


def seconds_until_gone(kind: Kind, serve: Start) -> float:
    server = serve(kind)
    streams = [
        server.open(event("hello"), repeat(pause(0.05), event("tick")), headers=EVENT_SOURCE)
        for _ in range(1 if kind.name == "gunicorn sync" else 10)
    ]
    for stream in streams:
        stream.read_until(b"hello")
    stopped_at = time.monotonic()
    server.process.send_signal(signal.SIGTERM)
    for stream in streams:
        stream.read_to_end()
        assert stream.ended == "cleanly"
    server.process.wait(30)
    return time.monotonic() - stopped_at


@pytest.mark.parametrize("kind", GUNICORNS, ids=str)
def test_a_request_after_the_end_on_the_same_connection_is_not_answered_with_another_end(kind: Kind, serve: Start) -> None:
    """The watcher ends the response while the application sleeps; a client that asks again must get no second terminator."""
    server = serve(kind)
    connection = server.open(event("hello"), pause(2), event("late"), headers=EVENT_SOURCE)
    connection.read_until(b"hello")
    server.process.send_signal(signal.SIGTERM)
    body = connection.read_to_end()
    assert connection.ended == "cleanly"
    assert re.fullmatch(rb"data: hello\n\nretry: [0-9]+\n\n", body)
    following = connection.next_request()
    following.send("GET", "/ping", UNANNOUNCED)
    assert following.rest(within=10) == b"", "bytes after the end of the response"


@pytest.mark.parametrize("kind", GUNICORNS, ids=str)
def test_a_stream_in_full_flow_ends_soon(kind: Kind, serve: Start, measure: Measure) -> None:
    server = serve(kind)
    connection = server.open(repeat(event("tick")), headers=EVENT_SOURCE)
    connection.read_until(b"tick")
    connection.read_for(0.3)
    stopped_at = time.monotonic()
    server.process.send_signal(signal.SIGTERM)
    body = connection.read_to_end(within=30)
    measure(f"stream in full flow ended after, {kind}", connection.ended_at - stopped_at)
    assert connection.ended_at - stopped_at < ENDED_WITHIN
    assert connection.ended == "cleanly"
    assert re.search(rb"\Adata: tick\n\n(data: tick\n\n)*retry: [0-9]+\n\n\Z", body)


@pytest.mark.parametrize("kind", [waitress("--threads=10", "--call"), WERKZEUG, WSGIREF], ids=str)
def test_drain_ends_a_stream_when_a_hook_of_the_user_calls_it(kind: Kind, serve: Start, measure: Measure) -> None:
    factory = "live.applications:create_app_with_a_drain_signal"
    server = serve(kind, factory if "waitress" in kind.name else f"{factory}()")
    connection = server.open(*STREAMS["a silent one"][1], headers=EVENT_SOURCE)
    connection.read_until(b"hello")
    stopped_at = time.monotonic()
    server.process.send_signal(signal.SIGUSR1)
    assert re.fullmatch(rb"data: hello\n\nretry: [0-9]+\n\n", connection.read_to_end())
    assert connection.ended == "cleanly"
    assert connection.ended_at - stopped_at < ENDED_WITHIN
    measure(f"stream ended after, {kind}, drain()", connection.ended_at - stopped_at)
