"""What each WSGI server offers or breaks: the client's connection, the worker that is going, whether threads can be had.

Everything is probed by duck typing, and absent where a server does not have it. The only module that names a server.
"""

from __future__ import annotations

import contextlib
import os
import select
import socket
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from types import FrameType

    from _typeshed.wsgi import WSGIEnvironment


class _Socket(Protocol):
    def fileno(self) -> int: ...
    def setsockopt(self, level: int, option: int, value: int, /) -> object: ...
    def shutdown(self, how: int, /) -> object: ...


# Where a server keeps the client's socket, in the order of asking; measured with gunicorn 27.0, werkzeug 3.1,
# waitress 3.0, wsgiref of CPython 3.10 to 3.13, cheroot 11.1, gevent 26.9, and a2wsgi 1.10 under uvicorn 0.54.
_SOCKET_PATHS: tuple[tuple[str, ...], ...] = (
    ("gunicorn.socket",),  # sync, gthread, gevent
    ("gunicorn.sock",),  # gevent_pywsgi
    ("werkzeug.socket",),
    ("waitress.client_disconnected", "__self__", "socket"),  # a bound method of the channel
    ("wsgi.input", "raw", "_sock"),  # wsgiref
    ("wsgi.input", "rfile", "raw", "_sock"),  # cheroot, gevent's own server
    ("wsgi.input", "receive", "__self__", "transport"),  # a2wsgi under uvicorn: it never closes what its client left
    ("wsgi.input", "receive", "__self__", "protocol", "transport"),  # a2wsgi under gunicorn's asgi worker
)

_MOST_MILLISECONDS = 2**31 - 1  # a C int; 24 days

_LEFT = getattr(select, "POLLRDHUP", 0) | getattr(select, "POLLHUP", 0) | getattr(select, "POLLERR", 0)


class ClientSocket:
    """The client's connection, to be asked whether the client has left.

    Looks with ``poll(POLLRDHUP)``, which sees a FIN and a RST also behind TLS and behind pipelined bytes, where a
    peek does not, and which never waits, whatever timeout the socket has. Holds the server's socket object, not a duplicate
    of its descriptor: a duplicate would double the descriptors of a process and hold back the server's own FIN. A
    descriptor number is asked for anew each time, so a closed socket (-1) is never taken for another one.
    """

    __slots__ = ("_socket",)

    def __init__(self, connection: _Socket) -> None:
        self._socket = connection

    def is_gone(self) -> bool:
        """Tell whether the client has closed its side (half closing counts as leaving), or the server the connection."""
        try:
            descriptor = self._socket.fileno()
        except (OSError, ValueError):
            return True
        if descriptor < 0:
            return True
        poll = _original_poll()
        poll.register(descriptor, _LEFT)
        return bool(poll.poll(0))

    def limit_sending(self, seconds: float | None) -> bool:
        """Have the kernel abort the connection once its client has taken nothing for *seconds*; None ends that.

        Return whether it will: TCP_USER_TIMEOUT is Linux's, and not for uvloop's sockets or a Unix socket. Measured with 2
        seconds on gunicorn, waitress, werkzeug, wsgiref, gevent and cheroot: the server's send fails after 2.5.
        """
        milliseconds = 0 if seconds is None else min(max(1, round(seconds * 1000)), _MOST_MILLISECONDS)
        try:
            self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, milliseconds)
        except (OSError, AttributeError, TypeError):
            return False
        return True

    def stop_reading(self) -> None:
        """Let the server close the connection without waiting for the client, where a stream is cut off.

        gunicorn 27.0 waits up to 2 s for the client's FIN, and gthread does so for one connection after another, while the
        worker should be gone. Not through TLS, where Python would go on in plain text.
        """
        if not hasattr(self._socket, "cipher"):
            with contextlib.suppress(OSError, AttributeError):
                self._socket.shutdown(socket.SHUT_RD)


def find_client(environ: WSGIEnvironment) -> ClientSocket | None:
    """Return the client's connection; None where the server does not show it, or the system cannot poll for a leave."""
    if not hasattr(select, "POLLRDHUP"):  # pragma: no cover  (Linux has it; elsewhere a leave shows when a block is sent)
        return None
    for key, *attributes in _SOCKET_PATHS:
        found: Any = environ.get(key)
        for attribute in attributes:
            found = getattr(found, attribute, None)
        if hasattr(found, "get_extra_info"):  # an asyncio transport
            found = found.get_extra_info("socket")
        if callable(getattr(found, "fileno", None)):
            return ClientSocket(found)
    return None


def _original_poll() -> select.poll:
    # gevent's own poll lets other greenlets run and takes a loop's round; the real one with a timeout of 0 just looks.
    monkey = sys.modules.get("gevent.monkey")
    poll: Callable[[], select.poll] = monkey.get_original("select", "poll") if monkey else select.poll
    return poll()


class Worker:
    """The process that serves a request, to be asked whether it is going; and told that a silent stream is no hung worker."""

    __slots__ = ("_beats", "_worker")

    def __init__(self, worker: Any) -> None:
        self._worker = worker
        self._beats = any(base.__name__ == "SyncWorker" for base in type(worker).__mro__)

    @property
    def threads(self) -> int | None:
        """How many requests it answers at a time, None unless each has a thread of its own (gthread)."""
        is_threaded = any(base.__name__ == "ThreadWorker" for base in type(self._worker).__mro__)
        return self._worker.cfg.threads if is_threaded else None

    def is_going(self) -> bool:
        """Tell whether the worker stops: gunicorn's `alive` turns False on SIGTERM, on HUP and at max_requests.

        No hook of gunicorn's is called in the worker before the grace period is over, so it is asked, not listened to.
        Also tells a sync worker's arbiter that the worker lives: while its one thread waits for a silent application, it
        does nothing else, and would be killed after ``--timeout``.
        """
        if self._beats:
            self._worker.notify()
        return not self._worker.alive


_workers: dict[int, Worker | None] = {}  # by process: a fork has another


def find_worker(environ: WSGIEnvironment) -> Worker | None:
    """Return gunicorn's worker, which stands among the callers of the application; None under other servers.

    Measured with gunicorn 27.0: sync, gthread and gevent. Call it on the server's thread.
    """
    if "gunicorn.socket" not in environ and "gunicorn.sock" not in environ:
        return None
    return find_calling_worker()


def find_calling_worker() -> Worker | None:
    """Return gunicorn's worker if it is what calls us, also while it loads the application."""
    process = os.getpid()
    if process not in _workers:
        found = _find_caller(_is_worker)
        if found is None:
            return None
        _workers[process] = Worker(found)
    return _workers[process]


def _find_caller(is_it: Callable[[Any], bool]) -> Any:
    """Return the nearest object, among those whose methods call us, for which *is_it* holds; None without one."""
    frame: FrameType | None = sys._getframe(1)
    while frame is not None and not is_it(frame.f_locals.get("self")):
        frame = frame.f_back
    return None if frame is None else frame.f_locals["self"]


def _is_worker(found: object) -> bool:
    return any((base.__module__, base.__name__) == ("gunicorn.workers.base", "Worker") for base in type(found).__mro__)


def count_threads(environ: WSGIEnvironment) -> int | None:
    """Return how many requests this process can answer at a time, None where that cannot be read or is no number of threads.

    Measured with gunicorn 27.0 (gthread), waitress 3.0 and a2wsgi 1.10, whose executor stands among the application's callers.
    Call it on the server's thread.
    """
    worker = find_worker(environ)
    if worker is not None:
        return worker.threads
    channel = getattr(environ.get("waitress.client_disconnected"), "__self__", None)
    found = getattr(getattr(getattr(channel, "server", None), "adj", None), "threads", None)
    if found is None and "asgi.scope" in environ:
        responder = _find_caller(lambda caller: hasattr(getattr(caller, "executor", None), "_max_workers"))
        found = responder and responder.executor._max_workers
    return found if type(found) is int and found > 0 else None


def can_start_threads(environ: WSGIEnvironment) -> bool:
    """Tell whether a thread of ours could run beside the server's.

    Not under gevent's server without monkey patching (26.9): a thread that waits would stop all of the server's greenlets.
    """
    is_gevent = type(environ.get("wsgi.input")).__module__.startswith("gevent.")
    monkey = sys.modules.get("gevent.monkey")
    return not is_gevent or bool(monkey and monkey.is_module_patched("threading"))
