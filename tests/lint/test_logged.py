"""`SSEMiddleware(..., lint=True)`: mistakes are logged, and the stream is not changed."""

from __future__ import annotations

import itertools
import logging

import pytest
from hypothesis import HealthCheck, given, settings

from ssemiddleware import SSEMiddleware
from ssemiddleware.lint import MISTAKES
from ssemiddleware.oversized import LONG_LINE

from ..applications import ANNOUNCED, EVENT_STREAM, Response, application_of, environ_of, respond
from ..event_stream.streams import cuttings
from .test_linter import WRONG as MISTAKEN

WRONG = [b"Data: 1\n\n", b"data: 2\n\n", b"Data: 3\n\nretry: 3s\n\n", b"data: 4\n"]


def logged(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]


@pytest.mark.parametrize("request_", [{}, ANNOUNCED], ids=["unannounced", "announced"])
def test_each_kind_of_mistake_is_logged_once_for_each_path(request_: dict[str, str], caplog: pytest.LogCaptureFixture) -> None:
    wrapped = SSEMiddleware(application_of(WRONG), lint=True)
    for path in ("/one", "/one", "/two"):
        assert Response(wrapped, environ_of({**request_, "PATH_INFO": path})).body() == b"".join(WRONG)
    lines = logged(caplog)
    assert [line.partition(" sends")[0] for line in lines] == ["'/one'"] * 3 + ["'/two'"] * 3
    assert lines[0].startswith("'/one' sends a mistake in line 1, event 1: 'Data: 1'. A field's name is not exactly")
    assert "What a browser does: It ignores the line. The fix: write the name in lower case" in lines[0]
    assert "line 7, event 4: 'retry: 3s'" in lines[1]
    assert "line 9, event 5: 'data: 4'. The stream ends inside an event" in lines[2]


@pytest.mark.parametrize("what", [what for what, (_, expected) in MISTAKEN.items() if expected])
def test_each_mistake_that_lint_prints_is_logged_with_its_line_and_fix(what: str, caplog: pytest.LogCaptureFixture) -> None:
    stream, expected = MISTAKEN[what]
    by_name = {mistake.name: mistake for mistake in MISTAKES}
    respond(application_of([stream]), lint=True).body()
    first = {name: (event, line) for name, event, line in reversed(expected)}  # of each kind
    for name, (event, line) in first.items():
        if name == "long-line":
            assert "an event line of more than 64 KiB" in logged(caplog)[0]
            continue
        [line_of_log] = [each for each in logged(caplog) if by_name[name].what in each]
        assert f"line {line}, event {event}: " in line_of_log
        assert f"What a browser does: {by_name[name].browser} The fix: {by_name[name].fix}" in line_of_log


def test_nothing_is_logged_for_a_correct_stream_and_a_long_line_is_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    respond(application_of([b"data: 1\n\n"] * 9), lint=True).body()
    assert logged(caplog) == []
    respond(application_of([b"data: " + b"x" * LONG_LINE + b"\n\n"]), lint=True).body()
    assert len(logged(caplog)) == 1


def test_events_that_never_end_are_logged_when_the_client_disconnects(caplog: pytest.LogCaptureFixture) -> None:
    response = respond(application_of(itertools.repeat(b"data: 1\n")), lint=True)
    assert [*itertools.islice(response.blocks(), 3)] == [b"data: 1\n"] * 3
    response.close()
    [line] = logged(caplog)
    assert "No event ever ends" in line


def test_nothing_is_checked_by_default(caplog: pytest.LogCaptureFixture) -> None:
    respond(application_of(WRONG)).body()
    assert logged(caplog) == []


@pytest.mark.parametrize("kind", [("Content-Encoding", "gzip"), ("X-Status", "204")], ids=["encoded", "another header"])
def test_an_encoded_stream_is_not_checked(kind: tuple[str, str], caplog: pytest.LogCaptureFixture) -> None:
    respond(application_of([b"\x1f\x8b\n"], EVENT_STREAM, kind), lint=True).body()
    assert bool(logged(caplog)) == (kind[0] != "Content-Encoding")


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(blocks=cuttings())
def test_any_bytes_are_sent_unchanged(blocks: list[bytes], caplog: pytest.LogCaptureFixture) -> None:
    assert respond(application_of(blocks), lint=True).body() == b"".join(blocks)
