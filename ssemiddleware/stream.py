"""An event stream in flight: the application's handle on it, why and how it ends, and the iterable of an announced one.

An `AnnouncedStream` takes blocks from a `Relay` and waits with a clock. Its sibling for other requests is in `inline`; both
end by the same rules, in `Ending`.
"""

from __future__ import annotations

import errno
import math
import threading
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Protocol

from .event_stream import BOM, HEARTBEAT, Position, count_event_ends, pieces_of, retry_line
from .oversized import OversizedEvents
from .relay import Relay

if TYPE_CHECKING:
    from .admission import Place

# Reasons for which a stream ends.
ENDED, RAISED, CLIENT_GONE, SEND_DEADLINE = "application ended", "application raised", "client gone", "send deadline"
DRAIN, SHED = "drain", "shed"
REASONS = (ENDED, RAISED, CLIENT_GONE, SEND_DEADLINE, DRAIN, SHED)

_LOOK_EVERY = 0.5  # seconds between two looks at the client and at the worker: both are noticed within a second
_LOOK_AT_END_EVERY = 0.05  # the same, while a stream that has to end waits for the end of its event
_FINISH_EVENT_WITHIN = {DRAIN: 0.3, SHED: 2.0}  # seconds that an event may take to end: a process that is going has few
_END_AT_ONCE_AFTER = 0.2  # seconds in which blocks that wait already still leave; then the first event's end is the last


class Client(Protocol):
    """The client's connection, as `ssemiddleware.servers` finds it."""

    def is_gone(self) -> bool:
        """Tell whether the client has left."""

    def limit_sending(self, seconds: float | None) -> bool:
        """Have the connection aborted once its client has taken nothing for so long; return whether that will be."""

    def stop_reading(self) -> None:
        """Let the server close the connection without waiting for the client."""


class Stream:
    """What an application finds in ``environ["ssemiddleware.stream"]``: a handle on the stream that it is asked for.

    Any thread may use it. Instead of ``time.sleep(1)``, wait with ``stream.closed.wait(1)``: it returns True as soon as the
    stream has ended, so that the application can stop at once.
    """

    __slots__ = ("__dict__", "_last_event_id", "is_answered", "reason")

    def __init__(self, last_event_id: str = "") -> None:
        self._last_event_id = last_event_id
        self.is_answered = False  # the application's call is over
        self.reason: str | None = None  # why the stream ended; None as long as it goes on

    @property
    def closed(self) -> threading.Event:
        """Set when the stream has ended, for whatever `reason`."""
        # Made when asked for: every request has a Stream, few use it. No lock: the garbage collector may end another one here.
        closed: threading.Event = vars(self).setdefault("closed", threading.Event())
        if self.reason is not None:  # end() sets it before it looks for the event: one of us sees
            closed.set()
        return closed

    @property
    def last_event_id(self) -> str:
        """The ``Last-Event-ID`` of a client that comes back, ``""`` without one: UTF-8, as WHATWG 9.2.4 has it."""
        return self._last_event_id.encode("latin-1").decode(errors="replace")

    def end(self, reason: str) -> None:
        """Say that the stream has ended; the first reason stays."""
        self.reason = self.reason or reason
        closed = vars(self).get("closed")
        if closed is not None:
            closed.set()


class StreamBroken(ConnectionAbortedError):
    """Raised to the server to cut a response whose last event cannot be finished: a clean end would pass for a whole one."""

    def __init__(self) -> None:
        # Servers log EPIPE as a connection that is gone, not as an error of the application.
        super().__init__(errno.EPIPE, "the event stream had to end inside an event")


class Ending:
    """When a stream has to end although the application goes on, and what may still leave.

    Looks at the client and at *must_end*, each half a second. Once that names a reason (`DRAIN`, `SHED`), blocks that wait
    already still leave, and an event that is not finished gets a moment; then come a ``retry:`` for an EventSource, and a clean
    end. *next_retry*: gives its milliseconds, None for a client that is no EventSource. For the server's thread only.
    """

    __slots__ = (  # a process may have thousands
        "_client", "_is_sending_limited", "_must_end", "_near_since", "_next_retry", "_reason", "client_is_gone", "next_look",
        "stream",
    )  # fmt: skip

    def __init__(
        self,
        stream: Stream,
        *,
        client: Client | None,
        must_end: Callable[[float], str | None],
        next_retry: Callable[[], int] | None,
    ) -> None:
        self.stream = stream
        self.client_is_gone = False
        self.next_look = 0.0
        self._client = client
        self._must_end = must_end
        self._next_retry = next_retry
        self._near_since = math.inf
        self._reason: str | None = None  # for which the stream ends as soon as it may
        self._is_sending_limited = False

    def limit_sending(self, seconds: float | None) -> bool:
        """Limit how long the client may take for a block; return False where the server's connection does not allow that."""
        self._is_sending_limited = self._client is not None and self._client.limit_sending(seconds)
        return self._is_sending_limited

    def leave_connection(self) -> None:
        """Leave the connection as it was: the server may keep it for other requests."""
        if self._client is not None and self._is_sending_limited:
            self._client.limit_sending(None)

    @property
    def is_near(self) -> bool:
        """Whether the stream ends as soon as it may."""
        return self._reason is not None

    def look(self, now: float) -> None:
        """Look at the client and at the worker if that is due."""
        if now < self.next_look:
            return
        self.next_look = now + (_LOOK_AT_END_EVERY if self.is_near else _LOOK_EVERY)
        if self._client is not None and self._client.is_gone():
            self.client_is_gone = True
            self.stream.end(CLIENT_GONE)
        elif self._reason is None:
            self._reason = self._must_end(now)
            if self._reason is not None:
                self._near_since = self.next_look = now

    def maybe_last_block(self, position: Position, now: float, *, more_waits: bool, is_inside: bool = False) -> bytes | None:
        """Return what leaves last (maybe nothing) if the stream may end here, None if it has to go on.

        Raises `StreamBroken` if an event has been unfinished for too long.
        """
        assert self._reason is not None
        waited = now - self._near_since
        is_late = waited >= _FINISH_EVENT_WITHIN[self._reason]
        if position.takes_end and (is_late if is_inside else (waited >= _END_AT_ONCE_AFTER or not more_waits)):
            self.stream.end(self._reason)
            return b"" if self._next_retry is None else retry_line(self._next_retry())
        if is_late:
            self.stream.end(self._reason)
            if self._client is not None:
                self._client.stop_reading()
            raise StreamBroken
        return None

    def up_to_last_event(self, block: bytes, position: Position, now: float) -> bytes:
        """Return what of *block* may leave: all in the first moment, then only the end of the unfinished event."""
        end = position.event_end(block) if now - self._near_since >= _END_AT_ONCE_AFTER else -1
        return block if end < 0 else block[:end]


class AnnouncedStream:
    """What the server iterates for an announced event stream: opening, joined blocks, heartbeats, and the end.

    *place*: among the open streams; what is carried is counted there, and it is given back at the end. *heartbeat*: seconds of
    silence, None for neither opening nor heartbeats. *retry*: milliseconds that the client is told at the start, where it may
    know a longer time from when it was sent away; None where that need not be. *send_deadline*: seconds that the server may
    take for one block, None for any number. *oversized*: what is done to the blocks on their way, None for nothing.
    *has_body*: False for HEAD. For the server's thread; `close` may be called by any, and twice.
    """

    __slots__ = (  # a process may have thousands
        "_asked_at", "_carried", "_clock", "_ending", "_head", "_heartbeat", "_is_over", "_opens", "_oversized", "_pieces",
        "_place", "_position", "_relay", "_retry", "_send_deadline",
    )  # fmt: skip

    def __init__(
        self,
        relay: Relay,
        ending: Ending,
        position: Position,
        *,
        place: Place,
        heartbeat: float | None,
        retry: int | None = None,
        send_deadline: float | None = None,
        oversized: OversizedEvents | None = None,
        has_body: bool = True,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._relay = relay
        self._ending = ending
        self._position = position
        self._place = place
        self._carried = place.carried
        self._clock = clock
        self._send_deadline = math.inf if send_deadline is None else send_deadline
        self._asked_at = math.inf  # when the server last waited for a block, or got one
        if send_deadline is not None and not ending.limit_sending(send_deadline):
            relay.blocks.send_deadline = send_deadline
        self._oversized = oversized
        self._pieces: Iterator[bytes] | None = None  # of a block that is leaving
        self._is_over = False
        if not has_body:  # HEAD: the headers are the answer, however long the stream would go on
            self._end(ENDED)
        self._heartbeat = heartbeat if position.takes_comment else None
        self._opens = self._heartbeat is not None
        self._retry = retry if position.takes_comment else None
        has_head = self._opens or self._retry is not None
        self._head: bytes | None = b"" if has_head else None  # the start of the stream, as long as it may be a BOM

    def __iter__(self) -> Iterator[bytes]:
        return self

    def __next__(self) -> bytes:
        if self._is_over:
            raise StopIteration
        if self._opens:
            self._opens = False
            return self._comment()
        if self._retry is not None:
            return self._usual_retry(self._retry)
        try:
            block = self._maybe_next_block()
        except BaseException:
            self._end(RAISED)
            raise
        if block is None:
            self._end(ENDED)
            raise StopIteration
        return block

    def close(self) -> None:
        """End the stream, whatever the server's reason is; the application is closed as soon as it lets that happen."""
        self._end(SEND_DEADLINE if self._clock() - self._asked_at >= self._send_deadline else CLIENT_GONE)
        self._ending.leave_connection()
        self._relay.close()

    def __del__(self) -> None:  # a server that forgets close() must leave neither a thread nor a place behind
        self._relay.stop()
        self._place.vanish()

    def _end(self, reason: str) -> None:
        self._is_over = True
        self._ending.stream.end(reason)
        self._relay.stop()
        self._place.leave()

    def _comment(self) -> bytes:
        self._carried.heartbeats += 1
        self._carried.count_out(HEARTBEAT)
        return HEARTBEAT

    def _usual_retry(self, milliseconds: int) -> bytes:
        self._retry = None
        line = b"retry: %d\n" % milliseconds  # without a blank line: an event without data, which some readers dispatch
        self._carried.count_out(line)
        return line

    def _maybe_next_block(self) -> bytes | None:
        blocks, ending, position = self._relay.blocks, self._ending, self._position
        now = self._asked_at = self._clock()
        heartbeat_at = now + self._heartbeat if self._heartbeat is not None and position.takes_comment else None
        while True:
            ending.look(now)
            if ending.client_is_gone:
                return None
            is_finished = blocks.is_finished  # before the look at what waits: the last block comes before the end
            more_waits = not blocks.is_empty or self._pieces is not None
            if ending.is_near and (more_waits or not is_finished):
                is_inside = self._oversized is not None and self._oversized.is_inside
                last = ending.maybe_last_block(position, now, more_waits=more_waits, is_inside=is_inside)
                if last is not None:
                    if last:
                        self._carried.count_out(last)
                    self._end(ENDED)  # or for the reason that it has already
                    return last or None
            block = self._next_block()
            if block:
                return self._pass_on(block, now)
            if blocks.has_missed_deadline:
                self._end(SEND_DEADLINE)
                if position.takes_end:
                    return None
                raise StreamBroken
            if is_finished and blocks.is_empty:
                rest = self._maybe_rest()
                return None if rest is None else self._pass_on(rest, now)
            if heartbeat_at is not None and now >= heartbeat_at:
                return self._comment()
            blocks.wait(min(ending.next_look, heartbeat_at or ending.next_look) - now)
            now = self._asked_at = self._clock()

    def _next_block(self) -> bytes:
        """Return a block that may leave now; ``b""`` without one."""
        blocks = self._relay.blocks
        while True:
            if self._pieces is not None:
                for piece in self._pieces:
                    blocks.count_as_sent(len(piece))
                    return piece
                self._pieces = None
            events = blocks.events_taken
            block = self._without_bom(blocks.take() if self._oversized is None else blocks.take_whole())
            if not block or self._oversized is None or self._passes(self._oversized, block):
                self._carried.events_out += blocks.events_taken - events
                return block
            self._pieces = self._cut(self._oversized.feed(block))

    def _passes(self, oversized: OversizedEvents, block: bytes) -> bool:
        return len(block) <= self._relay.blocks.max_block and oversized.passes(block)

    def _cut(self, reshaped: Iterator[bytes]) -> Iterator[bytes]:
        for block in reshaped:
            self._carried.events_out += count_event_ends(block)
            yield from pieces_of(block, self._relay.blocks.max_block)

    def _pass_on(self, block: bytes, now: float) -> bytes:
        if self._ending.is_near:
            block = self._ending.up_to_last_event(block, self._position, now)
        self._position.advance(block)
        self._place.sent_at = now
        self._carried.count_out(block)
        return block

    def _without_bom(self, block: bytes) -> bytes:
        """Drop a byte order mark that our opening stands before: only a stream's first character is one (9.2.5)."""
        if self._head is None or not block:
            return block
        self._head += block
        if len(self._head) < len(BOM) and BOM.startswith(self._head):
            return b""
        head, self._head = self._head, None
        return head.removeprefix(BOM)

    def _maybe_rest(self) -> bytes | None:
        """Return the first block of what was held back and comes no more to its end, None without any."""
        self._relay.raise_error()
        rest, self._head = self._head or b"", None
        if self._oversized is not None:
            rest += b"".join(self._oversized.finish())
            self._oversized = None
        if not rest:
            return None
        self._pieces = self._cut(iter((rest,)))
        return next(self._pieces)


class RelayedResponse:
    """What the server iterates for an announced request that got no event stream: its blocks, unchanged."""

    def __init__(self, relay: Relay, stream: Stream) -> None:
        self._relay = relay
        self._stream = stream

    def __iter__(self) -> Iterator[bytes]:
        return self

    def __next__(self) -> bytes:
        blocks = self._relay.blocks
        while True:
            is_finished = blocks.is_finished
            block = blocks.take_unchanged()
            if block is not None:
                return block
            if is_finished or blocks.is_closed:
                break
            blocks.wait(_LOOK_EVERY)
        try:
            self._relay.raise_error()
        except BaseException:
            self._stream.end(RAISED)
            raise
        self._stream.end(ENDED)
        raise StopIteration

    def close(self) -> None:
        """End the request; the application is closed as soon as it lets that happen."""
        self._stream.end(CLIENT_GONE)
        self._relay.close()

    def __del__(self) -> None:  # a server that forgets close() must not leave a thread behind
        self._relay.stop()
