"""One event stream, as the server's thread and the watcher share it: everything but the application's iterable.

The server's thread uses a `Service` through `EventStream`, the watcher through `care`. The baton guards the wire's state and
what may be written.
"""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, NoReturn

from .baton import Baton
from .collecting import collections
from .ending import ENDED, LEAVE_WHOLE_FOR, Round, StreamBroken, StreamOver, finish_event_within
from .event_stream import HEARTBEAT, OpaquePosition, retry_line
from .handle import Callback, Stream, run_all
from .memory import Pulls
from .outside import Outside
from .servers.server import NO_SERVER, Server
from .wire import QUICK, Wire, only_bytes

if TYPE_CHECKING:
    from .admission import Admission, Place
    from .joining import Held
    from .options import Options
    from .request import Request
    from .servers.connection import Connection

# Bytes of a first block before which the opening is sent alone: Caddy 2.6 then does not compress the stream, unless both
# reach it in one piece.
_LARGE = 512
_MIB = 1048576
_FAST = 0.05  # seconds in which a client reads a MiB, if the kernel may hold more for it
_LOOKED_AT_WITHIN = 0.5  # seconds; a watcher that runs comes twice as often

Run = Callable[[list[Callback]], None]


class Service:
    """One stream. For the server's thread; any may call `finish` and `let_go`. The watcher needs the baton for the rest."""

    __slots__ = (
        "_admission", "_held_at", "_hold_at", "_is_finished", "_may_open", "_over", "_pid", "_write", "baton", "carried",
        "clock", "connection", "ending", "ending_since", "handle", "held", "is_abandoned", "is_announced", "is_delimited",
        "is_done", "is_event_source", "is_quick", "is_stream", "is_waiting_for_first", "look_at", "on_first", "options",
        "outside", "place", "pulls", "round", "server", "silent_since", "speaks", "take_back", "wire",
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
        over: Callable[[Service], object] = lambda service: None,  # noqa: ARG005
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.handle, self.place, self.server = handle, place, server
        self.is_event_source, self.is_announced = request.is_event_source, request.is_announced
        self.baton = Baton(round.process)
        self.carried = place.carried
        self.wire: Wire | None = None  # None until the response has started
        self.connection: Connection | None = server.connection()
        self.outside = Outside(server)
        self.ending: str | None = None  # the reason for which the stream ends as soon as it may
        self.ending_since = 0.0
        self.is_quick = False  # a small block of whole events is sent without checks
        self.is_delimited = True  # a client can tell a cut from an end
        self.is_waiting_for_first = False  # no byte of the application has been sent, and somebody wants to know when it is
        self._may_open = False  # an EventSource's stream
        self.on_first: Callable[[], object] | None = None  # called when the application's first bytes are sent; returns at once
        self.is_stream = True  # as far as is known now
        self.is_done = False  # the server has closed it
        self.is_abandoned = False  # the server has dropped it
        self._hold_at = QUICK  # bytes; when it has carried so many, the kernel is asked to hold little of it
        self._held_at = 0.0  # when that was done last
        self.look_at = QUICK  # bytes in small blocks, after which the end is checked
        self.round = round
        self.pulls = Pulls(options.memory, large=options.max_block, path=handle.path, kept=round.kept, paused=place.paused)
        self.options, self._admission, self.clock = options, admission, clock
        self._over = over
        self._pid = round.process
        self._is_finished = False
        self._write: Callable[[bytes], object] | None = None  # the server's
        self.speaks = False  # whether openings or heartbeats are to be sent
        self.silent_since = 0.0  # nothing has been sent since then, as far as is known
        self.take_back: Callable[[], None] | None = None  # what takes a stand-in back
        self.held: Held | None = None  # what has come and waits to be sent in one write: see `joining`
        if not round.is_served:
            round.see(server)

    # -- the start

    def begin(self, write: Callable[[bytes], object]) -> None:
        """Take note of the response once the server has its headers, and we have its wire."""
        wire, server = self._wire(), self.server
        self._write = write
        takes_lines = wire.takes_lines and self.is_announced
        self.speaks = takes_lines and self.options.heartbeat is not None
        possible_writer = server.writer(write, wire.encoding)
        self.is_delimited = (possible_writer or server).is_delimited
        self.outside.begin(possible_writer if takes_lines else None)
        self.is_quick = False
        self._may_open = takes_lines and self.is_event_source and server.name != ""
        self.is_waiting_for_first = self._may_open or self.on_first is not None
        self.silent_since = self.clock()

    def observe_first(self, observe: Callable[[], object]) -> None:
        """Have *observe*, which returns at once, called when the application's first bytes are sent."""
        self.on_first, self.is_waiting_for_first = observe, True

    def see_first(self) -> None:
        """Note that the application's first bytes are sent."""
        self.is_waiting_for_first = False
        if self.on_first is not None:
            self.on_first()

    def maybe_opening(self, first: bytes | None) -> bytes | None:
        """Return the opening if it is to be sent now, before the *first* block, or (None) before that block is pulled.

        Where the watcher cannot write the opening, it is sent before the application is asked for a block.
        """
        if first is not None:
            self.see_first()
        if not self._may_open:
            return None
        if first is None:
            is_due = self.speaks and (self.outside.writer is None or not self.server.can_open)
        else:  # a client that was refused before has a longer time to reconnect
            is_due = (self.speaks and len(first) >= _LARGE) or self._admission.has_refused
        wire = self.wire
        if not is_due or wire is None or self.carried.moves or not wire.takes_comment:
            return None
        return wire.note_ours(self.opening())

    def opening(self) -> bytes:
        """Return a stream's first line. For an EventSource it is a ``retry:``: any worker may have sent it a longer time.

        Where a layer outside may change the line, only if this worker has refused requests.
        """
        sends_always = self.options.retry is not None and self.outside.writer is not None
        sends_retry = self.is_event_source and (sends_always or self._admission.has_refused)
        return b"retry: %d\n" % self._admission.usual_retry() if sends_retry else HEARTBEAT

    def maybe_heartbeat(self) -> bytes:
        """Return what is sent for a ``b""`` of the application: a heartbeat if one is due."""
        wire, heartbeat, now = self._wire(), self.options.heartbeat, self.clock()
        if not (self.speaks and self.server.name) or not wire.takes_comment or now - self.silent_since < (heartbeat or 0):
            return b""
        self.silent_since = now
        return wire.note_ours(HEARTBEAT)

    def hold_little(self, size: int) -> None:
        """Make the kernel hold little of a stream that has carried much, *size* bytes included. Short streams skip it."""
        carried = self.carried.bytes_in + self.carried.quick_bytes + size
        if carried >= self._hold_at:
            self._hold_little(carried)

    def _hold_little(self, carried: int) -> None:
        now = self.clock()
        is_fast = now - self._held_at < _FAST
        self._held_at, self._hold_at = now, carried + _MIB
        connection = self.connection  # read once: another thread may close the stream
        if connection is not None:
            connection.hold_little(is_fast=is_fast)

    def has_looked(self, size: int) -> bool:
        """Check the end after many small blocks, or a larger one, of *size* bytes. Return False if there is more to do."""
        if size > self._wire().quick_size or self.is_overlooked():
            return False
        self.hold_little(size)
        self.look_at = self.carried.quick_bytes + size + QUICK
        return True

    def become_quick(self, *, may: bool) -> None:
        """Let the next small block be sent without checks, if the wire *may*, and no other check is needed."""
        # The watcher sets `ending`, `baton.is_over` and then this to False, again at each tick, so that both are seen.
        self.is_quick = may and self.goes_on and not self.outside.needs_proof

    @property
    def goes_on(self) -> bool:
        """Whether it is a stream, as far as is known, and nothing ends it."""
        return self.is_stream and not self.must_stop()

    def must_stop(self, _now: float = 0.0) -> bool:
        """Tell whether a wait should end now."""
        return self.ending is not None or self.baton.is_over

    def write(self, block: bytes) -> None:
        """Write a block for an application that uses ``write()`` (PEP 3333): cut and counted. Waits for the baton."""
        is_given = self.baton.take()
        self.is_quick = False
        try:
            if self.baton.is_over:
                raise StreamOver
            block = only_bytes(block)
            self.hold_little(len(block))
            if self.held is not None:
                self.write_held()
            if block and self.is_waiting_for_first:
                self.see_first()
            pieces = self._wire().feed(block)
            self._write_piece(next(pieces, b""))  # also if it is empty: it makes the server send the headers
            for piece in pieces:
                self._write_piece(piece)
        finally:
            if is_given:
                self.baton.give()

    def write_held(self) -> None:
        """Write what is held, if anything is. On the server's thread, with the baton."""
        held = self.held.take() if self.held is not None else b""
        if held and not self.baton.is_over:
            self._write_piece(held)

    def _write_piece(self, piece: bytes) -> None:
        write = self._write
        if self.baton.is_over or write is None:  # asked for each piece: another thread may close the stream in between
            raise StreamOver
        try:
            write(piece)
        except BaseException:  # part of it may have been sent, and nothing of ours may follow in the middle of it
            self._wire().position = OpaquePosition()
            self.outside.drop()
            raise

    def _wire(self) -> Wire:
        assert self.wire is not None
        return self.wire

    # -- the end, on the server's thread

    def ends_now(self) -> bool:
        """Tell whether the stream ends here. Raises `StreamBroken` if its event has been unfinished for too long."""
        now, wire = self.clock(), self.wire
        if self.is_overlooked(now):
            time.sleep(0.001)  # under gevent, an application that never waits blocks all other greenlets; 0 would run no timer
        if self.ending is None or wire is None:  # nothing has been sent before the response has started
            return False
        waited = now - self.ending_since
        wire.stops_at_event_end = waited >= LEAVE_WHOLE_FOR
        if self.is_event_source and wire.takes_end:
            return True
        if not self.is_event_source or waited >= finish_event_within(self.ending):
            self.break_off()
        return False

    def break_off(self) -> NoReturn:
        """End the stream with a cut, because not all of it has been sent."""
        self.cut()
        self.finish(ENDED)
        raise StreamBroken

    def maybe_break_off(self) -> None:
        """End the stream with a cut if the application may end because it was asked to, and a clean end looks like a whole."""
        if self.requested_end is not None and not self.is_event_source:
            self.break_off()

    @property
    def must_end(self) -> bool:
        """Whether the stream has to end by now, or its process."""
        return self.requested_end is not None or self.round.stopping_since is not None

    @property
    def requested_end(self) -> str | None:
        """Why the stream has to end, even if the watcher has not noticed it yet; None if it need not end."""
        return self.ending or self.handle.requested_end

    def is_overlooked(self, now: float | None = None) -> bool:
        """Tell whether the watcher is late."""
        since = (now or self.clock()) - _LOOKED_AT_WITHIN
        return self.round.looked_at < since and self.place.began < since

    def final_bytes(self) -> bytes:
        """Return what is sent last: when to reconnect, and what ends an encoded body."""
        wire = self._wire()
        sends_retry = self.options.retry is not None and self.is_event_source and wire.takes_lines and wire.takes_comment
        return wire.end(retry_line(self._admission.next_retry()) if sends_retry else b"")

    def end_of_body(self) -> Iterator[bytes]:
        """Yield what is sent last after the application has ended: when to reconnect, if it had to end."""
        last = self.final_bytes() if self.must_end and self._wire().takes_end else self._wire().end()
        if last:
            yield last

    def finish(self, reason: str, run: Run = run_all) -> None:
        """End the stream for *reason*, unless it has ended, and drop all references to the request.

        Callable from any thread, and twice. *run*: calls the callbacks; by default this thread calls them.
        """
        if self._is_finished:
            return
        if os.getpid() != self._pid:  # a forked child has neither the watcher nor the place
            self.baton.is_over = True
            return
        self.baton.end()
        self.is_quick = False
        callbacks = self.handle.finish(self.requested_end or reason)
        if self.wire is None:
            self.place.cancel()  # no response has begun, so no stream has ended
        else:
            self.place.release()
            self.wire.close()
        self._is_finished = True
        if callbacks:
            run(callbacks)

    def cut(self) -> None:
        """Make the server cut the response where its end would look like that of a whole one. On the server's thread."""
        if self.connection is not None and not self.is_delimited:
            self.connection.close()

    def let_go(self) -> None:
        """Drop all references to the request: the server closes the iterable. Callable from any thread, and twice."""
        is_forked = os.getpid() != self._pid  # the connection and a stand-in belong to the parent process
        if not is_forked and self.round.is_stopping:
            self.round.note_close(self.server)
        self.is_done = True
        if not collections.is_ours:  # else the watcher looks once more, and does what could not be done inside the collection
            self._over(self)
        if not is_forked:
            self.pulls.close()
            self.baton.end()
        connection, self.connection = self.connection, None
        self._write = self.held = None
        self.outside.drop()
        if connection is not None and not is_forked:
            # gunicorn would wait 2 s for each kept-alive connection. A server that closes by itself would cut what comes last.
            if self.round.stopping_since is not None and not connection.is_closed_by_itself:
                connection.shutdown(socket.SHUT_RD)
            connection.restore()
        take_back, self.take_back = self.take_back, None
        if take_back is not None and not is_forked:
            take_back()
        self.server = NO_SERVER

    def abandon(self) -> None:
        """Note in a garbage collection that the server has dropped the stream. Takes no lock; the watcher does the rest."""
        self.baton.is_over = True
        if os.getpid() == self._pid:
            self.is_abandoned = True
            self.place.abandon()
            self.pulls.close()

    def cancel(self) -> None:
        """Note that the response has turned out not to be an event stream."""
        self.is_stream = self.is_quick = False
        self.place.cancel()
        self.let_go()
