"""Every server, newest releases: a row of the table of docs/servers.md each, and a test for each cell.

The tests of one server follow one another in their order here, on one process; those after stop it.
"""

from __future__ import annotations

import re
import signal
import socket
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from itertools import pairwise
from pathlib import Path

import pytest

from .client import PATIENCE, Connection, Headers
from .conftest import Fill
from .every_server import (
    AGAIN,
    ANSWER,
    AT_ONCE,
    AT_STOP,
    CLOSED,
    HEAD,
    HEARTBEATS,
    ROWS,
    SEEN,
    TRUNCATED,
    Row,
    expected,
)  # fmt: skip
from .measuring import Measured, measure
from .serving import EVENT_SOURCE, UNANNOUNCED, Server, new_key, play_target
from .steps import Step, event, fail, pause, repeat, send_time, wait_for_the_end

pytestmark = pytest.mark.live

HEARTBEAT = 1.0  # seconds, of these applications
SILENCE = 2.9
AT_MOST = HEARTBEAT + 0.75  # seconds between two: the watcher looks each quarter of one, and a machine may be busy
PROMISED = 0.75  # seconds until a disconnect is seen: half a second, and what the asking takes
AT_ONCE_WITHIN = 0.1  # seconds
ENDED_WITHIN = 2.5  # seconds: half a second, and what a busy machine adds
LOOKED_AT_FOR = 3.0  # seconds, where a "no" is expected
CLOSED_WITHIN = 5.0  # seconds; a stream would go on for a minute

TICKING: list[Step] = [repeat(event("tick"), pause(0.1))]
SILENT: list[Step] = [event("hello"), wait_for_the_end()]
TOKENS: list[Step] = [repeat(event("token"), pause(0.05), times=30), event("done")]
WHOLE_ANSWER = b"data: token\n\n" * 30 + b"data: done\n\n"


@pytest.fixture(scope="module", params=[row for row in ROWS if not row.is_stopped_only], ids=str)
def measured(request: pytest.FixtureRequest, folder: Path, fill: Fill) -> Iterator[Measured]:
    yield from measure(request.param, folder, fill)


@pytest.fixture(params=[row for row in ROWS if row.is_stopped_only], ids=str)
def stopped(request: pytest.FixtureRequest, folder: Path, fill: Fill) -> Iterator[Measured]:
    """A server that differs from another only in how it is stopped."""
    yield from measure(request.param, folder, fill)


def test_events_arrive_at_once(measured: Measured) -> None:
    def look() -> tuple[str, float]:
        connection = measured.server.open(repeat(send_time(), pause(0.1), times=5), headers=EVENT_SOURCE)
        connection.read_to_end()
        late = [
            arrival.at - float(yielded)
            for arrival in connection.arrivals
            for yielded in re.findall(rb"data: ([0-9.]+)\n", arrival.block)
        ]
        assert len(late) == 5
        return "yes" if max(late) < 0.4 else "no", max(late)

    measured.fill_best(AT_ONCE, look, AT_ONCE_WITHIN)


def test_a_heartbeat_comes_each_second_while_the_application_sleeps(measured: Measured) -> None:
    def look() -> tuple[str, float]:
        # To an EventSource, so that the stream is opened, also where a first block has to leave before the watcher may write.
        connection = measured.server.open(pause(SILENCE), event("late"), headers=EVENT_SOURCE)
        body = connection.read_to_end()
        connection.disconnect()
        assert re.fullmatch(rb"(:\n)+data: late\n\n", body), body
        comments = [arrival.at for arrival in connection.arrivals if arrival.block.startswith(b":\n")]
        assert comments[0] - connection.sent_at < SILENCE / 2, "the opening is late"
        word = "yes" if body.count(b":\n") >= 2 else "no"
        return word, max(later - earlier for earlier, later in pairwise((connection.sent_at, *comments)))

    measured.fill_best(HEARTBEATS, look, AT_MOST)


def test_a_disconnect_is_seen_while_the_application_is_silent(measured: Measured) -> None:
    def look() -> tuple[str, float]:
        key, server = new_key(), measured.server
        connection = server.open(event("hello"), wait_for_the_end(LOOKED_AT_FOR), key=key, headers=EVENT_SOURCE)
        connection.read_until(b"hello")
        disconnected_at = connection.disconnect()
        life = server.life_once(key, lambda life: life.closed_on)
        if life.noticed_at is None or life.reason != "client gone":
            return "no", LOOKED_AT_FOR
        return "yes", life.noticed_at - disconnected_at

    since = len(measured.server.output())
    measured.fill_best(SEEN, look, PROMISED)
    assert "Traceback" not in measured.server.output()[since:]


def test_close_is_called_when_the_application_yields_after_a_disconnect(measured: Measured) -> None:
    key, server = new_key(), measured.server
    since = len(server.output())
    connection = server.open(*TICKING, key=key, headers=EVENT_SOURCE)
    connection.read_until(b"tick")
    disconnected_at = connection.disconnect()
    life = server.life_once(key, lambda life: life.closed_on or time.monotonic() > disconnected_at + CLOSED_WITHIN)
    measured.fill(CLOSED, "yes" if life.closed_on else "no", time.monotonic() - disconnected_at)
    assert not life.closed_on or life.is_of_one_thread
    assert "Traceback" not in server.output()[since:]


# -- HEAD

LAST_CHUNK = b"0\r\n\r\n"  # servers that send it after the headers of a HEAD, whatever the application does
OF_ONE_RESPONSE = {"date", "server", "x-process", "connection", "keep-alive", "transfer-encoding"}


def test_head_has_the_headers_and_no_stream_goes_on(measured: Measured) -> None:
    behind = {
        behind_head(measured.server, headers, steps) for headers in (EVENT_SOURCE, UNANNOUNCED) for steps in (TICKING, SILENT)
    }
    assert behind <= {b"", LAST_CHUNK}
    measured.fill(HEAD, "yes" if behind == {b""} else "a last chunk")


def behind_head(server: Server, headers: Headers, steps: list[Step]) -> bytes:
    """Request the headers, compare them with those of a GET, and return the bytes after them."""
    got = server.open(*steps, headers=headers)
    got.read_headers()
    got.disconnect()
    key, asked_at = new_key(), time.monotonic()
    head = server.ask(play_target(*steps, key=key), [*headers, ("Connection", "close")], method="HEAD")
    status_and_headers, _, behind = head.rest(within=PATIENCE).partition(b"\r\n\r\n")
    status, *lines = status_and_headers.decode("latin-1").split("\r\n")
    assert status.split()[1] == "200"
    assert shown([tuple(line.split(": ", 1)) for line in lines]) == shown(got.headers)  # type: ignore[misc]  # of two
    life = server.life_once(key, lambda life: life.closed_on, within=CLOSED_WITHIN)
    assert life.blocks <= 2
    assert time.monotonic() - asked_at < 2 * CLOSED_WITHIN
    return behind


def shown(headers: Headers) -> Headers:
    return sorted((name.lower(), value) for name, value in headers if name.lower() not in OF_ONE_RESPONSE)


# -- an application that raises in mid-answer: where the server can show it, no client takes what it has for the whole


def test_a_truncated_answer_looks_truncated(measured: Measured) -> None:
    shows = {
        version: all(looks_truncated(measured.server, headers, version) for headers in (EVENT_SOURCE, UNANNOUNCED))
        for version in ("1.1", "1.0")
    }
    word = "yes" if all(shows.values()) else "HTTP/1.1" if shows["1.1"] else "no"
    promised = expected(TRUNCATED, measured.row)
    if promised == "no" or (promised == "HTTP/1.1" and shows["1.1"]):
        word = promised  # some show it now and then: a FIN may leave before the RST
    measured.fill(TRUNCATED, word)


def looks_truncated(server: Server, headers: Headers, version: str) -> bool:
    with socket.create_connection(("127.0.0.1", server.port), timeout=PATIENCE) as client:
        target = play_target(event("hello"), pause(0.3), fail("in mid-answer"))
        lines = [
            f"GET {target} HTTP/{version}",
            "Host: localhost",
            "Connection: close",
            *(f"{name}: {value}" for name, value in headers),
        ]
        client.sendall("\r\n".join([*lines, "", ""]).encode())
        received, is_reset = b"", False
        try:
            while (some := client.recv(65536)) and not received.endswith(b"\r\n0\r\n\r\n"):
                received += some
        except ConnectionResetError:
            is_reset = True
    is_chunked = re.search(rb"transfer-encoding: chunked\r\n", received, re.IGNORECASE) is not None
    assert b"data: hello\n\n" in received
    return is_reset or (is_chunked and not received.endswith(b"\r\n0\r\n\r\n"))


def test_a_connection_is_used_again_after_a_stream_to_which_the_watcher_wrote(measured: Measured) -> None:
    connection = measured.server.open(pause(1.2), event("late"), headers=EVENT_SOURCE)
    assert re.fullmatch(rb"(:\n)+data: late\n\n", connection.read_to_end())
    assert connection.ended == "cleanly"
    following = connection.next_request()
    with suppress(OSError, AssertionError):
        following.send("GET", "/ping", UNANNOUNCED)
        following.read_to_end(within=5)
    measured.fill(AGAIN, "yes" if following.body == b"pong" else "closes")


# -- a stop


def test_an_event_source_gets_the_time_to_reconnect_and_an_answer_is_finished(measured: Measured) -> None:
    if measured.row.stop == "handler":
        pytest.skip("measured with the handler of docs/servers.md, in test_stop_recipes.py")
    stop_and_look(measured)


def test_a_worker_that_stops_in_another_way_does_the_same(stopped: Measured) -> None:
    stop_and_look(stopped)


def stop_and_look(measured: Measured) -> None:
    if measured.row.has_one_thread:
        ((stream, stopped_at),) = streams_at_stop(measured, SILENT)
        ((answer, _),) = streams_at_stop(measured, TOKENS)
    else:
        (stream, stopped_at), (answer, _) = streams_at_stop(measured, SILENT, TOKENS)
    has_retry = re.fullmatch(rb"(:\n)*data: hello\n\n(:\n)*retry: [0-9]+\n\n", stream.body) and stream.ended == "cleanly"
    word = "goes on" if stream.ended is None else "yes" if has_retry else "cut"
    is_ended_in_time = (
        measured.row.stop == "max-requests" or stream.ended_at - stopped_at < ENDED_WITHIN
    )  # uvicorn looks now and then
    measured.fill(AT_STOP, word, None if measured.row.stop == "max-requests" else stream.ended_at - stopped_at)
    assert word != "yes" or is_ended_in_time
    measured.fill(ANSWER, "yes" if answer.ended == "cleanly" and answer.body == WHOLE_ANSWER else "cut")


def streams_at_stop(measured: Measured, *streams: list[Step]) -> list[tuple[Connection, float]]:
    """Stop a server with these streams open; return each as far as it was read, and the time of the signal."""
    server = measured.server
    opened = [server.open(*steps, headers=UNANNOUNCED if steps is TOKENS else EVENT_SOURCE) for steps in streams]
    for connection in opened:
        connection.read_until(b"\n\n")
    with ThreadPoolExecutor(len(opened)) as readers:
        reading = readers.map(read_as_far_as_it_comes, opened)
        stopped_at = stop(server, measured.row, opened[0])
        list(reading)
    measured.end()
    return [(connection, stopped_at) for connection in opened]


def stop(server: Server, row: Row, stream: Connection) -> float:
    """Stop the worker, or the server; return the time of the signal."""
    stopped_at = time.monotonic()
    if row.stop != "max-requests":
        server.process.send_signal(signal.SIGHUP if row.stop == "SIGHUP" else signal.SIGTERM)
    elif not row.has_one_thread:  # the stream of a sync worker is itself the last request
        while stream.ended is None and time.monotonic() < stopped_at + LOOKED_AT_FOR:
            with suppress(OSError, AssertionError):
                server.get("/ping", within=LOOKED_AT_FOR)
                stopped_at = time.monotonic()
            time.sleep(0.1)  # uvicorn looks ten times a second, and forgets to for seconds if all come at once
    return stopped_at


def read_as_far_as_it_comes(connection: Connection) -> None:
    with suppress(AssertionError):
        connection.read_to_end(within=4 * LOOKED_AT_FOR)
