r"""Whole lines out of blocks that are cut anywhere (WHATWG 9.2.5).

>>> lines = LineReader()
>>> [*lines.feed(b"data: split any"), *lines.feed(b"where\r"), *lines.feed(b"\n\n")]
[b'data: split anywhere', b'']
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from .lines import BOM

_LINE_END = re.compile(rb"\r\n|\n|\r")


class LineReader:
    """Reads the lines of an event stream, without their ends and the stream's byte order mark. Not for two threads.

    Linear in the stream's length, whatever the blocks are.
    """

    __slots__ = ("_at_start", "_pieces", "_skip_lf")

    def __init__(self) -> None:
        self._pieces: list[bytes] = []  # of the unfinished line
        self._skip_lf = False  # the last line end was a CR: a LF that follows belongs to it
        self._at_start = True

    def feed(self, block: bytes) -> Iterator[bytes]:
        """Yield the lines that *block* completes."""
        if not block:
            return
        if self._skip_lf and block.startswith(b"\n"):
            block = block[1:]
        self._skip_lf = block.endswith(b"\r")
        lines = _LINE_END.split(block)
        if len(lines) == 1:
            self._pieces.append(block)
            return
        self._pieces.append(lines[0])
        lines[0] = self.unfinished
        self._at_start = False
        self._pieces = [lines.pop()]
        yield from lines

    @property
    def is_inside(self) -> bool:
        """Whether something has come of the line under way."""
        return any(self._pieces)

    @property
    def unfinished(self) -> bytes:
        """What has come of the line under way."""
        line = b"".join(self._pieces)
        return line.removeprefix(BOM) if self._at_start else line
