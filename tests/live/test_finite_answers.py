"""A finite answer to a client that is no EventSource arrives whole, although its worker has to stop."""

from __future__ import annotations

import signal
import time

import pytest

from .client import Connection, Headers
from .conftest import Measure, Start
from .serving import Server, gunicorn

pytestmark = pytest.mark.live

APPLICATION = "live.sources:app"
NUMBER, PAUSE = 40, 0.1  # tokens, and seconds between them
TOKENS = b"".join(b"data: token %d\n\n" % number for number in range(NUMBER))
POSTED: list[Headers] = [
    [("Accept", "text/event-stream"), ("Content-Length", "0")],  # a fetch() chat
    [("Accept", "application/json, text/event-stream"), ("Content-Length", "0")],  # MCP
    [("Accept", "*/*"), ("Content-Length", "0")],
]
WORKERS = {"sync": ("--workers=4",), "gthread": ("--threads=10",), "gevent": ()}

ways = pytest.mark.parametrize("way", [signal.SIGTERM, signal.SIGHUP, None], ids=["SIGTERM", "SIGHUP", "max-requests"])
workers = pytest.mark.parametrize("worker", WORKERS)


def start(serve: Start, worker: str, *options: str) -> Server:
    return serve(gunicorn(worker, *WORKERS[worker], *options), APPLICATION)


def ask(server: Server, headers: Headers, each: str = "", number: int = NUMBER) -> Connection:
    connection = server.ask(f"/tokens?number={number}&pause={PAUSE}{each}", headers, method="POST")
    connection.read_until(b"token 0")
    return connection


@workers
@ways
@pytest.mark.parametrize("each", ["", "&each=finite"], ids=["bare", "each"])
def test_an_answer_of_four_seconds_arrives_whole(
    worker: str, way: signal.Signals | None, each: str, serve: Start, measure: Measure
) -> None:
    # A sync worker has one request at a time: there each answer is its worker's last one.
    last = () if way else (f"--max-requests={1 if worker == 'sync' else len(POSTED) + 1}",)
    server = start(serve, worker, "--graceful-timeout=30", "--timeout=30", *last)
    answers = [ask(server, headers, each) for headers in POSTED]
    time.sleep(1)
    if way is not None:
        server.process.send_signal(way)
    elif worker != "sync":
        server.get("/ping")
    for connection in answers:
        assert connection.read_to_end(within=60) == TOKENS
        assert connection.ended == "cleanly"
        connection.disconnect()
    if way is signal.SIGTERM:
        ended_at = max(connection.ended_at for connection in answers)
        server.process.wait(30)
        measure(f"gunicorn {worker} has exited: seconds after the last answer", time.monotonic() - ended_at)
    assert "Traceback" not in server.output()


@workers
def test_a_source_without_an_end_ends_at_once(worker: str, serve: Start, measure: Measure) -> None:
    server = start(serve, worker, "--graceful-timeout=30", "--timeout=30")
    connection = ask(server, POSTED[0], "&each=endless", number=10_000)
    stopped_at = time.monotonic()
    server.process.send_signal(signal.SIGTERM)
    body = connection.read_to_end()
    measure(f"an endless source has ended after SIGTERM, gunicorn {worker}", connection.ended_at - stopped_at)
    assert connection.ended_at - stopped_at < 5
    assert connection.ended == "cleanly"
    assert b"retry" not in body
    assert body.endswith(b"\n\n")


@workers
@pytest.mark.parametrize("each", ["", "&each=finite"], ids=["bare", "each"])
def test_with_a_grace_that_is_too_short_the_transfer_is_cut(worker: str, each: str, serve: Start, measure: Measure) -> None:
    server = start(serve, worker, "--graceful-timeout=3", "--timeout=30")
    answers = [ask(server, headers, each, number=200) for headers in POSTED]
    stopped_at = time.monotonic()
    server.process.send_signal(signal.SIGTERM)
    for connection in answers:
        connection.read_to_end(within=60)
        measure(f"cut by a grace of 3 s after, gunicorn {worker}", connection.ended_at - stopped_at)
        assert connection.ended == "cut"
        assert b"retry" not in connection.body
        connection.disconnect()
