"""What the streams of this process carry and have carried: a snapshot of numbers, and the counters behind it.

>>> from ssemiddleware import SSEMiddleware
>>> stats = SSEMiddleware(lambda environ, start_response: []).stats()
>>> stats.open, stats.refused, dict(stats.ended)
(0, 0, {})
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from .event_stream import count_event_ends

if TYPE_CHECKING:
    from .memory import State

# Why a request gets no stream: an option of `SSEMiddleware`, or memory that is critical.
MAX_STREAMS, MAX_STREAMS_PER, MEMORY = "max_streams", "max_streams_per", "memory"
REFUSED_BY = (MAX_STREAMS, MAX_STREAMS_PER, MEMORY)


@dataclass(slots=True)
class Carried:
    """What one stream has carried, or many: counts, bytes and seconds. *in*: from the application; *out*: to the server.

    *quick*: what came in and went out as it was, counted once for both: an event a block, and *more*. Events are estimated in
    blocks of more than 1 KiB.
    """

    blocks_in: int = 0
    blocks_out: int = 0
    bytes_in: int = 0
    bytes_out: int = 0
    events_in: int = 0
    events_out: int = 0
    heartbeats: int = 0  # and the comments that open a stream
    pauses: int = 0  # waits for memory
    paused_seconds: float = 0.0
    quick_blocks: int = 0
    quick_bytes: int = 0
    quick_more_events: int = 0

    def count_in(self, block: bytes) -> None:
        """Count a block that has come from the application."""
        self.blocks_in += 1
        self.bytes_in += len(block)
        self.events_in += count_event_ends(block)

    def count_out(self, block: bytes) -> None:
        """Count a block that leaves; its events are counted before it is cut."""
        self.blocks_out += 1
        self.bytes_out += len(block)

    @property
    def moves(self) -> int:
        """A number that is another one once a block has left."""
        return self.quick_blocks + self.blocks_out

    def total(self) -> Carried:
        """Return the same with nothing in *quick*."""
        carried = Carried()
        carried.add(self)
        return carried

    def add(self, other: Carried) -> None:
        """Add what *other* has carried."""
        self.blocks_in += other.blocks_in + other.quick_blocks
        self.blocks_out += other.blocks_out + other.quick_blocks
        self.bytes_in += other.bytes_in + other.quick_bytes
        self.bytes_out += other.bytes_out + other.quick_bytes
        self.events_in += other.events_in + other.quick_blocks + other.quick_more_events
        self.events_out += other.events_out + other.quick_blocks + other.quick_more_events
        self.heartbeats += other.heartbeats
        self.pauses += other.pauses
        self.paused_seconds += other.paused_seconds

    def sums(self) -> dict[str, Any]:
        """Return the totals by the names that `Stats` has for them."""
        return {name: value for name, value in asdict(self.total()).items() if not name.startswith("quick")}


@dataclass(frozen=True, slots=True, kw_only=True)
class Stats:
    """The streams of one `SSEMiddleware` in this process, at one moment. Immutable. The sums never go down."""

    open_announced: int  # streams whose request asked for one
    open_unannounced: int
    most_streams: int | None  # that may be open; None for any number, or as long as none was asked for
    ended: Mapping[str, int]  # streams that have ended, by the reason
    refused: int  # requests that got no stream
    refused_by: Mapping[str, int]  # the same by the option that was in the way: max_streams, max_streams_per, memory
    kept_threads: int  # of the server's, by applications that have not returned although their client is gone
    blocks_in: int  # in: from the application
    blocks_out: int  # out: to the server
    bytes_in: int
    bytes_out: int
    events_in: int  # estimated in blocks of more than 1 KiB
    events_out: int
    heartbeats: int  # and the comments that open a stream
    pauses: int  # waits for memory
    paused_seconds: float
    memory_used: int | None  # bytes; None with ``memory=None``
    memory_limit: int | None  # bytes
    memory_state: State | None
    longest_silence: float  # seconds since the last block of the stream that has been silent for longest; 0 without streams
    oldest_stream: float  # seconds for which it has been open; 0 without streams

    @property
    def open(self) -> int:
        """Streams that are open."""
        return self.open_announced + self.open_unannounced
