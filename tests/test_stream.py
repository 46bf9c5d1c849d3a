"""`EventStream`: every byte of the application is sent, in order, at once, and a comment of ours only where it is allowed."""

from __future__ import annotations

import contextlib
import gc
import itertools
import random
import threading
import time
import tracemalloc
import weakref
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from ssemiddleware import Fold, Fragment, MemoryGovernor, SSEMiddleware, read_events
from ssemiddleware.event_stream import BOM, HEARTBEAT

from .applications import ANNOUNCED, DEADLINE, EVENT_SOURCE, EVENT_STREAM, MCP, Blocks, Response, application_of, environ_of
from .event_stream.streams import PIECES, cuttings, every_way
from .growth import is_linear
from .servers.fake import Exchange, Step, script

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIEnvironment

EVENT = b"data: 1\n\n"
UNANNOUNCED: dict[str, str] = {}
requests = st.sampled_from([UNANNOUNCED, ANNOUNCED, EVENT_SOURCE, MCP])
all_requests = pytest.mark.parametrize(
    "request_", [UNANNOUNCED, ANNOUNCED, EVENT_SOURCE, MCP], ids=["unannounced", "announced", "EventSource", "MCP"]
)

AMPLE, FULL = (MemoryGovernor(read=lambda used=used: (used * 10**7, 10**9)) for used in (10, 95))  # type: ignore[misc]
SILENCE = 20.0  # seconds, longer than a heartbeat


# -- what is sent is what was yielded, except for lines of ours


def left_of(blocks: Iterable[bytes], silent_before: Iterable[bool], request: dict[str, str], **options: object) -> Exchange:
    """Return the exchange whose application yields *blocks*, with a silence before those for which it says so."""
    steps: list[Step] = []
    for block, is_silent in zip(blocks, silent_before, strict=False):
        steps += [SILENCE, block] if is_silent else [block]
    exchange = Exchange(script(*steps), request, **options)  # type: ignore[arg-type]
    exchange.rest()
    assert exchange.failed == []
    return exchange


def without_ours(exchange: Exchange) -> bytes:
    """Return what the client has received but for our lines, each of which is this one object."""
    assert all(block is HEARTBEAT for block in exchange.client.ours)
    return b"".join(block for block in exchange.client.received if block is not HEARTBEAT)


def expected(stream: bytes, exchange: Exchange) -> bytes:
    """Return *stream* without the byte order mark that a line of ours had to step before."""
    first = next(filter(None, exchange.client.received), b"")
    return stream.removeprefix(BOM) if first is HEARTBEAT else stream


SHORT = [
    BOM + b"a\r\n\r\n",
    b"a\n\nb\n",
    b"a\r\rb\r",
    b"\r\n\r\n:\n",
    "ä\n\n€".encode(),
    b"\n\n\n",
    b"data:1\r\n",
    BOM + BOM,
    b"",
]


@pytest.mark.parametrize("is_silent", [False, True], ids=["at once", "with silences"])
@pytest.mark.parametrize("stream", SHORT, ids=repr)
def test_the_bytes_sent_are_those_yielded_except_for_our_lines_however_a_short_stream_is_cut(
    stream: bytes, is_silent: bool
) -> None:
    for blocks in every_way(stream):
        for request in (EVENT_SOURCE, ANNOUNCED, UNANNOUNCED):
            exchange = left_of(blocks, [is_silent] * len(blocks), request)
            assert without_ours(exchange) == expected(stream, exchange)
            assert list(read_events(exchange.client.received)) == list(read_events([stream]))


@given(cuttings(), st.lists(st.booleans(), min_size=13, max_size=13), requests, st.integers(16, 40))
def test_the_bytes_sent_are_those_yielded_except_for_our_lines_however_a_stream_is_cut(
    blocks: list[bytes], silent_before: list[bool], request_: dict[str, str], max_block: int
) -> None:
    exchange = left_of(blocks, silent_before, request_, max_block=max_block)
    stream = b"".join(blocks)
    assert without_ours(exchange) == expected(stream, exchange)
    assert list(read_events(exchange.client.received)) == list(read_events([stream]))
    assert all(len(block) <= max_block for block in exchange.client.received)
    assert bool(exchange.client.ours) <= (request_ is not UNANNOUNCED)


@pytest.mark.parametrize("seed", range(20))
def test_the_bytes_sent_are_those_yielded_except_for_our_lines_in_long_streams_cut_at_random(seed: int) -> None:
    chance = random.Random(seed)
    stream = b"".join(chance.choice(PIECES) for _ in range(3000))
    blocks, at = [], 0
    while at < len(stream):
        size = chance.choice([0, 1, 2, 5, 20, 100])
        blocks.append(stream[at : at + size])
        at += size
    silent_before = [chance.random() < 0.3 for _ in blocks]
    exchange = left_of(blocks, silent_before, chance.choice([EVENT_SOURCE, ANNOUNCED]), max_block=chance.choice([16, 131072]))
    assert len(exchange.client.ours) >= 5
    assert without_ours(exchange) == expected(stream, exchange)
    assert list(read_events(exchange.client.received)) == list(read_events([stream]))


@given(cuttings(), st.lists(st.booleans(), min_size=13, max_size=13))
def test_nothing_is_held_back_except_half_a_byte_order_mark_after_a_line_of_ours(
    blocks: list[bytes], silent_before: list[bool]
) -> None:
    given_, missing = [0], list[bytes]()

    def given_so_far(exchange: Exchange) -> None:
        stream = b"".join(blocks[: given_[0]])
        missing.append(expected(stream, exchange).removeprefix(without_ours(exchange)))
        given_[0] += 1

    steps: list[Step] = []
    for block, is_silent in zip(blocks, silent_before, strict=False):
        steps += [given_so_far, *([SILENCE] if is_silent else []), block]
    Exchange(script(*steps, given_so_far), EVENT_SOURCE).rest()
    assert all(BOM.startswith(held) and held != BOM for held in missing)


@pytest.mark.parametrize("oversized", [Fold(over=60, width=60), Fragment(over=100, size=60)], ids=["fold", "fragment"])
@given(blocks=cuttings(), silent_before=st.lists(st.booleans(), min_size=13, max_size=13), request_=requests)
@example(blocks=[b"retry: 9\n", b"data: y\n\n"], silent_before=[False] * 13, request_={})
@example(blocks=[b"\xef", b"\xbb", b"\xbfdata: [1,2]\n\n"], silent_before=[True] * 13, request_=EVENT_SOURCE)
def test_heartbeats_change_no_event_that_is_reshaped(
    oversized: Fold | Fragment, blocks: list[bytes], silent_before: list[bool], request_: dict[str, str]
) -> None:
    exchange = left_of(blocks, silent_before, {**request_, "QUERY_STRING": "sse-fragments=1"}, oversized=oversized)
    assert list(read_events(exchange.client.received, join_fragments=True)) == list(read_events(blocks))


# -- block for block


@all_requests
def test_a_block_is_sent_at_once_as_the_same_object(request_: dict[str, str]) -> None:
    blocks = [b"data: %d\n\n" % number for number in range(5)]
    left = list(Response(SSEMiddleware(application_of(iter(blocks))), environ_of(request_)).blocks())
    assert all(block is given_ for block, given_ in zip(left, blocks, strict=True))


@all_requests
def test_the_application_is_asked_for_one_block_at_a_time(request_: dict[str, str]) -> None:
    made = [0]

    def produce() -> Iterator[bytes]:
        for number in range(1, 100):
            made[0] = number
            yield EVENT

    for taken, _ in enumerate(Response(SSEMiddleware(application_of(produce())), environ_of(request_)).blocks(), 1):
        assert made[0] == taken


@all_requests
def test_an_empty_block_stays_a_block(request_: dict[str, str]) -> None:
    blocks = [EVENT, b"", b"", EVENT, b""]
    assert list(Response(SSEMiddleware(application_of(blocks)), environ_of(request_)).blocks()) == blocks


@all_requests
def test_a_large_block_is_cut_at_the_ends_of_its_events(request_: dict[str, str]) -> None:
    block = b"".join(b"data: %03d\n\n" % number for number in range(100))
    left = list(Response(SSEMiddleware(application_of([block]), max_block=100), environ_of(request_)).blocks())
    assert b"".join(left) == block
    assert all(piece.endswith(b"\n\n") and len(piece) <= 100 for piece in left)


def test_a_large_block_is_kept_until_the_next_one_is_made_or_until_a_tick() -> None:
    large, kept = b"data: " + b"x" * 200_000 + b"\n\n", list[list[bytes]]()

    def look(exchange: Exchange) -> None:
        kept.append(list(exchange.round.kept.values()))

    exchange = Exchange(script(large, look, large, look, 1.0, look, EVENT, look), memory=AMPLE)
    exchange.rest()
    assert kept == [[large], [large], [], []]


@pytest.mark.parametrize(("memory", "most"), [(AMPLE, 6_000_000), (FULL, 2_000_000)], ids=["ample", "full"])
@all_requests
def test_when_a_block_is_made_no_other_is_left_but_the_last_if_there_is_memory(
    memory: MemoryGovernor, most: int, request_: dict[str, str]
) -> None:
    traced: list[int] = []

    def produce() -> Iterator[bytes]:
        for _ in range(4):
            traced.append(tracemalloc.get_traced_memory()[0])
            yield b"data: " + b"x" * 4_000_000 + b"\n\n"

    tracemalloc.start()
    try:
        for piece in Response(SSEMiddleware(application_of(produce()), memory=memory), environ_of(request_)).blocks():
            del piece
    finally:
        tracemalloc.stop()
    assert max(traced) < most


# -- the end of the application's iterator


class Ends:
    """An iterator that ends, and would wait forever if it was asked again, as one over a queue does."""

    def __init__(self, blocks: list[bytes]) -> None:
        self.left, self.has_ended = iter(blocks), False

    def __iter__(self) -> Iterator[bytes]:
        return self

    def __next__(self) -> bytes:
        assert not self.has_ended, "asked again after its end"
        for block in self.left:
            return block
        self.has_ended = True
        raise StopIteration


@pytest.mark.parametrize("blocks", [[], [EVENT], [b"data: half"], [EVENT] * 5], ids=["empty", "one", "half", "five"])
@all_requests
def test_an_iterator_that_has_ended_is_never_asked_again(blocks: list[bytes], request_: dict[str, str]) -> None:
    iterator = iter(Response(SSEMiddleware(application_of(Ends(blocks))), environ_of(request_)).iterable)
    assert list(iterator) == blocks
    for _ in range(3):
        assert next(iterator, None) is None


@pytest.mark.parametrize("kind", ["text/event-stream", "text/html"])
@pytest.mark.parametrize("blocks", [[], [EVENT]], ids=["empty", "one"])
@all_requests
def test_an_iterator_that_starts_its_response_lazily_is_never_asked_again(
    blocks: list[bytes], kind: str, request_: dict[str, str]
) -> None:
    class Lazy(Ends):
        def __init__(self, start_response: StartResponse) -> None:
            super().__init__(blocks)
            self._start_response: StartResponse | None = start_response

        def __next__(self) -> bytes:
            if self._start_response is not None:
                self._start_response("200 OK", [("Content-Type", kind)])
                self._start_response = None
            return super().__next__()

    response = Response(SSEMiddleware(lambda environ, start_response: Lazy(start_response)), environ_of(request_))
    iterator = iter(response.iterable)
    assert list(iterator) == blocks
    assert list(iterator) == []
    response.close()
    assert response.status == "200 OK"


@all_requests
def test_an_iterator_that_has_raised_is_never_asked_again(request_: dict[str, str]) -> None:
    blocks = Blocks([EVENT, LookupError("gone"), EVENT])
    iterator = iter(Response(SSEMiddleware(application_of(blocks)), environ_of(request_)).iterable)
    assert next(iterator) == EVENT
    with pytest.raises(LookupError):
        next(iterator)
    assert list(iterator) == []


class StartsAnew:
    """An iterator whose ``__iter__`` starts anew, as in many a tutorial. A server calls it once."""

    def __init__(self, blocks: list[bytes]) -> None:
        self._blocks, self._at = blocks, 0

    def __iter__(self) -> Iterator[bytes]:
        self._at = 0
        return self

    def __next__(self) -> bytes:
        if self._at == len(self._blocks):
            raise StopIteration
        self._at += 1
        return self._blocks[self._at - 1]


class IteratedOnce(StartsAnew):
    """An iterable that cannot be iterated twice."""

    def __iter__(self) -> Iterator[bytes]:
        if self._at:
            raise RuntimeError("iterated already")
        return super().__iter__()


class HasNextOnly:
    """An iterable whose iterator is no iterable itself, which a loop does not mind."""

    def __init__(self, blocks: list[bytes]) -> None:
        self._next = iter(blocks).__next__

    def __iter__(self) -> Iterator[bytes]:
        class Only:
            __next__ = staticmethod(self._next)

        return Only()  # type: ignore[return-value]


@pytest.mark.parametrize("kind", [StartsAnew, IteratedOnce, HasNextOnly])
@pytest.mark.parametrize("odd", [b"", b"data: half", b": " + b"x" * 200_000 + b"\n"], ids=["empty", "half", "large"])
@all_requests
def test_an_iterable_is_asked_for_its_iterator_once(
    kind: Callable[[list[bytes]], Iterable[bytes]], odd: bytes, request_: dict[str, str]
) -> None:
    blocks = [b"data: %d\n\n" % number for number in range(5)] * 3
    blocks[7] = odd
    if odd == b"data: half":
        blocks[8] = b"\n\n"
    response = Response(SSEMiddleware(application_of(kind(blocks))), environ_of(request_))
    assert b"".join(itertools.islice(response.iterable, 100)) == b"".join(blocks), "and comes to an end"


# -- close


@all_requests
def test_closing_before_the_first_block_closes_the_application_and_frees_the_place(request_: dict[str, str]) -> None:
    blocks = Blocks([EVENT] * 3)
    middleware = SSEMiddleware(application_of(blocks), max_streams=1)
    for close in (lambda iterable: iterable.close(), lambda iterable: iter(iterable).close()):
        response = Response(middleware, environ_of(request_))
        assert middleware.stats().open == 1
        close(response.iterable)  # type: ignore[no-untyped-call]
        assert middleware.stats().open == 0
    assert len(blocks.closed_on) == 2


@all_requests
def test_closing_twice_is_closing_once(request_: dict[str, str]) -> None:
    blocks = Blocks([EVENT] * 3)
    response = Response(SSEMiddleware(application_of(blocks)), environ_of(request_))
    next(iter(response.iterable))
    response.close()
    response.close()
    assert len(blocks.closed_on) == 1
    assert list(iter(response.iterable)) == []


@all_requests
def test_a_stream_may_be_closed_by_its_own_application(request_: dict[str, str]) -> None:
    class Closes(Blocks):
        def __next__(self) -> bytes:
            if self.threads:
                response.close()
            return super().__next__()

    blocks = Closes([EVENT] * 5)
    response = Response(SSEMiddleware(application_of(blocks)), environ_of(request_))
    assert list(response.blocks()) == [EVENT]
    assert len(blocks.closed_on) == 1


def test_a_close_from_another_thread_ends_a_stream_whose_application_sleeps() -> None:
    sleeps, wakes = threading.Event(), threading.Event()

    class Sleeps(Blocks):
        def __next__(self) -> bytes:
            if self.threads:
                sleeps.set()
                assert wakes.wait(DEADLINE)
            return super().__next__()

    blocks, left = Sleeps([EVENT] * 5), list[bytes]()
    environ = environ_of(EVENT_SOURCE)
    response = Response(SSEMiddleware(application_of(blocks)), environ)
    server = threading.Thread(target=lambda: left.extend(iter(response.iterable)))
    server.start()
    assert sleeps.wait(DEADLINE)
    response.close()
    assert environ["ssemiddleware.stream"].reason == "client gone"
    wakes.set()
    server.join(DEADLINE)
    assert left == [EVENT]
    assert len(blocks.closed_on) == 1


def test_a_close_from_another_thread_ends_a_response_that_has_taken_the_place_of_a_stream() -> None:
    class Replaced(Blocks):
        pulls = 0

        def __next__(self) -> bytes:
            self.pulls += 1
            if self.pulls == 3:
                error = ValueError("too late")
                start_responses[0]("500 Oh", [("Content-Type", "text/plain")], (ValueError, error, None))  # type: ignore[arg-type]
            if self.pulls == 5:
                sleeps.set()
                assert wakes.wait(DEADLINE)
            return super().__next__()

    def application(_environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        start_response("200 OK", [EVENT_STREAM])
        start_responses.append(start_response)
        return Replaced([EVENT] * 10)

    sleeps, wakes, left = threading.Event(), threading.Event(), list[bytes]()
    start_responses: list[StartResponse] = []
    iterable = SSEMiddleware(application)(environ_of(EVENT_SOURCE), lambda *_: left.append)  # as a layer that buffers
    server = threading.Thread(target=lambda: left.extend(iterable))
    server.start()
    assert sleeps.wait(DEADLINE)
    iterable.close()  # type: ignore[attr-defined]
    wakes.set()
    server.join(DEADLINE)
    assert left == [EVENT] * 5, "the last was on its way"


@pytest.mark.parametrize("request_", [ANNOUNCED, EVENT_SOURCE], ids=["announced", "EventSource"])
def test_the_iterator_is_dropped_when_its_stream_ends(request_: dict[str, str]) -> None:
    class Subscription:
        """An iterable whose iterator has something to give back."""

        def __iter__(self) -> Iterator[bytes]:
            try:
                yield EVENT
                environ["ssemiddleware.stream"].end("revoked")
                yield EVENT
                yield EVENT
            finally:
                ends.append("iterator")

        def close(self) -> None:
            ends.append("iterable")

    environ, ends = environ_of(request_), list[str]()
    response = Response(SSEMiddleware(application_of(Subscription())), environ)
    with contextlib.suppress(ConnectionAbortedError):
        for _ in response.iterable:
            time.sleep(0.6)  # the watcher sees that it has to end
    assert ends == (["iterator"] if request_ is EVENT_SOURCE else [])
    response.close()
    assert sorted(ends) == ["iterable", "iterator"]


@all_requests
def test_a_stream_that_the_server_never_closes_gives_its_place_back(request_: dict[str, str]) -> None:
    blocks = Blocks(EVENT for _ in range(10**9))
    middleware = SSEMiddleware(application_of(blocks))
    iterable = middleware(environ_of(request_), lambda *_: lambda block: None)
    next(iter(iterable))
    del iterable
    gc.collect()
    assert middleware.stats().open == 0


def test_nothing_of_an_application_is_kept_by_what_has_closed() -> None:
    class Held:
        pass

    def application(environ: WSGIEnvironment, start_response: StartResponse) -> Iterator[bytes]:
        held = Held()
        references.append(weakref.ref(held))
        environ["ssemiddleware.stream"].on_close(lambda: held)
        start_response("200 OK", [EVENT_STREAM])
        yield EVENT
        yield EVENT

    references: list[weakref.ref[Held]] = []
    middleware = SSEMiddleware(application)
    gc.disable()
    try:
        for leaves_early in (False, True):
            response = Response(middleware, environ_of(EVENT_SOURCE))
            next(iter(response.iterable))
            if not leaves_early:
                list(iter(response.iterable))
            response.close()
            del response
        assert [reference() for reference in references] == [None, None]
    finally:
        gc.enable()


# -- growth


def test_the_work_for_a_stream_grows_with_its_length() -> None:
    for request in (EVENT_SOURCE, UNANNOUNCED):

        def stream_of(count: int, request: dict[str, str] = request) -> Callable[[], object]:
            blocks = [b"data: %d\n\n" % number for number in range(count)]
            middleware = SSEMiddleware(application_of(blocks))
            return lambda: sum(map(len, Response(middleware, environ_of(request)).blocks()))

        assert is_linear(stream_of, 5000)


@pytest.mark.parametrize("end", [b"\n", b"\r", b"\r\n", b"x", b"\n\n"], ids=repr)
def test_the_work_for_a_block_grows_with_its_size(end: bytes) -> None:
    def block_of(count: int) -> Callable[[], object]:
        middleware = SSEMiddleware(application_of([(b"data: x" + end) * count]), max_block=4096)
        return lambda: sum(map(len, Response(middleware, environ_of(EVENT_SOURCE)).blocks()))

    assert is_linear(block_of, 50_000)


def test_the_work_for_a_line_in_many_blocks_grows_with_their_number() -> None:
    def line_of(count: int) -> Callable[[], object]:
        middleware = SSEMiddleware(application_of([b"x" * 100] * count))
        return lambda: sum(map(len, Response(middleware, environ_of(EVENT_SOURCE)).blocks()))

    assert is_linear(line_of, 3000)


def test_an_event_costs_no_thread() -> None:
    before = set(threading.enumerate())
    for _ in range(20):
        Response(SSEMiddleware(application_of([EVENT] * 5)), environ_of(EVENT_SOURCE)).body()
    after = {thread.name for thread in set(threading.enumerate()) - before}
    assert after <= {"ssemiddleware-watcher", "ssemiddleware-callbacks"}
