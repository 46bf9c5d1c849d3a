"""`join=` on real servers: bursts come in few writes, all of them, and in time while the server's process can send them."""

from __future__ import annotations

import re
import signal

import pytest

from .conftest import Measure, Pool, Start
from .serving import (
    EVENT_SOURCE,
    GEVENT,
    GTHREAD,
    SYNC,
    UNANNOUNCED,
    WAITRESS,
    WERKZEUG,
    WSGIREF,
    Kind,
    cheroot,
    gunicorn,
    new_key,
    play_target,
)  # fmt: skip
from .steps import Step, compute, event, exit_process, fail, pause, repeat, wait_for_the_end

pytestmark = pytest.mark.live

APPLICATION = "live.applications:app_that_joins"
JOINS = [SYNC, GTHREAD, GEVENT, gunicorn("gevent_pywsgi"), WAITRESS, WERKZEUG, WSGIREF, cheroot()]
NUMBER = 3000
TICK = event("tick")
BURST: Step = repeat(TICK, times=NUMBER)
BYTES = b"data: tick\n\n" * NUMBER

each_worker = pytest.mark.parametrize("kind", [GTHREAD, GEVENT], ids=str)


@pytest.mark.parametrize("kind", JOINS, ids=str)
def test_a_burst_comes_whole_and_in_few_writes(kind: Kind, pool: Pool, measure: Measure) -> None:
    server = pool.get(kind, APPLICATION)
    before = server.get("/ping").status
    connection = server.open(BURST, event("last"), BURST, headers=EVENT_SOURCE)
    body = connection.read_to_end()
    assert (before, connection.ended) == (200, "cleanly")
    assert body.removeprefix(b":\n") == BYTES + b"data: last\n\n" + BYTES
    assert max(len(arrival.block) for arrival in connection.arrivals) > 1000 or kind is WSGIREF
    if connection.header("Transfer-Encoding") == "chunked":
        measure(f"events a chunk in a burst, {kind}", 2 * NUMBER / len(connection.arrivals))
        assert len(connection.arrivals) < NUMBER


@each_worker
@pytest.mark.parametrize("layer", ["closing_what_joins", "closing"])
def test_nothing_is_joined_inside_a_layer(kind: Kind, layer: str, pool: Pool) -> None:
    connection = pool.get(kind, f"live.layers:{layer}").open(BURST, headers=EVENT_SOURCE)
    assert connection.read_to_end().removeprefix(b":\n") == BYTES
    assert {arrival.block for arrival in connection.arrivals} <= {b":\n", b"data: tick\n\n"}


@each_worker
def test_nothing_is_joined_for_a_client_that_is_not_announced(kind: Kind, pool: Pool) -> None:
    connection = pool.get(kind, APPLICATION).open(BURST, headers=UNANNOUNCED)
    assert connection.read_to_end() == BYTES
    assert {arrival.block for arrival in connection.arrivals} == {b"data: tick\n\n"}


# -- what follows a burst


@pytest.mark.parametrize("kind", JOINS, ids=str)
def test_the_last_events_of_a_burst_come_while_the_application_sleeps(kind: Kind, pool: Pool, measure: Measure) -> None:
    connection = pool.get(kind, APPLICATION).open(BURST, event("last"), pause(6), event("late"), headers=EVENT_SOURCE)
    first = connection.read_until(b"tick")
    last = connection.read_until(b"last", within=4)
    measure(f"a burst and its last event, then a sleep, {kind}", last - first)
    assert connection.read_to_end().removeprefix(b":\n") == BYTES + b"data: last\n\ndata: late\n\n"


def test_the_last_events_come_while_the_application_computes_in_another_thread(pool: Pool, measure: Measure) -> None:
    connection = pool.get(GTHREAD, APPLICATION).open(BURST, event("last"), compute(6), event("late"), headers=EVENT_SOURCE)
    first = connection.read_until(b"tick")
    measure("a burst and its last event, then Python that computes, gthread", connection.read_until(b"last", within=4) - first)
    assert connection.read_to_end().removeprefix(b":\n") == BYTES + b"data: last\n\ndata: late\n\n"


@pytest.mark.parametrize(
    ("kind", "in_c"), [(GEVENT, False), (GEVENT, True), (GTHREAD, True)], ids=["gevent", "gevent in C", "gthread in C"]
)
def test_no_event_is_lost_while_no_other_thread_or_greenlet_can_run(
    kind: Kind, in_c: bool, pool: Pool, measure: Measure
) -> None:
    connection = pool.get(kind, APPLICATION).open(
        BURST, event("last"), compute(2, in_c=in_c), event("late"), headers=EVENT_SOURCE
    )
    first = connection.read_until(b"tick")
    measure(
        f"a burst and its last event, then 2 s with all held up, {kind}, in C: {in_c}", connection.read_until(b"last") - first
    )
    assert connection.read_to_end().removeprefix(b":\n") == BYTES + b"data: last\n\ndata: late\n\n"


@pytest.mark.parametrize("kind", JOINS, ids=str)
def test_a_compressed_burst_comes_whole_and_in_few_writes_and_in_time(kind: Kind, pool: Pool) -> None:
    server = pool.get(kind, "live.applications:app_that_joins_and_compresses")
    connection = server.connect()
    connection.decodes = True
    target = play_target(BURST, event("last"), pause(6), event("late"), BURST)
    connection.send("GET", target, [*EVENT_SOURCE, ("Accept-Encoding", "gzip")])
    connection.read_until(b"last", within=4)
    body = connection.read_to_end()
    assert (connection.header("Content-Encoding"), connection.ended) == ("gzip", "cleanly")
    assert body.removeprefix(b":\n") == BYTES + b"data: last\n\ndata: late\n\n" + BYTES
    if connection.header("Transfer-Encoding") == "chunked":
        assert len(connection.arrivals) < NUMBER


# -- the end in mid-burst


@each_worker
def test_all_events_come_before_an_error(kind: Kind, pool: Pool) -> None:
    server, message = pool.get(kind, APPLICATION), new_key()
    connection = server.open(BURST, fail(message), headers=EVENT_SOURCE)
    assert connection.read_to_end().removeprefix(b":\n") == BYTES
    assert connection.ended == "cut"
    server.output_once(f"RuntimeError: {message}")


@pytest.mark.parametrize(
    ("kind", "how"),
    [(SYNC, "SystemExit"), (GTHREAD, "SystemExit"), (GEVENT, "SystemExit"), (GEVENT, "GreenletExit")],
    ids=lambda value: str(value),
)
def test_all_events_come_before_an_exit(kind: Kind, how: str, serve: Start) -> None:
    """Of the process, or of the greenlet alone."""
    server = serve(kind, APPLICATION)
    connection = server.open(BURST, exit_process(how), headers=EVENT_SOURCE)
    assert connection.read_to_end().removeprefix(b":\n") == BYTES
    assert connection.ended == "cut"


@pytest.mark.parametrize("kind", [SYNC, GTHREAD, GEVENT], ids=str)
def test_a_drain_after_a_burst_ends_the_stream_after_its_last_event(kind: Kind, serve: Start) -> None:
    server = serve(kind, APPLICATION)
    connection = server.open(BURST, event("last"), wait_for_the_end(), pause(2), event("late"), headers=EVENT_SOURCE)
    connection.read_until(b"tick")
    server.process.send_signal(signal.SIGTERM)
    body = connection.read_to_end().removeprefix(b":\n")
    assert re.fullmatch(re.escape(BYTES) + rb"data: last\n\nretry: [0-9]+\n\n", body), body[-100:]
    assert connection.ended == "cleanly"


@pytest.mark.parametrize("kind", [SYNC, GTHREAD, GEVENT], ids=str)
def test_a_drain_in_mid_burst_ends_the_stream_after_a_whole_event(kind: Kind, serve: Start) -> None:
    server = serve(kind, APPLICATION)
    connection = server.open(repeat(repeat(TICK, times=100), pause(0.001)), headers=EVENT_SOURCE)
    connection.read_until(b"tick")
    connection.read_for(0.3)
    server.process.send_signal(signal.SIGTERM)
    body = connection.read_to_end().removeprefix(b":\n")
    assert re.fullmatch(rb"(data: tick\n\n)+retry: [0-9]+\n\n", body), body[-100:]
    assert connection.ended == "cleanly"


@each_worker
@pytest.mark.parametrize("how", ["FIN", "RST"])
def test_a_disconnect_in_mid_burst_ends_the_stream_and_is_no_error(kind: Kind, how: str, pool: Pool) -> None:
    server, key = pool.get(kind, APPLICATION), new_key()
    since = len(server.output())
    connection = server.open(repeat(repeat(TICK, times=200), pause(0.001)), headers=EVENT_SOURCE, key=key)
    connection.read_until(b"tick")
    connection.read_for(0.2)
    connection.disconnect("FIN" if how == "FIN" else "RST")
    life = server.life_once(key, lambda life: life.closed_on)
    assert (life.reason, life.is_of_one_thread) == ("client gone", True)
    assert "Traceback" not in server.output()[since:]
