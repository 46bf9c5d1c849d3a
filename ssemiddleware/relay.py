"""The thread that runs an announced request, and the bounded hand-off of its blocks to the server's thread.

A `Relay` runs one WSGI request whole, the application's call, its iteration and its ``close()``, on one thread in one
copied `contextvars.Context`, so that connections and contexts which belong to a thread or a Context stay where they are.
Meanwhile the server's thread waits with a clock: it can send heartbeats, see that the client has left, and end for a deploy.

The hand-off has one producer (the relay thread) and one consumer (the server's). Blocks go through a deque; each side
writes counters of its own, and the two meet only to sleep and to wake. One number, ``_go_until``, tells the producer how
many bytes it may hand over before it must look up; setting it to zero is how the consumer asks for attention.
"""

from __future__ import annotations

import contextlib
import contextvars
import errno
import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable
from itertools import count
from typing import TYPE_CHECKING, NamedTuple

from .event_stream import Event, next_cut
from .headers import Headers, is_event_stream

if TYPE_CHECKING:
    from _typeshed import OptExcInfo
    from _typeshed.wsgi import WSGIApplication, WSGIEnvironment

_log = logging.getLogger("ssemiddleware")
_number = count(1)

# Where threads are greenlets, a producer that never blocks would keep what it produced to itself: it gives way to a
# consumer that it woke so many seconds ago. Longer, and events come late; shorter, and a burst is no longer joined.
_GIVE_WAY_AFTER = 0.001
_CLOSE_WITHIN = 1.0  # seconds that close() waits for a relay that is on its way out
_CLOSE_AT_ONCE = 0.02  # seconds that it gives an application which is woken by its stream's end, and may not be
_LOOK_UP_EVERY = 0.1  # seconds; how fast the end of a memory pause is seen


class ResponseStart(NamedTuple):
    """What an application gave to ``start_response``."""

    status: str
    headers: Headers
    exc_info: OptExcInfo | None = None


class ClientLeft(ConnectionAbortedError):
    """Raised where nobody is left to answer: in an application's ``write()``, and to the server before a response began."""


class Relay:
    """Runs *application* on a thread of its own and hands its blocks over.

    The server's thread calls `start`, `wait`, `take` or `take_unchanged`, and `close`; everything that begins with an
    underscore below `close` runs on the relay thread. *read_ahead*: bytes that may wait; the application goes on below half
    of it. *max_block*: bytes of the largest block that `take` returns. *next_pause*: seconds to wait before the next pull.
    """

    def __init__(
        self,
        application: WSGIApplication,
        environ: WSGIEnvironment,
        *,
        read_ahead: int,
        max_block: int,
        next_pause: Callable[[], float] | None = None,
    ) -> None:
        self._application = application
        self._environ = environ
        self._read_ahead = read_ahead
        self._max_block = max_block
        self._next_pause = next_pause
        self._thread = threading.Thread(
            target=contextvars.copy_context().run, args=(self._run,), name=f"ssemiddleware-relay-{next(_number)}", daemon=True
        )
        # Written by the relay thread.
        self.start_of_response: ResponseStart | None = None
        self.returned = False  # the application's call is over
        self.unrelayed: Iterable[bytes] | None = None  # a response without any code of the application left to run
        self.finished = False  # nothing comes any more
        self.error: BaseException | None = None  # what ended the application's call or iteration
        self._close_error: BaseException | None = None
        self._handed_over = 0  # bytes, as known when the producer last looked up
        self._is_full = False  # the producer waits for room
        self._is_outside = False  # the relay thread is not in the application's code, or in its close()
        self._streams_events = False  # the start of the response was an event stream's
        self._woken_at = 0.0
        # Written by the server's thread.
        self.closed = False
        self._sent = 0  # bytes that the server has got
        self._go_until = 0
        self._is_asleep = False  # the consumer waits for a block
        self._asleep_since = 0.0
        self._block = b""  # taken from the deque and being cut
        self._cut_at = 0

        self._waiting: deque[bytes] = deque()
        self._has_news = False  # set by the relay thread for what is no block, taken back by the server's
        self._arrived = _Gate()  # where the consumer sleeps
        self._room = _Gate()  # where the producer sleeps
        self._committing = threading.Lock()  # guards the two below and start_of_response
        self._is_committed = False  # the server has the headers
        self._is_abandoned = False  # nobody will ask for errors any more

    # -- the server's thread

    def start(self) -> None:
        """Start the thread. Raises `RuntimeError` where no thread can be had."""
        self._thread.start()

    @property
    def knows_headers(self) -> bool:
        """Whether the response may begin: an event stream at once, any other with its first block (PEP 3333)."""
        if self.finished or self._waiting:
            return True
        start = self.start_of_response
        return self.returned and start is not None and is_event_stream(start.headers)

    def commit(self) -> ResponseStart | None:
        """Return the start of the response; from now on the application can no longer replace it."""
        with self._committing:
            self._is_committed = True
            start, self.start_of_response = self.start_of_response, None  # PEP 3333: keep no reference to exc_info
        return start

    def wait(self, timeout: float) -> None:
        """Sleep until there is something new, at most *timeout* seconds."""
        self._asleep_since = time.monotonic()
        self._is_asleep = True
        self._go_until = 0
        # The producer looks at _go_until after it has appended, and we at the deque after we have set it: one of us sees.
        if not (self._waiting or self._has_news or self.finished or self.closed):
            self._arrived.wait(timeout)
        self._is_asleep = self._has_news = False
        self._let_go_on()

    def take(self) -> bytes:
        """Return what waits, joined and cut into a block of at most ``max_block`` bytes; ``b""`` if nothing does."""
        if not self._block:
            self._block, self._cut_at = self._join_what_waits(), 0
        block, start = self._block, self._cut_at
        if start or len(block) > self._max_block:
            end = self._cut_at = next_cut(block, start, self._max_block)
            if end == len(block):
                self._block = b""
            block = block[start:end]
        else:
            self._block = b""
        self._count_as_sent(len(block))
        return block

    def take_unchanged(self) -> bytes | None:
        """Return the next block just as it came, None if none waits."""
        if not self._waiting:
            return None
        block = self._waiting.popleft()
        self._count_as_sent(len(block) or 1)
        return block

    def raise_error(self) -> None:
        """Raise what ended the application's call or iteration, if anything did, with its traceback; once."""
        error, self.error = self.error, None
        if error is not None:
            raise error

    @property
    def is_empty(self) -> bool:
        """Whether nothing waits."""
        return not (self._block or self._waiting)

    def stop(self) -> None:
        """End the request: the relay thread closes the iterable as soon as the application lets it. Safe from any thread."""
        self.closed = True
        self._go_until = 0
        self._block = b""
        self._waiting.clear()  # an application that sleeps on must not keep what nobody will send
        self._room.open()
        self._arrived.open()

    def close(self) -> None:
        """`stop`, and take leave of the relay thread.

        Safe twice. Waits until the application is closed, but if its code runs (it may sleep) only for a moment. Raises what
        the application's ``close()`` raised, once, if it has ended by now; otherwise that is logged.
        """
        self.stop()
        if self._thread.ident is not None:
            self._thread.join(_CLOSE_WITHIN if self._is_outside else _CLOSE_AT_ONCE)
        with self._committing:
            self._is_abandoned = True
            error, self._close_error = self._close_error, None
        if error is not None:
            raise error

    def join(self, timeout: float) -> bool:
        """Wait at most *timeout* seconds for the relay thread; return whether it has ended."""
        self._thread.join(timeout)
        return not self._thread.is_alive()

    def _join_what_waits(self) -> bytes:
        waiting = self._waiting
        if not waiting:
            return b""
        if len(waiting) == 1 or 2 * len(waiting[0]) > self._max_block:
            return waiting.popleft()
        blocks = [waiting.popleft() for _ in range(len(waiting))]
        largest = max(map(len, blocks))
        if 2 * largest > self._max_block:  # big enough by itself: joining would copy it for nothing
            few = next(index for index, block in enumerate(blocks) if 2 * len(block) > self._max_block)
            waiting.extendleft(reversed(blocks[few:]))
            del blocks[few:]
        return b"".join(blocks)

    def _count_as_sent(self, size: int) -> None:
        self._sent += size
        self._let_go_on()
        if self._is_full and self._has_room():
            self._room.open()

    def _let_go_on(self) -> None:
        if not self.closed:
            must_pause = self._next_pause is not None and self._next_pause() > 0
            self._go_until = 0 if must_pause else self._sent + self._read_ahead

    # -- the relay thread

    def _run(self) -> None:
        try:
            self._run_application()
        except BaseException as error:
            self._keep_error("error", error)
        finally:
            self._is_outside = self.finished = True
            self._tell_news()

    def _run_application(self) -> None:
        iterable = self._application(self._environ, self._start_response)
        if type(iterable) in (list, tuple) and not self._streams_events:
            self.unrelayed = iterable  # nothing of it needs this thread, and a server may want to know its length
            return
        self.returned = True
        self._tell_news()
        try:
            self._pull(iterable)
        except BaseException as error:
            self._keep_error("error", error)
        self._is_outside = True
        try:
            if hasattr(iterable, "close"):
                iterable.close()
        except BaseException as error:
            self._keep_error("_close_error", error)

    def _keep_error(self, attribute: str, error: BaseException) -> None:
        with self._committing:
            if not self._is_abandoned:
                setattr(self, attribute, error)
                return
        _log.error("the application raised after its stream had ended", exc_info=error)

    def _start_response(
        self, status: str, headers: Headers, exc_info: OptExcInfo | None = None, /
    ) -> Callable[[bytes], object]:
        with self._committing:
            if exc_info is None and (self._is_committed or self.start_of_response):
                raise AssertionError("start_response was called twice without exc_info (PEP 3333)")
            if exc_info is None or not self._is_committed:
                self.start_of_response = ResponseStart(status, headers, exc_info)
                self._streams_events = is_event_stream(headers)
                return self._write
        try:
            raise exc_info[1].with_traceback(exc_info[2])  # type: ignore[union-attr]  # PEP 3333: the headers have left
        finally:
            exc_info = None

    def _write(self, block: bytes) -> None:
        if self._hand_over(block):
            raise ClientLeft(errno.EPIPE, "the stream has ended")

    def _pull(self, iterable: Iterable[bytes]) -> None:
        """Hand over what *iterable* yields, until it ends or the stream is closed."""
        if self._look_up(self._handed_over):
            return
        blocks = iter(iterable)
        for block in blocks:
            if self._hand_over(block):  # the first may have come with the headers, so only now it is known what it is
                return
            break
        if self._streams_events:
            self._pull_event_stream(blocks)
        else:
            for block in blocks:
                if self._hand_over(block):
                    return

    def _pull_event_stream(self, blocks: Iterable[bytes]) -> None:
        append = self._waiting.append
        handed_over = self._handed_over
        for block in blocks:
            if type(block) is not bytes:
                block = only_bytes(block)
            if block:
                append(block)
                handed_over += len(block)
            if handed_over >= self._go_until and self._look_up(handed_over):
                return

    def _hand_over(self, block: bytes) -> bool:
        """Hand one block over, waiting for room behind it; return whether the stream is closed."""
        if self._streams_events:
            block = only_bytes(block)
            if not block:
                return self._look_up(self._handed_over)
        self._waiting.append(block)
        return self._look_up(self._handed_over + (len(block) or 1))

    def _look_up(self, handed_over: int) -> bool:
        """Do what the consumer asks for: wake it, give way, wait for room or for memory. Return whether to stop."""
        self._handed_over = handed_over
        if self._waiting:
            self._wake_consumer()
        if not self._has_room(full=self._read_ahead):
            self._wait_for_room()
        if self._next_pause is not None and not self.closed:
            self._wait_for_memory(self._next_pause)
        return self.closed

    def _wake_consumer(self) -> None:
        if self._is_asleep:
            self._is_asleep = False
            now = self._woken_at = time.monotonic()
            self._arrived.open()
            if now - self._asleep_since < _GIVE_WAY_AFTER:
                return
        elif self._go_until or time.monotonic() - self._woken_at < _GIVE_WAY_AFTER:
            return
        time.sleep(0)
        self._woken_at = time.monotonic()

    def _tell_news(self) -> None:
        self._has_news = True
        if self._is_asleep:
            self._arrived.open()

    def _has_room(self, full: int = 0) -> bool:
        return self._handed_over - self._sent < (full or (self._read_ahead + 1) // 2)

    def _wait_for_room(self) -> None:
        self._is_full = self._is_outside = True
        # The consumer looks at _is_full after it has counted, and we count after we have set it: one of us sees.
        while not self.closed and not self._has_room():
            self._room.wait(60.0)
        self._is_full = self._is_outside = False

    def _wait_for_memory(self, next_pause: Callable[[], float]) -> None:
        now = time.monotonic()
        until = now + next_pause()
        self._is_outside = True
        while now < until and not self.closed and next_pause():
            self._room.wait(min(until - now, _LOOK_UP_EVERY))
            now = time.monotonic()
        self._is_outside = False


class _Gate:
    """Where one thread sleeps until another opens it. Opened while nobody sleeps, it lets the next one through."""

    __slots__ = ("_lock",)

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._lock.acquire()

    def wait(self, timeout: float) -> None:
        self._lock.acquire(timeout=max(0.0, timeout))

    def open(self) -> None:
        with contextlib.suppress(RuntimeError):  # it is open
            self._lock.release()


def only_bytes(block: object) -> bytes:
    """Return an event stream's *block* as exactly `bytes`, or raise the `TypeError` that PEP 3333 wants, naming its type.

    Servers differ: one drops other types silently, some pass a few of them, most abort.
    """
    if isinstance(block, bytes):
        return bytes(block)  # some servers refuse subclasses
    hint = ": yield bytes(event)" if isinstance(block, Event) else ""
    raise TypeError(f"an event stream's blocks must be bytes, got {type(block).__name__}{hint}")
