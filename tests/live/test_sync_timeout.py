"""gunicorn's sync worker and its --timeout: no silent stream is killed, and what hangs is, as without the middleware."""

from __future__ import annotations

import time

import pytest

from .client import PATIENCE, Headers
from .conftest import BARE, WRAPPED, Measure, Start
from .serving import CLIENTS, EVENT_SOURCE, gunicorn
from .steps import event, pause

pytestmark = pytest.mark.live

# Preloaded, since a worker that starts says nothing of itself either.
KIND = gunicorn("sync", "--timeout=3", "--preload")
KILLED = r"(?s)WORKER TIMEOUT.*Booting worker"


@pytest.mark.parametrize("path", CLIENTS)
def test_a_silent_stream_of_ten_seconds_survives_while_its_client_is_there(path: Headers, serve: Start) -> None:
    server = serve(KIND)
    connection = server.open(event("hello"), pause(10), event("still here"), headers=path)
    assert connection.read_to_end(within=60) == b"data: hello\n\ndata: still here\n\n"
    assert connection.ended == "cleanly"
    assert "WORKER TIMEOUT" not in server.output()


@pytest.mark.parametrize("application", [BARE, WRAPPED], ids=["bare", "wrapped"])
def test_an_application_that_hangs_after_its_client_has_disconnected_is_killed(
    application: str, serve: Start, measure: Measure
) -> None:
    server = serve(KIND, application)
    connection = server.open(event("hello"), pause(120), headers=EVENT_SOURCE)
    connection.read_until(b"hello")
    disconnected_at = connection.disconnect()
    server.output_once(KILLED)
    measure(
        f"a hanging application is killed after its client has disconnected, {application}", time.monotonic() - disconnected_at
    )
    assert server.get("/ping", within=PATIENCE).body == b"pong"


@pytest.mark.parametrize("path", CLIENTS)
@pytest.mark.parametrize("application", ["bare", "wrapped"])
def test_an_application_that_hangs_before_its_stream_begins_is_killed_and_finally_runs(
    application: str, path: Headers, serve: Start, measure: Measure
) -> None:
    server = serve(KIND, f"live.as_bare:hanging_{application}")
    asked_at = time.monotonic()
    connection = server.ask("/hangs", path)
    server.output_once(KILLED, within=3 * PATIENCE)
    measure(f"a view that hangs is killed after, {application}", time.monotonic() - asked_at)
    assert "finally" in server.output()
    assert server.get("/ping", within=PATIENCE).body == b"pong"
    connection.disconnect()
