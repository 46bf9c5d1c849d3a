"""hypercorn 0.18 serving a WSGI application by itself (under a2wsgi: see `a2wsgi`).

Nothing in its environ comes from hypercorn. The connection is found through its HTTPStream, which a frame of the thread has.
"""

from __future__ import annotations

import io
import sys
from typing import TYPE_CHECKING, Any

from .connection import Connection
from .loop import find_local
from .server import Loop, Server, StopSign
from .stopping import AskedSign
from .writing import is_exactly

if TYPE_CHECKING:
    from _typeshed.wsgi import WSGIEnvironment

_LOOPS = (Loop("hypercorn.app_wrappers", "run_app", "response_body", "output"),)


class Hypercorn(Server):
    """hypercorn's WSGI mode. All methods have to be called on its own thread."""

    __slots__ = ()

    name = "hypercorn"
    loops = _LOOPS
    why_no_writer = "hypercorn gives WSGI applications no write()"

    @staticmethod
    def recognises(environ: WSGIEnvironment) -> bool:
        """Look for the frame that calls the application, if hypercorn is loaded at all."""
        return (
            "hypercorn.app_wrappers" in sys.modules
            and type(environ.get("wsgi.input")) is io.BytesIO
            and "SERVER_SOFTWARE" not in environ
            and find_local(_LOOPS, "self") is not None
        )

    def connection(self) -> Connection | None:
        """Return the connection of a request over HTTP/1. Over HTTP/2 several requests share one."""
        stream = _stream()
        protocol: Any = getattr(getattr(stream, "send", None), "__self__", None)
        if not is_exactly(protocol, "hypercorn.protocol.h11", "H11Protocol"):
            return None
        writer: Any = getattr(getattr(protocol.send, "__self__", None), "writer", None)  # asyncio's; trio has none
        found = None if writer is None else writer.get_extra_info("socket")
        return None if found is None else Connection(found, is_closed=lambda: stream.closed or writer.is_closing())

    def stop_sign(self) -> StopSign | None:
        """Return the sign of the worker's stop. The worker then waits for ``graceful_timeout``."""
        stream = _stream()
        if stream is None:
            return None
        return AskedSign(lambda: bool(stream.context.terminated.is_set()), float(stream.config.graceful_timeout))


def _stream() -> Any:
    """Return hypercorn's object for this request. A frame of its thread has ``send``, a partial of the object's method."""
    send = next(iter(getattr(find_local(_LOOPS, "send"), "args", ())), None)
    stream: Any = getattr(send, "__self__", None)
    return stream if is_exactly(stream, "hypercorn.protocol.http_stream", "HTTPStream") else None
