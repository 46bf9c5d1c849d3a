"""The bounded hand-off of blocks between the thread that makes them and the thread that sends them.

One producer, one consumer, and a deque. Each side counts for itself, and the two meet only to sleep and to wake.
One number tells the producer how many bytes it may hand over before it must look up: `HandOff._go_until`. Setting it to zero
is how the consumer asks for attention, so that a burst of small blocks costs the producer one comparison a block, and the
consumer, which takes all that waits at once, a few writes in all.
"""

from __future__ import annotations

import contextlib
import math
import threading
import time
from collections import deque
from typing import TYPE_CHECKING

from .event_stream import Event, count_event_ends, last_event_end, next_cut
from .memory import wait_for_memory

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from .memory import Turn, Turns

# Where threads are greenlets, a producer that never blocks would keep what it produced to itself: it gives way to a
# consumer that it woke so many seconds ago. Longer, and events come late; shorter, and a burst is no longer joined.
_GIVE_WAY_AFTER = 0.001


class HandOff:
    """Blocks on their way from one thread to another; at most *read_ahead* bytes, and the block that exceeds them, wait.

    The producer stops at *read_ahead* and goes on below a quarter of it. *max_block*: bytes of the largest block that leaves.
    *next_pause*: seconds to wait before more of an event stream is produced. *turns*: whose turn it is to make a large block.

    The consumer's thread calls `wait`, `take` or `take_unchanged`; the producer's `hand_over`, `hand_over_all`, `tell` and
    `finish`; `close` may be called by any.
    """

    __slots__ = (  # a process may have thousands
        "_arrived",
        "_asleep_since",
        "_block",
        "_cut_at",
        "_earlier_turn",
        "_go_until",
        "_handed_over",
        "_has_news",
        "_is_asleep",
        "_is_full",
        "_next_pause",
        "_read_ahead",
        "_room",
        "_sent",
        "_taken",
        "_turn",
        "_turns",
        "_waiting",
        "_woken_at",
        "blocks_taken",
        "events_taken",
        "has_missed_deadline",
        "is_closed",
        "is_event_stream",
        "is_finished",
        "is_producer_waiting",
        "max_block",
        "paused",
        "pauses",
        "send_deadline",
    )  # fmt: skip

    def __init__(
        self, *, read_ahead: int, max_block: int, next_pause: Callable[[], float] | None = None, turns: Turns | None = None
    ) -> None:
        self._read_ahead = read_ahead
        self.max_block = max_block
        self._next_pause = next_pause
        self._turns = turns
        self._waiting: deque[bytes] = deque()
        self._arrived = _Gate()  # where the consumer sleeps
        self._room = _Gate()  # where the producer sleeps
        self.is_closed = False
        self.send_deadline = math.inf  # seconds that the consumer may take nothing while the producer waits for room
        # Written by the producer.
        self.has_missed_deadline = False  # closed for that
        self.is_event_stream = False  # only these wait for memory: any other response is as it would be without us
        self.is_finished = False  # nothing comes any more
        self.is_producer_waiting = False  # for room or for memory
        self.pauses = 0  # waits for memory, and their seconds
        self.paused = 0.0
        self._handed_over = 0  # bytes, as known when the producer last looked up
        self._is_full = False  # the producer waits for room
        self._woken_at = 0.0
        self._turn: Turn | None = None  # held while a large block is made, or a first one
        self._earlier_turn: Turn | None = None  # the one before
        # Written by the consumer.
        self.blocks_taken = 0  # as they were handed over
        self.events_taken = 0  # where blocks were joined, as if each had as many as the first
        self._sent = 0  # bytes that were taken
        self._go_until = 0  # bytes to which the producer may go without looking up; 0 from it as well, while it has a turn
        self._asleep_since = 0.0
        self._block = b""  # taken from the deque and being cut
        self._cut_at = 0
        self._taken = 0  # bytes that `take_whole` has given and that have not been sent yet
        # Set by one side and taken back by the other; the gate is opened afterwards, so a wake-up too many is the worst.
        self._is_asleep = False  # the consumer waits for a block
        self._has_news = False  # the producer has something to say that is no block

    @property
    def is_empty(self) -> bool:
        """Whether nothing waits."""
        return not (self._block or self._waiting)

    @property
    def held(self) -> int:
        """Bytes that wait here now. Any thread may ask."""
        return sum(map(len, self._waiting.copy())) + max(0, len(self._block) - self._cut_at) + self._taken

    @property
    def bytes_taken(self) -> int:
        """Bytes that were handed over and wait no longer."""
        return self._sent

    def close(self) -> None:
        """Let nobody wait any longer, and drop what waits: nobody will send it. Safe twice."""
        self.is_closed = True
        self._go_until = 0
        self._block = b""
        self._waiting.clear()
        self._room.open()
        self._arrived.open()

    # -- the consumer

    def wait(self, timeout: float) -> None:
        """Sleep until there is a block or other news, at most *timeout* seconds."""
        self._asleep_since = time.monotonic()
        self._is_asleep = True
        self._go_until = 0
        # The producer looks at _go_until after it has appended, and we at the deque after we have set it: one of us sees.
        if not (self._waiting or self._has_news or self.is_finished or self.is_closed):
            self._arrived.wait(timeout)
        self._is_asleep = self._has_news = False
        self._let_producer_go_on()

    def take(self) -> bytes:
        """Return what waits, joined and cut into a block of at most ``max_block`` bytes; ``b""`` if nothing does."""
        if not self._block:
            self._cut_at = 0
            with contextlib.suppress(IndexError):  # closed meanwhile, and so emptied
                self._block = self._join_what_waits()
        block, start = self._block, self._cut_at
        end = self._cut_at = next_cut(block, start, self.max_block)
        if end == len(block):
            self._block = b""
        block = block[start:end]
        self._count_as_sent(len(block))
        return block

    def take_whole(self) -> bytes:
        """Return what waits, joined but not cut; ``b""`` if nothing does. All that was taken before counts as sent."""
        self.count_as_sent(self._taken)
        block = b""
        with contextlib.suppress(IndexError):  # closed meanwhile, and so emptied
            block = self._join_what_waits()
        self._taken = len(block)
        return block

    def count_as_sent(self, size: int) -> None:
        """Say that *size* bytes have left of what `take_whole` gave, or of what was made of it."""
        size = min(size, self._taken)
        self._taken -= size
        self._count_as_sent(size)

    def take_unchanged(self) -> bytes | None:
        """Return the next block just as it came, None if none waits."""
        if not self._waiting:
            return None
        block = self._waiting.popleft()
        self._count_as_sent(len(block) or 1)
        return block

    def _join_what_waits(self) -> bytes:
        waiting = self._waiting
        if not waiting:
            return b""
        events = count_event_ends(waiting[0])
        if len(waiting) == 1 or self._is_large(waiting[0]):
            block = waiting.popleft()
            self.blocks_taken += 1
            self.events_taken += events
            return block
        # As many as fit if all are as long as the first: nearly always right, and no look at each block. What is longer
        # after all is cut; a buffer for all that waits would be copied twice, and mapped and unmapped each time.
        number = min(len(waiting), self.max_block // len(waiting[0]))
        blocks = [waiting.popleft() for _ in range(number)]
        if self._is_large(max(blocks, key=len)):
            first = next(index for index, block in enumerate(blocks) if self._is_large(block))
            waiting.extendleft(reversed(blocks[first:]))
            del blocks[first:]
        joined = b"".join(blocks)
        block = self._up_to_an_event_end(joined)
        # What was put back will be taken again. In one step: a number that another thread sees never goes down.
        self.blocks_taken += len(blocks) - (len(block) < len(joined))
        self.events_taken += events * len(blocks)
        return block

    def _up_to_an_event_end(self, block: bytes) -> bytes:
        """Put what follows the last event's end in *block* back, if more waits to go with it."""
        if self._waiting and not block.endswith(b"\n\n"):
            end = last_event_end(block)
            if 0 < end < len(block):
                self._waiting.appendleft(block[end:])
                return block[:end]
        return block

    def _is_large(self, block: bytes) -> bool:
        """Tell whether *block* is big enough by itself: joining would copy it for nothing."""
        return 2 * len(block) > self.max_block

    def _count_as_sent(self, size: int) -> None:
        self._sent += size
        self._let_producer_go_on()
        if self._is_full and self._has_room():
            self._room.open()

    def _let_producer_go_on(self) -> None:
        self._go_until = 0 if self._turn is not None or self._maybe_pause() else self._sent + self._read_ahead
        if self.is_closed or self._turn is not None:  # asked last, since other threads may have closed, or taken a turn
            self._go_until = 0

    # -- the producer

    def hand_over(self, block: bytes) -> bool:
        """Hand *block* over just as it is, then wait for room and memory; return whether the hand-off is closed."""
        self._waiting.append(block)
        size = len(block)
        del block  # a large one may have left before the next is made
        return self.look_up(self._handed_over + (size or 1), size)

    def hand_over_all(self, blocks: Iterable[bytes]) -> bool:
        """Hand over the blocks of an event stream to their end, or until the hand-off is closed; return whether it is.

        Raises `TypeError` for what is not bytes. Empty blocks are left out.
        """
        append = self._waiting.append
        handed_over = self._handed_over
        for block in blocks:
            if type(block) is not bytes:
                block = only_bytes(block)
            if block:
                append(block)
                handed_over += len(block)
            if handed_over >= self._go_until:
                size = len(block)
                block = b""  # a large one may have left before the next is made
                if self.look_up(handed_over, size):
                    return True
        self._handed_over = handed_over
        return self.is_closed

    def tell(self) -> None:
        """Wake the consumer for what is no block."""
        self._has_news = True
        if self._is_asleep:
            self._arrived.open()

    def finish(self) -> None:
        """Say that nothing comes any more."""
        self._end_turn(0)
        self.is_finished = True
        self.tell()

    def look_up(self, handed_over: int | None = None, last: int = 0) -> bool:
        """Do what the consumer asks for: wake it, give way, wait for room or for memory. Return whether to stop.

        *last*: bytes of the block that was handed over just now.
        """
        if handed_over is not None:
            self._handed_over = handed_over
            if self._turn is not None:
                self._end_turn(last)
        is_coming = self._waiting and not self._wake_consumer()
        if self._handed_over - self._sent >= self._read_ahead:
            self._wait_for_room()
        elif is_coming and not self._may_be_large(last):
            return self.is_closed  # nothing else has changed since the call that woke it
        if self._must_wait(last) and not self.is_closed:
            self._wait_for_memory(last)
        return self.is_closed

    def _maybe_pause(self) -> float:
        return self._next_pause() if self.is_event_stream and self._next_pause is not None else 0.0

    def _wake_consumer(self) -> bool:
        """Wake it, or give way to it; return False if it has been woken a moment ago."""
        if self._is_asleep:
            self._is_asleep = False
            now = self._woken_at = time.monotonic()
            self._arrived.open()
            if now - self._asleep_since < _GIVE_WAY_AFTER:
                return True
        elif self._go_until:
            return True
        elif time.monotonic() - self._woken_at < _GIVE_WAY_AFTER:
            return False
        time.sleep(0)
        self._woken_at = time.monotonic()
        return True

    def _has_room(self) -> bool:
        # A quarter and not a half: each stop costs two switches, and events of 100 KB arrive a fifth faster.
        return self._handed_over - self._sent < (self._read_ahead + 3) // 4

    def _wait_for_room(self) -> None:
        self._is_full = self.is_producer_waiting = True
        sent, until = self._sent, time.monotonic() + self.send_deadline
        # The consumer looks at _is_full after it has counted, and we count after we have set it: one of us sees.
        while not self.is_closed and not self._has_room():
            self._room.wait(min(60.0, self.send_deadline))
            if self._sent != sent:
                sent, until = self._sent, time.monotonic() + self.send_deadline
            elif time.monotonic() >= until:
                self.has_missed_deadline = True
                self.close()
        self._is_full = self.is_producer_waiting = False

    def _must_wait(self, last: int) -> bool:
        return self._maybe_pause() > 0 or (self._may_be_large(last) and not self._has_turn(last))

    def _may_be_large(self, last: int) -> bool:
        """Tell whether the next block may be large: it is the first, or comes behind a large one."""
        return last >= self._read_ahead or not self._handed_over

    def _wait_for_memory(self, last: int) -> None:
        self.is_producer_waiting = True
        self.pauses += 1
        self.paused += wait_for_memory(
            self._maybe_pause,
            lambda waited: self._has_turn(last, waited),
            is_over=lambda now: self.is_closed,  # noqa: ARG005
            sleep=self._room.wait,
        )
        self.is_producer_waiting = False

    def _has_turn(self, last: int, waited: float = 0.0) -> bool:
        """Take a turn if the next block may be large. Return False if none is to be had."""
        if self._turns is None or not self.is_event_stream or not self._may_be_large(last):
            return True
        self._turn = self._turns.maybe_begin(last, waited, self._earlier_turn)
        self._go_until = 0  # so that the end of it is seen
        return self._turn is not None

    def _end_turn(self, size: int) -> None:
        if self._turn is not None and self._turns is not None:
            self._turns.end(self._turn, size)
            self._earlier_turn = self._turn if self._may_be_large(size) else None
            self._turn = None


class _Gate:
    """Where one thread sleeps until another opens it. Opened while nobody sleeps, it lets the next one through."""

    __slots__ = ("_lock",)

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._lock.acquire()

    def wait(self, timeout: float) -> None:
        self._lock.acquire(timeout=max(0.0, timeout))

    def open(self) -> None:
        with contextlib.suppress(RuntimeError):  # it is open
            self._lock.release()


def only_bytes(block: object) -> bytes:
    """Return an event stream's *block* as exactly `bytes`, or raise the `TypeError` that PEP 3333 wants, naming its type.

    Servers differ: one drops other types silently, some pass a few of them, most abort.
    """
    if isinstance(block, bytes):
        return bytes(block)  # some servers refuse subclasses
    hint = ": yield bytes(event)" if isinstance(block, Event) else ""
    raise TypeError(f"an event stream's blocks must be bytes, got {type(block).__name__}{hint}")
