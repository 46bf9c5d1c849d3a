"""How many streams may be open in this process, and which streams are open. Each open stream has a `Place`.

>>> from ssemiddleware import Stream
>>> admission = Admission(limit=lambda: 1)
>>> place = admission.maybe_admit(Stream())
>>> admission.maybe_admit(Stream()) is None
True
"""

from __future__ import annotations

import logging
import math
import os
import random
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Hashable, Iterable, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

from werkzeug.datastructures import ImmutableDict

from .collecting import collections
from .ending import CLIENT_GONE
from .per_key import PlacesPerKey
from .stats import MAX_STREAMS, MAX_STREAMS_PER, REFUSED_BY, Carried, Stats

if TYPE_CHECKING:
    from .handle import Stream
    from .memory import MemoryGovernor

_log = logging.getLogger("ssemiddleware")

_FORGET_AFTER = 10.0  # seconds in which the weight of a refused request falls to a third
_ADD_UP_AT = 32  # ended streams: to add up one at a time takes as long as the rest of admission
_LONGEST_WAIT = 8.0  # the longest wait of a refused client, as a multiple of `retry`, before the jitter

# The time to reconnect is multiplied by a random number between these two. By default it is then more than 2 s: a server that
# stops keeps connections open for so long, and over one of them a client would reach the process that is stopping.
_JITTER = (0.75, 1.5)


_Result = TypeVar("_Result")


class _Counted:
    """The open streams that count towards one limit, and the lock that is held while a stream is admitted."""

    __slots__ = ("holder", "lock", "places")

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.holder = 0  # the thread that holds it; 0 for none
        self.places: set[Place] = set()

    def locked(self, act: Callable[..., _Result], *arguments: Any) -> _Result:
        """Return what *act* does while this thread holds the lock. It is taken in C, so that no signal leaves it locked."""
        with self.lock:
            self.holder = threading.get_ident()
            try:
                return act(*arguments)
            finally:
                self.holder = 0

    @property
    def is_ours(self) -> bool:
        """Whether this thread holds the lock: true for code that a garbage collection runs while the lock is held."""
        return self.holder == threading.get_ident()


_of_processes: dict[int, _Counted] = {}  # by process id: the streams that count towards the limit of the process


class _Sums(NamedTuple):
    """What ended streams have carried, and why they ended. Immutable, and replaced in one step."""

    carried: Carried
    ended: Mapping[str, int]
    last: frozenset[Place] = frozenset()  # added last: some of them may still be in `_open` or `_ended` as well


class Place:
    """An open stream's place among those that may be open, and what the stream carries. Each count has one writer."""

    __slots__ = (
        "_admission", "_stream", "began", "carried", "is_added_up", "is_announced", "is_kept", "is_stream", "of_key",
        "on_release", "reason", "sent_at",
    )  # fmt: skip

    def __init__(self, admission: Admission, stream: Stream, now: float, is_announced: bool) -> None:
        self._admission = admission
        self._stream: Stream | None = stream  # None once it has ended
        self.of_key: set[Place] | None = None  # the places of the same key; this one is in it as long as it counts
        self.reason: str | None = None  # why the stream ended
        # Called when the place is given back. It must take no lock, since this may happen inside a garbage collection. It is
        # called twice if a signal handler gives the place back at the same time.
        self.on_release: Callable[[Place], object] | None = None
        self.began = self.sent_at = now  # when the last block was sent, as far as was seen; heartbeats do not count
        self.carried = Carried()
        self.is_announced = is_announced
        self.is_kept = False  # the client is gone, and the application keeps its thread
        self.is_stream = True  # as far as is known
        self.is_added_up = False  # it has ended, and what it carried is in the sums

    def release(self) -> None:
        """Give the place back. Safe to call twice, and from any thread."""
        self._admission.release(self)

    def lend(self) -> None:
        """Give the place back, because a stand-in does the work of the thread that the application keeps."""
        self._admission.lend(self)

    def abandon(self) -> None:
        """Give the place back inside a garbage collection, because the server dropped the stream. Takes no lock."""
        if self._stream is not None:
            self._stream.reason = self._stream.reason or CLIENT_GONE
        self._admission.release(self, quietly=True)

    def cancel(self) -> None:
        """Give the place back, because the response is not an event stream."""
        self.is_stream = False
        self._admission.release(self)

    def let_go(self) -> None:
        """Keep why the stream ended, and drop the stream, since its request may be large."""
        stream, self._stream = self._stream, None
        if stream is not None:
            self.reason = stream.reason

    def paused(self, seconds: float) -> None:
        """Count a wait for memory."""
        self.carried.pauses += 1
        self.carried.paused_seconds += seconds


class Admission:
    """The open streams of this process, and whether there may be one more.

    *limit*: returns how many may be open, None for any number. *counts_all*: the limit is that of the process, and counts the
    streams of all instances that say so. *per_key*: how many may be open for one key, None for any number. *retry*:
    milliseconds that a refused client should wait, before jitter, and longer the more requests were refused lately. *memory*:
    whose readings are in `stats`.

    For all threads. After a fork it starts again with no streams.
    """

    def __init__(
        self,
        *,
        limit: Callable[[], int | None],
        per_key: int | None = None,
        counts_all: bool = False,
        retry: int = 3000,
        memory: MemoryGovernor | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._limit = limit
        self._per_key = per_key
        self._retry = retry
        self._memory = memory
        self._clock = clock
        self._observers: list[Callable[[], None]] = []
        self._counts_all = counts_all
        self._most: int | None = None  # the limit, as far as is known
        # By process id, since a thread of the parent may have held the parent's lock at the fork. An RLock: a signal handler
        # may interrupt the thread that holds it, and need it too.
        self._beginning: dict[int, threading.RLock] = {}
        self._begin()

    def _begin_after_fork(self) -> None:
        """Start again with no streams, once for each process, even if several threads have its first requests."""
        with self._beginning.setdefault(os.getpid(), threading.RLock()):
            if self._pid != os.getpid():
                self._begin()

    def _begin(self) -> None:
        self._counted = _of_processes.setdefault(os.getpid(), _Counted()) if self._counts_all else _Counted()
        # The lock of `_counted` guards writing to what follows. Only `_open` and `_ended` are also written without it, because
        # a stream may end inside a garbage collection. Reading needs no lock: a signal handler may read while its own thread
        # holds it.
        self._open: set[Place] = set()
        self._ended: deque[Place] = deque()  # not added up yet
        self._not_logged: deque[tuple[str, float, int, int]] = deque()  # ends: reason, seconds, bytes and events
        self._sums = _Sums(Carried(), {})
        self._keys: PlacesPerKey[Place] | None = None if self._per_key is None else PlacesPerKey(self._per_key)
        self._refused = dict.fromkeys(REFUSED_BY, 0)
        self.has_refused = False  # a client, which may now wait longer than usual
        self._recently_refused = 0.0  # requests; each counts for less as time goes by
        self._refused_at = -math.inf  # the last of them
        self._pid = os.getpid()  # last: other threads use all this once it is set

    @property
    def open(self) -> int:
        """How many streams are open. Takes no lock and is cheap, as `stats` is."""
        return len(self._open)

    def expect(self, limit: int | None) -> None:
        """Set the limit that `stats` shows before the first request."""
        self._most = limit

    def maybe_admit(
        self, stream: Stream, *, is_announced: bool = False, always: bool = False, key: Hashable | None = None
    ) -> Place | None:
        """Return a place for one more stream, or None if it has to be refused.

        *always*: admit it above the limits too. *key*: the key whose streams are limited as well, None for none.
        """
        if self._pid != os.getpid():
            self._begin_after_fork()
        limit, now = self._limit(), self._clock()
        place = self._counted.locked(self._maybe_place, stream, limit, now, is_announced, always, key)
        if self._observers:
            self.notify()
        return place

    def _maybe_place(
        self, stream: Stream, limit: int | None, now: float, is_announced: bool, always: bool, key: Hashable | None
    ) -> Place | None:
        self._most = limit
        if len(self._ended) >= _ADD_UP_AT:
            self._add_up()
        if limit is not None and len(self._counted.places) >= limit and not always:
            self._refuse(stream, MAX_STREAMS)
            self._recently_refused, self._refused_at = self._decayed(now) + 1, now
            return None
        keys = None if key is None else self._keys
        if keys is not None and keys.is_full(key) and not always:
            self._refuse(stream, MAX_STREAMS_PER)  # does not lengthen `next_retry`: other clients need not wait for one
            return None
        place = Place(self, stream, now, is_announced)
        if keys is not None:
            place.of_key = keys.add(key, place)
        self._open.add(place)
        self._counted.places.add(place)
        return place

    def _refuse(self, stream: Stream, limit: str) -> None:
        stream.refused_by = limit
        self._refused[limit] += 1
        self.has_refused = True

    def observe(self, observer: Callable[[], None]) -> None:
        """Call *observer* when a stream is admitted, refused or ended, and once a tick while streams are open.

        It is called without a lock, and never inside a garbage collection, whose thread may hold other locks.
        """
        collections.watch()
        self._observers.append(observer)

    def look(self) -> None:
        """Add up the streams that have ended, and call the observers: once a tick, while there are any.

        For the watcher. It does not wait for the lock, whose thread a signal may have stopped for long.
        """
        if len(self._ended) >= _ADD_UP_AT and self._pid == os.getpid() and not self._counted.lock.locked():
            self._counted.locked(self._add_up)
        self._log_ends()
        self.notify()

    def notify(self) -> None:
        """Call the observers: the numbers may have changed."""
        for observer in self._observers:
            observer()

    def release(self, place: Place, *, quietly: bool = False) -> None:
        """Take *place* back, once. *quietly*: call no observer, since a garbage collection's thread may hold a lock."""
        if place not in self._open:  # it has ended already, or belongs to another process
            return
        place.let_go()
        if place.is_stream or place.carried.pauses:  # else there is nothing to add up
            self._ended.append(place)  # before it leaves `_open`: a thread that counts must find it in one of them
        on_release = place.on_release
        if on_release is not None:
            on_release(place)
        try:
            self._open.remove(place)
        except KeyError:  # another thread did the same just now
            return
        place.on_release = None
        self._count_no_more(place)
        if place.is_stream and _log.isEnabledFor(logging.DEBUG):
            carried = place.carried.total()
            ended = str(place.reason), self._clock() - place.began, carried.bytes_out, carried.events_out
            self._not_logged.append(ended)
        if (self._observers or self._not_logged) and not (quietly or self._counted.is_ours or collections.is_ours):
            self._log_ends()
            self.notify()

    def _log_ends(self) -> None:
        """Log the streams that have ended: later, if that was in a garbage collection, since logging takes locks."""
        while self._not_logged:
            try:
                ended = self._not_logged.popleft()
            except IndexError:  # another thread was faster
                return
            _log.debug("stream ended: %s, %.3f s, %d bytes, %d events", *ended)

    def lend(self, place: Place) -> None:
        """No longer count *place* towards the limits, so that another stream may be open."""
        place.is_kept = True
        self._count_no_more(place)

    def _count_no_more(self, place: Place) -> None:
        self._counted.places.discard(place)
        if place.of_key is not None:
            place.of_key.discard(place)

    def _add_up(self) -> None:
        """Add up what ended streams have carried, and drop their places."""
        places = self._ended.copy()
        added = {place for place in places if not place.is_added_up}
        carried, ended = _added_up(self._sums, added)
        self._sums = _Sums(carried, ended, frozenset(added))  # an exception before this line changes nothing
        for place in added:
            place.is_added_up = True
        for _ in places:
            self._ended.popleft()
        self._sums = _Sums(carried, ended)  # each of them is marked now

    def _snapshot(self) -> tuple[set[Place], set[Place], _Sums]:
        """Return the open streams, those that ended since the last sums, and the sums. Each stream is in one of them."""
        while True:
            sums = self._sums
            is_open = self._open.copy()  # first, since a stream that ends is put into `_ended` before it leaves `_open`
            is_open = {place for place in is_open if not place.is_added_up and place not in sums.last}
            ended = {place for place in self._ended.copy() if not place.is_added_up and place not in sums.last}
            if sums is self._sums:  # else another thread has added up meanwhile
                return is_open, ended - is_open, sums

    # -- clients that reconnect

    def next_retry(self) -> int:
        """Return the milliseconds that a refused client should wait: with jitter, longer the more were refused lately."""
        times = min(_LONGEST_WAIT, 1 + self._decayed(self._clock()) / max(1, self.open))
        return round(self._retry * times * random.uniform(*_JITTER))

    def usual_retry(self) -> int:
        """Return the milliseconds after which a client should reconnect when its stream ends.

        A client that was refused before may have got a longer time, and keeps it until it gets another.
        """
        return round(self._retry * random.uniform(*_JITTER))

    def _decayed(self, now: float) -> float:
        count = self._recently_refused
        return count * math.exp((self._refused_at - now) / _FORGET_AFTER) if count else 0.0

    # -- statistics

    def stats(self, sources_left: int = 0) -> Stats:
        """Return the numbers of this moment; *sources_left*: threads of `Stream.each` that outlive their streams.

        Takes no lock, so a signal handler may call it.
        """
        if self._pid != os.getpid():
            self._begin_after_fork()
        now = self._clock()
        streams, just_ended, sums = self._snapshot()
        carried, ended = _added_up(sums, just_ended)
        for place in streams:
            carried.add(place.carried)
        announced = sum(place.is_announced for place in streams)
        reading = None if self._memory is None else self._memory.read()
        return Stats(
            open_announced=announced,
            open_unannounced=len(streams) - announced,
            most_streams=self._most,
            refused=sum(self._refused.values()),
            refused_by=ImmutableDict(self._refused),
            ended=ImmutableDict(ended),
            kept_threads=sum(place.is_kept for place in streams) + sources_left,
            **carried.sums(),
            memory_used=None if reading is None else reading.used,
            memory_limit=None if reading is None else reading.limit,
            memory_state=None if self._memory is None else self._memory.state,
            longest_silence=max([0.0, *(now - place.sent_at for place in streams)]),  # a stream may be newer than `now`
            oldest_stream=max([0.0, *(now - place.began for place in streams)]),
        )


def _added_up(sums: _Sums, places: Iterable[Place]) -> tuple[Carried, Counter[str]]:
    """Return *sums* with those of ended streams added."""
    carried, ended = Carried(), Counter(sums.ended)
    carried.add(sums.carried)
    for place in places:
        if place.is_stream:
            carried.add(place.carried)
            ended[str(place.reason)] += 1
        else:  # it waited for memory before its headers were known, and `stats` has shown that already
            carried.add(Carried(pauses=place.carried.pauses, paused_seconds=place.carried.paused_seconds))
    return carried, ended
