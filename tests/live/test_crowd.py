"""More clients than there may be streams, and clients that never read: all are served, and ordinary requests meanwhile."""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Sequence
from typing import Any, NamedTuple

import pytest

from benchmarks.crowd_clients import Answer, Crowd, DeafClients, Visit, ask_meanwhile, share

from .conftest import Measure, Start
from .serving import GEVENT, Kind, Server, gunicorn

pytestmark = [pytest.mark.live, pytest.mark.timeout(300)]

CLIENTS, MAX_STREAMS = 500, 100
RETRY = 1000  # milliseconds, instead of 3000, so that it is over in some ten seconds
SERVED_WITHIN = 180.0  # seconds; if no client is refused it takes ten
APPLICATION = f"benchmarks.crowd_application:create(max_streams={MAX_STREAMS}, retry={RETRY})"
EVENTS, STREAM = 4, "timed/4/500000"  # four events in two seconds, in which nearly all of the crowd should have come
PATIENCE = 30.0  # seconds until an ordinary request is said to have got no answer

DEAF_CLIENTS = 100
DEAF_FOR = 10.0  # seconds
WITHOUT_DEADLINE = "benchmarks.crowd_application:create(send_deadline=None)"
ENDLESS = "fresh/1000000/1000000"  # events of 1 MB
ANSWERED_WITHIN = 60.0  # seconds, all that will be answered at all

THREADS = gunicorn("gthread", "--threads", "132", name="gunicorn gthread with 132 threads")
THREADS_OF_FEW = 64
FEW_THREADS = gunicorn("gthread", "--threads", str(THREADS_OF_FEW), name="gunicorn gthread with 64 threads")


class Gathering(NamedTuple):
    """What a crowd of clients has seen, somebody who asked for ordinary pages meanwhile, and the application."""

    visits: Sequence[Visit]
    answers: Sequence[Answer]
    counts: Any


def gather(server: Server) -> Gathering:
    """Let the crowd come, and return when all are served."""
    server.get("/wrapped/stock")
    with Crowd(server.port, f"/wrapped/{STREAM}", clients=CLIENTS, events=EVENTS, within=SERVED_WITHIN) as crowd:
        answers = ask_meanwhile(server.port, "/wrapped/stock", crowd.is_there, patience=PATIENCE)
        visits = crowd.visits()
    return Gathering(visits, answers, json.loads(server.get("/wrapped/counts").body))


@pytest.mark.parametrize("kind", [THREADS, GEVENT], ids=str)
def test_a_crowd_is_served_in_the_end_and_never_more_than_max_streams_at_a_time(
    kind: Kind, serve: Start, measure: Measure
) -> None:
    visits, answers, counts = gather(serve(kind, APPLICATION))
    assert {visit.status for visit in visits} == {200}
    assert Counter(visit.client for visit in visits if visit.events == EVENTS) == dict.fromkeys(range(CLIENTS), 1)
    # Asked of the application and of the middleware each time a stream began; all places were in use, and no more.
    assert max(number for _, number in counts["history"]) == MAX_STREAMS
    assert counts["most_in_stats"] == MAX_STREAMS
    assert_spread(visits)
    assert_forgotten(visits)
    stats, refused = counts["stats"], [(visit.retry or 0) / 1000 for visit in visits if visit.was_refused]
    assert stats["ended"] == {"application ended": CLIENTS}
    assert (stats["open_announced"], stats["refused"]) == (0, len(refused))
    assert len(refused) + CLIENTS == len(visits), "a client got neither a stream nor a time to reconnect"
    label = f"{CLIENTS} clients for {MAX_STREAMS} streams, {kind}:"
    measure(f"{label} all served within", max(visit.ended_at for visit in visits) - visits[0].asked_at)
    measure(f"{label} {len(refused)} were refused, to reconnect in (median)", share(refused, 50))
    assert_answered(answers, label, measure)


def assert_spread(visits: Sequence[Visit]) -> None:
    """Of the clients that are refused together the last wait longer than the first, and few of them reconnect at once."""
    first_visits = {visit.client: visit for visit in reversed(visits)}.values()
    refused = sorted((visit for visit in first_visits if visit.was_refused), key=lambda visit: visit.ended_at)
    retries = [visit.retry for visit in refused if visit.retry is not None]
    assert len(retries) > 0.7 * (CLIENTS - MAX_STREAMS), "the machine is too slow for this crowd"
    quarter = len(retries) // 4
    assert share(retries[-quarter:], 50) > 2 * share(retries[:quarter], 50)
    back = Counter(round((visit.ended_at + (visit.retry or 0) / 1000) / 0.5) for visit in refused)
    assert max(back.values()) < len(retries) / 4, f"a herd: so many reconnect in the same half second: {back}"


def assert_forgotten(visits: Sequence[Visit]) -> None:
    """A client that was refused, for however long, reconnects as soon as usual once it has had its stream."""
    refused = {visit.client for visit in visits if visit.was_refused}
    retries = [visit.retry for visit in visits if visit.events and visit.client in refused]
    assert len(retries) == len(refused) > 0
    assert all(retry is not None and retry <= 1.5 * RETRY for retry in retries), retries


def assert_answered(answers: Sequence[Answer], label: str, measure: Measure) -> None:
    """All ordinary requests were answered; print how fast."""
    seconds = [answer.seconds for answer in answers if answer.seconds is not None]
    assert len(seconds) == len(answers) > 0, f"{len(answers) - len(seconds)} of {len(answers)} were not answered in time"
    measure(f"{label} an ordinary request, median", share(seconds, 50))
    measure(f"{label} an ordinary request, 99 %", share(seconds, 99))


# -- clients that never read


class Beside(NamedTuple):
    """What somebody who asked for ordinary pages saw beside clients that never read, and how many of these were answered."""

    answers: Sequence[Answer]
    deaf_answered: int
    counts: Any


def ask_beside_deaf_clients(
    server: Server, way: str, label: str, measure: Measure, *, once_answered: int = 0, patience: float = PATIENCE
) -> Beside:
    """Ask for ordinary pages beside clients that never read, *once_answered* so many of them; at last all may be."""
    server.get(f"/{way}/stock")
    worker = server.process.children()[0]
    before = worker.memory_info().rss
    with DeafClients(server.port, f"/{way}/{ENDLESS}", clients=DEAF_CLIENTS) as deaf:
        assert answered_at_last(deaf, once_answered) >= once_answered
        until = time.monotonic() + DEAF_FOR
        answers = ask_meanwhile(server.port, f"/{way}/stock", lambda: time.monotonic() < until, patience=patience)
        measure(f"{label} the worker's memory has grown, in MB", (worker.memory_info().rss - before) / 1e6)
        answered = answered_at_last(deaf, once_answered or DEAF_CLIENTS)
    return Beside(answers, answered, json.loads(server.get(f"/{way}/counts", within=ANSWERED_WITHIN).body))


def answered_at_last(deaf: DeafClients, expected: int) -> int:
    """Return how many are answered once so many as *expected* are, or will not be any more."""
    deadline = time.monotonic() + ANSWERED_WITHIN
    while deaf.answered() < expected and time.monotonic() < deadline:
        time.sleep(0.02)
    return deaf.answered()


@pytest.mark.parametrize("way", ["bare", "wrapped"])
def test_on_gevent_ordinary_requests_stay_fast_beside_clients_that_never_read(way: str, serve: Start, measure: Measure) -> None:
    label = f"{DEAF_CLIENTS} clients that never read, {GEVENT}, {way}:"
    beside = ask_beside_deaf_clients(serve(GEVENT, WITHOUT_DEADLINE), way, label, measure)
    assert beside.deaf_answered == DEAF_CLIENTS
    assert_answered(beside.answers, label, measure)


def test_on_gthread_clients_that_never_read_take_all_threads_of_the_bare_application(serve: Start, measure: Measure) -> None:
    label = f"{DEAF_CLIENTS} clients that never read, {FEW_THREADS}, bare:"
    server = serve(FEW_THREADS, WITHOUT_DEADLINE)
    beside = ask_beside_deaf_clients(server, "bare", label, measure, once_answered=THREADS_OF_FEW, patience=DEAF_FOR / 2)
    assert {answer.seconds for answer in beside.answers} == {None}
    assert beside.deaf_answered == THREADS_OF_FEW


def test_on_gthread_admission_keeps_threads_free_for_ordinary_requests(serve: Start, measure: Measure) -> None:
    label = f"{DEAF_CLIENTS} clients that never read, {FEW_THREADS}, wrapped:"
    beside = ask_beside_deaf_clients(serve(FEW_THREADS, WITHOUT_DEADLINE), "wrapped", label, measure)
    assert beside.deaf_answered == DEAF_CLIENTS, "those that got no stream got no answer"
    assert_answered(beside.answers, label, measure)
    stats = beside.counts["stats"]
    admitted = THREADS_OF_FEW * 3 // 4
    assert (stats["most_streams"], stats["refused"]) == (admitted, DEAF_CLIENTS - admitted)
