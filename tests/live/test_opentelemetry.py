"""Streams have a span below that of OpenTelemetry's own instrumentation, on real servers and under real frameworks."""

from __future__ import annotations

import json
import secrets
import time
from collections.abc import Callable
from typing import Any

import pytest

from .client import PATIENCE, Connection, Headers, TooLate
from .conftest import Pool, Start
from .serving import EVENT_SOURCE, GEVENT, GTHREAD, PATHS, Kind, Server, new_key, play_target
from .steps import event, pause, repeat

pytest.importorskip("opentelemetry.instrumentation.django")
pytest.importorskip("opentelemetry.instrumentation.flask")
pytestmark = pytest.mark.live

PLAYED = play_target(event("one"), event("two"), event("three"))
PLAYED_ON = play_target(repeat(event("one"), pause(0.05)))
# By the application: what has three events, and what goes on until its client has left.
TARGETS = {
    "outside": (PLAYED, PLAYED_ON),
    "inside": (PLAYED, PLAYED_ON),
    "flask_outside": ("/doubles?", "/ticks?"),
    "flask_inside": ("/doubles?", "/ticks?"),
    "django": ("/ticks?pause=0", "/endless?"),
}
CLIENT = "00f067aa0ba902b7"  # the ID of its span
Span = dict[str, Any]


@pytest.fixture(params=[GTHREAD, GEVENT], ids=str)
def kind(request: pytest.FixtureRequest) -> Kind:
    kind: Kind = request.param
    return kind


@pytest.fixture(params=TARGETS)
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def server(kind: Kind, name: str, pool: Pool) -> Server:
    return pool.get(kind, f"live.traced_application:create('{name}')")


def telemetry(server: Server) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(server.get("/telemetry").body)
    return found


def telemetry_once(server: Server, holds: Callable[[dict[str, Any]], object]) -> dict[str, Any]:
    deadline = time.monotonic() + PATIENCE
    while not holds(found := telemetry(server)):
        if time.monotonic() > deadline:
            raise TooLate(f"not within {PATIENCE} s: {found}")
        time.sleep(0.05)
    return found


def ask(server: Server, target: str, trace: str, headers: Headers, *, is_sampled: bool = True) -> Connection:
    """Ask as a client does that has a span of its own."""
    parent = ("traceparent", f"00-{trace}-{CLIENT}-{'01' if is_sampled else '00'}")
    return server.ask(f"{target}&key={new_key()}", [*headers, parent])


def spans_of(found: dict[str, Any], trace: str) -> list[Span]:
    return [span for span in found["spans"] if span["context"]["trace_id"] == f"0x{trace}"]


def streams_of(found: dict[str, Any], trace: str) -> list[Span]:
    return [span for span in spans_of(found, trace) if span["name"] == "event stream"]


def assert_child(found: dict[str, Any], trace: str, reason: str) -> Span:
    """Assert that the trace has one span of a stream, below the server's, which is below the client's; return it."""
    (stream,) = streams_of(found, trace)
    (server,) = [span for span in spans_of(found, trace) if span["kind"] == "SpanKind.SERVER"]
    assert stream["parent_id"] == server["context"]["span_id"]
    assert server["parent_id"] == f"0x{CLIENT}"
    assert [each["name"] for each in stream["events"]] == ["opening", "first event", "end"]
    assert stream["attributes"]["ssemiddleware.reason"] == reason
    return stream


@pytest.mark.parametrize("path", PATHS)
def test_a_streams_span_is_a_child_of_the_servers(server: Server, name: str, path: Headers) -> None:
    trace = secrets.token_hex(16)
    assert ask(server, TARGETS[name][0], trace, path).read_to_end().count(b"data: ") == 3
    stream = assert_child(telemetry_once(server, lambda found: streams_of(found, trace)), trace, "application ended")
    assert stream["attributes"]["ssemiddleware.events_out"] == 3
    assert stream["attributes"]["ssemiddleware.has_last_event_id"] is False


@pytest.mark.parametrize("path", PATHS)
def test_it_ends_once_when_the_client_disconnects_and_no_context_is_lost(server: Server, name: str, path: Headers) -> None:
    traces = [secrets.token_hex(16) for _ in range(8)]
    streams = [ask(server, TARGETS[name][1], trace, [*path, ("Last-Event-ID", "7")]) for trace in traces]
    for stream in streams:
        stream.read_until(b"data: ")
    for stream in streams:
        stream.disconnect()
    found = telemetry_once(server, lambda found: all(streams_of(found, trace) for trace in traces))
    for trace in traces:
        assert assert_child(found, trace, "client gone")["attributes"]["ssemiddleware.has_last_event_id"] is True
    assert found["lines"] == []


def test_it_ends_once_in_a_process_that_stops(kind: Kind, name: str, serve: Start) -> None:
    server = serve(kind, f"live.traced_application:create('{name}')")
    traces = [secrets.token_hex(16) for _ in range(4)]
    streams = [ask(server, TARGETS[name][1], trace, EVENT_SOURCE) for trace in traces]
    for stream in streams:
        stream.read_until(b"data: ")
    server.process.terminate()
    for stream in streams:
        stream.read_to_end()
    server.process.wait(PATIENCE)
    for trace in traces:
        assert server.output().count(f"event stream of {trace} ended: drain\n") == 1
    assert "detach" not in server.output()


@pytest.mark.parametrize("path", PATHS)
def test_what_is_not_sampled_has_no_span(server: Server, name: str, path: Headers) -> None:
    traces = [secrets.token_hex(16) for _ in range(2)]
    for trace, is_sampled in zip(traces, (False, True), strict=True):
        ask(server, TARGETS[name][0], trace, path, is_sampled=is_sampled).read_to_end()
    found = telemetry_once(server, lambda found: streams_of(found, traces[1]))
    assert spans_of(found, traces[0]) == []
    assert [span for span in found["spans"] if span["name"] == "event stream" and span["parent_id"] is None] == []


@pytest.mark.parametrize("path", PATHS)
def test_the_numbers_are_those_of_stats(server: Server, name: str, path: Headers) -> None:
    for _ in range(5):
        ask(server, TARGETS[name][0], secrets.token_hex(16), path).read_to_end()
    found = telemetry_once(server, lambda found: found["stats"]["open_announced"] + found["stats"]["open_unannounced"] == 0)
    stats, shown = found["stats"], numbers(found)
    assert stats["events_out"] >= 15
    assert shown["ssemiddleware.stream.events"] == {"in": stats["events_in"], "out": stats["events_out"]}
    assert shown["ssemiddleware.stream.io"] == {"in": stats["bytes_in"], "out": stats["bytes_out"]}
    assert shown["ssemiddleware.stream.count"] == {"yes": 0, "no": 0}
    assert {reason: number for reason, number in shown["ssemiddleware.stream.ended"].items() if number} == stats["ended"]
    assert shown["ssemiddleware.stream.duration"] == stats["ended"]


def numbers(found: dict[str, Any]) -> dict[str, dict[str, float]]:
    """Return the metrics by name and by the value of their attribute; of a histogram how many there were."""
    metrics = [
        metric
        for resource in found["metrics"]["resource_metrics"]
        for scope in resource["scope_metrics"]
        for metric in scope["metrics"]
        if metric["name"].startswith("ssemiddleware.")
    ]
    return {
        metric["name"]: {
            "".join(map(str, point["attributes"].values())): point["count"] if "count" in point else point["value"]
            for point in metric["data"]["data_points"]
        }
        for metric in metrics
    }
