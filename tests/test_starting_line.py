"""The log's first lines in a process: what was found of the server, and what will hurt."""

from __future__ import annotations

import logging
import os
import socket
import sys
import types
from collections.abc import Iterator

import pytest

from ssemiddleware import SSEMiddleware, starting_line
from ssemiddleware.servers import _KNOWN
from ssemiddleware.servers import gunicorn as gunicorn_module
from ssemiddleware.servers.granian import Granian
from ssemiddleware.servers.gunicorn import Gunicorn
from ssemiddleware.servers.pywsgi import UnpatchedPywsgi
from ssemiddleware.servers.server import Server, StopSign
from ssemiddleware.servers.stopping import AskedSign
from ssemiddleware.servers.uwsgi import Uwsgi
from ssemiddleware.servers.werkzeug import Werkzeug
from ssemiddleware.starting_line import starting_lines

from .applications import ANNOUNCED, Response, application_of, environ_of


def lines_of(
    server: Server, *, threads: int | None = None, limit: int | None = None, heartbeat: float | None = 15.0
) -> tuple[str, list[str]]:
    """Return the line at INFO, and those at WARNING."""
    (level, first), *others = starting_lines(server, threads=threads, limit=limit, heartbeat=heartbeat)
    assert level == logging.INFO
    assert {level for level, _ in others} <= {logging.WARNING}
    return first, [line for _, line in others]


@pytest.fixture
def connection() -> Iterator[socket.socket]:
    """The server's end of a client's connection."""
    with socket.socket() as found:
        yield found


class StopsWhenAsked(Werkzeug):
    """A server that shows everything."""

    __slots__ = ()

    def stop_sign(self) -> StopSign:
        return AskedSign(lambda: False, None)


def test_a_server_that_shows_everything_has_no_warning(connection: socket.socket) -> None:
    line, warnings = lines_of(StopsWhenAsked({"werkzeug.socket": connection}), threads=10, limit=7)
    assert line == (
        "event streams under werkzeug: a disconnect is detected within half a second; heartbeats after 15 s of silence; "
        "a stop of the server is detected, and streams are ended in time; at most 7 streams at a time, with 10 threads "
        "(max_streams= sets another number)"
    )
    assert warnings == []


def test_for_an_unknown_server_one_line_says_what_does_not_work_without_a_warning() -> None:
    line, warnings = lines_of(Server({}))
    assert line == (
        "event streams under an unknown server: a disconnect is detected when the next block is sent; no heartbeats while the "
        "application is silent; a stop of the server is not detected, so call drain() before the process "
        "ends; any number of streams "
        "(max_streams= sets a limit)"
    )
    assert warnings == []


def test_with_heartbeats_turned_off_there_is_no_warning() -> None:
    line, warnings = lines_of(Granian({}), heartbeat=None)
    assert "no heartbeats (heartbeat=None)" in line
    assert warnings == []


@pytest.mark.parametrize("kind", [kind for kind in _KNOWN if kind.name], ids=lambda kind: kind.name)
def test_each_server_has_a_line_and_where_there_is_no_writer_a_warning_with_the_remedy(kind: type[Server]) -> None:
    line, warnings = lines_of(kind({}))
    assert line.startswith(f"event streams under {kind.name}: ")
    has_writer = kind.writer is not Server.writer
    assert ("heartbeats after 15 s" in line) == has_writer
    assert [kind.why_no_writer in warning and kind.how_to_heartbeat in warning for warning in warnings] == [True] * (
        not has_writer
    )


def test_one_thread_is_a_warning_with_the_server_s_own_remedy() -> None:
    assert lines_of(Werkzeug({}), threads=1, limit=1)[1] == [
        "an event stream takes the only thread of this process, so other requests wait: give the server more threads"
    ]
    ((*_, remedy),) = [warning.split(": ") for warning in lines_of(Gunicorn({}), threads=1, limit=1)[1]]
    assert remedy == "use --worker-class gthread --threads 100, or gevent"


def test_over_http2_there_are_no_heartbeats() -> None:
    line, (warning,) = lines_of(Gunicorn({"HTTP_VERSION": "2"}))
    assert "no heartbeats while the application is silent" in line
    assert "HTTP/2" in warning


def test_gevent_without_patching_is_a_warning_that_names_the_call() -> None:
    (warning,) = lines_of(UnpatchedPywsgi({}))[1]
    assert "gevent.monkey.patch_all()" in warning


def test_gunicorn_s_worker_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    worker = type("ThreadWorker", (), {})()
    monkeypatch.setattr(gunicorn_module, "find_worker", lambda: worker)
    assert Gunicorn({}).label == "gunicorn, ThreadWorker"


def test_uwsgi_has_no_writer_with_options_that_change_its_bodies(monkeypatch: pytest.MonkeyPatch) -> None:
    for options, has_writer in (({}, True), ({b"threads": b"4"}, True), ({b"gevent": b"100"}, False)):
        monkeypatch.setitem(sys.modules, "uwsgi", types.SimpleNamespace(opt=options))
        assert Uwsgi({}).has_writer is has_writer


def test_the_first_stream_of_a_process_is_logged_once(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(starting_line, "_logged", {})
    middlewares = [SSEMiddleware(application_of([b"data: 1\n\n"])) for _ in range(2)]
    with caplog.at_level(logging.INFO, "ssemiddleware"):
        assert caplog.records == []
        for middleware in (*middlewares, *middlewares):
            Response(middleware, environ_of(ANNOUNCED)).body()
    (line,) = [record.getMessage() for record in caplog.records]
    assert line.startswith("event streams under an unknown server: ")


def test_each_process_logs_its_first_stream(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(starting_line, "_logged", {os.getpid() + 1: object()})
    with caplog.at_level(logging.INFO, "ssemiddleware"):
        starting_line.log_once(Server({}), threads=None, limit=None, heartbeat=None)
    assert len(caplog.records) == 1
