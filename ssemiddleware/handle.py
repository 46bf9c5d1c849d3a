r"""`Stream`: the handle on its own stream that an application finds in ``environ["ssemiddleware.stream"]``.

An endless stream loops on `closing`. So it stops at once when its client disconnects or the server stops:

    stream = environ["ssemiddleware.stream"]
    while not stream.closing.wait(1):
        yield b"data: tick\n\n"

A finite answer needs none of this. Iterate a source that blocks through `Stream.each`. Register anything else that has to be
woken or given back with `Stream.on_close`.
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
_NONE_AT_CLOSING: dict[Callback, None] = {}  # never changed

_log = logging.getLogger("ssemiddleware")


class Stream:
    """A handle on one event stream. Any thread may use it. *path*: the request's path, for the log.

    Every request has one, and it costs nothing while it is not used. It holds no reference to the environ that holds it:
    otherwise each environ would live until a garbage collection.
    """

    __slots__ = (
        "__dict__", "_callbacks", "_closing_callbacks", "_is_watched", "_last_event_id", "_sources", "is_answered",
        "is_closing", "path", "reason",
    )  # fmt: skip

    refused_by = ""  # the option that refused the request, for the log

    def __init__(self, last_event_id: str = "", path: str = "", sources: Sources | None = None) -> None:
        self._last_event_id = last_event_id
        self.path = path
        self._sources = sources
        self._callbacks: list[Callback] = _NONE
        self._closing_callbacks: dict[Callback, None] = _NONE_AT_CLOSING
        self._is_watched = False  # somebody wants to know when it ends or is closing
        self.is_answered = False  # the application's call has returned, with a response that has started
        self.is_closing = False
        self.reason: str | None = None  #: why the stream ended, as text; None as long as it goes on

    @property
    def closed(self) -> threading.Event:
        """Set when there is no need to go on: the client has gone, or the stream has to end or has ended. See `reason`."""
        return self._event("closed", lambda: self.reason is not None)

    @property
    def closing(self) -> threading.Event:
        """Set when a stream without an end of its own should end soon, because the server stops. Also set with `closed`."""
        return self._event("closing", lambda: self.is_closing)

    @property
    def last_event_id(self) -> str:
        """The ``Last-Event-ID`` of a client that reconnects, decoded as UTF-8 (WHATWG 9.2.4); ``""`` without one.

        With the option ``last_event_id_parameter`` it may also come in the query.
        """
        return self._last_event_id.encode("latin-1").decode(errors="replace")

    def on_close(self, callback: Callback) -> None:
        """Call *callback* once when the stream ends, however that happens; at once if it has ended.

        At a normal end it runs on the thread that served the request. Otherwise it runs on one thread for all streams, while
        the application may still run: it should wake the application (``queue.put``, ``pubsub.unsubscribe``) and return.
        An exception that it raises is logged. For a response that is no event stream it may not be called.
        """
        self._is_watched = True
        if self._callbacks is _NONE:
            self._callbacks = vars(self).setdefault("callbacks", [])
        self._callbacks.append(callback)
        if self.reason is not None:
            run_all(self.take_callbacks())

    def each(self, iterable: Iterable[_T], *, stop: Callback | None = None, endless: bool = False) -> Iterator[_T]:
        """Iterate over *iterable*, a source that blocks, and stop as soon as the stream is `closed`.

        With *endless*, for a source without an end of its own, the loop stops as soon as the stream is `closing`. The source
        is pulled on a thread of its own, in one copy of the caller's Context, and at most one item ahead. At the end *stop* is
        called. It should make the source return or raise, so that the thread ends (``pubsub.unsubscribe``). An exception that
        the source raises is raised here.
        """
        from .source import each  # most streams never need its thread

        return each(self, iterable, stop=stop, endless=endless, sources=self._sources)

    def end(self, reason: str = "ended by the application") -> None:
        """End the stream within half a second, for example when a session is revoked. An unfinished event may take longer.

        An EventSource's stream gets a time to reconnect, and a clean end after a whole event. The answer to any other client
        is cut, also after a whole event: a clean end would look like the end of the answer. `closed` is set, and `reason` is
        *reason*. Use a few fixed texts, since ended streams are counted by them. Does nothing if the stream has ended, or is
        about to.
        """
        if not isinstance(reason, str) or not reason:
            raise ValueError(f"reason must be a text of one character or more, got {reason!r}")
        if self.reason is None and self.requested_end is None:
            self.requested_end = reason
            Stream.ends_requested += 1  # last: a thread that sees the new number finds `requested_end` set

    # -- for the package

    requested_end: str | None = None  # why, by `end`; a class attribute, since few streams need it
    ends_requested: ClassVar[int] = 0  # changes whenever `end` is called in this process

    def on_closing(self, callback: Callback) -> None:
        """Call *callback*, which must return at once, when `closing` is set and when `closed` is; at once if one is set."""
        self._is_watched = True
        if self.reason is None:
            if self._closing_callbacks is _NONE_AT_CLOSING:
                self._closing_callbacks = vars(self).setdefault("closing_callbacks", {})
            self._closing_callbacks[callback] = None
        if self.is_closing:
            callback()

    def forget_on_closing(self, callback: Callback) -> None:
        """Do not call *callback* any more, which `on_closing` took."""
        vars(self).get("closing_callbacks", {}).pop(callback, None)

    def begin_closing(self) -> None:
        """Set `closing`."""
        if not self.is_closing:
            self.is_closing = True
            self._call_at_closing()

    def _call_at_closing(self) -> None:
        self._set("closing")
        run_all([*self._closing_callbacks.copy()])

    def finish(self, reason: str) -> list[Callback]:
        """Note that the stream has ended; the first reason stays. Return the callbacks, which the caller has to call.

        No lock: a garbage collection may end one stream while another one ends.
        """
        self.reason = self.reason or reason
        was_closing, self.is_closing = self.is_closing, True
        if not self._is_watched:  # checked last: a watcher that begins later finds the reason
            return _NONE
        if not was_closing:
            self._call_at_closing()
        self._set("closed")
        run_all([*self._closing_callbacks.copy()])
        self._closing_callbacks = _NONE_AT_CLOSING
        vars(self).pop("closing_callbacks", None)
        return self.take_callbacks()

    def take_callbacks(self) -> list[Callback]:
        """Return the callbacks that no other thread has taken."""
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
        # Made on first use. `finish` notes the state first and then looks for the event; here it is the other way round. So one
        # of the two threads sees what the other has done.
        self._is_watched = True
        event: threading.Event = vars(self).setdefault(name, threading.Event())
        if is_set():
            event.set()
        return event

    def _set(self, name: str) -> None:
        event = vars(self).get(name)
        if event is not None:
            event.set()


def run_all(callbacks: list[Callback]) -> None:
    """Call *callbacks*. An exception in one is logged, and the others still run; `SystemExit` is raised after them."""
    stop: BaseException | None = None
    for callback in callbacks:
        try:
            callback()
        except Exception:
            _log.exception("an on_close callback raised")
        except BaseException as error:
            stop = stop or error
    if stop is not None:
        raise stop
