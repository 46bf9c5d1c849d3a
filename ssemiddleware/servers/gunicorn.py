"""gunicorn: its sync, gthread, gevent and gevent_pywsgi workers. Measured with gunicorn 27.0.1 and gevent 26.9.0.

A worker closes a client's connection only after the iterable's ``close()``: sync and gevent when their ``handle`` ends, gthread
in ``finish_request`` on its main thread. So a stream's descriptor belongs to its client until the stream is over.

When a worker has to stop, ``worker.alive`` becomes False, with every signal and at ``max_requests``. No hook is called in the
worker before the grace is over. This ends its streams then, with ``--graceful-timeout`` *g* and ``--timeout`` *t*:

| | TERM to the arbiter | HUP, TTOU, TERM to a worker, ``max_requests`` |
|---|---|---|
| sync | SIGKILL after g | SIGABRT t after the last `report_alive` |
| gthread | SIGKILL after g | its pool's threads go on; SIGABRT t after its last sign of life, at g - 1 to g |
| gevent, gevent_pywsgi | SIGKILL after g | GreenletExit after g + 1 to g + 3 |

With g 4 and t 6 clients were cut after 4.0 s in the first column, and in the second after 10.0 s (sync), 9.1 to 11.1 (gthread)
and 5.4 to 7.4 (gevent); gevent_pywsgi has no ``max_requests``. SIGABRT raises SystemExit on a worker's main thread, and SIGKILL
follows a second later. With a *t* of 0 there is no SIGABRT. A worker gets the same signal in both columns. The difference is in
the arbiter: on TERM it first closes its listeners.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, cast

from .connection import Connection, HasDescriptor
from .pools import ExecutorPool
from .pywsgi import PatchedPywsgi, connection_over
from .server import Loop, Pool, Server, StopSign, Writer
from .writing import CHANGED_OUTSIDE, CallingWriter, has_length_or_encoding, is_exactly

if TYPE_CHECKING:
    from types import FrameType

    from _typeshed.wsgi import WSGIEnvironment

_MARGIN = 1.0  # seconds between the end of the streams and the end of the worker; half of the grace if that is less


class Worker(Protocol):
    """The attributes of ``gunicorn.workers.base.Worker`` that are used here."""

    alive: bool
    cfg: Any
    pid: int
    ppid: int  # the arbiter's
    sockets: Sequence[HasDescriptor]  # listeners

    def notify(self) -> None:
        """Report to the arbiter that it is alive."""


class Gunicorn(Server):
    """The sync, gthread and gevent workers. Over HTTP/2 there is no writer: its writes wait for flow control windows."""

    __slots__ = ()

    name = "gunicorn"
    loops = tuple(
        Loop(module, "handle_request", "respiter", "item")
        for module in ("gunicorn.workers.sync", "gunicorn.workers.gthread", "gunicorn.workers.base_async")
    )
    why_no_writer = f"HTTP/2; or {CHANGED_OUTSIDE}; or a request's body is still to be read over TLS"

    why_short_lease = (
        "over HTTP/2 gunicorn answers the requests of one connection one after another, so an event stream delays all other "
        "requests of its browser: let a proxy speak HTTP/2, and gunicorn HTTP/1.1"
    )
    more_threads = "use --worker-class gthread --threads 100, or gevent"

    @property
    def label(self) -> str:
        """The name, with the class of this process's worker."""
        worker = find_worker()
        return self.name if worker is None else f"{self.name}, {type(worker).__name__}"

    @property
    def has_writer(self) -> bool:
        """Whether the request came over HTTP/1, for which there is a writer."""
        return not self.delays_others()

    @staticmethod
    def recognises(environ: WSGIEnvironment) -> bool:
        """Return whether gunicorn made the environ."""
        return "gunicorn.socket" in environ

    def connection(self) -> Connection | None:
        """Return the client's connection. With HTTP/2 all of the client's streams share it, and are served one by one."""
        self._connection = connection_over(self.environ.get("gunicorn.socket"))
        return self._connection

    def delays_others(self) -> bool:
        """Return whether it came over HTTP/2. A request on stream 3 was answered after 4.03 s, when stream 1 had ended."""
        return self.environ.get("HTTP_VERSION") == "2"

    def writer(self, write: object, encoding: str = "") -> Writer | None:
        """Return a writer for an HTTP/1 response without a length: it ends with its last chunk or with its connection."""
        response: Any = getattr(write, "__self__", None)
        if not is_exactly(response, "gunicorn.http.wsgi", "Response") or write != response.write:
            return None
        connection = self._connection  # which is the response's, unless a layer has replaced one of them
        if connection is None or not connection.is_of(response.sock):
            connection = Connection(response.sock)
        if not _has_open_end(response, encoding) or (connection.is_tls and _has_body_left(response.req)):
            return None
        return ResponseWriter(response, connection)

    def stop_sign(self) -> StopSign | None:
        """Return this process's worker as a sign."""
        own = _find_own()
        return own and own.stop_sign

    def pool(self) -> Pool | None:
        """Return a gthread worker's threads."""
        own = _find_own()
        return own and own.pool

    def threads(self) -> int | None:
        """Return 1 for a sync worker, ``--threads`` for gthread, None for gevent."""
        own = _find_own()
        return None if own is None else own.threads


class GunicornPywsgi(PatchedPywsgi):
    """The gevent_pywsgi worker: gevent's server, stopped in gunicorn's way."""

    __slots__ = ()

    name = "gunicorn gevent_pywsgi"

    @staticmethod
    def recognises(environ: WSGIEnvironment) -> bool:
        """Return whether this worker made the environ."""
        return "gunicorn.sock" in environ

    def connection(self) -> Connection | None:
        """Return the client's connection."""
        return connection_over(self.environ.get("gunicorn.sock"))

    def stop_sign(self) -> StopSign | None:
        """Return this process's worker as a sign."""
        own = _find_own()
        return own and own.stop_sign


# -- writing


class ResponseWriter(CallingWriter):
    """Writes through ``gunicorn.http.wsgi.Response``, which sends the headers first, and makes chunks where it has to."""

    __slots__ = ("_response",)

    def __init__(self, response: Any, connection: Connection) -> None:
        super().__init__(response.write, connection, is_delimited=response.chunked)
        self._response = response

    def end(self, last: bytes) -> bool:
        """End the response as ``Response.close`` does. Whatever gunicorn does with it afterwards has no effect.

        gunicorn calls ``close`` again when the application returns. Without ``chunked = False`` that wrote a second end, before
        the next response. A late block of a layer outside is dropped, since *response_length* is reached. Anything else (a 500
        of ``handle_error``) fails, because the connection is shut for writing. Returns False for TLS without chunks: such a
        response ends with a close_notify, which only the server's thread may send.
        """
        response = self._response
        if self._connection.is_tls and not response.chunked:
            return False
        response.force_close()  # before its headers, where they have not been sent
        if not self.write(last):
            return False
        response.close()
        response.chunked = False
        response.response_length = response.sent
        self._connection.shutdown(socket.SHUT_WR)
        return True


def _has_open_end(response: Any, encoding: str) -> bool:
    """Return whether a response has a body without a given length, in our *encoding* or in none."""
    if response.response_length is not None or response.req.method == "HEAD" or response.upgrade:
        return False
    if response.status_code < 200 or response.status_code in (204, 304):
        return False
    return not has_length_or_encoding(response.headers, encoding)


def _has_body_left(request: Any) -> bool:
    """Return whether a part of the request's body is still to be read from the connection."""
    reader = request.body.reader
    kind = type(reader).__name__
    if kind == "LengthReader":
        return bool(reader.length)
    return kind != "ChunkedReader" or reader.parser is not None


# -- stopping


class WorkerStops:
    """The `StopSign` of a worker of unknown kind, which the arbiter is expected to kill after the grace."""

    def __init__(self, worker: Worker, clock: Callable[[], float] = time.monotonic) -> None:
        self.worker = worker
        self.grace: float = worker.cfg.graceful_timeout
        self.timeout: float = worker.cfg.timeout
        self.clock = clock
        self.stopping_since: float | None = None
        self._listeners = _inodes(worker.sockets)
        self._asked_at: float | None = None
        self._killed_from: float | None = None if self._has_arbiter() else 0.0

    @property
    def needs_reports(self) -> bool:
        """Whether `report_alive` does anything."""
        return False

    def is_stopping(self) -> bool:
        """Ask the worker."""
        is_stopping = not self.worker.alive
        if is_stopping and self.stopping_since is None:
            self.stopping_since = self.clock()
        return is_stopping

    def seconds_left(self, stopping_for: float) -> float | None:
        """Return the seconds until shortly before the worker is killed, by the table above; 0.0 if none are left.

        To be called at each tick, since TERM may follow HUP.
        """
        if stopping_for != self._asked_at:  # this is called for each stream, and once a tick is enough
            if self._killed_from is None and not self._has_arbiter():
                self._killed_from = self._asked_at or 0.0  # it stopped after the last look: count from there
            self._asked_at = stopping_for
        ends = [] if self._killed_from is None else [self._killed_from + _shortly_before(self.grace)]
        by_itself = self.ends_by_itself()
        if by_itself is not None:
            ends.append(_shortly_before(by_itself))
        return max(min(ends) - stopping_for, 0.0) if ends else None

    def ends_by_itself(self) -> float | None:
        """Return how many seconds after its stop a worker's streams end if the arbiter goes on; None for never."""
        return self.grace

    def report_alive(self) -> None:
        """Do nothing: the worker reports by itself."""

    def _has_arbiter(self) -> bool:
        """Return whether the arbiter still listens, as it does on HUP; False if that cannot be seen."""
        return bool(self._listeners & _open_sockets(self.worker.ppid))


class SyncStops(WorkerStops):
    """For a sync worker: its only thread cannot report that the worker is alive while it runs the application."""

    @property
    def needs_reports(self) -> bool:
        """Whether `report_alive` does anything."""
        return True

    def ends_by_itself(self) -> float | None:
        """Return when ``--timeout`` after the last `report_alive` is over. That is at the end of the grace."""
        return self.grace + self.timeout if self.timeout else None

    def report_alive(self) -> None:
        """Report to the arbiter until the grace is over. Then ``--timeout`` ends an application that does not end."""
        if self.stopping_since is not None and self.clock() > self.stopping_since + self.grace:
            return
        with contextlib.suppress(OSError, ValueError):  # ValueError: its file is closed
            self.worker.notify()


class ThreadsStops(WorkerStops):
    """For a gthread worker: after the grace its main loop ends, so nothing reports, while the threads of its pool go on."""

    def ends_by_itself(self) -> float | None:
        """Return when ``--timeout`` after the last round of the main loop is over. A round takes a second at most."""
        return max(self.grace - 1.0, 0.0) + self.timeout if self.timeout else None


class GeventStops(WorkerStops):
    """For a gevent worker: it kills its greenlets."""

    def ends_by_itself(self) -> float | None:
        """Return the earliest time: the worker waits a second longer than the grace, and looks once a second."""
        return self.grace + 1.0


def _shortly_before(seconds: float) -> float:
    return seconds - min(_MARGIN, seconds / 2)


def _inodes(sockets: Sequence[HasDescriptor]) -> set[int]:
    found: set[int] = set()
    for each in sockets:
        with contextlib.suppress(OSError, ValueError):
            found.add(os.fstat(each.fileno()).st_ino)
    return found


def _open_sockets(process: int) -> set[int]:
    """Return the inodes of a process's sockets; none if they cannot be read (another user's process, or not on Linux)."""
    found: set[int] = set()
    try:
        descriptors = list(Path(f"/proc/{process}/fd").iterdir())
    except OSError:
        return found
    for each in descriptors:
        with contextlib.suppress(OSError):  # it was closed meanwhile
            target = str(each.readlink())
            if target.startswith("socket:["):
                found.add(int(target[len("socket:[") : -1]))
    return found


# -- the worker of this process


class _Own(NamedTuple):
    process: int
    worker: Worker
    stop_sign: StopSign
    pool: Pool | None
    threads: int | None


class _Kind(NamedTuple):
    base: str  # the name of the worker's class, or of one that it is made from
    stops: type[WorkerStops]
    threads: Callable[[Any], int | None]  # by the worker's ``cfg``


_KINDS = (
    _Kind("ThreadWorker", ThreadsStops, lambda settings: settings.threads),
    _Kind("SyncWorker", SyncStops, lambda _: 1),
    _Kind("AsyncWorker", GeventStops, lambda _: None),
    _Kind("Worker", WorkerStops, lambda _: None),
)

_own: _Own | None = None


def find_worker() -> Worker | None:
    """Return this process's worker, also while it loads the application; None in the arbiter and without gunicorn."""
    own = _find_own()
    return own and own.worker


def _find_own() -> _Own | None:
    global _own
    if _own is not None and _own.process == os.getpid():
        return _own
    worker = _find_worker_by_signals() or _find_worker_by_frames()
    if worker is None:
        return None
    bases = [base.__name__ for base in type(worker).__mro__]
    kind = next(kind for kind in _KINDS if kind.base in bases)
    executor = getattr(worker, "tpool", None)
    pool = None if executor is None else ExecutorPool(executor)
    _own = _Own(os.getpid(), worker, kind.stops(worker), pool, kind.threads(worker.cfg))
    return _own


def _find_worker_by_signals() -> Worker | None:
    """Return the object whose methods handle signals. An application may replace TERM, but hardly all of these."""
    for each in (signal.SIGUSR1, signal.SIGWINCH, signal.SIGABRT, signal.SIGTERM):
        owner = getattr(signal.getsignal(each), "__self__", None)
        if _is_worker(owner):
            return cast("Worker", owner)
    return None


def _find_worker_by_frames() -> Worker | None:
    """Return the worker if it is among our callers, which it is not under gevent_pywsgi."""
    frame: FrameType | None = sys._getframe(1)
    while frame is not None and not _is_worker(frame.f_locals.get("self")):
        frame = frame.f_back
    return None if frame is None else cast("Worker", frame.f_locals["self"])


def _is_worker(found: Any) -> bool:
    """Return whether *found* is the worker of this process. A process that the application forks has the same methods."""
    is_worker = any((base.__module__, base.__name__) == ("gunicorn.workers.base", "Worker") for base in type(found).__mro__)
    return is_worker and found.pid == os.getpid()
