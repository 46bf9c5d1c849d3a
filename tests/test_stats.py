"""The numbers of a process: what `SSEMiddleware.stats` counts, and when."""

from __future__ import annotations

import dataclasses
import json
import logging
import re
import sys
import threading
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any
from wsgiref.validate import validator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ssemiddleware import Event, Fragment, MemoryGovernor, SSEMiddleware, Stats, Stream
from ssemiddleware.admission import Admission
from ssemiddleware.memory import Turn
from ssemiddleware.servers.server import Server
from ssemiddleware.stats import Carried
from ssemiddleware.testing import open_stream

from .applications import (
    ANNOUNCED,
    DEADLINE,
    EVENT_SOURCE,
    EVENT_STREAM,
    Blocks,
    Response,
    application_of,
    environ_of,
)

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment

UNANNOUNCED: dict[str, str] = {}
HTML = ("Content-Type", "text/html")
both_paths = pytest.mark.parametrize("request_", [UNANNOUNCED, ANNOUNCED], ids=["unannounced", "announced"])

SUMS = [  # what must never go down
    "refused", "blocks_in", "blocks_out", "bytes_in", "bytes_out", "events_in", "events_out", "heartbeats", "pauses",
    "paused_seconds",
]  # fmt: skip


def referee(application: WSGIApplication, **options: Any) -> SSEMiddleware:
    return SSEMiddleware(validator(application), **options)


def request(middleware: SSEMiddleware, given: dict[str, str]) -> Response:
    return Response(validator(middleware), environ_of(given))


def stats_after(application: WSGIApplication, given: dict[str, str], **options: Any) -> Stats:
    middleware = referee(application, **options)
    request(middleware, given).body()
    return middleware.stats()


def carried(stats: Stats) -> dict[str, float]:
    return {name: getattr(stats, name) for name in SUMS}


def assert_counts_nothing(stats: Stats) -> None:
    assert set(carried(stats).values()) == {0}
    assert stats.open == 0
    assert stats.ended == {}


# -- a snapshot


def test_a_snapshot_is_immutable() -> None:
    stats = stats_after(application_of([b"data: 1\n\n"]), UNANNOUNCED)
    with pytest.raises(dataclasses.FrozenInstanceError):
        stats.refused = 1  # type: ignore[misc]
    with pytest.raises(TypeError):
        stats.ended["application ended"] = 7  # type: ignore[index]
    assert json.loads(json.dumps(dataclasses.asdict(stats)))["ended"] == {"application ended": 1}


def test_a_snapshot_stays_as_it_is_while_streams_end() -> None:
    middleware = referee(application_of([b"data: 1\n\n"]))
    request(middleware, UNANNOUNCED).body()
    before = middleware.stats()
    request(middleware, UNANNOUNCED).body()
    assert before.ended == {"application ended": 1}
    assert middleware.stats().ended == {"application ended": 2}


# -- blocks, events and bytes


@both_paths
@pytest.mark.parametrize(
    ("blocks", "events"),
    [
        ([], 0),
        ([b": comment\n"], 0),
        ([b"data: 1\n\n"], 1),
        ([b"data: 1\n\n", b"data: 2\n\n", b"data: 3\n\n"], 3),
        ([b"data: 1\n\n" * 5] * 40, 200),
        ([b"data: 1\r\n\r\n"] * 7, 7),
    ],
    ids=["nothing", "a comment", "one event", "three events", "five events a block", "CRLF"],
)
def test_small_blocks_are_counted_exactly(blocks: list[bytes], events: int, request_: dict[str, str]) -> None:
    stats = stats_after(application_of(Blocks(blocks)), request_, heartbeat=None)
    assert (stats.blocks_in, stats.bytes_in, stats.events_in) == (len(blocks), sum(map(len, blocks)), events)
    assert (stats.bytes_out, stats.events_out) == (stats.bytes_in, events)
    assert stats.heartbeats == 0
    assert stats.blocks_out == len(blocks)


@both_paths
@given(st.lists(st.integers(1, 400), max_size=30))
def test_events_of_any_size_are_counted_exactly(request_: dict[str, str], sizes: list[int]) -> None:
    blocks = [b"data: " + b"x" * size + b"\n\n" for size in sizes]
    stats = stats_after(application_of(Blocks(blocks)), request_, heartbeat=None, max_block=64)
    assert (stats.blocks_in, stats.bytes_in, stats.events_in) == (len(blocks), sum(map(len, blocks)), len(blocks))
    assert (stats.bytes_out, stats.events_out) == (stats.bytes_in, len(blocks))


def test_an_open_stream_is_counted_while_it_is_open() -> None:
    go_on = threading.Event()

    def produce() -> Iterator[bytes]:
        yield b"data: 1\n\n"
        assert go_on.wait(DEADLINE)
        yield b"data: 2\n\n"

    middleware = SSEMiddleware(application_of(produce()), heartbeat=None)
    with open_stream(middleware) as stream:
        stream.next_event()
        stats = middleware.stats()
        assert (stats.open, stats.open_announced, stats.open_unannounced) == (1, 1, 0)
        assert (stats.events_in, stats.events_out, stats.ended) == (1, 1, {})
        assert 0 <= stats.longest_silence <= stats.oldest_stream
        go_on.set()
        assert len(list(stream)) == 1
    stats = middleware.stats()
    assert (stats.open, stats.oldest_stream, stats.longest_silence, stats.kept_threads) == (0, 0, 0, 0)
    assert (stats.events_in, stats.events_out, stats.ended) == (2, 2, {"application ended": 1})


class SilentServer(Server):
    """A known server without a writer: our own lines are yielded."""

    name = "silent"


def test_the_opening_counts_as_a_heartbeat_and_not_as_an_event(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ssemiddleware.streams.find_server", SilentServer)
    stats = stats_after(application_of([b"data: 1\n\n"]), EVENT_SOURCE)
    assert (stats.heartbeats, stats.events_out) == (1, 1)
    assert stats.bytes_out == stats.bytes_in + len(b":\n")
    assert stats.blocks_out == 2


def test_a_heartbeat_in_place_of_an_empty_block_is_counted_and_is_no_event(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ssemiddleware.streams.find_server", SilentServer)
    stats = stats_after(application_of([b"data: 1\n\n", b""]), ANNOUNCED, heartbeat=1e-9)
    assert (stats.heartbeats, stats.events_in, stats.events_out) == (1, 1, 1)
    assert stats.bytes_out == stats.bytes_in + len(b":\n")


def test_a_quick_block_is_counted_once_for_both_directions() -> None:
    carried = Carried(blocks_in=1, bytes_in=10, events_in=1, blocks_out=1, bytes_out=10, events_out=1)
    carried.quick_blocks, carried.quick_bytes, carried.quick_more_events = 2, 20, 1
    total = carried.total()
    assert (total.blocks_in, total.bytes_in, total.events_in) == (3, 30, 4)
    assert (total.blocks_out, total.bytes_out, total.events_out) == (3, 30, 4)
    assert total.total() == total
    assert set(total.sums()) == {field.name for field in dataclasses.fields(Carried) if not field.name.startswith("quick")}


@pytest.mark.parametrize("counts", ["count_out", "quick_blocks"])
def test_a_block_that_is_sent_counts_as_a_move(counts: str) -> None:
    carried = Carried()
    before = carried.moves
    carried.count_in(b"data: 1\n\n")
    assert carried.moves == before
    if counts == "count_out":
        carried.count_out(b"data: 1\n\n")
    else:
        carried.quick_blocks += 1
    assert carried.moves > before


@both_paths
def test_fragments_are_counted_as_events_sent(request_: dict[str, str]) -> None:
    event = bytes(Event("x" * 1000))
    asked = {**request_, "QUERY_STRING": "sse-fragments=1"}
    stats = stats_after(application_of([event]), asked, oversized=Fragment(over=256, size=128), heartbeat=None)
    assert (stats.blocks_in, stats.bytes_in, stats.events_in) == (1, len(event), 1)
    assert stats.events_out >= 1000 // 128
    assert stats.bytes_out > stats.bytes_in


@both_paths
def test_written_blocks_are_counted_like_yielded_ones(request_: dict[str, str]) -> None:
    def application(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        write = start_response("200 OK", [EVENT_STREAM])
        write(b"data: 1\n\n")
        write(b"data: 2\n\ndata: 3\n\n")
        return [b"data: 4\n\n"]

    stats = stats_after(application, request_, heartbeat=None)
    written = len(b"data: 1\n\n") * 4
    assert (stats.blocks_in, stats.bytes_in, stats.bytes_out) == (3, written, written)
    assert (stats.events_in, stats.events_out, stats.blocks_out) == (4, 4, 3)


@both_paths
def test_a_lazily_started_stream_is_counted(request_: dict[str, str]) -> None:
    def lazy(environ: WSGIEnvironment, start_response: StartResponse) -> Iterator[bytes]:
        start_response("200 OK", [EVENT_STREAM])
        yield b"data: 1\n\n"
        yield b"data: 2\n\n"

    stats = stats_after(lazy, request_, heartbeat=None)
    assert (stats.blocks_in, stats.events_in, stats.events_out) == (2, 2, 2)
    assert stats.ended == {"application ended": 1}


@both_paths
def test_waits_for_memory_are_counted_with_their_seconds(request_: dict[str, str]) -> None:
    memory = MemoryGovernor(read=lambda: (95, 100))
    turn = memory.turns.send(Turn(), 0)  # another stream's
    sent = threading.Timer(0.05, memory.turns.end, [turn])
    sent.start()
    large = b"data: " + b"x" * 200_000 + b"\n\n"
    stats = stats_after(application_of(Blocks([large, b"data: 1\n\n"])), request_, memory=memory)
    sent.join()
    assert stats.pauses >= 1
    assert stats.paused_seconds > 0
    assert (stats.memory_used, stats.memory_limit, stats.memory_state) == (95, 100, "critical")


# -- how streams end


@both_paths
def test_an_application_that_raises_is_a_reason(request_: dict[str, str]) -> None:
    middleware = referee(application_of(Blocks([b"data: 1\n\n", RuntimeError("on purpose")])))
    with pytest.raises(RuntimeError, match="on purpose"):
        request(middleware, request_).body()
    stats = middleware.stats()
    assert stats.ended == {"application raised": 1}
    assert stats.events_out == 1


@both_paths
def test_an_application_that_raises_after_its_headers_is_a_stream(request_: dict[str, str]) -> None:
    def application(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        start_response("200 OK", [EVENT_STREAM])
        raise RuntimeError("on purpose")

    middleware = SSEMiddleware(application)
    with pytest.raises(RuntimeError, match="on purpose"):
        Response(middleware, environ_of(request_))
    assert middleware.stats().ended == {"application raised": 1}


@both_paths
def test_when_a_server_closes_early_the_client_is_gone(request_: dict[str, str]) -> None:
    middleware = referee(application_of(Blocks([b"data: 1\n\n"] * 100)), max_block=16)
    response = request(middleware, request_)
    next(iter(response.iterable))
    response.close()
    assert middleware.stats().ended == {"client gone": 1}


@both_paths
def test_head_is_a_stream_that_carries_nothing(request_: dict[str, str]) -> None:
    stats = stats_after(application_of(Blocks([b"data: 1\n\n"])), {**request_, "REQUEST_METHOD": "HEAD"})
    assert (stats.blocks_out, stats.bytes_out, stats.events_out) == (0, 0, 0)
    assert stats.ended == {"application ended": 1}


@both_paths
def test_a_stream_that_goes_on_after_a_drain_counts_all_blocks_but_empty_ones(request_: dict[str, str]) -> None:
    drained = threading.Event()

    def produce() -> Iterator[bytes]:
        yield b"data: 1\n\n"
        middleware.drain()
        drained.set()
        yield b"data: 2"
        yield b"\n\n"
        yield b"data: 3\n\n"

    middleware = referee(application_of(produce()), heartbeat=None, retry=None)
    blocks = [block for block in request(middleware, request_).blocks() if block]
    stats = middleware.stats()
    assert stats.ended == {"application ended": 1}  # the client is no EventSource, so the answer may be finite
    assert stats.bytes_out == len(b"".join(blocks))
    assert stats.blocks_out == len(blocks)
    assert stats.bytes_in == stats.bytes_out


def test_a_drained_stream_counts_all_blocks_and_our_last_line() -> None:
    is_seen = threading.Event()

    def produce(environ: WSGIEnvironment) -> Iterator[bytes]:
        environ["ssemiddleware.stream"].on_close(is_seen.set)
        yield b"data: 1\n\n"
        middleware.drain()
        assert is_seen.wait(DEADLINE)
        yield b"data: 2\n\n"
        while True:
            yield b"data: 3\n\n"

    def application(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        start_response("200 OK", [EVENT_STREAM])
        return produce(environ)

    middleware = referee(application)
    body = request(middleware, EVENT_SOURCE).body()
    stats = middleware.stats()
    assert re.fullmatch(rb"data: 1\n\ndata: 2\n\nretry: [0-9]+\n\n", body)
    assert (stats.ended, stats.bytes_out, stats.heartbeats) == ({"drain": 1}, len(body), 0)


def test_a_request_that_is_refused_is_no_stream_that_ended() -> None:
    middleware = referee(application_of(Blocks([b"data: 1\n\n"])), max_streams=1)
    held = request(middleware, UNANNOUNCED)
    assert request(middleware, EVENT_SOURCE).body().startswith(b"retry: ")
    refused = request(middleware, UNANNOUNCED)
    refused.body()
    assert refused.status.startswith("503")
    stats = middleware.stats()
    assert (stats.open_unannounced, stats.refused, stats.most_streams, stats.ended) == (1, 2, 1, {})
    held.close()


# -- what is not counted


@both_paths
@pytest.mark.parametrize("iterable", [[b"<html>"], Blocks([b"<html>", b"</html>"]), []], ids=["list", "iterable", "empty"])
def test_a_response_that_is_no_event_stream_is_not_counted(iterable: Iterable[bytes], request_: dict[str, str]) -> None:
    assert_counts_nothing(stats_after(application_of(iterable, HTML), request_))


@both_paths
def test_an_exception_before_the_headers_is_not_counted(request_: dict[str, str]) -> None:
    def application(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        raise RuntimeError("on purpose")

    middleware = SSEMiddleware(application)
    with pytest.raises(RuntimeError, match="on purpose"):
        Response(middleware, environ_of(request_))
    assert_counts_nothing(middleware.stats())


@both_paths
def test_a_stream_that_became_an_error_page_is_not_counted(request_: dict[str, str]) -> None:
    def application(environ: WSGIEnvironment, start_response: StartResponse) -> Iterator[bytes]:
        start_response("200 OK", [EVENT_STREAM])
        try:
            raise RuntimeError("on purpose")
        except RuntimeError:
            start_response("500 Internal Server Error", [HTML], sys.exc_info())
        yield b"<html>"

    assert_counts_nothing(stats_after(application, request_))


def test_a_stream_without_a_watcher_is_counted_once(monkeypatch: pytest.MonkeyPatch) -> None:
    middleware = referee(application_of(Blocks([b"data: 1\n\n"])))
    monkeypatch.setattr(threading.Thread, "start", no_thread)
    request(middleware, ANNOUNCED).body()
    assert middleware.stats().ended == {"application ended": 1}


def no_thread(self: threading.Thread) -> None:
    raise RuntimeError("can't start new thread")


# -- sums never go down


def test_no_sum_goes_down_while_streams_come_and_go() -> None:
    middleware = SSEMiddleware(application_of_small_bursts, max_block=64, max_streams=6)
    is_over = threading.Event()
    faults: list[str] = []

    def watch() -> None:
        before = middleware.stats()
        while not is_over.is_set():
            after = middleware.stats()
            faults.extend(
                f"{name}: {carried(before)[name]}, {now}" for name, now in carried(after).items() if now < carried(before)[name]
            )
            faults.extend(reason for reason, number in before.ended.items() if after.ended[reason] < number)
            before = after

    watchers = [threading.Thread(target=watch) for _ in range(2)]
    clients = [threading.Thread(target=come_and_go, args=(middleware, given)) for given in (UNANNOUNCED, ANNOUNCED) * 2]
    for thread in (*watchers, *clients):
        thread.start()
    for thread in clients:
        thread.join(60)
    is_over.set()
    for thread in watchers:
        thread.join(DEADLINE)
    assert faults == []
    stats = middleware.stats()
    assert stats.open == 0
    assert sum(stats.ended.values()) == 4 * 40
    assert stats.events_in == stats.events_out


def application_of_small_bursts(environ: WSGIEnvironment, start_response: StartResponse) -> Iterator[bytes]:
    start_response("200 OK", [EVENT_STREAM])
    for number in range(30):
        yield b"data: %d\n\n" % number


def come_and_go(middleware: SSEMiddleware, given: dict[str, str]) -> None:
    for number in range(40):
        response = Response(middleware, environ_of(given))
        if number % 2:
            response.body()
        else:
            next(iter(response.iterable))
            response.close()


def test_a_stream_that_is_just_ending_is_counted_exactly_once() -> None:
    """A thread that counts between the two steps at a stream's end must find the place once."""
    admission = Admission(limit=lambda: None)
    seen: list[Stats] = []

    class Watched(set[Any]):
        def remove(self, place: Any) -> None:
            seen.extend([admission.stats(), admission.stats()])
            super().remove(place)
            seen.extend([admission.stats(), admission.stats()])

        def copy(self) -> Watched:
            return Watched(self)

    admission._open = Watched()
    place = admission.maybe_admit(Stream())
    assert place is not None
    place.carried.count_in(b"data: 1\n\n")
    seen.append(admission.stats())
    place.release()
    assert [stats.events_in for stats in seen] == [1] * 5
    assert [stats.open + sum(stats.ended.values()) for stats in seen] == [1] * 5


# -- the log


@both_paths
def test_the_end_of_a_stream_is_logged(request_: dict[str, str], caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, "ssemiddleware")
    stats_after(application_of(Blocks([b"data: 1\n\n"] * 3)), request_, heartbeat=None)
    (line,) = [record.getMessage() for record in caplog.records if record.levelno == logging.DEBUG]
    ended, seconds, size, events = line.split(", ")
    assert ended == "stream ended: application ended"
    assert float(seconds.removesuffix(" s")) >= 0
    assert (size, events) == ("27 bytes", "3 events")


def test_the_log_has_all_that_a_stream_carried_whose_client_disconnected(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, "ssemiddleware")
    response = request(referee(application_of(Blocks([b"data: 1\n\n"] * 9))), UNANNOUNCED)
    blocks = iter(response.iterable)
    size = len(b"".join(next(blocks) for _ in range(7)))
    response.close()
    assert f"{size} bytes, 7 events" in caplog.text
    assert "client gone" in caplog.text


@both_paths
def test_a_response_that_is_no_stream_is_not_logged(request_: dict[str, str], caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, "ssemiddleware")
    stats_after(application_of(Blocks([b"<html>"]), HTML), request_)
    assert "stream ended" not in caplog.text
