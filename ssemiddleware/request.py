"""What one request tells, read once: was an event stream announced, by an EventSource, and what may be answered.

>>> accepts_event_stream({"HTTP_ACCEPT": "text/event-stream"}), accepts_event_stream({"HTTP_ACCEPT": "*/*"})
(True, False)
"""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING

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


class Request:
    """One request. *announced* tells of an environ whether the client asks for an event stream."""

    __slots__ = ("environ", "is_announced", "method")

    def __init__(self, environ: WSGIEnvironment, announced: Callable[[WSGIEnvironment], bool]) -> None:
        self.environ = environ
        self.method: str = environ.get("REQUEST_METHOD", "")
        # A preflight of a fetch()-based client that is announced by its path is no request for a stream.
        self.is_announced = self.method != "OPTIONS" and bool(announced(environ))

    @property
    def takes_only_event_stream(self) -> bool:
        """Whether it would take nothing but an event stream: not so for MCP and Datastar, which may be answered with JSON."""
        accept = self.environ.get("HTTP_ACCEPT", "")
        return self.is_announced and "," not in accept and accept.partition(";")[0].strip().lower() == MEDIA_TYPE

    @property
    def is_event_source(self) -> bool:
        """Whether the client behaves as WHATWG 9.2 says, and so comes back by itself: told by what browsers send.

        ``Pragma`` counts too, since Varnish strips the other.
        """
        cache_control = f"{self.environ.get('HTTP_CACHE_CONTROL', '')},{self.environ.get('HTTP_PRAGMA', '')}"
        return (
            self.method == "GET"
            and self.environ.get("HTTP_ACCEPT", "").strip().lower() == MEDIA_TYPE
            and "no-cache" in cache_control.lower()
        )

    @property
    def has_body(self) -> bool:
        """Whether its response has a body."""
        return self.method != "HEAD"

    @property
    def is_safe(self) -> bool:
        """Whether it may be sent again without harm, so that it may be refused after its application has run."""
        return self.method in ("GET", "HEAD")

    @property
    def origin(self) -> str | None:
        """The origin of the page that asks, if that is another one or the browser always says so."""
        return self.environ.get("HTTP_ORIGIN")

    @property
    def path(self) -> str:
        """The path that was asked for, for the log: with ``%r``, since a client has sent it."""
        return f"{self.environ.get('SCRIPT_NAME', '')}{self.environ.get('PATH_INFO', '')}"
