r"""The bytes of an event stream: where lines and events end, and where a block may be cut.

>>> list(pieces_of(b"data: one\n\ndata: two\n\n", 16))
[b'data: one\n\n', b'data: two\n\n']
"""

from __future__ import annotations

import re
from collections.abc import Iterator

MEDIA_TYPE = "text/event-stream"

#: A comment line of our own: an opening or a heartbeat. It has one line end and not two: a blank line would break an unfinished
#: event apart, and several readers take even a blank line between events for an event.
HEARTBEAT = b":\n"

BOM = b"\xef\xbb\xbf"

#: How a block that ends with a blank line ends, whatever is before it. Not with CR: a LF may follow.
BLANK_LINES = (b"\n\n", b"\n\r\n")

LF, CR = 0x0A, 0x0D

# Bytes that are searched at once. A search for LF that runs to the block's end would be quadratic where all lines end with CR.
_WINDOW = 16384

# A line end, and an empty line after it (9.2.5: end-of-line = ( cr lf / cr / lf )). A CR before LF is half a line end.
BLANK_LINE = re.compile(rb"(?:\r\n|\n|\r(?!\n))(?:\r\n|\n|\r)")
COUNTED = 1024  # bytes of a block in which the ends of events are counted: a microsecond


def retry_line(milliseconds: int) -> bytes:
    """Return the last block of a stream that we end: how long an EventSource waits before it reconnects.

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
    if block[end] == LF and block[end - 1] == CR:
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
    """Return the index after the last blank line in ``block[start:end]``, which ends where a line ends; 0 without one."""
    blank = block.rfind(b"\n\n", start, end)
    if has_cr:  # the search for two bytes is the slow one, so it is spared where there is no CR
        blank = max(blank, block.rfind(b"\n\r", start, end), block.rfind(b"\r\r", start, end))
    if blank < 0:
        return 0
    blank += 2
    return blank + 1 if block[blank - 1] == CR and block[blank : blank + 1] == b"\n" else blank


def last_event_end(block: bytes, start: int = 0, stop: int | None = None) -> int:
    """Return the index after the last blank line in ``block[start:stop]``, 0 without one."""
    stop = len(block) if stop is None else stop
    return _event_end_before(block, start, stop, has_cr=block.find(b"\r", start, stop) >= 0)


def first_event_end(block: bytes, start: int = 0) -> int:
    """Return the index after the first blank line in ``block[start:]`` that follows a line; 0 without one."""
    for at in range(start, len(block), _WINDOW):
        stop = at + _WINDOW + 1
        ends = [block.find(b"\n\n", at, stop)]
        if block.find(b"\r", at, ends[0] if ends[0] >= 0 else stop) >= 0:
            ends += [block.find(b"\n\r", at, stop), block.find(b"\r\r", at, stop)]
        end = min((end + 2 for end in ends if end >= 0), default=0)
        if end:
            return end + 1 if block[end - 1] == CR and block[end : end + 1] == b"\n" else end
    return 0


def count_event_ends(block: bytes) -> int:
    """Return how many events end in *block*: exactly up to 1 KiB; a longer one is one event, or many like its first ones.

    To count in all of a large block would take longer than to send it.
    """
    if len(block) <= COUNTED:
        return block.count(b"\n\n") or len(BLANK_LINE.findall(block))
    first_line = block.find(b"\n", 0, COUNTED)
    ends = block.count(b"\n\n", first_line, COUNTED) if first_line >= 0 else 0
    if ends > 1:
        return round(ends * len(block) / (block.rfind(b"\n\n", 0, COUNTED) + 2))
    return 1 if block.endswith((b"\n\n", b"\r\n\r\n", b"\r\r")) else 0


def last_line_end(block: bytes, start: int, stop: int) -> int:
    """Return the index after the last LF or CR in ``block[start:stop]``, 0 without one."""
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
    """Return the index after the line end at *end*; a LF that belongs to a CR there may come with the next block."""
    return end + 2 if block[end : end + 2] == b"\r\n" else end + 1
