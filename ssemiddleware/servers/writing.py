"""What the files of several servers ask of a response, and the writer that goes through a server's own ``write``."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

from .server import MOST_WRITTEN

if TYPE_CHECKING:
    from types import FunctionType

    from _typeshed.wsgi import WSGIEnvironment

    from .connection import Connection

# For the log, where a server that has a writer gives none for a response.
CHANGED_OUTSIDE = "a layer outside has replaced write(), or has set the response's length or encoding"

_SET_OUTSIDE = frozenset({"content-length", "content-encoding"})


def is_exactly(found: object, module: str, name: str) -> bool:
    """Tell whether the type of *found* is the one called *name* in *module*: a subclass may write in another way."""
    kind = type(found)
    return kind.__module__ == module and kind.__qualname__ == name


def is_function(found: object, module: str, name: str) -> bool:
    """Tell whether *found* is the inner function of that module and qualified name."""
    return getattr(found, "__module__", None) == module and getattr(found, "__qualname__", None) == name


def closed_over(function: FunctionType, name: str) -> Any:
    """Return what *name* is in the enclosing function of an inner one; None where it is not used there."""
    cells = dict(zip(function.__code__.co_freevars, function.__closure__ or (), strict=True))
    return cells[name].cell_contents if name in cells else None


def has_length_or_encoding(names: Iterable[str]) -> bool:
    """Tell whether a header says how long the response is, or how it is encoded: bytes of ours would be too many, or wrong."""
    return any(name.lower() in _SET_OUTSIDE for name in names)


def may_have_body(environ: WSGIEnvironment) -> bool:
    """Tell whether the request may have a body that the application has not read yet."""
    return environ.get("CONTENT_LENGTH", "") not in ("", "0") or "HTTP_TRANSFER_ENCODING" in environ


def may_be_written(environ: WSGIEnvironment, connection: Connection) -> bool:
    """Tell whether another thread may write to the client of this request: not to a HEAD, and not while TLS may be read.

    One SSL object must not be read and written by two threads.
    """
    return environ.get("REQUEST_METHOD") != "HEAD" and not (connection.is_tls and may_have_body(environ))


class CallingWriter:
    """Writes through the ``write`` of a server whose connection is a blocking socket."""

    __slots__ = ("_connection", "_write", "is_delimited")

    def __init__(self, write: Callable[[bytes], object], connection: Connection, *, is_delimited: bool = True) -> None:
        self._write = write
        self._connection = connection
        self.is_delimited = is_delimited

    def write(self, block: bytes) -> bool:
        """See `server.Writer`."""
        check_length(block)
        if not self._connection.is_writable():
            return False
        self._write(block)
        return True

    def end(self, last: bytes) -> bool:  # noqa: ARG002  (the protocol's)
        """Leave the response as it is: these servers would write a second end when the application wakes."""
        return False


def check_length(block: bytes) -> None:
    """Raise an error for a block that might have to wait."""
    if len(block) > MOST_WRITTEN:
        raise ValueError(f"a writer takes at most {MOST_WRITTEN} bytes, got {len(block)}")
