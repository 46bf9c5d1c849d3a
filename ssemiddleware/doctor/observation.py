r"""The record of one event stream: its headers, each arrival with its time, and how it ended.

>>> observation = Observation("http://localhost/events")
>>> observation.take(0.5, b"data: 1\n\ndata")
>>> observation.arrivals
[Arrival(at=0.5, size=13, events=1, is_whole=False)]
"""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime, timezone
from itertools import pairwise
from typing import NamedTuple

from werkzeug.http import parse_date

from .. import canary, lint
from ..event_stream import Event
from ..reading import EventReader

OPEN, CLEANLY, CUT = "still open", "ended cleanly", "cut"

_ISO = re.compile(r"\d{4}-\d\d-\d\d[T ]\d\d:\d\d:\d\d(?:\.\d+)?(?:Z|[+-]\d\d:?\d\d)")
_EPOCH = re.compile(r"(?<![\d.])1\d{9}(?:\.\d+|\d{3})?(?![\d.])")  # seconds, or milliseconds, since 1970
_DAY = 86400.0


class Arrival(NamedTuple):
    """Bytes that arrived together, *at* seconds after the request."""

    at: float
    size: int  # bytes
    events: int  # that they complete
    is_whole: bool  # no event and no line is unfinished after them


class Received(NamedTuple):
    """An event: its arrival in seconds after the request, the time that the server wrote into it, and a canary's number."""

    at: float
    stamp: float | None  # seconds since 1970
    sequence: int | None


@dataclass
class Observation:
    """One stream as it was seen. It is fed with `take` and `finish`. All times except *began* are seconds since the request."""

    url: str
    began: float = 0.0  # by our clock, seconds since 1970
    status: int | None = None  # None: no headers came
    http_version: str = "HTTP/1.1"
    headers: list[tuple[str, str]] = field(default_factory=list)
    headers_at: float | None = None
    received: int = 0  # bytes as they arrived, maybe compressed
    ended: str = OPEN
    ended_at: float = 0.0
    arrivals: list[Arrival] = field(default_factory=list)
    events: list[Received] = field(default_factory=list)
    mistakes: list[lint.Finding] = field(default_factory=list)
    # Learned from other requests. None: there was no such request, or no answer.
    answers_head: bool | None = None
    allows_origin: bool | None = None
    origin: str | None = None  # of the page that reads the stream
    clock_ahead: float | None = None  # how far the server's clock is ahead of ours, in seconds
    other_headers: list[tuple[str, str]] = field(default_factory=list)  # of the answers to other requests

    def __post_init__(self) -> None:
        self.reader = EventReader()
        self._linter = lint.Linter()

    def take(self, at: float, block: bytes) -> None:
        """Record that *block* has arrived, decompressed."""
        events = [*self.reader.feed(block)]
        self.events += [_received(at, event, self.began) for event in events]
        self.mistakes += self._linter.feed(block)
        self.arrivals.append(Arrival(at, len(block), len(events), not self.reader.is_inside))

    def finish(self, ended: str, at: float) -> None:
        """Record how the stream ended, or that it is still open."""
        self.ended, self.ended_at = ended, at
        self.mistakes += self._linter.finish() if ended == CLEANLY else self._linter.cut()

    def header(self, name: str) -> str | None:
        """Return the joined values of a header, or None if there is none."""
        values = [value for given, value in self.headers if given.lower() == name]
        return ", ".join(values) if values else None

    @property
    def marks(self) -> list[tuple[str, str]]:
        """All headers that may reveal a proxy."""
        return [*self.headers, *self.other_headers]

    @property
    def silences(self) -> Iterator[tuple[float, float]]:
        """The start and end of each silence: after the headers, between arrivals and before the end."""
        since = self.headers_at or 0.0
        for at in [*(arrival.at for arrival in self.arrivals), self.ended_at]:
            yield since, at
            since = max(since, at)

    @property
    def is_encoded(self) -> bool:
        """Whether the body arrived compressed."""
        return (self.header("content-encoding") or "identity").lower() != "identity"

    @property
    def server_began(self) -> float:
        """When the request was sent, by the server's clock if that is known. `Date` is accurate to a second."""
        if self.clock_ahead is not None:
            return self.began + self.clock_ahead
        date = parse_date(self.header("date"))
        return self.began if date is None else date.timestamp() - (self.headers_at or 0.0)

    @property
    def delays(self) -> list[float]:
        """Seconds from the time in each event to its arrival, by two clocks. Empty unless each event has a plausible time."""
        stamps = [event.stamp for event in self.events if event.stamp is not None]
        began = self.server_began
        delays = [
            event.at + began - event.stamp for event in self.events if event.stamp is not None and event.stamp > began - 2
        ]
        has_all = len(stamps) == len(self.events) and len(delays) >= 3 and stamps == sorted(stamps)
        return delays if has_all and min(delays) > -2 else []

    @property
    def cadence(self) -> list[float]:
        """Seconds between the arrivals of a canary's events. Empty unless all events are a canary's."""
        events = self.events
        return [then.at - event.at for event, then in pairwise(events)] if all(each.sequence for each in events) else []


def _received(at: float, event: Event, now: float) -> Received:
    sequence = None
    if event.event == canary.TYPE:
        with contextlib.suppress(ValueError, TypeError, KeyError):
            sequence = int(json.loads(event.data)["sequence"])
    return Received(at, next((stamp for stamp in _stamps(event.data[:4096]) if abs(stamp - now) < _DAY), None), sequence)


def _stamps(text: str) -> Iterator[float]:
    for found in _EPOCH.findall(text):
        yield float(found) if "." in found or len(found) == 10 else int(found) / 1000
    for found in _ISO.findall(text):
        try:
            yield datetime.fromisoformat(found.replace("Z", "+00:00")).astimezone(timezone.utc).timestamp()
        except ValueError:  # such as a month 13
            continue
