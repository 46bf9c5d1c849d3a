"""werkzeug 3.1.9's development server, which is also what ``flask run`` starts.

Its ``write`` is an inner function. It sends a chunk in four writes to an unbuffered file, so only one thread at a time may call
it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .connection import Connection
from .server import Loop, Server, Writer
from .writing import CHANGED_OUTSIDE, CallingWriter, closed_over, has_length_or_encoding, is_function, may_be_written

if TYPE_CHECKING:
    from _typeshed.wsgi import WSGIEnvironment


class Werkzeug(Server):
    """werkzeug's server: with a thread or a process for each request, or with one thread for all."""

    __slots__ = ()

    name = "werkzeug"
    loops = (Loop("werkzeug.serving", "execute", "application_iter", "data"),)
    why_no_writer = CHANGED_OUTSIDE

    @staticmethod
    def recognises(environ: WSGIEnvironment) -> bool:
        """Look for the key under which werkzeug shows the connection."""
        return "werkzeug.socket" in environ

    def connection(self) -> Connection | None:
        """Return the connection, which only the request's own thread closes."""
        found: Any = self.environ.get("werkzeug.socket")
        return Connection(found) if hasattr(found, "fileno") else None

    def writer(self, write: object, encoding: str = "") -> Writer | None:
        """Return a writer that calls ``write``. Measured while the application was in ``time.sleep``."""
        connection = self.connection()
        if (
            connection is None
            or not is_function(write, "werkzeug.serving", "WSGIRequestHandler.run_wsgi.<locals>.write")
            or not may_be_written(self.environ, connection)
        ):
            return None
        function: Any = write
        headers = closed_over(function, "headers_set")
        if headers is None or has_length_or_encoding(headers, encoding):
            return None
        has_chunks = closed_over(function, "self").protocol_version >= "HTTP/1.1"  # to an HTTP/1.0 client too
        return CallingWriter(function, connection, is_delimited=has_chunks)
