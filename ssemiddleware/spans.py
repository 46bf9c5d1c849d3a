"""A span for each event stream, for OpenTelemetry: see `ssemiddleware.opentelemetry`, which alone imports this module.

No span is made current, so that no context has to be given back, in whatever thread a stream ends.
"""

from __future__ import annotations

import functools
import logging
import os
import sys
import time
from collections import deque
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from opentelemetry.context import Context
from opentelemetry.metrics import Histogram
from opentelemetry.trace import INVALID_SPAN, Span, Tracer, get_current_span, set_span_in_context
from opentelemetry.trace.status import StatusCode

from .ending import FAILED, RAISED

if TYPE_CHECKING:
    from _typeshed.wsgi import WSGIEnvironment
    from django.http import HttpRequest

    from .admission import Place
    from .handle import Stream as Handle
    from .service import Service
    from .stats import Carried

_log = logging.getLogger("ssemiddleware")

_SERVER_SPAN = "ssemiddleware.server_span"  # the key in environ
_WITHOUT_SPAN = set_span_in_context(INVALID_SPAN, Context())  # what is current at a stream's end belongs to another request


class Spans:
    """The spans of one middleware's streams. For all threads.

    *duration*: the histogram of durations. *attributes*: those of every span and record.
    """

    def __init__(self, tracer: Tracer, duration: Histogram, attributes: Mapping[str, str]) -> None:
        self._tracer, self._duration, self._attributes = tracer, duration, attributes
        self._ended: deque[_Stream] = deque()
        self._has_failed = False

    def begin(self, service: Service, environ: WSGIEnvironment) -> None:
        """Begin a span when the response of a stream starts. On the server's thread."""
        opened_at, span = time.time_ns(), None
        try:
            span = self._maybe_span(service.handle, environ, opened_at)
        except Exception:
            self._log_once()
        stream = _Stream(span, opened_at, self._ended)
        service.place.on_release = stream.note_end
        if span is not None:
            service.observe_first(stream.see_first)
            service.handle.on_closing(functools.partial(stream.see_closing, service.handle))

    def _maybe_span(self, handle: Handle, environ: WSGIEnvironment, now: int) -> Span | None:
        parent = get_current_span()
        if parent is INVALID_SPAN:
            parent = environ.get(_SERVER_SPAN, INVALID_SPAN)
        context = parent.get_span_context()
        if context.is_valid and not (context.trace_flags.sampled or parent.is_recording()):
            return None
        attributes: dict[str, str | bool] = {**self._attributes, "ssemiddleware.has_last_event_id": bool(handle.last_event_id)}
        span = self._tracer.start_span("event stream", set_span_in_context(parent), attributes=attributes, start_time=now)
        return span if span.is_recording() else None

    def end_due_spans(self) -> None:
        """End the spans of ended streams, each once. Not to be called in a garbage collection: OpenTelemetry takes locks."""
        while self._ended:
            try:
                stream = self._ended.popleft()
            except IndexError:  # another thread was faster
                return
            if stream.process != os.getpid():  # it is the parent's, from before the fork
                continue
            try:
                self._end(stream)
            except Exception:
                self._log_once()
            except BaseException:  # a signal, or a greenlet's end
                self._ended.append(stream)
                raise

    def _end(self, stream: _Stream) -> None:
        place = stream.place
        if place is None or stream.is_exported:
            return
        reason = place.reason or "another response"
        if stream.span is not None and stream.span.is_recording():
            self._end_span(stream.span, stream, reason, place.carried)
        if place.is_stream:
            context = _WITHOUT_SPAN if stream.span is None else set_span_in_context(stream.span, Context())
            self._duration.record(stream.seconds, {**self._attributes, "ssemiddleware.reason": reason}, context)
        stream.is_exported = True

    def _end_span(self, span: Span, stream: _Stream, reason: str, carried: Carried) -> None:
        span.add_event("opening", timestamp=stream.opened_at)
        if stream.first_at:
            span.add_event("first event", timestamp=stream.first_at)
        span.add_event("end", {"ssemiddleware.reason": reason}, stream.closed_at or stream.ended_at)
        span.set_attribute("ssemiddleware.reason", reason)
        span.set_attributes({f"ssemiddleware.{name}": number for name, number in carried.sums().items()})
        if reason in (RAISED, FAILED):
            span.set_attribute("error.type", reason)
            span.set_status(StatusCode.ERROR, reason)
        span.end(stream.ended_at)

    def _log_once(self) -> None:
        if not self._has_failed:
            self._has_failed = True
            _log.exception("OpenTelemetry raised; the streams go on")


class _Stream:
    """One stream. Times are nanoseconds since the epoch. OpenTelemetry gets them after the stream has ended."""

    __slots__ = (
        "_ended", "closed_at", "ended_at", "first_at", "is_exported", "opened_at", "place", "process", "seconds", "span",
    )  # fmt: skip

    def __init__(self, span: Span | None, opened_at: int, ended: deque[_Stream]) -> None:
        self._ended = ended
        self.span = span  # None if it is not sampled
        self.opened_at = opened_at
        self.first_at = 0  # when the application's first bytes were sent; 0 for never
        self.closed_at = 0  # when it was known that the stream ends: the application may go on for a while
        self.ended_at = 0
        self.seconds = 0.0
        self.process = os.getpid()
        self.place: Place | None = None  # None until it has ended
        self.is_exported = False  # OpenTelemetry has everything

    def see_first(self) -> None:
        """Note when the application's first bytes are sent."""
        self.first_at = self.first_at or time.time_ns()

    def see_closing(self, handle: Handle) -> None:
        """Note when it is known that the stream ends."""
        if handle.reason is not None:
            self.closed_at = self.closed_at or time.time_ns()

    def note_end(self, place: Place) -> None:
        """Note that the stream has ended. Any thread, even in a garbage collection, so without a lock. Maybe twice."""
        self.place, self.ended_at, self.seconds = place, time.time_ns(), time.monotonic() - place.began
        self._ended.append(self)


def ask_django_for_its_spans() -> None:
    """Make Django's instrumentation put its span into environ. Measured with 0.66b1; it has had the hook since 0.51b0."""
    module = sys.modules.get("opentelemetry.instrumentation.django.middleware.otel_middleware")
    middleware = getattr(module, "_DjangoMiddleware", None)
    hook = getattr(middleware, "_otel_request_hook", None)
    if middleware is None or isinstance(hook, _DjangoHook):
        return
    middleware._otel_request_hook = _DjangoHook(hook)


class _DjangoHook:
    """The function that Django's instrumentation calls with its span. *hook*: the function that it called before."""

    def __init__(self, hook: Callable[[Span, HttpRequest], object] | None) -> None:
        self._hook = hook

    def __call__(self, span: Span, request: HttpRequest) -> None:
        request.META[_SERVER_SPAN] = span
        if self._hook is not None:
            self._hook(span, request)
