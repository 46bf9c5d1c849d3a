"""A unit test that reads a stream through `ssemiddleware.testing`: a socket takes the place of the client's connection.

It has no name and no writer, so nothing is added to what the application yields.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from .connection import Connection
from .server import Server

if TYPE_CHECKING:
    from _typeshed.wsgi import WSGIEnvironment

SOCKET = "ssemiddleware.testing.socket"  # the key in environ of the server's end


class UnitTest(Server):
    """`ssemiddleware.testing.open_stream` in place of a server."""

    __slots__ = ()

    @staticmethod
    def recognises(environ: WSGIEnvironment) -> bool:
        """Look for the key `SOCKET`."""
        return SOCKET in environ

    def connection(self) -> Connection:
        """Return the connection, which is closed on the test's thread, after the stream."""
        return Connection(self.environ[SOCKET])
