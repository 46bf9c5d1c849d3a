"""A page in a browser that reads event streams, and what it has seen of them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple, cast

from .driving import Browser

CONNECTING, CLOSED = 0, 2  # an EventSource's readyState after an error: it will reconnect, or never will


class Received(NamedTuple):
    """An event as a page gets it."""

    type: str
    id: str
    data: str


class Record(NamedTuple):
    """What became of an EventSource. All times are milliseconds since 1970."""

    began: int
    opened: list[int]
    failed: list[int]  # each `error` event
    states: list[int]  # the readyState at each of them
    events: list[Received]


class Page:
    """The page of `application` in a *browser*; it listens to one stream, or reads several to their end."""

    def __init__(self, browser: Browser, url: str) -> None:
        self.browser = browser
        self.url = url
        browser.open(url)

    def listen(self, path: str) -> None:
        """Begin to read the stream at *path*."""
        self.browser.run("window.listening = listen(arguments[0]);", path)

    def record(self) -> Record:
        """Return what the stream that the page listens to has brought so far."""
        return _record(self.browser.run("return listening.record;"))

    def wait_until(self, condition: str, within: float = 30.0) -> Record:
        """Wait until the *condition* on ``record``, in JavaScript, holds; return the record."""
        script = f"const {{record}} = listening; await until(() => {condition}, arguments[0]); return record;"
        return _record(self.browser.run(script, within, timeout=within + 10))

    def close(self) -> tuple[Record, float]:
        """Close the EventSource; return what it has brought, and when it was closed (seconds since 1970)."""
        script = "const closed = Date.now(); listening.source.close(); return [listening.record, closed];"
        record, closed = cast(Any, self.browser.run(script))
        return _record(record), closed / 1000

    def read_to_end(self, paths: Iterable[str], within: float = 60.0) -> list[Record]:
        """Read the streams at *paths* at once (a browser asks a server for 6), each up to its first end."""
        script = "return Promise.all(arguments[0].map(path => readToEnd(path, arguments[1])));"
        records = self.browser.run(script, list(paths), within, timeout=within + 10)
        return [_record(record) for record in cast(Any, records)]

    def hash_of(self, path: str, within: float = 60.0) -> tuple[int, str]:
        """Read the stream at *path* to its end; return the number of its events and the SHA-256 of their IDs and data."""
        script = "const {events} = await readToEnd(...arguments); return [events.length, await hash(events)];"
        number, digest = cast(Any, self.browser.run(script, path, within, timeout=within + 10))
        return number, digest


def _record(record: object) -> Record:
    fields = cast(dict[str, Any], record)
    return Record(**{**fields, "events": [Received(*event) for event in fields["events"]]})
