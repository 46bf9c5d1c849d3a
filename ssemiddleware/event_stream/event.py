r"""One event, and how it is written.

>>> bytes(Event("two\nlines", event="greeting", id="7"))
b'event: greeting\nid: 7\ndata: two\ndata: lines\n\n'

Use `Event` to write a stream in an application; its reader is in `ssemiddleware.reading`.
"""

from __future__ import annotations

import json as json_module
import re
from collections.abc import Callable
from dataclasses import dataclass, field

_TEXT_LINE_END = re.compile(r"\r\n|\n|\r")


class _Unset:
    def __repr__(self) -> str:
        return "<unset>"


_UNSET = _Unset()


@dataclass(frozen=True, slots=True, init=False)
class Event:
    """One event. ``bytes(event)`` is the block to yield. Immutable.

    *data*: text; each of its lines (ended by CR, LF or CRLF) becomes a ``data`` field, so a reader sees LF everywhere.
    *json*: in place of data, any value that the standard library's ``json`` can write. It is written on one line of ASCII,
    since several readers break lines at U+2028 and U+0085 too. *default*: a callable that returns such a value for one of
    another type. *event*: the event's type; None means ``message``.
    *id*: what the client sends back as Last-Event-ID; ``""`` resets it.
    *retry*: whole milliseconds that an EventSource waits before it reconnects.
    *comment*: text that readers ignore; it stands in front. Given alone, it is a comment without an event.

    Raises `ValueError` for a line end or NUL in *event* or *id* (it would inject a field, or be ignored), for a *retry* that is
    no whole number from 0, for NaN and Infinity in *json* (no browser parses them), and for text that UTF-8 cannot hold (a lone
    surrogate). Raises `TypeError` unless one of *data* and *json* is given, and for a value of another type.
    """

    data: str
    event: str | None
    id: str | None
    retry: int | None
    comment: str | None
    is_comment: bool = field(repr=False)  # without an event

    def __init__(
        self,
        data: str | _Unset = _UNSET,
        event: str | None = None,
        id: str | int | None = None,
        retry: int | None = None,
        *,
        json: object = _UNSET,
        default: Callable[[object], object] | None = None,
        comment: str | None = None,
    ) -> None:
        is_comment = comment is not None and data is _UNSET and json is _UNSET
        if is_comment and (event, id, retry, default) == (None, None, None, None):
            data = ""
        elif (data is _UNSET) == (json is _UNSET):
            raise TypeError("an Event takes either data or json")
        elif data is _UNSET:
            data = _json_of(json, default)
        elif default is not None:
            raise TypeError("default is for json, and an Event takes either data or json")
        if not isinstance(data, str):
            raise TypeError(f"data must be a str, got {data!r}; json= takes other values")
        if comment is not None and not isinstance(comment, str):
            raise TypeError(f"comment must be a str or None, got {comment!r}")
        event = _one_line("event", event, "a str")
        id_text = _one_line("id", str(id) if type(id) is int else id, "an int or a str")
        if retry is not None and (type(retry) is not int or retry < 0):
            raise ValueError(f"retry must be a whole number of milliseconds from 0, or None, got {retry!r}")
        for name, text in (("data", data), ("event", event), ("id", id_text), ("comment", comment)):
            if text is not None and not text.isascii():
                _check_utf_8(name, text)
        self._set(data, event, id_text, retry, comment, is_comment)

    def _set(
        self,
        data: str,
        event: str | None,
        id: str | None,
        retry: int | None,
        comment: str | None = None,
        is_comment: bool = False,
    ) -> None:
        set_field = object.__setattr__
        set_field(self, "data", data)
        set_field(self, "event", event)
        set_field(self, "id", id)
        set_field(self, "retry", retry)
        set_field(self, "comment", comment)
        set_field(self, "is_comment", is_comment)

    def __bytes__(self) -> bytes:
        lines = []
        if self.comment is not None:
            lines += [f": {line}" for line in _TEXT_LINE_END.split(self.comment)]
        if self.is_comment:
            return ("\n".join(lines) + "\n").encode()
        if self.event is not None:
            lines.append(f"event: {self.event}")
        if self.id is not None:
            lines.append(f"id: {self.id}")
        if self.retry is not None:
            lines.append(f"retry: {self.retry}")
        lines += [f"data: {line}" for line in _TEXT_LINE_END.split(self.data)]
        return ("\n".join(lines) + "\n\n").encode()


def _json_of(value: object, default: Callable[[object], object] | None) -> str:
    try:
        return json_module.dumps(value, separators=(",", ":"), allow_nan=False, default=default)
    except ValueError as error:
        raise ValueError(f"json must be a value that JSON can write: {error}") from error


def _one_line(name: str, value: object, kinds: str) -> str | None:
    if value is None or (isinstance(value, str) and not any(character in value for character in "\r\n\0")):
        return value
    raise ValueError(f"{name} must be {kinds} without CR, LF and NUL, or None, got {value!r}")


def _check_utf_8(name: str, text: str) -> None:
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise ValueError(f"{name} must be text that UTF-8 can hold: {error}") from None


def received_event(data: str, event: str | None, id: str | None, retry: int | None) -> Event:
    """Return an `Event` that a reader has received. Its type may hold a NUL, which ``Event(...)`` refuses to write."""
    received = object.__new__(Event)
    received._set(data, event, id, retry)
    return received
