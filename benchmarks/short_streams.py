"""What a relay thread costs a request: short announced requests, one after another on one kept-alive connection."""

from __future__ import annotations

import time
from statistics import median

from .applications import STOCK
from .reading import LAST_CHUNK, connect, receive, request
from .results import Effort, Figure, Outcome, figure_of_turns, in_turn, rate
from .serving import gunicorn

_REQUESTS = (("a stream of 3 events", "ready/3/58", LAST_CHUNK), ("announced, but answered with JSON", "stock", STOCK))


def measure(effort: Effort) -> Outcome:
    """Measure a stream of three events, and an announced request that gets some JSON, under gthread and gevent."""
    outcome = Outcome("Short announced requests, one after another")
    for worker_class in ("gthread", "gevent"):
        with gunicorn(worker_class) as server:
            for name, path, ending in _REQUESTS:
                outcome.figures.append(compare(server.port, f"{name}, {worker_class}", path, ending, effort))
    return outcome


def compare(port: int, subject: str, path: str, ending: bytes, effort: Effort) -> Figure:
    """Ask for the same again and again, bare and wrapped in turn."""
    count = effort.pick(2000, 100)

    def requests_per_second(way: str) -> float:
        asked = request(f"/{way}/{path}", announced=True)
        landing = memoryview(bytearray(4096))
        with connect(port) as connection:
            began = time.perf_counter()
            for _ in range(count):
                connection.sendall(asked)
                receive(connection, landing, until=ending)
            return count / (time.perf_counter() - began)

    taken = in_turn(effort.pick(7, 1), ("bare", "wrapped"), requests_per_second)
    ratios = [wrapped / bare for bare, wrapped in zip(taken["bare"], taken["wrapped"], strict=True)]
    bare, wrapped = median(taken["bare"]), median(taken["wrapped"])
    absolute = f"{rate(wrapped, ' requests')}, bare {rate(bare, ' requests')}: {1e6 / wrapped - 1e6 / bare:+.0f} µs each"
    return figure_of_turns(subject, ratios, "x", absolute)
