"""The watcher: one thread a process (a greenlet under gevent) that does for all streams what a blocked thread cannot.

While there are streams it runs once in a quarter of a second (a tick); without streams it sleeps. In a tick it asks what
concerns all streams of a middleware (`Round`), polls all clients' connections at once, and lets each stream do what is due. It
never waits for a baton, a socket or a callback. An exception in one stream ends that stream and no other.
"""

from __future__ import annotations

import contextlib
import logging
import math
import os
import queue
import threading
import time
from collections.abc import Callable, Hashable
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from .handle import Callback, run_all
from .servers.polling import HALF_CLOSED, new_poll

if TYPE_CHECKING:
    from .servers.connection import Connection
    from .servers.server import StartThread

_log = logging.getLogger("ssemiddleware")

_TICK = 0.25  # seconds: a disconnect is detected within half a second
_TICK_AT_END = 0.05  # seconds, while a stream waits for the end of its event
_CALLBACK_WITHIN = 1.0  # seconds, after which a callback that has not returned is logged

_Newcomer = TypeVar("_Newcomer", bound=Hashable)


class Asked(Protocol):
    """What is asked once a tick for several streams. *looked_at*: when it was last asked, in seconds."""

    looked_at: float

    def look(self, now: float) -> bool:
        """Ask; *now* in seconds. Return whether that concerns each stream at once."""


class Watched(Protocol):
    """A stream, as the watcher sees it. The watcher calls all its methods, and they never wait."""

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
        """Tell whether there may be something to `serve`. Cheap, since it is asked for each stream at each tick."""

    @property
    def watches_connection(self) -> bool:
        """Whether the connection should still be polled."""

    def serve(self, now: float, run: Callable[[list[Callback]], None]) -> bool:
        """Do what is due, *run* callbacks elsewhere; return False once there is nothing more to do."""

    def notice(self, run: Callable[[list[Callback]], None]) -> None:
        """Find out what happened to the connection."""

    def fail(self, run: Callable[[list[Callback]], None]) -> None:
        """End the stream: its service raised an exception."""


class Holding(Protocol):
    """A stream that holds blocks of its application for a moment. The watcher calls all its methods, and they never wait."""

    within: float  # seconds in which they are to be sent
    is_expected: bool  # to hold some: `send` will be called

    @property
    def holds_some(self) -> bool:
        """Whether there is something to send."""

    def send(self) -> None:
        """Send what is held, if that is possible now."""

    def fail(self, run: Callable[[list[Callback]], None]) -> None:
        """End the stream: `send` raised an exception."""


class Watcher:
    """Watches the streams of one process. `add`, `run` and `start` may be called from any thread."""

    def __init__(self) -> None:
        # New streams, each with what makes its `Watched` at the next tick. A stream that ends earlier is taken out again.
        self._newcomers: dict[Any, Callable[[Any, StartThread], Watched]] = {}
        self._wakes: queue.SimpleQueue[None] = queue.SimpleQueue()
        self._is_asleep = False
        self._thread: threading.Thread | None = None
        self._starting = threading.Lock()
        self._has_failed = False  # to start a thread
        self._callbacks: queue.SimpleQueue[list[Callback]] = queue.SimpleQueue()
        self._caller: threading.Thread | None = None
        self._calling_since: float | None = None
        self._holding: dict[Holding, None] = {}  # what is to be sent before the next tick
        self._sends_within = math.inf  # seconds until that, at most, as far as the watcher knows
        # Of the watcher's thread:
        self._streams: list[Watched] = []
        self._asked: set[Asked] = set()  # by the streams that are open, and maybe by some that have ended
        self._is_one_ending = False
        self._descriptors: dict[Watched, int] = {}
        self._by_descriptor: dict[int, Watched] = {}
        self._poll = new_poll()

    def add(self, newcomer: _Newcomer, watch: Callable[[_Newcomer, StartThread], Watched]) -> bool:
        """Watch what *watch* makes of *newcomer* at the next tick, unless `forget` is called earlier.

        Costs little, and wakes a watcher that sleeps. Return False if no thread can be started.
        """
        self._newcomers[newcomer] = watch
        if self._is_asleep:
            self._is_asleep = False
            self._wakes.put(None)
        if self._thread is None:
            with self._starting:
                if self._thread is None:
                    self._thread = self.start("ssemiddleware-watcher", self._watch)
            if self._thread is None:  # no thread will take it
                self.forget(newcomer)
                return False
        return True

    def forget(self, newcomer: Hashable) -> None:
        """Do not begin to watch *newcomer*, which is over. From any thread."""
        self._newcomers.pop(newcomer, None)

    def expect(self, holding: Holding) -> bool:
        """Call `send` of *holding* within its seconds, and for as long as it holds something.

        Return False if no thread runs. From any thread; set `is_expected` before.
        """
        if self._thread is None:
            return False
        self._holding[holding] = None
        if holding.within < self._sends_within:
            self._wakes.put(None)
        return True

    def has_streams(self, asked: Asked) -> bool:
        """Tell whether a stream of that round may still be open. From any thread."""
        return bool(self._newcomers) or any(stream.round is asked and not stream.is_done for stream in self._streams.copy())

    def run(self, callbacks: list[Callback]) -> None:
        """Call *callbacks* on the one thread for all streams, so that a callback that blocks does not stop the watcher."""
        if not callbacks:
            return
        self._callbacks.put(callbacks)
        if self._caller is None or not self._caller.is_alive():
            self._caller = self.start("ssemiddleware-callbacks", self._call)
            if self._caller is None:
                run_all(self._callbacks.get())

    def start(self, name: str, target: Callable[[], None]) -> threading.Thread | None:
        """Start a daemon thread. Return None if no thread can be started, which is logged once."""
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
        try:
            self._watch_until_killed()
        finally:
            self._thread = None  # the next stream starts another

    def _watch_until_killed(self) -> None:
        while True:
            self._is_asleep = True  # first: a stream that comes after this check wakes us
            if not self._newcomers:
                self._wakes.get()
            self._is_asleep = False
            is_needed = True  # for a tick, also if the newcomer is over already: else each short stream would wake us
            while is_needed:
                self._wait_for_tick(_TICK_AT_END if self._is_one_ending else _TICK)
                self._tick()
                is_needed = bool(self._streams or self._newcomers or self._asked)
            self._send_held()  # and forget the streams that have held something until they ended

    def _wait_for_tick(self, seconds: float) -> None:
        """Wait, and send what streams hold: each in its time, and all before the tick."""
        ends, sends_at = time.monotonic() + seconds, math.inf
        while True:
            now = time.monotonic()
            if now >= min(ends, sends_at):
                self._send_held()
                sends_at = math.inf
            if now >= ends:
                return
            self._sends_within = math.inf  # first: a thread that comes after this check wakes us
            self._sends_within = min((each.within for each in self._holding.copy()), default=math.inf)
            sends_at = min(sends_at, now + self._sends_within)
            with contextlib.suppress(queue.Empty):
                self._wakes.get(timeout=max(0.0, min(ends, sends_at) - now))

    def _send_held(self) -> None:
        for holding in self._holding.copy():
            self._guarded(holding, holding.send)
            self._holding.pop(holding, None)
            holding.is_expected = False  # first: a thread that holds something after this check asks again
            if holding.holds_some:
                holding.is_expected = True
                self._holding[holding] = None

    def _tick(self) -> None:
        now = time.monotonic()
        self._adopt_newcomers()
        had_streams = bool(self._streams)
        self._see_connections()
        is_urgent = sum(self._look(asked, now) for asked in self._asked) > 0  # all are asked
        self._is_one_ending = False
        self._streams = [
            stream
            for stream in self._streams
            if (now < stream.rests_until and not is_urgent) or self._goes_on(stream, now, is_urgent=is_urgent)
        ]
        if not (had_streams or self._streams):  # asked once more, as the last stream may have ended after the question
            self._asked.clear()
        if self._calling_since is not None and now - self._calling_since > _CALLBACK_WITHIN:
            self._calling_since = None
            _log.warning("an on_close callback has not returned within %d s, and other callbacks wait for it", _CALLBACK_WITHIN)

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
        if other is not None:  # a kept-alive connection; or the descriptor was closed, and belongs to a new client
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
            _log.exception("the watcher failed to check an event stream")
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

    def _guarded(self, stream: Watched | Holding | None, act: Callable[[], object]) -> None:
        """Do it. An exception ends that stream, and no other."""
        try:
            act()
        except Exception:
            _log.exception("the watcher failed at an event stream, and ends it")
            if stream is not None:
                self._guarded(None, lambda: stream.fail(self.run))

    # -- the callbacks' thread

    def _call(self) -> None:
        while True:
            callbacks = self._callbacks.get()
            self._calling_since = time.monotonic()
            try:
                run_all(callbacks)
            except SystemExit:  # which would end this thread alone
                _log.exception("an on_close callback raised")
            self._calling_since = None
            del callbacks  # keep no reference to anything of an application


_watchers: dict[int, Watcher] = {}  # by process: a fork has another


def watcher(process: int | None = None) -> Watcher:
    """Return the watcher of this *process*, by its number; its thread starts with the first stream."""
    process = process or os.getpid()
    try:
        return _watchers[process]
    except KeyError:
        return _watchers.setdefault(process, Watcher())
