"""The answer to a client that is refused.

An EventSource never reconnects after a status other than 200. So it gets 200, a ``retry:`` line with jitter and the end of
the body, and reconnects by itself. Other clients get 503 with Retry-After (RFC 9110, section 10.2.3), in plain text, because
several of them take an empty event stream for a finished one.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import TYPE_CHECKING

from .event_stream import MEDIA_TYPE, retry_line
from .response import Headers, amend

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse

    from .request import Request

RETRY = "ssemiddleware.retry"  # the key of the milliseconds for which a refused client should wait

_MOST_ORIGINS = 64  # remembered at a time
_CORS_HEADERS = ("access-control-allow-origin", "access-control-allow-credentials", "vary")


class Refusals:
    """The answers to refused requests, with the CORS headers that the application's own streams have.

    An EventSource never reconnects after an answer that its page may not read, so a refusal needs these headers. Where a proxy
    adds them, ours would be a second set, which browsers reject. So a refusal has the headers that the application last sent to
    the same origin, else those that it sends to all origins (``*``), else none. For any thread.
    """

    def __init__(self) -> None:
        self._answered: dict[str, tuple[int, Headers]] = {}  # by origin: the number of answers, and their last headers
        self._answered_all: Headers = []

    def see_headers(self, origin: str, headers: Headers) -> None:
        """Remember the CORS headers of one of the application's streams for *origin* (the CORS protocol: Fetch, 3.3.3)."""
        cors = [(name, value) for name, value in headers if name.lower() in _CORS_HEADERS]
        allowed = {value.strip() for name, value in cors if name.lower() == _CORS_HEADERS[0]}
        if allowed == {"*"}:
            self._answered_all = cors
        elif allowed:
            self._remember(origin, cors)

    def _remember(self, origin: str, cors: Headers) -> None:
        times, _ = self._answered.get(origin, (0, None))
        while not times and len(self._answered) >= _MOST_ORIGINS:
            # The one with the fewest answers is dropped. So a client that invents origins cannot displace the real ones.
            answered = self._answered.copy()
            self._answered.pop(min(answered, key=lambda each: answered[each][0]), None)
        self._answered[origin] = times + 1, cors

    def _maybe_cors(self, origin: str | None) -> Headers:
        if origin is None:
            return []
        _, cors = self._answered.get(origin, (0, self._answered_all))
        return cors

    def answer(self, request: Request, start_response: StartResponse, milliseconds: int) -> Iterable[bytes]:
        """Answer a refused request; *milliseconds*: how long its client should wait."""
        cors = self._maybe_cors(request.origin)
        if request.is_event_source:
            headers, _ = amend([("Content-Type", MEDIA_TYPE)])
            start_response("200 OK", headers + cors)
            return [retry_line(milliseconds)]
        text = b"Too many event streams are open. Please try again later.\n"
        headers = [
            ("Content-Type", "text/plain; charset=utf-8"),
            ("Content-Length", str(len(text))),
            ("Retry-After", str(math.ceil(milliseconds / 1000))),
            ("Cache-Control", "no-store"),
        ]
        start_response("503 Service Unavailable", headers + cors)
        return [text] if request.has_body else []
