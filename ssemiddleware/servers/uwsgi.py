"""uWSGI (pyuwsgi 2.0.30): a server written in C, which calls applications without a Python frame of its own.

Another thread may not call its ``write``, but may write to the descriptor of the request. After the headers, the bytes on the
descriptor are the body: with ``--http-socket``, behind its ``--http`` router (which makes chunks by itself), and behind a proxy
that speaks the uwsgi protocol. Nothing may be written there before the headers are sent.
"""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING, Any

from .connection import Connection
from .server import MOST_WRITTEN, Server, Writer
from .writing import check_length

if TYPE_CHECKING:
    from _typeshed.wsgi import WSGIEnvironment

# Parts of options' names. With these, the bytes on the descriptor are not the body alone (TLS, another protocol's records,
# chunks, gzip, a second request), or one thread serves many requests.
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
    is_delimited = False  # uWSGI makes no chunks. Its router may make them, and sends the last one even after a cut
    why_no_writer = "uWSGI changes this response's body on its way, or serves many requests in one thread"

    @staticmethod
    def recognises(environ: WSGIEnvironment) -> bool:
        """Look for the version that uWSGI puts into each environ."""
        return "uwsgi.version" in environ

    def connection(self) -> Connection | None:
        """Return the client's connection with ``--http-socket``, otherwise the one to the router or the proxy."""
        fileno = getattr(self.environ.get("wsgi.input"), "fileno", None)
        if fileno is None:
            return None
        try:
            connection = Connection(_Descriptor(fileno()))
        except (OSError, ValueError):
            return None
        return connection if connection.fileno() >= 0 else None

    def writer(self, write: object, encoding: str = "") -> Writer | None:  # noqa: ARG002  (no header is looked at here)
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
        """Whether a response's body goes through the descriptor unchanged."""
        return not any(part in option for option in _options() for part in _NOT_RAW)

    def threads(self) -> int | None:
        """Return ``--threads``, or None without it."""
        found = _options().get("threads", "1")
        return int(found) if found.isdigit() and int(found) > 1 else None


def _options() -> dict[str, str]:
    """Return the options that uWSGI was started with. One that is given more than once has the text of a Python list."""
    module: Any = sys.modules.get("uwsgi")
    return {_as_text(name): _as_text(value) for name, value in getattr(module, "opt", {}).items()}


def _as_text(found: object) -> str:
    return found.decode("utf-8", "replace") if isinstance(found, bytes) else str(found)


class _Descriptor:
    """A descriptor's number. uWSGI closes it without telling Python. `Connection` notices if another socket has it."""

    __slots__ = ("_number",)

    def __init__(self, number: int) -> None:
        self._number = number

    def fileno(self) -> int:
        """Return the number, which may belong to another socket by now."""
        return self._number


class _Writer:
    __slots__ = ("_connection",)

    is_delimited = Uwsgi.is_delimited

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def write(self, block: bytes, most: int = MOST_WRITTEN) -> bool:
        """See `server.Writer`."""
        check_length(block, most)
        if not self._connection.is_writable():
            return False
        sent = os.write(self._connection.fileno(), block)
        if sent < len(block):
            raise OSError(f"{sent} of {len(block)} bytes were sent")
        return True

    def room(self) -> int:
        """Return 0: it is not seen whether the server itself iterates a stream, only that no frame of Python's is between."""
        return 0

    def end(self, last: bytes) -> bool:  # noqa: ARG002  (the protocol's)
        """Return False: the response ends with its connection, which only uWSGI may close."""
        return False
