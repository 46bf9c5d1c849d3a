"""Real servers as processes of their own: started on a free port, asked over HTTP, ended by their own process ids."""

from __future__ import annotations

import json
import os
import re
import secrets
import socket
import ssl
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlencode

import psutil
import pytest

import ssemiddleware

from . import under_apache, under_express
from .client import PATIENCE, Connection, Headers, TooLate
from .http2 import over_http2_if_chosen
from .steps import Step

START_WITHIN = 60.0  # seconds, on a machine that has other things to do
END_WITHIN = 5.0

ANNOUNCED: Headers = [("Accept", "text/event-stream")]
EVENT_SOURCE: Headers = [*ANNOUNCED, ("Cache-Control", "no-cache")]  # what browsers send
UNANNOUNCED: Headers = [("Accept", "*/*")]
CLIENTS = [
    pytest.param(EVENT_SOURCE, id="EventSource"),
    pytest.param(ANNOUNCED, id="announced"),
    pytest.param(UNANNOUNCED, id="unannounced"),
]
PATHS = CLIENTS[1:]  # with and without what the middleware does for those who ask


@dataclass(frozen=True)
class Kind:
    """A server to be started: its name in the tests, and its command for an application and a port."""

    name: str
    command: Callable[[str, int], list[str]]
    needs: tuple[str, ...]  # modules, and programs, that may not be installed
    unix_socket: bool = False  # it listens on one, called server-PORT.sock, as well
    lacks: Callable[[], list[str]] = list  # what else is not there

    def __str__(self) -> str:
        return self.name


def gunicorn(worker: str, *options: str, name: str = "") -> Kind:
    """Return gunicorn with a worker class and further options."""

    def command(application: str, port: int) -> list[str]:
        bind = f"127.0.0.1:{port}"
        return [sys.executable, "-m", "gunicorn", "--bind", bind, "--worker-class", worker, *options, application]

    return Kind(name or f"gunicorn {worker}", command, ("gunicorn", "gevent") if worker == "gevent" else ("gunicorn",))


def over_unix_socket(kind: Kind) -> Kind:
    """Return that gunicorn with a Unix socket too, over which all requests go."""

    def command(application: str, port: int) -> list[str]:
        *given, app = kind.command(application, port)
        return [*given, "--bind", f"unix:server-{port}.sock", app]

    return Kind(f"{kind} on a Unix socket", command, kind.needs, unix_socket=True)


def waitress(*options: str, name: str = "waitress") -> Kind:
    """Return waitress with options."""

    def command(application: str, port: int) -> list[str]:
        return [sys.executable, "-m", "waitress", f"--listen=127.0.0.1:{port}", *options, application]

    return Kind(name, command, ("waitress",))


def uvicorn(*options: str, grace: int = 1, name: str = "uvicorn with a2wsgi") -> Kind:
    """Return uvicorn; its application has to be behind a2wsgi (see `asgi`). *grace*: seconds until it cuts its streams."""

    def command(application: str, port: int) -> list[str]:
        given = ["--host=127.0.0.1", f"--port={port}", f"--timeout-graceful-shutdown={grace}", *options]
        return [sys.executable, "-m", "uvicorn", *given, application]

    return Kind(name, command, ("uvicorn", "a2wsgi"))


def hypercorn(*, grace: int = 1, name: str = "hypercorn") -> Kind:
    """Return hypercorn; its application is one of `asgi`, or ``wsgi:`` and a WSGI one."""

    def command(application: str, port: int) -> list[str]:
        return [sys.executable, "-m", "hypercorn", f"--bind=127.0.0.1:{port}", f"--graceful-timeout={grace}", application]

    return Kind(name, command, ("hypercorn", "a2wsgi"))


def granian() -> Kind:
    """Return granian."""

    def command(application: str, port: int) -> list[str]:
        return [
            sys.executable,
            "-m",
            "granian",
            "--interface",
            "wsgi",
            "--port",
            str(port),
            "--blocking-threads",
            "8",
            application,
        ]

    return Kind("granian", command, ("granian",))


def cheroot() -> Kind:
    """Return cheroot."""

    def command(application: str, port: int) -> list[str]:
        return [sys.executable, "-m", "cheroot", "--bind", f"127.0.0.1:{port}", application]

    return Kind("cheroot", command, ("cheroot",))


def uwsgi(http: str, *options: str, name: str) -> Kind:
    """Return uWSGI, as pyuwsgi; *http*: ``--http-socket``, or ``--http`` with a router of its own."""

    def command(application: str, port: int) -> list[str]:
        program = str(Path(sys.executable).with_name("pyuwsgi"))
        given = [http, f"127.0.0.1:{port}", *options, "--module", application]
        return [program, "--master", "--die-on-term", "--need-app", "--disable-logging", *given]

    return Kind(name, command, ("pyuwsgi",))


def uwsgi_behind_nginx(*options: str, name: str) -> Kind:
    """Return uWSGI behind nginx, which speaks uWSGI's own protocol to it."""
    behind = uwsgi("--socket", *options, name=name)

    def command(application: str, port: int) -> list[str]:
        return [sys.executable, "-m", "live.behind_nginx", str(port), *behind.command(application, 0)]

    return Kind(name, command, (*behind.needs, "nginx"))


def mod_wsgi() -> Kind:
    """Return Apache with mod_wsgi's daemon mode."""

    def command(application: str, port: int) -> list[str]:
        return [sys.executable, "-m", "live.under_apache", str(port), application]

    return Kind("mod_wsgi", command, ("apache2",), lacks=under_apache.lacks)


def mod_wsgi_express(*options: str) -> Kind:
    """Return mod_wsgi-express with options."""

    def command(application: str, port: int) -> list[str]:
        return [sys.executable, "-m", "live.under_express", str(port), application, *options]

    return Kind(under_express.PROGRAM, command, (under_express.PROGRAM,), lacks=under_express.lacks)


def flask_run() -> Kind:
    """Return ``flask run``; its application is a Flask one."""

    def command(application: str, port: int) -> list[str]:
        return [sys.executable, "-m", "flask", "--app", application, "run", "--port", str(port)]

    return Kind("flask run", command, ("flask",))


def runserver() -> Kind:
    """Return Django's runserver; its application is a module of settings."""

    def command(application: str, port: int) -> list[str]:
        return [sys.executable, "-m", "django", "runserver", "--noreload", str(port), "--settings", application]

    return Kind("runserver", command, ("django",))


def simple(server: str) -> Kind:
    """Return a server that has no command line of its own, through `simple_servers`."""

    def command(application: str, port: int) -> list[str]:
        return [sys.executable, "-m", "live.simple_servers", server, str(port), application]

    names = {"pywsgi": "gevent.pywsgi, patched", "unpatched pywsgi": "gevent.pywsgi, not patched"}
    return Kind(names.get(server, server), command, ("gevent",) if "pywsgi" in server else ())


SYNC, GTHREAD, GEVENT = gunicorn("sync"), gunicorn("gthread", "--threads", "10"), gunicorn("gevent")
WAITRESS, WERKZEUG, WSGIREF = waitress("--threads=10"), simple("werkzeug"), simple("wsgiref")
ALL_SERVERS = (SYNC, GTHREAD, GEVENT, WAITRESS, WERKZEUG, WSGIREF)
GUNICORNS = (SYNC, GTHREAD, GEVENT)

# The same with one thread, which a stream holds.
SINGLES = (
    SYNC,
    gunicorn("gthread", "--threads", "1", name="gunicorn gthread with one thread"),
    GEVENT,
    waitress("--threads=1", name="waitress with one thread"),
    WERKZEUG,
    WSGIREF,
)


class Life(NamedTuple):
    """What became of a request, as `applications` reports it."""

    called_on: list[str]
    pulled_on: list[str]
    closed_on: list[str]
    blocks: int
    size: int
    noticed_at: float | None
    closed: bool
    reason: str | None
    last_event_id: str

    @property
    def is_of_one_thread(self) -> bool:
        """Whether call, iteration and ``close()`` were on one thread, which is not one of the middleware's."""
        [thread] = self.called_on
        return self.pulled_on in ([], [thread]) and self.closed_on == [thread] and not thread.startswith("ssemiddleware")


class Server:
    """A server that runs. `open` asks it for a stream, `get` for anything that ends by itself."""

    def __init__(self, kind: Kind, process: psutil.Popen, port: int, output: Path, trust: ssl.SSLContext | None) -> None:
        self.kind = kind
        self.process = process
        self.port = port
        self._output = output
        self._trust = trust
        self._connections: list[Connection] = []

    # -- requests

    def connect(self, *, receive_buffer: int | None = None) -> Connection:
        """Return a connection on which nothing is sent yet."""
        stream_socket = socket.socket(socket.AF_UNIX if self.kind.unix_socket else socket.AF_INET)
        if receive_buffer is not None:
            stream_socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        stream_socket.settimeout(PATIENCE)
        unix_socket = str(self._output.parent / f"server-{self.port}.sock")
        try:
            stream_socket.connect(unix_socket if self.kind.unix_socket else ("127.0.0.1", self.port))
        except OSError:
            stream_socket.close()
            raise
        if self._trust is not None:
            stream_socket = over_http2_if_chosen(self._trust.wrap_socket(stream_socket, server_hostname="localhost"))
        connection = Connection(stream_socket)
        self._connections.append(connection)
        return connection

    def ask(self, target: str, headers: Headers = UNANNOUNCED, *, method: str = "GET", more: bytes = b"") -> Connection:
        """Send a request, and *more* bytes; its response is still to be read."""
        connection = self.connect()
        connection.send(method, target, headers, more=more)
        return connection

    def open(
        self, *steps: Step, headers: Headers = ANNOUNCED, method: str = "GET", more: bytes = b"", **query: str
    ) -> Connection:
        """Ask for what the *steps* make; the response is still to be read."""
        return self.ask(play_target(*steps, **query), headers, method=method, more=more)

    def get(self, target: str, headers: Headers = UNANNOUNCED, *, within: float = PATIENCE) -> Connection:
        """Return a response that has been read to its end."""
        connection = self.ask(target, [*headers, ("Connection", "close")])
        connection.read_to_end(within)
        connection.disconnect()
        return connection

    def life(self, key: str, *, within: float = PATIENCE) -> Life:
        """Return what became of the request of that key."""
        life = json.loads(self.get(f"/life?key={key}", within=within).body)
        threads = life.pop("threads")
        return Life(threads["call"], threads["next"], threads["close"], **life)

    def life_once(self, key: str, holds: Callable[[Life], object], *, within: float = PATIENCE) -> Life:
        """Return what became of the request of that key once *holds* does."""
        deadline = time.monotonic() + within
        while not holds(life := self.life(key, within=max(PATIENCE, within))):
            if time.monotonic() > deadline:
                raise TooLate(f"not within {within} s: {life}")
            time.sleep(0.02)
        return life

    def release(self, key: str) -> None:
        """Let the application go on after `wait_for_release`."""
        assert self.get(f"/release?key={key}").status == 200

    # -- the process

    def worker(self) -> psutil.Process:
        """Return the process that answers."""
        return psutil.Process(int(self.get("/ping").header("X-Process") or ""))

    def workers(self, number: int) -> list[psutil.Process]:
        """Return gunicorn's workers once there are so many and each answers."""
        deadline = time.monotonic() + START_WITHIN
        while len(workers := self.process.children()) != number:
            assert time.monotonic() < deadline, workers
            time.sleep(0.02)
        for worker in workers:
            with self.only(worker):
                assert self.get("/ping", within=START_WITHIN).header("X-Process") == str(worker.pid)
        return workers

    @contextmanager
    def only(self, worker: psutil.Process) -> Iterator[None]:
        """Have that worker of gunicorn's answer: the kernel may give one of them every connection."""
        others = [other for other in self.process.children() if other != worker]
        for other in others:
            other.suspend()
        try:
            yield
        finally:
            for other in others:
                other.resume()

    def output(self) -> str:
        """Return all that the server has written."""
        return self._output.read_text(errors="replace")

    def output_once(self, pattern: str, *, since: int = 0, within: float = PATIENCE) -> str:
        """Return the output after the first *since* characters, once the regular expression *pattern* is found in it."""
        deadline = time.monotonic() + within
        while not re.search(pattern, output := self.output()[since:]):
            if time.monotonic() > deadline:
                raise TooLate(f"{pattern!r} is not in the server's output within {within} s: {output[-3000:]}")
            time.sleep(0.02)
        return output

    def disconnect_all(self) -> None:
        """Close the connections of the test."""
        for connection in self._connections:
            connection.disconnect()
        self._connections.clear()

    def end(self) -> None:
        """Ask the process to end, and kill it and its workers if they do not."""
        self.disconnect_all()
        if not self.process.is_running() or self.process.poll() is not None:
            return
        processes = [self.process, *self.process.children(recursive=True)]
        self.process.terminate()
        _, left = psutil.wait_procs(processes, timeout=END_WITHIN)
        for process in left:
            process.kill()
        psutil.wait_procs(left, timeout=END_WITHIN)


def play_target(*steps: Step, **query: str) -> str:
    """Return the target of a request for the steps."""
    return "/play?" + urlencode({"steps": json.dumps(steps), **query})


def new_key() -> str:
    """Return a name for a request, to ask for its life."""
    return secrets.token_hex(8)


def start(
    kind: Kind, application: str, folder: Path, *, trust: ssl.SSLContext | None = None, port: int | None = None
) -> Server:
    """Start a server of that kind, and return once it listens. *port*: of the socket that it is given, if it is given one."""
    for _ in range(3):
        server = _maybe_start(kind, application, folder, trust, port)
        if server is not None:
            return server
    raise AssertionError(f"{kind} found no free port")


def start_again(server: Server, application: str, folder: Path) -> Server:
    """Start a server that has ended once more, on the same port."""
    again = _maybe_start(server.kind, application, folder, None, server.port)
    assert again is not None, f"port {server.port} is taken"
    return again


def output_of_failed_start(kind: Kind, application: str, folder: Path) -> str:
    """Start a server that ends by itself, with an error; return what it has written."""
    command = kind.command(application, 0)  # any port, since no client connects to it
    ended = subprocess.run(
        command, cwd=folder, env=_environment(folder), capture_output=True, text=True, timeout=START_WITHIN, check=False
    )
    assert ended.returncode, ended
    return ended.stdout + ended.stderr


def _maybe_start(
    kind: Kind, application: str, folder: Path, trust: ssl.SSLContext | None, port: int | None = None
) -> Server | None:
    """Start a server; None if another process has taken the port meanwhile."""
    port = port or free_port()
    output = Path(tempfile.mkstemp(dir=folder, prefix=f"{kind}-".replace(" ", "-"), suffix=".log")[1])
    with output.open("wb") as log:
        process = psutil.Popen(
            kind.command(application, port), cwd=folder, env=_environment(folder), stdout=log, stderr=log, close_fds=False
        )
    server = Server(kind, process, port, output, trust)
    deadline = time.monotonic() + START_WITHIN
    while not _listens(process, port):
        if process.poll() is not None and re.search("in use", server.output()):
            return None
        if process.poll() is not None or time.monotonic() > deadline:
            server.end()
            raise AssertionError(f"{kind} does not listen:\n{server.output()}")
        time.sleep(0.02)
    return server


def free_port() -> int:
    """Return a port that was free a moment ago."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
        return port


def _environment(folder: Path) -> dict[str, str]:
    package, tests = Path(ssemiddleware.__file__).parents[1], Path(__file__).parents[1]
    paths = [str(tests), str(package), *filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))]
    ours = {"PYTHONPATH": os.pathsep.join(paths), "PYTHONUNBUFFERED": "1", "XDG_RUNTIME_DIR": str(folder)}
    return dict(os.environ) | ours


def _listens(process: psutil.Popen, port: int) -> bool:
    """Tell whether the process itself listens: another one on that port would answer a connection as well."""
    try:  # granian's is one of its children's
        owners = [process, *process.children(recursive=True)]
        connections: list[Any] = [each for owner in owners for each in owner.net_connections("tcp4")]
    except psutil.Error:
        return False
    return any(each.status == psutil.CONN_LISTEN and each.laddr.port == port for each in connections)
