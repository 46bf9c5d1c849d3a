"""How many streams may be open in this process, and which are. Each open stream has a `Place`.

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
from collections.abc import Callable, Hashable, Mapping
from typing import TYPE_CHECKING, NamedTuple

from werkzeug.datastructures import ImmutableDict

from .ending import CLIENT_GONE
from .per_key import PlacesPerKey
from .stats import MAX_STREAMS, MAX_STREAMS_PER, MEMORY, REFUSED_BY, Carried, Stats

if TYPE_CHECKING:
    from .handle import Stream
    from .memory import MemoryGovernor

_log = logging.getLogger("ssemiddleware")

_CRITICAL_FOR = 2.0  # seconds above the critical mark, after which streams are ended
_END_ONE_EVERY = 0.5  # seconds: what an ended stream gives back takes a moment to show
_FORGET_AFTER = 10.0  # seconds in which what is known of refused requests fades to a third
_ADD_UP_AT = 32  # streams that have left: to add each up by itself takes as long as all the rest of admission
_MOST_PATIENCE = 8.0  # times `retry` that a refused client is told to wait at most, before the jitter

# Shares of the time after which an EventSource comes back. By default that is more than 2 s: for so long a server that stops
# keeps connections, over which a client would come back to the very process that is going.
_JITTER = (0.75, 1.5)


class _Counted:
    """The open streams that count towards one limit, and the lock of all who decide on it."""

    __slots__ = ("_holder", "_lock", "places")

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._holder = 0
        self.places: set[Place] = set()

    def __enter__(self) -> None:
        """Take the lock."""
        self._lock.acquire()
        self._holder = threading.get_ident()

    def __exit__(self, *_error: object) -> None:
        """Give it back."""
        self._holder = 0
        self._lock.release()

    @property
    def is_ours(self) -> bool:
        """Whether this very thread holds the lock: then a garbage collection runs inside it."""
        return self._holder == threading.get_ident()


_of_processes: dict[int, _Counted] = {}  # what counts towards the limit of a process; a fork has another


class _Left(NamedTuple):
    """What those have carried that have left, and why they ended. Immutable, and replaced in one step."""

    carried: Carried
    ended: Mapping[str, int]
    last: frozenset[Place] = frozenset()  # those that were added last, while some of them may still be among the others


class Place:
    """An open stream's place among those that may be open, and what the stream carries. Each count has one writer."""

    __slots__ = (
        "_admission", "_marked", "_stream", "began", "carried", "is_added_up", "is_announced", "is_kept", "is_stream",
        "must_end", "of_key", "reason", "sent_at",
    )  # fmt: skip

    def __init__(self, admission: Admission, stream: Stream, now: float, *, is_announced: bool) -> None:
        self._admission = admission
        self._marked = 0  # bytes that the application had given at the last `mark`
        self._stream: Stream | None = stream  # until it has left
        self.of_key: set[Place] | None = None  # the places of the same key, this one among them as long as it counts
        self.reason: str | None = None  # why it has
        self.began = self.sent_at = now  # when the last block was seen to leave; heartbeats do not count
        self.carried = Carried()
        self.is_announced = is_announced
        self.is_kept = False  # the client is gone, and the application keeps its thread
        self.must_end = False  # memory is critical, and this stream pulls more than others
        self.is_stream = True  # as far as is known
        self.is_added_up = False  # it has left, and what it carried is among the sums

    def leave(self) -> None:
        """Give the place back. Safe twice, and in any thread."""
        self._admission.leave(self)

    def lend(self) -> None:
        """Give the place back, since a stand-in works in place of the thread that the application keeps."""
        self._admission.lend(self)

    def vanish(self) -> None:
        """Give the place back inside a garbage collection, of a stream that its server has forgotten: no lock is taken."""
        if self._stream is not None:
            self._stream.reason = self._stream.reason or CLIENT_GONE
        self._admission.leave(self, quietly=True)

    def forget(self) -> None:
        """Give the place back, for a response that turned out to be no event stream."""
        self.is_stream = False
        self._admission.leave(self)

    def let_go(self) -> None:
        """Remember why the stream ended, and forget the stream: its request may be large."""
        stream, self._stream = self._stream, None
        if stream is not None:
            self.reason = stream.reason

    def paused(self, seconds: float) -> None:
        """Count a wait for memory."""
        self.carried.pauses += 1
        self.carried.paused_seconds += seconds

    def mark(self) -> None:
        """Remember how much has been pulled by now."""
        self._marked = self.carried.total().bytes_in

    def hunger(self) -> int:
        """Return the bytes that the stream has pulled since the last `mark`."""
        return self.carried.total().bytes_in - self._marked


class Admission:
    """The open streams of this process, and whether there may be one more.

    *limit*: tells how many may be open, None for any number. *counts_all*: that is the process's limit, so the streams of all
    others that say so count too. *per_key*: how many may be open for one key, None for any number. *retry*: milliseconds that
    a refused client is told to wait, before jitter and pressure. *memory*: above its critical mark no stream begins, unless
    none is open at all, so that memory that does not fall locks nobody out.

    For all threads; after a fork it begins at nothing.
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
        # Called without a lock: when a stream has got a place or none, when it has left, and once a tick while there are any.
        self.observers: list[Callable[[], None]] = []
        self._counts_all = counts_all
        self._most: int | None = None  # as far as is known
        # By process: a thread of the parent may have held its own at the fork. A signal handler may come in between.
        self._beginning: dict[int, threading.RLock] = {}
        self._begin()

    def _begin_after_fork(self) -> None:
        """Begin at nothing, once, however many threads have the first requests of a process."""
        with self._beginning.setdefault(os.getpid(), threading.RLock()):
            if self._pid != os.getpid():
                self._begin()

    def _begin(self) -> None:
        self._counted = _of_processes.setdefault(os.getpid(), _Counted()) if self._counts_all else _Counted()
        # The lock of `_counted` is held by whoever writes to what follows, but for the set and `_left`: a stream may end inside
        # a garbage collection. Nobody who only reads waits for it: that may be a signal handler inside it.
        self._open: set[Place] = set()
        self._left: deque[Place] = deque()  # and not added up yet
        self._sums = _Left(Carried(), {})
        self._keys: PlacesPerKey[Place] | None = None if self._per_key is None else PlacesPerKey(self._per_key)
        self._refused = dict.fromkeys(REFUSED_BY, 0)
        self._pressure = 0.0  # requests that were refused lately
        self._pressed_at = -math.inf
        self._end_at = math.inf  # when the next stream is to be ended, as long as memory is critical
        self._pid = os.getpid()  # last: from here on threads use all this

    @property
    def open(self) -> int:
        """How many streams are open. Costs nothing, as `stats` does not."""
        return len(self._open)

    def expect(self, limit: int | None) -> None:
        """Say what the limit will be, as far as is known before the first request."""
        self._most = limit

    def maybe_admit(
        self, stream: Stream, *, is_announced: bool = False, always: bool = False, key: Hashable | None = None
    ) -> Place | None:
        """Return a place for one more stream; None if it has to be refused. *always*: it cannot be.

        *key*: what it is limited by beside, None for nothing.
        """
        if self._pid != os.getpid():
            self._begin_after_fork()
        place = self._maybe_place(stream, self._limit(), is_announced, always, key)
        self._tell()
        return place

    def _maybe_place(
        self, stream: Stream, limit: int | None, is_announced: bool, always: bool, key: Hashable | None
    ) -> Place | None:
        now = self._clock()
        is_critical = bool(self._open) and self._memory is not None and self._memory.is_critical
        with self._counted:
            self._most = limit
            if len(self._left) >= _ADD_UP_AT:
                self._add_up()
            is_full = limit is not None and len(self._counted.places) >= limit
            if (is_critical or is_full) and not always:
                self._refuse(stream, MAX_STREAMS if is_full else MEMORY)
                self._pressure, self._pressed_at = self._faded(now) + 1, now
                return None
            keys = None if key is None else self._keys
            if keys is not None and keys.is_full(key) and not always:
                self._refuse(stream, MAX_STREAMS_PER)  # without pressure: that one client presses lets no other wait
                return None
            place = Place(self, stream, now, is_announced=is_announced)
            if keys is not None:
                place.of_key = keys.add(key, place)
            self._open.add(place)
            self._counted.places.add(place)
        return place

    def _refuse(self, stream: Stream, limit: str) -> None:
        stream.refused_by = limit
        self._refused[limit] += 1

    def _tell(self) -> None:
        for tell in self.observers:
            tell()

    def leave(self, place: Place, *, quietly: bool = False) -> None:
        """Take *place* back, once. *quietly*: inside a garbage collection, where code of others may hold a lock."""
        if place not in self._open:  # it has left, or another process had it
            return
        place.let_go()
        self._left.append(place)  # first: who counts meanwhile must find it here or there, lest a sum goes down
        try:
            self._open.remove(place)
        except KeyError:  # two threads at once
            return
        self._count_no_more(place)
        if place.is_stream and _log.isEnabledFor(logging.DEBUG):
            reason, seconds, carried = place.reason, self._clock() - place.began, place.carried.total()
            _log.debug("stream ended: %s, %.3f s, %d bytes, %d events", reason, seconds, carried.bytes_out, carried.events_out)
        if not quietly and not self._counted.is_ours:
            self._tell()

    def lend(self, place: Place) -> None:
        """Let another stream have what *place* counts towards the limits."""
        place.is_kept = True
        self._count_no_more(place)

    def _count_no_more(self, place: Place) -> None:
        self._counted.places.discard(place)
        if place.of_key is not None:
            place.of_key.discard(place)

    def _add_up(self) -> None:
        """Add up what those have carried that have left, so that they are remembered no longer."""
        left = self._left.copy()
        carried, ended = Carried(), Counter(self._sums.ended)
        carried.add(self._sums.carried)
        added = {place for place in left if not place.is_added_up}
        for place in added:
            _count(place, carried, ended)
        self._sums = _Left(carried, ended, frozenset(added))  # until here it is as if nothing had happened
        for place in added:
            place.is_added_up = True
        for _ in left:
            self._left.popleft()

    def _look(self) -> tuple[set[Place], set[Place], _Left]:
        """Return those that are open, those that have left since, and the sums of all others: each stream is seen once."""
        while True:
            sums = self._sums
            is_open = self._open.copy()  # before the others, since whoever leaves is there first
            is_open = {place for place in is_open if not place.is_added_up and place not in sums.last}
            left = {place for place in self._left.copy() if not place.is_added_up and place not in sums.last}
            if sums is self._sums:  # else another thread has added up meanwhile
                return is_open, left - is_open, sums

    # -- clients that reconnect

    def next_retry(self) -> int:
        """Return the milliseconds after which a client should come back: with jitter, longer the more were refused lately."""
        patience = min(_MOST_PATIENCE, 1 + self._faded(self._clock()) / max(1, self.open))
        return round(self._retry * patience * random.uniform(*_JITTER))

    def usual_retry(self) -> int:
        """Return the milliseconds after which a client that gets its stream should come back.

        A refused client, which may have been told to wait for longer, keeps that time until another is told.
        """
        return round(self._retry * random.uniform(*_JITTER))

    @property
    def has_refused(self) -> bool:
        """Whether this process has told a client to wait for longer than usual."""
        return any(self._refused.values())

    def _faded(self, now: float) -> float:
        return self._pressure * math.exp((self._pressed_at - now) / _FORGET_AFTER) if self._pressure else 0.0

    # -- memory that stays critical

    def relieve(self, now: float) -> bool:
        """Choose the hungriest stream to end if memory has been critical for two seconds; another each half second.

        Return whether one was chosen. Refusing comes first: it begins at once. A stream that pulls nothing is left alone. To be
        called once a tick.
        """
        self._tell()
        if self._memory is None or not self._memory.is_critical:
            self._end_at = math.inf
            return False
        with self._counted:
            if not self._end_at - _CRITICAL_FOR <= now <= self._end_at + _CRITICAL_FOR:  # or nobody has looked for as long
                self._end_at = now + _CRITICAL_FOR
                hungriest = None
            elif now < self._end_at:
                return False
            else:
                self._end_at = now + _END_ONE_EVERY
                hungriest = max((place for place in self._open.copy() if not place.must_end), key=Place.hunger, default=None)
                if hungriest is not None and hungriest.hunger() > 0:
                    hungriest.must_end = True
            for place in self._open.copy():
                place.mark()
        return hungriest is not None and hungriest.must_end

    # -- what is seen

    def stats(self, sources_left: int = 0) -> Stats:
        """Return the numbers of this moment; *sources_left*: threads of `Stream.each` whose streams have ended.

        Waits for nothing: a signal handler may ask as well.
        """
        if self._pid != os.getpid():
            self._begin_after_fork()
        now = self._clock()
        streams, left, sums = self._look()
        carried, ended = Carried(), Counter(sums.ended)
        carried.add(sums.carried)
        for place in left:
            _count(place, carried, ended)
        for place in streams:
            carried.add(place.carried.total())
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
            longest_silence=max([0.0, *(now - place.sent_at for place in streams)]),  # one may be newer than `now`
            oldest_stream=max([0.0, *(now - place.began for place in streams)]),
        )


def _count(place: Place, carried: Carried, ended: Counter[str]) -> None:
    """Add a place that has been left to the sums."""
    total = place.carried.total()
    if place.is_stream:
        carried.add(total)
        ended[str(place.reason)] += 1
    else:  # before that was known it may have paused, and been seen to
        carried.add(Carried(pauses=total.pauses, paused_seconds=total.paused_seconds))
