"""Where in an event stream the last byte that was sent is, and so what may follow it.

>>> position = Position()
>>> position.advance(b"data: half an ev")
>>> position.takes_comment, position.takes_end
(False, False)
"""

from __future__ import annotations

import re

from .lines import BLANK_LINE, CR, LF, first_event_end, last_event_end

# Bytes at a block's end in which a field is looked for first. The search for blank lines takes 50 us in 128 KiB of short lines.
_TAIL = 1024
_FIELD_LINE = re.compile(rb"[\r\n][^:\r\n]")


class Position:
    """The place of the last byte that was sent: it answers "what may follow here?".

    Begins at the start of a stream or, with ``anywhere=True``, in the middle of an unknown event. Not for two threads.
    """

    __slots__ = ("_in_comment", "_last", "in_event")

    def __init__(self, *, anywhere: bool = False) -> None:
        self.in_event = anywhere  # a field, or half a line, was sent since the last blank line
        self._last = 0 if anywhere else LF  # the last byte sent
        self._in_comment = False  # the unfinished line is a comment

    @property
    def takes_comment(self) -> bool:
        """Whether a comment of ours may be added here: only after a LF. A CR may be the first half of a CRLF."""
        return self._last == LF

    @property
    def takes_end(self) -> bool:
        """Whether the stream may end here and nothing is lost: no event and no line is unfinished."""
        return not self.in_event and self._last in (LF, CR)

    @property
    def is_after_event(self) -> bool:
        """Whether both are true: nearly always."""
        return not self.in_event and self._last == LF

    def advance(self, block: bytes) -> None:
        """Move to the end of *block*, which is not empty."""
        if block.endswith(b"\n\n"):  # nearly always
            self._last, self.in_event, self._in_comment = LF, False, False
            return
        if b"\r" not in block and b"\n" not in block:
            self._begin_or_continue_line(block)
        elif not self._pass_field(block):
            self._pass_lines(block)
        self._last = block[-1]

    def event_end(self, block: bytes) -> int:
        """Return the index after the first blank line in *block*, which comes next; -1 without one."""
        return first_event_end(bytes((self._last,)) + block) - 1

    def _begin_or_continue_line(self, block: bytes) -> None:
        if self._last in (LF, CR):
            self._in_comment = block.startswith(b":")
        self.in_event = self.in_event or not self._in_comment

    def _pass_field(self, block: bytes) -> bool:
        """Move to the end of *block* if its last bytes show that it ends in an event; return whether they do."""
        tail = block[-_TAIL:]
        if b"\r" in tail or b"\n\n" in tail or _FIELD_LINE.search(tail) is None:
            return False
        self.in_event, self._in_comment = True, tail.startswith(b":", tail.rfind(b"\n") + 1)
        return True

    def _pass_lines(self, block: bytes) -> None:
        event_end = last_event_end(block)
        if not event_end and BLANK_LINE.match(bytes((self._last,)) + block[:2]):
            event_end = 1
        if event_end:
            self.in_event, rest = False, b"\n" + block[event_end:]
        else:  # what stands for the line begun before: its end, or as much of it as tells a comment from a field
            rest = (b"\n" if self._last in (LF, CR) else b"\n:") + block
        self.in_event = self.in_event or _FIELD_LINE.search(rest) is not None
        last_line = rest[max(rest.rfind(b"\n"), rest.rfind(b"\r")) + 1 :]
        self._in_comment = last_line.startswith(b":")


class OpaquePosition(Position):
    """A place in a body that is encoded or must not exist (204). No comment may be added, and where it may end is unknown."""

    __slots__ = ()

    def __init__(self) -> None:
        super().__init__(anywhere=True)

    def advance(self, block: bytes) -> None:
        """Know as little as before."""

    def event_end(self, block: bytes) -> int:  # noqa: ARG002
        """Return -1: what looks like a blank line is not one."""
        return -1
