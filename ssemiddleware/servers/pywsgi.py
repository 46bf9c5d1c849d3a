"""gevent's own server, `gevent.pywsgi`. Measured with gevent 26.9.0.

It closes a client's connection only when ``WSGIHandler.handle`` ends, after the iterable's ``close()``. It has no stop sign,
because TERM ends the process at once. gunicorn's gevent_pywsgi worker is in `gunicorn.py`.

Without monkey patching there is no writer, since anything that waits stops all of the server's greenlets.
"""

from __future__ import annotations

import socket
import sys
from typing import TYPE_CHECKING, Any

from .connection import Connection
from .server import Loop, Server, Writer
from .writing import CHANGED_OUTSIDE, CallingWriter, as_text, has_length_or_encoding, is_exactly

if TYPE_CHECKING:
    from _typeshed.wsgi import WSGIEnvironment

_HANDLERS = (("gevent.pywsgi", "WSGIHandler"), ("gunicorn.workers.ggevent", "PyWSGIHandler"))


class UnpatchedPywsgi(Server):
    """gevent's server without monkey patching: the process's threads are real threads."""

    __slots__ = ()

    name = "gevent.pywsgi"
    loops = (Loop("gevent.pywsgi", "process_result", "self.result", "data"),)
    why_no_writer = "gevent's monkey patching is missing, or does not include threads"
    how_to_heartbeat = "Call gevent.monkey.patch_all() first of all: without it, all requests wait while one application does"

    @staticmethod
    def recognises(environ: WSGIEnvironment) -> bool:
        """Return whether gevent made the environ."""
        return type(environ.get("wsgi.input")).__module__ == "gevent.pywsgi"

    def connection(self) -> Connection | None:
        """Return the client's connection."""
        found: Any = self.environ.get("wsgi.input")
        for attribute in ("rfile", "raw", "_sock"):
            found = getattr(found, attribute, None)
        return connection_over(found)


class PatchedPywsgi(UnpatchedPywsgi):
    """gevent's server with monkey patching: the process's threads are greenlets, and so is the watcher."""

    __slots__ = ()

    why_no_writer = f"{CHANGED_OUTSIDE}; or a request's body is still to be read, over TLS or after 100 Continue"
    how_to_heartbeat = Server.how_to_heartbeat

    @staticmethod
    def recognises(environ: WSGIEnvironment) -> bool:
        """Return whether gevent made the environ and has patched `threading`."""
        monkey = sys.modules.get("gevent.monkey")
        return UnpatchedPywsgi.recognises(environ) and monkey is not None and monkey.is_module_patched("threading")

    def writer(self, write: object, encoding: str = "") -> Writer | None:
        """Return a writer for a response without a length: it ends with its last chunk or with its connection."""
        handler: Any = getattr(write, "__self__", None)
        if not any(is_exactly(handler, *each) for each in _HANDLERS) or write != handler.write:
            return None
        connection = Connection(handler.socket)
        must_be_read = connection.is_tls or handler.wsgi_input.socket is not None  # a "100 Continue" is still to come
        if not _has_open_end(handler, encoding) or (must_be_read and _has_body_left(handler.wsgi_input)):
            return None
        return HandlerWriter(handler, connection)


class HandlerWriter(CallingWriter):
    """Writes through ``gevent.pywsgi.WSGIHandler``, which sends the headers first, and makes chunks where it has to.

    All requests of a connection share one such object. So nothing may be written through it after the own response.
    """

    __slots__ = ("_handler",)

    def __init__(self, handler: Any, connection: Connection) -> None:
        super().__init__(handler.write, connection, is_delimited=handler.request_version != "HTTP/1.0")
        self._handler = handler

    def end(self, last: bytes) -> bool:
        """End the response as ``process_result`` does, and shut the connection for writing, so that nothing more is sent.

        Returns False for TLS without chunks: such a response ends with a close_notify, which only the server's greenlet may
        send.
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
    """Return a connection over *found* if that is a socket, else None."""
    return Connection(found) if hasattr(found, "fileno") else None


def _has_open_end(handler: Any, encoding: str) -> bool:
    """Return whether a response has a body without a given length, in our *encoding* or in none.

    The server sends a body to a HEAD request too, so that is excluded here.
    """
    if handler.command == "HEAD" or handler.code < 200 or handler.code in (204, 304):
        return False
    return not has_length_or_encoding(as_text(handler.response_headers), encoding)


def _has_body_left(body: Any) -> bool:
    """Return whether a part of the request's body is still to be read from the connection."""
    if body.chunked_input:
        return bool(body.chunk_length != 0)  # -1 before the first, 0 after the last
    return bool(body.position < (body.content_length or 0))
