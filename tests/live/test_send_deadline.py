"""A client that reads nothing, or has vanished: its stream ends at the deadline, and its server's thread is free again."""

from __future__ import annotations

import time

import pytest

from .applications import FILE
from .client import Headers
from .conftest import Measure, Start
from .serving import (
    ALL_SERVERS,
    ANNOUNCED,
    GEVENT,
    GTHREAD,
    PATHS,
    UNANNOUNCED,
    WAITRESS,
    Kind,
    Server,
    gunicorn,
    new_key,
    over_unix_socket,
    play_target,
    waitress,
)
from .steps import Step, event, large_event, pause, repeat, wait_for_the_end

pytestmark = pytest.mark.live

APPLICATION = "live.applications:app_with_send_deadline"
DEADLINE = 2.0  # seconds, of these applications
ENDED_WITHIN = DEADLINE + 20  # seconds
BUFFER = 65536  # bytes that the client lets the kernel receive ahead; doubled by the kernel
ENDLESS = repeat(large_event(65536, many_lines=True))
TICKING: list[Step] = [repeat(event("tick"), pause(0.1))]
SILENT: list[Step] = [event("hello"), wait_for_the_end()]
ON_UNIX_SOCKETS = [
    over_unix_socket(gunicorn(worker, *options)) for worker, *options in (("gthread", "--threads=10"), ("gevent",))
]
# By default waitress buffers 16 MiB more than the kernel.
SERVERS = [waitress("--threads=10", "--outbuf-high-watermark=65536") if kind is WAITRESS else kind for kind in ALL_SERVERS]


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("kind", SERVERS, ids=str)
def test_a_client_that_reads_nothing_is_disconnected_at_the_deadline(
    kind: Kind, path: Headers, serve: Start, measure: Measure
) -> None:
    lose_stream(serve(kind, APPLICATION), path, measure)


def lose_stream(server: Server, path: Headers, measure: Measure) -> None:
    key = new_key()
    connection = server.connect(receive_buffer=BUFFER)
    connection.send("GET", play_target(ENDLESS, key=key), path)
    connection.read_headers()
    # A server with one thread in all answers only now that the stream does not hold it any more.
    life = server.life_once(key, lambda life: life.closed_on, within=ENDED_WITHIN)
    took = time.monotonic() - connection.sent_at
    measure(f"a client that reads nothing is disconnected, deadline {DEADLINE} s, {server.kind}", took)
    assert took > DEADLINE, "before the deadline"
    assert (life.closed, life.reason) == (True, "send deadline")
    assert life.is_of_one_thread


@pytest.mark.parametrize("kind", [GTHREAD, GEVENT], ids=str)
def test_the_deadline_holds_for_a_stream_that_has_to_end_while_it_is_sent(kind: Kind, serve: Start) -> None:
    server, key = serve(kind, APPLICATION), new_key()
    connection = server.connect(receive_buffer=BUFFER)
    connection.send("GET", play_target(ENDLESS, key=key), ANNOUNCED)
    connection.read_headers()
    assert server.get(f"/end?key={key}&reason=revoked").status == 200
    life = server.life_once(key, lambda life: life.closed_on, within=ENDED_WITHIN)
    assert (life.closed, life.reason) == (True, "revoked")


@pytest.mark.parametrize("steps", [TICKING, SILENT], ids=["small events", "heartbeats"])
@pytest.mark.parametrize("kind", SERVERS, ids=str)
def test_a_client_that_vanishes_is_disconnected_at_the_deadline(
    kind: Kind, steps: list[Step], serve: Start, measure: Measure
) -> None:
    server, key = serve(kind, APPLICATION), new_key()
    connection = server.open(*steps, key=key)
    connection.read_until(b"\n\n")
    connection.vanish()
    vanished_at = time.monotonic()
    life = server.life_once(key, lambda life: life.closed_on, within=ENDED_WITHIN)
    measure(f"a client that vanishes is disconnected, deadline {DEADLINE} s, {kind}", time.monotonic() - vanished_at)
    assert (life.closed, life.reason) == (True, "send deadline")


@pytest.mark.parametrize("kind", SERVERS, ids=str)
def test_a_client_that_reads_slowly_keeps_its_stream(kind: Kind, serve: Start) -> None:
    read_slowly(serve(kind, APPLICATION), pause=DEADLINE / 4)


@pytest.mark.parametrize("kind", ON_UNIX_SOCKETS, ids=str)
def test_on_a_unix_socket_a_client_is_disconnected_only_if_it_reads_nothing(kind: Kind, serve: Start, measure: Measure) -> None:
    server = serve(kind, APPLICATION)
    read_slowly(server, pause=DEADLINE / 8)
    lose_stream(server, ANNOUNCED, measure)


def read_slowly(server: Server, pause: float) -> None:
    """Read far less than comes, for longer than the deadline."""
    connection = server.connect(receive_buffer=BUFFER)
    connection.send("GET", play_target(ENDLESS), ANNOUNCED)
    until = time.monotonic() + 2.5 * DEADLINE
    while time.monotonic() < until:
        assert connection.take(2 * BUFFER), "the connection was cut"
        time.sleep(pause)
    # Had it been cut, no more than the client's own buffer would still be there.
    taken = 0
    while taken < 4 * BUFFER:
        some = connection.take(2 * BUFFER)
        assert some, "the connection was cut"
        taken += some


def test_a_silent_stream_has_no_deadline(serve: Start) -> None:
    server = serve(GTHREAD, APPLICATION)
    connection = server.open(event("hello"), pause(2 * DEADLINE), event("again"))
    connection.read_until(b"again")


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("kind", [gunicorn(worker, "--keep-alive=30") for worker in ("gthread", "gevent")], ids=str)
def test_a_connection_that_is_used_again_has_no_deadline_after_the_stream(kind: Kind, path: Headers, serve: Start) -> None:
    connection = serve(kind, APPLICATION).connect(receive_buffer=4096)
    connection.send("GET", play_target(event("hello")), path)
    connection.read_to_end()
    following = connection.next_request()
    following.send("GET", "/file", UNANNOUNCED)
    time.sleep(2 * DEADLINE)
    assert following.read_to_end() == FILE
