"""uWSGI (pyuwsgi 2.0.30): a server written in C, which calls applications without a frame of Python's between.

Its ``write`` may not be called from another thread, but the descriptor of the request can be written to: what follows the
headers is the body, byte for byte, with ``--http-socket``, behind its ``--http`` router (which makes chunks by itself), and
behind a proxy that speaks the uwsgi protocol. Before the headers have left nothing may be written there.
"""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING, Any

from .connection import Connection
from .server import Server, Writer
from .writing import check_length

if TYPE_CHECKING:
    from _typeshed.wsgi import WSGIEnvironment

# Parts of the names of options with which the body is not what goes through the descriptor (TLS, another protocol's records, a
# transformation such as chunks or gzip, a second request on it), or with which one thread serves many requests.
_NOT_RAW = (
    *("https-socket", "suwsgi", "ssl-socket", "fastcgi", "zeromq", "zmq", "mongrel", "puwsgi", "raw-socket", "protocol"),
    *("http11-socket", "route", "gevent", "async", "ugreen", "asyncio", "tornado"),
)


class Uwsgi(Server):
    """uWSGI."""

    __slots__ = ()

    name = "uWSGI"
    iterates_in_c = True
    can_open = False
    why_no_writer = "uWSGI does not send this response's body as it is, or serves many requests in one thread"

    @staticmethod
    def recognises(environ: WSGIEnvironment) -> bool:
        """Tell by the version that uWSGI puts into each environ."""
        return "uwsgi.version" in environ

    def connection(self) -> Connection | None:
        """Return the connection: the client's with ``--http-socket``, otherwise the one to the router or the proxy."""
        fileno = getattr(self.environ.get("wsgi.input"), "fileno", None)
        if fileno is None:
            return None
        try:
            connection = Connection(_Descriptor(fileno()))
        except (OSError, ValueError):
            return None
        return connection if connection.fileno() >= 0 else None

    def writer(self, write: object) -> Writer | None:
        """Return a writer to the descriptor. Measured with and without ``--threads``, with ``--http-socket`` and ``--http``."""
        connection = self.connection()
        if (
            connection is None
            or self.environ.get("REQUEST_METHOD") == "HEAD"
            or getattr(write, "__name__", "") != "uwsgi_write"
            or not self.has_writer
        ):
            return None
        return _Writer(connection)

    @property
    def has_writer(self) -> bool:
        """Whether a response's body goes through the descriptor as it is."""
        return not any(part in option for option in _options() for part in _NOT_RAW)

    def threads(self) -> int | None:
        """Return ``--threads``, None without."""
        found = _options().get("threads", "1")
        return int(found) if found.isdigit() and int(found) > 1 else None


def _options() -> dict[str, str]:
    """Return the options that uWSGI was started with; what is given more than once, as it stands in Python."""
    module: Any = sys.modules.get("uwsgi")
    return {_as_text(name): _as_text(value) for name, value in getattr(module, "opt", {}).items()}


def _as_text(found: object) -> str:
    return found.decode("utf-8", "replace") if isinstance(found, bytes) else str(found)


class _Descriptor:
    """A descriptor's number. uWSGI closes it without telling Python: a `Connection` sees that it is another socket's."""

    __slots__ = ("_number",)

    def __init__(self, number: int) -> None:
        self._number = number

    def fileno(self) -> int:
        """Return the number, whosever it is by now."""
        return self._number


class _Writer:
    __slots__ = ("_connection",)

    is_delimited = False  # uWSGI makes no chunks; its router may, and ends even a cut response with the last one

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def write(self, block: bytes) -> bool:
        """See `server.Writer`."""
        check_length(block)
        if not self._connection.is_writable():
            return False
        sent = os.write(self._connection.fileno(), block)
        if sent < len(block):
            raise OSError(f"{sent} of {len(block)} bytes were sent")
        return True

    def end(self, last: bytes) -> bool:  # noqa: ARG002  (the protocol's)
        """Leave the response as it is: only uWSGI closes the connection, whose end is the response's."""
        return False
