r"""Several events of type ``fragment`` as one again: how a reader undoes what `fragment` describes.

>>> from ssemiddleware.event_stream import Event
>>> joiner = FragmentJoiner()
>>> joiner.join(Event("0-2/6\nabc", "fragment"))
>>> joiner.join(Event("3-5/6\ndef", "fragment")).data
'abcdef'
"""

from __future__ import annotations

import re

from ..event_stream import Event, received_event

TYPE = "fragment"

_NUMBER = "(?:0|[1-9][0-9]{0,17})"
_HEADER = re.compile(f"(?P<first>{_NUMBER})-(?P<last>{_NUMBER})/(?P<length>{_NUMBER}|\\*)(?: (?P<type>[^\\n]+))?\\n")


class FragmentJoiner:
    """Joins the fragments of events, in linear time. Not for two threads.

    For a reader of any kind: give it each event of type ``fragment``, and call `discard` when the stream breaks off or another
    event comes. An event of which a fragment is missing is thrown away, never taken for a whole one.
    """

    def __init__(self) -> None:
        self.discard()

    def discard(self) -> None:
        """Throw away the fragments of an unfinished event."""
        self._pieces: list[str] = []
        self._next = 0
        self._length: str | None = None
        self._retry: int | None = None

    def join(self, event: Event) -> Event | None:
        """Return *event* if it is no fragment, the whole event if it is the last one, else None."""
        header = _HEADER.match(event.data) if event.event == TYPE else None
        if header is None:
            self.discard()
            return event
        first, last, length = int(header["first"]), int(header["last"]), header["length"]
        if first == 0:
            self.discard()
        if first != self._next or last < first or self._length not in (None, "*", length):
            self.discard()
            return None
        self._pieces.append(event.data[header.end() :])
        self._next, self._length, self._retry = last + 1, length, event.retry if event.retry is not None else self._retry
        if length != str(self._next):
            return None
        whole = received_event("".join(self._pieces), header["type"], event.id, self._retry)
        self.discard()
        return whole
