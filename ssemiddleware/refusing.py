"""The answer to a client that is refused.

Any status but 200 is final for an EventSource, also when it reconnects, so it gets 200, a ``retry:`` with jitter and the end,
and reconnects by itself. Other clients get 503 with Retry-After (RFC 9110, section 10.2.3), in plain text, since several of
them take an empty event stream for a finished one.
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

_MOST_ORIGINS = 64  # that are remembered
_OF_CORS = ("access-control-allow-origin", "access-control-allow-credentials", "vary")


class Refusals:
    """The answers to refused requests, as readable for pages of other origins as the application's own streams are.

    To an EventSource an answer that its page may not read is final, too; and where a proxy adds these headers, ours would be a
    second set, which browsers refuse. So a refusal has what the application itself last answered that very origin, or what it
    answers all of them (``*``), or nothing. For any thread.
    """

    def __init__(self) -> None:
        self._answered: dict[str, tuple[int, Headers]] = {}  # by origin: how often, and what
        self._answered_all: Headers = []

    def see_headers(self, request: Request, headers: Headers) -> None:
        """Remember what a stream of the application's allows the page that asks for it (the CORS protocol: Fetch, 3.3.3)."""
        if request.origin is None:
            return
        cors = [(name, value) for name, value in headers if name.lower() in _OF_CORS]
        allowed = {value.strip() for name, value in cors if name.lower() == _OF_CORS[0]}
        if allowed == {"*"}:
            self._answered_all = cors
        elif allowed:
            self._remember(request.origin, cors)

    def _remember(self, origin: str, cors: Headers) -> None:
        times, _ = self._answered.get(origin, (0, None))
        while not times and len(self._answered) >= _MOST_ORIGINS:
            # The rarest goes: origins that somebody invents push out no other, where the application allows any.
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
