"""What `crowd_clients` ask: streams that are counted as they begin and end, and ordinary requests; bare and wrapped at once.

``/wrapped/timed/4/250000`` is a stream of four events in a second, through `SSEMiddleware`; ``/wrapped/stock`` some JSON,
``/wrapped/counts`` the history of the streams and the middleware's own numbers; ``/bare/...`` all that without it.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import fields
from typing import TYPE_CHECKING, Any

from ssemiddleware import SSEMiddleware
from ssemiddleware.stats import Stats

from .applications import bare

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment


class Counted:
    """`applications.bare`, which notes how many of its streams are open whenever one begins or ends.

    *stats*: the numbers of the middleware around it.
    """

    def __init__(self) -> None:
        self.stats: Callable[[], Stats] | None = None
        self._lock = threading.Lock()  # guards what follows
        self._open = 0
        self._history: list[tuple[float, int]] = []  # time.monotonic(), and how many were open from then on
        self._most_in_stats = 0  # the most open streams in the middleware's numbers, whenever one began

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        """Answer a request."""
        what = environ["PATH_INFO"].split("/", 2)[2]
        if what in ("stock", "process"):
            return bare(environ, start_response)
        if what == "counts":
            answer = json.dumps(self._counts()).encode()
            start_response("200 OK", [("Content-Type", "application/json"), ("Content-Length", str(len(answer)))])
            return [answer]
        return self._count(bare(environ, start_response))

    def _count(self, events: Iterable[bytes]) -> Iterator[bytes]:
        self._note(1)
        try:
            yield from events
        finally:
            self._note(-1)

    def _note(self, change: int) -> None:
        opened = self.stats().open if self.stats is not None and change > 0 else 0
        with self._lock:
            self._open += change
            self._most_in_stats = max(self._most_in_stats, opened)
            self._history.append((time.monotonic(), self._open))

    def _counts(self) -> dict[str, Any]:
        stats = None if self.stats is None else self.stats()
        of_middleware = {} if stats is None else {each.name: getattr(stats, each.name) for each in fields(stats)}
        with self._lock:
            numbers = {"history": self._history, "most_in_stats": self._most_in_stats}
            return {**numbers, "stats": of_middleware and {**of_middleware, "ended": dict(of_middleware["ended"])}}


def create(*, max_streams: int | None = None, retry: int | None = 3000, send_deadline: float | None = 60.0) -> WSGIApplication:
    """Return the application with these options of `SSEMiddleware`; for a server's command line."""
    counted = Counted()
    wrapped = SSEMiddleware(counted, max_streams=max_streams, retry=retry, send_deadline=send_deadline)
    counted.stats = wrapped.stats
    ways: dict[str, WSGIApplication] = {"bare": Counted(), "wrapped": wrapped}

    def served(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        return ways[environ["PATH_INFO"].split("/", 2)[1]](environ, start_response)

    return served
