"""What happens to the bytes of one event stream: byte order mark, oversized events, cuts, position, counts, the last line.

A `Wire` takes what the application yields, and gives what may be sent, in pieces of at most `max_block` bytes. Nothing here
does I/O, starts a thread or reads a clock. Only the thread that has the baton may touch a wire.

>>> wire = Wire(max_block=131072)
>>> list(wire.feed(b"data: hello"))
[b'data: hello']
>>> wire.takes_comment, wire.takes_end
(False, False)
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Protocol

from .event_stream import BOM, Event, OpaquePosition, Position, count_event_ends, pieces_of
from .oversized import OversizedEvents
from .stats import Carried

QUICK = 65536  # bytes that may be sent without checks, in one block or in many: they contain no long line


class Looks(Protocol):
    """Looks at what the application yields, and changes nothing."""

    def feed(self, block: bytes) -> None:
        """Look at the next *block*."""

    def finish(self) -> None:
        """Look at the stream's end."""

    def close(self) -> None:
        """Look back at a stream that is over, whether it has come to its own end or not. From any thread."""


class Wire:
    """The way of one event stream from the application to the server.

    *carried*: the counters. *oversized*: the steps that change its events, or None. *watch*: makes the step that only watches
    for long lines, for a *path*, when a block comes that may have one. *is_opaque*: the body is encoded or must not exist, so
    its content is unknown and nothing may be added. *takes_lines*: a line of ours may be added where the stream allows it.
    *lint*: looks at all blocks of the application. *encoding*: the one that we give the body (see `encoded_wire`), not the
    application's.
    """

    __slots__ = (
        "_head", "_lint", "_may_be_quick", "_oversized", "_path", "_watch", "carried", "encoding", "has_begun", "max_block",
        "position", "quick_size", "stops_at_event_end", "takes_lines",
    )  # fmt: skip

    def __init__(
        self,
        max_block: int,
        carried: Carried | None = None,
        path: str = "",
        is_opaque: bool = False,
        takes_lines: bool = True,
        encoding: str = "",
        oversized: OversizedEvents | None = None,
        watch: Callable[[str], OversizedEvents] | None = None,
        lint: Looks | None = None,
    ) -> None:
        self.max_block = max_block
        self.position = OpaquePosition() if is_opaque else Position()
        self.takes_lines = takes_lines
        self.carried = Carried() if carried is None else carried
        self.stops_at_event_end = False  # what follows the unfinished event is dropped
        self.has_begun = False  # a byte of the application has been sent
        self._oversized, self._watch, self._path = oversized, watch, path
        self._lint = lint
        # The bytes of the largest block that is sent without checks. While long lines are watched for, it has no such line.
        self.quick_size = max_block if watch is None and oversized is None else QUICK
        self._may_be_quick = not is_opaque and lint is None and max_block >= QUICK
        self.encoding = encoding
        self._head: bytes | None = None  # the application's first bytes, while they may be a BOM after a line of ours

    # -- what may be done where the stream stands

    @property
    def takes_comment(self) -> bool:
        """Whether a line of ours may be added here."""
        if not self.has_begun and (self._head or (self._oversized is not None and self._oversized.is_holding)):
            return False  # what is held may be half a BOM, and a BOM counts only at a stream's start
        return self.position.takes_comment

    @property
    def takes_end(self) -> bool:
        """Whether the stream may end here and nothing is lost."""
        return self.position.takes_end and not self._head and not self.is_inside

    @property
    def is_inside(self) -> bool:
        """Whether part of an event has been sent, as fragments."""
        return self._oversized is not None and self._oversized.is_inside

    @property
    def is_quick(self) -> bool:
        """Whether a block of whole events, of `quick_size` bytes at most, may be sent as it is, and changes no state here."""
        if not self._may_be_quick or self._head is not None:
            return False
        if self._oversized is not None and (not self._oversized.only_watches or self._oversized.is_holding):
            return False
        return self.position.is_after_event

    @property
    def is_joinable(self) -> bool:
        """Whether blocks of whole events, one after the other, may be sent as one."""
        return self.is_quick

    # -- what is sent

    def feed(self, block: bytes) -> Iterator[bytes]:
        """Yield what may be sent now that *block* has come; that may be nothing. Exhaust it before the next call."""
        self.carried.count_in(block)
        if self._lint is not None:
            self._lint.feed(block)
        block = self._without_bom(block)
        if not block:
            return
        if self._watch is not None and not (len(block) <= QUICK and block.endswith(b"\n")):
            self._oversized, self._watch = self._watch(self._path), None
        if self._oversized is None:
            yield from self._send(block)
            return
        for reshaped in self._oversized.feed(block):
            yield from self._send(reshaped)

    def finish(self) -> Iterator[bytes]:
        """Yield what is still held at the stream's end: the beginning of something that the application did not finish."""
        if self._lint is not None:
            self._lint.finish()
        head, self._head = self._head, None
        if head:
            yield from self._send(head)
        if self._oversized is not None:
            oversized, self._oversized = self._oversized, None
            for rest in oversized.finish():
                yield from self._send(rest)

    def close(self) -> None:
        """Note that the stream is over. From any thread."""
        if self._lint is not None:
            self._lint.close()

    def pass_quickly(self, block: bytes) -> bool:
        """Count *block* and return True if it may be sent as it is, and changes no state here."""
        if len(block) > self.quick_size or not block.endswith(b"\n\n") or not self.is_quick:
            return False
        self.has_begun = True
        self.carried.quick_blocks += 1
        self.carried.quick_bytes += len(block)
        self.carried.quick_more_events += count_event_ends(block) - 1
        return True

    def join(self, blocks: Sequence[bytes]) -> bytes:
        """Count *blocks* of whole events and return what is sent in their place, if `is_joinable`."""
        joined = b"".join(blocks)
        self.carried.blocks_in += len(blocks) - 1
        self.carried.quick_blocks += 1
        self.carried.quick_bytes += len(joined)
        self.carried.quick_more_events += joined.count(b"\n\n") - 1
        return joined

    def end(self, line: bytes = b"") -> bytes:
        """Return what is sent last, after all else: a *line* of ours, if there is one."""
        if line:
            self.carried.count_out(line)
        return line

    def ours(self, line: bytes) -> bytes:
        """Return what the watcher has to write for a *line* of ours, ``b""`` if that may be too much."""
        return line

    def note_ours(self, line: bytes) -> bytes:
        """Note that a line of ours is sent here, and return what is."""
        self._stand_in_front()
        self.carried.heartbeats += 1
        self.carried.count_out(line)
        return line

    def _stand_in_front(self) -> None:
        """Note that a line of ours may stand before the application's first byte."""
        if not self.has_begun and self._head is None and not self.carried.bytes_in:
            self._head = b""  # only a stream's first character is a byte order mark (9.2.5)

    def _send(self, block: bytes) -> Iterator[bytes]:
        self.has_begun = True
        self.carried.events_out += count_event_ends(block)
        for piece in pieces_of(block, self.max_block):
            end = self.position.event_end(piece) if self.stops_at_event_end else -1
            sent = piece if end < 0 else piece[:end]
            if sent:
                self._note_sent(sent)
                yield sent
            if end >= 0:
                return

    def _note_sent(self, piece: bytes) -> None:
        """Note that *piece* is sent."""
        self.position.advance(piece)
        self.carried.count_out(piece)

    def _without_bom(self, block: bytes) -> bytes:
        """Drop a byte order mark after a line of ours, also one that comes in parts."""
        if self._head is None or not block:
            return block
        head = self._head + block
        if len(head) < len(BOM) and BOM.startswith(head):
            self._head = head
            return b""
        self._head = None
        return head.removeprefix(BOM)


def only_bytes(block: object) -> bytes:
    """Return *block* as exactly `bytes`. For another type raise the `TypeError` that PEP 3333 wants, with the type's name.

    Servers differ: one silently drops other types, most abort. Some take a `bytearray`, so it is taken here on all of them.
    """
    if isinstance(block, (bytes, bytearray, memoryview)):
        return bytes(block)  # some servers refuse subclasses
    hint = ": yield bytes(event)" if isinstance(block, Event) else ""
    raise TypeError(f"an event stream's blocks must be bytes, got {type(block).__name__}{hint}")
