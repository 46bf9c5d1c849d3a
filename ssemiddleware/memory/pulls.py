"""Whether a stream pulls its next block from the application at once, or waits for memory first, and what is kept meanwhile.

A server keeps each block until it has the next one. We let go of a large one as soon as it is sent, unless there is memory for
both: to free all that an event took makes the allocator return it to the system, and the next event has to get it anew. For ten
events of 1 MB that took 25 ms of 38.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

from .turns import Turn, wait_for_turn

if TYPE_CHECKING:
    from .governor import MemoryGovernor


class Pulls:
    """One stream's pulls. Only the server's thread may call it, except `close`.

    *large*: after a block of more than so many bytes the next one is expected to be large too, and needs a turn. *path*: the
    request's; a first block is expected to be as large as that of the last stream of the same path. *kept*: where this and
    other streams keep their large blocks while the next ones are made; any thread may clear it. *paused* is called with the
    seconds of each wait.
    """

    __slots__ = ("_clock", "_governor", "_kept", "_large", "_last", "_path", "_paused", "_sleep", "_turn")

    def __init__(
        self,
        governor: MemoryGovernor | None,
        *,
        large: int,
        path: str = "",
        kept: dict[Pulls, bytes] | None = None,
        paused: Callable[[float], object] = lambda seconds: None,  # noqa: ARG005
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], object] | None = None,
    ) -> None:
        self._governor = governor
        self._large = large
        self._path = path
        self._kept: dict[Pulls, bytes] | None = {} if kept is None else kept  # None once the stream is closed
        self._paused = paused
        self._clock, self._sleep = clock, sleep or time.sleep  # looked up late: greenlets have another one
        self._last: int | None = None  # the size of the last block in bytes, None before the first
        self._turn: Turn | None = None  # held from before a large or a first block is pulled until it has been sent

    def wait(self, must_stop: Callable[[float], bool]) -> bool:
        """Wait for memory if it is low. Return False if *must_stop* became true meanwhile: then nothing must be pulled."""
        governor = self._governor
        if governor is None:
            return True
        turn = self._turn  # read once: another thread may close the stream
        if turn is not None and governor.turns.goes_on(turn, self._last or 0):
            governor.turns.make_another(turn)
            return True
        self._end_turn()  # the last block has been sent
        needs_no_wait, turn = self._has_turn(governor), self._turn
        if turn is None or not turn.has_room:
            self._keep(None)
        if needs_no_wait:
            return True
        has_turn = partial(self._has_turn, governor)
        self._paused(wait_for_turn(has_turn, is_over=must_stop, sleep=self._sleep, clock=self._clock))
        return not must_stop(self._clock())

    def _has_turn(self, governor: MemoryGovernor, waited: float = 0.0) -> bool:
        """Take a turn if the next block may be large: a first one, or one after a large one. Return False if none is free."""
        size, turns = self._last, governor.turns
        if turns.expects_large(self._path) if size is None else size > self._large:
            turn = self._turn = turns.maybe_begin(size or 0, waited, path=self._path)
            if self._kept is None:  # another thread has closed the stream meanwhile
                self._end_turn()
            return turn is not None
        return True

    def note_block(self, block: bytes) -> None:
        """Note that the application has yielded *block*, or has ended: ``b""``."""
        last, size = self._last, len(block)
        self._last = size
        self._keep(block if size > self._large else None)
        if self._governor is None:
            return
        turns, turn = self._governor.turns, self._turn
        if last is None:
            turns.expect(self._path, size)
            if turn is not None:
                turn.first_of = None
        if size > self._large:
            self._turn = turns.send(turn or Turn(), size)
        elif turn is not None:
            turns.end(turn)
            self._turn = None

    def close(self) -> None:
        """End the turn of a block that is still being sent, and keep none. From any thread, twice; it takes no lock."""
        self._keep(None)
        self._kept = None  # first: the server's thread may take another turn
        self._end_turn()

    def _keep(self, block: bytes | None) -> None:
        """Keep *block* in place of the one before, or none."""
        kept = self._kept
        if kept is None:
            return
        if block is None:
            kept.pop(self, None)
        else:
            kept[self] = block

    def _end_turn(self) -> None:
        turn, self._turn = self._turn, None
        if turn is not None and self._governor is not None:
            self._governor.turns.end(turn)
