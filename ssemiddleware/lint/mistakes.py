"""The kinds of mistakes in an event stream: what is wrong, what a browser does with it, and the fix."""

from __future__ import annotations

from typing import NamedTuple


class Mistake(NamedTuple):
    """A kind of mistake. *name* is for programs. The other fields are sentences."""

    name: str
    what: str
    browser: str
    fix: str


_BLANK_LINE = r'end each event with a blank line: yield b"data: hello\n\n", or bytes(Event("hello"))'
_EACH_LINE = "put `data: ` before each line, as bytes(Event(text)) does"

UNFINISHED = Mistake(
    "unfinished",
    "The stream ends inside an event: there is no blank line after it.",
    "It discards the event.",
    _BLANK_LINE,
)
NEVER_ENDED = Mistake(
    "never-ended",
    "No event ever ends: there is no blank line in the whole stream.",
    "It collects the lines, and the page gets no event at all.",
    _BLANK_LINE,
)
RUN_TOGETHER = Mistake(
    "run-together",
    "A field is repeated in the same event: the blank line between two events is missing.",
    "It reads both events as one, with the second one's id and type.",
    _BLANK_LINE,
)
LINE_FEED = Mistake(
    "line-feed",
    "A line after `data` is no field: there was a line feed inside the data.",
    "It ignores the line, so the page gets only a part of the data.",
    _EACH_LINE,
)
JSON_LINES = Mistake(
    "json-lines",
    "JSON goes over several lines, without `data: ` before each.",
    "It ignores all but the first line, and JSON.parse fails.",
    "write JSON on one line, as bytes(Event(json=value)) does",
)
NO_FIELD = Mistake(
    "no-field",
    "A line is no field: text without `data: ` before it.",
    "It ignores the line.",
    _EACH_LINE,
)
FIELD_NAME = Mistake(
    "field-name",
    "A field's name is not exactly `data`, `event`, `id` or `retry`.",
    "It ignores the line.",
    "write the name in lower case, without spaces around it",
)
RETRY = Mistake(
    "retry",
    "`retry` is not a whole number of milliseconds in digits.",
    "It ignores the line, and reconnects after its own 3 or 5 seconds.",
    "write milliseconds without a unit: `retry: 3000`",
)
NUL_IN_ID = Mistake(
    "nul-in-id",
    "An `id` contains NUL.",
    "It ignores the id (Firefox loses the whole event), so a reconnect begins at the wrong place.",
    "leave NUL out of ids",
)
BOM_INSIDE = Mistake(
    "bom",
    "A byte order mark stands before a line that is not the stream's first.",
    "It takes the mark for a part of the field's name, and ignores the line.",
    'encode with "utf-8", not with "utf-8-sig", and read files with "utf-8-sig"',
)
PAGE = Mistake(
    "html",
    "There is an HTML page in the stream, usually an error page.",
    "It ignores the page, without an error.",
    "answer an error with its own status and type before the stream begins; later, send an event such as `event: failed`",
)
NOT_JSON = Mistake(
    "nan",
    "The JSON contains NaN or Infinity, which JSON does not allow.",
    "It dispatches the event, and JSON.parse fails.",
    "write null instead; json.dumps(value, allow_nan=False) raises an error for such a number",
)
NOT_UTF_8 = Mistake(
    "utf-8",
    "A line is not UTF-8.",
    "It shows U+FFFD in place of each byte that it cannot read.",
    'encode with "utf-8"; an event stream has no other encoding',
)
LONG = Mistake(
    "long-line",
    "A line has more than 64 KiB.",
    "WebKit (Safari) takes quadratic time to read it; readers in Go and on aiohttp refuse it.",
    "SSEMiddleware(..., oversized=Fold()) breaks lines of JSON; Fragment() sends any data in pieces",
)
NO_DATA = Mistake(
    "no-data",
    "An event has a type and no data.",
    "It drops the event.",
    "send data with it; an empty line will do: `data:`",
)

MISTAKES = (
    UNFINISHED, NEVER_ENDED, RUN_TOGETHER, LINE_FEED, JSON_LINES, NO_FIELD, FIELD_NAME, RETRY, NUL_IN_ID, BOM_INSIDE, PAGE,
    NOT_JSON, NOT_UTF_8, LONG, NO_DATA,
)  # fmt: skip
