"""The numbers of `SSEMiddleware.stats` for Prometheus: a collector for a registry of prometheus_client.

Needs ``pip install "ssemiddleware[prometheus]"``; nothing else in the package imports this module.

>>> from prometheus_client import CollectorRegistry
>>> from ssemiddleware import SSEMiddleware
>>> registry = CollectorRegistry()  # or its REGISTRY, which is what /metrics shows by default
>>> registry.register(StreamCollector(SSEMiddleware(lambda environ, start_response: [])))
>>> registry.get_sample_value("ssemiddleware_open_streams", {"announced": "yes"})
0.0

With ``PROMETHEUS_MULTIPROC_DIR`` set, where one process answers for several, the same line works: see
`StreamCollector`.
"""

from __future__ import annotations

import atexit
import logging
import math
import os
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Literal, NamedTuple

try:
    from prometheus_client import CollectorRegistry, Counter, Gauge
    from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
    from prometheus_client.registry import Collector
except ImportError as error:
    raise ImportError('ssemiddleware.prometheus needs prometheus_client: pip install "ssemiddleware[prometheus]"') from error

from .ending import REASONS
from .memory import State
from .middleware import SSEMiddleware
from .servers import is_worker
from .stats import REFUSED_BY, Stats

_log = logging.getLogger("ssemiddleware")

# A write takes 40 microseconds without streams, 110 with 10, 1.3 ms with 300, most of it in `stats`.
_SHARE = 0.01  # of its time that a process spends at most with writing
_WRITE_EVERY = 1.0  # seconds, if it could do so less often; Prometheus asks each 15 to 60

_STATES: dict[State | None, int] = {None: 0, "normal": 0, "high": 1, "critical": 2}


class _Metric(NamedTuple):
    """A metric: *values* gives a number for each value of *label*, one for ``""`` without it.

    *across*: how the processes' numbers become one, in prometheus_client's words; None for a counter, which is summed.
    """

    name: str
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


_METRICS = (
    _Metric(
        "ssemiddleware_open_streams",
        "Event streams that are open, by whether the request asked for one.",
        lambda stats: {"yes": stats.open_announced, "no": stats.open_unannounced},
        "announced",
        "livesum",
    ),
    _Metric(
        "ssemiddleware_max_streams",
        "Event streams that may be open; infinite where there is no limit.",
        lambda stats: {"": math.inf if stats.most_streams is None else stats.most_streams},
        across="livesum",
    ),
    _Metric(
        "ssemiddleware_ended_streams_total",
        "Event streams that have ended, by the reason.",
        lambda stats: dict.fromkeys(REASONS, 0) | dict(stats.ended),
        "reason",
    ),
    _Metric(
        "ssemiddleware_refused_requests_total",
        "Requests that were refused, by the option that was in the way.",
        lambda stats: {option: stats.refused_by.get(option, 0) for option in REFUSED_BY},
        "option",
    ),
    _Metric(
        "ssemiddleware_events_total",
        "Events that came in from the application and went out to the server; estimated in bursts and in long blocks.",
        lambda stats: {"in": stats.events_in, "out": stats.events_out},
        "direction",
    ),
    _Metric(
        "ssemiddleware_blocks_total",
        "Blocks that came in from the application and went out to the server.",
        lambda stats: {"in": stats.blocks_in, "out": stats.blocks_out},
        "direction",
    ),
    _Metric(
        "ssemiddleware_bytes_total",
        "Bytes that came in from the application and went out to the server.",
        lambda stats: {"in": stats.bytes_in, "out": stats.bytes_out},
        "direction",
    ),
    _Metric(
        "ssemiddleware_heartbeats_total",
        "Heartbeats that were sent, and comments that opened a stream.",
        lambda stats: {"": stats.heartbeats},
    ),
    _Metric(
        "ssemiddleware_kept_threads",
        "Threads that applications keep although their client is gone.",
        lambda stats: {"": stats.kept_threads},
        across="livesum",
    ),
    _Metric(
        "ssemiddleware_longest_silence_seconds",
        "Time since the last block of the open stream that has been silent for longest.",
        lambda stats: {"": stats.longest_silence},
        across="livemax",
    ),
    _Metric(
        "ssemiddleware_oldest_stream_seconds",
        "Time for which the oldest open stream has been open.",
        lambda stats: {"": stats.oldest_stream},
        across="livemax",
    ),
)
_METRICS_OF_MEMORY = (  # not with ``memory=None``
    _Metric("ssemiddleware_memory_pauses_total", "Waits for memory.", lambda stats: {"": stats.pauses}),
    _Metric(
        "ssemiddleware_memory_paused_seconds_total", "Time spent in waits for memory.", lambda stats: {"": stats.paused_seconds}
    ),
    _Metric(
        "ssemiddleware_memory_used_bytes",
        "Memory in use.",
        lambda stats: {"": stats.memory_used or 0},
        across="livemax",
    ),
    _Metric(
        "ssemiddleware_memory_limit_bytes",
        "Limit of the memory.",
        lambda stats: {"": stats.memory_limit or 0},
        across="livemax",
    ),
    _Metric(
        "ssemiddleware_memory_state",
        "State of the memory: 0 normal, 1 high (streams wait), 2 critical (new ones are refused).",
        lambda stats: {"": _STATES[stats.memory_state]},
        across="livemax",
    ),
)
_NOTHING = Stats(
    open_announced=0, open_unannounced=0, most_streams=None, ended={}, refused=0, refused_by={}, kept_threads=0, blocks_in=0,
    blocks_out=0, bytes_in=0, bytes_out=0, events_in=0, events_out=0, heartbeats=0, pauses=0, paused_seconds=0.0,
    memory_used=None, memory_limit=None, memory_state=None, longest_silence=0.0, oldest_stream=0.0,
)  # fmt: skip


class StreamCollector(Collector):
    """A collector of what the streams of a middleware carry and have carried.

        REGISTRY.register(StreamCollector(middleware))

    Of several middlewares in one process, one collector has all, each with its name as the label ``application``:

        REGISTRY.register(StreamCollector(shop=shop_middleware, chat=chat_middleware))

    Where prometheus_client shares its numbers among processes (``PROMETHEUS_MULTIPROC_DIR``), a collector is not asked: its
    ``MultiProcessCollector`` reads files. There, each process writes its own numbers when streams begin and end, once a second
    or more often while there are any, silent ones too, and when it exits. Numbers of counters stay when a process has gone;
    those of gauges go with ``prometheus_client.multiprocess.mark_process_dead``. The longest silence, the oldest stream and the
    memory are the highest of all processes, everything else is their sum. What a process that is killed has counted in its last
    second is lost.

    Make it where the middleware is made, also before a server forks. Callable from any thread.
    """

    def __init__(self, middleware: SSEMiddleware | None = None, /, **named: SSEMiddleware) -> None:
        self._middlewares = named if middleware is None else {"": middleware}
        if (middleware is None) is not bool(named):
            raise TypeError("StreamCollector takes one middleware, or one and more by name")
        for each in self._middlewares.values():
            if not isinstance(each, SSEMiddleware):
                raise TypeError(f"StreamCollector takes an SSEMiddleware, got {each!r}")
        if {"PROMETHEUS_MULTIPROC_DIR", "prometheus_multiproc_dir"} & set(os.environ):
            _Publisher(self._middlewares)

    def describe(self) -> Iterable[CounterMetricFamily | GaugeMetricFamily]:
        """Return the metrics without numbers."""
        return self._families(dict.fromkeys(self._middlewares, _NOTHING))

    def collect(self) -> Iterable[CounterMetricFamily | GaugeMetricFamily]:
        """Return the metrics with the numbers of this process."""
        return self._families({name: middleware.stats() for name, middleware in self._middlewares.items()})

    def _families(self, stats: Mapping[str, Stats]) -> Iterator[CounterMetricFamily | GaugeMetricFamily]:
        for metric in _metrics_of(*self._middlewares.values()):
            make = CounterMetricFamily if metric.across is None else GaugeMetricFamily
            family = make(metric.name, metric.documentation, labels=metric.labels(are_named="" not in stats))
            for name, middleware in self._middlewares.items():
                if metric in _metrics_of(middleware):
                    for value, number in metric.values(stats[name]).items():
                        family.add_metric(metric.label_values(name, value), float(number))
            yield family


def _metrics_of(*middlewares: SSEMiddleware) -> tuple[_Metric, ...]:
    care_for_memory = any(middleware.options.memory is not None for middleware in middlewares)
    return _METRICS + _METRICS_OF_MEMORY if care_for_memory else _METRICS


# Two collectors would write to the same places: here the second is refused as it is in any registry. Never collected.
_published = CollectorRegistry()


class _Publisher:
    """Has each process write its numbers to where prometheus_client's ``MultiProcessCollector`` finds them.

    The servers' threads do it as streams begin and end, always when none is open any more; the watcher once a tick while there
    are streams, so that it goes on while all are silent; and the process when it exits. No stream that a garbage collection
    ends waits for the thread that writes just now: that may be this very thread, inside the lock that prometheus_client writes
    under (its own GCCollector has hung so, its issue 322).
    """

    def __init__(self, middlewares: Mapping[str, SSEMiddleware]) -> None:
        self._middlewares = middlewares
        self._places: dict[tuple[str, str, str], Counter | Gauge] = {}  # by metric, name of the middleware, value of the label
        self._has_failed = False
        self._pid = 0  # no process has written
        self._beginning: dict[int, threading.Lock] = {}
        for metric in _metrics_of(*middlewares.values()):
            self._find_places(metric)
        for middleware in middlewares.values():
            middleware._admission.observers.append(self._maybe_write)
        if is_worker():  # a process that only loads the application for others has no numbers
            self._maybe_write()

    def _begin(self) -> None:
        self._lock = threading.Lock()  # guards what follows
        self._written: dict[tuple[str, str, str], float] = {}
        self._is_due = False
        self._write_at = -math.inf
        atexit.register(self._write, os.getpid())
        self._pid = os.getpid()  # last

    def _find_places(self, metric: _Metric) -> None:
        """Make all places of *metric*, so that each shows 0 from the start."""
        labels = metric.labels(are_named="" not in self._middlewares)
        place: Counter | Gauge
        if metric.across is None:
            place = Counter(metric.name, metric.documentation, labels, registry=_published)
        else:
            place = Gauge(metric.name, metric.documentation, labels, registry=_published, multiprocess_mode=metric.across)
        for name, middleware in self._middlewares.items():
            for value in metric.values(_NOTHING) if metric in _metrics_of(middleware) else ():
                self._places[metric.name, name, value] = place.labels(*metric.label_values(name, value)) if labels else place

    def _maybe_write(self) -> None:
        if self._pid != os.getpid():
            with self._beginning.setdefault(os.getpid(), threading.Lock()):
                if self._pid != os.getpid():
                    self._begin()
        self._is_due = True  # the thread that writes just now, maybe this very one before a garbage collection, looks once more
        while self._is_due and self._lock.acquire(blocking=False):
            try:
                self._is_due = False
                self._write_what_is_due()
            finally:
                self._lock.release()

    def _write_what_is_due(self) -> None:
        with self._going_on():
            if time.monotonic() >= self._write_at or not any(each._admission.open for each in self._middlewares.values()):
                self._write_all()

    def _write(self, pid: int) -> None:
        """Write what has changed, if this is the process *pid*."""
        if pid != os.getpid():
            return  # a fork leaves the process, and what its parent registered is called
        with self._lock, self._going_on():
            self._write_all()

    def _write_all(self) -> None:
        began = time.monotonic()
        for name, middleware in self._middlewares.items():
            self._write_stats(name, middleware, middleware.stats())
        self._write_at = began + min(_WRITE_EVERY, (time.monotonic() - began) / _SHARE)

    @contextmanager
    def _going_on(self) -> Iterator[None]:
        """Go on after a failure: it stops no stream."""
        try:
            yield
        except Exception:
            if not self._has_failed:
                self._has_failed = True
                _log.exception("the numbers for Prometheus cannot be written")

    def _write_stats(self, name: str, middleware: SSEMiddleware, stats: Stats) -> None:
        for metric in _metrics_of(middleware):
            for value, number in metric.values(stats).items():
                self._put(metric.name, name, value, number)

    def _put(self, metric: str, name: str, value: str, number: float) -> None:
        key = metric, name, value
        written = self._written.get(key)
        if number != written:
            place = self._places[key]
            if isinstance(place, Gauge):
                place.set(number)
            else:
                place.inc(number - (written or 0))
            self._written[key] = number
