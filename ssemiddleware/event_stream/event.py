r"""One event, and how it is written.

>>> bytes(Event("two\nlines", event="greeting", id="7"))
b'event: greeting\nid: 7\ndata: two\ndata: lines\n\n'

Use `Event` to write a stream in an application; its reader is in `ssemiddleware.reading`.
"""

from __future__ import annotations

import json as json_module
import re
from dataclasses import dataclass

_TEXT_LINE_END = re.compile(r"\r\n|\n|\r")


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
