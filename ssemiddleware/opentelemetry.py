"""A span for each event stream, and the numbers of `SSEMiddleware.stats`, for OpenTelemetry.

Needs ``pip install "ssemiddleware[opentelemetry]"``; nothing else in the package imports this module.

>>> from ssemiddleware import SSEMiddleware
>>> instrument(SSEMiddleware(lambda environ, start_response: []))

Without an SDK, or without an exporter, OpenTelemetry drops everything.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping
from typing import TYPE_CHECKING

try:
    from opentelemetry.metrics import CallbackOptions, Meter, MeterProvider, Observation, get_meter
    from opentelemetry.trace import TracerProvider, get_tracer
except ImportError as error:
    line = 'ssemiddleware.opentelemetry needs opentelemetry-api: pip install "ssemiddleware[opentelemetry]"'
    raise ImportError(line) from error

from . import __version__
from .metrics import Metric, by_name, metrics_of
from .spans import Spans, ask_django_for_its_spans

if TYPE_CHECKING:
    from .middleware import SSEMiddleware
    from .stats import Stats

_DURATION = "ssemiddleware.stream.duration"
_BOUNDARIES = 0.1, 0.5, 1, 5, 10, 30, 60, 300, 600, 1800, 3600, 14400  # seconds; the default ones begin at 5


def instrument(
    middleware: SSEMiddleware | None = None,
    /,
    *,
    tracer_provider: TracerProvider | None = None,
    meter_provider: MeterProvider | None = None,
    **named: SSEMiddleware,
) -> None:
    """Trace a middleware's streams, and export its numbers.

        instrument(application)

    For several middlewares in one process, make one call. Each has its name as the attribute ``ssemiddleware.application``:

        instrument(shop=shop_application, chat=chat_application)

    A span begins when the response starts. Its parent is the span that is current then: that of OpenTelemetry's own
    instrumentation, outside or inside of the middleware. Django's instrumentation ends its span before the response starts, so
    a hook is added to it; call Django's first. Without a parent, the stream's span is a root. If the parent is not sampled,
    there is no span. The span ends when the stream no longer counts as open.

    *tracer_provider*, *meter_provider*: None for the global ones, which may be set later. Call it once, where the middleware is
    made. That may be before a server forks.
    """
    middlewares = by_name("instrument", middleware, named)
    for each in middlewares.values():
        if each._streams.observers:
            raise ValueError(f"{each!r} is instrumented already")
    tracer = get_tracer("ssemiddleware", __version__, tracer_provider)
    meter = get_meter("ssemiddleware", __version__, meter_provider)
    _observe_stats(meter, middlewares)
    duration = meter.create_histogram(
        _DURATION, "s", "Duration of event streams, by the reason.", explicit_bucket_boundaries_advisory=_BOUNDARIES
    )
    ask_django_for_its_spans()
    for name, each in middlewares.items():
        spans = Spans(tracer, duration, {"ssemiddleware.application": name} if name else {})
        each._streams.observers.append(spans.begin)
        each._streams.admission.observe(spans.end_due_spans)


class _Numbers:
    """The numbers of some middlewares, read once for all metrics of an export."""

    def __init__(self, middlewares: Mapping[str, SSEMiddleware]) -> None:
        self._middlewares = middlewares
        self._stats: dict[str, Stats] = {}
        self._exported: set[str] = set()

    def observe(self, metric: Metric, _options: CallbackOptions) -> list[Observation]:
        """Return the current numbers of *metric*."""
        if metric.prometheus in self._exported or not self._stats:  # it was asked for before: a new export begins
            self._stats = {name: middleware.stats() for name, middleware in self._middlewares.items()}
            self._exported = set()
        self._exported.add(metric.prometheus)
        return [
            Observation(number, self._attributes(metric, name, value))
            for name, middleware in self._middlewares.items()
            if metric in metrics_of(middleware)
            for value, number in metric.values(self._stats[name]).items()
            if number != math.inf  # max_streams without a limit
        ]

    def _attributes(self, metric: Metric, name: str, value: str) -> dict[str, str]:
        labels = metric.labels(are_named="" not in self._middlewares)
        return {f"ssemiddleware.{label}": of for label, of in zip(labels, metric.label_values(name, value), strict=True)}


def _observe_stats(meter: Meter, middlewares: Mapping[str, SSEMiddleware]) -> None:
    create = {
        None: meter.create_observable_counter,
        "livesum": meter.create_observable_up_down_counter,
        "livemax": meter.create_observable_gauge,
    }
    numbers = _Numbers(middlewares)
    for metric in metrics_of(*middlewares.values()):
        callback = functools.partial(numbers.observe, metric)
        create[metric.across](metric.opentelemetry, [callback], metric.unit, metric.documentation)
