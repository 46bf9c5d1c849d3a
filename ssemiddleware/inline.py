"""What happens to a request that nobody announced: it runs on the server's own thread, and only an event stream is touched.

The application gets an `InlineStart` as its ``start_response``, which amends the headers of an event stream; the server gets
an `InlineStream` in place of an iterable that is an event stream, or may turn out to be one.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Iterable, Iterator
from itertools import chain
from typing import TYPE_CHECKING, Any, NamedTuple

from .event_stream import BOM, HEARTBEAT, OpaquePosition, Position, count_event_ends, pieces_of
from .hand_off import only_bytes
from .headers import Headers, is_event_stream
from .memory import wait_for_memory
from .oversized import LONG_LINE, OversizedEvents
from .stream import CLIENT_GONE, ENDED, RAISED, SHED, Ending, Stream

if TYPE_CHECKING:
    from _typeshed import OptExcInfo
    from _typeshed.wsgi import StartResponse

    from .admission import Place
    from .memory import Turn, Turns

_LOOK_UP_EVERY = 0.1  # seconds between two looks at client, worker and memory, while blocks come
# A look at the clock is the dearest thing here. Blocks that follow each other so fast (seconds for four) are not looked at
# one by one: the clock is read for each fourth.
_FAST = 0.002
_UNSEEN = 3

_LF = 0x0A
_END: Any = object()


class Begun(NamedTuple):
    """What there is to know of an event stream when its headers are: they are amended."""

    place: Place
    headers: Headers
    position: Position
    oversized: OversizedEvents | None


class InlineStart:
    """The ``start_response`` of an inline request: passes everything on, the headers of an event stream amended.

    *begin*: given the status, the headers and the place that an event stream has already, gives what there is to know of it, or
    None if it gets no place: then nothing is passed on, and the request is to be sent away.
    """

    __slots__ = (
        "_begin", "_max_block", "_start_response", "is_event_stream", "is_shed", "oversized", "place", "position",
    )  # fmt: skip

    def __init__(
        self,
        start_response: StartResponse,
        begin: Callable[[str, Headers, Place | None], Begun | None],
        max_block: int,
    ) -> None:
        self._start_response = start_response
        self._begin = begin
        self._max_block = max_block
        self.is_event_stream: bool | None = None  # None until the application has called
        self.is_shed = False
        self.place: Place | None = None
        self.position: Position | None = None
        self.oversized: OversizedEvents | None = None  # what is done to the blocks on their way

    def __call__(self, status: str, headers: Headers, exc_info: OptExcInfo | None = None, /) -> Callable[[bytes], object]:
        """Start the response, as PEP 3333 has it."""
        streams_events = is_event_stream(headers)
        self.is_shed = False
        if streams_events:
            begun = self._begin(status, headers, self.place)
            if begun is None:
                self.is_shed = True
                return lambda _block: None
            self.place, headers, self.position, self.oversized = begun
        write = self._start_response(status, headers) if exc_info is None else self._start_response(status, headers, exc_info)
        self.is_event_stream = streams_events
        if not streams_events and self.place is not None:
            self.place.forget()
            self.place = None
        return self._cutting(write) if streams_events else write

    def leave(self) -> None:
        """Give the place back, if there is one. Safe twice."""
        if self.place is not None:
            self.place.leave()

    def _cutting(self, write: Callable[[bytes], object]) -> Callable[[bytes], object]:
        assert self.place is not None
        assert self.position is not None
        carried, position = self.place.carried, self.position

        def write_cut(block: bytes) -> None:
            block = only_bytes(block)
            carried.count_in(block)
            for reshaped in self.reshape(block) if block else ():
                carried.events_out += count_event_ends(reshaped)
                position.advance(reshaped)
                for piece in pieces_of(reshaped, self._max_block):
                    write(piece)
                    carried.count_out(piece)

        return write_cut

    def reshape(self, block: bytes) -> Iterable[bytes]:
        """Return what may leave now that *block* has come, maybe nothing."""
        return (block,) if self.oversized is None else self.oversized.feed(block)

    def reshape_rest(self) -> Iterable[bytes]:
        """Return what was held back and comes no more to its end."""
        return () if self.oversized is None else self.oversized.finish()


class InlineStream:
    """An iterable for the server in place of *iterable*; whether it is an event stream is known with its first block.

    *begin* gives the `Ending` of the stream, and is called once it is known to be one; *send_away* answers in place of one
    that gets no place. *heartbeat*: seconds after which a ``b""`` from the application becomes a heartbeat. *next_pause*:
    seconds to wait before the next pull. *turns*: whose turn it is to make a large block. *has_body*: False for HEAD, which an
    endless stream must not keep waiting. For the server's thread.
    """

    def __init__(
        self,
        iterable: Iterable[bytes],
        start: InlineStart,
        stream: Stream,
        begin: Callable[[], Ending],
        send_away: Callable[[], Iterable[bytes]],
        *,
        max_block: int,
        heartbeat: float | None,
        next_pause: Callable[[], float] | None,
        turns: Turns | None = None,
        has_body: bool,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], object] | None = None,
    ) -> None:
        self._iterable = iterable
        self._start = start
        self._stream = stream
        self.begin = begin
        self._send_away = send_away
        self.max_block = max_block
        self.heartbeat = heartbeat
        self._next_pause = next_pause
        self._turns = turns
        self._turn: Turn | None = None  # held while a large block is made, or the first one
        self._earlier_turn: Turn | None = None  # the one before
        self._has_body = has_body
        self.clock = clock
        self._sleep = sleep or time.sleep  # looked up late: greenlets have another one
        self._is_closed = False
        self._is_left_by_server = False  # which has said so; otherwise a garbage collection may be what ends the generator
        self.ending: Ending | None = None  # of what turned out to be an event stream
        self._blocks = self._run()

    def __iter__(self) -> Iterator[bytes]:
        return self._blocks

    def close(self) -> None:
        """Close the application's iterable, once."""
        self._is_left_by_server = True
        try:
            self._blocks.close()
        finally:
            self.close_application()

    def close_application(self) -> None:
        """Close the application's iterable, if that has not happened."""
        if self._is_closed:
            return
        self._is_closed = True
        self._stream.end(CLIENT_GONE)
        self._start.leave()
        if self.ending is not None:
            self.ending.leave_connection()
        if hasattr(self._iterable, "close"):
            self._iterable.close()

    def __del__(self) -> None:  # a server that neither iterates nor closes must not leave a place behind
        if self._start.place is not None:
            self._start.place.vanish()

    @property
    def position(self) -> Position:
        """Where the stream stands at its start."""
        assert self._start.position is not None
        return self._start.position

    @property
    def place(self) -> Place:
        """The stream's place among those that are open."""
        assert self._start.place is not None
        return self._start.place

    def pause_for_memory(self, last: int | None) -> bool:
        """Wait before the next pull if memory is short; return whether what comes is to be looked at.

        *last*: bytes of the block before, None without one.
        """
        if not self._maybe_pause() and self._has_turn(last):
            return self._turn is not None
        self.place.carried.pauses += 1
        self.place.carried.paused_seconds += wait_for_memory(
            self._maybe_pause,
            lambda waited: self._has_turn(last, waited),
            is_over=self._must_end,
            sleep=self._sleep,
            clock=self.clock,
        )
        return True

    def _must_end(self, now: float) -> bool:
        ending = self.ending = self.ending or self.begin()
        ending.look(now)
        return ending.client_is_gone or ending.is_near

    def _maybe_pause(self) -> float:
        return 0.0 if self._next_pause is None else self._next_pause()

    def _has_turn(self, last: int | None, waited: float = 0.0) -> bool:
        """Take a turn if the next block may be large: the first, or behind a large one. Return False if none is to be had."""
        if self._turns is None or (last is not None and last <= self.max_block):
            return True
        self._turn = self._turns.maybe_begin(last or 0, waited, self._earlier_turn)
        return self._turn is not None

    def end_turn(self, size: int) -> None:
        """Say that a block of *size* bytes has come, 0 for the end."""
        if self._turn is not None and self._turns is not None:
            self._turns.end(self._turn, size)
            self._earlier_turn, self._turn = self._turn, None

    def _run(self) -> Generator[bytes, None, None]:
        # One generator and no call for a block that follows closely: this loop is what a small event costs.
        start = self._start
        passed = run = unseen = size = 0  # bytes and blocks that have left without a look; `run`: blocks that may, in a row
        blocks_passed, last = 0, b""
        try:
            if start.is_event_stream and (yield from self._ends_before_its_first_block()):
                return
            blocks = iter(self._iterable)
            first = next(blocks, _END)
            if start.is_shed:
                self._stream.end(SHED)
                self.close_application()
                yield from self._send_away()
                return
            if not start.is_event_stream:
                if first is not _END:
                    yield first
                for block in blocks:  # not `yield from`, which would close them a second time
                    yield block
                return
            if first is _END or not self._has_body:
                yield from self._rest()
                return
            looks = _Looks(self, blocks)
            yield from looks.before(first)
            del first  # a large one may have left before the next is made
            looks.before_next_pull()
            clock, most, passes, seen_at, previous = self.clock, *self._quick_look(), 0.0, b""
            for block in blocks if not looks.are_over else ():
                if type(block) is bytes and block and (size := len(block)) <= most and (passes is None or passes(block)):
                    if unseen and block[-1] == _LF:
                        unseen -= 1
                        passed += size
                        previous, last = last, block
                        yield block
                        continue
                    now = clock()
                    if now < looks.next_at and block[-1] == _LF:
                        blocks_passed += run + 1
                        run = unseen = _UNSEEN if now - seen_at < _FAST else 0
                        seen_at = now
                        passed += size
                        previous, last = last, block
                        yield block
                        continue
                self._count_passed(blocks_passed + run - unseen, passed, last)
                passed = blocks_passed = run = 0
                yield from looks.before(block, previous, last)
                block = b""
                looks.before_next_pull()
                if looks.are_over:
                    return
                unseen, previous, last = 0, b"", b""
            yield from self._rest()
        except GeneratorExit:
            self._count_passed(blocks_passed + run - unseen, passed, last)  # before the log is told
            blocks_passed = run = unseen = 0
            if not self._is_left_by_server and start.place is not None:
                start.place.vanish()
            self.close_application()  # a layer outside that says `yield from` closes this generator and nothing else
            raise
        except BaseException:
            self._stream.end(RAISED)
            raise
        finally:
            self._count_passed(blocks_passed + run - unseen, passed, last)
            self._stream.end(ENDED)  # unless there was another reason before
            self.end_turn(0)
            start.leave()

    def _ends_before_its_first_block(self) -> Generator[bytes, None, bool]:
        """Wait for memory before the first pull, and return whether the stream has to end meanwhile; HEAD pulls nothing."""
        if not self._has_body:
            return True
        self.pause_for_memory(None)
        if self.ending is None or not self._must_end(self.clock()):
            return False
        if not self.ending.client_is_gone:
            last_block = self.ending.maybe_last_block(self.position, self.clock(), more_waits=False)
            yield from self.leave_as(last_block or b"")
        return True

    def _count_passed(self, blocks: int, size: int, last: bytes) -> None:
        if not blocks:
            return
        carried, events = self.place.carried, blocks * count_event_ends(last)
        carried.blocks_in += blocks
        carried.blocks_out += blocks
        carried.bytes_in += size
        carried.bytes_out += size
        carried.events_in += events
        carried.events_out += events

    def _quick_look(self) -> tuple[int, Callable[[bytes], bool] | None]:
        """Return up to how many bytes a block may go without a closer look, and what else must be asked before it does."""
        oversized = self._start.oversized
        if oversized is None:
            return self.max_block, None
        return min(self.max_block, LONG_LINE), None if oversized.only_watches else oversized.passes

    def reshape(self, block: bytes) -> Iterable[bytes]:
        """Return what may leave now that *block* has come, maybe nothing."""
        return self._start.reshape(block)

    @property
    def is_holding(self) -> bool:
        """Whether what came last is unfinished and may have to be reshaped with what follows."""
        return self._start.oversized is not None and self._start.oversized.is_holding

    @property
    def is_inside(self) -> bool:
        """Whether an event has left in part, as fragments."""
        return self._start.oversized is not None and self._start.oversized.is_inside

    def leave_as(self, block: bytes) -> Iterator[bytes]:
        """Yield *block* in pieces that are not too large, and count them."""
        carried = self.place.carried
        carried.events_out += count_event_ends(block)
        for piece in pieces_of(block, self.max_block):
            carried.count_out(piece)
            yield piece

    def _rest(self) -> Iterator[bytes]:
        for block in self._start.reshape_rest() if self._has_body else ():
            yield from self.leave_as(block)


class _Looks:
    """The looks at clock, client, worker and memory that an `InlineStream` takes now and then, and what follows from them."""

    def __init__(self, inline: InlineStream, blocks: Iterator[bytes]) -> None:
        self.are_over = False  # the stream has ended
        self.next_at = 0.0
        self._inline = inline
        self._blocks = blocks
        self._ending = inline.ending = inline.ending or inline.begin()
        self._position = inline.position
        self._silent_since = inline.clock()
        self._size = 0  # of the block that came last
        self._has_begun = False  # the application has yielded a byte
        self._has_left = False  # a byte of it has left
        self._has_beaten = False  # a heartbeat has left, so that a BOM behind it would be none

    def before(self, block: bytes, previous: bytes = b"", last: bytes = b"") -> Iterator[bytes]:
        """Yield what leaves for *block*; *previous* and *last* are the last blocks that left without a look, if some did."""
        block = only_bytes(block)
        self._size = len(block)
        self._inline.end_turn(self._size)
        now = self._inline.clock()
        self._inline.place.carried.count_in(block)
        if previous:
            if not isinstance(self._position, OpaquePosition):
                self._position = Position(anywhere=True)  # there may have been more of them
            self._position.advance(previous)
        if last:
            self._note(last, now)
        self._ending.look(now)
        self.are_over = self._ending.client_is_gone or self._ending.is_near
        if self._ending.client_is_gone:
            return
        if self._ending.is_near:
            yield from self._last_blocks(block)
            return
        if block and not self._has_begun:
            self._has_begun = True
            block = block.removeprefix(BOM) if self._has_beaten else block
        has_left = False
        for reshaped in self._inline.reshape(block) if block else ():
            has_left = True
            self._note(reshaped, now)
            yield from self._inline.leave_as(reshaped)
        if not has_left:  # PEP 3333: a block for a block, so that the server can do other work
            yield self._heartbeat_or_nothing(now)
        self.next_at = now + _LOOK_UP_EVERY if self._has_begun and not self._inline.is_holding else 0.0

    def before_next_pull(self) -> None:
        """Wait if memory is short, and look at the next block then, or if that may be a large one."""
        if not self.are_over and self._inline.pause_for_memory(self._size):
            self.next_at = 0.0
            self.are_over = self._ending.client_is_gone

    def _note(self, block: bytes, now: float) -> None:
        self._silent_since = self._inline.place.sent_at = now
        self._has_left = True
        self._position.advance(block)

    def _heartbeat_or_nothing(self, now: float) -> bytes:
        heartbeat = self._inline.heartbeat
        if heartbeat is None or not self._position.takes_comment or now - self._silent_since < heartbeat:
            return b""
        if self._has_begun and not self._has_left:  # what is held may be half a BOM, which is none behind a comment
            return b""
        self._silent_since = now
        self._has_beaten = True
        self._inline.place.carried.heartbeats += 1
        return next(self._inline.leave_as(HEARTBEAT))

    def _last_blocks(self, block: bytes) -> Iterator[bytes]:
        """Yield what leaves from the block on at which the process was seen to be going."""
        position = self._position
        for pulled in chain((block,), self._pulled()):
            now = self._inline.clock()
            for reshaped in self._inline.reshape(pulled):
                block = reshaped if self._inline.is_inside else self._ending.up_to_last_event(reshaped, position, now)
                if block:
                    position.advance(block)
                    yield from self._inline.leave_as(block)
                if (yield from self._ends(now, more_waits=True)):
                    return
            if (yield from self._ends(now, more_waits=False)):
                return

    def _ends(self, now: float, *, more_waits: bool) -> Generator[bytes, None, bool]:
        """Yield what leaves last if the stream may end here, and return whether it does."""
        is_inside = self._inline.is_inside
        last_block = self._ending.maybe_last_block(self._position, now, more_waits=more_waits, is_inside=is_inside)
        if last_block is not None:
            yield from self._inline.leave_as(last_block)
        return last_block is not None

    def _pulled(self) -> Iterator[bytes]:
        for block in map(only_bytes, self._blocks):
            self._inline.place.carried.count_in(block)
            yield block
