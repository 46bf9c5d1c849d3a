"""What the streams of this process carry and have carried: a snapshot of numbers, and the counters behind it.

>>> from ssemiddleware import SSEMiddleware
>>> stats = SSEMiddleware(lambda environ, start_response: []).stats()
>>> stats.open, stats.shed, dict(stats.ended)
(0, 0, {})
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from .event_stream import count_event_ends

if TYPE_CHECKING:
    from .memory import State


@dataclass(slots=True)
class Carried:
    """What one stream has carried, or many: counts, bytes and seconds. *in*: from the application; *out*: to the server.

    Events are counted where a count costs nothing, and estimated in a burst: as if all blocks that leave together were alike.
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

    def count_in(self, block: bytes) -> None:
        """Count a block that has come from the application."""
        self.blocks_in += 1
        self.bytes_in += len(block)
        self.events_in += count_event_ends(block)

    def count_out(self, block: bytes) -> None:
        """Count a block that leaves; its events are counted before it is cut."""
        self.blocks_out += 1
        self.bytes_out += len(block)

    def add(self, other: Carried) -> None:
        """Add what *other* has carried."""
        self.blocks_in += other.blocks_in
        self.blocks_out += other.blocks_out
        self.bytes_in += other.bytes_in
        self.bytes_out += other.bytes_out
        self.events_in += other.events_in
        self.events_out += other.events_out
        self.heartbeats += other.heartbeats
        self.pauses += other.pauses
        self.paused_seconds += other.paused_seconds


@dataclass(frozen=True, slots=True, kw_only=True)
class Stats:
    """The streams of one `SSEMiddleware` in this process, at one moment. Immutable.

    The sums never go down. What an inline stream has carried in the last tenth of a second counts when its application yields
    again or ends.
    """

    open_announced: int  # streams that run on a relay thread
    open_inline: int
    most_streams: int | None  # that may be open; None for any number, or as long as none was asked for
    ended: Mapping[str, int]  # streams that have ended, by the reason
    shed: int  # requests that were sent away
    blocks_in: int  # in: from the application
    blocks_out: int  # out: to the server
    bytes_in: int
    bytes_out: int
    events_in: int  # estimated where blocks leave joined, as if they were alike
    events_out: int
    heartbeats: int  # and the comments that open a stream
    pauses: int  # waits for memory
    paused_seconds: float
    held_bytes: int  # that wait between an application and its server now
    memory_used: int | None  # bytes; None with ``memory=None``
    memory_limit: int | None  # bytes
    memory_state: State | None
    longest_silence: float  # seconds since the last block of the stream that has been silent for longest; 0 without streams
    oldest_stream: float  # seconds for which it has been open; 0 without streams

    @property
    def open(self) -> int:
        """Streams that are open."""
        return self.open_announced + self.open_inline
