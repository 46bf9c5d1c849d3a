"""The format ``text/event-stream`` as bytes: WHATWG HTML, section 9.2 ("Server-sent events").

`lines` tells where lines and events end and where a block may be cut, `position` what may follow the last byte sent, and
`event` writes one event. Nothing here does I/O, starts a thread or reads a clock.
"""

from .event import Event, received_event
from .line_reader import LineReader
from .lines import (
    BLANK_LINES,
    BOM,
    COUNTED,
    HEARTBEAT,
    LF,
    MEDIA_TYPE,
    behind_line_end,
    character_start,
    count_event_ends,
    first_event_end,
    first_line_end,
    last_event_end,
    last_line_end,
    next_cut,
    pieces_of,
    retry_line,
)
from .position import OpaquePosition, Position

__all__ = [
    "BLANK_LINES",
    "BOM",
    "COUNTED",
    "HEARTBEAT",
    "LF",
    "MEDIA_TYPE",
    "Event",
    "LineReader",
    "OpaquePosition",
    "Position",
    "behind_line_end",
    "character_start",
    "count_event_ends",
    "first_event_end",
    "first_line_end",
    "last_event_end",
    "last_line_end",
    "next_cut",
    "pieces_of",
    "received_event",
    "retry_line",
]
