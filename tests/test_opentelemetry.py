"""A span for each stream, as a child of the server's, and the numbers of `Stats`, by OpenTelemetry's own SDK."""

from __future__ import annotations

import gc
import importlib
import logging
import os
import sys
import threading
import time
import weakref
from collections.abc import Callable, Iterable, Iterator
from itertools import repeat
from types import ModuleType, SimpleNamespace
from typing import TYPE_CHECKING, Any, NoReturn

import pytest
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import HistogramDataPoint, InMemoryMetricReader, Metric, NumberDataPoint
from opentelemetry.sdk.trace import ReadableSpan, Span, SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF, ALWAYS_ON, Decision, ParentBased, Sampler, SamplingResult
from opentelemetry.trace import StatusCode, use_span
from prometheus_client import CollectorRegistry

from ssemiddleware import MemoryGovernor, SSEMiddleware, Stats, Stream, __version__
from ssemiddleware.ending import REASONS
from ssemiddleware.metrics import METRICS, METRICS_OF_MEMORY
from ssemiddleware.opentelemetry import instrument
from ssemiddleware.prometheus import StreamCollector
from ssemiddleware.watcher import watcher

from .applications import (
    ANNOUNCED,
    DEADLINE,
    EVENT_SOURCE,
    EVENT_STREAM,
    MCP,
    Response,
    application_of,
    closing_layer,
    environ_of,
)

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment

EVENT = b"data: 1\n\n"
each_request = pytest.mark.parametrize(
    "request_", [{}, ANNOUNCED, EVENT_SOURCE, MCP], ids=["unannounced", "announced", "EventSource", "MCP"]
)


class Telemetry:
    """An SDK whose exporters keep all in memory."""

    def __init__(self, sampler: Sampler = ParentBased(ALWAYS_ON)) -> None:  # noqa: B008
        self.exporter, self.reader = InMemorySpanExporter(), InMemoryMetricReader()
        self.tracers, self.meters = TracerProvider(sampler=sampler), MeterProvider([self.reader])
        self.tracers.add_span_processor(SimpleSpanProcessor(self.exporter))
        self.tracer = self.tracers.get_tracer("the server's")

    def wrap(self, application: WSGIApplication, **options: object) -> SSEMiddleware:
        """Return an instrumented middleware around *application*."""
        middleware = SSEMiddleware(application, **options)  # type: ignore[arg-type]
        instrument(middleware, tracer_provider=self.tracers, meter_provider=self.meters)
        return middleware

    def spans(self) -> list[ReadableSpan]:
        """Return the spans of streams that have ended."""
        return [span for span in self.exporter.get_finished_spans() if span.name == "event stream"]

    def span(self) -> ReadableSpan:
        """Return the only one."""
        (span,) = self.spans()
        return span

    def metrics(self) -> dict[str, Metric]:
        """Return what an export would have now."""
        data = self.reader.get_metrics_data()
        found = [each for resource in data.resource_metrics for scope in resource.scope_metrics for each in scope.metrics]  # type: ignore[union-attr]
        assert len({each.name for each in found}) == len(found)
        return {each.name: each for each in found}

    def numbers(self) -> dict[str, dict[str, float]]:
        """Return the numbers by name, and by the value of their attribute."""
        numbers: dict[str, dict[str, float]] = {}
        for name, metric in self.metrics().items():
            for point in metric.data.data_points:
                if isinstance(point, NumberDataPoint):
                    numbers.setdefault(name, {})["".join(map(str, (point.attributes or {}).values()))] = point.value
        return numbers

    def durations(self) -> dict[str, HistogramDataPoint]:
        """Return the durations by reason."""
        points = self.metrics()["ssemiddleware.stream.duration"].data.data_points
        return {str((point.attributes or {})["ssemiddleware.reason"]): point for point in points}  # type: ignore[misc]


@pytest.fixture
def telemetry() -> Telemetry:
    return Telemetry()


def lazy(environ: WSGIEnvironment, start_response: StartResponse) -> Iterator[bytes]:
    """Start the response as late as in the first block."""
    start_response("200 OK", [EVENT_STREAM])
    yield EVENT


def raising(environ: WSGIEnvironment, start_response: StartResponse) -> Iterator[bytes]:
    start_response("200 OK", [EVENT_STREAM])
    yield EVENT
    raise LookupError


def writing(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    start_response("200 OK", [EVENT_STREAM])(EVENT)
    return []


def names_of(span: ReadableSpan) -> list[str]:
    return [event.name for event in span.events]


def reasons_of(telemetry: Telemetry) -> list[object]:
    return [(span.attributes or {})["ssemiddleware.reason"] for span in telemetry.spans()]


# -- the span


@each_request
@pytest.mark.parametrize("application", [application_of([EVENT]), lazy, writing], ids=["at once", "lazily", "by write()"])
def test_a_stream_has_one_span_with_its_reason_and_numbers(
    application: WSGIApplication, request_: dict[str, str], telemetry: Telemetry
) -> None:
    middleware = telemetry.wrap(application)
    assert Response(middleware, environ_of(request_)).body() == EVENT
    span = telemetry.span()
    assert span.attributes == {
        "ssemiddleware.has_last_event_id": False,
        "ssemiddleware.reason": "application ended",
        "ssemiddleware.blocks_in": 1,
        "ssemiddleware.blocks_out": 1,
        "ssemiddleware.bytes_in": len(EVENT),
        "ssemiddleware.bytes_out": len(EVENT),
        "ssemiddleware.events_in": 1,
        "ssemiddleware.events_out": 1,
        "ssemiddleware.heartbeats": 0,
        "ssemiddleware.pauses": 0,
        "ssemiddleware.paused_seconds": 0.0,
    }
    assert names_of(span) == ["opening", "first event", "end"]
    times = [span.start_time, *(event.timestamp for event in span.events), span.end_time]
    assert times == sorted(times)  # type: ignore[type-var]
    assert span.status.status_code is StatusCode.UNSET


def test_the_first_event_is_the_first_block_that_is_not_empty(telemetry: Telemetry) -> None:
    seen: list[int] = []

    def application(environ: WSGIEnvironment, start_response: StartResponse) -> Iterator[bytes]:
        start_response("200 OK", [EVENT_STREAM])
        for block in (b"", EVENT, EVENT):
            seen.append(time.time_ns())
            yield block

    Response(telemetry.wrap(application), environ_of()).body()
    (first,) = [event for event in telemetry.span().events if event.name == "first event"]
    assert seen[1] <= first.timestamp <= seen[2]


def test_it_says_whether_the_client_has_reconnected(telemetry: Telemetry) -> None:
    middleware = telemetry.wrap(application_of([EVENT]))
    for given in ({}, {"HTTP_LAST_EVENT_ID": "7"}):
        Response(middleware, environ_of({**EVENT_SOURCE, **given})).body()
    assert [(span.attributes or {})["ssemiddleware.has_last_event_id"] for span in telemetry.spans()] == [False, True]


def test_it_has_the_waits_for_memory(telemetry: Telemetry) -> None:
    middleware = telemetry.wrap(application_of([EVENT]))
    response = Response(middleware, environ_of())
    (place,) = middleware._streams.admission._open
    place.paused(0.5)
    response.body()
    attributes = telemetry.span().attributes or {}
    assert (attributes["ssemiddleware.pauses"], attributes["ssemiddleware.paused_seconds"]) == (1, 0.5)


def test_other_responses_have_none(telemetry: Telemetry) -> None:
    middleware = telemetry.wrap(application_of([b"<html>"], ("Content-Type", "text/html")), max_streams=1)
    for given in ({}, ANNOUNCED, EVENT_SOURCE):
        assert Response(middleware, environ_of(given)).body() == b"<html>"
    assert telemetry.spans() == []
    assert "ssemiddleware.stream.duration" not in telemetry.metrics()


def test_a_refused_request_has_none(telemetry: Telemetry) -> None:
    middleware = telemetry.wrap(application_of(repeat(EVENT)), max_streams=1)
    holder = Response(middleware, environ_of(EVENT_SOURCE))
    Response(middleware, environ_of(EVENT_SOURCE)).body()
    assert telemetry.spans() == []
    holder.close()
    assert reasons_of(telemetry) == ["client gone"]


# -- the parent


@each_request
@pytest.mark.parametrize("application", [application_of([EVENT]), lazy], ids=["at once", "lazily"])
@pytest.mark.parametrize("side", ["outside", "inside"])
def test_it_is_a_child_of_the_span_that_is_current_when_the_response_starts(
    side: str, application: WSGIApplication, request_: dict[str, str], telemetry: Telemetry
) -> None:
    server = telemetry.tracer.start_span("server")

    def instrumented(application: WSGIApplication) -> WSGIApplication:
        """Do as OpenTelemetry's WSGI middleware does."""

        def iterate(iterable: Iterable[bytes]) -> Iterator[bytes]:
            with use_span(server):
                yield from iterable
            server.end()

        def layer(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
            with use_span(server):
                return iterate(application(environ, start_response))

        return layer

    if side == "outside":
        outer: WSGIApplication = instrumented(telemetry.wrap(application))
    else:
        outer = telemetry.wrap(instrumented(application))
    Response(outer, environ_of(request_)).body()
    parent = telemetry.span().parent
    assert parent is not None
    assert parent.span_id == server.get_span_context().span_id


def test_without_a_server_span_it_is_a_root(telemetry: Telemetry) -> None:
    Response(telemetry.wrap(application_of([EVENT])), environ_of()).body()
    assert telemetry.span().parent is None


@pytest.fixture
def django_instrumentation(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """Stand for Django's instrumentation, whose span has ended before the response starts."""
    middleware = SimpleNamespace(_otel_request_hook=None)
    module = ModuleType("otel_middleware")
    module._DjangoMiddleware = middleware  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "opentelemetry.instrumentation.django.middleware.otel_middleware", module)
    return middleware


def test_djangos_span_that_has_ended_by_then_is_found(django_instrumentation: SimpleNamespace, telemetry: Telemetry) -> None:
    hooked: list[object] = []
    django_instrumentation._otel_request_hook = lambda span, request: hooked.append(span)
    servers: list[Span] = []

    def application(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        server: Span = telemetry.tracer.start_span("server")  # type: ignore[assignment]
        servers.append(server)
        django_instrumentation._otel_request_hook(server, SimpleNamespace(META=environ))
        server.end()
        start_response("200 OK", [EVENT_STREAM])
        return [EVENT]

    for middleware in (telemetry.wrap(application), Telemetry().wrap(application)):  # the second adds no second hook
        Response(middleware, environ_of()).body()
    parent = telemetry.span().parent
    assert parent is not None
    assert parent.span_id == servers[0].get_span_context().span_id
    assert hooked == servers


class Asked(Sampler):
    """A sampler that drops everything, and counts how often it was asked."""

    def __init__(self) -> None:
        self.times = 0

    def should_sample(self, *_: object, **__: object) -> SamplingResult:
        self.times += 1
        return SamplingResult(Decision.DROP)

    def get_description(self) -> str:
        return "Asked"


@each_request
def test_a_request_that_is_not_sampled_has_none_and_the_sampler_is_not_asked_again(request_: dict[str, str]) -> None:
    telemetry = Telemetry(sampler := Asked())
    middleware = telemetry.wrap(application_of([EVENT]))
    environ = environ_of(request_)
    with use_span(telemetry.tracer.start_span("server")):
        response = Response(middleware, environ)
    handle: Stream = environ["ssemiddleware.stream"]
    assert handle._closing_callbacks == {}
    assert response.iterable._start.service.on_first is None  # type: ignore[attr-defined]
    assert response.body() == EVENT
    assert sampler.times == 1
    assert telemetry.exporter.get_finished_spans() == ()
    assert telemetry.durations()["application ended"].count == 1


def test_a_root_that_is_not_sampled_has_none() -> None:
    telemetry = Telemetry(ALWAYS_OFF)
    Response(telemetry.wrap(application_of([EVENT])), environ_of()).body()
    assert telemetry.spans() == []


# -- how it ends


def end_by_itself(response: Response, handle: Stream) -> None:
    list(response.blocks())


def close(response: Response, handle: Stream) -> None:
    next(iter(response.iterable))
    response.close()


def close_before_the_first_block(response: Response, handle: Stream) -> None:
    response.close()


def close_twice(response: Response, handle: Stream) -> None:
    response.close()
    response.close()


def close_in_another_thread(response: Response, handle: Stream) -> None:
    next(iter(response.iterable))
    thread = threading.Thread(target=response.close)
    thread.start()
    thread.join(DEADLINE)


def see_the_client_leave_first(response: Response, handle: Stream) -> None:
    handle.finish("client gone")
    next(iter(response.iterable))
    response.close()


def fail(response: Response, handle: Stream) -> None:
    with pytest.raises(LookupError):
        list(response.blocks())


@each_request
@pytest.mark.parametrize(
    ("application", "end", "reason"),
    [
        pytest.param(application_of([EVENT]), end_by_itself, "application ended", id="the application ends"),
        pytest.param(raising, fail, "application raised", id="it raises"),
        pytest.param(application_of(repeat(EVENT)), close, "client gone", id="the server closes"),
        pytest.param(application_of(repeat(EVENT)), close_before_the_first_block, "client gone", id="before the first block"),
        pytest.param(application_of(repeat(EVENT)), close_twice, "client gone", id="twice"),
        pytest.param(application_of(repeat(EVENT)), close_in_another_thread, "client gone", id="in another thread"),
        pytest.param(application_of(repeat(EVENT)), see_the_client_leave_first, "client gone", id="a disconnect is detected"),
    ],
)
def test_it_ends_once_with_the_reason(
    application: WSGIApplication,
    end: Callable[[Response, Stream], None],
    reason: str,
    request_: dict[str, str],
    telemetry: Telemetry,
    caplog: pytest.LogCaptureFixture,
) -> None:
    middleware = telemetry.wrap(application)
    environ = environ_of(request_)
    end(Response(middleware, environ), environ["ssemiddleware.stream"])
    assert reasons_of(telemetry) == [reason]
    is_error = reason == "application raised"
    assert telemetry.span().status.is_ok == (not is_error)
    assert (telemetry.span().attributes or {}).get("error.type") == (reason if is_error else None)
    assert telemetry.durations()[reason].count == middleware.stats().ended[reason] == 1
    assert caplog.records == []  # of OpenTelemetry's, about a context or a span that has ended


@pytest.mark.parametrize("reason", [*REASONS, "revoked"])
def test_it_ends_once_for_each_reason_that_a_stream_ends_for(reason: str, telemetry: Telemetry) -> None:
    environ = environ_of(EVENT_SOURCE)
    response = Response(telemetry.wrap(application_of(repeat(EVENT))), environ)
    next(iter(response.iterable))
    environ["ssemiddleware.stream"].finish(reason)
    response.close()
    assert reasons_of(telemetry) == [reason]
    assert telemetry.durations()[reason].count == 1


def raising_at_once(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    start_response("200 OK", [EVENT_STREAM])
    raise LookupError


def yielding_text(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[Any]:
    start_response("200 OK", [EVENT_STREAM])
    return ["data: 1\n\n"]


def exiting(environ: WSGIEnvironment, start_response: StartResponse) -> Iterator[bytes]:
    start_response("200 OK", [EVENT_STREAM])
    yield EVENT
    raise SystemExit


@each_request
@pytest.mark.parametrize("application", [raising_at_once, yielding_text, exiting])
def test_it_ends_once_whatever_is_raised(application: WSGIApplication, request_: dict[str, str], telemetry: Telemetry) -> None:
    with pytest.raises((LookupError, TypeError, SystemExit)):
        Response(telemetry.wrap(application), environ_of(request_)).body()
    assert reasons_of(telemetry) == ["application raised"]


@each_request
def test_a_stream_whose_server_does_not_start_it_has_none(request_: dict[str, str], telemetry: Telemetry) -> None:
    def start_response(status: str, headers: object, exc_info: object = None) -> NoReturn:
        raise OSError

    with pytest.raises(OSError):
        telemetry.wrap(application_of([EVENT]))(environ_of(request_), start_response)
    assert telemetry.spans() == []


def test_spans_and_metrics_name_the_version_that_made_them(telemetry: Telemetry) -> None:
    Response(telemetry.wrap(application_of([EVENT])), environ_of()).body()
    (resource,) = telemetry.reader.get_metrics_data().resource_metrics  # type: ignore[union-attr]
    scopes = [telemetry.span().instrumentation_scope, *(scope.scope for scope in resource.scope_metrics)]
    assert {(scope.name, scope.version) for scope in scopes if scope} == {("ssemiddleware", __version__)}


def test_a_response_that_becomes_another_one_ends_its_span(telemetry: Telemetry) -> None:
    def application(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        start_response("200 OK", [EVENT_STREAM])
        try:
            raise ValueError
        except ValueError:
            start_response("500 Internal Server Error", [("Content-Type", "text/plain")], sys.exc_info())
        return [b"sorry"]

    assert Response(telemetry.wrap(application), environ_of()).body() == b"sorry"
    assert reasons_of(telemetry) == ["another response"]
    assert "ssemiddleware.stream.duration" not in telemetry.metrics()


def test_the_span_lasts_until_the_application_returns(telemetry: Telemetry) -> None:
    environ = environ_of()
    response = Response(telemetry.wrap(application_of(repeat(EVENT))), environ)
    blocks = iter(response.iterable)
    next(blocks)
    environ["ssemiddleware.stream"].finish("client gone")
    known_at = time.time_ns()
    next(blocks)  # a client that has half-closed still reads
    response.close()
    span = telemetry.span()
    assert (span.attributes or {})["ssemiddleware.events_out"] == 2
    assert span.events[-1].timestamp <= known_at <= (span.end_time or 0)


# -- inside a garbage collection, and after a fork


class Locked(SpanProcessor):
    """A processor with a lock, as those have that batch."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.ended: list[str] = []

    def on_end(self, span: ReadableSpan) -> None:
        assert self.lock.acquire(timeout=DEADLINE)
        self.ended.append(span.name)
        self.lock.release()


each_layer = pytest.mark.parametrize("layer", [iter, closing_layer], ids=["bare", "inside a layer that closes it"])
Layer = Callable[[Iterable[bytes]], Iterator[bytes]]


def stream_in_a_cycle(middleware: SSEMiddleware, layer: Layer) -> list[object]:
    """Return a stream that only a garbage collection ends."""
    response = Response(middleware, environ_of(ANNOUNCED))
    cycle: list[object] = [layer(response.iterable)]
    if layer is iter:
        del response.iterable  # the watcher knows the server's write(), and so the response
    next(cycle[0])  # type: ignore[call-overload]
    cycle.append(cycle)
    return cycle


@each_layer
def test_a_stream_that_a_collection_ends_takes_no_lock_and_its_span_ends_later(layer: Layer, telemetry: Telemetry) -> None:
    telemetry.tracers.add_span_processor(locked := Locked())
    middleware = telemetry.wrap(application_of(repeat(EVENT)))
    cycle = stream_in_a_cycle(middleware, layer)
    with locked.lock:  # as code of the application may hold it when the collection begins
        del cycle
        gc.collect()
        assert middleware.stats().open == 0
    Response(middleware, environ_of(ANNOUNCED)).close()  # ends both spans, or the watcher is about to end the first
    wait_until(lambda: telemetry.durations()["client gone"].count == 2)
    assert locked.ended == ["event stream"] * 2
    assert reasons_of(telemetry) == ["client gone"] * 2


@each_layer
@pytest.mark.parametrize("is_watched", [False, True], ids=["younger than a tick", "older"])
def test_the_span_of_a_stream_that_a_collection_ended_waits_for_no_other_request(
    is_watched: bool, layer: Layer, telemetry: Telemetry
) -> None:
    middleware = telemetry.wrap(application_of(repeat(EVENT)))
    cycle = stream_in_a_cycle(middleware, layer)
    if is_watched:
        wait_until(lambda: bool(watcher()._streams))
    del cycle
    gc.collect()
    wait_until(lambda: bool(telemetry.spans()))
    assert reasons_of(telemetry) == ["client gone"]


def wait_until(is_so: Callable[[], bool]) -> None:
    deadline = time.monotonic() + DEADLINE
    while not is_so():
        assert time.monotonic() < deadline
        time.sleep(0.005)


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")  # of CPython 3.12 and newer, with threads
def test_a_stream_from_before_a_fork_ends_its_span_only_in_the_parent(telemetry: Telemetry) -> None:
    middleware = telemetry.wrap(application_of(repeat(EVENT)))
    response = Response(middleware, environ_of())
    next(iter(response.iterable))
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        os._exit(_end_in_child(response, middleware, telemetry, writing))
    os.close(writing)
    with os.fdopen(reading) as pipe:
        assert pipe.read() == "1"  # of its own stream
    assert os.waitpid(child, 0)[1] == 0
    assert telemetry.spans() == []
    response.close()
    assert reasons_of(telemetry) == ["client gone"]


def _end_in_child(response: Response, middleware: SSEMiddleware, telemetry: Telemetry, pipe: int) -> int:
    response.close()
    Response(middleware, environ_of()).close()
    os.write(pipe, b"%d" % len(telemetry.spans()))
    return 0


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")  # of CPython 3.12 and newer, with threads
def test_streams_that_end_just_before_a_fork_are_the_parents(telemetry: Telemetry, caplog: pytest.LogCaptureFixture) -> None:
    middleware = telemetry.wrap(application_of(repeat(EVENT)))
    environ = environ_of()
    response = Response(middleware, environ)
    (place,) = middleware._streams.admission._open
    assert place.on_release is not None
    environ["ssemiddleware.stream"].finish("client gone")  # another thread has come so far
    place.let_go()
    place.on_release(place)
    child = os.fork()
    if child == 0:
        middleware._streams.admission.notify()
        os._exit(len(telemetry.spans()))
    assert os.waitpid(child, 0)[1] == 0
    response.close()  # it ends once more
    assert len(telemetry.spans()) == telemetry.durations()["client gone"].count == 1
    assert caplog.records == []


def test_nothing_refers_to_an_ended_stream(telemetry: Telemetry) -> None:
    middleware = telemetry.wrap(application_of(repeat(EVENT)))
    environ = environ_of()
    response = Response(middleware, environ)
    forgotten = [weakref.ref(each) for each in (response.iterable, environ["ssemiddleware.stream"].closed)]
    gc.disable()  # it has to go by itself
    try:
        response.close()
        del response, environ
        assert [each() for each in forgotten] == [None] * 2
    finally:
        gc.enable()


# -- failures


class Failing(SpanProcessor):
    def __init__(self, *moments: str) -> None:
        self._moments = moments

    def on_start(self, span: Span, parent_context: object = None) -> None:
        if "start" in self._moments:
            raise OSError("at the start")

    def on_end(self, span: ReadableSpan) -> None:
        if "end" in self._moments:
            raise OSError("at the end")


@pytest.mark.parametrize("moment", ["start", "end"])
def test_an_exception_of_opentelemetry_is_logged_once_and_the_streams_go_on(
    moment: str, telemetry: Telemetry, caplog: pytest.LogCaptureFixture
) -> None:
    telemetry.tracers.add_span_processor(Failing(moment))
    middleware = telemetry.wrap(application_of([EVENT]))
    for _ in range(3):
        assert Response(middleware, environ_of()).body() == EVENT
    with caplog.at_level(logging.ERROR):
        assert [record.getMessage() for record in caplog.records] == ["OpenTelemetry raised; the streams go on"]
    assert middleware.stats().open == 0


class Interrupting(SpanProcessor):
    """Raise once an exception that ends a thread or a greenlet."""

    has_raised = False

    def on_end(self, span: ReadableSpan) -> None:
        if not self.has_raised:
            self.has_raised = True
            raise SystemExit


def test_an_exit_in_the_middle_is_passed_on_and_the_duration_is_recorded(
    telemetry: Telemetry, caplog: pytest.LogCaptureFixture
) -> None:
    telemetry.tracers.add_span_processor(Interrupting())
    middleware = telemetry.wrap(application_of(repeat(EVENT)))
    response = Response(middleware, environ_of())
    with pytest.raises(SystemExit):
        response.close()
    Response(middleware, environ_of()).close()
    assert len(telemetry.spans()) == 2
    assert telemetry.durations()["client gone"].count == 2
    assert caplog.records == []


# -- the numbers


def test_an_example_of_a_duration_is_the_streams_own_span(telemetry: Telemetry) -> None:
    response = Response(telemetry.wrap(application_of([EVENT])), environ_of())
    with use_span(telemetry.tracer.start_span("of another request")):
        response.body()
    (example,) = telemetry.durations()["application ended"].exemplars
    assert example.span_id == telemetry.span().context.span_id


def test_stats_prometheus_and_opentelemetry_show_the_same_numbers(telemetry: Telemetry) -> None:
    governor = MemoryGovernor(read=lambda: (10, 100))
    middleware = telemetry.wrap(crowd, memory=governor, max_streams=3)
    registry = CollectorRegistry()
    registry.register(StreamCollector(middleware))
    holders = play_crowd(middleware)
    stats, shown = middleware.stats(), telemetry.numbers()
    assert (stats.open_announced, stats.open_unannounced) == (2, 1)
    assert (stats.refused, stats.ended) == (2, {"application ended": 4, "application raised": 1, "client gone": 2})
    for metric in (*METRICS, *METRICS_OF_MEMORY):
        if metric.unit != "s" or metric.across is None:  # times go on between two looks
            of_stats = metric.values(stats)
            labels = {value: {metric.label: value} if metric.label else {} for value in of_stats}
            assert shown[metric.opentelemetry] == of_stats
            assert {value: registry.get_sample_value(metric.prometheus, labels[value]) for value in of_stats} == of_stats
    assert {reason: point.count for reason, point in telemetry.durations().items()} == dict(stats.ended)
    assert sum((span.attributes or {})["ssemiddleware.bytes_out"] for span in telemetry.spans()) < stats.bytes_out  # type: ignore[misc]
    for holder in holders:
        holder.close()
    stats = middleware.stats()
    for name, number in {"bytes_out": stats.bytes_out, "events_in": stats.events_in, "blocks_out": stats.blocks_out}.items():
        assert sum((span.attributes or {})[f"ssemiddleware.{name}"] for span in telemetry.spans()) == number  # type: ignore[misc]


def crowd(environ: WSGIEnvironment, start_response: StartResponse) -> Iterator[bytes]:
    """Answer with so many events as the path says, or without end; with /fail raise after the first."""
    start_response("200 OK", [EVENT_STREAM])
    yield EVENT
    if environ["PATH_INFO"] == "/fail":
        raise LookupError
    times = environ["PATH_INFO"].strip("/")
    yield from repeat(EVENT, int(times)) if times else repeat(EVENT)


def play_crowd(middleware: SSEMiddleware) -> list[Response]:
    """Return the streams that are still open after all requests."""
    for times in (1, 5, 10, 100):
        Response(middleware, environ_of({**ANNOUNCED, "PATH_INFO": f"/{times}"})).body()
    with pytest.raises(LookupError):
        Response(middleware, environ_of({"PATH_INFO": "/fail"})).body()
    for _ in range(2):
        response = Response(middleware, environ_of())
        next(iter(response.iterable))
        response.close()
    holders = [Response(middleware, environ_of(given)) for given in (EVENT_SOURCE, EVENT_SOURCE, {})]
    for number, holder in enumerate(holders, 1):
        blocks = iter(holder.iterable)
        for _ in range(number):
            next(blocks)
    for given in (EVENT_SOURCE, ANNOUNCED):
        Response(middleware, environ_of(given)).body()
    return holders


def test_without_a_limit_none_is_exported(telemetry: Telemetry) -> None:
    telemetry.wrap(application_of([EVENT]))
    assert "ssemiddleware.stream.limit" not in telemetry.numbers()


def test_an_export_reads_the_numbers_once(telemetry: Telemetry) -> None:
    looks: list[None] = []

    class Counting(SSEMiddleware):
        def stats(self) -> Stats:
            looks.append(None)
            return super().stats()

    middleware = Counting(application_of([EVENT]))
    instrument(middleware, tracer_provider=telemetry.tracers, meter_provider=telemetry.meters)
    for export in (1, 2, 3):
        assert telemetry.numbers()["ssemiddleware.stream.ended"]["application ended"] == export - 1
        assert len(looks) == export
        Response(middleware, environ_of()).body()


def test_several_middlewares_have_their_names(telemetry: Telemetry) -> None:
    shop = SSEMiddleware(application_of([EVENT]), memory=None)
    chat = SSEMiddleware(application_of([EVENT]), memory=MemoryGovernor(read=lambda: (10, 100)))
    instrument(tracer_provider=telemetry.tracers, meter_provider=telemetry.meters, shop=shop, chat=chat)
    for middleware in (shop, chat, chat):
        Response(middleware, environ_of()).body()
    names = [(span.attributes or {})["ssemiddleware.application"] for span in telemetry.spans()]
    assert names == ["shop", "chat", "chat"]
    points = telemetry.metrics()["ssemiddleware.stream.duration"].data.data_points
    assert {(point.attributes or {})["ssemiddleware.application"]: point.count for point in points} == {"shop": 1, "chat": 2}  # type: ignore[union-attr]
    assert telemetry.numbers()["ssemiddleware.memory.limit"] == {"chat": 100}
    assert telemetry.numbers()["ssemiddleware.stream.io"]["chatin"] == 2 * len(EVENT)


# -- `instrument`


def test_a_middleware_is_instrumented_once(telemetry: Telemetry) -> None:
    middleware = telemetry.wrap(application_of([EVENT]))
    with pytest.raises(ValueError, match="is instrumented already"):
        instrument(middleware)


@pytest.mark.parametrize("given", [(), ("app",), (None,)], ids=repr)
def test_anything_else_is_refused(given: tuple[SSEMiddleware, ...]) -> None:
    with pytest.raises(TypeError, match=r"^instrument takes"):
        instrument(*given)


def test_the_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "ssemiddleware.opentelemetry")
    monkeypatch.setitem(sys.modules, "opentelemetry.metrics", None)
    with pytest.raises(ImportError, match=r'pip install "ssemiddleware\[opentelemetry\]"'):
        importlib.import_module("ssemiddleware.opentelemetry")
