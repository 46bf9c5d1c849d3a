"""Applications that OpenTelemetry's own packages instrument, outside and inside of the middleware, and ours beside them.

/telemetry      the spans that have ended, the metrics, `stats()`, and what was logged as a warning or worse, as JSON
"""

from __future__ import annotations

import dataclasses
import json
import logging
import sys
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

from opentelemetry import metrics, trace
from opentelemetry.instrumentation.wsgi import OpenTelemetryMiddleware
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import ConsoleSpanExporter, SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from ssemiddleware import SSEMiddleware
from ssemiddleware.opentelemetry import instrument

from .applications import AMPLE, answer, play

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment


class Lines(logging.Handler):
    """Keeps what is logged."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(record.getMessage())


def line_of(span: ReadableSpan) -> str:
    """Return what the server's output has of a span, also of a process that goes."""
    reason = (span.attributes or {}).get("ssemiddleware.reason", "")
    return f"{span.name} of {span.context.trace_id:032x} ended: {reason}\n"


def create(name: str) -> WSGIApplication:
    """Return the application of that *name* here, with an SDK whose exporters keep all in memory."""
    exporter, reader, lines = InMemorySpanExporter(), InMemoryMetricReader(), Lines()
    logging.getLogger().addHandler(lines)
    wrapped, application = APPLICATIONS[name]()
    instrument(wrapped)
    tracers = TracerProvider()  # set late, as by gunicorn's post_fork
    for each in (exporter, ConsoleSpanExporter(out=sys.stderr, formatter=line_of)):
        tracers.add_span_processor(SimpleSpanProcessor(each))
    trace.set_tracer_provider(tracers)
    metrics.set_meter_provider(MeterProvider([reader]))

    def with_telemetry(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        if environ["PATH_INFO"] != "/telemetry":
            return application(environ, start_response)
        found = {
            "spans": [json.loads(span.to_json()) for span in exporter.get_finished_spans()],
            "metrics": json.loads(reader.get_metrics_data().to_json()),  # type: ignore[union-attr]
            "stats": {**dataclasses.asdict(stats := wrapped.stats()), "ended": dict(stats.ended), "refused_by": None},
            "lines": lines.lines,
        }
        return answer(start_response, json.dumps(found).encode(), "application/json")

    return with_telemetry


def outside() -> tuple[SSEMiddleware, WSGIApplication]:
    wrapped = SSEMiddleware(play, memory=AMPLE)
    return wrapped, OpenTelemetryMiddleware(wrapped)


def inside() -> tuple[SSEMiddleware, WSGIApplication]:
    wrapped = SSEMiddleware(OpenTelemetryMiddleware(play), memory=AMPLE)
    return wrapped, wrapped


def flask_outside() -> tuple[SSEMiddleware, WSGIApplication]:
    from opentelemetry.instrumentation.flask import FlaskInstrumentor

    from .flask_application import app

    wrapped = app.wsgi_app
    assert isinstance(wrapped, SSEMiddleware)
    FlaskInstrumentor().instrument_app(app)  # type: ignore[no-untyped-call]
    return wrapped, app


def flask_inside() -> tuple[SSEMiddleware, WSGIApplication]:
    from opentelemetry.instrumentation.flask import FlaskInstrumentor

    from .flask_application import app

    assert isinstance(app.wsgi_app, SSEMiddleware)
    app.wsgi_app = app.wsgi_app.options.application  # type: ignore[assignment, method-assign]
    FlaskInstrumentor().instrument_app(app)  # type: ignore[no-untyped-call]
    app.wsgi_app = wrapped = SSEMiddleware(app.wsgi_app)  # type: ignore[method-assign]
    return wrapped, app


def django() -> tuple[SSEMiddleware, WSGIApplication]:
    from django.core.wsgi import get_wsgi_application
    from opentelemetry.instrumentation.django import DjangoInstrumentor

    from . import django_application  # noqa: F401  (the settings)

    DjangoInstrumentor().instrument()
    wrapped = SSEMiddleware(get_wsgi_application())
    return wrapped, wrapped


APPLICATIONS: dict[str, Callable[[], tuple[SSEMiddleware, WSGIApplication]]] = {
    each.__name__: each for each in (outside, inside, flask_outside, flask_inside, django)
}
