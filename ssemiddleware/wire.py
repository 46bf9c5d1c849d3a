"""The bytes of one event stream on their way: a byte order mark, oversized events, cuts, the position, counts, last words.

A `Wire` is given what the application yields and gives what may leave, in pieces of at most `max_block` bytes. Nothing here
does I/O, starts a thread or reads a clock. Only whoever has the baton may touch a wire.

>>> wire = Wire(max_block=131072)
>>> list(wire.feed(b"data: hello"))
[b'data: hello']
>>> wire.takes_comment, wire.takes_end
(False, False)
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from .event_stream import BOM, Event, OpaquePosition, Position, count_event_ends, pieces_of
from .oversized import OversizedEvents
from .stats import Carried

QUICK = 65536  # bytes that may leave without a look, in one block or in many: no line in them is a long one


class Wire:
    """One event stream's way from the application to the server.

    *carried*: where it counts. *oversized*: what is done to its events, None for nothing; *watch* makes that for a *path* once
    it is needed, for what changes no byte and has no interest in small blocks of whole lines. *is_opaque*: the body is encoded,
    or must not be, so nothing is known of what is in it and nothing may be added to it.
    """

    __slots__ = (
        "_head", "_oversized", "_path", "_watch", "carried", "has_begun", "max_block", "position", "stops_at_event_end",
    )  # fmt: skip

    def __init__(
        self,
        *,
        max_block: int,
        oversized: OversizedEvents | None = None,
        watch: Callable[[str], OversizedEvents] | None = None,
        path: str = "",
        is_opaque: bool = False,
        carried: Carried | None = None,
    ) -> None:
        self.max_block = max_block
        self.position = OpaquePosition() if is_opaque else Position()
        self.carried = Carried() if carried is None else carried
        self.stops_at_event_end = False  # what comes behind the event under way is dropped
        self.has_begun = False  # a byte of the application's has left
        self._oversized, self._watch, self._path = oversized, watch, path
        self._head: bytes | None = None  # the application's first bytes, as long as they may be a BOM behind a line of ours

    # -- what may be done where the stream stands

    @property
    def takes_comment(self) -> bool:
        """Whether a line of ours may go here."""
        if not self.has_begun and (self._head or (self._oversized is not None and self._oversized.is_holding)):
            return False  # what is held may be half a BOM, which is none behind a comment
        return self.position.takes_comment

    @property
    def takes_end(self) -> bool:
        """Whether the stream may end here with nothing lost."""
        return self.position.takes_end and not self._head and not self.is_inside

    @property
    def is_inside(self) -> bool:
        """Whether an event has left in part, as fragments."""
        return self._oversized is not None and self._oversized.is_inside

    @property
    def quick_size(self) -> int:
        """How many bytes a block may have that leaves without a look: as long as long lines are watched for, no such line."""
        return self.max_block if self._watch is None and self._oversized is None else QUICK

    @property
    def is_quick(self) -> bool:
        """Whether a block of whole events, of `quick_size` bytes at most, may leave as it is, and changes nothing here."""
        if self._head is not None or self.max_block < QUICK or isinstance(self.position, OpaquePosition):
            return False
        if self._oversized is not None and (not self._oversized.only_watches or self._oversized.is_holding):
            return False
        return self.position.takes_comment and self.position.takes_end

    # -- what leaves

    def feed(self, block: bytes) -> Iterator[bytes]:
        """Yield what may leave now that *block* has come, maybe nothing. To be exhausted before the next call."""
        self.carried.count_in(block)
        block = self._without_bom(block)
        if not block:
            return
        if self._watch is not None and not (len(block) <= QUICK and block.endswith(b"\n")):
            self._oversized, self._watch = self._watch(self._path), None
        if self._oversized is None:
            yield from self._leave(block)
            return
        for reshaped in self._oversized.feed(block):
            yield from self._leave(reshaped)

    def finish(self) -> Iterator[bytes]:
        """Yield what is still held at the stream's end: the beginning of what the application left unfinished."""
        head, self._head = self._head, None
        if head:
            yield from self._leave(head)
        if self._oversized is not None:
            oversized, self._oversized = self._oversized, None
            for rest in oversized.finish():
                yield from self._leave(rest)

    def pass_quickly(self, block: bytes) -> bool:
        """Count *block*, and return True, if it may leave as it is without changing anything here."""
        if len(block) > self.quick_size or not block.endswith(b"\n\n") or not self.is_quick:
            return False
        self.has_begun = True
        self.carried.quick_blocks += 1
        self.carried.quick_bytes += len(block)
        self.carried.quick_more_events += count_event_ends(block) - 1
        return True

    def note_ours(self, line: bytes, *, is_comment: bool = True) -> bytes:
        """Note that a line of ours leaves here, and return it."""
        if not self.has_begun and self._head is None and not self.carried.bytes_in:
            self._head = b""  # only a stream's first character is a byte order mark (9.2.5)
        self.carried.heartbeats += is_comment
        self.carried.count_out(line)
        return line

    def _leave(self, block: bytes) -> Iterator[bytes]:
        self.has_begun = True
        self.carried.events_out += count_event_ends(block)
        for piece in pieces_of(block, self.max_block):
            end = self.position.event_end(piece) if self.stops_at_event_end else -1
            leaving = piece if end < 0 else piece[:end]
            if leaving:
                self.position.advance(leaving)
                self.carried.count_out(leaving)
                yield leaving
            if end >= 0:
                return

    def _without_bom(self, block: bytes) -> bytes:
        """Drop a byte order mark that a line of ours stands before, also one that comes in parts."""
        if self._head is None or not block:
            return block
        head = self._head + block
        if len(head) < len(BOM) and BOM.startswith(head):
            self._head = head
            return b""
        self._head = None
        return head.removeprefix(BOM)


def only_bytes(block: object) -> bytes:
    """Return an event stream's *block* as exactly `bytes`, or raise the `TypeError` that PEP 3333 wants, naming its type.

    Servers differ: one drops other types silently, some pass a few of them, most abort.
    """
    if isinstance(block, bytes):
        return bytes(block)  # some servers refuse subclasses
    hint = ": yield bytes(event)" if isinstance(block, Event) else ""
    raise TypeError(f"an event stream's blocks must be bytes, got {type(block).__name__}{hint}")
