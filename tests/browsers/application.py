"""The application that the browsers read: each stream bare, wrapped, wrapped with heartbeats that come fast, or one at a time.

    gunicorn --chdir tests/browsers "application:create_application('/tmp/journal')"
    python tests/browsers/application.py /tmp/journal 3  # waitress, on the listening socket that is file descriptor 3

``/bare/...`` and ``/wrapped/...`` are the same streams; ``/`` is the page that reads them, ``/client.js`` the package's. What a
stream lives through stands in a journal on disk, which outlives the worker; ``stream=`` in the query names it there.
"""

from __future__ import annotations

import json
import os
import socket
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast
from urllib.parse import parse_qs

from werkzeug.middleware.dispatcher import DispatcherMiddleware
from werkzeug.wsgi import ClosingIterator

from ssemiddleware import Compress, SSEMiddleware, Stream
from ssemiddleware.__main__ import CLIENT

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment

HEARTBEAT = 0.1  # seconds, under /beating
RETRY = 600  # milliseconds, under /wrapped; half as much again is still far below the 3 s that browsers wait by themselves
SILENCE = 8.0  # seconds

Query = dict[str, list[str]]


def small_events() -> Iterator[tuple[int, str]]:
    """Yield IDs and data of 20,000 events of about 30 bytes."""
    for number in range(20_000):
        yield number, f"event {number}"


def big_events() -> Iterator[tuple[int, str]]:
    """Yield IDs and data of 20 events of 1 MB, on one line, in characters of one to four bytes."""
    for number in range(20):
        yield number, f"{number:4} aé€𝄞" * 66_667


def _written(events: Iterable[tuple[int, str]]) -> Iterator[bytes]:
    for event_id, data in events:
        yield f"id: {event_id}\ndata: {data}\n\n".encode()


def _paced(stream: Stream, query: Query) -> Iterator[bytes]:
    """Yield each ``block`` of the query after a ``pause`` in seconds, and end after another one."""
    for block in query["block"]:
        stream.closed.wait(float(query["pause"][0]))
        yield block.encode("latin-1")
    stream.closed.wait(float(query["pause"][0]))


def _counting(stream: Stream, query: Query) -> Iterator[bytes]:
    """Yield events that count on from the last event ID, each in two blocks, forever."""
    for number in count(int(stream.last_event_id or 0) + 1):
        yield b"id: %d\ndata: event" % number
        time.sleep(0.002)
        yield b" %d\n\n" % number
        if stream.closed.wait(0.002):
            return


def _silent(stream: Stream, query: Query) -> Iterator[bytes]:
    stream.closed.wait(SILENCE)
    yield b"data: the end of the silence\n\n"


_STREAMS: dict[str, Callable[[Stream, Query], Iterable[bytes]]] = {
    "/paced": _paced,
    "/counting": _counting,
    "/silent": _silent,
    "/small": lambda stream, query: _written(small_events()),
    "/big": lambda stream, query: _written(big_events()),
}


class Journal:
    """What streams live through: a line of JSON each, in a file that more than one process may write to."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def write(self, name: str, **fact: object) -> None:
        """Write a *fact* about the stream called *name*, with the time and the worker's process id."""
        line = json.dumps({"stream": name, "at": time.time(), "worker": os.getpid(), **fact})
        with self._path.open("a") as file:
            file.write(line + "\n")


def create_application(journal_path: str) -> WSGIApplication:
    """Return the page and, beside it, its streams bare and wrapped."""
    journal = Journal(Path(journal_path))
    journal.write("", started=True)  # in gunicorn, by the worker that will serve it
    streams = create_streams(journal)
    ways: dict[str, WSGIApplication] = {
        "/bare": streams,
        "/wrapped": SSEMiddleware(streams, retry=RETRY),
        "/beating": _counted(SSEMiddleware(streams, heartbeat=HEARTBEAT), journal),
        "/compressed": SSEMiddleware(streams, heartbeat=HEARTBEAT, retry=RETRY, compress=Compress()),
        "/single": SSEMiddleware(streams, retry=RETRY, max_streams=1),
    }
    return DispatcherMiddleware(_page, ways)


def create_streams(journal: Journal) -> WSGIApplication:
    """Return the streams by themselves. Further headers are taken from the query: ``header=Connection: keep-alive``."""

    def streams(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        query = parse_qs(environ["QUERY_STRING"], keep_blank_values=True, encoding="latin-1")
        headers = [("Content-Type", query.get("type", ["text/event-stream"])[0])]
        for header in query.get("header", []):
            name, _, value = header.partition(": ")
            headers.append((name, value))
        start_response("200 OK", headers)
        # Bare, nothing says that the stream has ended.
        stream = environ.get("ssemiddleware.stream") or Stream(environ.get("HTTP_LAST_EVENT_ID", ""))
        name = query["stream"][0]
        journal.write(name, asked_from=stream.last_event_id)
        blocks = _STREAMS[environ["PATH_INFO"]](stream, query)
        return ClosingIterator(blocks, lambda: journal.write(name, ended=stream.reason))

    return streams


def _counted(application: WSGIApplication, journal: Journal) -> WSGIApplication:
    """Return *application* with a count of the comments that are sent alone: the opening and the heartbeats.

    Most are not yielded: they are written beside the application, which gunicorn counts.
    """

    def counted(environ: WSGIEnvironment, start_response: StartResponse) -> Iterator[bytes]:
        writes: list[Any] = []

        def start(*response: Any) -> Callable[[bytes], object]:
            writes[:] = [start_response(*response)]
            return cast("Callable[[bytes], object]", writes[0])

        blocks = application(environ, start)
        comments = size = 0
        try:
            for block in blocks:
                comments += block.rstrip() == b":"
                size += len(block)
                yield block
        finally:
            if hasattr(blocks, "close"):
                blocks.close()
            comments += (writes[0].__self__.sent - size) // len(b":\n")
            journal.write(parse_qs(environ["QUERY_STRING"])["stream"][0], comments=comments)

    return counted


_FILES = {"/": ("html", Path(__file__).with_name("page.html")), "/client.js": ("javascript", CLIENT)}


def _page(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    if environ["PATH_INFO"] not in _FILES:
        start_response("404 Not Found", [("Content-Type", "text/plain")])
        return [b""]
    subtype, file = _FILES[environ["PATH_INFO"]]
    start_response("200 OK", [("Content-Type", f"text/{subtype}; charset=utf-8")])
    return [file.read_bytes()]


if __name__ == "__main__":
    import waitress  # type: ignore[import-untyped]  # it has no types

    waitress.serve(create_application(sys.argv[1]), sockets=[socket.socket(fileno=int(sys.argv[2]))], threads=16)
