r"""Read an event stream as a client does: `read_events` iterates over blocks, an `EventReader` is given them one by one.

>>> [event.data for event in read_events([b"data: split any", b"where\r\n\r", b"\n"])]
['split anywhere']

A browser needs neither. Nothing here does I/O, starts a thread or reads a clock.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import chain

from .event_stream import Event, LineReader, received_event
from .oversized import FragmentJoiner


def read_events(blocks: Iterable[bytes], *, join_fragments: bool = False) -> Iterator[Event]:
    """Yield the events of the event stream in *blocks*, cut anywhere, as WHATWG 9.2.5 and 9.2.6 say.

    An event's ``event`` is its type, None for ``message``. Its ``id`` is the last event ID of the stream at that point: it may
    come from an earlier event, and is None before the first one. ``retry`` is what came with the event. An event that is
    unfinished at the stream's end is not yielded. Bytes that are not UTF-8 become U+FFFD. With *join_fragments*, events of type
    ``fragment`` that `ssemiddleware.Fragment` has made are joined to the event that they were.
    """
    reader = EventReader()
    events = chain.from_iterable(map(reader.feed, blocks))
    return filter(None, map(FragmentJoiner().join, events)) if join_fragments else events


class EventReader:
    """Reads an event stream that it is given block by block. Not for two threads.

    Takes linear time, however the stream is cut into blocks.
    """

    def __init__(self) -> None:
        self.last_event_id = ""  # what a client sends as Last-Event-ID when it connects again
        self.retry: int | None = None  # the last reconnection time in milliseconds
        self._lines = LineReader()
        self._clear()

    def _clear(self) -> None:
        self._data: list[bytes] = []
        self._type = self._event_id = b""
        self._event_retry: int | None = None
        self._has_id = False

    @property
    def is_inside(self) -> bool:
        """Whether a part of an event, or of a line, has come and not yet its end."""
        return bool(self._data or self._type) or self._lines.is_inside

    def feed(self, block: bytes) -> Iterator[Event]:
        """Yield the events that *block* completes."""
        for line in self._lines.feed(block):
            if not line:
                yield from self._dispatch()
            elif not line.startswith(b":"):
                self._take_field(line)

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
