"""gevent's own server, `gevent.pywsgi`. Measured with gevent 26.9.0.

It closes a client's connection only when its handler's ``handle`` ends, after the iterable's ``close()``. It shows nothing when
it stops: TERM ends the process at once. gunicorn's gevent_pywsgi worker is in `gunicorn.py`.

Without monkey patching, a thread that waits for anything stops all of the server's greenlets: no thread of ours, no writer.
"""

from __future__ import annotations

import socket
import sys
from typing import TYPE_CHECKING, Any

from .connection import Connection
from .server import Loop, Server, Writer
from .writing import CHANGED_OUTSIDE, CallingWriter, has_length_or_encoding, is_exactly

if TYPE_CHECKING:
    from _typeshed.wsgi import WSGIEnvironment

_HANDLERS = (("gevent.pywsgi", "WSGIHandler"), ("gunicorn.workers.ggevent", "PyWSGIHandler"))


class UnpatchedPywsgi(Server):
    """gevent's server in a process whose threads are threads."""

    __slots__ = ()

    name = "gevent.pywsgi"
    loops = (Loop("gevent.pywsgi", "process_result", "self.result", "data"),)
    why_no_writer = "gevent's monkey patching is needed, of threads too"
    how_to_heartbeat = "Call gevent.monkey.patch_all() first of all: without it, all requests wait while one application does"
    can_start_threads = False

    @staticmethod
    def recognises(environ: WSGIEnvironment) -> bool:
        """Tell whether gevent's handler made the environ."""
        return type(environ.get("wsgi.input")).__module__ == "gevent.pywsgi"

    def connection(self) -> Connection | None:
        """Return the client's connection."""
        found: Any = self.environ.get("wsgi.input")
        for attribute in ("rfile", "raw", "_sock"):
            found = getattr(found, attribute, None)
        return connection_over(found)


class PatchedPywsgi(UnpatchedPywsgi):
    """gevent's server in a process whose threads are greenlets: the watcher is one of them."""

    __slots__ = ()

    why_no_writer = f"{CHANGED_OUTSIDE}; or a request's body is still to be read, over TLS or after 100 Continue"
    how_to_heartbeat = Server.how_to_heartbeat
    can_start_threads = True

    @staticmethod
    def recognises(environ: WSGIEnvironment) -> bool:
        """Tell whether gevent's handler made the environ, and `threading` is gevent's."""
        monkey = sys.modules.get("gevent.monkey")
        return UnpatchedPywsgi.recognises(environ) and monkey is not None and monkey.is_module_patched("threading")

    def writer(self, write: object) -> Writer | None:
        """Return how to write a response whose end is the end of its chunks or of its connection."""
        handler: Any = getattr(write, "__self__", None)
        if not any(is_exactly(handler, *each) for each in _HANDLERS) or write != handler.write:
            return None
        connection = Connection(handler.socket)
        must_be_read = connection.is_tls or handler.wsgi_input.socket is not None  # a "100 Continue" is still to come
        if not _has_open_end(handler) or (must_be_read and _has_body_left(handler.wsgi_input)):
            return None
        return HandlerWriter(handler, connection)


class HandlerWriter(CallingWriter):
    """Writes through ``gevent.pywsgi.WSGIHandler``: the headers, if they have not been sent, and chunks where it does.

    The handler is its connection's, for all requests on it: nothing may be written through this after its own response.
    """

    __slots__ = ("_handler",)

    def __init__(self, handler: Any, connection: Connection) -> None:
        super().__init__(handler.write, connection, is_delimited=handler.request_version != "HTTP/1.0")
        self._handler = handler

    def end(self, last: bytes) -> bool:
        """End the response as ``process_result`` does, and shut the connection for writing: nothing that comes later leaves.

        False for TLS without chunks: a close_notify would have to be its end, which the server's greenlet sends.
        """
        handler = self._handler
        if (self._connection.is_tls and handler.request_version == "HTTP/1.0") or not self.write(last):
            return False
        if handler.response_use_chunked:
            handler._sendall(b"0\r\n\r\n")
            handler.response_use_chunked = False
        handler.close_connection = True
        self._connection.shutdown(socket.SHUT_WR)
        return True


def connection_over(found: Any) -> Connection | None:
    """Return the connection over a socket, None for what is none."""
    return Connection(found) if hasattr(found, "fileno") else None


def _has_open_end(handler: Any) -> bool:
    """Tell whether a response has a body, of a length that nobody has said, and is not encoded. It sends one to a HEAD too."""
    if handler.command == "HEAD" or handler.code < 200 or handler.code in (204, 304):
        return False
    return not has_length_or_encoding(name.decode("latin-1") for name, _ in handler.response_headers)


def _has_body_left(body: Any) -> bool:
    """Tell whether reading the request's body may still read from the connection."""
    if body.chunked_input:
        return bool(body.chunk_length != 0)  # -1 before the first, 0 after the last
    return bool(body.position < (body.content_length or 0))
