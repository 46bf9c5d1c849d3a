"""What the soak serves: one endless sequence of numbered events, the same for everyone, from the last event of a client on.

/steady   an event now and then, and an end as soon as the stream is closing
/deaf     the same with time.sleep(), deaf to its end
/each     the same from a source that blocks, through Stream.each
/silent   seconds between two events
/flow     as fast as it can
/answer   the next events, fifty, and then its own end
/inside   what is open in the process, as JSON
"""

from __future__ import annotations

import itertools
import json
import os
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING

from ssemiddleware import SSEMiddleware, Stream

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIEnvironment

PAUSE = 0.2  # seconds
SILENCE = 2.0  # seconds
ANSWER = 50  # events
SEND_DEADLINE = 3.0  # seconds


def event_of(number: int) -> bytes:
    """Return an event: mostly small, now and then of 20 kB, seldom of 300 kB."""
    size = 300_000 if number % 500 == 0 else 20_000 if number % 50 == 0 else number % 90
    return b"id: %d\ndata: %d %s\n\n" % (number, number, b"." * size)


def blocks_of(number: int) -> Iterator[bytes]:
    """Yield an event, each seventh in halves with a pause between."""
    event = event_of(number)
    if number % 7 == 0:
        yield event[: len(event) // 2]
        time.sleep(0.01)
        event = event[len(event) // 2 :]
    yield event


def steady(stream: Stream, first: int) -> Iterator[bytes]:
    for number in itertools.count(first):
        if stream.closing.wait(PAUSE):
            return
        yield from blocks_of(number)


def deaf(stream: Stream, first: int) -> Iterator[bytes]:
    for number in itertools.count(first):
        time.sleep(PAUSE)
        yield from blocks_of(number)


def each(stream: Stream, first: int) -> Iterator[bytes]:
    stopped = threading.Event()

    def source() -> Iterator[int]:
        numbers = itertools.count(first)
        while not stopped.wait(PAUSE):
            yield next(numbers)

    for number in stream.each(source(), stop=stopped.set, endless=True):
        yield from blocks_of(number)


def silent(stream: Stream, first: int) -> Iterator[bytes]:
    for number in itertools.count(first):
        yield from blocks_of(number)
        if stream.closed.wait(SILENCE):
            return


def flow(stream: Stream, first: int) -> Iterator[bytes]:
    for number in itertools.count(first):
        yield from blocks_of(number)


def answer(stream: Stream, first: int) -> Iterator[bytes]:
    for number in range(first, first + ANSWER):
        time.sleep(PAUSE / 10)
        yield from blocks_of(number)


STREAMS: dict[str, Callable[[Stream, int], Iterator[bytes]]] = {
    f"/{play.__name__}": play for play in (steady, deaf, each, silent, flow, answer)
}


def play(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    """Answer one request."""
    if environ["PATH_INFO"] == "/inside":
        start_response("200 OK", [("Content-Type", "application/json")])
        stats = app.stats()
        return [json.dumps({"process": os.getpid(), "open": stats.open, "kept_threads": stats.kept_threads}).encode()]
    start_response("200 OK", [("Content-Type", "text/event-stream")])
    stream: Stream = environ["ssemiddleware.stream"]
    return STREAMS[environ["PATH_INFO"]](stream, int(stream.last_event_id or 0) + 1)


# The clients reconnect soon.
app = SSEMiddleware(
    play,
    heartbeat=1.0,
    send_deadline=SEND_DEADLINE,
    retry=300,
    lease=5.0,
)
