r"""JSON on one long line, broken into lines between its tokens: what `Fold` does to a stream.

A reader joins the ``data`` lines of an event with LF (WHATWG 9.2.6), and JSON allows LF between any two tokens (RFC 8259,
section 2). So a reader that parses the data gets the same value, and one that cannot read a long line gets short ones.

>>> b"".join(Folding(over=24, width=24).feed(b'data: {"name":"long","list":[1,2,3]}\n\n'))
b'data: {"name":"long",\ndata: "list":[1,2,3]}\n\n'

Nothing here does I/O, starts a thread or reads a clock. Only C loops over the bytes (``find``, ``count``): from one place to
cut to the next the quotes are counted, which tells whether the line's limit falls into a string.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import Enum, auto
from typing import TYPE_CHECKING

from ..event_stream import BLANK_LINES, BOM, behind_line_end, first_line_end, last_event_end, last_line_end, next_cut
from .reshaping import Reshaping, begins_as_json

if TYPE_CHECKING:
    from _typeshed.wsgi import WSGIEnvironment

_DATA = b"data: "

# How data begins that may yet turn out to begin as JSON.
_JSON_MAY_BEGIN = re.compile(rb"[ \t]*(?:[{\[][ \t]*)?(?:(?<=[\[ \t])[a-z]{0,4})?\Z")
_DATA_LINE = re.compile(rb"data(?::\x20?|(?=[\r\n]))")
_LATER_DATA_LINE = re.compile(rb"[\r\n]data(?::\x20?|(?=[\r\n]))")
_DATA_FIELD = re.compile(rb"data:\x20?")

# Bytes on either side of which a token ends, outside of strings. (RFC 8259: structural characters, whitespace, and quotes.)
_BETWEEN = frozenset(b'{}[]:," \t')
_UP_TO_LAST_BREAK = re.compile(rb'(?s:.*)[{}\[\]:," \t]')
_NEXT_BREAK = re.compile(rb'[{}\[\]:," \t\r\n]')
_PIECE = 131072  # bytes of a longer line that are sent at a time
_LOOK_AROUND = 32  # bytes on either side of a place to cut: more than a literal, or than most numbers

_VALUE = frozenset(b'"{[-0123456789tfn')
_VALUE_END = frozenset(b",]}")
_MAY_FOLLOW = {  # which bytes may begin a token, after a token that ends with this byte
    **dict.fromkeys(b",:", _VALUE),
    **dict.fromkeys(b"}]0123456789el", _VALUE_END),  # e and l: true, false, null
    ord("{"): frozenset(b'"}'),
    ord("["): _VALUE | {ord("]")},
    ord('"'): _VALUE_END | {ord(":")},
}
_WORD = re.compile(rb"true|false|null|-?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?(?:[eE][+-]?[0-9]+)?")
_PART_OF_A_WORD = re.compile(rb"[-+.0-9eE]+|[a-z]{1,4}")
_WORD_BEHIND = re.compile(rb"[-+.\w]*\Z")
_WORD_AHEAD = re.compile(rb"[-+.\w]*")


@dataclass(frozen=True, kw_only=True)
class Fold:
    """For ``SSEMiddleware(oversized=...)``: break long lines of JSON between tokens, for every client.

    It applies to a line of more than *over* bytes (its end not counted), in an event whose data begins as a JSON object or
    array. The line becomes lines of at most *width* bytes each, 16 or more. A string or number that is longer stays whole on a
    line of its own. If the data turns out not to be JSON, the rest of the event stays as it is, and that is logged once.
    Immutable. Raises `ValueError`.
    """

    over: int = 61440  # below the 64 KiB that Go's readers take
    width: int = 61440  # smaller, and sseclient-py is quadratic in the number of lines; larger, and WebKit in their length

    def __post_init__(self) -> None:
        if type(self.width) is not int or self.width < 16:
            raise ValueError(f"width must be a whole number of bytes from 16, got {self.width!r}")
        if type(self.over) is not int or self.over < self.width:
            raise ValueError(f"over must be a whole number of bytes from width ({self.width}), got {self.over!r}; give both")

    def step(self, environ: WSGIEnvironment, report: Callable[[str], object]) -> Folding:  # noqa: ARG002
        """Return the step for the stream that answers *environ*. *report*: called with a sentence for the log."""
        return Folding(over=self.over, width=self.width, report=report)


class _At(Enum):
    """Where in the stream the next byte is."""

    LINE_START = auto()
    REST_OF_LINE = auto()  # of one that passes as it is
    JSON = auto()  # between two tokens of a line that is being folded
    STRING = auto()  # in a string that is longer than a line
    WORD = auto()  # in a number that is longer than a line


class Folding(Reshaping):
    """One event stream being folded, block by block. Not for two threads.

    *over*: bytes of the longest line that stays as it is, its end not counted. *width*: bytes of the lines into which a longer
    one is broken. *report*: called with a sentence when data that began as JSON turns out not to be JSON.
    """

    __slots__ = (
        "_after_cr", "_at", "_data_start", "_is_json", "_last_line", "_last_sent", "_lead", "_over", "_report", "_used",
        "_width",
    )  # fmt: skip

    def __init__(self, *, over: int, width: int, report: Callable[[str], object] = lambda sentence: None) -> None:  # noqa: ARG005
        super().__init__()
        self._over = over
        self._width = width
        self._report = report
        self._at = _At.LINE_START
        self._after_cr = False  # the last byte was a CR: a LF that follows belongs to it
        self._is_json: bool | None = None  # the data of the unfinished event; None before its first line
        self._used = 0  # bytes of the line being folded that were sent since its last break
        self._lead = b""  # what is sent before the next byte
        self._last_sent = b""  # the last bytes of the line's data that were sent, to check a place to cut
        self._last_line = b""  # the last bytes of the line of data before
        self._data_start = 0  # where the line's data begins in the buffer; 0 if that was before it

    def passes(self, block: bytes) -> bool:
        """Tell whether no line in *block* is too long, and it ends an event."""
        if self._at is _At.LINE_START and not self._held and len(block) <= self._over and block.endswith(BLANK_LINES):
            self._is_first = self._after_cr = False
            self._is_json = None
            return True
        return False

    def finish(self) -> Iterator[bytes]:
        """Yield the rest of an unfinished line at the stream's end."""
        for rest in super().finish():
            yield self._lead + rest
            self._lead = b""

    def _completes(self, block: bytes) -> bool:
        return first_line_end(block) >= 0

    def _go_through(self, buffer: bytes) -> Iterator[bytes]:
        sent = at = 0  # how much is sent, and how much is checked
        if self._after_cr and buffer.startswith(b"\n"):
            at = 1
        elif self._is_first and buffer.startswith(BOM):
            at = len(BOM)
        self._is_first = self._after_cr = False
        self._data_start = 0
        while at < len(buffer) and not self._held:
            if self._at is _At.LINE_START:
                at = self._pass_lines(buffer, at)
            elif self._at is _At.REST_OF_LINE:
                at = self._pass_rest(buffer, at)
            elif self._at is _At.STRING:
                at = self._pass_string(buffer, at)
            elif self._at is _At.WORD:
                at = self._pass_word(buffer, at)
            else:
                at, is_cut = self._next_break(buffer, at)
                if is_cut:
                    yield from self._send(buffer, sent, at, b"\n")
                    self._lead, self._used, sent = _DATA, len(_DATA), at
        if sent == 0 and at == len(buffer) and not self._lead:
            yield buffer
        elif sent < at:
            yield from self._send(buffer, sent, at)
        self._last_sent = self._last_of_data(buffer, at)

    def _send(self, buffer: bytes, sent: int, at: int, end: bytes = b"") -> Iterator[bytes]:
        """Yield ``buffer[sent:at]`` and *end*, a long token in pieces: no second copy of a large block is made."""
        while at - sent > _PIECE:
            piece = next_cut(buffer, sent, _PIECE)
            yield self._lead + buffer[sent:piece]
            self._lead, sent = b"", piece
        yield b"".join((self._lead, buffer[sent:at], end))
        self._lead = b""

    # -- each goes on from `at` and returns how far it came; what it cannot decide on yet, it holds

    def _pass_lines(self, buffer: bytes, at: int) -> int:
        """Pass the lines that are not too long, many at a time."""
        start = at
        while line_end := last_line_end(buffer, at, at + self._over + 1):
            at = line_end
        if start < at:
            self._is_json = self._is_json_after(buffer, start, at)
            if self._is_json:
                self._see_last_line(buffer, start, at)
            self._after_cr = at == len(buffer) and buffer.endswith(b"\r")
        if at == len(buffer):
            return at
        # No more of it than is there in any case when the line is too long, so that blocks make no difference.
        head, is_too_long = buffer[at : at + self._over + 1], len(buffer) - at > self._over
        if not self._may_be_json(head, is_too_long):
            if head.startswith(b"data:"):
                self._is_json = False
            self._at = _At.REST_OF_LINE
        elif is_too_long:
            field = _DATA_FIELD.match(head)
            assert field is not None
            ahead = head[field.end() : field.end() + _LOOK_AROUND]
            if self._is_json and not _may_stand_between_tokens(self._last_line, ahead):
                self._give_up(f"{self._last_line[-16:]!r} before {ahead[:16]!r}")
                return at
            self._at, self._is_json, self._used = _At.JSON, True, field.end()
            at += field.end()
            self._data_start, self._last_sent = at, b""
        else:
            self._wait_for(self._over + 1, buffer, at)
        return at

    def _see_last_line(self, buffer: bytes, start: int, stop: int) -> None:
        """Remember the end of the last line of data in ``buffer[start:stop]``, if there is one."""
        line_feed = buffer.rfind(b"\ndata", start, stop)
        carriage_return = buffer.rfind(b"\rdata", start, stop)
        while not (field := _DATA_LINE.match(buffer, max(line_feed, carriage_return) + 1 or start, stop)):
            if line_feed == carriage_return:  # -1: there is no line end
                return
            if line_feed > carriage_return:  # it alone is looked for again, and not where it was
                line_feed = buffer.rfind(b"\ndata", start, line_feed + 4)
            else:
                carriage_return = buffer.rfind(b"\rdata", start, carriage_return + 4)
        end = first_line_end(buffer, field.end(), stop)
        self._last_line = buffer[max(field.end(), end - _LOOK_AROUND) : end]

    def _may_be_json(self, line: bytes, is_too_long: bool) -> bool:
        """Tell whether to fold the line that begins with *line*; if it is not too long yet, whether that may become so."""
        field = _DATA_FIELD.match(line)
        if field is None:
            return not is_too_long and b"data:".startswith(line)
        if self._is_json is None:
            begins = begins_as_json(line, field.end()) or (not is_too_long and _JSON_MAY_BEGIN.match(line, field.end()))
            return bool(begins)
        return self._is_json

    def _is_json_after(self, buffer: bytes, start: int, stop: int) -> bool | None:
        """Return what is known of the unfinished event's data after these lines."""
        event_end = last_event_end(buffer, start, stop) or (start + 1 if buffer[start] in b"\r\n" else 0)
        if event_end >= stop:
            return None
        if self._is_json is not None and not event_end:
            return self._is_json
        begin = max(start, event_end)
        first = _DATA_LINE.match(buffer, begin, stop) or _LATER_DATA_LINE.search(buffer, begin, stop)
        return None if first is None else begins_as_json(buffer, first.end(), stop)

    def _pass_rest(self, buffer: bytes, at: int) -> int:
        end = first_line_end(buffer, at, len(buffer))
        return len(buffer) if end < 0 else self._end_line(buffer, end)

    def _end_line(self, buffer: bytes, end: int) -> int:
        self._at = _At.LINE_START
        at = behind_line_end(buffer, end)
        self._after_cr = at == len(buffer) and buffer.endswith(b"\r")
        return at

    def _next_break(self, buffer: bytes, at: int) -> tuple[int, bool]:
        """Return where the line that is being folded breaks, and True; or how far there is nothing to do, and False."""
        limit = max(at, at + self._width - self._used)
        end = first_line_end(buffer, at, limit + _LOOK_AROUND)
        if 0 <= end <= limit:
            self._last_line = self._last_of_data(buffer, end)
            return self._end_line(buffer, end), False
        if end < 0 and len(buffer) < limit + _LOOK_AROUND:
            return self._wait_for(limit + _LOOK_AROUND - at, buffer, at), False
        place = self._last_place(buffer, at, limit)
        if place is None:  # the token is longer than a line
            self._at = _At.STRING if buffer[at] == 0x22 else _At.WORD
            return at + 1, False
        last = self._last_of_data(buffer, place)
        if not _may_stand_between_tokens(last, buffer[place : place + _LOOK_AROUND]):
            self._give_up(f"{last[-16:]!r} before {buffer[place : place + 16]!r}")
            return place, False
        return place, True

    def _last_of_data(self, buffer: bytes, at: int) -> bytes:
        """Return the last bytes of the line's data before *at*."""
        last = buffer[max(self._data_start, at - _LOOK_AROUND) : at]
        return last if len(last) == _LOOK_AROUND else (self._last_sent + last)[-_LOOK_AROUND:]

    def _last_place(self, buffer: bytes, at: int, limit: int) -> int | None:
        """Return the last place between two tokens up to *limit*, None if that would leave the line empty."""
        text, start = buffer, at
        if buffer.find(b"\\", at, limit) >= 0:
            text, start = _without_escapes(buffer[at:limit]), 0
        stop = start + limit - at
        if text.count(b'"', start, stop) % 2:  # in a string: before it
            place = at + text.rfind(b'"', start, stop) - start
        elif limit == at or buffer[limit] in _BETWEEN or buffer[limit - 1] in _BETWEEN:
            place = limit
        else:  # in a number or literal: before it
            tail = max(at, limit - _LOOK_AROUND)
            last = _UP_TO_LAST_BREAK.match(buffer, tail, limit) or _UP_TO_LAST_BREAK.match(buffer, at, limit)
            place = last.end() if last else at
        return None if place == at and self._used <= len(_DATA) else place

    def _pass_string(self, buffer: bytes, at: int) -> int:
        """Pass the string that has begun before *at*, up to its closing quote."""
        stop = min(len(buffer), at + self._width)
        text, start = buffer, at
        if buffer.find(b"\\", at, stop) >= 0:
            text, start = _without_escapes(buffer[at:stop]), 0
        quote = text.find(b'"', start, start + stop - at)
        end = first_line_end(buffer, at, stop if quote < 0 else at + quote - start)
        if end >= 0:
            self._give_up("a string that does not end on its line")
            return end
        if quote >= 0:
            self._at, self._used = _At.JSON, self._width
            return at + quote - start + 1
        if text[start + stop - at - 1] == 0x5C:  # half an escape: the other half may be a quote
            return self._wait_for(2, buffer, stop - 1) if stop == len(buffer) else stop - 1
        return stop

    def _pass_word(self, buffer: bytes, at: int) -> int:
        found = _NEXT_BREAK.search(buffer, at)
        if found is None:
            return len(buffer)
        self._at, self._used = _At.JSON, self._width
        return found.start()

    def _give_up(self, reason: str) -> None:
        self._at, self._is_json = _At.REST_OF_LINE, False
        self._report(f"an event whose data begins as JSON and is not JSON ({reason}): the rest of it is not folded")


def _without_escapes(text: bytes) -> bytes:
    """Return as many bytes, in which each quote begins or ends a string. *text* begins outside of an escape."""
    return text.replace(b"\\\\", b"__").replace(b'\\"', b"__")


def _may_stand_between_tokens(last: bytes, ahead: bytes) -> bool:
    """Tell whether, in JSON, a token may end before this place and a token may begin after it, as far as can be seen."""
    left, right = last.rstrip(b" \t"), ahead.lstrip(b" \t")
    if not left or not right or right[0] in b"\r\n":
        return True  # too much whitespace to see the token
    if not (_may_follow(left, right) and _may_be_word(_WORD_AHEAD, right)):
        return False
    if left[-1] not in b",:":
        return True
    value = left[:-1].rstrip(b" \t")  # "Well, 5 of them" has a comma before a number, too
    return not value or _may_follow(value, left[-1:])


def _may_follow(left: bytes, right: bytes) -> bool:
    return right[0] in _MAY_FOLLOW.get(left[-1], ()) and _may_be_word(_WORD_BEHIND, left)


def _may_be_word(where: re.Pattern[bytes], side: bytes) -> bool:
    found = where.search(side)
    assert found is not None
    word = found.group()
    if not word or _WORD.fullmatch(word):
        return True
    return len(word) == len(side) and _PART_OF_A_WORD.fullmatch(word) is not None  # the rest of it may be out of sight
