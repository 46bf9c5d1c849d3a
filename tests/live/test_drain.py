"""The process is going: a deploy, a reload, or enough requests served. Streams end in good order, and so does the worker."""

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
from .serving import ANNOUNCED, EVENT_SOURCE, GUNICORNS, INLINE, WERKZEUG, WSGIREF, Kind, Server, gunicorn, start, waitress
from .steps import Step, event, half_an_event, pause, repeat, wait_for_the_end

pytestmark = pytest.mark.live

PROMISED = 1.0  # seconds until most streams have ended; on a busy machine not all make it
ENDED_WITHIN = 5.0  # seconds, for any of them; without a drain they would be cut after 30
GONE_WITHIN = 10.0  # seconds; three are usual, gunicorn lingers for two of them, and the grace period has 30
BEGUN_WITHIN = 60.0  # seconds: six workers may have to start first
RETRY = 3000  # milliseconds: the default

# What is open when the process has to go: who asked for it, and what the application does.
STREAMS: dict[str, tuple[Headers, list[Step]]] = {
    "a silent one": (EVENT_SOURCE, [event("hello"), wait_for_the_end()]),
    "one that ticks": (EVENT_SOURCE, [repeat(event("tick"), pause(0.05))]),
    "one of events in halves": (EVENT_SOURCE, [repeat("data: in ", pause(0.1), "halves\n\n", pause(0.02))]),
    "one to a client that is no EventSource": (ANNOUNCED, [repeat(event("tick"), pause(0.05))]),
    "an inline one that ticks": (INLINE, [repeat(event("tick"), pause(0.05))]),
    "one inside an event": (EVENT_SOURCE, [event("hello"), half_an_event("never ends"), pause(20)]),
}
BEGUN = {"one of events in halves": b"in ", "one inside an event": b"ends"}  # how far each has come when the process has to go
ENDED = [name for name in STREAMS if name != "one inside an event"]
TO_EVENT_SOURCES = [name for name in ENDED if STREAMS[name][0] is EVENT_SOURCE]

GRACE = ("--graceful-timeout=30", "--timeout=60")


@dataclass(frozen=True)
class Way:
    """How a worker comes to go: a signal to gunicorn's main process, or else its last request."""

    name: str
    signal: signal.Signals | None


@dataclass
class Drained:
    """What was seen of the streams, and when the workers were told and gone."""

    label: str
    streams: dict[str, Connection]
    told_at: dict[str, float]
    gone_after: float
    successor: int | None  # the status of its next response
    output: str

    def ended_after(self, name: str) -> float:
        return self.streams[name].ended_at - self.told_at[name]

    def comes_back_after(self, name: str) -> int:
        [milliseconds] = re.findall(rb"retry: ([0-9]+)\n\n\Z", self.streams[name].body)
        return int(milliseconds)


WAYS = [Way("SIGTERM", signal.SIGTERM), Way("SIGHUP", signal.SIGHUP), Way("max_requests", None)]


def worker_of(name: str, way: Way) -> Kind:
    """Return gunicorn with that worker class, and room for all streams; without a signal, the last request drains it."""
    # A sync worker serves one request at a time, so there the stream is itself the last one.
    number = 1 if name == "sync" else len(STREAMS) + 1
    last = () if way.signal else (f"--max-requests={number}",)
    room = {"sync": (f"--workers={len(STREAMS)}",), "gthread": ("--threads=10",), "gevent": ()}
    return gunicorn(name, *room[name], *last, *GRACE)


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
    streams = {name: server.open(*steps, headers=headers) for name, (headers, steps) in STREAMS.items()}
    with ThreadPoolExecutor(len(streams)) as readers:
        if server.kind.name == "gunicorn sync" and not way.signal:  # each is told by its own request
            told_at = dict(zip(streams, readers.map(read_from_the_opening, streams.values()), strict=True))
        else:
            for name, connection in streams.items():
                connection.read_until(BEGUN.get(name, b"\n\n"), within=BEGUN_WITHIN)
            told_at = dict.fromkeys(streams, time.monotonic())
            if way.signal:
                server.process.send_signal(way.signal)
            else:
                server.get("/ping")
            list(readers.map(read_as_browsers_do, streams.values()))
    workers = {int(connection.header("X-Process") or "") for connection in streams.values()}
    gone_after = wait_until_gone(workers) - max(told_at.values())
    successor = None if way.signal is signal.SIGTERM else server.get("/ping", within=BEGUN_WITHIN).status
    return Drained(f"{server.kind}, {way.name}", streams, told_at, gone_after, successor, server.output())


def read_as_browsers_do(connection: Connection) -> None:
    """Read to the end, and keep the connection for other requests, unless the response was cut."""
    connection.read_to_end(within=30)
    if connection.ended == "cut":
        connection.leave()


def read_from_the_opening(connection: Connection) -> float:
    """The same from the start; return when the first block came."""
    connection.read_until(b"\n", within=BEGUN_WITHIN)
    read_as_browsers_do(connection)
    return connection.arrivals[0].at


def wait_until_gone(workers: set[int]) -> float:
    deadline = time.monotonic() + 2 * GONE_WITHIN
    while any(psutil.pid_exists(worker) for worker in workers) and time.monotonic() < deadline:
        time.sleep(0.02)
    return time.monotonic()


@pytest.mark.parametrize("name", ENDED)
def test_every_stream_ends_cleanly_and_soon(drained: Drained, name: str, measure: Measure) -> None:
    measure(f"stream ended after, {drained.label}", drained.ended_after(name))
    assert drained.streams[name].ended == "cleanly"
    assert drained.ended_after(name) < ENDED_WITHIN


def test_streams_end_within_a_second(drained: Drained) -> None:
    assert median(drained.ended_after(name) for name in ENDED) < PROMISED


@pytest.mark.parametrize("name", ENDED)
def test_only_whole_events_leave(drained: Drained, name: str) -> None:
    events = re.compile(rb"(:\n)*((data: (hello|tick|in halves)|retry: [0-9]+)\n\n)*")
    assert events.fullmatch(drained.streams[name].body), drained.streams[name].body[-200:]


@pytest.mark.parametrize("name", TO_EVENT_SOURCES)
def test_an_event_source_is_told_last_when_to_come_back(drained: Drained, name: str) -> None:
    assert RETRY * 0.75 <= drained.comes_back_after(name) <= RETRY * 1.5
    assert drained.streams[name].body.count(b"retry") == 1


def test_not_all_are_told_to_come_back_at_the_same_time(drained: Drained) -> None:
    assert len({drained.comes_back_after(name) for name in TO_EVENT_SOURCES}) > 1


@pytest.mark.parametrize("name", [name for name in ENDED if name not in TO_EVENT_SOURCES])
def test_a_client_that_is_no_event_source_is_told_nothing(drained: Drained, name: str) -> None:
    assert b"retry" not in drained.streams[name].body


def test_a_stream_whose_event_cannot_be_finished_is_cut(drained: Drained, measure: Measure) -> None:
    connection = drained.streams["one inside an event"]
    measure(f"stream inside an event cut after, {drained.label}", drained.ended_after("one inside an event"))
    if connection.ended == "cut":
        assert connection.body.endswith(b"data: never ends")
    else:  # the worker was going before the application came to it
        assert drained.label == "gunicorn sync, max_requests"
        assert b"never ends" not in connection.body
    assert drained.ended_after("one inside an event") < ENDED_WITHIN


def test_the_worker_is_gone_long_before_its_grace_period_ends(drained: Drained, measure: Measure) -> None:
    measure(f"worker gone after, {drained.label}", drained.gone_after)
    assert drained.gone_after < GONE_WITHIN


def test_another_worker_takes_over_unless_all_have_to_go(drained: Drained) -> None:
    assert drained.successor == (None if "SIGTERM" in drained.label else 200)


def test_nothing_of_it_is_an_error_in_the_log(drained: Drained) -> None:
    assert "Traceback" not in drained.output
    assert "[ERROR]" not in drained.output


@pytest.mark.parametrize("kind", GUNICORNS, ids=str)
def test_a_stream_in_full_flow_ends_soon(kind: Kind, serve: Start, measure: Measure) -> None:
    server = serve(kind)
    connection = server.open(repeat(event("tick")), headers=EVENT_SOURCE)
    connection.read_until(b"tick")
    connection.read_for(0.3)
    told_at = time.monotonic()
    server.process.send_signal(signal.SIGTERM)
    body = connection.read_to_end(within=30)
    measure(f"stream in full flow ended after, {kind}", connection.ended_at - told_at)
    assert connection.ended_at - told_at < ENDED_WITHIN
    assert connection.ended == "cleanly"
    assert re.search(rb"\Adata: tick\n\n(data: tick\n\n)*retry: [0-9]+\n\n\Z", body.removeprefix(b":\n"))


@pytest.mark.parametrize("kind", [waitress("--threads=10", "--call"), WERKZEUG, WSGIREF], ids=str)
def test_drain_ends_a_stream_for_anyone_with_a_hook_of_their_own(kind: Kind, serve: Start, measure: Measure) -> None:
    factory = "live.applications:create_app_with_a_drain_signal"
    server = serve(kind, factory if "waitress" in kind.name else f"{factory}()")
    connection = server.open(*STREAMS["a silent one"][1], headers=EVENT_SOURCE)
    connection.read_until(b"hello")
    told_at = time.monotonic()
    server.process.send_signal(signal.SIGUSR1)
    assert re.fullmatch(rb":\ndata: hello\n\nretry: [0-9]+\n\n", connection.read_to_end())
    assert connection.ended == "cleanly"
    assert connection.ended_at - told_at < ENDED_WITHIN
    measure(f"stream ended after, {kind}, drain()", connection.ended_at - told_at)


def test_a_sync_worker_with_a_short_timeout_survives_a_silent_stream(serve: Start) -> None:
    # Preloaded, since a worker that starts says nothing of itself either.
    server = serve(gunicorn("sync", "--timeout=4", "--preload"))
    connection = server.open(event("hello"), pause(10), event("still here"))
    assert connection.read_to_end(within=60) == b":\ndata: hello\n\ndata: still here\n\n"
    assert connection.ended == "cleanly"
    assert "WORKER TIMEOUT" not in server.output()
