"""Questions about a response that several servers' files ask, and the writer that calls a server's own ``write``."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

from .server import MOST_JOINED, MOST_WRITTEN

if TYPE_CHECKING:
    from types import FunctionType

    from _typeshed.wsgi import WSGIEnvironment

    from .connection import Connection

# For the log: why a response has no writer, under a server that can have one.
CHANGED_OUTSIDE = "a layer outside has replaced write(), or has set the response's length or encoding"

_SET_OUTSIDE = frozenset({"content-length", "content-encoding"})


def is_exactly(found: object, module: str, name: str) -> bool:
    """Return whether the type of *found* is *name* of *module* itself, since a subclass may write differently."""
    kind = type(found)
    return kind.__module__ == module and kind.__qualname__ == name


def is_function(found: object, module: str, name: str) -> bool:
    """Return whether *found* is a function of that module and qualified name."""
    return getattr(found, "__module__", None) == module and getattr(found, "__qualname__", None) == name


def closed_over(function: FunctionType, name: str) -> Any:
    """Return the variable *name* of the function that encloses *function*, or None if *function* does not use it."""
    cells = dict(zip(function.__code__.co_freevars, function.__closure__ or (), strict=True))
    return cells[name].cell_contents if name in cells else None


def has_length_or_encoding(headers: Iterable[tuple[str, str]], ours: str) -> bool:
    """Return whether the response has a length, or another encoding than *ours*: then our bytes would break it."""
    found = [(name.lower(), value) for name, value in headers if name.lower() in _SET_OUTSIDE]
    return found != ([("content-encoding", ours)] if ours else [])


def as_text(headers: Iterable[tuple[bytes, bytes]]) -> list[tuple[str, str]]:
    """Return headers that a server has encoded as they were before."""
    return [(name.decode("latin-1"), value.decode("latin-1")) for name, value in headers]


def may_have_body(environ: WSGIEnvironment) -> bool:
    """Return whether the request may have a body that the application has not read yet."""
    return environ.get("CONTENT_LENGTH", "") not in ("", "0") or "HTTP_TRANSFER_ENCODING" in environ


def may_be_written(environ: WSGIEnvironment, connection: Connection) -> bool:
    """Return whether another thread may write to this request's client: not for a HEAD, and not while TLS may be read.

    Two threads must not use one SSL object at the same time, one to read and one to write.
    """
    return environ.get("REQUEST_METHOD") != "HEAD" and not (connection.is_tls and may_have_body(environ))


class CallingWriter:
    """Writes through the ``write`` of a server whose connection is a blocking socket."""

    __slots__ = ("_connection", "_write", "is_delimited")

    def __init__(self, write: Callable[[bytes], object], connection: Connection, *, is_delimited: bool = True) -> None:
        self._write = write
        self._connection = connection
        self.is_delimited = is_delimited

    def write(self, block: bytes, most: int = MOST_WRITTEN) -> bool:
        """See `server.Writer`."""
        check_length(block, most)
        if not self._connection.is_writable():
            return False
        self._write(block)
        return True

    def room(self) -> int:
        """See `server.Writer`."""
        return MOST_JOINED if self._connection.is_writable() and self._connection.holds_much else 0

    def end(self, last: bytes) -> bool:  # noqa: ARG002  (the protocol's)
        """Return False: these servers would write a second end when the application returns."""
        return False


def check_length(block: bytes, most: int) -> None:
    """Raise ValueError for a block of more than *most* bytes, whose write might have to wait."""
    if len(block) > most:
        raise ValueError(f"a writer takes at most {most} bytes, got {len(block)}")
