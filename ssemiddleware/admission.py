r"""How many streams may be open in this process, which are, and what a client is told that may not have one now.

Each open stream has a `Place`. A client that gets none is shed: an EventSource takes any status but 200 for final, on
reconnects too, so it gets 200, a ``retry:`` with jitter and the end, and comes back by itself; everybody else gets 503 with
Retry-After (RFC 9110, section 10.2.3), in plain text, since several clients take an empty event stream for a finished one.
A page of another origin may read either: to an EventSource an answer that it may not read is final, too.

>>> from ssemiddleware import Stream
>>> admission = Admission(limit=lambda environ: 1)
>>> place = admission.maybe_admit({}, Stream())
>>> admission.maybe_admit({}, Stream()) is None
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
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from typing import TYPE_CHECKING

from werkzeug.datastructures import ImmutableDict

from .event_stream import MEDIA_TYPE, retry_line
from .headers import Headers, allows_other_origins, amend, is_cross_origin, is_event_source, open_to_origin
from .stats import Carried, Stats
from .stream import CLIENT_GONE

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIEnvironment

    from .hand_off import HandOff
    from .memory import MemoryGovernor
    from .stream import Stream

_log = logging.getLogger("ssemiddleware")

_CRITICAL_FOR = 2.0  # seconds above the critical mark, after which streams are ended
_END_ONE_EVERY = 0.5  # seconds: what an ended stream gives back takes a moment to show
_FORGET_AFTER = 10.0  # seconds in which what is known of shed requests fades to a third
_MOST_ORIGINS = 64  # to be remembered
_MOST_PATIENCE = 8.0  # times `retry` for which a client is sent away, before the jitter

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

    @contextmanager
    def deciding(self) -> Iterator[None]:
        """Hold the lock."""
        with self._lock:
            self._holder = threading.get_ident()
            try:
                yield
            finally:
                self._holder = 0

    @property
    def is_ours(self) -> bool:
        """Whether this very thread holds the lock: then a garbage collection runs inside it."""
        return self._holder == threading.get_ident()


_of_processes: dict[int, _Counted] = {}  # what counts towards the limit of a process; a fork has another


class Place:
    """An open stream's place among those that may be open, and what the stream carries. Each count has one writer."""

    __slots__ = (
        "_admission", "_marked", "began", "carried", "hand_off", "is_added_up", "is_announced", "is_stream", "must_end",
        "sent_at", "stream",
    )  # fmt: skip

    def __init__(self, admission: Admission, stream: Stream, now: float, *, is_announced: bool) -> None:
        self._admission = admission
        self._marked = 0  # bytes that the application had given when `pulled` was last asked from
        self.stream = stream
        self.began = self.sent_at = now  # when the last block left; heartbeats do not count
        self.carried = Carried()
        self.is_announced = is_announced
        self.hand_off: HandOff | None = None  # of an announced stream, once it has begun
        self.must_end = False  # memory is critical, and this stream holds or pulls more than others
        self.is_stream = True  # as far as is known
        self.is_added_up = False  # it has left, and what it carried is among the sums

    def leave(self) -> None:
        """Give the place back. Safe twice, and in any thread."""
        self._admission.leave(self)

    def vanish(self) -> None:
        """Give the place back inside a garbage collection, of a stream that its server has forgotten: no lock is taken."""
        self.stream.reason = self.stream.reason or CLIENT_GONE
        self._admission.leave(self, quietly=True)

    def forget(self) -> None:
        """Give the place back, for a response that turned out to be no event stream."""
        self.is_stream = False
        self._admission.leave(self)

    @property
    def held(self) -> int:
        """Bytes that wait between the application and its server."""
        return 0 if self.hand_off is None else self.hand_off.held

    def count(self) -> Carried:
        """Return what the stream has carried by now."""
        carried = Carried(*map(self.carried.__getattribute__, Carried.__slots__))
        if self.hand_off is not None:
            hand_off = self.hand_off
            carried.add(
                Carried(
                    blocks_in=hand_off.blocks_taken,
                    bytes_in=hand_off.bytes_taken,
                    events_in=hand_off.events_taken,
                    pauses=hand_off.pauses,
                    paused_seconds=hand_off.paused,
                )
            )
        return carried

    def mark(self) -> None:
        """Remember how much has been pulled by now."""
        self._marked = self.count().bytes_in

    def hunger(self) -> int:
        """Return the bytes that the stream holds, and those that it has pulled since the last `mark`."""
        return self.held + self.count().bytes_in - self._marked


class Admission:
    """The open streams of this process, and whether there may be one more.

    *limit*: given the environ, tells how many may be open, None for any number. *counts_all*: that is the process's limit, so
    the streams of all others that say so count too. *retry*: milliseconds for which a client is sent away, before jitter and
    pressure. *memory*: above its critical mark no stream begins, unless none is open at all, so that nobody is locked out for
    good by memory that does not fall.

    For all threads; after a fork it begins at nothing.
    """

    def __init__(
        self,
        *,
        limit: Callable[[WSGIEnvironment], int | None],
        counts_all: bool = False,
        retry: int = 3000,
        memory: MemoryGovernor | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._limit = limit
        self._retry = retry
        self._memory = memory
        self._clock = clock
        self._allows_origins = False  # some of the application's streams were for pages of other origins
        self._left_to_others: set[str] = set()  # origins of pages whose streams were not, and yet may be: a proxy says so
        # Called without a lock: with True when a stream has got a place or none, and when it has left; with False at its looks.
        self.observers: list[Callable[[bool], None]] = []
        self._counts_all = counts_all
        self._most: int | None = None  # as far as is known
        self._beginning: dict[int, threading.Lock] = {}  # by process: a thread of the parent may have held its own at the fork
        self._begin()

    def _begin_after_fork(self) -> None:
        """Begin at nothing, once, however many threads have the first requests of a process."""
        with self._beginning.setdefault(os.getpid(), threading.Lock()):
            if self._pid != os.getpid():
                self._begin()

    def _begin(self) -> None:
        self._counted = _of_processes.setdefault(os.getpid(), _Counted()) if self._counts_all else _Counted()
        # `deciding` guards all that follows but the sets and `_left`: who leaves may do so inside a garbage collection.
        self._open: set[Place] = set()
        self._left: deque[Place] = deque()  # and not added up yet
        self._carried = Carried()
        self._ended: Counter[str] = Counter()
        self._shed = 0
        self._pressure = 0.0  # requests that were shed lately
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

    def maybe_admit(self, environ: WSGIEnvironment, stream: Stream, *, is_announced: bool = False) -> Place | None:
        """Return a place for one more stream; None if it has to be shed."""
        if self._pid != os.getpid():
            self._begin_after_fork()
        place = self._maybe_place(stream, self._limit(environ), is_announced)
        self._tell(has_changed=True)
        return place

    def _maybe_place(self, stream: Stream, limit: int | None, is_announced: bool) -> Place | None:
        now = self._clock()
        is_critical = self._memory is not None and self._memory.is_critical
        with self._counted.deciding():
            self._most = limit
            self._add_up()
            is_full = limit is not None and len(self._counted.places) >= limit
            if (self._open and is_critical) or is_full:
                self._shed += 1
                self._pressure, self._pressed_at = self._faded(now) + 1, now
                return None
            place = Place(self, stream, now, is_announced=is_announced)
            self._open.add(place)
            self._counted.places.add(place)
        return place

    def _tell(self, *, has_changed: bool) -> None:
        for tell in self.observers:
            tell(has_changed)

    def leave(self, place: Place, *, quietly: bool = False) -> None:
        """Take *place* back, once. *quietly*: inside a garbage collection, where code of others may hold a lock."""
        if place not in self._open:  # it has left, or another process had it
            return
        self._left.append(place)  # first: who counts meanwhile must find it here or there, lest a sum goes down
        try:
            self._open.remove(place)
        except KeyError:  # two threads at once
            return
        self._counted.places.discard(place)
        if place.is_stream and _log.isEnabledFor(logging.DEBUG):
            reason, seconds, carried = place.stream.reason, self._clock() - place.began, place.count()
            _log.debug("stream ended: %s, %.3f s, %d bytes, %d events", reason, seconds, carried.bytes_out, carried.events_out)
        if not quietly and not self._counted.is_ours:
            self._tell(has_changed=True)

    def _add_up(self) -> None:
        """Add up what those have carried that have left."""
        while self._left:
            place = self._left.popleft()
            if place.is_added_up:
                continue
            place.is_added_up = True
            carried = place.count()
            if place.is_stream:
                self._carried.add(carried)
                self._ended[str(place.stream.reason)] += 1
            else:  # before that was known it may have paused, and been seen to
                self._carried.add(Carried(pauses=carried.pauses, paused_seconds=carried.paused_seconds))

    # -- those who come back

    def next_retry(self) -> int:
        """Return the milliseconds after which a client should come back: with jitter, and longer the more were shed lately."""
        patience = min(_MOST_PATIENCE, 1 + self._faded(self._clock()) / max(1, self.open))
        return round(self._retry * patience * random.uniform(*_JITTER))

    def maybe_usual_retry(self) -> int | None:
        """Return the milliseconds after which a client that gets its stream should come back, None if that need not be told.

        Who was sent away, for longer maybe, keeps that time until another is told. Any client may have been, once one was.
        """
        return round(self._retry * random.uniform(*_JITTER)) if self._shed else None

    def _faded(self, now: float) -> float:
        return self._pressure * math.exp((self._pressed_at - now) / _FORGET_AFTER) if self._pressure else 0.0

    def see_headers(self, environ: WSGIEnvironment, headers: Headers) -> None:
        """See by a stream's headers whether the application answers pages of other origins, or leaves that to a proxy."""
        if not is_cross_origin(environ) or self._allows_origins:
            return
        self._allows_origins = allows_other_origins(headers)
        if not self._allows_origins and len(self._left_to_others) < _MOST_ORIGINS:
            self._left_to_others.add(environ["HTTP_ORIGIN"])

    def send_away(self, environ: WSGIEnvironment, start_response: StartResponse, milliseconds: int) -> Iterable[bytes]:
        """Answer a request that is shed: an EventSource by its own means, so that it comes back; anybody else with 503."""
        has_body = environ.get("REQUEST_METHOD") != "HEAD"
        # Where a proxy adds these, ours would be a second one, which browsers refuse.
        is_left_to_others = not self._allows_origins and environ.get("HTTP_ORIGIN") in self._left_to_others
        cross_origin = [] if is_left_to_others else open_to_origin(environ)
        if is_event_source(environ):
            headers, _ = amend([("Content-Type", MEDIA_TYPE)])
            start_response("200 OK", headers + cross_origin)
            return [retry_line(milliseconds)] if has_body else []
        text = b"Too many event streams are open. Please come back later.\n"
        start_response(
            "503 Service Unavailable",
            [
                ("Content-Type", "text/plain; charset=utf-8"),
                ("Content-Length", str(len(text))),
                ("Retry-After", str(math.ceil(milliseconds / 1000))),
                ("Cache-Control", "no-store"),
                *cross_origin,
            ],
        )
        return [text] if has_body else []

    # -- memory that stays critical

    def relieve(self, now: float) -> None:
        """Tell the hungriest stream to end if memory has been critical for two seconds; another each half second.

        Rejecting comes first: it begins at once. A stream that neither holds nor pulls anything is left alone. To be called
        now and then by each stream.
        """
        self._tell(has_changed=False)
        if self._memory is None or not self._memory.is_critical:
            self._end_at = math.inf
            return
        with self._counted.deciding():
            if not self._end_at - _CRITICAL_FOR <= now <= self._end_at + _CRITICAL_FOR:  # or nobody has looked for as long
                self._end_at = now + _CRITICAL_FOR
            elif now < self._end_at:
                return
            else:
                self._end_at = now + _END_ONE_EVERY
                hungriest = max((place for place in self._open.copy() if not place.must_end), key=Place.hunger, default=None)
                if hungriest is not None and hungriest.hunger() > 0:
                    hungriest.must_end = True
            for place in self._open.copy():
                place.mark()

    # -- what is seen

    def count_open(self) -> tuple[int, int]:
        """Return how many streams are open, announced and inline."""
        streams = self._open.copy()
        announced = sum(place.is_announced for place in streams)
        return announced, len(streams) - announced

    def stats(self) -> Stats:
        """Return the numbers of this moment."""
        if self._pid != os.getpid():
            self._begin_after_fork()
        now = self._clock()
        with self._counted.deciding():
            streams = self._open.copy()
            self._add_up()  # in this order and so: each stream counts once, also one that leaves just now
            streams = {place for place in streams if not place.is_added_up}
            carried = Carried()
            carried.add(self._carried)
            for place in streams:
                carried.add(place.count())
            ended, shed, most = dict(self._ended), self._shed, self._most
        announced = sum(place.is_announced for place in streams)
        reading = None if self._memory is None else self._memory.read()
        return Stats(
            open_announced=announced,
            open_inline=len(streams) - announced,
            most_streams=most,
            shed=shed,
            ended=ImmutableDict(ended),
            **asdict(carried),
            held_bytes=sum(place.held for place in streams),
            memory_used=None if reading is None else reading.used,
            memory_limit=None if reading is None else reading.limit,
            memory_state=None if self._memory is None else self._memory.state,
            longest_silence=max([0.0, *(now - place.sent_at for place in streams)]),  # one may be newer than `now`
            oldest_stream=max([0.0, *(now - place.began for place in streams)]),
        )
