"""Made-up observations of streams."""

from __future__ import annotations

from collections.abc import Iterable

from ssemiddleware.doctor import OPEN, Observation, diagnose

HEALTHY = [
    ("Server", "gunicorn"),
    ("Date", "Thu, 01 Jan 2026 00:00:00 GMT"),
    ("Content-Type", "text/event-stream; charset=utf-8"),
    ("Cache-Control", "no-cache, no-transform"),
]
BEGAN = 1767225600.0  # that date
EVENT = b"retry: 3000\ndata: hello\n\n"


def seen(
    arrivals: Iterable[tuple[float, bytes]] = (),
    *more: tuple[str, str],
    ended: str = OPEN,
    at: float | None = None,
    headers_at: float | None = 0.1,
    status: int | None = 200,
    headers: Iterable[tuple[str, str]] = HEALTHY,
    http_version: str = "HTTP/2",
) -> Observation:
    """Return an observation with these *arrivals* by their time. *more* headers replace those of a healthy stream."""
    names = {name.lower() for name, _ in more}
    kept = [(name, value) for name, value in headers if name.lower() not in names]
    observation = Observation("http://localhost/events", began=BEGAN, http_version=http_version)
    observation.status, observation.headers_at = status, headers_at
    observation.headers = [*kept, *((name, value) for name, value in more if value)]
    last = headers_at or 0.0
    for last, block in arrivals:
        observation.received += len(block)
        observation.take(last, block)
    observation.finish(ended, last if at is None else at)
    return observation


def names(observation: Observation) -> list[str]:
    """Return the names of the findings, worst first."""
    return [finding.name for finding in diagnose(observation)]


def stamped(number: int, *, every: float, arrives: Iterable[float]) -> list[tuple[float, bytes]]:
    """Return *number* events, one in *every* seconds by the server's clock, each with the time when it *arrives*."""
    stream = [(at, f'retry: 1\ndata: {{"at": {BEGAN + index * every:.3f}}}\n\n'.encode()) for index, at in enumerate(arrives)]
    assert len(stream) == number
    return stream
