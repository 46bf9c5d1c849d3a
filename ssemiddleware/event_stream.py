r"""``text/event-stream`` as bytes: where lines and events end, where a block may be cut, how one is written.

The format is WHATWG HTML's, section 9.2 ("Server-sent events"). Nothing here does I/O, starts a thread or reads a clock.

>>> bytes(Event("two\nlines", event="greeting", id="7"))
b'event: greeting\nid: 7\ndata: two\ndata: lines\n\n'

Use `Event` to write a stream in an application; its reader is in `ssemiddleware.event_reader`.
"""

from __future__ import annotations

import json as json_module
import re
from collections.abc import Iterator
from dataclasses import dataclass

MEDIA_TYPE = "text/event-stream"

#: A comment line of our own: the opening of an announced stream and its heartbeat. One line end and not two: a blank line
#: would tear an unfinished event apart, and several readers take even one between events for an event.
HEARTBEAT = b":\n"

BOM = b"\xef\xbb\xbf"

#: How a block ends that ends with a blank line, whatever stands before it. CR has no part in this: a LF may follow.
BLANK_LINES = (b"\n\n", b"\n\r\n")

_LF, _CR = 0x0A, 0x0D

# Bytes that are searched at once. A search for LF that runs to the block's end would be quadratic where all lines end with CR.
_WINDOW = 16384

# A line end, and an empty line behind it (9.2.5: end-of-line = ( cr lf / cr / lf )). A CR before LF is half a line end.
_BLANK_LINE = re.compile(rb"(?:\r\n|\n|\r(?!\n))(?:\r\n|\n|\r)")
_FIELD_LINE = re.compile(rb"[\r\n][^:\r\n]")
_COUNTED = 1024  # bytes of a block in which the ends of events are counted: a microsecond
_TEXT_LINE_END = re.compile(r"\r\n|\n|\r")


def retry_line(milliseconds: int) -> bytes:
    """Return the last block of a stream that we end ourselves: how long an EventSource waits before it comes back.

    The blank line is for Node's EventSource, which keeps a reconnection time only when a block ends.
    """
    return b"retry: %d\n\n" % milliseconds


def next_cut(block: bytes, start: int, size: int) -> int:
    """Return where the piece of *block* that begins at *start* ends, at most *size* bytes further on (16 or more).

    It ends where an event ends if one does there, else where a line does, else before a character (UTF-8); never between
    CR and LF. Old readers take a block for an event, or for a line.
    """
    end = start + size
    if end >= len(block):
        return len(block)
    if block[end] == _LF and block[end - 1] == _CR:
        end -= 1
    line_feed = block.rfind(b"\n", start, end)
    carriage_return = block.rfind(b"\r", start, end)
    if line_feed < 0 and carriage_return < 0:
        return character_start(block, end)
    line_end = max(line_feed, carriage_return) + 1
    return _event_end_before(block, start, line_end, has_cr=carriage_return >= 0) or line_end


def pieces_of(block: bytes, max_block: int) -> Iterator[bytes]:
    """Yield *block* cut where `next_cut` says, an empty one as it is."""
    if len(block) <= max_block:
        yield block
        return
    start = 0
    while start < len(block):
        end = next_cut(block, start, max_block)
        yield block[start:end]
        start = end


def character_start(block: bytes, end: int) -> int:
    """Return the nearest start of a character at or before *end*; *end* itself in what is not UTF-8."""
    for nearest in range(end, end - 4, -1):
        if block[nearest] & 0xC0 != 0x80:
            return nearest
    return end


def _event_end_before(block: bytes, start: int, end: int, *, has_cr: bool) -> int:
    """Return the index behind the last blank line in ``block[start:end]``, which ends where a line ends; 0 without one."""
    blank = block.rfind(b"\n\n", start, end)
    if has_cr:  # the search for two bytes is the slow one, so it is spared where there is no CR
        blank = max(blank, block.rfind(b"\n\r", start, end), block.rfind(b"\r\r", start, end))
    if blank < 0:
        return 0
    blank += 2
    return blank + 1 if block[blank - 1] == _CR and block[blank : blank + 1] == b"\n" else blank


def last_event_end(block: bytes, start: int = 0, stop: int | None = None) -> int:
    """Return the index behind the last blank line in ``block[start:stop]``, 0 without one."""
    stop = len(block) if stop is None else stop
    return _event_end_before(block, start, stop, has_cr=block.find(b"\r", start, stop) >= 0)


def first_event_end(block: bytes, start: int = 0) -> int:
    """Return the index behind the first blank line in ``block[start:]`` that follows a line; 0 without one."""
    for at in range(start, len(block), _WINDOW):
        stop = at + _WINDOW + 1
        ends = [block.find(b"\n\n", at, stop)]
        if block.find(b"\r", at, ends[0] if ends[0] >= 0 else stop) >= 0:
            ends += [block.find(b"\n\r", at, stop), block.find(b"\r\r", at, stop)]
        end = min((end + 2 for end in ends if end >= 0), default=0)
        if end:
            return end + 1 if block[end - 1] == _CR and block[end : end + 1] == b"\n" else end
    return 0


def count_event_ends(block: bytes) -> int:
    """Return how many events end in *block*: exactly up to 1 KiB; a longer one is one event, or many like its first ones.

    To count in all of a large block would take longer than to send it.
    """
    if len(block) <= _COUNTED:
        return block.count(b"\n\n") or len(_BLANK_LINE.findall(block))
    first_line = block.find(b"\n", 0, _COUNTED)
    ends = block.count(b"\n\n", first_line, _COUNTED) if first_line >= 0 else 0
    if ends > 1:
        return round(ends * len(block) / (block.rfind(b"\n\n", 0, _COUNTED) + 2))
    return 1 if block.endswith((b"\n\n", b"\r\n\r\n", b"\r\r")) else 0


def last_line_end(block: bytes, start: int, stop: int) -> int:
    """Return the index behind the last LF or CR in ``block[start:stop]``, 0 without one."""
    return max(block.rfind(b"\n", start, stop), block.rfind(b"\r", start, stop)) + 1


def first_line_end(block: bytes, start: int = 0, stop: int | None = None) -> int:
    """Return the index of the first LF or CR in ``block[start:stop]``, -1 without one."""
    stop = len(block) if stop is None else min(stop, len(block))
    for at in range(start, stop, _WINDOW):
        window_stop = min(stop, at + _WINDOW)
        line_feed = block.find(b"\n", at, window_stop)
        carriage_return = block.find(b"\r", at, window_stop if line_feed < 0 else line_feed)
        end = line_feed if carriage_return < 0 else carriage_return
        if end >= 0:
            return end
    return -1


def behind_line_end(block: bytes, end: int) -> int:
    """Return the index behind the line end at *end*; a LF that belongs to a CR there may come with the next block."""
    return end + 2 if block[end : end + 2] == b"\r\n" else end + 1


class Position:
    """Where in an event stream the last byte sent stands: the answer to "what may follow here?".

    Begins at the start of a stream, or, with ``anywhere=True``, in the middle of an event of which nothing is known. Not
    for two threads.
    """

    __slots__ = ("_in_comment", "_last", "in_event")

    def __init__(self, *, anywhere: bool = False) -> None:
        self.in_event = anywhere  # a field, or half a line, was sent since the last blank line
        self._last = 0 if anywhere else _LF  # the last byte sent
        self._in_comment = False  # the unfinished line is a comment

    @property
    def takes_comment(self) -> bool:
        """Whether a comment of ours may go here: behind a LF. A CR may yet turn out to be half of a CRLF."""
        return self._last == _LF

    @property
    def takes_end(self) -> bool:
        """Whether the stream may end here with nothing lost: no event and no line is unfinished."""
        return not self.in_event and self._last in (_LF, _CR)

    def advance(self, block: bytes) -> None:
        """Go behind *block*, which is not empty."""
        if block.endswith(b"\n\n"):  # nearly always
            self._last, self.in_event, self._in_comment = _LF, False, False
            return
        has_cr = b"\r" in block
        if not has_cr and b"\n" not in block:
            self._begin_or_continue_line(block)
        else:
            self._pass_lines(block, has_cr)
        self._last = block[-1]

    def event_end(self, block: bytes) -> int:
        """Return the index behind the first blank line in *block*, which comes next; -1 without one."""
        return first_event_end(bytes((self._last,)) + block) - 1

    def _begin_or_continue_line(self, block: bytes) -> None:
        if self._last in (_LF, _CR):
            self._in_comment = block.startswith(b":")
        self.in_event = self.in_event or not self._in_comment

    def _pass_lines(self, block: bytes, has_cr: bool) -> None:
        event_end = _event_end_before(block, 0, len(block), has_cr=has_cr)
        if not event_end and _BLANK_LINE.match(bytes((self._last,)) + block[:2]):
            event_end = 1
        if event_end:
            self.in_event, rest = False, b"\n" + block[event_end:]
        else:  # what stands for the line begun before: its end, or as much of it as tells a comment from a field
            rest = (b"\n" if self._last in (_LF, _CR) else b"\n:") + block
        self.in_event = self.in_event or _FIELD_LINE.search(rest) is not None
        last_line = rest[max(rest.rfind(b"\n"), rest.rfind(b"\r")) + 1 :]
        self._in_comment = last_line.startswith(b":")


class OpaquePosition(Position):
    """A place in a body that is encoded or must not be (204): it takes no comment, and nobody knows where it may end."""

    __slots__ = ()

    def __init__(self) -> None:
        super().__init__(anywhere=True)

    def advance(self, block: bytes) -> None:
        """Know as little as before."""

    def event_end(self, block: bytes) -> int:  # noqa: ARG002
        """Return -1: what looks like a blank line is none."""
        return -1


class _Unset:
    def __repr__(self) -> str:
        return "<unset>"


_UNSET = _Unset()


@dataclass(frozen=True, slots=True, init=False)
class Event:
    """One event: its ``data``, and what may go with it. ``bytes(event)`` is the block to yield. Immutable.

    *data*: text; each of its lines (ended by CR, LF or CRLF) becomes a ``data`` field, so a reader sees LF everywhere.
    *json*: instead of data, any value that the standard library's ``json`` can write; on one line of ASCII, since several
    readers break lines at U+2028 and U+0085 too.
    *event*: the event's type; none means ``message``. *id*: what the client sends back as Last-Event-ID; ``""`` resets it.
    *retry*: whole milliseconds that an EventSource waits before it connects again.

    Raises `ValueError` for a line end or NUL in *event* or *id* (it would inject a field, or be ignored), and for a *retry*
    that is no whole number from 0; `TypeError` unless one of *data* and *json* is given.
    """

    data: str
    event: str | None
    id: str | None
    retry: int | None

    def __init__(
        self,
        data: str | _Unset = _UNSET,
        event: str | None = None,
        id: str | None = None,
        retry: int | None = None,
        *,
        json: object = _UNSET,
    ) -> None:
        if (data is _UNSET) == (json is _UNSET):
            raise TypeError("an Event takes either data or json")
        if data is _UNSET:
            data = json_module.dumps(json, separators=(",", ":"))
        if not isinstance(data, str):
            raise TypeError(f"data must be a str, got {data!r}; json= takes other values")
        _check_one_line("event", event)
        _check_one_line("id", id)
        if retry is not None and (type(retry) is not int or retry < 0):
            raise ValueError(f"retry must be a whole number of milliseconds from 0, or None, got {retry!r}")
        self._set(data, event, id, retry)

    def _set(self, data: str, event: str | None, id: str | None, retry: int | None) -> None:
        for name, value in (("data", data), ("event", event), ("id", id), ("retry", retry)):
            object.__setattr__(self, name, value)

    def __bytes__(self) -> bytes:
        lines = []
        if self.event is not None:
            lines.append(f"event: {self.event}")
        if self.id is not None:
            lines.append(f"id: {self.id}")
        if self.retry is not None:
            lines.append(f"retry: {self.retry}")
        lines += [f"data: {line}" for line in _TEXT_LINE_END.split(self.data)]
        return ("\n".join(lines) + "\n\n").encode()


def _check_one_line(name: str, value: str | None) -> None:
    if value is not None and (not isinstance(value, str) or any(character in value for character in "\r\n\0")):
        raise ValueError(f"{name} must be a str without CR, LF and NUL, or None, got {value!r}")


def received_event(data: str, event: str | None, id: str | None, retry: int | None) -> Event:
    """Return the `Event` that a reader has got; its type may hold a NUL, which ``Event(...)`` refuses to write."""
    received = object.__new__(Event)
    received._set(data, event, id, retry)
    return received
