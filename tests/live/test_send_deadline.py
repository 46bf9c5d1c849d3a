"""A client that takes nothing of what is sent to it: its stream ends at the deadline, and its server's thread is free again."""

from __future__ import annotations

import time

import pytest

from .applications import FILE
from .client import Headers
from .conftest import Measure, Start
from .serving import ALL_SERVERS, ANNOUNCED, GTHREAD, INLINE, PATHS, WAITRESS, Kind, gunicorn, new_key, play_target, waitress
from .steps import event, large_event, pause, repeat

pytestmark = pytest.mark.live

APPLICATION, HIDING = "live.applications:app_with_send_deadline", "live.applications:app_with_hidden_clients"
DEADLINE = 2.0  # seconds, of these applications
# The kernel counts from when the client's buffer is full, we from when the server's are: a machine that is so busy that half a
# second lies between them lets the stream end as one whose client has gone.
TRIES = 3
ENDED_WITHIN = DEADLINE + 20  # seconds: 2.5 were measured, the kernel probes a client that takes nothing at growing distances
BUFFER = 65536  # bytes that the client lets the kernel receive ahead; doubled by the kernel
ENDLESS = repeat(large_event(65536, many_lines=True))
# Waitress buffers 16 MiB more than the kernel, unless it is told not to.
SERVERS = [waitress("--threads=10", "--outbuf-high-watermark=65536") if kind is WAITRESS else kind for kind in ALL_SERVERS]


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("kind", SERVERS, ids=str)
def test_a_client_that_takes_nothing_loses_its_stream_at_the_deadline(
    kind: Kind, path: Headers, serve: Start, measure: Measure
) -> None:
    server = serve(kind, APPLICATION)
    reasons = []
    for _ in range(TRIES):
        key = new_key()
        connection = server.connect(receive_buffer=BUFFER)
        connection.send("GET", play_target(ENDLESS, key=key), path)
        connection.read_headers()
        # A server with one thread in all answers only now that the stream does not hold it any more.
        life = server.life_once(key, lambda life: life.closed_on, within=ENDED_WITHIN)
        took = time.monotonic() - connection.sent_at
        measure(f"a client that takes nothing is left behind, deadline {DEADLINE} s, {kind}", took)
        assert took > DEADLINE / 2, "not for the deadline"
        assert life.closed
        reasons.append(life.reason)
        if life.reason == ("send deadline" if path == ANNOUNCED else "client gone"):
            return
    raise AssertionError(reasons)


@pytest.mark.parametrize("kind", SERVERS, ids=str)
def test_a_client_that_reads_slowly_keeps_its_stream(kind: Kind, serve: Start) -> None:
    connection = serve(kind, APPLICATION).connect(receive_buffer=BUFFER)
    connection.send("GET", play_target(ENDLESS), ANNOUNCED)
    until = time.monotonic() + 2.5 * DEADLINE
    while time.monotonic() < until:
        assert connection.take(2 * BUFFER), "the connection was cut"
        time.sleep(DEADLINE / 4)
    # Had it been cut, no more than the client's own buffer would still be there.
    taken = 0
    while taken < 4 * BUFFER:
        some = connection.take(2 * BUFFER)
        assert some, "the connection was cut"
        taken += some


def test_a_silent_stream_knows_no_deadline(serve: Start) -> None:
    server = serve(GTHREAD, APPLICATION)
    connection = server.open(event("hello"), pause(2 * DEADLINE), event("again"))
    connection.read_until(b"again")


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("kind", [gunicorn(worker, "--keep-alive=30") for worker in ("gthread", "gevent")], ids=str)
def test_a_connection_that_is_kept_knows_no_deadline_behind_the_stream(kind: Kind, path: Headers, serve: Start) -> None:
    connection = serve(kind, APPLICATION).connect(receive_buffer=4096)
    connection.send("GET", play_target(event("hello")), path)
    connection.read_to_end()
    following = connection.next_request()
    following.send("GET", "/file", INLINE)
    time.sleep(2 * DEADLINE)
    assert following.read_to_end() == FILE


def test_an_application_ends_although_the_server_hides_its_connection(serve: Start) -> None:
    server = serve(GTHREAD, HIDING)
    key = new_key()
    connection = server.connect(receive_buffer=BUFFER)
    connection.send("GET", play_target(ENDLESS, key=key), ANNOUNCED)
    connection.read_headers()
    life = server.life_once(key, lambda life: life.closed_on, within=ENDED_WITHIN)
    assert life.reason is None  # its server's thread still sends
    assert connection.read_to_end().endswith(b"\n\n")
    assert connection.ended == "cleanly"
    assert server.life(key).reason == "send deadline"
