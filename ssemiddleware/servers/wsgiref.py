"""The standard library's wsgiref (CPython 3.10 to 3.15), and Django 5.2's runserver, which is built on it.

A response without a length has no chunks, so it ends with its connection.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .connection import Connection
from .server import Loop, Server, Writer
from .writing import CHANGED_OUTSIDE, CallingWriter, has_length_or_encoding, is_exactly, may_be_written

if TYPE_CHECKING:
    from _typeshed.wsgi import WSGIEnvironment

_RESPONSES = ("wsgiref.simple_server", "django.core.servers.basehttp")  # each has a ServerHandler

# From wsgi.input to the socket. In wsgiref it is the buffered reader of the connection; in Django it has that reader's `read`.
_PATHS = (("raw", "_sock"), ("_read", "__self__", "raw", "_sock"))


class Wsgiref(Server):
    """wsgiref.simple_server, and Django's server in runserver."""

    __slots__ = ()

    name = "wsgiref"
    loops = (Loop("wsgiref.handlers", "finish_response", "self.result", "data"),)
    why_no_writer = CHANGED_OUTSIDE

    @staticmethod
    def recognises(environ: WSGIEnvironment) -> bool:
        """Look at SERVER_SOFTWARE, which has a version in wsgiref before CPython 3.15, and none in Django."""
        return str(environ.get("SERVER_SOFTWARE", "")).partition("/")[0] == "WSGIServer"

    def connection(self) -> Connection | None:
        """Return the connection, which only the request's own thread closes."""
        for path in _PATHS:
            found: Any = self.environ.get("wsgi.input")
            for attribute in path:
                found = getattr(found, attribute, None)
            if hasattr(found, "fileno"):
                return Connection(found)
        return None

    def writer(self, write: object, encoding: str = "") -> Writer | None:
        """Return a writer that calls the response's ``write``. Measured while the application was in ``time.sleep``."""
        response: Any = getattr(write, "__self__", None)
        connection = self.connection()
        if (
            connection is None
            or not any(is_exactly(response, module, "ServerHandler") for module in _RESPONSES)
            or not may_be_written(self.environ, connection)
            or response.headers is None
            or has_length_or_encoding(response.headers.items(), encoding)
        ):
            return None
        return CallingWriter(response.write, connection, is_delimited=False)
