"""`join=`: who asks for it gets a burst in few writes, all of it, in order, and in time."""

from __future__ import annotations

import contextlib
import os
import queue
import random
import re
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ssemiddleware import Compress, joining, watcher
from ssemiddleware.baton import Baton
from ssemiddleware.event_stream import HEARTBEAT
from ssemiddleware.joining import Held, JoiningStream
from ssemiddleware.watcher import Watcher
from ssemiddleware.wire import Wire

from .applications import ANNOUNCED, EVENT_SOURCE, EVENT_STREAM
from .clock import Clock
from .decompressing import decompressor_of
from .interleaving import Run, explore
from .servers.fake import Exchange, Step, script

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment

    from ssemiddleware.service import Service
    from ssemiddleware.start import Start

JOIN = 0.05  # seconds
FOLLOWED, AT_ONCE, MOST_JOINED = 64, 0.0003, 4096  # blocks, seconds and bytes
EVENT = b"data: 1\n\n"
UNANNOUNCED: dict[str, str] = {}
announced_requests = pytest.mark.parametrize("request_", [EVENT_SOURCE, ANNOUNCED], ids=["EventSource", "announced"])


class Killed(BaseException):
    """As gevent's GreenletExit: no `Exception`."""


def events(count: int, first: int = 0) -> list[bytes]:
    return [b"data: %d\n\n" % number for number in range(first, first + count)]


def takes(seconds: float) -> Step:
    """Let the application work for so long: the watcher, which waits for the interpreter, does not run."""

    def step(exchange: Exchange) -> None:
        exchange.clock.now += seconds

    return step


def burst(*steps: Step, request: dict[str, str] = EVENT_SOURCE, **options: Any) -> Exchange:
    """Return an exchange whose application has a first event, `FOLLOWED` more at once, and then does the *steps*."""
    return Exchange(script(*events(FOLLOWED + 1), *steps), request, **{"join": JOIN, **options})


BEFORE = events(FOLLOWED + 1)  # what a `burst` has sent, an event a write


def left(exchange: Exchange) -> list[bytes]:
    """Return what the server and the watcher have written after what a `burst` begins with."""
    blocks = [block for block in exchange.client.received if block and block is not HEARTBEAT]
    assert blocks[: len(BEFORE)] == BEFORE
    return blocks[len(BEFORE) :]


# -- what is joined, and what not


def test_without_the_option_each_event_is_a_write() -> None:
    exchange = Exchange(script(*events(1000)), EVENT_SOURCE)
    exchange.rest()
    assert exchange.client.received == events(1000)


@announced_requests
def test_what_follows_at_once_is_one_write(request_: dict[str, str]) -> None:
    exchange = burst(*events(100), request=request_)
    exchange.rest()
    assert left(exchange) == [b"".join(events(100))]
    assert exchange.client.joined == []  # by the server's own hand


def test_events_that_have_not_followed_enough_others_are_sent_one_by_one() -> None:
    exchange = Exchange(script(*events(FOLLOWED + 2)), EVENT_SOURCE, join=JOIN)
    exchange.rest()
    assert exchange.client.received == events(FOLLOWED + 2)


def test_a_write_has_4_kib_at_most() -> None:
    exchange = burst(*events(5000))
    exchange.rest()
    sizes = [len(block) for block in left(exchange)]
    assert max(sizes) <= MOST_JOINED
    assert min(sizes[:-1]) > MOST_JOINED - 20
    assert b"".join(left(exchange)) == b"".join(events(5000))


def test_an_event_that_does_not_fit_is_sent_after_those_before_it() -> None:
    large = b"data: %s\n\n" % (b"x" * 4080)
    exchange = burst(EVENT, EVENT, large, EVENT, EVENT)
    exchange.rest()
    assert left(exchange) == [EVENT + EVENT, large, EVENT + EVENT]


@pytest.mark.parametrize("odd", [b"data: half", b"", b"data: x\r\n\r\n", b"data: %s\n\n" % (b"x" * 70000)], ids=len)
def test_a_block_that_is_no_small_event_has_those_before_it_sent(odd: bytes) -> None:
    exchange = burst(EVENT, EVENT, odd, takes(9))
    served = iter(exchange.next, None)
    seen = [next(served) for _ in range(FOLLOWED + 2)][-1]
    assert seen == odd
    assert left(exchange) == [EVENT + EVENT, *([odd] if odd else [])]


def test_an_application_sends_what_it_has_with_an_empty_block() -> None:
    seen: list[list[bytes]] = []
    exchange = burst(EVENT, EVENT, b"", lambda exchange: seen.append(left(exchange)), EVENT)
    exchange.rest()
    assert seen == [[EVENT + EVENT]]


def test_an_event_that_comes_late_is_sent_with_those_before_it_and_ends_the_burst() -> None:
    exchange = burst(EVENT, EVENT, takes(2 * AT_ONCE), EVENT, EVENT, EVENT)
    exchange.rest()
    assert left(exchange) == [EVENT * 3, EVENT, EVENT]


@pytest.mark.parametrize(("seconds", "is_joined"), [(0.95 * AT_ONCE, True), (1.05 * AT_ONCE, False)], ids=["less", "more"])
def test_only_what_the_application_works_on_for_less_than_0_3_ms_is_held(seconds: float, is_joined: bool) -> None:
    steps: list[Step] = []
    for event in events(500):
        steps += [takes(seconds), event]
    exchange = Exchange(script(*steps), EVENT_SOURCE, join=JOIN)
    exchange.rest()
    assert exchange.client.body == b"".join(events(500))
    assert (len(exchange.client.received) < 500) == is_joined


def test_none_is_held_for_longer_than_the_option_says_while_the_application_yields() -> None:
    steps: list[Step] = []
    for event in events(400):
        steps += [takes(AT_ONCE / 2), event]
    exchange = burst(*steps)
    held_since, longest = exchange.clock.now, 0.0
    for _ in iter(lambda: next(exchange._served, None), None):
        longest = max(longest, exchange.clock.now - held_since)
        held_since = exchange.clock.now
    assert len(left(exchange)) > 1
    assert longest <= JOIN + AT_ONCE


NOT_JOINED: dict[str, dict[str, object]] = {
    "an unannounced request": {"given": UNANNOUNCED},
    "a server without a writer": {"can_write": False},
    "a server that is not known": {"is_known": False},
    "lint": {"lint": True},
}


@pytest.mark.parametrize("name", NOT_JOINED)
def test_nothing_is_joined_for(name: str, caplog: pytest.LogCaptureFixture) -> None:
    given_ = {"given": EVENT_SOURCE, **NOT_JOINED[name]}
    exchange = Exchange(script(*events(200)), join=JOIN, **given_)  # type: ignore[arg-type]
    exchange.rest()
    assert [block for block in exchange.client.received if block is not HEARTBEAT] == events(200)


def passing(blocks: Iterable[bytes]) -> Iterator[bytes]:
    yield from blocks


def upper(blocks: Iterable[bytes]) -> Iterator[bytes]:
    return map(bytes.upper, blocks)


@pytest.mark.parametrize("change", [passing, upper])
def test_nothing_is_joined_inside_a_layer(change: Callable[[Iterable[bytes]], Iterable[bytes]]) -> None:
    def layer(application: WSGIApplication) -> WSGIApplication:
        return lambda environ, start_response: change(application(environ, start_response))

    exchange = Exchange(script(*events(200), 1.0, EVENT), EVENT_SOURCE, layer=layer, join=JOIN)
    exchange.rest()
    assert [block for block in exchange.client.received if block != HEARTBEAT] == list(change([*events(200), EVENT]))
    assert exchange.client.joined == []


def test_past_a_layer_that_passes_our_blocks_on_only_lines_of_ours_are_written() -> None:
    def layer(application: WSGIApplication) -> WSGIApplication:
        return lambda environ, start_response: passing(application(environ, start_response))

    def look(exchange: Exchange) -> None:
        assert exchange.service is not None
        seen.append((exchange.service.outside.writer, exchange.service.outside.direct_writer))

    seen: list[tuple[object, object]] = []
    exchange = Exchange(script(*events(200), look), EVENT_SOURCE, layer=layer, join=JOIN)
    exchange.rest()
    assert seen == [(exchange.writer, None)]


def test_nothing_is_joined_where_no_watcher_runs() -> None:
    exchange = burst(*events(200))
    exchange.has_watcher = False
    exchange.rest()
    assert left(exchange) == events(200)


def test_nothing_is_joined_for_a_client_to_which_the_watcher_may_not_write_that_much() -> None:
    exchange = burst(*events(200))
    exchange.client.takes = False
    exchange.rest()
    assert left(exchange) == events(200)


def test_blocks_are_counted_as_yielded_and_as_sent() -> None:
    exchange = burst(*events(100), 1.0, EVENT)
    exchange.rest()
    stats = exchange.middleware.stats()
    assert (stats.events_in, stats.events_out) == (FOLLOWED + 102, FOLLOWED + 102)
    assert (stats.blocks_in, stats.blocks_out) == (FOLLOWED + 102, FOLLOWED + 3)
    assert stats.bytes_in == stats.bytes_out == len(exchange.client.body)


# -- an application that falls silent


def sent_meanwhile(*silence: Step) -> list[bytes]:
    """Return what has left when an application that holds two events back has been silent for so long."""
    seen: list[bytes] = []
    exchange = burst(EVENT, EVENT, *silence, lambda exchange: seen.extend(left(exchange)), EVENT)
    exchange.rest()
    assert b"".join(left(exchange)) == EVENT * 3
    return seen


def test_the_watcher_sends_what_is_held_in_time() -> None:
    assert sent_meanwhile(JOIN) == [EVENT + EVENT]


def test_the_watcher_sends_nothing_earlier() -> None:
    assert sent_meanwhile(JOIN * 0.9) == []


def test_an_application_that_keeps_the_interpreter_delays_its_events() -> None:
    assert sent_meanwhile(takes(2.0)) == []


def test_a_client_that_does_not_read_gets_its_events_when_it_reads() -> None:
    def stop(exchange: Exchange) -> None:
        exchange.client.takes = False

    def go_on(exchange: Exchange) -> None:
        exchange.client.takes = True

    assert sent_meanwhile(stop, 3 * JOIN) == []
    assert sent_meanwhile(stop, 3 * JOIN, go_on, JOIN) == [EVENT + EVENT]


def test_what_the_watcher_sends_is_no_silence() -> None:
    exchange = burst(EVENT, EVENT, 1.0, EVENT, heartbeat=0.5)
    exchange.rest()
    assert exchange.client.received[len(BEFORE) :][0] == EVENT + EVENT


def test_a_write_that_fails_in_the_watcher_ends_the_stream_and_nothing_follows(caplog: pytest.LogCaptureFixture) -> None:
    def break_(exchange: Exchange) -> None:
        exchange.client.breaks = True

    exchange = burst(EVENT, EVENT, break_, 1.0, *events(200))
    exchange.rest()
    assert left(exchange) == []
    assert "cut" in exchange.client.done
    assert exchange.failed == []
    assert caplog.records == []  # as with a server's own write to a client that is gone


def test_what_a_writer_raises_that_is_no_lost_connection_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    def break_(exchange: Exchange) -> None:
        exchange.writer.room = lambda: 1 // 0  # type: ignore[union-attr, method-assign]

    exchange = burst(EVENT, EVENT, break_, 1.0, EVENT)
    exchange.rest()
    assert left(exchange) == []
    assert "cut" in exchange.client.done
    assert [record.exc_info and record.exc_info[0] for record in caplog.records] == [ZeroDivisionError]


# -- the end


ENDINGS: dict[str, BaseException] = {
    "an error": LookupError("in mid-burst"),
    "SystemExit": SystemExit(3),
    "KeyboardInterrupt": KeyboardInterrupt(),
    "a greenlet's end": Killed(),
}


@pytest.mark.parametrize("name", ENDINGS)
def test_what_is_held_is_sent_before(name: str) -> None:
    exchange = burst(EVENT, EVENT, ENDINGS[name])
    with pytest.raises(type(ENDINGS[name])) as raised:
        exchange.rest()
    assert raised.value is ENDINGS[name]
    assert left(exchange) == [EVENT + EVENT]


def test_what_is_held_is_sent_before_the_end() -> None:
    exchange = burst(EVENT, EVENT)
    exchange.rest()
    assert left(exchange) == [EVENT + EVENT]


def test_what_is_held_is_sent_before_the_error_for_a_block_of_text() -> None:
    text: Any = "data: text\n\n"

    def application(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        start_response("200 OK", [EVENT_STREAM])
        return iter([*BEFORE, EVENT, EVENT, text])

    exchange = Exchange(application, EVENT_SOURCE, join=JOIN)
    with pytest.raises(TypeError, match="must be bytes, got str"):
        exchange.rest()
    assert left(exchange) == [EVENT + EVENT]


def test_the_application_s_error_is_raised_although_what_is_held_cannot_be_sent() -> None:
    def application(environ: WSGIEnvironment, start_response: StartResponse) -> Iterator[bytes]:
        start_response("200 OK", [EVENT_STREAM])
        yield from [*BEFORE, EVENT, EVENT]
        raise LookupError

    def failing(exchange: Exchange) -> Callable[[bytes], object]:
        def write(block: bytes) -> None:
            raise BrokenPipeError

        return write

    exchange = Exchange(application, EVENT_SOURCE, join=JOIN)
    for _ in BEFORE:
        exchange.next()
    assert exchange.service is not None
    exchange.service._write = failing(exchange)
    with pytest.raises(LookupError):
        exchange.rest()
    assert left(exchange) == []


def test_an_error_after_the_end_of_a_stream_that_was_asked_to_end_is_no_error() -> None:
    def end(exchange: Exchange) -> None:
        exchange.stream.end("enough")

    exchange = burst(EVENT, EVENT, end, 0.25, LookupError())
    exchange.rest()
    assert left(exchange)[0] == EVENT + EVENT


def test_what_is_held_is_sent_before_what_the_application_writes() -> None:
    def application(environ: WSGIEnvironment, start_response: StartResponse) -> Iterator[bytes]:
        write = start_response("200 OK", [EVENT_STREAM])
        yield from [*BEFORE, EVENT, EVENT]
        write(b"data: written\n\n")
        yield EVENT

    def not_lazy(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        return application(environ, start_response)

    exchange = Exchange(not_lazy, EVENT_SOURCE, join=JOIN)
    exchange.rest()
    assert left(exchange) == [EVENT + EVENT, b"data: written\n\n", EVENT]


def test_what_is_held_is_sent_although_the_application_tries_to_start_another_response() -> None:
    def application(environ: WSGIEnvironment, start_response: StartResponse) -> Iterator[bytes]:
        start_response("200 OK", [EVENT_STREAM])
        yield from [*BEFORE, EVENT, EVENT]
        try:
            raise LookupError
        except LookupError:
            start_response("500 Oh", [("Content-Type", "text/plain")], sys.exc_info())

    exchange = Exchange(application, EVENT_SOURCE, join=JOIN)
    with pytest.raises(LookupError):
        exchange.rest()
    assert left(exchange) == [EVENT + EVENT]


def drain(exchange: Exchange) -> None:
    exchange.is_drained = True


@announced_requests
def test_what_is_held_is_sent_before_a_drain_ends_the_stream(request_: dict[str, str]) -> None:
    exchange = burst(EVENT, EVENT, drain, takes(0.001), EVENT, 1.0, EVENT, request=request_)
    exchange.rest()
    assert b"".join(left(exchange)).startswith(EVENT * 3)


def test_what_is_held_is_sent_before_a_stream_is_ended_from_outside() -> None:
    """With an option of many seconds: the watcher would not send it before."""
    exchange = burst(EVENT, EVENT, drain, 1.0, EVENT, join=60.0)
    exchange.rest()
    assert left(exchange)[0] == EVENT + EVENT
    assert left(exchange)[1].startswith(b"retry: ")
    assert len(left(exchange)) == 2
    assert exchange.client.ends == left(exchange)[1:]


def test_a_stream_of_which_something_is_held_that_its_client_does_not_read_is_cut_and_not_ended() -> None:
    def stop(exchange: Exchange) -> None:
        exchange.is_drained, exchange.client.takes = True, False

    exchange = burst(EVENT, EVENT, stop, 1.0, EVENT)
    exchange.rest()
    assert left(exchange) == []
    assert exchange.client.ends == []
    assert "cut" in exchange.client.done


def test_what_is_held_is_sent_before_a_lease_ends_the_stream() -> None:
    exchange = burst(EVENT, EVENT, 3.0, EVENT, lease=1.0, join=60.0)
    exchange.rest()
    assert left(exchange)[0] == EVENT + EVENT
    assert left(exchange)[1].startswith(b"retry: ")


def test_nothing_is_written_to_a_client_that_has_disconnected() -> None:
    def disconnect(exchange: Exchange) -> None:
        exchange.client.state = "gone"

    exchange = burst(EVENT, EVENT, disconnect, 0.3, EVENT, join=60.0)
    exchange.rest()
    assert left(exchange) == []
    assert exchange.stream.reason == "client gone"


def test_nothing_is_written_after_close() -> None:
    exchange = burst(EVENT, EVENT, lambda exchange: exchange.close(), 1.0, EVENT)
    exchange.rest()
    assert left(exchange) == []


def test_a_stream_that_is_over_is_expected_no_longer() -> None:
    exchange = burst(EVENT, EVENT, lambda exchange: exchange.close(), 1.0)
    exchange.rest()
    exchange._send_held()
    assert exchange.watcher._holding == {}
    assert exchange.service is not None
    assert exchange.service.held is None


def in_a_fork(act: Callable[[], int]) -> int:
    """Return what *act* returns in a child of this process."""
    child = os.fork()
    if not child:
        code = 99
        try:
            code = act()
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")  # of CPython 3.12 and newer, with threads
def test_a_fork_sends_nothing_that_its_parent_holds() -> None:
    """An exception ends it in the middle of the burst, as ``sys.exit()`` in a child."""
    is_child: list[bool] = []

    def fork(exchange: Exchange) -> None:
        child = os.fork()
        is_child.append(not child)
        if not child:
            raise Killed
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0

    exchange = burst(EVENT, EVENT, fork, EVENT)
    try:
        exchange.rest()
    finally:
        if is_child == [True]:
            os._exit(len(left(exchange)))
    assert left(exchange) == [EVENT * 3]


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")  # of CPython 3.12 and newer, with threads
def test_a_fork_joins_nothing() -> None:
    """It has no watcher."""
    exchange = burst(*events(1000))
    for _ in range(FOLLOWED + 2):
        exchange.next()
    before = len(left(exchange))

    def go_on() -> int:
        list(exchange._served)
        assert b"".join(left(exchange)) == b"".join(events(1000))
        return min(9, sum(block.count(b"\n\n") > 1 for block in left(exchange)[before:]))

    assert in_a_fork(go_on) == 0


# -- compressed


def compressed_burst(*steps: Step, encoding: str = "gzip", **options: Any) -> Exchange:
    """Return a `burst` that is compressed."""
    options = {"join": JOIN, "compress": Compress(), "heartbeat": None, **options}
    return Exchange(script(*BEFORE, *steps), {**EVENT_SOURCE, "HTTP_ACCEPT_ENCODING": encoding}, **options)


def decompressed(blocks: Iterable[bytes], encoding: str = "gzip") -> list[bytes]:
    """Return what each block brings that a client can read at once."""
    decompressor = decompressor_of(encoding)
    return [decompressor.decompress(block) for block in blocks]


def test_a_compressed_burst_is_few_writes_each_flushed_once() -> None:
    exchange = compressed_burst(*events(1000))
    exchange.rest()
    assert exchange.headers["Content-Encoding"] == "gzip"
    blocks = exchange.client.received
    assert decompressed(blocks)[: len(BEFORE)] == BEFORE
    joined = blocks[len(BEFORE) : -1]  # the last one is the end of the gzip body
    assert len(joined) <= 5
    assert all(block.endswith(b"\x00\x00\xff\xff") and block.count(b"\x00\x00\xff\xff") == 1 for block in joined)
    assert b"".join(decompressed(blocks)) == b"".join([*BEFORE, *events(1000)])


def test_the_watcher_sends_what_is_held_compressed() -> None:
    seen: list[bytes] = []
    exchange = compressed_burst(EVENT, EVENT, JOIN, lambda exchange: seen.extend(exchange.client.joined), EVENT)
    exchange.rest()
    assert decompressed(exchange.client.received)[len(BEFORE)] == EVENT + EVENT
    assert seen == exchange.client.received[len(BEFORE) : len(BEFORE) + 1]


@pytest.mark.parametrize("encoding", ["gzip", "zstd"])
def test_what_cannot_be_compressed_is_no_longer_than_the_watcher_may_write(encoding: str) -> None:
    chance = random.Random(1)
    noise = [b"data: %s\n\n" % bytes(chance.choices([*range(1, 10), *range(14, 256)], k=58)) for _ in range(1000)]
    steps: list[Step] = []
    for number, event in enumerate(noise):
        steps += [event, JOIN] if number % 115 == 114 else [event]
    exchange = compressed_burst(*steps, encoding=encoding)
    exchange.rest()
    assert max(map(len, exchange.client.joined)) > 3000
    assert b"".join(decompressed(exchange.client.received, encoding)) == b"".join([*BEFORE, *noise])


def test_a_compressed_burst_has_memory_and_the_end_checked() -> None:
    exchange = compressed_burst(*events(100), drain, 0.25, *events(1000, 100))
    exchange.rest()
    assert exchange.stream.reason == "drain"
    body = b"".join(decompressed(exchange.client.received))
    assert body.startswith(b"".join([*BEFORE, *events(100)]))
    assert re.fullmatch(rb"(data: [0-9]+\n\n)+retry: [0-9]+\n\n", body)


# -- the watcher wakes in time


class Wakes:
    """The queue that wakes the watcher. It ends a wait for which nothing comes twice; the third one is its last."""

    def __init__(self, clock: Clock) -> None:
        self.clock, self.tokens, self.waits = clock, list[None](), list[float]()

    def put(self, token: None) -> None:
        self.tokens.append(token)

    def get(self, timeout: float) -> None:
        if self.tokens:
            self.tokens.pop()
            return
        self.waits.append(timeout)
        if len(self.waits) == 3:
            raise Killed
        self.clock.now += timeout
        raise queue.Empty

    def monotonic(self) -> float:
        if threading.current_thread().name.startswith("ssemiddleware-"):  # the process's own watcher, from other tests
            return time.monotonic()
        return self.clock.now


class Silent:
    """A stream whose application yields some events, and then no more."""

    def __init__(self) -> None:
        self.clock = Clock()
        self.watching = Watcher()
        self.wakes = self.watching._wakes = Wakes(self.clock)  # type: ignore[assignment]
        self.watching._thread = threading.current_thread()  # which runs
        self.baton, self.wire, self.outside = Baton(), Wire(max_block=131072), self
        self.baton.give()
        self.writer = self
        self.written: list[bytes] = []
        self.held = Held(cast("Service", self), JOIN)
        self.service = None
        self.stream = JoiningStream([], cast("Start", self), JOIN, self.watching.expect)

    def abandon(self) -> None:
        """Be dropped."""

    def room(self) -> int:
        return MOST_JOINED

    def write(self, block: bytes, most: int) -> bool:
        self.written.append(block)
        return True

    def hold(self) -> None:
        """Be the server's thread."""
        for _ in range(2):
            if self.stream._is_expected(self.held):
                self.held.add(EVENT)
                if not self.held.is_expected:
                    self.stream._is_expected(self.held)

    def watch(self) -> None:
        """Be the watcher."""
        with contextlib.suppress(Killed):
            self.watching._wait_for_tick(1e6)


@pytest.mark.parametrize("preemptions", [2, pytest.param(4, marks=pytest.mark.exhaustive)])
def test_whatever_is_held_the_watcher_waits_no_longer_than_the_option_says(
    preemptions: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In all orders: it is notified, and awake, or wakes by itself in time."""
    silent: list[Silent] = []
    shared = r"^(is_expected|_blocks|_holding|_sends_within|_wakes|append|copy|pop|popleft|get|put)$"

    def make(choices: Iterable[int]) -> Run:
        run = Run((), (joining, watcher), shared=shared, preemptions=preemptions, choices=choices)
        silent[:] = [Silent()]
        monkeypatch.setattr(watcher, "time", silent[0].wakes)
        run.add("server", silent[0].hold)
        run.add("watcher", silent[0].watch)
        return run

    def check(run: Run) -> None:
        it = silent[0]
        is_notified = it.held in it.watching._holding and (it.wakes.tokens or it.wakes.waits[-1] <= JOIN)
        assert is_notified or not it.held.holds_some
        assert b"".join(it.written) + EVENT * len(it.held._blocks) == EVENT * 2

    print(f"{explore(make, check)} orders")  # noqa: T201  (how much has been tried)


# -- all sequences

_blocks = st.one_of(
    st.integers(1, 2 * FOLLOWED).map(events),
    st.integers(1, 300).map(lambda count: [b"data: %s\n\n" % (b"x" * 200)] * count),
    st.sampled_from([[b""], [b"data: half"], [b"data: half", b" an event\n\n"], [b"\n\n"], [b"data: x\r\n\r\n"], [b": no\n"]]),
    st.sampled_from([[b"data: %s\n\n" % (b"x" * size)] for size in (4000, 4086, 4087, 4088, 5000, 70000)]),
)
_silences = st.sampled_from([0.01, JOIN, 1.0, 20.0])
_works = st.sampled_from([AT_ONCE / 2, AT_ONCE, 0.01, 2.0]).map(takes)
_ends = st.sampled_from([None, LookupError(), SystemExit(1), Killed()])


@pytest.mark.parametrize("is_compressed", [False, True], ids=["as it is", "compressed"])
@given(
    steps=st.lists(st.one_of(_blocks, _blocks, _blocks, _silences, _works), max_size=8),
    end=_ends,
    join=st.sampled_from([0.001, JOIN, 60.0]),
    heartbeat=st.sampled_from([None, 0.1]),
)
def test_what_is_sent_is_what_was_yielded_in_order_whatever_the_application_does(
    is_compressed: bool,
    steps: list[list[bytes] | float | Step],
    end: BaseException | None,
    join: float,
    heartbeat: float | None,
) -> None:
    flat: list[Step] = []
    for step in steps:
        flat += step if isinstance(step, list) else [step]
    came = [*BEFORE, *(step for step in flat if isinstance(step, bytes))]
    begin = compressed_burst if is_compressed else burst
    exchange = begin(*flat, *([] if end is None else [end]), join=join, heartbeat=heartbeat)
    raised: BaseException | None = None
    try:
        exchange.rest()
    except BaseException as error:
        raised = error
    assert raised is end
    assert exchange.failed == []
    blocks = [block for block in exchange.client.received if block is not HEARTBEAT]
    sent, whole = b"".join(blocks), b"".join(came)
    if is_compressed:  # with what stands in it of ours
        sent = re.sub(rb"(?m)^:\n", b"", b"".join(decompressed(blocks)))
    missing = whole.removeprefix(sent)
    assert sent + missing == whole
    # What stands after the last event of a compressed stream is sent with its end.
    assert not missing or (is_compressed and end is not None and b"\n\n" not in whole[len(sent) - 1 :])
    assert all(len(block) <= MOST_JOINED for block in exchange.client.joined)
    assert is_compressed or all(block.endswith(b"\n\n") for block in exchange.client.joined)


@given(st.lists(st.one_of(st.integers(1, 40), st.sampled_from([JOIN / 2, JOIN, 2 * JOIN])), max_size=12))
def test_no_event_is_missing_for_longer_than_the_option_says(steps: list[int | float]) -> None:
    """While the application is silent in a way in which the watcher runs."""
    missing_since: list[tuple[float, int]] = []  # when each byte was given, at the latest
    late: list[float] = []

    def look(exchange: Exchange) -> None:
        size = sum(len(block) for block in exchange.client.received if block is not HEARTBEAT)
        late.extend(exchange.clock.now - at for at, given in missing_since if given > size)

    def gave(size: int) -> Step:
        return lambda exchange: missing_since.append((exchange.clock.now, size))

    flat: list[Step] = [*BEFORE]
    for step in steps:
        if isinstance(step, int):
            flat += events(step)
            flat.append(gave(sum(len(block) for block in flat if isinstance(block, bytes))))
        else:
            flat += [step, look]
    Exchange(script(*flat), EVENT_SOURCE, join=JOIN).rest()
    assert all(seconds < JOIN for seconds in late)


def test_no_block_is_kept_while_those_after_it_are_pulled() -> None:
    blocks, kept = [b"data: " + b"x" * 60_000 + b"\n\n"], list[int]()
    before = sys.getrefcount(blocks[0])

    def application(environ: WSGIEnvironment, start_response: StartResponse) -> Iterator[bytes]:
        start_response("200 OK", [EVENT_STREAM])
        yield from events(FOLLOWED)
        yield blocks[0]
        for _ in range(5):
            kept.append(sys.getrefcount(blocks[0]) - before)
            yield from events(600)

    exchange = Exchange(application, EVENT_SOURCE, join=JOIN)
    while not exchange.service_is_over:
        exchange.client.received.clear()
        try:
            exchange.next()
        except StopIteration:
            break
    assert kept[1:] == [0] * 4
