"""cheroot 11.1.2, CherryPy's server: a pool of threads, and blocking sockets with a timeout of 10 seconds."""

from __future__ import annotations

import socket
import ssl
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from .connection import Connection
from .loop import find_local, return_check
from .server import Loop, Server, StopSign, Writer
from .stopping import AskedSign
from .writing import CHANGED_OUTSIDE, CallingWriter, as_text, has_length_or_encoding, is_exactly, may_be_written

if TYPE_CHECKING:
    from _typeshed.wsgi import WSGIEnvironment

_GATEWAYS = ("Gateway_10", "Gateway_u0")


class Cheroot(Server):
    """cheroot.wsgi.Server."""

    __slots__ = ()

    name = "cheroot"
    loops = (Loop("cheroot.wsgi", "respond", "response", "chunk"),)
    why_no_writer = CHANGED_OUTSIDE

    @staticmethod
    def recognises(environ: WSGIEnvironment) -> bool:
        """Look at the type of ``wsgi.input``, since users may change the name in SERVER_SOFTWARE."""
        return type(environ.get("wsgi.input")).__module__ == "cheroot.server"

    def connection(self) -> Connection | None:
        """Return the connection, which only the request's own thread closes. None with pyOpenSSL, which has other sockets."""
        found: Any = self.environ.get("wsgi.input")
        for attribute in ("rfile", "raw", "_sock"):
            found = getattr(found, attribute, None)
        return Connection(found) if type(found) in (socket.socket, ssl.SSLSocket) else None

    def writer(self, write: object, encoding: str = "") -> Writer | None:
        """Return a writer that calls the gateway's ``write``. Measured while the application was in ``time.sleep``."""
        gateway: Any = getattr(write, "__self__", None)
        connection = self.connection()
        if (
            connection is None
            or not any(is_exactly(gateway, "cheroot.wsgi", name) for name in _GATEWAYS)
            or not may_be_written(self.environ, connection)
            or has_length_or_encoding(as_text(gateway.req.outheaders), encoding)
        ):
            return None
        return CallingWriter(gateway.write, connection, is_delimited=gateway.req.response_protocol == "HTTP/1.1")

    def stop_sign(self) -> StopSign | None:
        """Return the sign of ``Server.stop()``, which SIGINT calls. SIGTERM ends the process at once.

        After ``shutdown_timeout`` cheroot stops reading from the clients, and waits for its threads forever.
        """
        server = self._server()
        return None if server is None else AskedSign(lambda: not server.ready, None)

    def last_bytes(self) -> Callable[[], bool]:
        """Return a function that tells whether the last chunk is sent, which the request writes after ``close()``."""
        return return_check("cheroot.server", "respond")

    def threads(self) -> int | None:
        """Return the least number of threads. cheroot never adds more by itself."""
        found = getattr(getattr(self._server(), "requests", None), "min", None)
        return found if type(found) is int else None

    def _server(self) -> Any:
        """Return the server, which is found only through the frames of its own thread."""
        request = getattr(find_local(self.loops, "self"), "req", None)
        return getattr(request, "server", None)
