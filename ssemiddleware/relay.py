"""The thread that runs an announced request.

A `Relay` runs one WSGI request whole, the application's call, its iteration and its ``close()``, on one thread in one
copied `contextvars.Context`, so that connections and contexts which belong to a thread or a Context stay where they are.
Meanwhile the server's thread waits with a clock for what the application hands over: it can send heartbeats, see that the
client has left, and end for a deploy.
"""

from __future__ import annotations

import contextvars
import errno
import logging
import threading
from itertools import count, islice
from typing import TYPE_CHECKING, NamedTuple

from .hand_off import HandOff
from .headers import Headers, is_event_stream

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from _typeshed import OptExcInfo
    from _typeshed.wsgi import WSGIApplication, WSGIEnvironment

_log = logging.getLogger("ssemiddleware")
_number = count(1)

_CLOSE_WITHIN = 1.0  # seconds that close() waits for a relay thread that is on its way out
_CLOSE_AT_ONCE = 0.02  # seconds that it gives an application which is woken by its stream's end, and may not be


class ResponseStart(NamedTuple):
    """What an application gave to ``start_response``."""

    status: str
    headers: Headers
    exc_info: OptExcInfo | None = None


class ClientLeft(ConnectionAbortedError):
    """Raised in an application that calls ``write()`` for a stream that has ended."""

    def __init__(self, what: str) -> None:
        # Servers log EPIPE as a connection that is gone, not as an error of the application.
        super().__init__(errno.EPIPE, what)


class Relay:
    """Runs *application* on a thread of its own; *blocks* is where what it yields and writes comes out.

    Public methods are for the server's thread, everything below `close` runs on the relay thread.
    """

    __slots__ = (  # a process may have thousands
        "_application", "_close_error", "_environ", "_error", "_is_abandoned", "_is_closing", "_is_committed",
        "_lock", "_start", "_thread", "blocks", "has_returned", "unrelayed",
    )  # fmt: skip

    def __init__(self, application: WSGIApplication, environ: WSGIEnvironment, blocks: HandOff) -> None:
        self.blocks = blocks
        self.has_returned = False  # the application's call is over
        self.unrelayed: Iterable[bytes] | None = None  # a response without any code of the application left to run
        self._application = application
        self._environ = environ
        self._thread = threading.Thread(
            target=contextvars.copy_context().run, args=(self._run,), name=f"ssemiddleware-relay-{next(_number)}", daemon=True
        )
        self._is_closing = False  # the relay thread has left the iteration
        self._lock = threading.Lock()  # guards what follows
        self._start: ResponseStart | None = None
        self._is_committed = False  # the server has the headers
        self._is_abandoned = False  # nobody will ask for errors any more
        self._error: BaseException | None = None  # what ended the application's call or iteration
        self._close_error: BaseException | None = None

    def start(self) -> None:
        """Start the thread. Raises `RuntimeError` where no thread can be had."""
        self._thread.start()

    @property
    def knows_headers(self) -> bool:
        """Whether the response may begin: an event stream at once, any other with its first block (PEP 3333)."""
        if self.blocks.is_finished or not self.blocks.is_empty:
            return True
        return self.has_returned and self.blocks.is_event_stream

    def commit(self) -> ResponseStart | None:
        """Return the start of the response; from now on the application can no longer replace it."""
        with self._lock:
            self._is_committed = True
            start = self._start
            if start is not None:
                self._start = start._replace(exc_info=None)  # PEP 3333: nobody keeps a reference to it
        return start

    def raise_error(self) -> None:
        """Raise what ended the application's call or iteration, if anything did, with its traceback; once."""
        with self._lock:
            error, self._error = self._error, None
        if error is not None:
            try:
                raise error
            finally:
                del error  # its traceback holds this frame

    def stop(self) -> None:
        """End the request: the relay thread closes the iterable as soon as the application lets it. Safe from any thread."""
        self.blocks.close()

    def join(self, timeout: float) -> bool:
        """Wait at most *timeout* seconds for the relay thread; return whether it has ended."""
        if self._thread.ident is not None and self._thread is not threading.current_thread():  # inside a collection
            self._thread.join(timeout)
        return not self._thread.is_alive()

    def close(self) -> None:
        """`stop`, and take leave of the relay thread.

        Safe twice. Waits until the application is closed, but if its code runs (it may sleep) only for a moment. Raises what
        the application's ``close()`` raised, once, if it has ended by now; otherwise that is logged.
        """
        was_waiting = self.blocks.is_producer_waiting  # until it is woken now
        self.stop()
        self.join(_CLOSE_WITHIN if was_waiting or self._is_closing else _CLOSE_AT_ONCE)
        with self._lock:
            self._is_abandoned = True
            error, self._error = self._error, None
            close_error, self._close_error = self._close_error, None
        if error is not None:
            _log_late(error)
        if close_error is not None:
            try:
                raise close_error
            finally:
                del error, close_error

    # -- the relay thread

    def _run(self) -> None:
        try:
            self._run_application()
        except BaseException as error:
            self._keep_error("_error", error)
        finally:
            self._is_closing = True
            self.blocks.finish()

    def _run_application(self) -> None:
        iterable = self._application(self._environ, self._start_response)
        if type(iterable) in (list, tuple) and not self.blocks.is_event_stream:
            self.unrelayed = iterable  # nothing of it needs this thread, and a server may want to know its length
            return
        self.has_returned = True
        self.blocks.tell()
        try:
            self._hand_over_all(iterable)
        except BaseException as error:
            self._keep_error("_error", error)
        self._is_closing = True
        self.blocks.finish()  # before close(): the last byte must not wait for it
        try:
            if hasattr(iterable, "close"):
                iterable.close()
        except BaseException as error:
            self._keep_error("_close_error", error)

    def _hand_over_all(self, iterable: Iterable[bytes]) -> None:
        if self.blocks.look_up():
            return
        blocks = iter(iterable)
        # Only with the first block it is known what the response is: the application may have started it there.
        if self._hand_over(list(islice(blocks, 1))):
            return
        if self.blocks.is_event_stream:
            self.blocks.hand_over_all(blocks)
        else:
            any(map(self.blocks.hand_over, blocks))  # up to the first that finds the hand-off closed

    def _hand_over(self, block: list[bytes]) -> bool:
        """Hand the only block over, if there is one, and keep no reference to it: a large one may leave in the meantime."""
        if self.blocks.is_event_stream:
            return self.blocks.hand_over_all(_emptied(block))
        return any(map(self.blocks.hand_over, _emptied(block)))

    def _start_response(
        self, status: str, headers: Headers, exc_info: OptExcInfo | None = None, /
    ) -> Callable[[bytes], object]:
        with self._lock:
            if exc_info is None and (self._is_committed or self._start):
                raise AssertionError("start_response was called twice without exc_info (PEP 3333)")
            if exc_info is None or not self._is_committed:
                self._start = ResponseStart(status, headers, exc_info)
                self.blocks.is_event_stream = is_event_stream(headers)
                self.blocks.tell()
                return self._write
        try:
            raise exc_info[1].with_traceback(exc_info[2])  # type: ignore[union-attr]  # PEP 3333: the headers have left
        finally:
            exc_info = None

    def _write(self, block: bytes) -> None:
        if self._hand_over([block]):
            raise ClientLeft("the stream has ended")

    def _keep_error(self, attribute: str, error: BaseException) -> None:
        with self._lock:
            if not self._is_abandoned:
                setattr(self, attribute, error)
                return
        _log_late(error)


def _emptied(blocks: list[bytes]) -> Iterator[bytes]:
    while blocks:
        yield blocks.pop()


def _log_late(error: BaseException) -> None:
    if not isinstance(error, ClientLeft):
        _log.error("the application raised after its stream had ended", exc_info=error)
