"""The watcher: one thread a process (a greenlet under gevent) that does for all streams what a blocked thread cannot.

It takes a tick of a quarter of a second while there are streams, and none while there are none. In a tick it asks once what
concerns all streams of a middleware (`Round`), polls all clients' connections at once, and lets each stream do what is due. It
never waits for a baton, a socket or a callback, and an exception of one stream's costs no other stream anything.
"""

from __future__ import annotations

import logging
import os
import queue
import threading
import time
from collections.abc import Callable, Hashable
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from .handle import Callback, run_all
from .servers.connection import HALF_CLOSED, original_poll

if TYPE_CHECKING:
    from .servers.connection import Connection
    from .servers.server import StartThread

_log = logging.getLogger("ssemiddleware")

_TICK = 0.25  # seconds: a disconnect is seen within half a second
_TICK_AT_END = 0.05  # seconds, while a stream waits for the end of its event
_CALLBACK_WITHIN = 1.0  # seconds, after which one that has not returned is logged

_Newcomer = TypeVar("_Newcomer", bound=Hashable)


class Asked(Protocol):
    """What is asked once a tick for several streams. *looked_at*: when it was last, in seconds."""

    looked_at: float

    def look(self, now: float) -> bool:
        """Ask; *now* in seconds. Return whether that concerns each stream at once."""


class Watched(Protocol):
    """A stream as the watcher knows it. All its methods are called by the watcher, and none waits."""

    rests_until: float  # when to ask `is_due` again, in seconds; `serve` may be called before

    @property
    def ending(self) -> str | None:
        """The reason for which the stream ends as soon as it may."""

    @property
    def is_done(self) -> bool:
        """Whether the server has let go of the stream."""

    @property
    def connection(self) -> Connection | None:
        """The client's connection, as long as there is one."""

    @property
    def round(self) -> Asked:
        """What is asked once a tick for this stream and others."""

    def is_due(self, now: float) -> bool:
        """Tell whether there may be something to `serve`. Cheap: asked for each stream at each tick."""

    @property
    def watches_connection(self) -> bool:
        """Whether anything that may happen to the connection is news."""

    def serve(self, now: float, run: Callable[[list[Callback]], None]) -> bool:
        """Do what is due, *run* callbacks elsewhere; return False once there is nothing more to do."""

    def notice(self, run: Callable[[list[Callback]], None]) -> None:
        """See what happened to the connection."""

    def fail(self, run: Callable[[list[Callback]], None]) -> None:
        """End the stream: its service raised an exception."""


class Watcher:
    """Watches the streams of one process. `add`, `run` and `start` may be called from any thread."""

    def __init__(self) -> None:
        # By newcomer, what makes its `Watched` at the next tick: a stream that ends before is gone from here.
        self._newcomers: dict[Any, Callable[[Any, StartThread], Watched]] = {}
        self._wakes: queue.SimpleQueue[None] = queue.SimpleQueue()
        self._is_asleep = False
        self._thread: threading.Thread | None = None
        self._starting = threading.Lock()
        self._has_failed = False  # to start a thread
        self._callbacks: queue.SimpleQueue[list[Callback]] = queue.SimpleQueue()
        self._caller: threading.Thread | None = None
        self._calling_since: float | None = None
        # Of the watcher's thread:
        self._streams: list[Watched] = []
        self._asked: set[Asked] = set()  # by streams of now, and maybe of before
        self._is_one_ending = False
        self._descriptors: dict[Watched, int] = {}
        self._by_descriptor: dict[int, Watched] = {}
        self._poll = original_poll()

    def add(self, newcomer: _Newcomer, watch: Callable[[_Newcomer, StartThread], Watched]) -> bool:
        """Watch what *watch* makes of *newcomer* at the next tick, if nobody has said `forget` by then.

        Costs little, and wakes a watcher that sleeps. Return False where no thread can be had.
        """
        self._newcomers[newcomer] = watch
        if self._is_asleep:
            self._is_asleep = False
            self._wakes.put(None)
        if self._thread is None or not self._thread.is_alive():
            with self._starting:
                if self._thread is None or not self._thread.is_alive():
                    self._thread = self.start("ssemiddleware-watcher", self._watch)
            if self._thread is None:  # nobody will take it
                self.forget(newcomer)
                return False
        return True

    def forget(self, newcomer: Hashable) -> None:
        """Do not begin to watch *newcomer*, which is over. From any thread."""
        self._newcomers.pop(newcomer, None)

    def has_streams(self, asked: Asked) -> bool:
        """Tell whether any stream of that round may not have been let go of. From any thread."""
        return bool(self._newcomers) or any(stream.round is asked and not stream.is_done for stream in self._streams.copy())

    def run(self, callbacks: list[Callback]) -> None:
        """Have *callbacks* called on the one thread for all streams, so that none that blocks stops the watcher."""
        if not callbacks:
            return
        self._callbacks.put(callbacks)
        if self._caller is None or not self._caller.is_alive():
            self._caller = self.start("ssemiddleware-callbacks", self._call)
            if self._caller is None:
                run_all(self._callbacks.get())

    def start(self, name: str, target: Callable[[], None]) -> threading.Thread | None:
        """Start a thread that no process waits for; return None where none may be had, which is logged once."""
        thread = threading.Thread(target=target, name=name, daemon=True)
        try:
            thread.start()
        except RuntimeError as error:  # a subinterpreter, the end of the process, or too many threads
            if not self._has_failed:
                self._has_failed = True
                _log.warning("no thread can be started (%s): no heartbeats, and disconnects are not detected", error)
            return None
        return thread

    # -- the watcher's thread

    def _watch(self) -> None:
        while True:
            self._is_asleep = True  # first: who comes behind this look wakes us
            if not self._newcomers:
                self._wakes.get()
            self._is_asleep = False
            while self._streams or self._newcomers:
                # Looked up late: under gevent, sleep is another one.
                time.sleep(_TICK_AT_END if self._is_one_ending else _TICK)
                self._tick()

    def _tick(self) -> None:
        now = time.monotonic()
        self._adopt_newcomers()
        self._see_connections()
        is_urgent = sum(self._look(asked, now) for asked in self._asked) > 0  # all are asked
        self._is_one_ending = False
        self._streams = [
            stream
            for stream in self._streams
            if (now < stream.rests_until and not is_urgent) or self._goes_on(stream, now, is_urgent=is_urgent)
        ]
        if not self._streams:
            self._asked.clear()
        if self._calling_since is not None and now - self._calling_since > _CALLBACK_WITHIN:
            self._calling_since = None
            _log.warning("an on_close callback has not returned within %d s: others wait for it", _CALLBACK_WITHIN)

    def _look(self, asked: Asked, now: float) -> bool:
        is_urgent = True

        def look() -> None:
            nonlocal is_urgent
            is_urgent = asked.look(now)

        self._guarded(None, look)
        return is_urgent

    def _adopt_newcomers(self) -> None:
        while self._newcomers:
            try:
                newcomer, watch = self._newcomers.popitem()
            except KeyError:  # the last one has ended just now
                return
            self._adopt(watch(newcomer, self.start))

    def _adopt(self, stream: Watched) -> None:
        connection = stream.connection
        descriptor = -1 if connection is None else connection.fileno()
        self._streams.append(stream)
        self._asked.add(stream.round)
        other = self._by_descriptor.get(descriptor)
        if other is not None:  # on a kept-alive connection; or others have closed the descriptor, and it is a new client's
            self._guarded(other, lambda: other.notice(self.run))
        if descriptor >= 0:
            self._descriptors[stream] = descriptor
            self._by_descriptor[descriptor] = stream
            self._poll.register(descriptor, HALF_CLOSED)

    def _see_connections(self) -> None:
        for descriptor, _ in self._poll.poll(0):
            stream = self._by_descriptor.get(descriptor)
            if stream is None:
                self._poll.unregister(descriptor)
                continue
            self._guarded(stream, lambda stream=stream: stream.notice(self.run))  # type: ignore[misc]
            if stream.watches_connection:
                self._poll.modify(descriptor, 0)  # half closed: an end or an error is still reported
            else:
                self._leave_connection(stream)

    def _goes_on(self, stream: Watched, now: float, *, is_urgent: bool) -> bool:
        try:
            is_due = is_urgent or stream.is_due(now)
        except Exception:
            _log.exception("a look at an event stream raised")
            is_due = True
        return not is_due or self._serve(stream, now)

    def _serve(self, stream: Watched, now: float) -> bool:
        goes_on = False

        def serve() -> None:
            nonlocal goes_on
            goes_on = stream.serve(now, self.run)

        self._guarded(stream, serve)
        self._is_one_ending |= goes_on and stream.ending is not None
        if not goes_on:
            self._leave_connection(stream)
        return goes_on

    def _leave_connection(self, stream: Watched) -> None:
        descriptor = self._descriptors.pop(stream, -1)
        if descriptor >= 0 and self._by_descriptor.get(descriptor) is stream:
            del self._by_descriptor[descriptor]
            self._poll.unregister(descriptor)

    def _guarded(self, stream: Watched | None, act: Callable[[], object]) -> None:
        """Do it; an exception ends that stream, and no other."""
        try:
            act()
        except Exception:
            _log.exception("the service of an event stream raised")
            if stream is not None:
                self._guarded(None, lambda: stream.fail(self.run))

    # -- the callbacks' thread

    def _call(self) -> None:
        while True:
            callbacks = self._callbacks.get()
            self._calling_since = time.monotonic()
            run_all(callbacks)
            self._calling_since = None
            del callbacks  # nothing of an application is kept


_watchers: dict[int, Watcher] = {}  # by process: a fork has another


def watcher(process: int | None = None) -> Watcher:
    """Return the watcher of this *process*, by its number; its thread starts with the first stream."""
    process = process or os.getpid()
    try:
        return _watchers[process]
    except KeyError:
        return _watchers.setdefault(process, Watcher())
