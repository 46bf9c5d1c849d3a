"""What uvicorn serves: the rival, sse-starlette, and the WSGI application behind a2wsgi."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator

from a2wsgi import WSGIMiddleware
from sse_starlette import EventSourceResponse
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from .applications import served
from .fan_out_application import Source
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


class FanOut:
    """The same source as `fan_out_application` has, for subscribers on one event loop, which it wakes once an event."""

    def __init__(self) -> None:
        self.queues: set[asyncio.Queue[bytes]] = set()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._source = Source(self._hand_over)

    def _hand_over(self, event: bytes) -> None:
        if self._loop is not None:
            self._loop.call_soon_threadsafe(self._hand_to_all, event)

    def _hand_to_all(self, event: bytes) -> None:
        for queue in self.queues:
            queue.put_nowait(event)

    async def events(self) -> AsyncIterator[bytes]:
        """Subscribe, and yield what the source makes."""
        self._loop = asyncio.get_running_loop()
        self._source.run()
        queue: asyncio.Queue[bytes] = asyncio.Queue()
        self.queues.add(queue)
        try:
            while True:
                yield await queue.get()
        finally:
            self.queues.discard(queue)


_fan_out = FanOut()


async def subscribe(_request: Request) -> Response:
    """Answer with a subscriber's stream."""
    return EventSourceResponse(_fan_out.events())


async def count_subscribers(_request: Request) -> Response:
    """Answer with how many there are."""
    return PlainTextResponse(str(len(_fan_out.queues)))


async def name_process(_request: Request) -> Response:
    """Answer with the number of the process."""
    return PlainTextResponse(str(os.getpid()))


rival = Starlette(
    routes=[
        Route("/bare/process", name_process),
        Route("/bare/subscribers", count_subscribers),
        Route("/rival/fan-out", subscribe),
        Route("/rival/{stream:path}", stream_events),
    ]
)
