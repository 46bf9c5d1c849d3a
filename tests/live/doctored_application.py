"""Applications for the doctor: a wrapped one with a canary, and a healthy ASGI stream."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from typing import TYPE_CHECKING

from ssemiddleware import SSEMiddleware

from .applications import AMPLE, play

if TYPE_CHECKING:
    from _typeshed import OptExcInfo
    from _typeshed.wsgi import StartResponse, WSGIEnvironment

app = SSEMiddleware(play, canary="/canary", memory=AMPLE)


def transformed(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    """Answer as `app` does, but allow proxies to compress."""

    def start(status: str, headers: list[tuple[str, str]], exc_info: OptExcInfo | None = None) -> Callable[[bytes], object]:
        headers = [(name, value.replace(", no-transform", "")) for name, value in headers]
        return start_response(status, headers, exc_info) if exc_info else start_response(status, headers)

    return app(environ, start)


_HEADERS = [(b"content-type", b"text/event-stream; charset=utf-8"), (b"cache-control", b"no-store")]


async def asgi(scope: dict[str, object], receive: object, send: Callable[[dict[str, object]], Awaitable[None]]) -> None:
    """Send an event each 0.3 s."""
    if scope["type"] != "http":
        return
    await send({"type": "http.response.start", "status": 200, "headers": _HEADERS})
    while scope["method"] != "HEAD":
        await send({"type": "http.response.body", "body": b"data: hello\n\n", "more_body": True})
        await asyncio.sleep(0.3)
    await send({"type": "http.response.body", "body": b""})
