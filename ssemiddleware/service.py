"""One event stream as the server's thread and the watcher share it: everything but the application's iterable.

The server's thread uses a `Service` through `EventStream`; what the watcher does with it is in `care`. What may be written, and
the wire's state, is guarded by the baton.
"""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, NoReturn

from .baton import Baton
from .ending import ENDED, LEAVE_WHOLE_FOR, Round, StreamBroken, StreamOver, finish_event_within
from .event_stream import HEARTBEAT, OpaquePosition, retry_line
from .handle import Callback, Stream, run_all
from .memory import Pulls
from .outside import Outside
from .response import Headers, takes_lines_of_ours
from .servers.server import NO_SERVER, Server
from .wire import QUICK, Wire, only_bytes

if TYPE_CHECKING:
    from .admission import Admission, Place
    from .options import Options
    from .request import Request
    from .servers.connection import Connection

_LARGE = 512  # bytes of a first block before which the opening leaves by itself: Caddy then does not compress the stream
_LOOKED_AT_WITHIN = 0.5  # seconds; a watcher that runs comes twice as often

Run = Callable[[list[Callback]], None]


class Service:
    """One stream. For the server's thread, but for `finish` and `let_go`, which are for any; the watcher goes by the baton."""

    __slots__ = (
        "_admission", "_clock", "_holds_little", "_is_finished", "_lines", "_over", "_pid", "_write", "baton", "carried",
        "connection", "ending", "ending_since", "handle", "has_vanished", "is_announced", "is_delimited", "is_done",
        "is_event_source", "is_quick", "is_stream", "may_open", "options", "outside", "place", "pulls", "round", "server",
        "silent_since", "speaks", "take_back", "wire",
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
        self.is_quick = False  # a small block of whole events leaves without a look
        self.is_delimited = True  # a client can tell a cut from an end
        self.may_open = False  # an EventSource's stream of which nothing has left
        self.is_stream = True  # as far as is known
        self.is_done = False  # the server has let go of it
        self.has_vanished = False  # the server has forgotten it
        self._holds_little = False  # the kernel has been told to
        self.round = round
        self.pulls = Pulls(options.memory, large=options.max_block, paused=place.paused)
        self.options, self._admission, self._clock = options, admission, clock
        self._over = over
        self._pid = round.process
        self._is_finished = False
        self._write: Callable[[bytes], object] | None = None  # the server's
        self._lines = False  # whether lines of ours may go into the body
        self.speaks = False  # whether anything of ours has to be said in time
        self.silent_since = 0.0  # since then nothing has left, as far as was seen
        self.take_back: Callable[[], None] | None = None  # what takes a stand-in back
        round.see(server)

    # -- the start

    def begin(self, status: str, headers: Headers, write: Callable[[bytes], object]) -> None:
        """Take note of the response once the server has its headers; *headers* are the application's."""
        self._write, self._lines = write, takes_lines_of_ours(status, headers)
        self.speaks = self._lines and self.is_announced and self.options.heartbeat is not None
        possible_writer = self.server.writer(write)
        self.is_delimited = possible_writer is None or possible_writer.is_delimited
        self.outside.begin(possible_writer if self._lines and self.is_announced else None)
        self.is_quick = False
        self.may_open = bool(self._lines and self.is_announced and self.is_event_source and self.server.name)
        self.silent_since = self._clock()

    def maybe_opening(self, first: bytes | None) -> bytes | None:
        """Return the opening if it is to leave now, before the *first* block or (None) before that is pulled.

        Where the watcher cannot write it in time, it leaves before the application is asked.
        """
        wire = self.wire
        if wire is None or self.carried.moves or not wire.takes_comment:
            return None
        if first is None:
            is_due = self.speaks and (self.outside.writer is None or not self.server.can_open)
        else:  # a client that was refused before has been told to wait for longer
            is_due = (self.speaks and len(first) >= _LARGE) or self._admission.has_refused
        return wire.note_ours(self.opening()) if is_due else None

    def opening(self) -> bytes:
        """Return what a stream begins with, to an EventSource when to reconnect: any worker may have told it a longer time.

        Past a layer that may change it, only if this worker has refused.
        """
        tells_all = self.options.retry is not None and self.outside.writer is not None
        tells = self.is_event_source and (tells_all or self._admission.has_refused)
        return b"retry: %d\n" % self._admission.usual_retry() if tells else HEARTBEAT

    def maybe_heartbeat(self) -> bytes:
        """Return what becomes of a ``b""`` of the application's: a heartbeat if one is due."""
        wire, heartbeat, now = self._wire(), self.options.heartbeat, self._clock()
        if not (self.speaks and self.server.name) or not wire.takes_comment or now - self.silent_since < (heartbeat or 0):
            return b""
        self.silent_since = now
        return wire.note_ours(HEARTBEAT)

    def hold_little(self, size: int) -> None:
        """Have the kernel hold little of a stream that has carried much with the next *size* bytes; a short one is spared."""
        if not self._holds_little and self.carried.bytes_in + self.carried.quick_bytes + size >= QUICK:
            self._holds_little = True
            if self.connection is not None:
                self.connection.hold_little()

    def become_quick(self, *, has_more: bool) -> None:
        """Let the next small block leave without a look if nothing speaks against that."""
        # The watcher sets `ending`, `baton.is_over` and then this to False, again at each tick, so that neither is missed.
        self.is_quick = (
            not (has_more or self.outside.needs_proof or self.ending or self.baton.is_over or not self.is_stream)
            and self._wire().is_quick
        )

    def must_stop(self, _now: float = 0.0) -> bool:
        """Tell whether there is no need to wait for anything any more."""
        return self.ending is not None or self.baton.is_over

    def write(self, block: bytes) -> None:
        """Write a block as ``start_response`` lets an application do (PEP 3333): cut, counted, and once the baton is there."""
        is_given = self.baton.take()
        self.is_quick = False
        try:
            if self.baton.is_over:
                raise StreamOver
            block = only_bytes(block)
            self.hold_little(len(block))
            for piece in self._wire().feed(block):
                self._write_piece(piece)
        finally:
            if is_given:
                self.baton.give()

    def _write_piece(self, piece: bytes) -> None:
        write = self._write
        if self.baton.is_over or write is None:  # asked for each: a close in another thread may come between
            raise StreamOver
        try:
            write(piece)
        except BaseException:  # a part of it may have left, and nothing of ours may go into the middle of it
            self._wire().position = OpaquePosition()
            self.outside.forget()
            raise

    def _wire(self) -> Wire:
        assert self.wire is not None
        return self.wire

    # -- the end, on the server's thread

    def ends_now(self) -> bool:
        """Tell whether the stream ends here. Raises `StreamBroken` if its event has been unfinished for too long."""
        now, wire = self._clock(), self.wire
        if self.is_overlooked(now):
            time.sleep(0.001)  # under gevent all other greenlets wait for an application that never does; 0 would run no timer
        if self.ending is None or wire is None:  # nothing has left before the response has started
            return False
        waited = now - self.ending_since
        wire.stops_at_event_end = waited >= LEAVE_WHOLE_FOR
        if self.is_event_source and wire.takes_end:
            return True
        if not self.is_event_source or waited >= finish_event_within(self.ending):
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
        return self.told_to_end is not None and not self.is_event_source

    @property
    def told_to_end(self) -> str | None:
        """Why the stream has to end, also before the watcher has seen that; None if it need not."""
        return self.ending or self.handle.told_to_end

    def is_overlooked(self, now: float | None = None) -> bool:
        """Tell whether the watcher has not come for long."""
        return (now or self._clock()) - max(self.round.looked_at, self.place.began) > _LOOKED_AT_WITHIN

    def last_words(self) -> bytes:
        """Return what leaves last: when to reconnect."""
        if self.options.retry is None or not self._lines_may_follow():
            return b""
        return self._wire().note_ours(retry_line(self._admission.next_retry()), is_comment=False)

    def last_words_if_told_to_end(self) -> Iterator[bytes]:
        """Yield the last words of an application that has ended because `closing` or `closed` told it to."""
        if (self.told_to_end is not None or self.round.stopping_since is not None) and self._wire().takes_end:
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
        callbacks = self.handle.finish(self.told_to_end or reason)
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
        is_forked = os.getpid() != self._pid  # the connection is the parent's, too, and so is a stand-in
        if not is_forked and self.round.is_stopping:
            self.round.note_close(self.server)
        self.is_done = True
        self._over(self)
        if not is_forked:
            self.baton.end()
        connection, self.connection = self.connection, None
        self._write = None
        self.outside.forget()
        if connection is not None and not is_forked:
            if self.round.stopping_since is not None:  # gunicorn would wait 2 s for each kept-alive connection
                connection.shutdown(socket.SHUT_RD)
            connection.restore()
        take_back, self.take_back = self.take_back, None
        if take_back is not None and not is_forked:
            take_back()
        self.server = NO_SERVER

    def vanish(self) -> None:
        """Note in a garbage collection that the server has forgotten the stream: takes no lock, the watcher does the rest."""
        self.baton.is_over = True
        if os.getpid() == self._pid:
            self.has_vanished = True
            self.place.vanish()

    def forget(self) -> None:
        """Take the stream for none: the response has turned out to be another one."""
        self.is_stream = False
        self.place.forget()
        self.let_go()
