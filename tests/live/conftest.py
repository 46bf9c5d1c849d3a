"""The servers of the live tests, and what the tests measured of them."""

from __future__ import annotations

import importlib.util
import ssl
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Protocol

import pytest

from ..spreading import Measured
from .serving import ALL_SERVERS, START_WITHIN, Kind, Server, start

WRAPPED, BARE, WITH_HEARTBEATS = (f"live.applications:{name}" for name in ("app", "play", "app_with_heartbeats"))

Measure = Callable[[str, float], None]  # what, and seconds

_measured = Measured()


@pytest.fixture(scope="session")
def folder() -> Iterator[Path]:
    """Where the servers write; its path is short, since a socket's must be."""
    with tempfile.TemporaryDirectory(prefix="live-") as name:
        yield Path(name)


class Start(Protocol):
    """Starts a server for one test."""

    def __call__(self, kind: Kind, application: str = ..., *, trust: ssl.SSLContext | None = ...) -> Server: ...


class Pool:
    """The servers that many tests share, each started when it is first asked for."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._servers: dict[tuple[Kind, str], Server] = {}
        self._used: dict[Server, int] = {}  # by the test, and how much each had written before it

    def get(self, kind: Kind, application: str = WRAPPED) -> Server:
        """Return a server that answers; one that a test before has left unable to is replaced."""
        server = self._servers.get((kind, application))
        if server is None or not _answers(server):
            if server is not None:
                server.end()
            require(kind)
            server = self._servers[kind, application] = start(kind, application, self._folder)
            assert _answers(server, within=START_WITHIN), server.output()
        self._used.setdefault(server, len(server.output()))
        return server

    def leave_all(self) -> None:
        """Close the connections of the test, and show what the servers wrote meanwhile."""
        for server, before in self._used.items():
            server.leave_all()
            sys.stdout.write(f"-- {server.kind}\n{server.output()[before:]}")  # pytest shows it if the test has failed
        self._used.clear()

    def end(self) -> None:
        """End all servers, at the same time."""
        for server in self._servers.values():
            server.leave_all()
            if server.process.poll() is None:
                server.process.terminate()
        for server in self._servers.values():
            server.end()


def require(kind: Kind) -> None:
    """Skip, and say what is missing, where the server is not installed."""
    missing = [name for name in kind.needs if importlib.util.find_spec(name) is None]
    if missing:
        pytest.skip(f"{kind} needs {' and '.join(missing)}: not installed")


def _answers(server: Server, within: float = 10) -> bool:
    try:
        return server.get("/ping", within=within).status == 200
    except (OSError, AssertionError):
        return False


@pytest.fixture(scope="session")
def all_servers(folder: Path) -> Iterator[Pool]:
    servers = Pool(folder)
    yield servers
    servers.end()


@pytest.fixture
def pool(all_servers: Pool) -> Iterator[Pool]:
    """The shared servers; the connections of the test are closed behind it."""
    yield all_servers
    all_servers.leave_all()


@pytest.fixture(params=ALL_SERVERS, ids=str)
def server(request: pytest.FixtureRequest, pool: Pool) -> Server:
    """Each server, with the wrapped application."""
    return pool.get(request.param)


@pytest.fixture
def serve(folder: Path) -> Iterator[Start]:
    """Start a server for one test."""
    started: list[Server] = []

    def serve(kind: Kind, application: str = WRAPPED, *, trust: ssl.SSLContext | None = None) -> Server:
        require(kind)
        started.append(start(kind, application, folder, trust=trust))
        return started[-1]

    yield serve
    for server in started:
        server.end()
        sys.stdout.write(f"-- {server.kind}\n{server.output()}")  # pytest shows it if the test has failed


@pytest.fixture(scope="session")
def measure() -> Measure:
    """Note seconds to be printed when all tests have run."""
    return _measured.note


def pytest_sessionfinish(session: pytest.Session) -> None:
    _measured.hand_over(session.config)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    _measured.print(terminalreporter)
