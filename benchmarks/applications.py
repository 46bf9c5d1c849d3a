"""What the servers serve: one application, bare and wrapped, so that one process answers both in turn.

``/bare/fresh/20/10000000`` is a stream of the bare application, ``/wrapped/...`` the same through `SSEMiddleware`,
``/wrapped-32768/...`` with that ``max_block``, ``/joined/...`` with ``join``.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from typing import TYPE_CHECKING

from ssemiddleware import SSEMiddleware

from .shapes import events_of

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment

MAX_BLOCKS = tuple(2**exponent for exponent in (15, 16, 17, 19))  # 32 KiB to 512 KiB

JOIN = 0.05  # seconds

STOCK = b'{"article": 4711, "in_stock": 42, "currency": "EUR", "price": "19.90"}'


def bare(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    """Answer with what the path names after its first part: a stream, some JSON, or the number of the process."""
    stream = environ["PATH_INFO"].split("/", 2)[2]
    if stream in ("stock", "process"):
        answer = STOCK if stream == "stock" else b"%d" % os.getpid()
        start_response("200 OK", [("Content-Type", "application/json"), ("Content-Length", str(len(answer)))])
        return [answer]
    last_event_id = environ.get("HTTP_LAST_EVENT_ID")
    events = events_of(f"{stream}/{last_event_id}" if last_event_id else stream)  # after that one
    start_response("200 OK", [("Content-Type", "text/event-stream")])
    return events


_WAYS: dict[str, WSGIApplication] = {
    "bare": bare,
    "wrapped": SSEMiddleware(bare),
    "joined": SSEMiddleware(bare, join=JOIN),
    **{f"wrapped-{size}": SSEMiddleware(bare, max_block=size) for size in MAX_BLOCKS},
}


def served(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    """Answer bare or wrapped, as the path's first part says."""
    return _WAYS[environ["PATH_INFO"].split("/", 2)[1]](environ, start_response)
