"""a2wsgi 1.10.10, which runs WSGI applications under ASGI servers.

Measured under uvicorn 0.54 (with uvloop and without), gunicorn 27.0's asgi and uvicorn workers, and hypercorn 0.18.

It calls the application on a thread of its executor, and hands each block to the server's event loop through a queue of ten.
uvicorn and gunicorn close a connection at once when its client has disconnected; a2wsgi does not tell the application.
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
from .server import Loop, Pool, Server, StopSign, Writer
from .stopping import AskedSign
from .writing import CHANGED_OUTSIDE, check_length, closed_over, is_exactly, is_function

if TYPE_CHECKING:
    from _typeshed.wsgi import WSGIEnvironment


class A2wsgi(Server):
    """a2wsgi.WSGIMiddleware, under whatever ASGI server."""

    __slots__ = ()

    name = "a2wsgi"
    loops = (Loop("a2wsgi.wsgi", "wsgi", "iterable", "chunk"),)
    why_no_writer = CHANGED_OUTSIDE

    @staticmethod
    def recognises(environ: WSGIEnvironment) -> bool:
        """Tell by the type of ``wsgi.input``."""
        return is_exactly(environ.get("wsgi.input"), "a2wsgi.wsgi", "Body")

    @property
    def _cycle(self) -> Any:
        """Return what the ASGI server's ``receive`` is a method of; None where that is a plain function."""
        return getattr(getattr(self.environ.get("wsgi.input"), "receive", None), "__self__", None)

    def connection(self) -> Connection | None:
        """Return the transport's socket: uvicorn's and gunicorn's. hypercorn shows none, nor does HTTP/2."""
        cycle = self._cycle
        transport: Any = getattr(cycle, "transport", None) or getattr(getattr(cycle, "protocol", None), "transport", None)
        found = None if transport is None else transport.get_extra_info("socket")
        return None if found is None else Connection(found, is_closed=transport.is_closing)

    def writer(self, write: object) -> Writer | None:
        """Return a writer that puts into a2wsgi's queue; its own ``write`` waits for the event loop without a bound."""
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
        """Return the sign of gunicorn's asgi worker, or uvicorn's: the latter is found only by its own handler of SIGTERM."""
        worker = self._gunicorn_worker()
        server: Any = getattr(signal.getsignal(signal.SIGTERM), "__self__", None)
        if not any((kind.__module__, kind.__name__) == ("uvicorn.server", "Server") for kind in type(server).__mro__):
            return None if worker is None else WorkerStops(worker)
        if worker is not None:
            return _UvicornWorkerStops(worker, server)
        return AskedSign(lambda: _is_stopping(server), server.config.timeout_graceful_shutdown)

    def _gunicorn_worker(self) -> Worker | None:
        """Return gunicorn's worker, to which its own protocol leads, and uvicorn's worker's handlers of signals."""
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
        """Return the executor, which only the frames of its own thread lead to."""
        return getattr(find_local(self.loops, "self"), "executor", None)


class _Writer:
    """Has the event loop put a block into an empty queue; what was handed to the loop counts as written.

    Neither a busy loop nor a stopped one makes us wait. The loop works off its calls in order, so the block stands before what
    the application yields next; where the queue has become full meanwhile, which takes ten blocks, it is left out.
    """

    __slots__ = ("_connection", "_cycle", "_loop", "_queue", "is_delimited")

    def __init__(self, responder: Any, connection: Connection | None, cycle: Any, *, is_delimited: bool) -> None:
        self.is_delimited = is_delimited
        self._queue: asyncio.Queue[dict[str, object]] = responder.send_queue
        self._loop: asyncio.AbstractEventLoop = responder.loop
        self._connection = connection
        self._cycle = cycle

    def write(self, block: bytes) -> bool:
        """See `server.Writer`."""
        check_length(block)
        if not self._queue.empty() or self._has_length() or not (self._connection is None or self._connection.is_writable()):
            return False
        try:
            self._loop.call_soon_threadsafe(_put, self._queue, {"type": "http.response.body", "body": block, "more_body": True})
        except RuntimeError:  # the loop is closed
            return False
        return True

    def end(self, last: bytes) -> bool:  # noqa: ARG002  (the protocol's)
        """Leave the response as it is: a2wsgi would send a second end when the application wakes."""
        return False

    def _has_length(self) -> bool:
        """Tell whether uvicorn counts the bytes of this response."""
        return bool(getattr(self._cycle, "expected_content_length", 0))


def _put(queue: asyncio.Queue[dict[str, object]], message: dict[str, object]) -> None:
    with contextlib.suppress(asyncio.QueueFull):
        queue.put_nowait(message)


def _is_stopping(server: Any) -> bool:
    """Tell whether uvicorn's Server stops: told by a signal, or with enough requests served, when it closes its listeners."""
    return server.should_exit or (server.started and not any(listener.is_serving() for listener in server.servers))


class _UvicornWorkerStops(WorkerStops):
    """gunicorn's uvicorn worker: its ``alive`` stays True, and it does not report while it waits for its streams."""

    def __init__(self, worker: Worker, server: Any) -> None:
        super().__init__(worker)
        self._server = server

    def is_stopping(self) -> bool:
        """Ask uvicorn."""
        return _is_stopping(self._server)

    def ends_by_itself(self) -> float | None:
        """Return when the arbiter takes it for hung, or when uvicorn's own grace is over."""
        limits = (self._server.config.timeout_graceful_shutdown, self.timeout or None)
        return min((float(limit) for limit in limits if limit is not None), default=None)
