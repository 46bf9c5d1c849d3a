"""gunicorn: its sync, gthread, gevent and gevent_pywsgi workers. Measured with gunicorn 27.0.1 and gevent 26.9.0.

A worker closes a client's connection only after the iterable's ``close()``: sync and gevent when their ``handle`` ends, gthread
in ``finish_request`` on its main thread. So a descriptor that a stream has is its client's until the stream is over.

When a worker is told to stop, ``worker.alive`` turns False, with every signal and at ``max_requests``; no hook is called in it
before the grace is over. What ends its streams then, with ``--graceful-timeout`` *g* and ``--timeout`` *t*:

| | TERM to the arbiter | HUP, TTOU, TERM to a worker, ``max_requests`` |
|---|---|---|
| sync | SIGKILL after g | SIGABRT t after the last `tell_alive` |
| gthread | SIGKILL after g | its pool's threads go on; SIGABRT t after its last sign of life, at g - 1 to g |
| gevent, gevent_pywsgi | SIGKILL after g | GreenletExit after g + 1 to g + 3 |

With g 4 and t 6 clients were cut after 4.0 s in the first column, and in the second after 10.0 s (sync), 9.1 to 11.1 (gthread)
and 5.4 to 7.4 (gevent); gevent_pywsgi knows no ``max_requests``. SIGABRT raises SystemExit on a worker's main thread, SIGKILL
follows a second later; with a *t* of 0 there is none. A worker gets the same signal in both columns. They differ in the
arbiter: on TERM it closes its listeners before anything else.
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

_MARGIN = 1.0  # seconds before a worker's end at which its streams should be over; half of a grace that is shorter than 2


class Worker(Protocol):
    """What is asked of ``gunicorn.workers.base.Worker``."""

    alive: bool
    cfg: Any
    pid: int
    ppid: int  # the arbiter's
    sockets: Sequence[HasDescriptor]  # listeners

    def notify(self) -> None:
        """Tell the arbiter that it lives."""


class Gunicorn(Server):
    """The sync, gthread and gevent workers. HTTP/2 too, without a writer: it waits for windows, and reads frames meanwhile."""

    __slots__ = ()

    name = "gunicorn"
    loops = tuple(
        Loop(module, "handle_request", "respiter", "item")
        for module in ("gunicorn.workers.sync", "gunicorn.workers.gthread", "gunicorn.workers.base_async")
    )
    why_no_writer = f"HTTP/2; or {CHANGED_OUTSIDE}; or a request's body is still to be read over TLS"

    more_threads = "use --worker-class gthread --threads 100, or gevent"

    @property
    def label(self) -> str:
        """gunicorn, and the class of this process's worker."""
        worker = find_worker()
        return self.name if worker is None else f"{self.name}, {type(worker).__name__}"

    @property
    def has_writer(self) -> bool:
        """Whether the request came over HTTP/1."""
        return not self.holds_up_others()

    @staticmethod
    def recognises(environ: WSGIEnvironment) -> bool:
        """Tell whether gunicorn made the environ."""
        return "gunicorn.socket" in environ

    def connection(self) -> Connection | None:
        """Return the client's connection; with HTTP/2 the one of all its streams, which the worker serves one by one."""
        return connection_over(self.environ.get("gunicorn.socket"))

    def holds_up_others(self) -> bool:
        """Tell whether the request came over HTTP/2: /ping on stream 3 was answered after 4.03 s, when stream 1 had ended."""
        return self.environ.get("HTTP_VERSION") == "2"

    def writer(self, write: object) -> Writer | None:
        """Return how to write an HTTP/1 response whose end is the end of its chunks or of its connection."""
        response: Any = getattr(write, "__self__", None)
        if not is_exactly(response, "gunicorn.http.wsgi", "Response") or write != response.write:
            return None
        connection = Connection(response.sock)
        if not _has_open_end(response) or (connection.is_tls and _has_body_left(response.req)):
            return None
        return ResponseWriter(response, connection)

    def stop_sign(self) -> StopSign | None:
        """Return this process's worker as a sign."""
        here = _find_here()
        return here and here.stop_sign

    def pool(self) -> Pool | None:
        """Return a gthread worker's threads."""
        here = _find_here()
        return here and here.pool

    def threads(self) -> int | None:
        """Return 1 for a sync worker, ``--threads`` for gthread, None for gevent."""
        here = _find_here()
        return None if here is None else here.threads


class GunicornPywsgi(PatchedPywsgi):
    """The gevent_pywsgi worker: gevent's own server, and gunicorn's way to stop."""

    __slots__ = ()

    name = "gunicorn gevent_pywsgi"

    @staticmethod
    def recognises(environ: WSGIEnvironment) -> bool:
        """Tell whether gunicorn's handler made the environ."""
        return "gunicorn.sock" in environ

    def connection(self) -> Connection | None:
        """Return the client's connection."""
        return connection_over(self.environ.get("gunicorn.sock"))

    def stop_sign(self) -> StopSign | None:
        """Return this process's worker as a sign."""
        here = _find_here()
        return here and here.stop_sign


# -- writing


class ResponseWriter(CallingWriter):
    """Writes through ``gunicorn.http.wsgi.Response``: the headers, if they have not been sent, and chunks where it does."""

    __slots__ = ("_response",)

    def __init__(self, response: Any, connection: Connection) -> None:
        super().__init__(response.write, connection, is_delimited=response.chunked)
        self._response = response

    def end(self, last: bytes) -> bool:
        """End the response as ``Response.close`` does, and have all that gunicorn still does with it come to nothing.

        gunicorn calls ``close`` again when the application wakes; without ``chunked = False`` that was a second end, in front
        of the next response. A layer's late block is beyond *response_length*. What gets past both (a 500 by
        ``handle_error``) fails at the connection, which is shut for writing. False for TLS without chunks: a close_notify
        would have to be its end, which the server's thread sends.
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


def _has_open_end(response: Any) -> bool:
    """Tell whether a response has a body, of a length that nobody has said, and is not encoded."""
    if response.response_length is not None or response.req.method == "HEAD" or response.upgrade:
        return False
    if response.status_code < 200 or response.status_code in (204, 304):
        return False
    return not has_length_or_encoding(name for name, _ in response.headers)


def _has_body_left(request: Any) -> bool:
    """Tell whether reading the request's body may still read from the connection."""
    reader = request.body.reader
    kind = type(reader).__name__
    if kind == "LengthReader":
        return bool(reader.length)
    return kind != "ChunkedReader" or reader.parser is not None


# -- stopping


class WorkerStops:
    """A worker's `StopSign`, of a kind nobody knows: as if the arbiter killed it after its grace."""

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
    def must_be_told(self) -> bool:
        """Whether `tell_alive` does anything."""
        return False

    def is_stopping(self) -> bool:
        """Ask the worker."""
        is_stopping = not self.worker.alive
        if is_stopping and self.stopping_since is None:
            self.stopping_since = self.clock()
        return is_stopping

    def seconds_left(self, stopping_for: float) -> float | None:
        """Return the seconds until shortly before the worker is killed, by the table above; 0.0 once they are over.

        To be asked again: TERM may follow HUP.
        """
        if stopping_for != self._asked_at:  # asked for each stream, it looks once
            if self._killed_from is None and not self._has_arbiter():
                self._killed_from = self._asked_at or 0.0  # it stops since we looked last, at the latest
            self._asked_at = stopping_for
        ends = [] if self._killed_from is None else [self._killed_from + _shortly_before(self.grace)]
        by_itself = self.ends_by_itself()
        if by_itself is not None:
            ends.append(_shortly_before(by_itself))
        return max(min(ends) - stopping_for, 0.0) if ends else None

    def ends_by_itself(self) -> float | None:
        """Return how long after its stop a worker's streams end, with an arbiter that goes on; None for never."""
        return self.grace

    def tell_alive(self) -> None:
        """Do nothing: the worker tells it by itself."""

    def _has_arbiter(self) -> bool:
        """Tell whether the arbiter still listens, which it does on HUP; False if that cannot be seen."""
        return bool(self._listeners & _open_sockets(self.worker.ppid))


class SyncStops(WorkerStops):
    """A sync worker has one thread, and does not tell that it lives while the application has it."""

    @property
    def must_be_told(self) -> bool:
        """Whether `tell_alive` does anything."""
        return True

    def ends_by_itself(self) -> float | None:
        """Return when ``--timeout`` is over after the last `tell_alive`, which is at the end of the grace."""
        return self.grace + self.timeout if self.timeout else None

    def tell_alive(self) -> None:
        """Tell the arbiter, unless the grace is over: then ``--timeout`` is there for what does not end."""
        if self.stopping_since is not None and self.clock() > self.stopping_since + self.grace:
            return
        with contextlib.suppress(OSError, ValueError):  # ValueError: its file is closed
            self.worker.notify()


class ThreadsStops(WorkerStops):
    """A gthread worker leaves its loop after its grace; its pool's threads go on, and nobody tells that it lives."""

    def ends_by_itself(self) -> float | None:
        """Return when ``--timeout`` is over after its last round, which takes a second at most."""
        return max(self.grace - 1.0, 0.0) + self.timeout if self.timeout else None


class GeventStops(WorkerStops):
    """A gevent worker ends its greenlets."""

    def ends_by_itself(self) -> float | None:
        """Return the earliest: it waits for a second more than its grace, and looks once a second."""
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
    """Return the inodes of a process's sockets; none where they cannot be read: another user's, or not Linux."""
    found: set[int] = set()
    try:
        descriptors = list(Path(f"/proc/{process}/fd").iterdir())
    except OSError:
        return found
    for each in descriptors:
        with contextlib.suppress(OSError):  # closed since
            target = str(each.readlink())
            if target.startswith("socket:["):
                found.add(int(target[len("socket:[") : -1]))
    return found


# -- the worker of this process


class _Here(NamedTuple):
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

_here: _Here | None = None


def find_worker() -> Worker | None:
    """Return this process's worker, also while it loads the application; None in the arbiter and without gunicorn."""
    here = _find_here()
    return here and here.worker


def _find_here() -> _Here | None:
    global _here
    if _here is not None and _here.process == os.getpid():
        return _here
    worker = _find_worker_by_signals() or _find_worker_by_frames()
    if worker is None:
        return None
    bases = [base.__name__ for base in type(worker).__mro__]
    kind = next(kind for kind in _KINDS if kind.base in bases)
    executor = getattr(worker, "tpool", None)
    pool = None if executor is None else ExecutorPool(executor)
    _here = _Here(os.getpid(), worker, kind.stops(worker), pool, kind.threads(worker.cfg))
    return _here


def _find_worker_by_signals() -> Worker | None:
    """Return whose methods handle signals: an application may take TERM, and has no reason to take all of them."""
    for each in (signal.SIGUSR1, signal.SIGWINCH, signal.SIGABRT, signal.SIGTERM):
        owner = getattr(signal.getsignal(each), "__self__", None)
        if _is_worker(owner):
            return cast("Worker", owner)
    return None


def _find_worker_by_frames() -> Worker | None:
    """Return the worker if it is what calls us; under gevent_pywsgi it does not."""
    frame: FrameType | None = sys._getframe(1)
    while frame is not None and not _is_worker(frame.f_locals.get("self")):
        frame = frame.f_back
    return None if frame is None else cast("Worker", frame.f_locals["self"])


def _is_worker(found: Any) -> bool:
    """Tell whether *found* is a worker, and of this process: what an application forks handles the same signals."""
    is_worker = any((base.__module__, base.__name__) == ("gunicorn.workers.base", "Worker") for base in type(found).__mro__)
    return is_worker and found.pid == os.getpid()
