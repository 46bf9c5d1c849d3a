"""What a short request costs that may become a stream: one after another on one kept-alive connection."""

from __future__ import annotations

import time
from statistics import median
from typing import NamedTuple

from .applications import STOCK
from .reading import ACCEPT_ANYTHING, AS_AN_EVENT_SOURCE, LAST_CHUNK, connect, receive, request_with
from .results import Effort, Figure, Outcome, Target, at_least, figure_of_turns, in_turn, rate
from .serving import gunicorn

_STREAM = "ready/3/58"
_AS_MCP = "Accept: application/json, text/event-stream"  # each POST of the Model Context Protocol


class Asked(NamedTuple):
    """A request, and how its response ends."""

    name: str
    headers: str
    path: str
    ending: bytes
    target: Target | None


_REQUESTS = (
    Asked("a stream of 3 events, announced", AS_AN_EVENT_SOURCE, _STREAM, LAST_CHUNK, at_least(0.9)),
    Asked("a stream of 3 events, not announced", ACCEPT_ANYTHING, _STREAM, LAST_CHUNK, None),
    Asked("announced, but answered with JSON", AS_AN_EVENT_SOURCE, "stock", STOCK, at_least(0.97)),
    Asked("announced beside JSON, and answered with JSON", _AS_MCP, "stock", STOCK, at_least(0.97)),
)


def measure(effort: Effort) -> Outcome:
    """Measure streams of three events, and announced requests that get some JSON, under gthread and gevent."""
    outcome = Outcome("Short requests, one after another")
    for worker_class in ("gthread", "gevent"):
        with gunicorn(worker_class) as server:
            outcome.figures.extend(compare(server.port, worker_class, asked, effort) for asked in _REQUESTS)
    return outcome


def compare(port: int, worker_class: str, asked: Asked, effort: Effort) -> Figure:
    """Send the same request again and again, bare and wrapped in turn."""
    count = effort.pick(1500, 100)

    def requests_per_second(way: str) -> float:
        request = request_with(asked.headers, f"/{way}/{asked.path}")
        landing = memoryview(bytearray(4096))
        with connect(port) as connection:
            began = time.perf_counter()
            for _ in range(count):
                connection.sendall(request)
                receive(connection, landing, until=asked.ending)
            return count / (time.perf_counter() - began)

    for way in ("bare", "wrapped"):
        requests_per_second(way)  # untimed: what only the first requests need
    taken = in_turn(effort.pick(9, 1), ("bare", "wrapped"), requests_per_second)
    ratios = [wrapped / bare for bare, wrapped in zip(taken["bare"], taken["wrapped"], strict=True)]
    bare, wrapped = median(taken["bare"]), median(taken["wrapped"])
    absolute = f"{rate(wrapped, ' requests')}, bare {rate(bare, ' requests')}: {1e6 / wrapped - 1e6 / bare:+.0f} µs each"
    return figure_of_turns(f"{asked.name}, {worker_class}", ratios, "x", absolute, asked.target)
