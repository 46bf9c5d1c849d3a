r"""`Stream`: what an application finds in ``environ["ssemiddleware.stream"]``, a handle on the stream that it is asked for.

An endless stream loops on `closing`, and so stops at once when its client is gone or the server stops:

    stream = environ["ssemiddleware.stream"]
    while not stream.closing.wait(1):
        yield b"data: tick\n\n"

A finite answer need not look at anything. A source that blocks is iterated through `Stream.each`; whatever else has to be
woken or given back registers with `Stream.on_close`.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, ClassVar, TypeVar

if TYPE_CHECKING:
    from .source import Sources

_T = TypeVar("_T")
Callback = Callable[[], object]

_NONE: list[Callback] = []  # never changed

_log = logging.getLogger("ssemiddleware")


class Stream:
    """A handle on one event stream. Any thread may use it. *path*: the one that was asked for, for the log.

    Every request has one; it costs nothing as long as nothing is asked of it. It knows nothing of the environ that it is in,
    which would otherwise outlive its request until a garbage collection.
    """

    __slots__ = (
        "__dict__", "_callbacks", "_closing_callbacks", "_last_event_id", "_sources", "is_answered", "is_closing", "path",
        "reason",
    )  # fmt: skip

    refused_by = ""  # the option because of which there was no place, for the log

    def __init__(self, last_event_id: str = "", path: str = "", sources: Sources | None = None) -> None:
        self._last_event_id = last_event_id
        self.path = path
        self._sources = sources
        self._callbacks: list[Callback] = _NONE
        self._closing_callbacks: list[Callback] = _NONE
        self.is_answered = False  # the application's call is over
        self.is_closing = False
        self.reason: str | None = None  # why the stream ended; None as long as it goes on

    @property
    def closed(self) -> threading.Event:
        """Set when there is no need to go on: the client is gone, the stream must stop now, or is over. See `reason`."""
        return self._event("closed", lambda: self.reason is not None)

    @property
    def closing(self) -> threading.Event:
        """Set when a stream that has no end of its own should end soon, since the server stops; and with `closed`."""
        return self._event("closing", lambda: self.is_closing)

    @property
    def last_event_id(self) -> str:
        """The ``Last-Event-ID`` of a client that comes back, ``""`` without one: UTF-8, as WHATWG 9.2.4 has it."""
        return self._last_event_id.encode("latin-1").decode(errors="replace")

    def on_close(self, callback: Callback) -> None:
        """Have *callback* called once, however the stream ends; at once if it has ended.

        At a normal end it runs on the thread that served the request. Otherwise, while the application may still run, it runs
        on one thread for all streams: it should wake the application (``queue.put``, ``pubsub.unsubscribe``) and return.
        What it raises is logged. It is not called where the response turns out to be no event stream.
        """
        if self._callbacks is _NONE:
            self._callbacks = vars(self).setdefault("callbacks", [])
        self._callbacks.append(callback)
        if self.reason is not None:
            run_all(self.take_callbacks())

    def each(self, iterable: Iterable[_T], *, stop: Callback | None = None, endless: bool = False) -> Iterator[_T]:
        """Iterate over *iterable*, a source that blocks, and stop the moment the stream is `closed`.

        With *endless*, for a source that has no end of its own, the loop stops as soon as the stream is `closing`. The source
        is pulled on a thread of its own, in one copy of the caller's Context, and at most one item ahead. At the end *stop* is
        called: it should have the source return or raise, so that its thread ends (``pubsub.unsubscribe``). What the source
        raises is raised here.
        """
        from .source import each  # its thread is only for those who ask

        return each(self, iterable, stop=stop, endless=endless, sources=self._sources)

    def end(self, reason: str = "ended by the application") -> None:
        """End the stream soon, since a session was revoked, say: within half a second, but for an event that is under way.

        An EventSource is told when to reconnect, and its stream ends cleanly behind an event. The answer to any other client is
        cut, also behind an event: a clean end would pass for the whole of it. `closed` is set, and `reason` is *reason*: one of
        a few fixed texts, since endings are counted by it. Does nothing if the stream has ended, or has to.
        """
        if not isinstance(reason, str) or not reason:
            raise ValueError(f"reason must be a text of one character or more, got {reason!r}")
        if self.reason is None and self.told_to_end is None:
            self.told_to_end = reason
            Stream.ends_told += 1  # behind that: whoever sees another number finds the stream

    # -- for the package

    told_to_end: str | None = None  # why, by `end`; here since few streams are
    ends_told: ClassVar[int] = 0  # another number once a stream of this process has been told to end

    def on_closing(self, callback: Callback) -> None:
        """Have *callback*, which returns at once, called when `closing` is set and when `closed` is; at once if one is set."""
        if self.reason is None:
            self._closing_callbacks = [*self._closing_callbacks, callback]
        if self.is_closing:
            callback()

    def begin_closing(self) -> None:
        """Set `closing`."""
        if not self.is_closing:
            self.is_closing = True
            self._set("closing")
            run_all(self._closing_callbacks)

    def finish(self, reason: str) -> list[Callback]:
        """Say that the stream has ended; the first reason stays. Return the callbacks, which the caller has called.

        No lock: a garbage collection may end one stream while another is ended.
        """
        self.reason = self.reason or reason
        self.begin_closing()
        self._set("closed")
        run_all(self._closing_callbacks)
        self._closing_callbacks = _NONE
        return self.take_callbacks()

    def take_callbacks(self) -> list[Callback]:
        """Return the callbacks that nobody has taken."""
        if not self._callbacks:
            return _NONE
        taken: list[Callback] = []
        while self._callbacks:
            try:
                taken.append(self._callbacks.pop(0))
            except IndexError:  # another thread was faster
                break
        return taken

    def _event(self, name: str, is_set: Callable[[], bool]) -> threading.Event:
        # Made when asked for. Whoever sets it notes that first, and looks for the event then: one of us sees.
        event: threading.Event = vars(self).setdefault(name, threading.Event())
        if is_set():
            event.set()
        return event

    def _set(self, name: str) -> None:
        event = vars(self).get(name)
        if event is not None:
            event.set()


def run_all(callbacks: list[Callback]) -> None:
    """Call *callbacks*; what one raises is logged and stops no other."""
    for callback in callbacks:
        try:
            callback()
        except Exception:
            _log.exception("an on_close callback raised")
