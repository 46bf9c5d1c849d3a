"""What the watcher does for one stream: opening, heartbeats, a disconnect seen, deadlines, an end in time, a stand-in.

The watcher calls `Care.serve` when something is due and `Care.notice` when something happened to the connection. Nothing here
waits: without the baton it is tried again at the next tick.
"""

from __future__ import annotations

import logging
import math
import random
from collections.abc import Callable
from typing import TYPE_CHECKING

from .ending import CLIENT_GONE, DRAIN, FAILED, LEASE, MEMORY, SEND_DEADLINE, WAKE_WITHIN, Round, finish_event_within
from .event_stream import HEARTBEAT

if TYPE_CHECKING:
    from .servers.connection import Connection, Progress, State
    from .servers.server import StartThread
    from .service import Run, Service

_log = logging.getLogger("ssemiddleware")

OPEN_AFTER = 0.5  # seconds of silence: an application that fails at once still answers 500, and a quick one pays nothing
_KEPT_AFTER = 1.0  # seconds for which an application may keep its thread once its client is gone
_RESTS_FOR = 1.0  # seconds at most between two looks at whether something has left; a sixteenth of `heartbeat` if that is less
_LEASE_JITTER = (0.9, 1.1)  # so that streams that began together do not reconnect together
_SHORT_LEASE = 10.0  # seconds, of a stream that holds up other requests; a reconnection takes about 3
_LOOK_EVERY = 15.0  # seconds between two looks at a stream with which nothing happens


class Care:
    """The watcher's part of one stream; all for the watcher's thread.

    *kept*: told the path of an application that keeps its thread although its client is gone. *start*: starts a stand-in.
    """

    __slots__ = (
        "_connection_ended", "_due", "_kept", "_kept_since", "_lease_ends", "_progress", "_progress_since", "_seen", "_start",
        "rests_until", "service",
    )  # fmt: skip

    def __init__(self, service: Service, kept: Callable[[str], None], start: StartThread) -> None:
        self.service = service
        self._kept, self._start = kept, start
        self._seen = -1  # the wire's moves when last looked at
        self._due = 0.0  # when to look again, 0 for at each tick
        self.rests_until = 0.0  # until then not even whether something has left is looked at
        self._progress: Progress | None = None  # of what waits for the client, while something does
        self._progress_since = 0.0
        self._connection_ended: State = "open"
        self._kept_since: float | None = None
        self._lease_ends: float | None = None  # None before the first look

    @property
    def round(self) -> Round:
        """What is asked once a tick for this stream and others."""
        return self.service.round

    @property
    def is_done(self) -> bool:
        """Whether the server has let go of the stream."""
        return self.service.is_done

    @property
    def ending(self) -> str | None:
        """The reason for which the stream ends as soon as it may."""
        return self.service.ending

    @property
    def connection(self) -> Connection | None:
        """The client's connection, None where the server does not show it, and behind the end."""
        return self.service.connection

    def serve(self, now: float, run: Run) -> bool:
        """Do what is due; return False once there is nothing more to do. Never waits."""
        service = self.service
        self.rests_until = 0.0
        if service.is_done:
            return False
        if service.has_vanished:
            run(service.handle.finish(CLIENT_GONE))
            service.connection = None  # which may be another client's by now
            service.let_go()
            return False
        connection = service.connection
        if connection is not None and (connection.is_closed_by_itself or connection.is_lost):
            self.notice(run)
        has_moved = self._has_moved(now) or service.silent_since == now  # `is_due` may have seen it in this tick
        if service.handle.reason is not None:
            self._see_whether_kept(now)
        elif service.round.sign is not None and service.wire is not None:  # what hangs before its response is killed as bare
            service.round.sign.tell_alive()
        if service.baton.is_over:
            service.is_quick = False
            return True
        self._see_whether_ending(now, run)
        if not has_moved:
            if service.ending is not None:
                self._end_from_outside(now)
            else:
                self._see_silence(now, run)
        self._due = self._next_due(now)
        return True

    def is_due(self, now: float) -> bool:
        """Tell whether there may be something to `serve`: seldom, of a stream that is silent or flows."""
        service = self.service
        if service.is_done or service.has_vanished or (self._has_moved(now) and self._due == 0) or now >= self._due:
            return True
        # A heartbeat may be late by a sixteenth of its time: of 800 silent streams a tick looks at 200.
        self.rests_until = min(self._due, now + min(_RESTS_FOR, self._speaks_after / 16))
        return False

    def _has_moved(self, now: float) -> bool:
        service = self.service
        moves = service.carried.moves
        if moves == self._seen:
            return False
        self._seen = moves
        service.silent_since, service.place.sent_at, self._progress, self._kept_since = now, now, None, None
        if self._due:
            self._due = self._next_due(now)
        return True

    def _next_due(self, now: float) -> float:
        """Return when to look again, 0 for at each tick."""
        service = self.service
        sign = service.round.sign
        if service.ending is not None or service.handle.reason is not None or (sign is not None and sign.must_be_told):
            return 0
        connection = service.connection  # read once: the server's thread may let go of it
        if connection is not None and connection.is_closed_by_itself:
            return 0
        deadline = service.options.send_deadline
        due = now + (_LOOK_EVERY if deadline is None else min(_LOOK_EVERY, deadline / 4))
        if not service.baton.is_free and deadline is not None:
            due = min(due, now + min(1.0, deadline / 4))
        if self._lease_ends is not None:
            due = min(due, self._lease_ends)
        if service.baton.is_free and service.outside.is_mute:  # until the application yields, which is seen
            return due
        return min(due, max(now, service.silent_since + self._speaks_after))

    @property
    def _is_opening(self) -> bool:
        """Whether the next line of ours is an EventSource's first."""
        return self.service.is_event_source and not self.service.carried.moves

    @property
    def _speaks_after(self) -> float:
        """After how many seconds of silence a line of ours is due."""
        heartbeat = self.service.options.heartbeat
        if heartbeat is None or not self.service.speaks:
            return math.inf
        return min(OPEN_AFTER, heartbeat) if self._is_opening else heartbeat

    def notice(self, run: Run) -> None:
        """See what happened to the connection. An event is a hint: the stream's own connection object is asked."""
        service = self.service
        if not service.baton.hold():
            return
        try:
            state: State = "open" if service.connection is None else service.connection.state()
            if state == "gone" and service.connection is not None:
                service.connection.disown()
        finally:
            service.baton.let_go()
        if state in ("open", self._connection_ended):
            return
        self._connection_ended = state
        self._due = self.rests_until = 0
        if state == "gone" or service.is_event_source:  # any other client may have half-closed, and still read
            service.baton.is_over = True
            service.is_quick = False
        run(service.handle.finish(CLIENT_GONE))

    @property
    def watches_connection(self) -> bool:
        """Whether anything that may happen to the connection is news."""
        service = self.service
        return not service.baton.is_over

    def _see_whether_ending(self, now: float, run: Run) -> None:
        service = self.service
        reason = self._why_it_must_end(now) if service.ending is None else None
        if reason is not None:
            service.ending_since, service.ending = now, reason
            service.is_quick = False  # before an application that is woken yields its next block
            run(service.handle.finish(reason))
        if service.ending is not None:
            service.is_quick = False

    def _why_it_must_end(self, now: float) -> str | None:
        service = self.service
        if service.round.stopping_since is not None:
            service.handle.begin_closing()
            if service.is_event_source or service.round.is_grace_over:
                return DRAIN
            return service.handle.told_to_end
        if service.handle.told_to_end is not None:
            return service.handle.told_to_end
        if service.place.must_end:
            return MEMORY
        if self._lease_ends is None:
            self._lease_ends = self._end_of_lease()
        # What has not been started may turn out to be no stream.
        return LEASE if now >= self._lease_ends and service.wire is not None else None

    def _end_of_lease(self) -> float:
        service = self.service
        if not service.is_event_source:
            return math.inf
        lease = math.inf if service.options.lease is None else service.options.lease
        if service.server.holds_up_others():
            lease = min(lease, _SHORT_LEASE)
            self._tell_of_short_lease()
        return service.place.began + lease * random.uniform(*_LEASE_JITTER)

    def _tell_of_short_lease(self) -> None:
        if not self.service.round.has_told_of_short_lease:
            self.service.round.has_told_of_short_lease = True
            _log.warning(
                "over HTTP/2 this server answers the requests of one connection one after another, so that an event stream "
                "holds up all others of its browser: an EventSource's stream ends after %d s. Let a proxy speak HTTP/2, and "
                "this server HTTP/1.1",
                _SHORT_LEASE,
            )

    def _end_from_outside(self, now: float) -> None:
        """End a stream whose application stays silent."""
        service = self.service
        waited = now - service.ending_since
        if service.wire is None or waited < WAKE_WITHIN or not service.baton.take_ours():
            return
        try:
            wire, writer = service.wire, service.outside.writer  # of now: another response may have been started before
            is_at_end = service.is_event_source and wire.takes_end
            if is_at_end and writer is not None and writer.end(service.last_words()):
                service.baton.is_over = True
            elif service.ending != DRAIN and service.server.holds_up_others():
                pass  # the connection is that of other requests too, which are answered as soon as the application yields
            elif service.connection is not None and (waited >= finish_event_within(str(service.ending)) or wire.takes_end):
                self._cut_from_outside()  # without a connection it is broken off when the application yields
        except BaseException:
            self._cut_from_outside()
            raise
        finally:
            service.baton.give_ours()

    def _cut_from_outside(self) -> None:
        service = self.service
        service.baton.is_over = True
        service.is_quick = False
        if service.connection is None:
            return
        if service.is_event_source or service.is_delimited:
            service.connection.cut()
        else:
            service.connection.reset_on_close()  # a FIN would pass for the end; the server closes, or the process dies

    def _see_silence(self, now: float, run: Run) -> None:
        service = self.service
        silence = now - service.silent_since
        if not service.baton.is_free:
            self._see_whether_stuck(now, run)
            return
        if silence >= self._speaks_after:
            self._speak(service.opening() if self._is_opening else HEARTBEAT, now)
        self._see_whether_stuck(now, run)

    def _speak(self, line: bytes, now: float) -> None:
        service = self.service
        if not service.baton.take_ours():
            return
        try:
            wire, writer = service.wire, service.outside.writer
            if wire is None or writer is None or not wire.takes_comment:
                return
            if (service.server.can_open or service.carried.moves) and writer.write(line):
                wire.note_ours(line)
                self._seen, service.silent_since = service.carried.moves, now
        except BaseException:
            self._cut_from_outside()
            raise
        finally:
            service.baton.give_ours()

    def _see_whether_stuck(self, now: float, run: Run) -> None:
        """Cut the connection of a client that has acknowledged nothing of what waits for it for *send_deadline* seconds."""
        service = self.service
        deadline = service.options.send_deadline
        if deadline is None or not service.baton.hold():
            return
        try:
            progress = None if service.connection is None else service.connection.progress()
            if progress is None or not progress.queued:
                self._progress = None
            elif self._progress is None or progress.has_moved_since(self._progress):
                self._progress, self._progress_since = progress, now
            elif now - self._progress_since >= deadline and service.connection is not None:
                run(service.handle.finish(SEND_DEADLINE))
                service.baton.is_over = True
                service.connection.cut()
        finally:
            service.baton.let_go()

    def _see_whether_kept(self, now: float) -> None:
        """Lend the server a stand-in for a thread that the application keeps although there is no more to do."""
        service = self.service
        if not service.baton.is_free or service.take_back is not None or service.round.stopping_since is not None:
            return
        if self._kept_since is None:
            self._kept_since = now
        elif now - self._kept_since >= _KEPT_AFTER and not service.place.is_kept:
            self._kept(service.handle.path)
            take_back = None if service.round.pool is None else service.round.pool.lend(self._start)
            service.place.is_kept = True
            if take_back is not None:
                service.take_back = take_back
                service.place.lend()
                if service.is_done:  # let go of meanwhile
                    take_back()

    def fail(self, run: Run) -> None:
        """End a stream whose service raised an exception."""
        service = self.service
        if service.baton.hold():
            try:
                self._cut_from_outside()
            finally:
                service.baton.let_go()
        run(service.handle.finish(FAILED))
