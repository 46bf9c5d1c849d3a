"""One of many processes answers Prometheus for all of them."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest
from prometheus_client.parser import text_string_to_metric_families as parse

from ssemiddleware.ending import REASONS

from .client import PATIENCE, Connection, Headers, TooLate
from .conftest import Start
from .serving import ANNOUNCED, EVENT_SOURCE, PATHS, Kind, Server, gunicorn, new_key
from .steps import Step, event, repeat, wait_for_release, wait_for_the_end

pytestmark = pytest.mark.live

EVENTS = 10
WORKERS = "--workers=2", "--threads=10", "--timeout=120", "--config=python:live.metrics_application"
KINDS = [
    gunicorn("gthread", *WORKERS, name="gunicorn gthread with two workers"),
    gunicorn("gthread", *WORKERS, "--preload", name="gunicorn gthread with two workers, preloaded"),
    gunicorn("gevent", *WORKERS, name="gunicorn gevent with two workers"),
]
Numbers = dict[str, dict[str, float]]  # by name, and by the value of the label


@pytest.fixture(params=KINDS, ids=str)
def server(request: pytest.FixtureRequest, serve: Start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Server:
    monkeypatch.setenv("PROMETHEUS_MULTIPROC_DIR", str(tmp_path))
    kind: Kind = request.param
    server = serve(kind, "live.metrics_application:app_with_metrics")
    server.workers(2)
    return server


def numbers(server: Server) -> Numbers:
    """Return what /metrics shows of the application that plays."""
    found: Numbers = {}
    for family in parse(server.get("/metrics").body.decode()):
        for sample in family.samples:
            if sample.labels.pop("application") == "play":
                found.setdefault(sample.name, {})["".join(sample.labels.values())] = sample.value
    return found


def numbers_once(server: Server, holds: Callable[[Numbers], object]) -> Numbers:
    deadline = time.monotonic() + PATIENCE
    while not holds(found := numbers(server)):
        if time.monotonic() > deadline:
            raise TooLate(f"not within {PATIENCE} s: {found}")
        time.sleep(0.05)
    return found


def open_streams(server: Server, headers: Headers, wait: Step | None = None) -> dict[psutil.Process, dict[str, Connection]]:
    """Return two streams that are open in each worker, after their events, and *wait*, for a release, say, by their keys."""
    streams = {}
    steps = repeat(event("one"), times=EVENTS), wait or wait_for_release()
    for worker in server.workers(2):
        with server.only(worker):
            streams[worker] = {key: server.open(*steps, headers=headers, key=key) for key in (new_key(), new_key())}
            for stream in streams[worker].values():
                stream.read_until(b"data: one\n\n" * EVENTS)
                assert stream.header("X-Process") == str(worker.pid)
    return streams


def wait_for_successor(server: Server, worker: psutil.Process) -> None:
    """Wait until *worker* has gone and another one answers."""
    psutil.wait_procs([worker], timeout=PATIENCE)
    assert worker not in server.workers(2)


def total(found: Numbers, name: str) -> float:
    return sum(found[f"ssemiddleware_{name}"].values())


def test_each_worker_reports_the_streams_of_all(server: Server) -> None:
    before = numbers(server)
    assert total(before, "open_streams") == total(before, "events_total") == total(before, "ended_streams_total") == 0
    assert set(before["ssemiddleware_ended_streams_total"]) == set(REASONS)
    streams = open_streams(server, ANNOUNCED)
    numbers_once(server, lambda found: total(found, "longest_silence_seconds") > 1)
    # What a stream has carried is counted at its checks, a moment after it has begun.
    numbers_once(server, lambda found: total(found, "open_streams") == 4 and total(found, "events_total") == 2 * 4 * EVENTS)
    for worker in streams:
        with server.only(worker):
            found = numbers(server)
        assert found["ssemiddleware_open_streams"] == {"yes": 4, "no": 0}
        assert found["ssemiddleware_events_total"] == {"in": 4 * EVENTS, "out": 4 * EVENTS}
        assert found["ssemiddleware_memory_limit_bytes"][""] > found["ssemiddleware_memory_used_bytes"][""] > 0


@pytest.mark.parametrize("path", PATHS)
def test_when_all_streams_have_ended_no_stream_is_open(server: Server, path: Headers) -> None:
    streams = open_streams(server, path)
    numbers_once(server, lambda found: total(found, "open_streams") == 4)
    for worker, its_streams in streams.items():
        with server.only(worker):
            for key, stream in its_streams.items():
                server.release(key)
                stream.read_to_end()
    # Both workers write one number after the other.
    numbers_once(server, lambda found: found["ssemiddleware_ended_streams_total"]["application ended"] == 4)
    ended = numbers_once(server, lambda found: total(found, "events_total") == 2 * 4 * EVENTS)
    assert total(ended, "open_streams") == total(ended, "oldest_stream_seconds") == 0
    assert total(ended, "events_total") == 2 * 4 * EVENTS


def test_counters_never_go_down_and_what_a_killed_worker_had_open_is_forgotten(server: Server) -> None:
    streams = open_streams(server, EVENT_SOURCE)
    before = numbers_once(server, lambda found: total(found, "events_total") == 2 * 4 * EVENTS)
    killed = next(iter(streams))
    killed.kill()
    wait_for_successor(server, killed)
    after = numbers_once(server, lambda found: total(found, "open_streams") == 2)
    for name in before:
        assert not name.endswith("_total") or all(after[name][label] >= value for label, value in before[name].items()), name


def test_what_a_worker_counts_while_it_stops_is_kept(server: Server) -> None:
    worker, streams = next(iter(open_streams(server, EVENT_SOURCE, wait_for_the_end()).items()))
    worker.terminate()
    for stream in streams.values():
        stream.read_to_end()
    wait_for_successor(server, worker)
    numbers_once(server, lambda found: found["ssemiddleware_ended_streams_total"]["drain"] == 2)
