"""What uvicorn serves: the rival, sse-starlette, and the WSGI application behind a2wsgi."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator

from a2wsgi import WSGIMiddleware
from sse_starlette import EventSourceResponse
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from .applications import served
from .shapes import events_of

bridged = WSGIMiddleware(served)  # type: ignore[arg-type]  # its types ask for its own environ


async def stream_events(request: Request) -> Response:
    """Answer with the stream that the path names.

    The events are bytes, which sse-starlette passes on as they are: nothing it has is faster.
    """
    return EventSourceResponse(_asynchronously(request.path_params["stream"]))


async def _asynchronously(stream: str) -> AsyncIterator[bytes]:
    for event in events_of(stream):
        yield event


async def name_process(_request: Request) -> Response:
    """Answer with the number of the process."""
    return PlainTextResponse(str(os.getpid()))


rival = Starlette(routes=[Route("/bare/process", name_process), Route("/rival/{stream:path}", stream_events)])
