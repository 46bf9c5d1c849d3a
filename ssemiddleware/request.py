"""What one request says, read once: does it announce an event stream, is it from an EventSource, which answers does it take?

>>> accepts_event_stream({"HTTP_ACCEPT": "text/event-stream"}), accepts_event_stream({"HTTP_ACCEPT": "*/*"})
(True, False)
"""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING
from urllib.parse import parse_qsl

from werkzeug.datastructures import MIMEAccept
from werkzeug.http import parse_accept_header

from .event_stream import MEDIA_TYPE

if TYPE_CHECKING:
    from collections.abc import Callable

    from _typeshed.wsgi import WSGIEnvironment

_MOST_ACCEPT = 8192  # characters of an Accept header that are read: to parse 256 KB takes 170 ms


def accepts_event_stream(environ: WSGIEnvironment) -> bool:
    """Tell whether the request's ``Accept`` names ``text/event-stream``: what every EventSource sends.

    ``*/*`` does not name it, and ``q=0`` refuses it (RFC 9110, 12.5.1).
    """
    accept = environ.get("HTTP_ACCEPT", "")
    return accept == MEDIA_TYPE or _names_event_stream(accept[:_MOST_ACCEPT])


@lru_cache(maxsize=64)  # clients of one kind send the same, and parsing takes as long as all else that is done for a request
def _names_event_stream(accept: str) -> bool:
    if MEDIA_TYPE not in accept.lower():
        return False
    ranges = parse_accept_header(accept, MIMEAccept)
    return any(quality > 0 and name.partition(";")[0].strip().lower() == MEDIA_TYPE for name, quality in ranges)


def last_event_id_in_query(environ: WSGIEnvironment, parameter: str) -> str:
    """Return the last *parameter* of the query, as the header would have brought it: the bytes of UTF-8 as Latin-1.

    ``""`` without one, and for a value that no server can have sent as an ID (WHATWG 9.2.6).
    """
    given = parse_qsl(environ.get("QUERY_STRING", ""), keep_blank_values=True, encoding="latin-1")
    name = parameter.encode().decode("latin-1")
    value = next((value for key, value in reversed(given) if key == name), "")
    return "" if any(character in value for character in "\r\n\0") else value


class Request:
    """One request. *announced*: takes the environ and returns whether the client asks for an event stream."""

    __slots__ = ("_accept", "accept_encoding", "environ", "has_body", "is_announced", "method")

    def __init__(self, environ: WSGIEnvironment, announced: Callable[[WSGIEnvironment], bool]) -> None:
        self.environ = environ
        self._accept: str = environ.get("HTTP_ACCEPT", "")
        self.accept_encoding: str = environ.get("HTTP_ACCEPT_ENCODING", "")  # which the middleware hides from some applications
        self.method: str = environ.get("REQUEST_METHOD", "")
        self.has_body = self.method != "HEAD"  # its response
        # The path may announce a client that uses fetch(). Its preflight is no request for a stream.
        self.is_announced = self.method != "OPTIONS" and bool(announced(environ))

    @property
    def takes_only_event_stream(self) -> bool:
        """Whether it accepts only an event stream. MCP and Datastar do not: they accept JSON too."""
        if not self.is_announced:
            return False
        return "," not in self._accept and self._accept.partition(";")[0].strip().lower() == MEDIA_TYPE

    @property
    def is_event_source(self) -> bool:
        """Whether the client behaves as WHATWG 9.2 says, and so reconnects by itself. The headers that browsers send show it.

        ``Pragma`` counts too, since Varnish removes ``Cache-Control``.
        """
        if self.method != "GET" or self._accept.strip().lower() != MEDIA_TYPE:
            return False
        asked = self.environ.get
        return "no-cache" in asked("HTTP_CACHE_CONTROL", "").lower() or "no-cache" in asked("HTTP_PRAGMA", "").lower()

    @property
    def is_safe(self) -> bool:
        """Whether sending it again does no harm. Then it may be refused even after its application has run."""
        return self.method in ("GET", "HEAD")

    @property
    def origin(self) -> str | None:
        """The origin of the page that asks, if the browser sends it."""
        return self.environ.get("HTTP_ORIGIN")

    @property
    def path(self) -> str:
        """The request's path for the log. Write it with ``%r``, since a client has sent it."""
        return f"{self.environ.get('SCRIPT_NAME', '')}{self.environ.get('PATH_INFO', '')}"
