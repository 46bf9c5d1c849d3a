"""What the watcher does for one stream: opening, heartbeats, detecting a disconnect, deadlines, ending it, a stand-in.

The watcher calls `Care.serve` when something is due and `Care.notice` when something happened to the connection. Nothing here
waits: if the baton is not free, the watcher tries again at the next tick.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from typing import TYPE_CHECKING

from .ending import CLIENT_GONE, DRAIN, FAILED, LEASE, SEND_DEADLINE, WAKE_WITHIN, Round, finish_event_within
from .event_stream import HEARTBEAT
from .servers.server import MOST_WRITTEN

if TYPE_CHECKING:
    from .servers.connection import Connection, Progress, State
    from .servers.server import StartThread
    from .service import Run, Service
    from .wire import Wire

OPEN_AFTER = 0.5  # seconds of silence: an application that fails at once still answers 500, and a quick one has no extra cost
_KEPT_AFTER = 1.0  # seconds for which an application may keep its thread after its client has disconnected
_RESTS_FOR = 1.0  # seconds at most between two checks whether something was sent; a sixteenth of `heartbeat` if that is less
_LEASE_JITTER = (0.9, 1.1)  # so that streams that began together do not reconnect together
SHORT_LEASE = 10.0  # seconds, for a stream that blocks other requests of its connection; a reconnection takes about 3
_LOOK_EVERY = 15.0  # seconds between two checks of a stream to which nothing happens, and whether a client reads


class Care:
    """The watcher's part of one stream. For the watcher's thread only.

    *kept*: called with the path of an application that keeps its thread although its client has disconnected. *start*: starts a
    stand-in.
    """

    __slots__ = (
        "_connection_ended", "_due", "_kept", "_kept_since", "_lease_ends", "_progress", "_progress_due", "_progress_since",
        "_seen", "_start", "rests_until", "service",
    )  # fmt: skip

    def __init__(self, service: Service, kept: Callable[[str], None], start: StartThread) -> None:
        self.service = service
        self._kept, self._start = kept, start
        self._seen = -1  # the wire's moves at the last check
        self._due = 0.0  # when to check again; 0 means at each tick
        self.rests_until = 0.0  # until then it is not even checked whether something was sent
        self._progress: Progress | None = None  # of the bytes that wait for the client, while there are any
        self._progress_since = 0.0
        self._progress_due = 0.0  # when to check again whether the client of a stream that is not silent reads
        self._connection_ended: State = "open"
        self._kept_since: float | None = None
        self._lease_ends: float | None = None  # None before the first check

    @property
    def round(self) -> Round:
        """What is asked once a tick for this stream and others."""
        return self.service.round

    @property
    def is_done(self) -> bool:
        """Whether the server has closed the stream."""
        return self.service.is_done

    @property
    def ending(self) -> str | None:
        """The reason for which the stream ends as soon as it may."""
        return self.service.ending

    @property
    def connection(self) -> Connection | None:
        """The client's connection. None where the server does not show it, and after the end."""
        return self.service.connection

    def serve(self, now: float, run: Run) -> bool:
        """Do what is due; return False once there is nothing more to do. Never waits."""
        service = self.service
        self.rests_until = 0.0
        if service.is_done:
            return False
        if service.is_abandoned:
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
        elif service.round.sign is not None and service.wire is not None:  # one without a response is killed, as bare
            service.round.sign.report_alive()
        if service.baton.is_over:
            service.is_quick = False
            return True
        self._see_whether_ending(now, run)
        if not has_moved and service.ending is not None:
            self._end_from_outside(now, run)
        elif not has_moved:
            self._see_silence(now, run)
        if not has_moved or now >= self._progress_due:  # small events move although their client has vanished
            self._see_whether_stuck(now, run)
        self._due = self._next_due(now)
        return True

    def is_due(self, now: float) -> bool:
        """Tell whether there may be something to `serve`: rarely, while a stream is silent or sends all the time."""
        service = self.service
        if service.is_done or service.is_abandoned or (self._has_moved(now) and self._due == 0) or now >= self._due:
            return True
        # A heartbeat may be late by a sixteenth of its time, so a tick need not check all streams.
        self.rests_until = self._due if self._is_silent else min(self._due, now + min(_RESTS_FOR, self._speaks_after / 16))
        return False

    def _has_moved(self, now: float) -> bool:
        service = self.service
        moves = service.carried.moves
        if moves == self._seen:
            return False
        self._seen = moves
        if not self._is_silent:  # else it has rested, and may be silent again for nearly as long
            service.silent_since = now
        service.place.sent_at, self._kept_since = now, None
        if self._progress is not None and self._progress.acknowledged is None:  # see `Progress`
            self._progress = None
        if self._due:
            self._due = self._next_due(now)
        return True

    def _next_due(self, now: float) -> float:
        """Return when to check again; 0 means at each tick."""
        service = self.service
        sign = service.round.sign
        if service.ending is not None or service.handle.reason is not None or (sign is not None and sign.needs_reports):
            return 0
        if service.wire is None:  # the response may start at any time, and is opened soon after
            return 0
        connection = service.connection  # read once: the server's thread may set it to None
        if connection is not None and connection.is_closed_by_itself:
            return 0
        deadline = service.options.send_deadline
        due = now + _LOOK_EVERY if deadline is None else max(now, self._progress_due)
        if not service.baton.is_free and deadline is not None:
            due = min(due, now + min(1.0, deadline / 4))
        if self._lease_ends is not None:
            due = min(due, self._lease_ends)
        if service.baton.is_free and service.outside.is_mute:  # until the application yields, which is noticed
            return due
        return min(due, max(now, service.silent_since + self._speaks_after))

    @property
    def _is_silent(self) -> bool:
        """Whether a heartbeat was sent since the application's last block, as far as was seen. Then it rests until the next."""
        service = self.service
        if service.outside.is_mute:  # there is no next one until the application yields, which has to be seen soon
            return False
        return service.silent_since - service.place.sent_at >= self._speaks_after

    @property
    def _is_opening(self) -> bool:
        """Whether the next line of ours is an EventSource's first."""
        return self.service.is_event_source and not self.service.carried.moves

    @property
    def _speaks_after(self) -> float:
        """The seconds of silence after which a line of ours is due."""
        heartbeat = self.service.options.heartbeat
        if heartbeat is None or not self.service.speaks:
            return math.inf
        return min(OPEN_AFTER, heartbeat) if self._is_opening else heartbeat

    def notice(self, run: Run) -> None:
        """Find out what happened to the connection. An event of the poll is only a hint: ask the stream's own connection."""
        service = self.service
        if not service.baton.hold():
            self.rests_until = 0.0  # it is over, and may have been resting for long: then it is forgotten at this tick
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
        if state == "gone" or service.is_event_source:  # any other client may have closed only its sending side, and still read
            service.baton.is_over = True
            service.is_quick = False
        run(service.handle.finish(CLIENT_GONE))

    @property
    def watches_connection(self) -> bool:
        """Whether the connection should still be polled."""
        service = self.service
        return not service.baton.is_over

    def _see_whether_ending(self, now: float, run: Run) -> None:
        service = self.service
        reason = self._why_it_must_end(now) if service.ending is None else None
        if reason is not None:
            service.ending_since, service.ending = now, reason
            service.is_quick = False  # first: an application that is woken now may yield its next block
            run(service.handle.finish(reason))
        if service.ending is not None:
            service.is_quick = False

    def _why_it_must_end(self, now: float) -> str | None:
        service = self.service
        if service.round.stopping_since is not None:
            service.handle.begin_closing()
            if service.is_event_source or service.round.is_grace_over:
                return DRAIN
            return service.handle.requested_end
        if service.handle.requested_end is not None:
            return service.handle.requested_end
        if self._lease_ends is None:
            self._lease_ends = self._end_of_lease()
        # A response that has not started may turn out not to be a stream.
        return LEASE if now >= self._lease_ends and service.wire is not None else None

    def _end_of_lease(self) -> float:
        service = self.service
        if not service.is_event_source:
            return math.inf
        lease = math.inf if service.options.lease is None else service.options.lease
        if service.server.delays_others():
            lease = min(lease, SHORT_LEASE)
        return service.place.began + lease * random.uniform(*_LEASE_JITTER)

    def _end_from_outside(self, now: float, run: Run) -> None:
        """End a stream whose application stays silent."""
        waited = now - self.service.ending_since
        if self.service.wire is not None and waited >= WAKE_WITHIN:
            self._with_baton(lambda: self._end(waited), run)

    def _end(self, waited: float) -> None:
        service = self.service
        wire = service.wire  # that of now: the response may have been replaced by another
        if wire is None:
            return
        is_left = service.held is None or service.held.send_with_baton()
        if is_left and self._has_ended_cleanly(wire):
            service.baton.is_over = True
        elif service.ending != DRAIN and service.server.delays_others():
            pass  # other requests share the connection; they are answered as soon as the application yields
        elif service.connection is not None and (
            waited >= finish_event_within(str(service.ending)) or (wire.takes_end and is_left)
        ):
            cut_from_outside(service)  # without a connection it is cut when the application yields

    def _has_ended_cleanly(self, wire: Wire) -> bool:
        service, writer = self.service, self.service.outside.writer
        # Without a connection it would not be cut if it cannot be ended, and an encoded body has one end.
        if writer is None or service.connection is None or not (service.is_event_source and wire.takes_end):
            return False
        last = service.final_bytes()
        return len(last) <= MOST_WRITTEN and writer.end(last)

    def _see_silence(self, now: float, run: Run) -> None:
        service = self.service
        if service.baton.is_free and now - service.silent_since >= self._speaks_after:
            line = service.opening() if self._is_opening else HEARTBEAT
            self._with_baton(lambda: self._speak(line, now), run)

    def _speak(self, line: bytes, now: float) -> None:
        service = self.service
        wire, writer = service.wire, service.outside.writer
        if wire is None or writer is None or not wire.takes_comment:
            return
        if not (service.server.can_open or service.carried.moves):
            return
        block = wire.ours(line)
        if block and writer.write(block):
            wire.note_ours(line)
            self._seen, service.silent_since = service.carried.moves, now

    def _with_baton(self, act: Callable[[], None], run: Run) -> None:
        """Do it with the baton, if that is free. If it fails, the stream is cut."""
        service = self.service
        if not service.baton.take_ours():
            return
        try:
            act()
        except OSError:  # the client has disconnected since it was last checked
            cut_from_outside(service)
            run(service.handle.finish(CLIENT_GONE))
        except BaseException:
            cut_from_outside(service)
            raise
        finally:
            service.baton.give_ours()

    def _see_whether_stuck(self, now: float, run: Run) -> None:
        """Cut the connection of a client that has read nothing for *send_deadline* seconds, although bytes wait for it."""
        service = self.service
        deadline = service.options.send_deadline
        if deadline is None or not service.baton.hold():
            return
        self._progress_due = now + min(_LOOK_EVERY, deadline / 4)
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
        """Lend the server another thread for the one that the application keeps after its stream has ended."""
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
                if service.is_done:  # closed meanwhile
                    take_back()

    def fail(self, run: Run) -> None:
        """End a stream whose service raised an exception."""
        fail(self.service, run)


def cut_from_outside(service: Service) -> None:
    """End a stream, for which the watcher has the baton or uses the connection, with a cut."""
    service.baton.is_over = True
    service.is_quick = False
    if service.connection is None:
        return
    if service.is_event_source or service.is_delimited:
        service.connection.cut()
    else:
        service.connection.reset_on_close()  # a FIN would look like the end; the server closes it, or the process dies


def fail(service: Service, run: Run) -> None:
    """End a stream for which the watcher failed to do something."""
    if service.baton.hold():
        try:
            cut_from_outside(service)
        finally:
            service.baton.let_go()
    run(service.handle.finish(FAILED))
