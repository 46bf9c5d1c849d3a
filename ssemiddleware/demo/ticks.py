"""The ticker that Flask and Django both serve, and how a stream of the demo waits."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from itertools import count
from typing import TYPE_CHECKING

from ssemiddleware import Event

if TYPE_CHECKING:
    from _typeshed.wsgi import WSGIEnvironment


def ticks(environ: WSGIEnvironment) -> Iterator[bytes]:
    """Yield an event a second: its number, and the milliseconds since 1970 at which it was made."""
    for number in count(next_number(environ)):
        yield bytes(Event(json={"number": number, "sent": round(time.time() * 1000)}, id=str(number)))
        if should_end_after(environ, 1.0):
            return


def next_number(environ: WSGIEnvironment) -> int:
    """Return the number to go on with: a client that reconnects says which event was its last."""
    last = environ.get("HTTP_LAST_EVENT_ID", "")
    return int(last) + 1 if re.fullmatch("[0-9]{1,9}", last) else 1


def should_end_after(environ: WSGIEnvironment, seconds: float) -> bool:
    """Wait that long, or until an endless stream should end: its client has disconnected, or the server stops."""
    return wait(environ, "closing", seconds)


def has_no_client_after(environ: WSGIEnvironment, seconds: float) -> bool:
    """Wait that long, or until there is no need to go on. A stream that ends by itself needs to check nothing else."""
    return wait(environ, "closed", seconds)


def wait(environ: WSGIEnvironment, event: str, seconds: float) -> bool:
    """Wait for one of the stream's events. A bare application has no such event, so it waits the whole time."""
    stream = environ.get("ssemiddleware.stream")
    if stream is None:
        time.sleep(seconds)
        return False
    return bool(getattr(stream, event).wait(seconds))
