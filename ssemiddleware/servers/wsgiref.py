"""The standard library's wsgiref (CPython 3.11), and Django 5.2's runserver, which is built on it.

A response without a length has no chunks: its end is the end of the connection.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .connection import Connection
from .server import Loop, Server, Writer
from .writing import CHANGED_OUTSIDE, CallingWriter, has_length_or_encoding, is_exactly, may_be_written

if TYPE_CHECKING:
    from _typeshed.wsgi import WSGIEnvironment

_RESPONSES = ("wsgiref.simple_server", "django.core.servers.basehttp")  # each has a ServerHandler

# From wsgi.input to the socket: wsgiref's is the buffered reader of the connection, Django's holds that reader's `read`.
_PATHS = (("raw", "_sock"), ("_read", "__self__", "raw", "_sock"))


class Wsgiref(Server):
    """wsgiref.simple_server, and what takes its place in runserver."""

    __slots__ = ()

    name = "wsgiref"
    loops = (Loop("wsgiref.handlers", "finish_response", "self.result", "data"),)
    why_no_writer = CHANGED_OUTSIDE

    @staticmethod
    def recognises(environ: WSGIEnvironment) -> bool:
        """Tell by the name that the request handler gives itself; Django's gives none of its own."""
        return str(environ.get("SERVER_SOFTWARE", "")).startswith("WSGIServer/")

    def connection(self) -> Connection | None:
        """Return the connection, which only the request's own thread closes."""
        for path in _PATHS:
            found: Any = self.environ.get("wsgi.input")
            for attribute in path:
                found = getattr(found, attribute, None)
            if hasattr(found, "fileno"):
                return Connection(found)
        return None

    def writer(self, write: object) -> Writer | None:
        """Return a writer that calls the response's ``write``. Measured with the application in ``time.sleep``."""
        response: Any = getattr(write, "__self__", None)
        connection = self.connection()
        if (
            connection is None
            or not any(is_exactly(response, module, "ServerHandler") for module in _RESPONSES)
            or not may_be_written(self.environ, connection)
            or response.headers is None
            or has_length_or_encoding(response.headers.keys())
        ):
            return None
        return CallingWriter(response.write, connection, is_delimited=False)
