"""The command line of `doctor` and `lint`: the parts that need no server."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

import pytest

from ssemiddleware.__main__ import command_line, main
from ssemiddleware.commands import watching
from ssemiddleware.lint import MISTAKES

from ..lint.test_linter import WRONG


def test_a_missing_library_is_named_with_its_extra(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as raised:
        watching.require_extra("asyncio", "no_such_library")
    assert raised.value.code == 2
    assert capsys.readouterr().err == 'This needs no_such_library: pip install "ssemiddleware[doctor]"\n'


def test_a_stream_is_watched_for_longer_than_proxies_wait() -> None:
    options = command_line().parse_args(["doctor", "http://localhost/", "--header", "Cookie: a=b: c", "--header", "X:y"])
    assert options.seconds > 60
    assert options.headers == [("Cookie", "a=b: c"), ("X", "y")]
    with pytest.raises(SystemExit):
        command_line().parse_args(["doctor", "http://localhost/", "--header", "Cookie"])


@pytest.mark.parametrize(("stream", "status", "last"), [(b"data: 1\n\n", 0, "No mistakes."), (b"data: 1\n", 1, "1 mistake")])
def test_lint_exits_with_1_if_there_are_mistakes(
    stream: bytes, status: int, last: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "events").write_bytes(stream)
    assert main(["lint", str(tmp_path / "events")]) == status
    assert capsys.readouterr().out.splitlines()[-1] == last


@pytest.mark.parametrize("what", [what for what, (_, expected) in WRONG.items() if expected])
def test_lint_prints_the_event_the_line_what_a_browser_does_and_the_fix(
    what: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    stream, expected = WRONG[what]
    (tmp_path / "events").write_bytes(stream)
    assert main(["lint", str(tmp_path / "events")]) == 1
    printed = capsys.readouterr().out
    by_name = {mistake.name: mistake for mistake in MISTAKES}
    for name, event, line in expected:
        _, says, browser, fix = by_name[name]
        assert f"{tmp_path}/events:{line}: event {event}: " in printed
        assert f"\n    {says}\n    A browser: {browser}\n    The fix: {fix}\n" in printed


def test_lint_exits_with_2_without_a_file(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["lint", "no such file"]) == 2
    assert "no such file" in capsys.readouterr().err


def test_the_command_is_also_installed_under_the_package_s_own_name() -> None:
    scripts = metadata.entry_points(group="console_scripts", name="ssemiddleware")
    assert {script.load() for script in scripts} == {main}


def test_ctrl_c_stops_watching() -> None:
    async def until_stopped(stop: asyncio.Event) -> bool:
        os.kill(os.getpid(), signal.SIGINT)
        return await asyncio.wait_for(stop.wait(), 20)

    stop = asyncio.Event()
    assert watching.run(until_stopped(stop), stop)


@pytest.fixture
def silent() -> Iterator[str]:
    """The URL of a server that accepts connections, and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}/"


def test_ctrl_c_stops_the_requests_after_the_stream_too(silent: str) -> None:
    command = [sys.executable, "-m", "ssemiddleware", "doctor", "--json", "--for", "0.3", silent]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        time.sleep(watching.REFUSED_WITHIN + 3)  # the stream is over, and so is the malformed request
        process.send_signal(signal.SIGINT)
        output, errors = process.communicate(timeout=3)
    assert errors == b""
    assert process.returncode == 1
    assert json.loads(output)["summary"].startswith("no headers")


def test_a_connection_that_is_never_made_is_none(capsys: pytest.CaptureFixture[str]) -> None:
    with socket.create_server(("127.0.0.1", 0), backlog=0) as full:
        port = full.getsockname()[1]
        waiting = [socket.socket() for _ in range(4)]
        for each in waiting:
            each.setblocking(False)
            each.connect_ex(("127.0.0.1", port))
        assert main(["doctor", "--json", "--for", "0.5", f"http://127.0.0.1:{port}/"]) == 2
        assert f"no connection to http://127.0.0.1:{port}/" in json.loads(capsys.readouterr().out)["error"]
        for each in waiting:
            each.close()
