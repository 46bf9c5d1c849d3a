"""A browser of each engine, a gunicorn with what they read, and a page, for the tests of this folder."""

from __future__ import annotations

import json
import os
import secrets
import signal
import socket
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

import psutil
import pytest

import ssemiddleware

from .driving import ENGINES, Browser, environment, running
from .page import Page

_HERE = Path(__file__).parent
_PACKAGE = Path(ssemiddleware.__file__).parent


class Server:
    """A server that runs, and its journal (see `application`)."""

    def __init__(self, url: str, journal: Path, pid: int) -> None:
        self.url = url
        self._journal = journal
        self._pid = pid

    def reload(self) -> None:
        """Have all workers replaced, and wait until those of before are gone."""
        workers = psutil.Process(self._pid).children()
        os.kill(self._pid, signal.SIGHUP)
        _, left = psutil.wait_procs(workers, 60)  # 10 s of grace, and what a busy machine adds
        assert not left

    def kill_workers(self) -> None:
        """Have all workers cut their streams wherever they are; gunicorn starts others."""
        for worker in psutil.Process(self._pid).children():
            worker.kill()

    def lines_of(self, stream: str, fact: str) -> list[dict[str, Any]]:
        """Return the lines of the journal that report this *fact* about *stream*."""
        text = self._journal.read_text() if self._journal.exists() else ""
        lines = [json.loads(line) for line in text.splitlines(keepends=True) if line.endswith("\n")]
        return [line for line in lines if line["stream"] == stream and fact in line]

    def wait_for(self, stream: str, fact: str, workers: int = 1, within: float = 30.0) -> list[dict[str, Any]]:
        """Return the lines with this *fact* about *stream*, once so many *workers* have written one."""
        deadline = time.monotonic() + within
        while time.monotonic() < deadline:
            lines = self.lines_of(stream, fact)
            if len({line["worker"] for line in lines}) >= workers:
                return lines
            time.sleep(0.01)
        raise AssertionError(f"{fact!r} of {stream} is not reported by {workers} workers within {within} s: {lines}")


@pytest.fixture(scope="session", params=ENGINES)
def browser(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    engine = ENGINES[request.param]
    missing = engine.missing()
    if missing:
        reason = f"no {', '.join(missing)}: {engine.remedy}"
        if os.environ.get("SSEMIDDLEWARE_REQUIRE_BROWSERS"):
            pytest.fail(reason)
        pytest.skip(reason)
    with engine.start(tmp_path_factory.mktemp(request.param)) as browser:
        yield browser


@pytest.fixture(scope="session")
def gunicorn(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """One worker, so that a reload replaces the only one."""
    options = ("--chdir", str(_HERE), "--worker-class", "gthread", "--threads", "16", "--graceful-timeout", "10")
    folder = tmp_path_factory.mktemp("gunicorn")
    application = f"application:create_application({str(folder / 'journal')!r})"
    with serving(folder, lambda fd: ("-m", "gunicorn", "--bind", f"fd://{fd}", *options, application)) as server:
        yield server
    assert "Traceback" not in (folder / "log").read_text(), (folder / "log").read_text()


@pytest.fixture(scope="session")
def waitress(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("waitress")
    with serving(folder, lambda fd: (str(_HERE / "application.py"), str(folder / "journal"), str(fd))) as server:
        yield server


@pytest.fixture(scope="session")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """The demo, on a listening socket that is there already."""
    folder = tmp_path_factory.mktemp("demo")
    options = ("--config", "python:ssemiddleware.demo.gunicorn_settings")
    with serving(
        folder, lambda fd: ("-m", "gunicorn", *options, "--bind", f"fd://{fd}", "ssemiddleware.demo:create_app()")
    ) as server:
        yield server
    assert "Traceback" not in (folder / "log").read_text(), (folder / "log").read_text()


@contextmanager
def serving(folder: Path, arguments: Callable[[int], tuple[str, ...]]) -> Iterator[Server]:
    """Start Python with *arguments*, which are given a listening socket; its journal is in *folder*."""
    log = folder / "log"
    env = {**environment(folder), "PYTHONPATH": str(_PACKAGE.parent)}
    with ExitStack() as stack:
        with socket.create_server(("127.0.0.1", 0)) as listener:
            url = f"http://127.0.0.1:{listener.getsockname()[1]}/"
            command = (sys.executable, *arguments(listener.fileno()))
            pid = stack.enter_context(running(*command, log=log, env=env, pass_fds=(listener.fileno(),)))
        try:
            with closing(HTTPConnection(url.split("/")[2], timeout=60)) as connection:
                connection.request("GET", "/")
                assert connection.getresponse().status == 200
        except OSError as error:
            raise AssertionError(log.read_text()) from error
        yield Server(url, folder / "journal", pid)


@pytest.fixture
def page(browser: Browser, gunicorn: Server) -> Page:
    return Page(browser, gunicorn.url)


@pytest.fixture
def stream() -> str:
    """Return a name for a stream in the journal."""
    return secrets.token_hex(4)
