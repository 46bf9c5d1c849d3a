"""waitress 3.0.2: one thread reads, and sends what did not fit at first. The others run applications, and send what fits.

Without ``channel_request_lookahead`` it does not see a disconnect, and serves a client that has half-closed its connection.
With it, it closes such a connection at once.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from .connection import Connection
from .loop import return_check
from .server import MOST_WRITTEN, Loop, Pool, Server, StartThread, StopSign, Writer
from .stopping import AskedSign
from .writing import CHANGED_OUTSIDE, CallingWriter, check_length, has_length_or_encoding, is_exactly, may_be_written

if TYPE_CHECKING:
    from _typeshed.wsgi import WSGIEnvironment

_GRACE = 5.0  # seconds that ThreadedTaskDispatcher.shutdown() waits for its threads, which are daemons


class Waitress(Server):
    """waitress, however it was started."""

    __slots__ = ()

    name = "waitress"
    loops = (Loop("waitress.task", "execute", "app_iter", "chunk"),)
    why_no_writer = CHANGED_OUTSIDE

    @staticmethod
    def recognises(environ: WSGIEnvironment) -> bool:
        """Look for the method that waitress puts into each environ."""
        return "waitress.client_disconnected" in environ

    @property
    def _channel(self) -> Any:
        channel = getattr(self.environ.get("waitress.client_disconnected"), "__self__", None)
        return channel if is_exactly(channel, "waitress.channel", "HTTPChannel") else None

    @property
    def _dispatcher(self) -> Any:
        dispatcher = getattr(getattr(self._channel, "server", None), "task_dispatcher", None)
        return dispatcher if is_exactly(dispatcher, "waitress.task", "ThreadedTaskDispatcher") else None

    def connection(self) -> Connection | None:
        """Return the channel's socket, which waitress's own thread may close at any time."""
        channel = self._channel
        return None if channel is None else Connection(channel.socket, is_closed=lambda: not channel.connected)

    def writer(self, write: object, encoding: str = "") -> Writer | None:
        """Return a writer that calls the task's ``write``; see `_Writer`."""
        task: Any = getattr(write, "__self__", None)
        connection = self.connection()
        if (
            connection is None
            or not is_exactly(task, "waitress.task", "WSGITask")
            or task.channel is not self._channel
            or not may_be_written(self.environ, connection)
            or has_length_or_encoding(task.response_headers, encoding)
        ):
            return None
        return _Writer(task, connection)

    def stop_sign(self) -> StopSign | None:
        """Return the sign of SIGINT, after which waitress waits 5 seconds. SIGTERM ends the process at once."""
        dispatcher = self._dispatcher
        return None if dispatcher is None else AskedSign(lambda: _is_stopping(dispatcher), _GRACE)

    def pool(self) -> Pool | None:
        """Return the dispatcher's threads."""
        dispatcher = self._dispatcher
        return None if dispatcher is None else _Pool(dispatcher, self._channel.adj.threads)

    def last_bytes(self) -> Callable[[], bool]:
        """Return a function that tells whether the last chunk is sent. It is written after ``close()``, and may wait."""
        channel, has_returned = self._channel, return_check("waitress.task", "service")
        return lambda: has_returned() and not (channel.connected and channel.total_outbufs_len)

    def threads(self) -> int | None:
        """Return ``--threads``."""
        channel = self._channel
        return None if channel is None else channel.adj.threads


class _Writer(CallingWriter):
    """Writes only while waitress has no unsent bytes for the client.

    The task's ``write`` appends to the unsent bytes, and waits if they are more than 16 MiB. With none, it sends at once.
    It takes the channel's lock, which waitress's main thread holds for a moment only.
    """

    __slots__ = ("_channel",)

    def __init__(self, task: Any, connection: Connection) -> None:
        super().__init__(task.write, connection, is_delimited=task.version == "1.1")
        self._channel = task.channel

    def write(self, block: bytes, most: int = MOST_WRITTEN) -> bool:
        """See `server.Writer`."""
        check_length(block, most)
        return not self._holds_some and super().write(block, most)

    def room(self) -> int:
        """See `server.Writer`."""
        return 0 if self._holds_some else super().room()

    @property
    def _holds_some(self) -> bool:
        channel = self._channel
        return bool(not channel.connected or channel.total_outbufs_len or channel.will_close)


def _is_stopping(dispatcher: Any) -> bool:
    """Return whether all threads have to end. If only some have to, their number is being lowered."""
    return bool(dispatcher.stop_count >= len(dispatcher.threads))


class _Pool:
    """The dispatcher's threads. A stand-in is one more of them, so that its counts and its "Task queue depth" stay correct.

    ``set_thread_count`` is not used. Between reading the number and that call the server may begin to stop. Threads that the
    call starts would then delay the stop by 5 seconds.
    """

    __slots__ = ("_dispatcher", "threads")

    def __init__(self, dispatcher: Any, threads: int) -> None:
        self._dispatcher = dispatcher
        self.threads = threads

    def lend(self, start: StartThread) -> Callable[[], None] | None:  # noqa: ARG002  (the dispatcher starts its own)
        """See `server.Pool`."""
        dispatcher = self._dispatcher
        if not dispatcher.lock.acquire(blocking=False):
            return None
        try:
            if _is_stopping(dispatcher):
                return None
            number = next(number for number in range(len(dispatcher.threads) + 1) if number not in dispatcher.threads)
            try:
                dispatcher.start_new_thread(dispatcher.handler_thread, number)  # the new thread waits for the lock
            except RuntimeError:  # no thread can be started
                return None
            dispatcher.threads.add(number)
            dispatcher.active_count += 1
        finally:
            dispatcher.lock.release()
        return _TakeBack(dispatcher)


class _TakeBack:
    """Ends the thread of the dispatcher that is free first. Later calls do nothing."""

    __slots__ = ("_dispatcher", "_lock")

    def __init__(self, dispatcher: Any) -> None:
        self._dispatcher = dispatcher
        self._lock = threading.Lock()  # taken by the first call, and never released

    def __call__(self) -> None:
        dispatcher = self._dispatcher
        if not self._lock.acquire(blocking=False):
            return
        with dispatcher.lock:
            if not _is_stopping(dispatcher):
                dispatcher.stop_count += 1
                dispatcher.queue_cv.notify_all()
