"""What a stream does with an event that is too big for its readers: the way through `Fold` and `Fragment`, and a warning.

Browsers and clients have limits on the length of a line or of an event, and some take quadratic time below them. A
`Reshaping` is one step that changes the bytes of one stream so that they can be read, without changing what is read; an
`OversizedEvents` is all that one stream does: its steps, and a `LongLineWatch` that tells of what is still too long.

Nothing here does I/O, starts a thread or reads a clock.
"""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from itertools import chain

from .event_stream import BOM, first_line_end, last_line_end

LONG_LINE = 65536  # bytes; Go's readers refuse a longer line, aiohttp's one of twice to eight times that

# How data begins that is a JSON object or array (RFC 8259), as far as its first line tells.
_JSON_BEGINS = re.compile(rb'[ \t]*(?:\{[ \t]*["}\r\n]|\[[ \t]*(?:[\[{"\]\-0-9\r\n]|true|false|null))')
_HEAD = 256  # bytes of a line that tell what it is


def begins_as_json(text: bytes, start: int = 0, stop: int | None = None) -> bool:
    """Tell whether the data in ``text[start:stop]`` begins as a JSON object or array."""
    return _JSON_BEGINS.match(text, start, len(text) if stop is None else stop) is not None


class Reshaping(ABC):
    """One event stream on its way through one step, block by block. Not for two threads.

    What comes out may be read as what went in; with what does not need the step it is the very same. It comes out as soon as
    it may: what is held back is the beginning of something that is not complete.
    """

    __slots__ = ("_held", "_held_size", "_is_first", "_needed")

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
        """Whether an event of the application's has left in part, whatever the last byte sent looks like."""
        return False

    @abstractmethod
    def passes(self, block: bytes) -> bool:
        """Tell, fast, that *block* leaves just as it is, which is then done; False says nothing: `feed` it.

        Asking twice for one block does no harm.
        """

    @abstractmethod
    def _completes(self, block: bytes) -> bool:
        """Tell whether what is held has to be looked at again when *block* has come, however little it is."""

    @abstractmethod
    def _go_through(self, buffer: bytes) -> Iterator[bytes]:
        """Yield what may leave of *buffer*, and hold the rest."""

    def feed(self, block: bytes) -> Iterator[bytes]:
        """Yield what may leave now that *block* has come, maybe nothing. To be exhausted before the next call."""
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
        """Yield what is still held at the stream's end: the beginning of what the application left unfinished."""
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
    """All that one stream does with oversized events: *steps*, one behind the other. Not for two threads."""

    __slots__ = ("_steps", "only_watches")

    def __init__(self, steps: Sequence[Reshaping]) -> None:
        self._steps = steps
        self.only_watches = all(isinstance(step, LongLineWatch) for step in steps)

    @property
    def is_holding(self) -> bool:
        """Whether bytes wait for those that follow them."""
        return any(step.is_holding for step in self._steps)

    @property
    def is_inside(self) -> bool:
        """Whether an event of the application's has left in part."""
        return any(step.is_inside for step in self._steps)

    def passes(self, block: bytes) -> bool:
        """Tell, fast, that *block* leaves just as it is, which is then done; False says nothing: `feed` it."""
        for step in self._steps:  # noqa: SIM110  (a generator would cost as much as all that it asks)
            if not step.passes(block):
                return False
        return True

    def feed(self, block: bytes) -> Iterator[bytes]:
        """Yield what may leave now that *block* has come, maybe nothing. To be exhausted before the next call."""
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


class LongLineWatch(Reshaping):
    """A step that changes nothing: it calls *tell* with the beginning of the first ``data`` line that is a `LONG_LINE`."""

    __slots__ = ("_has_told", "_head", "_length", "_tell")

    def __init__(self, tell: Callable[[bytes], object]) -> None:
        super().__init__()
        self._is_first = False
        self._tell = tell
        self._has_told = False
        self._head = b""  # of the unfinished line
        self._length = 0  # of as much of it as has come

    @property
    def is_holding(self) -> bool:
        """Whether a line has begun that may become long; nothing is held back."""
        return bool(self._length) and not self._has_told

    def passes(self, block: bytes) -> bool:
        """Tell that *block* ends no long line and begins none."""
        return self._has_told or (not self._length and len(block) <= LONG_LINE and block.endswith(b"\n"))

    def _completes(self, block: bytes) -> bool:  # noqa: ARG002
        return True

    def _go_through(self, buffer: bytes) -> Iterator[bytes]:
        at = 0
        while at < len(buffer) and not self._has_told:
            if not self._length:
                if line_end := last_line_end(buffer, at, at + LONG_LINE + 1):  # many short ones
                    at = line_end
                    continue
                self._head = b""
            end = first_line_end(buffer, at)
            stop = len(buffer) if end < 0 else end
            self._head += buffer[at : min(stop, at + _HEAD - len(self._head))]
            self._length += stop - at
            self._maybe_tell()
            if end >= 0:
                self._length = 0
            at = stop + 1
        yield buffer

    def _maybe_tell(self) -> None:
        head = self._head.removeprefix(BOM)
        if self._length > LONG_LINE and head.startswith(b"data:"):
            self._has_told = True
            self._tell(head.removeprefix(b"data:"))
