"""The canary: a stream of the middleware's own. With it a client measures delay, loss and cadence on the way.

Each event has the type ``canary`` and JSON with a ``sequence`` from 1 and the server's ``time`` in seconds since 1970. The
header `CLOCK` has the same time. So a client can ask with HEAD how far its own clock is off.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

from .event_stream import MEDIA_TYPE, Event

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIEnvironment

    from .handle import Stream

TYPE = "canary"
CLOCK = "Canary-Time"
INTERVAL = 1.0  # seconds


def canary(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    """Answer with an endless stream. It is a WSGI application inside the middleware."""
    start_response("200 OK", [("Content-Type", MEDIA_TYPE), (CLOCK, f"{time.time():.6f}")])
    return _events(environ["ssemiddleware.stream"])


def _events(stream: Stream) -> Iterator[bytes]:
    for sequence in itertools.count(1):
        yield bytes(Event(event=TYPE, json={"sequence": sequence, "time": round(time.time(), 6)}))
        if stream.closing.wait(INTERVAL):
            return
