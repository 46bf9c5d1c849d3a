"""a2wsgi 1.10.10, which runs WSGI applications under ASGI servers.

Measured under uvicorn 0.54 (with uvloop and without), gunicorn 27.0's asgi and uvicorn workers, and hypercorn 0.18.

It calls the application on a thread of its executor, and passes each block to the server's event loop through a queue of ten.
uvicorn and gunicorn close a connection at once when its client has disconnected. a2wsgi does not tell the application.
"""

from __future__ import annotations

import asyncio
import contextlib
import signal
import sys
from typing import TYPE_CHECKING, Any

from .connection import Connection
from .gunicorn import Worker, WorkerStops, find_worker
from .loop import find_local
from .pools import ExecutorPool
from .server import MOST_WRITTEN, Loop, Pool, Server, StopSign, Writer
from .stopping import AskedSign
from .writing import CHANGED_OUTSIDE, check_length, closed_over, is_exactly, is_function

if TYPE_CHECKING:
    from _typeshed.wsgi import WSGIEnvironment


class A2wsgi(Server):
    """a2wsgi.WSGIMiddleware, under any ASGI server."""

    __slots__ = ()

    name = "a2wsgi"
    loops = (Loop("a2wsgi.wsgi", "wsgi", "iterable", "chunk"),)
    why_no_writer = CHANGED_OUTSIDE

    @staticmethod
    def recognises(environ: WSGIEnvironment) -> bool:
        """Look at the type of ``wsgi.input``."""
        return is_exactly(environ.get("wsgi.input"), "a2wsgi.wsgi", "Body")

    @property
    def _cycle(self) -> Any:
        """Return the object whose method the ASGI server's ``receive`` is; None if that is a plain function."""
        return getattr(getattr(self.environ.get("wsgi.input"), "receive", None), "__self__", None)

    def connection(self) -> Connection | None:
        """Return the transport's socket under uvicorn and gunicorn. hypercorn shows none, and over HTTP/2 there is none."""
        cycle = self._cycle
        transport: Any = getattr(cycle, "transport", None) or getattr(getattr(cycle, "protocol", None), "transport", None)
        found = None if transport is None else transport.get_extra_info("socket")
        return None if found is None else Connection(found, is_closed=transport.is_closing)

    def writer(self, write: object, encoding: str = "") -> Writer | None:  # noqa: ARG002  (no header is looked at here)
        """Return a writer that uses a2wsgi's queue. a2wsgi's ``write`` waits for the event loop without a limit."""
        if self.environ.get("REQUEST_METHOD") == "HEAD" or not is_function(
            write, "a2wsgi.wsgi", "WSGIResponder.start_response.<locals>.<lambda>"
        ):
            return None
        function: Any = write
        responder = closed_over(function, "self")
        if not is_exactly(responder, "a2wsgi.wsgi", "WSGIResponder"):
            return None
        has_chunks = self.environ.get("SERVER_PROTOCOL") != "HTTP/1.0"
        return _Writer(responder, self.connection(), self._cycle, is_delimited=has_chunks)

    def stop_sign(self) -> StopSign | None:
        """Return the sign of gunicorn's asgi worker or of uvicorn. uvicorn is found by its signal handler for SIGTERM."""
        worker = self._gunicorn_worker()
        server: Any = getattr(signal.getsignal(signal.SIGTERM), "__self__", None)
        if not any((kind.__module__, kind.__name__) == ("uvicorn.server", "Server") for kind in type(server).__mro__):
            return None if worker is None else WorkerStops(worker)
        if worker is not None:
            return _UvicornWorkerStops(worker, server)
        return AskedSign(lambda: _is_stopping(server), server.config.timeout_graceful_shutdown)

    def _gunicorn_worker(self) -> Worker | None:
        """Return gunicorn's worker. The asgi worker is found by its protocol, the uvicorn worker by its signal handlers."""
        found: Worker | None = getattr(getattr(self._cycle, "protocol", None), "worker", None)
        return find_worker() if found is None and "gunicorn.workers.base" in sys.modules else found

    def pool(self) -> Pool | None:
        """Return the executor's threads."""
        executor = self._executor
        return None if executor is None else ExecutorPool(executor)

    def threads(self) -> int | None:
        """Return the executor's ``max_workers``."""
        found = getattr(self._executor, "_max_workers", None)
        return found if type(found) is int else None

    @property
    def _executor(self) -> Any:
        """Return the executor, which is found only through the frames of its own thread."""
        return getattr(find_local(self.loops, "self"), "executor", None)


class _Writer:
    """Asks the event loop to put a block into the queue if that is empty. Then the block counts as written.

    This never waits, even for a loop that is busy or stopped. The loop runs its calls in order, so the block comes before the
    next block of the application. If the queue has become full meanwhile, with ten blocks, the block is dropped.
    """

    __slots__ = ("_connection", "_cycle", "_loop", "_queue", "is_delimited")

    def __init__(self, responder: Any, connection: Connection | None, cycle: Any, *, is_delimited: bool) -> None:
        self.is_delimited = is_delimited
        self._queue: asyncio.Queue[dict[str, object]] = responder.send_queue
        self._loop: asyncio.AbstractEventLoop = responder.loop
        self._connection = connection
        self._cycle = cycle

    def write(self, block: bytes, most: int = MOST_WRITTEN) -> bool:
        """See `server.Writer`."""
        check_length(block, most)
        if not self._queue.empty() or self._has_length() or not (self._connection is None or self._connection.is_writable()):
            return False
        try:
            self._loop.call_soon_threadsafe(_put, self._queue, {"type": "http.response.body", "body": block, "more_body": True})
        except RuntimeError:  # the loop is closed
            return False
        return True

    def room(self) -> int:
        """Return 0: what finds the queue full is left out, and the application's bytes must not be."""
        return 0

    def end(self, last: bytes) -> bool:  # noqa: ARG002  (the protocol's)
        """Return False: a2wsgi would send a second end when the application returns."""
        return False

    def _has_length(self) -> bool:
        """Return whether the response has a length, so that uvicorn counts its bytes."""
        return bool(getattr(self._cycle, "expected_content_length", 0))


def _put(queue: asyncio.Queue[dict[str, object]], message: dict[str, object]) -> None:
    with contextlib.suppress(asyncio.QueueFull):
        queue.put_nowait(message)


def _is_stopping(server: Any) -> bool:
    """Return whether uvicorn's Server stops: after a signal, or after its last request, when it closes its listeners."""
    return server.should_exit or (server.started and not any(listener.is_serving() for listener in server.servers))


class _UvicornWorkerStops(WorkerStops):
    """For gunicorn's uvicorn worker: its ``alive`` stays True, and it does not report while it waits for its streams."""

    def __init__(self, worker: Worker, server: Any) -> None:
        super().__init__(worker)
        self._server = server

    def is_stopping(self) -> bool:
        """Ask uvicorn."""
        return _is_stopping(self._server)

    def ends_by_itself(self) -> float | None:
        """Return when the arbiter kills it because it does not report, or when uvicorn's own grace is over."""
        limits = (self._server.config.timeout_graceful_shutdown, self.timeout or None)
        return min((float(limit) for limit in limits if limit is not None), default=None)
