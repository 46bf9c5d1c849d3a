"""Read the event streams of a WSGI application in a unit test: event by event, each with a deadline.

    from ssemiddleware.testing import open_stream

    def test_a_visitor_is_greeted():
        with open_stream(app, "/events") as stream:
            assert stream.status_code == 200
            assert stream.next_event(timeout=1).data == "hello"
        # here the client has disconnected, and the application's close() has run

The application, wrapped or bare, runs on the test's own thread, so it sees the test's transaction (Django's ``TestCase``,
SQLite in memory) and whatever else belongs to a thread. It runs in a copy of the test's Context, so that two streams of one
test do not mix. It runs while the test waits for the headers or for an event, and in `OpenStream.leave`; in between it
stands still. Nothing is added to what it yields: no opening, no heartbeats.

A deadline interrupts the application where it waits:

- On the main thread a timer's signal raises `DeadlineOver` there, even in ``time.sleep``, ``queue.get`` or ``socket.recv``.
  The test gets a `TimeoutError`, whose traceback shows where the application waited. A timer that was set before, such as
  pytest-timeout's, is kept; if it is due earlier, it comes first.
- On another thread nothing can interrupt the application. There the deadline disconnects the client, so that a wrapped
  application is woken within half a second if it waits for ``stream.closed`` or ``closing``, has an ``on_close`` callback
  or iterates through ``stream.each``. The `TimeoutError` is raised once the application is back.

Either way a `TimeoutError` ends most streams: a generator that was interrupted is finished, and `OpenStream.next_event`
then raises `EOFError`. So let it be the last thing that a test asks of a stream. What the application did yield is not
lost: an event that came too late is what the next call returns.
"""

from __future__ import annotations

import contextlib
import contextvars
import signal
import socket
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from types import FrameType, TracebackType
from typing import TYPE_CHECKING, Any

from werkzeug.datastructures import Headers
from werkzeug.test import EnvironBuilder

from .event_stream import Event
from .reading import EventReader
from .servers.testing import SOCKET

if TYPE_CHECKING:
    from _typeshed import OptExcInfo
    from _typeshed.wsgi import WSGIApplication, WSGIEnvironment

_EVENT_SOURCE = {"Accept": "text/event-stream", "Cache-Control": "no-cache"}
_CLOSE_WITHIN = 5.0  # seconds, whatever a test allows for an event


class DeadlineOver(BaseException):
    """Raised on the main thread in an application that a test has waited for too long.

    No `Exception`, and so neither an application nor a framework takes it for an error of its own.
    """


def open_stream(
    application: WSGIApplication,
    path: str = "/",
    *,
    headers: Mapping[str, str] | None = None,
    timeout: float = 5.0,  # seconds; a test that waits longer for one event is stuck
    **request: Any,
) -> OpenStream:
    """Request *path* as an EventSource does, and return the stream that answers it.

    *headers* are added to those of an EventSource, or replace them (``{"Accept": "*/*"}`` is a request that is not announced).
    *timeout*: seconds to wait for the headers and, by default, for each event. *request*: more for werkzeug's
    `EnvironBuilder <https://werkzeug.palletsprojects.com/en/stable/test/#werkzeug.test.EnvironBuilder>`_, such as ``method``,
    ``json``, ``query_string``. An exception that the application raises before it answers is raised here.

    Some applications call ``start_response`` only when they are asked for their first block (PEP 3333: a generator does). Such
    an application is asked for that block here.
    """
    return OpenStream(application, _environ(path, {**_EVENT_SOURCE, **(headers or {})}, request), timeout)


class OpenStream:
    """A stream as its client sees it. Iterate over it for all events; at the end of the ``with`` block the client disconnects.

    For one thread; any thread may call `leave`. ``status``, ``status_code`` and ``headers`` are the response's.
    """

    def __init__(self, application: WSGIApplication, environ: WSGIEnvironment, timeout: float) -> None:
        self.status = ""
        self.headers = Headers()
        self._timeout = timeout
        self._reader = EventReader()
        self._events: deque[Event] = deque()  # that have come and were not returned yet
        self._received = bytearray()
        self._iterable: Iterable[bytes] = ()  # the application's
        self._blocks: Iterator[bytes] = iter(())
        self._context = contextvars.copy_context()  # a server's thread has a Context of its own too
        self._turn = threading.Lock()  # held while the application runs
        self._has_left = False
        self._is_interrupted = False
        self._client, self._servers_end = socket.socketpair()
        try:
            self._open(application, {**environ, SOCKET: self._servers_end})
        except BaseException:
            self.leave()
            raise

    @property
    def status_code(self) -> int:
        """The number in the status."""
        return int(self.status.partition(" ")[0])

    @property
    def received(self) -> bytes:
        """All bytes so far, with comments."""
        return bytes(self._received)

    @property
    def last_event_id(self) -> str:
        """What the client would send as ``Last-Event-ID``."""
        return self._reader.last_event_id

    @property
    def retry(self) -> int | None:
        """Milliseconds that the client would wait before it reconnects; None for its default."""
        return self._reader.retry

    def next_event(self, timeout: float | None = None) -> Event:
        """Return the next event. Raises `TimeoutError` after *timeout* seconds, `EOFError` at the end of the stream.

        At its end the application is closed, as a server does it.
        """
        deadline = _Deadline("no event", self._timeout if timeout is None else timeout)
        while not self._events:
            if not self._pull(deadline):
                self.leave()
                how = "was interrupted by a deadline" if self._is_interrupted else "ended"
                raise EOFError(f"the stream {how} after {len(self._received)} bytes: ...{self.received[-100:]!r}")
        return self._events.popleft()

    def __iter__(self) -> Iterator[Event]:
        while True:
            try:
                yield self.next_event()
            except EOFError:
                return

    def leave(self) -> None:
        """Disconnect, and close the application as a server does when it can no longer write. From any thread, and twice.

        Afterwards ``stream.closed`` is set and the ``on_close`` callbacks have run. If the application runs at the moment (on
        another thread, or because it calls this itself), this only disconnects: ``closed`` is set within half a second, and the
        application is closed by the thread that runs it, at the next call of `next_event` or `leave`.
        """
        self._has_left = True
        if not self._turn.acquire(blocking=False):
            self._disconnect()
            return
        try:
            self._close()
        finally:
            self._turn.release()

    def __enter__(self) -> OpenStream:  # noqa: PYI034  (typing.Self came with 3.11)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.leave()

    # -- the server's side

    def _open(self, application: WSGIApplication, environ: WSGIEnvironment) -> None:
        deadline = _Deadline("no headers", self._timeout)
        with self._turn:
            self._iterable = deadline.enforce(self._disconnect, self._context.run, application, environ, self._start_response)
            self._blocks = deadline.enforce(self._disconnect, self._context.run, iter, self._iterable)
        deadline.check()
        while not self.status:
            if not self._pull(deadline):
                raise AssertionError("the application has ended without a call of start_response (PEP 3333)")

    def _start_response(
        self, status: str, headers: list[tuple[str, str]], exc_info: OptExcInfo | None = None, /
    ) -> Callable[[bytes], object]:
        if exc_info is not None and exc_info[1] is not None and self._received:
            try:
                raise exc_info[1].with_traceback(exc_info[2])
            finally:
                exc_info = None  # PEP 3333: no circular reference
        assert exc_info is not None or not self.status, "a second call of start_response needs exc_info (PEP 3333)"
        self.status, self.headers = status, Headers(headers)
        return self._take

    def _pull(self, deadline: _Deadline) -> bool:
        """Ask the application for one block. Return False if it has ended."""
        with self._turn:
            if self._has_left:
                return False
            try:
                block = deadline.enforce(self._disconnect, self._context.run, next, self._blocks, None)
            except TimeoutError as error:
                self._is_interrupted = isinstance(error.__cause__, DeadlineOver)
                raise
        if block is None:
            self._blocks = iter(())  # an iterator that has ended is not asked again
        else:
            self._take(block)
        deadline.check()
        return block is not None

    def _take(self, block: bytes) -> None:
        if block:
            assert self.status, "a block has come before the call of start_response (PEP 3333)"
        self._received += block
        self._events.extend(self._reader.feed(block))

    def _close(self) -> None:
        iterable, self._iterable, self._blocks = self._iterable, (), iter(())
        try:
            if hasattr(iterable, "close"):
                # Before the connection is closed: so this thread sets `closed` and runs the callbacks.
                _Deadline("no return from close()", _CLOSE_WITHIN).enforce(self._disconnect, self._context.run, iterable.close)
        finally:
            self._client.close()
            self._servers_end.close()

    def _disconnect(self) -> None:
        with contextlib.suppress(OSError):  # closed already
            self._client.shutdown(socket.SHUT_RDWR)


def _environ(path: str, headers: Mapping[str, str], request: dict[str, Any]) -> WSGIEnvironment:
    builder = EnvironBuilder(path, headers=Headers(headers), **request)
    try:
        return builder.get_environ()
    finally:
        builder.close()


class _Deadline:
    """How long the application may take for *what*."""

    def __init__(self, what: str, seconds: float) -> None:
        self._text = f"{what} within the deadline of {seconds:g} s"
        self._over_at = time.monotonic() + seconds

    def check(self) -> None:
        """Raise `TimeoutError` if the deadline is over."""
        if time.monotonic() >= self._over_at:
            raise TimeoutError(self._text)

    def enforce(self, disconnect: Callable[[], None], call: Callable[..., Any], *arguments: object) -> Any:
        """Return what *call* returns. Interrupt it when the deadline is over, on other threads than the main one *disconnect*.

        Not a ``with`` over a generator: an alarm may ring in its last steps, outside of the generator's ``try``.
        """
        self.check()
        left = self._over_at - time.monotonic()
        try:
            with _Alarm(left) if _may_set_alarm() else _calling_after(left, disconnect):
                return call(*arguments)
        except DeadlineOver as over:
            raise TimeoutError(self._text) from over


def _may_set_alarm() -> bool:
    is_main = threading.current_thread() is threading.main_thread()
    # None: a signal handler that was not set from Python, and so cannot be set again.
    return is_main and hasattr(signal, "setitimer") and signal.getsignal(signal.SIGALRM) is not None


class _Alarm:
    """Raises `DeadlineOver` on the main thread, once, after *seconds*. An alarm that was set before waits until then."""

    def __init__(self, seconds: float) -> None:
        self._seconds = max(seconds, 0.001)  # 0 would set no alarm
        self._before: tuple[Any, float, float] | None = None  # signal handler, seconds, interval; None while ours is not set
        self._since = 0.0

    def __enter__(self) -> None:
        seconds, interval = signal.getitimer(signal.ITIMER_REAL)
        if 0 < seconds <= self._seconds:
            return
        self._since = time.monotonic()
        self._before = signal.getsignal(signal.SIGALRM), seconds, interval
        signal.signal(signal.SIGALRM, self._ring)
        signal.setitimer(signal.ITIMER_REAL, self._seconds)

    def __exit__(self, *_: object) -> None:
        self._put_back()

    def _ring(self, _number: int, _frame: FrameType | None) -> None:
        if self._before is not None:  # otherwise it has rung while it was cancelled
            self._put_back()  # first: an application may swallow the exception, and the earlier alarm must still ring
            raise DeadlineOver

    def _put_back(self) -> None:
        if self._before is None:
            return
        (action, seconds, interval), self._before = self._before, None
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, action)
        if seconds:
            signal.setitimer(signal.ITIMER_REAL, max(seconds - (time.monotonic() - self._since), 0.001), interval)


@contextlib.contextmanager
def _calling_after(seconds: float, callback: Callable[[], None]) -> Iterator[None]:
    timer = threading.Timer(seconds, callback)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
        timer.join()
