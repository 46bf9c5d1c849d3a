"""What happens to a request that nobody announced: it runs on the server's own thread, and only an event stream is touched.

The application gets an `InlineStart` as its ``start_response``, which amends the headers of an event stream; the server gets
an `InlineStream` in place of an iterable that is an event stream, or may turn out to be one.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Iterable, Iterator
from itertools import chain
from typing import TYPE_CHECKING, Any

from .event_stream import BOM, HEARTBEAT, OpaquePosition, Position, next_cut
from .hand_off import only_bytes
from .headers import Headers, is_event_stream
from .stream import CLIENT_GONE, ENDED, RAISED, Ending, Stream

if TYPE_CHECKING:
    from _typeshed import OptExcInfo
    from _typeshed.wsgi import StartResponse

_LOOK_UP_EVERY = 0.1  # seconds between two looks at client, worker and memory, while blocks come
# A look at the clock is the dearest thing here. Blocks that follow each other so fast (seconds for four) are not looked at
# one by one: the clock is read for each fourth.
_FAST = 0.002
_UNSEEN = 3

_END: Any = object()


class InlineStart:
    """The ``start_response`` of an inline request: passes everything on, the headers of an event stream amended."""

    __slots__ = ("_amend", "_max_block", "_start_response", "is_event_stream", "position")

    def __init__(
        self, start_response: StartResponse, amend: Callable[[str, Headers], tuple[Headers, Position]], max_block: int
    ) -> None:
        self._start_response = start_response
        self._amend = amend
        self._max_block = max_block
        self.is_event_stream: bool | None = None  # None until the application has called
        self.position: Position | None = None

    def __call__(self, status: str, headers: Headers, exc_info: OptExcInfo | None = None, /) -> Callable[[bytes], object]:
        """Start the response, as PEP 3333 has it."""
        streams_events = is_event_stream(headers)
        if streams_events:
            headers, self.position = self._amend(status, headers)
        write = self._start_response(status, headers) if exc_info is None else self._start_response(status, headers, exc_info)
        self.is_event_stream = streams_events
        return self._cutting(write) if streams_events else write

    def _cutting(self, write: Callable[[bytes], object]) -> Callable[[bytes], object]:
        def write_cut(block: bytes) -> None:
            for piece in pieces_of(only_bytes(block), self._max_block):
                write(piece)

        return write_cut


def pieces_of(block: bytes, max_block: int) -> Iterator[bytes]:
    """Yield *block* cut where `next_cut` says, an empty one as it is."""
    if len(block) <= max_block:
        yield block
        return
    start = 0
    while start < len(block):
        end = next_cut(block, start, max_block)
        yield block[start:end]
        start = end


class InlineStream:
    """An iterable for the server in place of *iterable*; whether it is an event stream is known with its first block.

    *begin* gives the `Ending` of the stream, and is called once it is known to be one. *heartbeat*: seconds after which a
    ``b""`` from the application becomes a heartbeat. *next_pause*: seconds to wait before the next pull. *has_body*: False for
    HEAD, which an endless stream must not keep waiting. For the server's thread.
    """

    def __init__(
        self,
        iterable: Iterable[bytes],
        start: InlineStart,
        stream: Stream,
        begin: Callable[[], Ending],
        *,
        max_block: int,
        heartbeat: float | None,
        next_pause: Callable[[], float] | None,
        has_body: bool,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], object] | None = None,
    ) -> None:
        self._iterable = iterable
        self._start = start
        self._stream = stream
        self.begin = begin
        self.max_block = max_block
        self.heartbeat = heartbeat
        self._next_pause = next_pause
        self._has_body = has_body
        self.clock = clock
        self._sleep = sleep or time.sleep  # looked up late: greenlets have another one
        self._is_closed = False
        self._blocks = self._run()

    def __iter__(self) -> Iterator[bytes]:
        return self._blocks

    def close(self) -> None:
        """Close the application's iterable, once."""
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
        if hasattr(self._iterable, "close"):
            self._iterable.close()

    @property
    def position(self) -> Position:
        """Where the stream stands at its start."""
        assert self._start.position is not None
        return self._start.position

    def pause_for_memory(self) -> bool:
        """Wait before the next pull if memory is short; return whether it was."""
        if self._next_pause is None or not self._next_pause():
            return False
        until = self.clock() + self._next_pause()
        while self.clock() < until and self._next_pause():
            self._sleep(min(_LOOK_UP_EVERY, max(0.0, until - self.clock())))
        return True

    def _run(self) -> Generator[bytes, None, None]:
        # One generator and no call for a block that follows closely: this loop is what a small event costs.
        start = self._start
        try:
            if start.is_event_stream and self._begins_without_body():
                return
            blocks = iter(self._iterable)
            first = next(blocks, _END)
            if not start.is_event_stream:
                if first is not _END:
                    yield first
                for block in blocks:  # not `yield from`, which would close them a second time
                    yield block
                return
            if first is _END or not self._has_body:
                return
            looks = _Looks(self, blocks)
            yield from looks.before(first)
            clock, max_block, seen_at, unseen, previous, last = self.clock, self.max_block, 0.0, 0, None, None
            for block in blocks if not looks.are_over else ():
                if type(block) is bytes and block and len(block) <= max_block:
                    if unseen:
                        unseen -= 1
                        previous, last = last, block
                        yield block
                        continue
                    now = clock()
                    if now < looks.next_at:
                        unseen = _UNSEEN if now - seen_at < _FAST else 0
                        seen_at = now
                        previous, last = last, block
                        yield block
                        continue
                yield from looks.before(block, previous, last)
                if looks.are_over:
                    return
                unseen, previous, last = 0, None, None
        except GeneratorExit:
            self.close_application()  # a layer outside that says `yield from` closes this generator and nothing else
            raise
        except BaseException:
            self._stream.end(RAISED)
            raise
        finally:
            self._stream.end(ENDED)  # unless there was another reason before

    def _begins_without_body(self) -> bool:
        """Wait for memory before the first pull; HEAD pulls nothing."""
        if self._has_body:
            self.pause_for_memory()
        return not self._has_body


class _Looks:
    """The looks at clock, client, worker and memory that an `InlineStream` takes now and then, and what follows from them."""

    def __init__(self, inline: InlineStream, blocks: Iterator[bytes]) -> None:
        self.are_over = False  # the stream has ended
        self.next_at = 0.0
        self._inline = inline
        self._blocks = blocks
        self._ending = inline.begin()
        self._position = inline.position
        self._silent_since = inline.clock()
        self._has_begun = False  # the application has yielded a byte
        self._has_beaten = False  # a heartbeat has left, so that a BOM behind it would be none

    def before(self, block: bytes, previous: bytes | None = None, last: bytes | None = None) -> Iterator[bytes]:
        """Yield what leaves for *block*; *previous* and *last* are the last blocks that left without a look, if some did."""
        block = only_bytes(block)
        now = self._inline.clock()
        if previous is not None:
            if not isinstance(self._position, OpaquePosition):
                self._position = Position(anywhere=True)  # there may have been more of them
            self._position.advance(previous)
        if last is not None:
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
        if block:
            self._note(block, now)
            yield from pieces_of(block, self._inline.max_block)
        else:
            yield self._heartbeat_or_nothing(now)
        self.next_at = now + _LOOK_UP_EVERY if self._has_begun else 0.0
        if self._inline.pause_for_memory():
            self.next_at = now

    def _note(self, block: bytes, now: float) -> None:
        self._silent_since = now
        self._position.advance(block)

    def _heartbeat_or_nothing(self, now: float) -> bytes:
        heartbeat = self._inline.heartbeat
        if heartbeat is None or not self._position.takes_comment or now - self._silent_since < heartbeat:
            return b""
        self._silent_since = now
        self._has_beaten = True
        return HEARTBEAT

    def _last_blocks(self, block: bytes) -> Iterator[bytes]:
        """Yield what leaves from the block on at which the process was seen to be going."""
        position = self._position
        for pulled in chain((block,), self._blocks):
            now = self._inline.clock()
            block = self._ending.up_to_last_event(only_bytes(pulled), position, now)
            if block:
                position.advance(block)
                yield from pieces_of(block, self._inline.max_block)
            last_block = self._ending.maybe_last_block(position, now, more_waits=False)
            if last_block is not None:
                yield last_block
                return
