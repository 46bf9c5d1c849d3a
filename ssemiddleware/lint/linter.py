"""`Linter` is fed with the blocks of an event stream, and yields each mistake in it."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from ..event_stream import BOM, LineReader
from ..oversized import LONG_LINE, begins_as_json
from . import mistakes
from .mistakes import Mistake

_FIELDS = (b"data", b"event", b"id", b"retry")
_PAGE = re.compile(rb"\s*<(?:!doctype|html|head|body)\b", re.IGNORECASE)
# Either a string, to skip it, or a number as Python writes it and JSON does not allow it. A JSON string is never on two lines.
_NO_NUMBER = re.compile(rb'"[^"\\]*(?:\\.[^"\\]*)*(?:"|\\?$)|(?:^|[\[,:])\s*(-?Infinity|NaN)\s*(?=[\],}]|$)')
_SHOWN = 80  # bytes of a line


class Finding(NamedTuple):
    """One mistake in a stream: its event and line, counted from 1, and the beginning of that line."""

    mistake: Mistake
    event: int
    line: int
    text: str


def lint(blocks: Iterable[bytes]) -> Iterator[Finding]:
    """Yield the mistakes in a whole event stream, cut anywhere."""
    linter = Linter()
    for block in blocks:
        yield from linter.feed(block)
    yield from linter.finish()


class Linter:
    """Checks one event stream, which may have any bytes, in linear time. Not for two threads."""

    def __init__(self) -> None:
        self.events = 0  # groups of lines that a blank line has ended, except those of comments only
        self.lines = 0
        self._lines = LineReader()
        self._in_page = False  # in an HTML page, until the next field
        self._last_field = b""
        self._begin_event()

    def _begin_event(self) -> None:
        self._seen: set[bytes] = set()  # the fields of the current event
        self._data_lines = 0
        self._is_json = False
        self._has_text = False  # it has a line that is no field; only the first is reported

    def feed(self, block: bytes) -> Iterator[Finding]:
        """Yield the mistakes in the lines that *block* completes."""
        for line in self._lines.feed(block):
            self.lines += 1
            yield from self._check(line)

    def finish(self) -> Iterator[Finding]:
        """Yield the mistakes that show at the stream's end."""
        line = self._lines.unfinished
        if line:
            self.lines += 1
            yield from self._check(line)
        never_ended = [*self.cut()]
        yield from never_ended
        if not never_ended and self._seen & {b"data", b"event"}:
            yield self._finding(mistakes.UNFINISHED, self._last_field)

    def cut(self) -> Iterator[Finding]:
        """Yield the mistakes that show when a stream is cut before its own end. From any thread."""
        if not self.events and self._data_lines > 1:
            yield self._finding(mistakes.NEVER_ENDED, self._last_field)

    def _finding(self, mistake: Mistake, line: bytes) -> Finding:
        return Finding(mistake, self.events + 1, self.lines, line[:_SHOWN].decode(errors="replace"))

    def _check(self, line: bytes) -> Iterator[Finding]:
        if not line:
            yield from self._end_event()
        elif not line.startswith(b":"):
            found = self._in_field(line) if line.partition(b":")[0] in _FIELDS else self._in_text(line)
            yield from (self._finding(mistake, line) for mistake in (*found, *_in_bytes(line)))

    def _end_event(self) -> Iterator[Finding]:
        if b"event" in self._seen and not self._data_lines and not self._has_text:
            yield self._finding(mistakes.NO_DATA, b"")
        self.events += bool(self._seen or self._has_text)
        self._begin_event()

    def _in_field(self, line: bytes) -> Iterator[Mistake]:
        self._in_page, self._last_field = False, line
        name, _, value = line.partition(b":")
        value = value.removeprefix(b" ")
        if name in (b"id", b"event") and name in self._seen and self._data_lines:
            yield mistakes.RUN_TOGETHER
        self._seen.add(name)
        if name == b"data":
            if not self._data_lines:
                self._is_json = begins_as_json(value[:_SHOWN].replace(b"NaN", b"0").replace(b"Infinity", b"0") + b"\n")
            self._data_lines += 1
            if self._is_json and any(_NO_NUMBER.findall(value)):
                yield mistakes.NOT_JSON
        elif name == b"id" and b"\0" in value:
            yield mistakes.NUL_IN_ID
        elif name == b"retry" and not value.isdigit():
            yield mistakes.RETRY

    def _in_text(self, line: bytes) -> Iterator[Mistake]:
        """Check a line that is no field: a browser ignores it."""
        had_text, self._has_text = self._has_text, True
        name, colon, _ = line.partition(b":")
        if line.startswith(BOM):
            yield mistakes.BOM_INSIDE
        elif _PAGE.match(line):
            yield from () if self._in_page else (mistakes.PAGE,)
            self._in_page = True
        elif colon and name.strip().lower() in _FIELDS:
            yield mistakes.FIELD_NAME
        elif not (had_text or self._in_page):
            yield _text_after(self._data_lines, is_json=self._is_json)


def _text_after(data_lines: int, *, is_json: bool) -> Mistake:
    if not data_lines:
        return mistakes.NO_FIELD
    return mistakes.JSON_LINES if is_json else mistakes.LINE_FEED


def _in_bytes(line: bytes) -> Iterator[Mistake]:
    if len(line) > LONG_LINE:
        yield mistakes.LONG
    try:
        line.decode()
    except UnicodeDecodeError:
        yield mistakes.NOT_UTF_8
