"""What ASGI servers serve: the applications behind a2wsgi, which never tells a WSGI application that its client has left."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from typing import Any

from a2wsgi import WSGIMiddleware

from .applications import app, app_with_a_heartbeat_a_second

bridged = WSGIMiddleware(app)  # type: ignore[arg-type]  # its types ask for its own environ
bridged_with_a_heartbeat_a_second = WSGIMiddleware(app_with_a_heartbeat_a_second)  # type: ignore[arg-type]

BUSY = 2.5  # seconds


async def bridged_beside_a_busy_loop(
    scope: dict[str, Any], receive: Callable[[], Awaitable[Any]], send: Callable[[Any], Awaitable[None]]
) -> None:
    """Answer /busy on the event loop itself, which does nothing else meanwhile, and all else through a2wsgi."""
    if scope["type"] == "http" and scope["path"] == "/busy":
        time.sleep(BUSY)
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"0")]})
        await send({"type": "http.response.body", "body": b""})
    elif scope["type"] == "http":
        await bridged_with_a_heartbeat_a_second(scope, receive, send)  # type: ignore[arg-type]
