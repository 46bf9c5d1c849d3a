"""What one event stream needs beside its application: an opening, heartbeats, a disconnect seen, deadlines, an end in time.

A `Service` is all of a stream but the application's iterable. The server's thread uses it through `EventStream`; the watcher
calls `serve` once a tick, and `notice` when something happened to the connection. What the two share is guarded by the baton.
"""

from __future__ import annotations

import logging
import os
import socket
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, NoReturn

from .baton import Baton
from .ending import (
    CLIENT_GONE,
    DRAIN,
    ENDED,
    FAILED,
    FINISH_EVENT_WITHIN,
    LEAVE_WHOLE_FOR,
    MEMORY,
    SEND_DEADLINE,
    WAKE_WITHIN,
    Round,
    StreamBroken,
    StreamOver,
)
from .event_stream import HEARTBEAT, retry_line
from .handle import Callback, Stream, run_all
from .memory import Pulls
from .response import Headers, takes_lines_of_ours
from .servers.connection import Connection, Progress, State
from .servers.loop import has_sent, is_called_from_c, iterates
from .servers.server import Server, StartThread, Writer
from .wire import QUICK, Wire, only_bytes

if TYPE_CHECKING:
    from .admission import Admission, Place
    from .options import Options
    from .request import Request

_log = logging.getLogger("ssemiddleware")

OPEN_AFTER = 0.5  # seconds of silence: an application that fails at once still answers 500, and a quick one pays nothing
_LARGE = 512  # bytes of a first block before which the opening leaves by itself: Caddy then does not compress the stream
_KEPT_AFTER = 1.0  # seconds for which an application may keep its thread once its client is gone
_LOOKED_AT_WITHIN = 0.5  # seconds; a watcher that runs comes twice as often
_LOOK_EVERY = 15.0  # seconds between two looks at a stream with which nothing happens

Run = Callable[[list[Callback]], None]


class Service:
    """One stream as the server's thread and the watcher share it.

    *kept*: told the path of an application that keeps its thread although its client is gone. *start*: starts a stand-in. Methods up to `serve` are for
    the server's thread, those below for the watcher's; `finish` is for any.
    """

    __slots__ = (
        "_admission",
        "_clock",
        "_connection_ended",
        "_is_direct",
        "_is_finished",
        "_kept",
        "_kept_since",
        "_last_block",
        "_lines",
        "_due",
        "_options",
        "_pid",
        "_pool",
        "_possible_writer",
        "_progress",
        "_progress_since",
        "_seen",
        "_silent_since",
        "_speaks",
        "_start",
        "_take_back",
        "_write",
        "baton",
        "carried",
        "connection",
        "ending",
        "ending_since",
        "handle",
        "has_vanished",
        "is_announced",
        "is_delimited",
        "is_done",
        "is_event_source",
        "is_quick",
        "is_stream",
        "may_open",
        "place",
        "pulls",
        "round",
        "server",
        "wire",
        "writer",
    )  # fmt: skip

    def __init__(
        self,
        request: Request,
        handle: Stream,
        place: Place,
        *,
        options: Options,
        admission: Admission,
        round: Round,
        server: Server,
        kept: Callable[[str], None],
        start: StartThread = lambda name, target: None,  # noqa: ARG005
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.handle, self.place, self.server = handle, place, server
        self.is_event_source, self.is_announced = request.is_event_source, request.is_announced
        self.baton = Baton()
        self.carried = place.carried
        self.wire: Wire | None = None  # None until the response has started
        self.connection: Connection | None = server.connection()
        self.writer: Writer | None = None  # only while it is proven that no layer outside changes what we yield
        self.ending: str | None = None  # the reason for which the stream ends as soon as it may
        self.ending_since = 0.0
        self.is_quick = False  # a small block of whole events leaves without a look
        self.is_delimited = True  # a client can tell a cut from an end
        self.may_open = False  # an EventSource's stream of which nothing has left
        self.is_stream = True  # as far as is known
        self.is_done = False  # the server has let go of it
        self.has_vanished = False  # the server has forgotten it
        self.has_vanished = False  # the server has forgotten it
        self.round = round
        self.pulls = Pulls(options.memory, large=options.max_block, paused=place.paused)
        self._options, self._admission, self._kept, self._start, self._clock = options, admission, kept, start, clock
        self._pid = os.getpid()
        self._is_finished = False
        self._write: Callable[[bytes], object] | None = None  # the server's
        self._possible_writer: Writer | None = None
        self._is_direct: bool | None = None  # whether the server itself iterates us, None before the first look
        self._last_block = b""  # that left, where that is not so
        self._lines = False  # whether lines of ours may go into the body
        self._speaks = False  # whether anything of ours has to be said in time
        self._seen = -1  # the wire's moves when last looked at
        self._silent_since = self._due = 0.0
        self._progress: Progress | None = None
        self._progress_since = 0.0
        self._connection_ended: State = "open"
        self._kept_since: float | None = None
        self._take_back: Callable[[], None] | None = None  # what takes a stand-in back
        self._pool = server.pool()  # like the sign it is found on the server's thread only
        if self.round.sign is None:
            self.round.sign = server.stop_sign()

    # -- the start

    def begin(self, status: str, headers: Headers, write: Callable[[bytes], object]) -> None:
        """Take note of the response once the server has its headers; *headers* are the application's."""
        self._write, self._lines = write, takes_lines_of_ours(status, headers)
        self._speaks = self._lines and self.is_announced and self._options.heartbeat is not None
        possible_writer = self.server.writer(write)
        self.is_delimited = possible_writer is None or possible_writer.is_delimited
        self._possible_writer = possible_writer if self._lines and self.is_announced else None
        # An application that starts its response lazily does so inside the first pull, before which we have looked.
        self.writer, self.is_quick = self._possible_writer if self._is_direct else None, False
        self.may_open = bool(self._lines and self.is_announced and self.is_event_source and self.server.name)
        self._silent_since = self._clock()
        if self.connection is not None:
            self.connection.hold_little()

    def look_outside(self, iterable: object) -> None:
        """See whether the server itself iterates *iterable*, which is ours; if not, whether what it sent is what we yielded.

        To be asked inside ``__next__``, where the server's frame stands above.
        """
        if self._is_direct is None and self.is_announced:
            server = self.server
            self._is_direct = iterates(server.loops, iterable) or (server.iterates_in_c and is_called_from_c())
            self.writer = self._possible_writer if self._is_direct else None
        elif self._needs_proof:
            self.writer = self._possible_writer if has_sent(self.server.loops, self._last_block) else None

    def maybe_opening(self, first: bytes | None) -> bytes | None:
        """Return the opening if it is to leave now, before the *first* block or (None) before that is pulled.

        Where the watcher cannot write it in time, it leaves before the application is asked.
        """
        wire = self.wire
        if wire is None or self.carried.moves or not wire.takes_comment:
            return None
        if first is None:
            is_due = self._speaks and (self.writer is None or not self.server.can_open)
        else:  # a client that was refused before has been told to wait for longer
            is_due = (self._speaks and len(first) >= _LARGE) or self._admission.maybe_usual_retry() is not None
        return wire.note_ours(self._opening()) if is_due else None

    def _opening(self) -> bytes:
        milliseconds = self._admission.maybe_usual_retry() if self.is_event_source else None
        return HEARTBEAT if milliseconds is None else b"retry: %d\n" % milliseconds

    def maybe_heartbeat(self) -> bytes:
        """Return what becomes of a ``b""`` of the application's: a heartbeat if one is due."""
        wire, heartbeat, now = self._wire(), self._options.heartbeat, self._clock()
        if not (self._speaks and self.server.name) or not wire.takes_comment or now - self._silent_since < (heartbeat or 0):
            return b""
        self._silent_since = now
        return wire.note_ours(HEARTBEAT)

    @property
    def _needs_proof(self) -> bool:
        """Whether it has to be seen behind each block what a layer outside did to it."""
        return self._possible_writer is not None and not self._is_direct

    def left(self, block: bytes) -> bytes:
        """Note that *block* leaves, and return it."""
        if self._needs_proof:
            self._last_block = block if len(block) <= QUICK else b""
        return block

    def become_quick(self, *, has_more: bool) -> None:
        """Let the next small block leave without a look if nothing speaks against that."""
        # The watcher sets `ending`, `baton.is_over` and then this to False, again at each tick, so that neither is missed.
        self.is_quick = (
            not (has_more or self._needs_proof or self.ending or self.baton.is_over or not self.is_stream)
            and self._wire().is_quick
        )

    def must_stop(self, _now: float = 0.0) -> bool:
        """Tell whether there is no need to wait for anything any more."""
        return self.ending is not None or self.baton.is_over

    def write(self, block: bytes) -> None:
        """Be what ``start_response`` returned (PEP 3333, "The write() Callable"): cut, count, and wait for the baton."""
        is_given = self.baton.take()
        self.is_quick = False
        try:
            if self.baton.is_over or self._write is None:
                raise StreamOver
            for piece in self._wire().feed(only_bytes(block)):
                self._write(piece)
        finally:
            if is_given:
                self.baton.give()

    def _wire(self) -> Wire:
        assert self.wire is not None
        return self.wire

    # -- the end, on the server's thread

    def ends_now(self) -> bool:
        """Tell whether the stream ends here. Raises `StreamBroken` if its event has been unfinished for too long."""
        now, wire = self._clock(), self.wire
        if self._is_overlooked(now):
            time.sleep(0.001)  # under gevent all other greenlets wait for an application that never does; 0 would run no timer
        if self.ending is None or wire is None:  # nothing has left before the response has started
            return False
        waited = now - self.ending_since
        wire.stops_at_event_end = waited >= LEAVE_WHOLE_FOR
        if self.is_event_source and wire.takes_end:
            return True
        if not self.is_event_source or waited >= FINISH_EVENT_WITHIN[self.ending]:
            self.break_off()
        return False

    def break_off(self) -> NoReturn:
        """End the stream with a cut: what has left is not all."""
        self.cut()
        self.finish(ENDED)
        raise StreamBroken

    @property
    def must_break_off(self) -> bool:
        """Whether an application that ends now may have been told to: a clean end would pass for the whole of an answer."""
        return self.ending is not None and not self.is_event_source

    def _is_overlooked(self, now: float) -> bool:
        """Whether the watcher has not come for long."""
        return now - max(self.round.looked_at, self.place.began) > _LOOKED_AT_WITHIN

    def last_words(self) -> bytes:
        """Return what leaves last: when to reconnect."""
        if self._options.retry is None or not self._lines_may_follow():
            return b""
        return self._wire().note_ours(retry_line(self._admission.next_retry()), is_comment=False)

    def last_words_if_told_to_end(self) -> Iterator[bytes]:
        """Yield the last words of an application that has ended because `closing` or `closed` told it to."""
        if (self.ending is not None or self.round.stopping_since is not None) and self._wire().takes_end:
            words = self.last_words()
            if words:
                yield words

    def _lines_may_follow(self) -> bool:
        return self.is_event_source and self._lines and self._wire().takes_comment

    def finish(self, reason: str, run: Run = run_all) -> None:
        """End the stream for *reason*, unless it has ended, and let go of all that belongs to the request.

        From any thread, twice. *run*: what calls the callbacks; by default this thread does.
        """
        if self._is_finished:
            return
        if os.getpid() != self._pid:  # a forked child has neither the watcher nor the place
            self.baton.is_over = True
            return
        self.baton.end()
        self.is_quick = False
        callbacks = self.handle.end(self.ending or reason)
        if self.wire is None:
            self.place.forget()  # no response has begun: it was no stream, and none has ended
        else:
            self.place.leave()
        self._is_finished = True
        run(callbacks)

    def cut(self) -> None:
        """Have the server cut the response where its end would pass for a whole one. On the server's thread."""
        if self.connection is not None and not self.is_delimited:
            self.connection.close()

    def let_go(self) -> None:
        """Forget the request: the server closes the iterable. From any thread, twice."""
        self.is_done = True
        self._due = 0
        self.baton.end() if os.getpid() == self._pid else None
        connection, self.connection = self.connection, None
        writer, self.writer, self._possible_writer, self._write = self._possible_writer, None, None, None
        drop = getattr(writer, "drop", None)
        if drop is not None:
            drop()
        if connection is not None:
            if self.round.stopping_since is not None:  # gunicorn would wait 2 s for each kept-alive connection
                connection.shutdown(socket.SHUT_RD)
            connection.restore()
        take_back, self._take_back = self._take_back, None
        if take_back is not None:
            take_back()
        self.server, self._last_block = Server({}), b""

    def vanish(self) -> None:
        """End inside a garbage collection a stream that its server has forgotten: no lock is taken, the watcher does the rest."""
        self.baton.is_over = True
        if os.getpid() == self._pid:
            self.has_vanished = True
            self._due = 0
            self.place.vanish()

    def forget(self) -> None:
        """Take the stream for none: the response has turned out to be another one."""
        self.is_stream = False
        self.place.forget()
        self.let_go()

    # -- the watcher

    def serve(self, now: float, run: Run) -> bool:
        """Do what is due; return False once there is nothing more to do. Never waits."""
        if self.is_done:
            return False
        if self.has_vanished:
            run(self.handle.end(CLIENT_GONE))
            self.connection = None  # which may be another client's by now
            self.let_go()
            return False
        connection = self.connection
        if connection is not None and connection.is_closed_by_itself:
            self.notice(run)
        has_moved = self._has_moved(now) or self._silent_since == now  # `is_due` may have seen it in this tick
        if self.handle.reason is not None:
            self._see_whether_kept(now)
        elif self.round.sign is not None and self.wire is not None:  # a view that hangs before its response is killed as bare
            self.round.sign.tell_alive()
        if self.baton.is_over:
            self.is_quick = False
            return True
        self._see_whether_ending(now, run)
        if not has_moved:
            if self.ending is not None:
                self._end_from_outside(now)
            else:
                self._see_silence(now, run)
        self._due = self._next_due(now)
        return True

    def is_due(self, now: float) -> bool:
        """Tell whether there may be something to `serve`: seldom, of a stream that is silent or flows."""
        return self.is_done or self.has_vanished or (self._has_moved(now) and self._due == 0) or now >= self._due

    def _has_moved(self, now: float) -> bool:
        moves = self.carried.quick_blocks + self.carried.blocks_out
        if moves == self._seen:
            return False
        self._seen = moves
        self._silent_since, self.place.sent_at, self._progress, self._kept_since = now, now, None, None
        if self._due:
            self._due = self._next_due(now)
        return True

    def _next_due(self, now: float) -> float:
        """Return when to look again, 0 for at each tick."""
        sign = self.round.sign
        is_pressed = self.ending is not None or self.handle.reason is not None or (sign is not None and sign.must_be_told)
        connection = self.connection  # read once: the server's thread may let go of it
        if is_pressed or (connection is not None and connection.is_closed_by_itself):
            return 0
        heartbeat, deadline = self._options.heartbeat, self._options.send_deadline
        due = now + (_LOOK_EVERY if deadline is None else min(_LOOK_EVERY, deadline / 4))
        if not self.baton.is_free and deadline is not None:
            due = min(due, now + min(1.0, deadline / 4))
        if self._speaks and heartbeat is not None:
            is_opening = self.is_event_source and not self.carried.moves
            due = min(due, max(now, self._silent_since + (min(OPEN_AFTER, heartbeat) if is_opening else heartbeat)))
        return due

    def notice(self, run: Run) -> None:
        """See what happened to the connection. An event is a hint: the stream's own connection object is asked."""
        if not self.baton.hold():
            return
        try:
            state: State = "open" if self.connection is None else self.connection.state()
        finally:
            self.baton.let_go()
        if state in ("open", self._connection_ended):
            return
        self._connection_ended = state
        self._due = 0
        if state == "gone" or self.is_event_source:  # any other client may have half-closed, and still read
            self.baton.is_over = True
            self.is_quick = False
        run(self.handle.end(CLIENT_GONE))

    @property
    def watches_connection(self) -> bool:
        """Whether anything that may happen to the connection is news."""
        return not self.baton.is_over

    def _see_whether_ending(self, now: float, run: Run) -> None:
        stopping_since = self.round.stopping_since
        if self.ending is None and (stopping_since is not None or self.place.must_end):
            if stopping_since is not None:
                self.handle.begin_closing()
            if stopping_since is None or self.is_event_source or self.round.is_grace_over:
                self.ending_since, self.ending = now, DRAIN if stopping_since is not None else MEMORY
                self.is_quick = False  # before an application that is woken yields its next block
                run(self.handle.end(self.ending))
        if self.ending is not None:
            self.is_quick = False

    def _end_from_outside(self, now: float) -> None:
        """End a stream whose application stays silent."""
        wire, waited = self.wire, now - self.ending_since
        if wire is None or waited < WAKE_WITHIN or not self.baton.take_ours():
            return
        try:
            if self.is_event_source and wire.takes_end and self.writer is not None and self.writer.end(self.last_words()):
                self.baton.is_over = True
            elif self.connection is not None and (waited >= FINISH_EVENT_WITHIN[str(self.ending)] or wire.takes_end):
                self._cut_from_outside()  # without a connection it is broken off when the application yields
        except BaseException:
            self._cut_from_outside()
            raise
        finally:
            self.baton.give_ours()

    def _cut_from_outside(self) -> None:
        self.baton.is_over = True
        self.is_quick = False
        if self.connection is None:
            return
        if self.is_event_source or self.is_delimited:
            self.connection.cut()
        else:
            self.connection.reset_on_close()  # a FIN would pass for the end; the server closes, or the process dies

    def _see_silence(self, now: float, run: Run) -> None:
        silence = now - self._silent_since
        if not self.baton.is_free:
            self._see_whether_stuck(now, run)
            return
        heartbeat = self._options.heartbeat
        if self._speaks and heartbeat is not None and self.writer is not None and self.wire is not None:
            is_opening = self.is_event_source and self.server.can_open and not self.wire.carried.moves
            if silence >= (min(OPEN_AFTER, heartbeat) if is_opening else heartbeat):
                self._speak(self._opening() if is_opening else HEARTBEAT, now)
        self._see_whether_stuck(now, run)

    def _speak(self, line: bytes, now: float) -> None:
        if not self.baton.take_ours():
            return
        try:
            wire = self._wire()
            may_speak = wire.takes_comment and (self.server.can_open or bool(self.carried.moves))
            if may_speak and self.writer is not None and self.writer.write(line):
                wire.note_ours(line)
                self._seen, self._silent_since = wire.carried.moves, now
        except BaseException:
            self._cut_from_outside()
            raise
        finally:
            self.baton.give_ours()

    def _see_whether_stuck(self, now: float, run: Run) -> None:
        """Cut the connection of a client that has acknowledged nothing of what waits for it for *send_deadline* seconds."""
        deadline = self._options.send_deadline
        if deadline is None or not self.baton.hold():
            return
        try:
            progress = None if self.connection is None else self.connection.progress()
            if progress is None or not progress.queued:
                self._progress = None
            elif self._progress is None or progress.has_moved_since(self._progress):
                self._progress, self._progress_since = progress, now
            elif now - self._progress_since >= deadline and self.connection is not None:
                run(self.handle.end(SEND_DEADLINE))
                self.baton.is_over = True
                self.connection.cut()
        finally:
            self.baton.let_go()

    def _see_whether_kept(self, now: float) -> None:
        """Lend the server a stand-in for a thread that the application keeps although there is no more to do."""
        if not self.baton.is_free or self._take_back is not None or self.round.stopping_since is not None:
            return
        if self._kept_since is None:
            self._kept_since = now
        elif now - self._kept_since >= _KEPT_AFTER and not self.place.is_kept:
            self._kept(self.handle.path)
            take_back = None if self._pool is None else self._pool.lend(self._start)
            self.place.is_kept = True
            if take_back is not None:
                self._take_back = take_back
                self.place.lend()
                if self.is_done:  # let go of meanwhile
                    take_back()

    def fail(self, run: Run) -> None:
        """End a stream whose service raised an exception."""
        if self.baton.hold():
            try:
                self._cut_from_outside()
            finally:
                self.baton.let_go()
        run(self.handle.end(FAILED))
