r"""A watch on the lines of a stream, which reports the first one that is too long for some readers.

>>> watch = LongLineWatch(lambda data: print(data[:16]))
>>> list(watch.feed(b"data: 1\n\n")), watch.is_holding
([b'data: 1\n\n'], False)
>>> _ = list(watch.feed(b"data: " + b"x" * LONG_LINE + b"\n\n"))
b' xxxxxxxxxxxxxxx'
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from ..event_stream import BOM, first_line_end, last_line_end
from .reshaping import LONG_LINE, Reshaping

_HEAD = 256  # bytes that show what a line is


class LongLineWatch(Reshaping):
    """A step that changes nothing: it calls *report* with the beginning of the first ``data`` line that is a `LONG_LINE`."""

    __slots__ = ("_has_reported", "_head", "_length", "_report")

    only_watches = True

    def __init__(self, report: Callable[[bytes], object]) -> None:
        super().__init__()
        self._is_first = False
        self._report = report
        self._has_reported = False
        self._head = b""  # of the unfinished line
        self._length = 0  # of as much of it as has come

    @property
    def is_holding(self) -> bool:
        """Whether a line has begun that may become long; nothing is held back."""
        return bool(self._length) and not self._has_reported

    def passes(self, block: bytes) -> bool:
        """Tell whether no line that ends or begins in *block* is a long one."""
        return self._has_reported or (not self._length and len(block) <= LONG_LINE and block.endswith(b"\n"))

    def _completes(self, block: bytes) -> bool:  # noqa: ARG002
        return True

    def _go_through(self, buffer: bytes) -> Iterator[bytes]:
        at = 0
        while at < len(buffer) and not self._has_reported:
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
            self._has_reported = True
            self._report(head.removeprefix(b"data:"))
