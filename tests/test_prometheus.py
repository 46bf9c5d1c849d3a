"""The collector for Prometheus: every number of `Stats`, of one process and of many."""

from __future__ import annotations

import dataclasses
import gc
import importlib
import inspect
import logging
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from itertools import repeat
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.metrics_core import Metric
from prometheus_client.multiprocess import MultiProcessCollector, mark_process_dead
from prometheus_client.openmetrics import exposition as openmetrics
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse

from ssemiddleware import MemoryGovernor, SSEMiddleware, Stats
from ssemiddleware.ending import REASONS
from ssemiddleware.prometheus import StreamCollector
from ssemiddleware.testing import open_stream

from .applications import DEADLINE, EVENT_STREAM, Response, application_of, closing_layer, environ_of

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIEnvironment

ROOT = Path(__file__).parent.parent
UNANNOUNCED = {"Accept": "*/*"}
Samples = dict[tuple[str, frozenset[tuple[str, str]]], float]


def three_events(environ: WSGIEnvironment, start_response: StartResponse) -> Iterator[bytes]:
    start_response("200 OK", [EVENT_STREAM])
    for number in range(3):
        yield b"data: %d\n\n" % number


def registry_of(*collectors: StreamCollector) -> CollectorRegistry:
    registry = CollectorRegistry()
    for collector in collectors:
        registry.register(collector)
    return registry


def families_of(registry: CollectorRegistry) -> list[Metric]:
    return list(parse(generate_latest(registry).decode()))


def openmetrics_families_of(registry: CollectorRegistry) -> list[Metric]:
    text = openmetrics.generate_latest(registry).decode()  # type: ignore[no-untyped-call]
    return list(parse_openmetrics(text))  # type: ignore[no-untyped-call]


def samples_of(registry: CollectorRegistry) -> Samples:
    samples = (each for family in families_of(registry) for each in family.samples)
    return {(each.name, frozenset(each.labels.items())): each.value for each in samples}


def sample(samples: Samples, name: str, **labels: str) -> float:
    return samples[f"ssemiddleware_{name}", frozenset(labels.items())]


# -- one process


def test_blocks_events_and_bytes_are_shown() -> None:
    middleware = SSEMiddleware(three_events, memory=MemoryGovernor(read=lambda: (10, 100)))
    registry = registry_of(StreamCollector(middleware))
    for headers in ({}, {}, UNANNOUNCED):
        with open_stream(middleware, headers=headers) as stream:
            assert len(list(stream)) == 3
    shown = samples_of(registry)
    for direction in ("in", "out"):
        assert sample(shown, "events_total", direction=direction) == 9
    assert sample(shown, "blocks_total", direction="in") == 9
    assert sample(shown, "bytes_total", direction="in") == 9 * len(b"data: 1\n\n")
    assert sample(shown, "bytes_total", direction="out") == 9 * len(b"data: 1\n\n")
    assert sample(shown, "heartbeats_total") == 0
    assert sample(shown, "ended_streams_total", reason="application ended") == 3
    assert sample(shown, "memory_used_bytes") == 10
    assert sample(shown, "memory_limit_bytes") == 100


def test_open_streams_are_shown_by_whether_they_were_announced() -> None:
    middleware = SSEMiddleware(application_of(repeat(b"data: 1\n\n")), max_streams=5)
    registry = registry_of(StreamCollector(middleware))
    assert sample(samples_of(registry), "max_streams") == 5
    with open_stream(middleware) as announced, open_stream(middleware, headers=UNANNOUNCED) as other:
        announced.next_event()
        other.next_event()
        shown = samples_of(registry)
        assert sample(shown, "open_streams", announced="yes") == 1
        assert sample(shown, "open_streams", announced="no") == 1
        assert sample(shown, "max_streams") == 5
    shown = samples_of(registry)
    assert sample(shown, "open_streams", announced="yes") == 0
    assert sample(shown, "open_streams", announced="no") == 0


def test_without_a_limit_any_number_of_streams_may_be_open() -> None:
    assert sample(samples_of(registry_of(StreamCollector(SSEMiddleware(three_events)))), "max_streams") == float("inf")


def test_refused_requests_are_shown() -> None:
    middleware = SSEMiddleware(application_of(repeat(b"data: 1\n\n")), max_streams=1)
    registry = registry_of(StreamCollector(middleware))
    holder = begin(middleware)
    for _ in range(2):
        Response(middleware, environ_of()).body()
    shown = samples_of(registry)
    assert (sample(shown, "refused_requests_total", option="max_streams"), sample(shown, "kept_threads")) == (2, 0)
    holder.close()


def test_every_reason_is_shown_from_the_start() -> None:
    shown = samples_of(registry_of(StreamCollector(SSEMiddleware(three_events))))
    reasons = {dict(labels)["reason"]: value for (name, labels), value in shown.items() if "ended" in name}
    assert reasons == dict.fromkeys(REASONS, 0)


def test_every_number_of_the_statistics_is_shown() -> None:
    numbers = {field.name: 1000.0 + index for index, field in enumerate(dataclasses.fields(Stats))}
    given: dict[str, Any] = {**numbers, "memory_state": "critical", "ended": {"drain": numbers["ended"]}}
    given["refused_by"] = {"max_streams": numbers["refused_by"]}

    class Measured(SSEMiddleware):
        def stats(self) -> Stats:
            return Stats(**given)

    shown = samples_of(registry_of(StreamCollector(Measured(three_events))))
    assert sample(shown, "memory_state") == 1
    del numbers["memory_state"], numbers["refused"]  # what refused_by has, added up
    assert set(numbers.values()) <= set(shown.values())


def test_without_a_governor_there_is_no_memory_to_show() -> None:
    families = families_of(registry_of(StreamCollector(SSEMiddleware(three_events, memory=None))))
    assert not [family.name for family in families if "memory" in family.name]
    assert len(families) == 11


@pytest.mark.parametrize("exposition", ["text", "OpenMetrics"])
def test_names_follow_the_rules_of_prometheus(exposition: str) -> None:
    registry = registry_of(StreamCollector(SSEMiddleware(three_events)))
    families = families_of(registry) if exposition == "text" else openmetrics_families_of(registry)
    assert len(families) == 16
    for family in families:
        assert re.fullmatch("ssemiddleware(_[a-z]+)+", family.name)
        assert family.documentation.endswith(".")
        assert family.type in ("counter", "gauge")
        assert not re.search("milli|kilo|mega|_(ms|mb|kb|percent|minutes|counter|gauge|count|sum|bucket|info)$", family.name)
        for each in family.samples:
            assert each.name == family.name + "_total" * (family.type == "counter")
            assert re.search("(seconds|bytes)(_total)?$", each.name) or not re.search("seconds|bytes", each.name)


# -- several middlewares


def test_several_middlewares_of_one_collector_are_distinguished_by_their_names() -> None:
    shop, chat = SSEMiddleware(three_events), SSEMiddleware(three_events, memory=None)
    registry = registry_of(StreamCollector(shop=shop, chat=chat))
    Response(chat, environ_of()).body()
    shown = samples_of(registry)
    assert sample(shown, "events_total", direction="in", application="shop") == 0
    assert sample(shown, "events_total", direction="in", application="chat") == 3
    assert ("ssemiddleware_memory_state", frozenset({("application", "shop")})) in shown
    assert ("ssemiddleware_memory_state", frozenset({("application", "chat")})) not in shown


def test_a_second_collector_is_refused_by_its_registry() -> None:
    first, second = (StreamCollector(SSEMiddleware(three_events)) for _ in range(2))
    with pytest.raises(ValueError, match="Duplicated timeseries"):
        registry_of(first, second)


@pytest.mark.parametrize("given", [{}, {"shop": SSEMiddleware(three_events)}], ids=["none", "both"])
def test_one_middleware_or_several_by_name(given: dict[str, SSEMiddleware]) -> None:
    arguments = [SSEMiddleware(three_events)] * bool(given)
    with pytest.raises(TypeError, match="one middleware without a name, or one or more with names"):
        StreamCollector(*arguments, **given)


def test_an_argument_that_is_no_middleware_is_named() -> None:
    with pytest.raises(TypeError, match="takes an SSEMiddleware, got <function three_events"):
        StreamCollector(three_events)  # type: ignore[arg-type]


def test_without_prometheus_client_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "prometheus_client", None)
    monkeypatch.delitem(sys.modules, "ssemiddleware.prometheus")
    with pytest.raises(ImportError, match=re.escape('pip install "ssemiddleware[prometheus]"')):
        importlib.import_module("ssemiddleware.prometheus")


# -- many processes: each of these runs `this` in a process of its own, since whether numbers are shared among processes is
# decided when prometheus_client is imported


def run(this: Callable[[], object], folder: Path) -> None:
    command = [sys.executable, "-c", f"from tests import test_prometheus; test_prometheus.{this.__name__}()"]
    environment = {**os.environ, "PROMETHEUS_MULTIPROC_DIR": str(folder)}
    done = subprocess.run(command, env=environment, cwd=ROOT, timeout=60, stderr=subprocess.PIPE, text=True, check=False)
    assert done.returncode == 0, done.stderr


def shared() -> Samples:
    registry = CollectorRegistry()
    MultiProcessCollector(registry)  # type: ignore[no-untyped-call]
    return samples_of(registry)


def shared_once(holds: Callable[[Samples], bool]) -> None:
    deadline = time.monotonic() + DEADLINE
    while not holds(shared()):
        assert time.monotonic() < deadline


def begin(middleware: SSEMiddleware) -> Response:
    response = Response(middleware, environ_of())
    next(iter(response.iterable))
    return response


def in_a_child(do: Callable[[], object]) -> int:
    child = os.fork()
    if not child:
        _kept.append(do())
        sys.exit()
    assert os.waitpid(child, 0)[1] == 0
    return child


_kept: list[object] = []  # what a child still has when it exits


def test_each_process_counts_for_itself_and_a_dead_one_s_counters_stay(tmp_path: Path) -> None:
    run(count_in_children, tmp_path)


def count_in_children() -> None:
    middleware = SSEMiddleware(three_events)
    registry = registry_of(StreamCollector(middleware))
    assert sample(shared(), "events_total", direction="in") == 0
    assert sample(shared(), "ended_streams_total", reason="drain") == 0
    for _ in range(2):
        in_a_child(Response(middleware, environ_of()).body)
    assert sample(shared(), "events_total", direction="in") == 6
    child = in_a_child(lambda: begin(middleware))
    assert sample(shared(), "open_streams", announced="no") == 1
    mark_process_dead(child)  # type: ignore[no-untyped-call]
    assert sample(shared(), "open_streams", announced="no") == 0
    assert sample(shared(), "events_total", direction="in") == 7
    assert sample(shared(), "ended_streams_total", reason="application ended") == 2
    assert middleware.stats().events_in == 0
    assert registry.get_sample_value("ssemiddleware_events_total", {"direction": "in"}) == 0  # the parent's own


def test_the_numbers_of_a_process_that_goes_on_are_written_meanwhile(tmp_path: Path) -> None:
    run(count_while_streams_go_on, tmp_path)


def count_while_streams_go_on() -> None:
    middleware = SSEMiddleware(three_events)
    StreamCollector(middleware)
    response = begin(middleware)
    assert sample(shared(), "open_streams", announced="no") == 1
    shared_once(lambda samples: sample(samples, "longest_silence_seconds") >= 1)  # the watcher has written
    other = begin(middleware)  # and goes on, while both are silent
    shared_once(lambda samples: sample(samples, "open_streams", announced="no") == 2)
    response.close()
    other.close()
    assert sample(shared(), "open_streams", announced="no") == 0
    assert sample(shared(), "ended_streams_total", reason="client gone") == 2


def test_a_worker_s_numbers_are_there_once_it_has_loaded_the_application(tmp_path: Path) -> None:
    run(load_in_a_worker, tmp_path)


def load_in_a_worker() -> None:
    from ssemiddleware import prometheus

    vars(prometheus)["is_worker"] = lambda: True
    middleware = SSEMiddleware(three_events, max_streams=24)
    StreamCollector(middleware)
    assert sample(shared(), "max_streams") == 24
    assert sample(shared(), "memory_limit_bytes") > 0


def test_a_process_that_loads_the_application_for_workers_has_no_numbers(tmp_path: Path) -> None:
    run(load_for_workers, tmp_path)


def load_for_workers() -> None:
    middleware = SSEMiddleware(three_events, max_streams=3)
    StreamCollector(middleware)
    assert sample(shared(), "max_streams") == 0
    in_a_child(lambda: begin(middleware))
    assert sample(shared(), "max_streams") == 3


def test_nothing_is_written_inside_a_garbage_collection(tmp_path: Path) -> None:
    run(forget_a_stream, tmp_path)


def forget_a_stream() -> None:
    from prometheus_client import values

    middleware = SSEMiddleware(three_events)
    StreamCollector(middleware)
    for accept in ("*/*", "text/event-stream"):
        iterable = middleware(environ_of({"HTTP_ACCEPT": accept}), lambda *_: lambda _block: None)
        next(iter(iterable))
        lock = inspect.getclosurevars(values.ValueClass.inc).nonlocals["lock"]
        with lock:  # as code of the application may hold it when the collection begins
            del iterable
            gc.collect()
        assert middleware.stats().open == 0


def test_nothing_is_written_inside_a_garbage_collection_of_a_layer_either(tmp_path: Path) -> None:
    run(forget_a_layer, tmp_path)


def forget_a_layer() -> None:
    from prometheus_client import values

    middleware = SSEMiddleware(three_events)
    StreamCollector(middleware)
    kept = middleware(environ_of(), lambda *_: lambda _block: None)
    cycle: list[object] = [layer := closing_layer(kept)]
    cycle.append(cycle)
    next(layer)
    lock = inspect.getclosurevars(values.ValueClass.inc).nonlocals["lock"]
    with lock:
        del layer, cycle
        gc.collect()
    assert middleware.stats().open == 0


def test_a_stream_that_a_collection_ends_while_numbers_are_written_does_not_wait(tmp_path: Path) -> None:
    run(end_a_stream_while_numbers_are_written, tmp_path)


def end_a_stream_while_numbers_are_written() -> None:
    middleware = SSEMiddleware(three_events)
    StreamCollector(middleware)
    for accept in ("*/*", "text/event-stream"):
        response = Response(middleware, environ_of({"HTTP_ACCEPT": accept}))
        next(iter(response.iterable))
        with middleware._streams.admission._observers[0].__self__._lock:  # type: ignore[attr-defined]
            response.close()
    shared_once(lambda samples: sample(samples, "open_streams", announced="yes") == 0)  # the watcher has looked once more


def test_numbers_that_cannot_be_written_are_logged_once(tmp_path: Path) -> None:
    run(fail_to_write, tmp_path)


def fail_to_write() -> None:
    lines: list[str] = []

    class Lines(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            lines.append(record.getMessage())

    logging.getLogger("ssemiddleware").addHandler(Lines())
    middleware = SSEMiddleware(three_events)
    StreamCollector(middleware)
    (publish,) = middleware._streams.admission._observers
    publish.__self__._places.clear()  # type: ignore[attr-defined]
    for _ in range(2):
        begin(middleware).close()
    assert [line for line in lines if "Prometheus" in line] == ["the numbers for Prometheus cannot be written"]


def test_a_second_collector_is_refused_where_it_would_write_to_the_same_places(tmp_path: Path) -> None:
    run(collect_twice, tmp_path)


def collect_twice() -> None:
    StreamCollector(SSEMiddleware(three_events))
    with pytest.raises(ValueError, match="Duplicated timeseries"):
        StreamCollector(SSEMiddleware(three_events))


def test_several_middlewares_have_their_own_numbers_in_all_processes(tmp_path: Path) -> None:
    run(count_of_two_middlewares, tmp_path)


def count_of_two_middlewares() -> None:
    shop, chat = SSEMiddleware(three_events), SSEMiddleware(three_events, memory=None)
    StreamCollector(shop=shop, chat=chat)
    in_a_child(lambda: Response(chat, environ_of()).body())
    assert sample(shared(), "events_total", direction="in", application="chat") == 3
    assert sample(shared(), "events_total", direction="in", application="shop") == 0
    assert sample(shared(), "memory_state", application="shop") == 0
    assert ("ssemiddleware_memory_state", frozenset({("application", "chat")})) not in shared()
