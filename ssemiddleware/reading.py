r"""An event stream as a client reads it: `read_events` iterates over blocks, `EventReader` is fed with them.

>>> [event.data for event in read_events([b"data: split any", b"where\r\n\r", b"\n"])]
['split anywhere']

A browser needs neither. Nothing here does I/O, starts a thread or reads a clock.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from itertools import chain

from .event_stream import BOM, Event, received_event
from .oversized import FragmentJoiner

_LINE_END = re.compile(rb"\r\n|\n|\r")


def read_events(blocks: Iterable[bytes], *, join_fragments: bool = False) -> Iterator[Event]:
    """Yield the events of the event stream in *blocks*, cut anywhere, as WHATWG 9.2.5 and 9.2.6 say.

    An event's ``event`` is its type, None for ``message``; its ``id`` is the last event ID when it came, so it may be an
    earlier event's, and None as long as there is none; ``retry`` is what came with it. An event that is
    unfinished at the stream's end is not yielded. Bytes that are no UTF-8 become U+FFFD. With *join_fragments*, the events of
    type ``fragment`` that `ssemiddleware.Fragment` makes of an event are that event again.
    """
    reader = EventReader()
    events = chain.from_iterable(map(reader.feed, blocks))
    return filter(None, map(FragmentJoiner().join, events)) if join_fragments else events


class EventReader:
    """Reads an event stream, and is fed block by block. Not for two threads.

    Linear in the stream's length, whatever the blocks are.
    """

    def __init__(self) -> None:
        self.last_event_id = ""  # what a client sends as Last-Event-ID when it connects again
        self.retry: int | None = None  # the last reconnection time in milliseconds
        self._line: list[bytes] = []  # the pieces of the unfinished line
        self._skip_lf = False  # the last line end was a CR: a LF that follows belongs to it
        self._at_start = True
        self._clear()

    def _clear(self) -> None:
        self._data: list[bytes] = []
        self._type = self._event_id = b""
        self._event_retry: int | None = None
        self._has_id = False

    def feed(self, block: bytes) -> Iterator[Event]:
        """Yield the events that *block* completes."""
        for line in self._complete_lines(block):
            if not line:
                yield from self._dispatch()
            elif not line.startswith(b":"):
                self._take_field(line)

    def _complete_lines(self, block: bytes) -> Iterator[bytes]:
        if not block:
            return
        if self._skip_lf and block.startswith(b"\n"):
            block = block[1:]
        self._skip_lf = block.endswith(b"\r")
        lines = _LINE_END.split(block)
        if len(lines) == 1:
            self._line.append(block)
            return
        self._line.append(lines[0])
        lines[0] = b"".join(self._line)
        self._line = [lines.pop()]
        if self._at_start:
            self._at_start = False
            lines[0] = lines[0].removeprefix(BOM)
        yield from lines

    def _take_field(self, line: bytes) -> None:
        name, _, value = line.partition(b":")
        value = value.removeprefix(b" ")
        if name == b"data":
            self._data.append(value)
        elif name == b"event":
            self._type = value
        elif name == b"id" and b"\0" not in value:
            self._event_id, self._has_id = value, True
        elif name == b"retry" and value.isdigit() and len(value) < 4300:  # ASCII digits only; int() takes no more
            self.retry = self._event_retry = int(value)

    def _dispatch(self) -> Iterator[Event]:
        if self._has_id:
            self.last_event_id = self._event_id.decode(errors="replace")
        data, event, retry = self._data, self._type, self._event_retry
        self._clear()
        if data:
            text, event_type = b"\n".join(data).decode(errors="replace"), event.decode(errors="replace")
            yield received_event(text, event_type or None, self.last_event_id or None, retry)
