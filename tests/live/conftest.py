"""The servers of the live tests, and what the tests measured of them."""

from __future__ import annotations

import importlib.util
import shutil
import ssl
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Protocol

import pytest
import trustme

from ..spreading import Measured
from .serving import ALL_SERVERS, START_WITHIN, Kind, Server, start

WRAPPED, BARE, WITH_HEARTBEATS = (f"live.applications:{name}" for name in ("app", "play", "app_with_heartbeats"))

Measure = Callable[[str, float], None]  # what, and seconds
Fill = Callable[[str, str, str], None]  # a cell of the table of servers: its row, its column, and what stands in it

_measured = Measured()


@pytest.fixture(scope="session")
def folder() -> Iterator[Path]:
    """Where the servers write; its path is short, since a socket's must be."""
    with tempfile.TemporaryDirectory(prefix="live-") as name:
        Path(name).chmod(0o711)  # for Apache, which does not run as root
        yield Path(name)


@pytest.fixture(scope="session")
def trust(folder: Path) -> ssl.SSLContext:
    """Trusts the certificate for localhost in the folder's certificate.pem, and speaks HTTP/2 with clients that do.

    So do clients that trust the folder's authority.pem.
    """
    authority, trust = trustme.CA(), ssl.create_default_context()
    authority.configure_trust(trust)
    authority.cert_pem.write_to_path(folder / "authority.pem")
    authority.issue_cert("localhost").private_key_and_cert_chain_pem.write_to_path(folder / "certificate.pem")
    trust.set_alpn_protocols(["h2"])
    return trust


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

    def disconnect_all(self) -> None:
        """Close the connections of the test, and show what the servers wrote meanwhile."""
        for server, before in self._used.items():
            server.disconnect_all()
            sys.stdout.write(f"-- {server.kind}\n{server.output()[before:]}")  # pytest shows it if the test has failed
        self._used.clear()

    def end(self) -> None:
        """End all servers, at the same time."""
        for server in self._servers.values():
            server.disconnect_all()
            if server.process.poll() is None:
                server.process.terminate()
        for server in self._servers.values():
            server.end()


def require(kind: Kind) -> None:
    """Skip, and say what is missing, where the server is not installed."""
    missing = [name for name in kind.needs if importlib.util.find_spec(name) is None and shutil.which(name) is None]
    missing += kind.lacks()
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
    """The shared servers; the connections of the test are closed after it."""
    yield all_servers
    all_servers.disconnect_all()


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


@pytest.fixture(scope="session")
def fill() -> Fill:
    """Fill a cell of the table of servers, which is printed when all tests have run."""
    return _measured.fill


@pytest.fixture
def print_line() -> Callable[[str], None]:
    """Note a line of a table to be printed when all tests have run."""
    return _measured.lines.append


@pytest.fixture
def own_network() -> None:
    """Skip, and say what is missing, where a test can have no network of its own."""
    command = ["unshare", "--map-root-user", "--net", "ip", "link"]
    if not all(map(shutil.which, ("unshare", "ip"))) or subprocess.run(command, capture_output=True, check=False).returncode:
        pytest.skip("no network of its own: needs unshare (util-linux), ip (iproute2) and a kernel that lets us")


def pytest_sessionfinish(session: pytest.Session) -> None:
    _measured.hand_over(session.config)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    _measured.print(terminalreporter)
