"""The numbers of `SSEMiddleware.stats` for Prometheus: a collector for a registry of prometheus_client.

Needs ``pip install "ssemiddleware[prometheus]"``. Nothing else in the package imports this module.

>>> from prometheus_client import CollectorRegistry
>>> from ssemiddleware import SSEMiddleware
>>> registry = CollectorRegistry()  # or its REGISTRY, which is what /metrics shows by default
>>> registry.register(StreamCollector(SSEMiddleware(lambda environ, start_response: [])))
>>> registry.get_sample_value("ssemiddleware_open_streams", {"announced": "yes"})
0.0

The same line works with ``PROMETHEUS_MULTIPROC_DIR`` set, where one process answers for several: see `StreamCollector`.
"""

from __future__ import annotations

import atexit
import logging
import math
import os
import threading
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager

try:
    from prometheus_client import CollectorRegistry, Counter, Gauge
    from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
    from prometheus_client.registry import Collector
except ImportError as error:
    raise ImportError('ssemiddleware.prometheus needs prometheus_client: pip install "ssemiddleware[prometheus]"') from error

from .metrics import NOTHING, Metric, by_name, metrics_of
from .middleware import SSEMiddleware
from .servers import is_worker
from .stats import Stats

_log = logging.getLogger("ssemiddleware")

# A write takes 40 microseconds without streams, 110 with 10, 1.3 ms with 300, most of it in `stats`.
_SHARE = 0.01  # of its time that a process spends at most on writing
_WRITE_EVERY = 1.0  # seconds, unless that takes more of its time; Prometheus asks every 15 to 60


class StreamCollector(Collector):
    """A collector of the numbers of a middleware's streams.

        REGISTRY.register(StreamCollector(middleware))

    For several middlewares in one process, make one collector. Each has its name as the label ``application``:

        REGISTRY.register(StreamCollector(shop=shop_middleware, chat=chat_middleware))

    With ``PROMETHEUS_MULTIPROC_DIR``, prometheus_client's ``MultiProcessCollector`` reads files and asks no collector. Then
    each process writes its own numbers: when streams begin and end, about once a second while there are streams, and when it
    exits. When a process ends, its counters stay; ``prometheus_client.multiprocess.mark_process_dead`` removes its gauges. The
    longest silence, the oldest stream and the memory are the highest of all processes; everything else is their sum. When a
    process is killed, the counts of its last second are lost.

    Make it where the middleware is made; that may be before a server forks. Callable from any thread.
    """

    def __init__(self, middleware: SSEMiddleware | None = None, /, **named: SSEMiddleware) -> None:
        self._middlewares = by_name("StreamCollector", middleware, named)
        if {"PROMETHEUS_MULTIPROC_DIR", "prometheus_multiproc_dir"} & set(os.environ):
            _Publisher(self._middlewares)

    def describe(self) -> Iterable[CounterMetricFamily | GaugeMetricFamily]:
        """Return the metrics without numbers."""
        return self._families(dict.fromkeys(self._middlewares, NOTHING))

    def collect(self) -> Iterable[CounterMetricFamily | GaugeMetricFamily]:
        """Return the metrics with the numbers of this process."""
        return self._families({name: middleware.stats() for name, middleware in self._middlewares.items()})

    def _families(self, stats: Mapping[str, Stats]) -> Iterator[CounterMetricFamily | GaugeMetricFamily]:
        for metric in metrics_of(*self._middlewares.values()):
            make = CounterMetricFamily if metric.across is None else GaugeMetricFamily
            family = make(metric.prometheus, metric.documentation, labels=metric.labels(are_named="" not in stats))
            for name, middleware in self._middlewares.items():
                if metric in metrics_of(middleware):
                    for value, number in metric.values(stats[name]).items():
                        family.add_metric(metric.label_values(name, value), float(number))
            yield family


# Two collectors would write to the same places: here the second is refused as it is in any registry. Never collected.
_published = CollectorRegistry()


class _Publisher:
    """Writes the numbers of each process to where prometheus_client's ``MultiProcessCollector`` finds them.

    A server's thread writes when streams begin and end, always when the last one has ended. The watcher writes once a tick
    while there are streams, so also while all are silent. The process writes when it exits. A stream that a garbage collection
    ends does not wait for a thread that is writing: it may be this thread, inside prometheus_client's lock (prometheus_client's
    own GCCollector hung like that, its issue 322).
    """

    def __init__(self, middlewares: Mapping[str, SSEMiddleware]) -> None:
        self._middlewares = middlewares
        self._places: dict[tuple[str, str, str], Counter | Gauge] = {}  # by metric, name of the middleware, value of the label
        self._has_failed = False
        self._pid = 0  # no process has written
        self._beginning: dict[int, threading.Lock] = {}
        for metric in metrics_of(*middlewares.values()):
            self._find_places(metric)
        for middleware in middlewares.values():
            middleware._streams.admission.observe(self._maybe_write)
        if is_worker():  # a process that only loads the application for its workers has no numbers
            self._maybe_write()

    def _begin(self) -> None:
        self._lock = threading.Lock()  # guards what follows
        self._written: dict[tuple[str, str, str], float] = {}
        self._is_due = False
        self._write_at = -math.inf
        atexit.register(self._write, os.getpid())
        self._pid = os.getpid()  # last

    def _find_places(self, metric: Metric) -> None:
        """Make all places of *metric*, so that each shows 0 from the start."""
        labels = metric.labels(are_named="" not in self._middlewares)
        place: Counter | Gauge
        if metric.across is None:
            place = Counter(metric.prometheus, metric.documentation, labels, registry=_published)
        else:
            place = Gauge(metric.prometheus, metric.documentation, labels, registry=_published, multiprocess_mode=metric.across)
        for name, middleware in self._middlewares.items():
            for value in metric.values(NOTHING) if metric in metrics_of(middleware) else ():
                self._places[metric.prometheus, name, value] = (
                    place.labels(*metric.label_values(name, value)) if labels else place
                )

    def _maybe_write(self) -> None:
        if self._pid != os.getpid():
            with self._beginning.setdefault(os.getpid(), threading.Lock()):
                if self._pid != os.getpid():
                    self._begin()
        self._is_due = True  # the thread that is writing, maybe this one before a garbage collection, checks this once more
        while self._is_due and self._lock.acquire(blocking=False):
            try:
                self._is_due = False
                self._write_what_is_due()
            finally:
                self._lock.release()

    def _write_what_is_due(self) -> None:
        with self._going_on():
            are_open = any(each._streams.admission.open for each in self._middlewares.values())
            if time.monotonic() >= self._write_at or not are_open:
                self._write_all()

    def _write(self, pid: int) -> None:
        """Write what has changed, if this is the process *pid*."""
        if pid != os.getpid():
            return  # a fork exits, and calls what its parent registered
        with self._lock, self._going_on():
            self._write_all()

    def _write_all(self) -> None:
        began = time.monotonic()
        for name, middleware in self._middlewares.items():
            self._write_stats(name, middleware, middleware.stats())
        self._write_at = began + min(_WRITE_EVERY, (time.monotonic() - began) / _SHARE)

    @contextmanager
    def _going_on(self) -> Iterator[None]:
        """Log a failure and go on: it must not stop a stream."""
        try:
            yield
        except Exception:
            if not self._has_failed:
                self._has_failed = True
                _log.exception("the numbers for Prometheus cannot be written")

    def _write_stats(self, name: str, middleware: SSEMiddleware, stats: Stats) -> None:
        for metric in metrics_of(middleware):
            for value, number in metric.values(stats).items():
                self._put(metric.prometheus, name, value, number)

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
