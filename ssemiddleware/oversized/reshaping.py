"""The way of a stream's bytes through `Fold`, `Fragment` and `LongLineWatch`, one step after the other.

A `Reshaping` is one step that changes the bytes of one stream so that they can be read, without changing what is read. An
`OversizedEvents` is all the steps of one stream.
"""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from itertools import chain
from typing import ClassVar

from ..event_stream import BOM

LONG_LINE = 65536  # bytes; Go's readers refuse a longer line, aiohttp's one of twice to eight times that

# The beginning of data that is a JSON object or array (RFC 8259), as far as its first line shows.
_JSON_BEGINS = re.compile(rb'[ \t]*(?:\{[ \t]*["}\r\n]|\[[ \t]*(?:[\[{"\]\-0-9\r\n]|true|false|null))')


def begins_as_json(text: bytes, start: int = 0, stop: int | None = None) -> bool:
    """Tell whether the data in ``text[start:stop]`` begins as a JSON object or array."""
    return _JSON_BEGINS.match(text, start, len(text) if stop is None else stop) is not None


class Reshaping(ABC):
    """One step for one event stream, block by block. Not for two threads.

    A reader gets the same events before and after the step. What does not need the step passes unchanged. Bytes are held back
    only while they are the beginning of something that is not complete.
    """

    __slots__ = ("_held", "_held_size", "_is_first", "_needed")

    only_watches: ClassVar[bool] = False  # it neither changes bytes nor holds them back

    def __init__(self) -> None:
        self._is_first = True  # nothing has been looked at yet: a BOM may come
        self._held: list[bytes] = []  # come, but not to be decided on yet
        self._held_size = 0
        self._needed = 0  # bytes to be there before another look is worth it, unless `_completes` says so

    @property
    def is_holding(self) -> bool:
        """Whether bytes wait for those that follow them."""
        return bool(self._held)

    @property
    def is_inside(self) -> bool:
        """Whether part of an event of the application was sent, whatever the last byte looks like."""
        return False

    @abstractmethod
    def passes(self, block: bytes) -> bool:
        """Tell quickly whether *block* is sent just as it is; then that is done. On False, call `feed`.

        Asking twice for one block does no harm.
        """

    @abstractmethod
    def _completes(self, block: bytes) -> bool:
        """Tell whether what is held has to be looked at again when *block* has come, however little it is."""

    @abstractmethod
    def _go_through(self, buffer: bytes) -> Iterator[bytes]:
        """Yield what may be sent of *buffer*, and hold the rest."""

    def feed(self, block: bytes) -> Iterator[bytes]:
        """Yield what may be sent now that *block* has come; that may be nothing. Exhaust it before the next call."""
        if not block:  # it would be taken for what follows a CR
            return
        if self.passes(block):
            yield block
            return
        if self._held:
            if self._held_size + len(block) < self._needed and not self._completes(block):
                self._hold(block)
                return
            block = b"".join((*self._held, block))
            self._held, self._held_size = [], 0
        if self._is_first and len(block) < len(BOM) and BOM.startswith(block):
            self._wait_for(len(BOM), block, 0)
        else:
            yield from self._go_through(block)

    def finish(self) -> Iterator[bytes]:
        """Yield what is still held at the stream's end: the beginning of something that the application did not finish."""
        held, self._held, self._held_size = self._held, [], 0
        if held:
            yield b"".join(held)

    def _hold(self, block: bytes) -> None:
        self._held.append(block)
        self._held_size += len(block)

    def _wait_for(self, needed: int, buffer: bytes, at: int) -> int:
        """Hold ``buffer[at:]`` until there are *needed* bytes of it; return *at*."""
        self._needed = needed
        self._hold(buffer[at:])
        return at


class OversizedEvents:
    """All that is done to the oversized events of one stream: *steps*, one after the other. Not for two threads."""

    __slots__ = ("_steps", "only_watches")

    def __init__(self, steps: Sequence[Reshaping]) -> None:
        self._steps = steps
        self.only_watches = all(step.only_watches for step in steps)

    @property
    def is_holding(self) -> bool:
        """Whether bytes wait for those that follow them."""
        return any(step.is_holding for step in self._steps)

    @property
    def is_inside(self) -> bool:
        """Whether part of an event of the application was sent."""
        return any(step.is_inside for step in self._steps)

    def passes(self, block: bytes) -> bool:
        """Tell quickly whether *block* is sent just as it is; then that is done. On False, call `feed`."""
        for step in self._steps:  # noqa: SIM110  (a generator would cost as much as all that it asks)
            if not step.passes(block):
                return False
        return True

    def feed(self, block: bytes) -> Iterator[bytes]:
        """Yield what may be sent now that *block* has come; that may be nothing. Exhaust it before the next call."""
        return self._through(iter((block,)), self._steps)

    def finish(self) -> Iterator[bytes]:
        """Yield what is still held at the stream's end."""
        for index, step in enumerate(self._steps):
            yield from self._through(step.finish(), self._steps[index + 1 :])

    @staticmethod
    def _through(blocks: Iterator[bytes], steps: Sequence[Reshaping]) -> Iterator[bytes]:
        for step in steps:
            blocks = chain.from_iterable(map(step.feed, blocks))
        return blocks
