"""gunicorn wraps an application on its command line, without a line of code."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from .conftest import Start
from .serving import Kind, Server, gunicorn, new_key, output_of_failed_start
from .steps import event, pause, repeat, wait_for_the_end

pytestmark = pytest.mark.live

# Without watching memory, since other programs may use it meanwhile.
WRAPPED_FACTORY = "ssemiddleware:wrap('live.applications:create_app(3)', heartbeat=0.3, memory=None)"
NOTICED_WITHIN = 10.0  # seconds; the promise is half a second, and `test_disconnects` checks it

KINDS = [
    gunicorn(worker, *options, name=" ".join(("gunicorn", worker, *options)))
    for worker in ("sync", "gthread", "gevent")
    for options in ((), ("--preload",))
]


@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_wrap_takes_a_factory_with_arguments_and_options(kind: Kind, serve: Start) -> None:
    server = serve(kind, WRAPPED_FACTORY)
    connection = server.open(event("early"), pause(2), event("late"))
    assert re.fullmatch(rb"data: early\n\n(:\n)+data: late\n\n", connection.read_to_end())
    assert connection.ended == "cleanly"
    assert_bursts_arrive_and_a_disconnect_is_noticed(server)


def assert_bursts_arrive_and_a_disconnect_is_noticed(server: Server) -> None:
    """Check what could break in a worker that was forked after the middleware was made, or patched after its import."""
    key = new_key()
    connection = server.open(repeat(event("small"), times=20_000), event("last"), wait_for_the_end(), key=key)
    connection.read_until(b"data: last\n\n")
    without_heartbeats = re.sub(rb"(?m)^:\n", b"", connection.body)
    assert without_heartbeats == b"data: small\n\n" * 20_000 + b"data: last\n\n"
    disconnected_at = connection.disconnect()
    life = server.life_once(key, lambda life: life.closed_on)
    assert life.noticed_at is not None
    assert life.noticed_at - disconnected_at < NOTICED_WITHIN


def test_wrap_takes_an_attribute_and_no_heartbeats(serve: Start) -> None:
    server = serve(gunicorn("sync"), "ssemiddleware:wrap('live.applications:play', heartbeat=None)")
    connection = server.open(pause(0.5), event("late"))
    assert connection.read_to_end() == b"data: late\n\n"


def test_a_wrong_option_stops_the_worker_and_says_what_is_allowed(folder: Path) -> None:
    output = output_of_failed_start(gunicorn("sync"), "ssemiddleware:wrap('live.applications:play', heartbeat=0)", folder)
    assert "ValueError: heartbeat must be a positive number of seconds or None, got 0" in output
