"""Numbers about the streams of this process: `Stats`, a snapshot, and the counters behind it.

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

# The options of `SSEMiddleware` for which a request gets no stream.
REFUSED_BY = MAX_STREAMS, MAX_STREAMS_PER = "max_streams", "max_streams_per"


@dataclass(slots=True)
class Carried:
    """Counts, bytes and seconds of one stream, or the sum of many. *in*: from the application; *out*: to the server.

    *quick*: blocks that came in and went out unchanged, counted once for both. Each has one event, and some have *more*. In
    blocks of more than 1 KiB the number of events is an estimate.
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
        """Count a block that goes out. Its events are counted before it is cut."""
        self.blocks_out += 1
        self.bytes_out += len(block)

    @property
    def moves(self) -> int:
        """A number that changes with each block that goes out."""
        return self.quick_blocks + self.blocks_out

    def total(self) -> Carried:
        """Return the same numbers, with those of *quick* added to the others."""
        carried = Carried()
        carried.add(self)
        return carried

    def add(self, other: Carried) -> None:
        """Add the numbers of *other*."""
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
    most_streams: int | None  # that may be open; None without a limit, or before the first stream
    ended: Mapping[str, int]  # streams that have ended, by the reason
    refused: int  # requests that were refused
    refused_by: Mapping[str, int]  # the same by the option that refused them: max_streams or max_streams_per
    kept_threads: int  # of the server, which applications keep although their client has disconnected
    blocks_in: int  # in: from the application
    blocks_out: int  # out: to the server
    bytes_in: int
    bytes_out: int
    events_in: int  # an estimate in blocks of more than 1 KiB
    events_out: int
    heartbeats: int  # and the comments that open a stream
    pauses: int  # waits for memory
    paused_seconds: float
    memory_used: int | None  # bytes; None with ``memory=None``
    memory_limit: int | None  # bytes
    memory_state: State | None
    # Seconds since the last block of the stream that has been silent for longest, or a heartbeat more. 0 without streams.
    longest_silence: float
    oldest_stream: float  # seconds for which it has been open; 0 without streams

    @property
    def open(self) -> int:
        """Streams that are open."""
        return self.open_announced + self.open_unannounced
