r"""One event as several: what `Fragment` does to a stream. `joiner` undoes it.

An event with too much data for its readers is sent as several events of type ``fragment``. The first line of a fragment's data
is its header. The rest is a piece of the event's data, cut between two characters:

    header = first "-" last "/" ( length / "*" ) [ SP type ]      ; as in Content-Range (RFC 9110, 14.4)

*first* and *last* count bytes of the data in UTF-8, from 0. *length* is the length of the whole data, or ``*`` while it is not
known. The last fragment always names it, so the event is whole when last + 1 = length. *type* is the event's type, left out for
``message``; the type in the last fragment counts. Only the last fragment has the event's ``id``.

>>> list(Fragmenting(over=16, size=18).feed(b"id: 7\nevent: note\ndata: 21 characters of text\n\n"))
[b'event: fragment\ndata: 0-10/21 note\ndata: 21 characte\n\n', b'event: fragment\ndata: ...']

Nothing here does I/O, starts a thread or reads a clock.
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING
from urllib.parse import parse_qs

from ..event_stream import (
    BLANK_LINES,
    BOM,
    HEARTBEAT,
    Position,
    behind_line_end,
    character_start,
    first_event_end,
    first_line_end,
    last_event_end,
)
from .reshaping import Reshaping

if TYPE_CHECKING:
    from _typeshed.wsgi import WSGIEnvironment

_MUCH = 65536  # bytes of an event that are no data, and yet too many to hold
_MANY = 1000  # pieces of data that wait
_LARGE = 262144  # bytes of a block that is too large to be kept in memory for a waiting piece of it
_DATA = b"data: "
_TELLING = len(b"event: ")  # bytes that show which field a line is
_LONG = 65536  # bytes: a longer id fits in no header that a client sends back, and no client listens to a longer type
_FIELD = re.compile(rb"(?P<name>data|id|event)(?::\x20?|\Z)")
# What may stand between two events, and is sent at once.
_BETWEEN_EVENTS = re.compile(rb"(?:(?::|retry:)[^\r\n]*(?:\r\n|\n|\r)|\r\n|\n|\r){0,1000}")


def asks_for_fragments(environ: WSGIEnvironment) -> bool:
    """Tell whether the query has ``sse-fragments=1``: the client says that it joins fragments."""
    query = environ.get("QUERY_STRING", "")
    return "sse-fragments" in query and parse_qs(query).get("sse-fragments", [""])[-1] == "1"


@dataclass(frozen=True, kw_only=True)
class Fragment:
    """For ``SSEMiddleware(oversized=...)``: send large events in pieces, to the clients that can join them.

    An event with more than *over* bytes of data is sent as several events of type ``fragment``, in the format of
    ``docs/fragments.md``. *size*: bytes of the longest line of data in a fragment, its end counted, 16 or more. *when*: a
    callable that takes the environ and returns whether the client joins fragments. By default a client says so with
    ``sse-fragments=1`` in the query. Any other client gets the event as it is. Immutable. Raises `ValueError`.
    """

    over: int = 262144  # no reader has trouble with an event of 256 KiB in short lines
    size: int = 65536  # what Go's readers take as a line
    when: Callable[[WSGIEnvironment], bool] = asks_for_fragments

    def __post_init__(self) -> None:
        for name, least in (("over", 1), ("size", 16)):
            if type(getattr(self, name)) is not int or getattr(self, name) < least:
                raise ValueError(f"{name} must be a whole number of bytes from {least}, got {getattr(self, name)!r}")
        if not callable(self.when):
            raise ValueError(f"when must be a callable that takes the environ, got {self.when!r}")

    def step(self, environ: WSGIEnvironment, report: Callable[[str], object]) -> Fragmenting | None:  # noqa: ARG002
        """Return the step for the stream that answers *environ*, None if its client gets events whole."""
        return Fragmenting(over=self.over, size=self.size) if self.when(environ) else None


class Fragmenting(Reshaping):
    """One event stream being fragmented, block by block. Not for two threads.

    *over*: bytes of data in the largest event that stays as it is. *size*: bytes of the longest line of data in a fragment, its
    end counted. An event is held back until it ends or has more than *over* bytes of data; from then on it is sent as it comes.
    """

    __slots__ = ("_fragments", "_over", "_passing", "_position", "_size", "_skip_lf")

    def __init__(self, *, over: int, size: int) -> None:
        super().__init__()
        self._over = over
        self._size = size
        self._skip_lf = False  # a LF that follows is half of a line end of which we have written our own
        self._position = Position()  # after what is held, or passing
        self._fragments: _Fragments | None = None  # of the event that is sent in pieces
        self._passing = False  # an event passes as it is, to its end

    def passes(self, block: bytes) -> bool:
        """Tell whether *block* ends an event and no event in it is too large."""
        if (
            self._held
            or self._fragments
            or self._passing
            or self._skip_lf
            or len(block) > self._over
            or not block.endswith(BLANK_LINES)
        ):
            return False
        self._is_first = False
        return True

    @property
    def is_inside(self) -> bool:
        """Whether part of an event has been sent."""
        return self._fragments is not None

    def finish(self) -> Iterator[bytes]:
        """Yield what is held of an unfinished event; nothing of one in fragments, which cannot become whole any more."""
        rest = super().finish()
        return iter(()) if self._fragments else rest

    def _completes(self, block: bytes) -> bool:
        if self._fragments:
            return first_line_end(block) >= 0
        is_complete = self._position.event_end(block) >= 0
        if block:
            self._position.advance(block)
        return is_complete

    def _go_through(self, buffer: bytes) -> Iterator[bytes]:
        at = 1 if self._skip_lf and buffer.startswith(b"\n") else 0
        self._skip_lf = False
        while at < len(buffer) and not self._held:
            if self._fragments:
                at = yield from self._write_fragments(self._fragments, buffer, at)
                continue
            start = at
            at = self._pass_event(buffer, at) if self._passing else self._pass_events(buffer, at)
            if start < at:
                yield buffer if at - start == len(buffer) else buffer[start:at]

    def _pass_events(self, buffer: bytes, at: int) -> int:
        """Pass events that are not too large, many at a time, and decide on the next one."""
        if self._is_first and buffer.startswith(BOM):
            at = len(BOM)
        self._is_first = False
        while event_end := last_event_end(buffer, at, at + self._over):
            at = event_end
        while (between := _BETWEEN_EVENTS.match(buffer, at)) and between.end() > at:  # a match needs memory for each line
            at = between.end()
        if at == len(buffer):
            return at
        if len(buffer) - at <= self._over:
            return self._wait_for_event(self._over + 1, buffer, at)
        event_end = first_event_end(buffer, at)
        size = _data_size(buffer, at, event_end or len(buffer))
        if size > self._over:
            self._fragments = _Fragments(self._size, size if event_end else None)
        elif event_end:
            return event_end
        elif len(buffer) - at > 4 * self._over + _MUCH:  # it is long, but not for its data
            self._passing, self._position = True, Position(anywhere=True)
        else:
            return self._wait_for_event(2 * (len(buffer) - at), buffer, at)
        return at

    def _wait_for_event(self, needed: int, buffer: bytes, at: int) -> int:
        self._position = Position()
        self._position.advance(buffer[at:])
        return self._wait_for(needed, buffer, at)

    def _pass_event(self, buffer: bytes, at: int) -> int:
        rest = buffer[at:]
        event_end = self._position.event_end(rest)
        self._position.advance(rest)
        self._passing = event_end < 0
        return len(buffer) if event_end < 0 else at + event_end

    def _write_fragments(self, fragments: _Fragments, buffer: bytes, at: int) -> Generator[bytes, None, int]:
        """Write the lines of the event that is sent in pieces, up to its end. Return how far that went."""
        while at < len(buffer):
            end = first_line_end(buffer, at)
            if at == end and not fragments.is_in_line:
                self._fragments = None
                yield fragments.last()
                return self._end_line(buffer, end)
            stop = len(buffer) if end < 0 else end
            if not fragments.is_in_line:
                if end < 0 and stop - at < _TELLING:
                    return self._wait_for(_TELLING, buffer, at)
                begun = fragments.begin_line(buffer, at, stop, is_whole=end >= 0)
                if begun is None:
                    return self._wait_for(_LONG + 1, buffer, at)
                at = begun
                if buffer.startswith(BOM, at) and not fragments.is_in_data:
                    yield HEARTBEAT  # it may be the first line that is sent, where it would have a meaning
            if fragments.is_in_data:
                yield from fragments.take_data(memoryview(buffer)[at:stop])
            elif fragments.is_in_line and not fragments.is_dropping:  # a line of no event: it is sent as it comes
                yield buffer[at:stop] + (b"" if end < 0 else b"\n")
            if end < 0:
                return stop
            fragments.is_in_line = fragments.is_in_data = fragments.is_dropping = False
            at = self._end_line(buffer, end)
        return at

    def _end_line(self, buffer: bytes, end: int) -> int:
        at = behind_line_end(buffer, end)
        self._skip_lf = at == len(buffer) and buffer.endswith(b"\r")
        return at


class _Fragments:
    """The pieces of one event: takes its lines, and writes what is ready."""

    __slots__ = (
        "_event_type", "_id_line", "_length", "_offset", "_pieces", "_size", "_waiting", "is_dropping", "is_in_data",
        "is_in_line",
    )  # fmt: skip

    def __init__(self, size: int, length: int | None) -> None:
        self.is_in_line = False  # a line is unfinished
        self.is_in_data = False  # and it is one of data
        self.is_dropping = False  # or the rest of one that is too long
        self._size = size - len(_DATA) - 1  # bytes of data in a fragment
        self._length = length  # bytes of data in the event, None if that is not known yet
        self._event_type = b""
        self._id_line = b""  # the last one that counts
        self._pieces: deque[memoryview] = deque()  # data that waits to be sent
        self._waiting = 0  # bytes of it
        self._offset = -1  # bytes of data that were sent; -1 before its first line

    def begin_line(self, buffer: bytes, at: int, stop: int, *, is_whole: bool) -> int | None:
        """Take the line in ``buffer[at:stop]``: of a data line its field name, of a line to be passed on nothing.

        Return the place up to which it is taken, or None if more of the line is needed: all of it, or more than `_LONG` bytes.
        A longer id line is dropped, so a client that reconnects sends the id before it. Of a type line `_LONG` bytes are kept.
        """
        field = _FIELD.match(buffer, at, stop)
        if field is None:
            self.is_in_line = True
            return at
        if field["name"] == b"data":
            self.is_in_line = self.is_in_data = True
            if self._offset < 0:
                self._offset = 0
            else:
                self._add(memoryview(b"\n"))  # WHATWG 9.2.6: lines of data are joined by LF
            return field.end()
        is_long = stop - at > _LONG
        if not (is_whole or is_long):
            return None
        self.is_in_line = self.is_dropping = is_long
        if field["name"] == b"event":
            self._event_type = buffer[field.end() : at + _LONG if is_long else stop]
        elif not is_long and b"\0" not in buffer[at:stop]:  # WHATWG 9.2.6 ignores an id with NUL
            self._id_line = buffer[at:stop]
        return stop

    def take_data(self, data: memoryview) -> Iterator[bytes]:
        """Take more of a data line, and yield the fragments that are full."""
        self._add(data)
        if self._waiting > self._size:
            while self._waiting > self._size:  # and not at the size itself: the last fragment must have a byte
                yield self._written(self._next_piece(), is_last=False)
            if len(data.obj) > _LARGE:  # type: ignore[arg-type]  # bytes
                self._join_pieces()  # a waiting piece must not keep the whole block in memory

    def last(self) -> bytes:
        """Return the fragment that ends the event."""
        return self._written(b"".join(self._pieces), is_last=True)

    def _add(self, data: memoryview) -> None:
        self._pieces.append(data)
        self._waiting += len(data)
        if len(self._pieces) > _MANY:  # each takes more memory than a short line
            self._join_pieces()

    def _join_pieces(self) -> None:
        self._pieces = deque((memoryview(b"".join(self._pieces)),))

    def _next_piece(self) -> bytes:
        """Take the next piece of the waiting data, up to the start of a character."""
        taken: list[memoryview] = []
        missing = self._size + 1
        while missing:
            piece = self._pieces.popleft()
            if len(piece) > missing:
                self._pieces.appendleft(piece[missing:])
                piece = piece[:missing]
            taken.append(piece)
            missing -= len(piece)
        joined = b"".join(taken)
        end = character_start(joined, self._size)
        self._pieces.appendleft(memoryview(joined)[end:])
        self._waiting -= end
        return joined[:end]

    def _written(self, piece: bytes, *, is_last: bool) -> bytes:
        first, self._offset = self._offset, self._offset + len(piece)
        length = self._offset if is_last else self._length
        header = b"%d-%d/%b" % (first, self._offset - 1, b"*" if length is None else b"%d" % length)
        event_type = b" " + self._event_type if self._event_type not in (b"", b"message") else b""
        lines = [b"event: fragment", _DATA + header + event_type, _DATA + piece.replace(b"\n", b"\n" + _DATA)]
        if is_last and self._id_line:
            lines.append(self._id_line)
        return b"\n".join([*lines, b"\n"])


def _data_size(buffer: bytes, start: int, stop: int) -> int:
    """Return how many bytes of data the event in ``buffer[start:stop]`` has, its lines joined."""
    size = -1
    while start < stop:
        end = first_line_end(buffer, start, stop)
        line_stop = stop if end < 0 else end
        field = _FIELD.match(buffer, start, line_stop)
        if field and field["name"] == b"data":
            size += line_stop - field.end() + 1
        start = behind_line_end(buffer, line_stop)
    return max(0, size)
