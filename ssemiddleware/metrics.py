"""The metrics: each number of `Stats`, with its names for Prometheus and for OpenTelemetry.

>>> METRICS[0].prometheus, METRICS[0].opentelemetry, METRICS[0].unit
('ssemiddleware_open_streams', 'ssemiddleware.stream.count', '{stream}')
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Literal, NamedTuple

from .ending import REASONS
from .middleware import SSEMiddleware
from .stats import REFUSED_BY, Stats

if TYPE_CHECKING:
    from .memory import State

STATES: dict[State | None, int] = {None: 0, "normal": 0, "critical": 1}


class Metric(NamedTuple):
    """A metric. *values* returns a number for each value of *label*; without a label, one for ``""``.

    *across*: how the numbers of several processes are joined, as prometheus_client calls it. None: a counter, which is summed.
    """

    prometheus: str
    opentelemetry: str  # count, limit, usage, io and time are the words of its semantic conventions
    unit: str  # for OpenTelemetry
    documentation: str
    values: Callable[[Stats], Mapping[str, float]]
    label: str = ""
    across: Literal["livesum", "livemax"] | None = None

    def labels(self, *, are_named: bool) -> tuple[str, ...]:
        """Return the names of its labels."""
        return ("application",) * are_named + (self.label,) * bool(self.label)

    def label_values(self, name: str, value: str) -> tuple[str, ...]:
        """Return the values of its labels for the middleware of that name."""
        return (name,) * bool(name) + (value,) * bool(self.label)


METRICS = (
    Metric(
        "ssemiddleware_open_streams",
        "ssemiddleware.stream.count",
        "{stream}",
        "Event streams that are open, by whether the request asked for one.",
        lambda stats: {"yes": stats.open_announced, "no": stats.open_unannounced},
        "announced",
        "livesum",
    ),
    Metric(
        "ssemiddleware_max_streams",
        "ssemiddleware.stream.limit",
        "{stream}",
        "Event streams that may be open; infinite where there is no limit.",
        lambda stats: {"": math.inf if stats.most_streams is None else stats.most_streams},
        across="livesum",
    ),
    Metric(
        "ssemiddleware_ended_streams_total",
        "ssemiddleware.stream.ended",
        "{stream}",
        "Event streams that have ended, by the reason.",
        lambda stats: dict.fromkeys(REASONS, 0) | dict(stats.ended),
        "reason",
    ),
    Metric(
        "ssemiddleware_refused_requests_total",
        "ssemiddleware.request.refused",
        "{request}",
        "Requests that were refused, by the option that refused them.",
        lambda stats: {option: stats.refused_by.get(option, 0) for option in REFUSED_BY},
        "option",
    ),
    Metric(
        "ssemiddleware_events_total",
        "ssemiddleware.stream.events",
        "{event}",
        "Events that came in from the application and went out to the server; estimated in bursts and in long blocks.",
        lambda stats: {"in": stats.events_in, "out": stats.events_out},
        "direction",
    ),
    Metric(
        "ssemiddleware_blocks_total",
        "ssemiddleware.stream.blocks",
        "{block}",
        "Blocks that came in from the application and went out to the server.",
        lambda stats: {"in": stats.blocks_in, "out": stats.blocks_out},
        "direction",
    ),
    Metric(
        "ssemiddleware_bytes_total",
        "ssemiddleware.stream.io",
        "By",
        "Bytes that came in from the application and went out to the server.",
        lambda stats: {"in": stats.bytes_in, "out": stats.bytes_out},
        "direction",
    ),
    Metric(
        "ssemiddleware_heartbeats_total",
        "ssemiddleware.stream.heartbeats",
        "{heartbeat}",
        "Heartbeats that were sent, and comments that opened a stream.",
        lambda stats: {"": stats.heartbeats},
    ),
    Metric(
        "ssemiddleware_kept_threads",
        "ssemiddleware.kept_thread.count",
        "{thread}",
        "Threads that applications keep although their client is gone.",
        lambda stats: {"": stats.kept_threads},
        across="livesum",
    ),
    Metric(
        "ssemiddleware_longest_silence_seconds",
        "ssemiddleware.stream.longest_silence",
        "s",
        "Time since the last block of the open stream that has been silent for longest.",
        lambda stats: {"": stats.longest_silence},
        across="livemax",
    ),
    Metric(
        "ssemiddleware_oldest_stream_seconds",
        "ssemiddleware.stream.oldest_age",
        "s",
        "Time for which the oldest open stream has been open.",
        lambda stats: {"": stats.oldest_stream},
        across="livemax",
    ),
)
METRICS_OF_MEMORY = (  # not with ``memory=None``
    Metric(
        "ssemiddleware_memory_pauses_total",
        "ssemiddleware.memory.pauses",
        "{pause}",
        "Waits for memory.",
        lambda stats: {"": stats.pauses},
    ),
    Metric(
        "ssemiddleware_memory_paused_seconds_total",
        "ssemiddleware.memory.pause.time",
        "s",
        "Time spent in waits for memory.",
        lambda stats: {"": stats.paused_seconds},
    ),
    Metric(
        "ssemiddleware_memory_used_bytes",
        "ssemiddleware.memory.usage",
        "By",
        "Memory in use.",
        lambda stats: {"": stats.memory_used or 0},
        across="livemax",
    ),
    Metric(
        "ssemiddleware_memory_limit_bytes",
        "ssemiddleware.memory.limit",
        "By",
        "Limit of the memory.",
        lambda stats: {"": stats.memory_limit or 0},
        across="livemax",
    ),
    Metric(
        "ssemiddleware_memory_state",
        "ssemiddleware.memory.state",
        "1",
        "State of the memory: 0 normal, 1 critical (one large event is made at a time).",
        lambda stats: {"": STATES[stats.memory_state]},
        across="livemax",
    ),
)
NOTHING = Stats(
    open_announced=0, open_unannounced=0, most_streams=None, ended={}, refused=0, refused_by={}, kept_threads=0, blocks_in=0,
    blocks_out=0, bytes_in=0, bytes_out=0, events_in=0, events_out=0, heartbeats=0, pauses=0, paused_seconds=0.0,
    memory_used=None, memory_limit=None, memory_state=None, longest_silence=0.0, oldest_stream=0.0,
)  # fmt: skip


def metrics_of(*middlewares: SSEMiddleware) -> tuple[Metric, ...]:
    """Return the metrics of these middlewares. Those of memory are included if one of them watches memory."""
    watches_memory = any(middleware.options.memory is not None for middleware in middlewares)
    return METRICS + METRICS_OF_MEMORY if watches_memory else METRICS


def by_name(taker: str, middleware: SSEMiddleware | None, named: Mapping[str, SSEMiddleware]) -> Mapping[str, SSEMiddleware]:
    """Return the middlewares that *taker* got, by their names: a single one has the name ``""``."""
    if (middleware is None) is not bool(named):
        raise TypeError(f"{taker} takes one middleware without a name, or one or more with names")
    middlewares = dict(named) if middleware is None else {"": middleware}
    for each in middlewares.values():
        if not isinstance(each, SSEMiddleware):
            raise TypeError(f"{taker} takes an SSEMiddleware, got {each!r}")
    return middlewares
