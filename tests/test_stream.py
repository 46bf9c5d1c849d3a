"""Heartbeats, looks and the end of a stream, with a clock that goes when it is told to."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Iterable, Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ssemiddleware.admission import Admission, Place
from ssemiddleware.event_stream import BOM, HEARTBEAT, OpaquePosition, Position
from ssemiddleware.hand_off import HandOff
from ssemiddleware.inline import Begun, InlineStart, InlineStream
from ssemiddleware.memory import Reading, Turn, Turns
from ssemiddleware.reading import read_events
from ssemiddleware.relay import Relay
from ssemiddleware.stream import AnnouncedStream, Ending, Stream, StreamBroken

from .applications import DEADLINE, EVENT_STREAM
from .event_stream.streams import streams


class Clock:
    """A clock that goes when it is told to."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


class Client:
    def __init__(self) -> None:
        self.has_left, self.looks, self.reads = False, 0, True
        self.limits: list[float | None] = []  # as they were set
        self.can_limit_sending = True

    def is_gone(self) -> bool:
        self.looks += 1
        return self.has_left

    def limit_sending(self, seconds: float | None) -> bool:
        self.limits.append(seconds)
        return self.can_limit_sending

    def stop_reading(self) -> None:
        self.reads = False


class FakeHandOff(HandOff):
    """A hand-off without a producer: blocks wait when the test says so, and waiting is what makes the clock go."""

    def __init__(self, clock: Clock) -> None:
        super().__init__(read_ahead=1000, max_block=100)
        self._clock = clock
        self.coming: list[tuple[float, bytes]] = []
        self.ends_at = 1e12

    def wait(self, timeout: float) -> None:
        assert timeout >= 0
        until = self._clock.now + timeout
        if self.coming and self.coming[0][0] <= until:
            at, block = self.coming.pop(0)
            self._clock.now = max(self._clock.now, at)
            self._waiting.append(block)
            return
        self._clock.now = until
        self.is_finished = self.is_finished or until >= self.ends_at


def place_of(stream: Stream) -> Place:
    place = Admission(limit=lambda environ: None).maybe_admit({}, stream)
    assert place is not None
    return place


def ending_of(side: Announced | Inline, retry: int | None) -> Ending:
    return Ending(
        side.stream,
        client=side.client,
        must_end=lambda now: "drain" if side.is_draining else None,
        next_retry=None if retry is None else lambda: retry,
    )


class Announced:
    """An announced stream whose application yields *blocks* at certain seconds, and then is silent."""

    def __init__(
        self,
        blocks: list[tuple[float, bytes]],
        *,
        heartbeat: float | None = 10.0,
        retry: int | None = None,
        position: Position | None = None,
        send_deadline: float | None = None,
        hides_client: bool = False,
    ) -> None:
        self.clock, self.client, self.stream, self.is_draining = Clock(), Client(), Stream(), False
        self.client.can_limit_sending = not hides_client
        self.blocks = FakeHandOff(self.clock)
        self.blocks.coming = [(1000.0 + at, block) for at, block in blocks]
        ending = ending_of(self, retry)
        self.iterable = AnnouncedStream(
            Relay(lambda environ, start_response: [], {}, self.blocks),
            ending,
            Position() if position is None else position,
            place=place_of(self.stream),
            heartbeat=heartbeat,
            send_deadline=send_deadline,
            clock=self.clock,
        )

    def until(self, seconds: float) -> list[tuple[float, bytes]]:
        """Return what leaves up to *seconds* after the start, and when."""
        left: list[tuple[float, bytes]] = []
        self.blocks.ends_at = self.clock.now + seconds + 1000
        while True:
            try:
                block = next(self.iterable)
            except StopIteration:
                return left
            left.append((round(self.clock.now - 1000.0, 3), block))
            if self.clock.now - 1000.0 >= seconds:
                return left


def test_the_opening_leaves_by_itself_and_at_once() -> None:
    assert Announced([(0.0, b"data: 1\n\n")]).until(0) == [(0, HEARTBEAT)]


def test_a_heartbeat_leaves_after_silence_and_a_block_restarts_it() -> None:
    stream = Announced([(4.0, b"data: 1\n\n"), (13.0, b"data: 2\n\n")])
    assert stream.until(40) == [
        (0, HEARTBEAT), (4.0, b"data: 1\n\n"), (13.0, b"data: 2\n\n"), (23.0, HEARTBEAT), (33.0, HEARTBEAT), (43.0, HEARTBEAT),
    ]  # fmt: skip


@pytest.mark.parametrize(
    "half", [b"data: 1", b"data: 1\r", b": comment", b"data: \xe2\x82", b"data: 1\n\r", b"data: 1\r\r"], ids=repr
)
def test_no_heartbeat_divides_a_line_a_character_or_a_line_end(half: bytes) -> None:
    stream = Announced([(1.0, half), (50.0, b"\n\n")])
    assert stream.until(55) == [(0, HEARTBEAT), (1.0, half), (50.0, b"\n\n"), (60.0, HEARTBEAT)]


def test_a_heartbeat_between_two_lines_of_an_event_is_right() -> None:
    stream = Announced([(1.0, b"data: 1\n"), (15.0, b"data: 2\n\n")])
    left = stream.until(15)
    assert left == [(0, HEARTBEAT), (1.0, b"data: 1\n"), (11.0, HEARTBEAT), (15.0, b"data: 2\n\n")]
    assert [event.data for event in read_events(block for _, block in left)] == ["1\n2"]


def test_without_heartbeats_nothing_of_ours_leaves() -> None:
    stream = Announced([(1.0, BOM + b"data: 1\n\n"), (100.0, b"data: 2\n\n")], heartbeat=None)
    assert stream.until(100) == [(1.0, BOM + b"data: 1\n\n"), (100.0, b"data: 2\n\n")]


def test_an_opaque_body_gets_no_comment() -> None:
    stream = Announced([(1.0, b"\n"), (100.0, b"\n")], position=OpaquePosition())
    assert stream.until(100) == [(1.0, b"\n"), (100.0, b"\n")]


def test_a_bom_behind_the_opening_is_dropped_however_it_is_cut() -> None:
    stream = Announced([(1.0, BOM[:1]), (2.0, BOM[1:2]), (3.0, BOM[2:]), (4.0, b"data: 1\n\n")])
    assert stream.until(4) == [(0, HEARTBEAT), (4.0, b"data: 1\n\n")]


def test_what_begins_like_a_bom_and_is_none_leaves() -> None:
    stream = Announced([(1.0, BOM[:2]), (2.0, b"x")])
    assert stream.until(2) == [(0, HEARTBEAT), (2.0, BOM[:2] + b"x")]
    stream = Announced([(1.0, BOM[:2])])
    stream.until(0)
    stream.blocks.is_finished = True
    stream.blocks._waiting.append(BOM[:2])
    assert list(stream.iterable) == [BOM[:2]]


@given(st.lists(st.tuples(st.floats(0, 30), streams.filter(bool)), max_size=10), st.floats(1, 20))
def test_heartbeats_change_no_event(blocks: list[tuple[float, bytes]], heartbeat: float) -> None:
    at, timed = 0.0, []
    for pause, block in blocks:
        at += pause
        timed.append((at, block))
    stream = Announced(timed, heartbeat=heartbeat)
    left = b"".join(block for _, block in stream.until(at + 50))
    assert list(read_events([left])) == list(read_events(block for _, block in timed))


def test_a_client_that_left_is_noticed_in_silence_within_half_a_second() -> None:
    stream = Announced([(1.0, b"data: half")])
    assert stream.until(1) == [(0, HEARTBEAT), (1.0, b"data: half")]
    stream.client.has_left = True
    with pytest.raises(StopIteration):
        next(stream.iterable)
    assert stream.clock.now - 1001.0 <= 0.5
    assert stream.stream.reason == "client gone"
    assert stream.blocks.is_closed


def test_the_client_is_looked_at_no_more_than_twice_a_second() -> None:
    stream = Announced([(number / 100, b"data: 1\n\n") for number in range(1000)])
    stream.until(9.99)
    assert 19 <= stream.client.looks <= 21


def drained(blocks: list[tuple[float, bytes]], *, after: int, retry: int | None = None) -> tuple[list[bytes], float, Announced]:
    """Return what still leaves once the process is going, *after* so many blocks, and how long that takes."""
    stream = Announced(blocks, retry=retry)
    for _ in range(after):
        next(stream.iterable)
    stream.is_draining = True
    started = stream.clock.now
    return [block for _, block in stream.until(1e6)], stream.clock.now - started, stream


def test_a_drain_ends_a_silent_stream_at_once_and_cleanly() -> None:
    left, took, stream = drained([(1.0, b"data: 1\n\n")], after=2)
    assert left == []
    assert took <= 0.5
    assert stream.stream.reason == "drain"
    assert stream.blocks.is_closed


def test_a_drain_tells_an_event_source_when_to_come_back() -> None:
    left, _, _ = drained([(1.0, b"data: 1\n\n")], after=2, retry=1000)
    assert left == [b"retry: 1000\n\n"]


def test_a_drain_lets_an_unfinished_event_end() -> None:
    left, took, _ = drained([(1.0, b"data: 1\n"), (1.6, b"data: 2\n\n"), (1.7, b"data: 3\n\n")], after=2, retry=10)
    assert left[:1] == [b"data: 2\n\n"]
    assert left[1].startswith(b"retry: ")
    assert len(left) == 2
    assert took < 1


def test_a_drain_lets_what_waits_leave_but_not_for_long() -> None:
    left, took, _ = drained([(1.0 + number / 50, b"data: %d\n\n" % number) for number in range(1000)], after=2)
    assert [event.data for event in read_events(left)] == [str(number) for number in range(1, 1 + len(left))]
    assert took < 1


def test_a_drain_cuts_a_joined_block_at_the_event_that_was_unfinished() -> None:
    blocks = (
        [(1.0, b"data: 1\n")] + [(1.6 + number / 50, b"id: 2\n") for number in range(7)] + [(1.75, b"\ndata: 3\n\ndata: 4\n\n")]
    )
    left, took, stream = drained(blocks, after=2)
    assert left[-1] == b"\n"
    assert took < 1
    assert stream.stream.reason == "drain"


def test_an_event_that_does_not_end_is_broken_off_uncleanly() -> None:
    for blocks in ([(1.0, b"data: 1\n")], [(1.0 + number / 50, b"data: 1\n") for number in range(1000)]):
        with pytest.raises(StreamBroken):
            drained(blocks, after=2)


def test_a_body_that_is_encoded_is_broken_off_since_its_events_cannot_be_seen() -> None:
    stream = Announced([(1.0, b"data: 1\n\n")], position=OpaquePosition())
    next(stream.iterable)
    stream.is_draining = True
    with pytest.raises(StreamBroken):
        stream.until(1e6)
    assert stream.clock.now - 1001.0 < 1
    assert stream.blocks.is_closed
    assert not stream.client.reads  # the server need not wait for its leave


def test_an_application_that_ends_while_the_process_is_going_ended_by_itself() -> None:
    stream = Announced([])
    next(stream.iterable)
    stream.is_draining = stream.blocks.is_finished = True
    stream.blocks._waiting.append(b"data: 1")
    assert list(stream.iterable) == [b"data: 1"]
    assert stream.stream.reason == "application ended"


# -- the send deadline


def test_the_connection_is_limited_while_the_stream_lasts_and_left_as_it_was() -> None:
    stream = Announced([(0.0, b"data: 1\n\n")], send_deadline=7.0)
    assert stream.client.limits == [7.0]
    assert stream.blocks.send_deadline == math.inf  # the kernel sees to it
    stream.until(0)
    stream.iterable.close()
    assert stream.client.limits == [7.0, None]


@pytest.mark.parametrize(("took", "reason"), [(6.9, "client gone"), (7.0, "send deadline")])
def test_a_close_tells_by_the_time_since_the_last_block_why_it_came(took: float, reason: str) -> None:
    stream = Announced([(0.0, b"data: 1\n\n")], send_deadline=7.0)
    assert stream.until(0) == [(0, HEARTBEAT)]
    assert next(stream.iterable) == b"data: 1\n\n"
    stream.clock.now += took
    stream.iterable.close()
    assert stream.stream.reason == reason


def test_without_a_deadline_a_client_may_take_any_time() -> None:
    stream = Announced([(0.0, b"data: 1\n\n")])
    stream.until(0)
    next(stream.iterable)
    stream.clock.now += 1e6
    stream.iterable.close()
    assert stream.client.limits == []
    assert stream.stream.reason == "client gone"


@pytest.mark.parametrize(("block", "is_clean"), [(b"data: 1\n\n", True), (b"data: 1\n", False)])
def test_where_the_connection_cannot_be_limited_the_applications_side_ends(block: bytes, is_clean: bool) -> None:
    stream = Announced([(0.0, block)], send_deadline=7.0, hides_client=True)
    assert stream.blocks.send_deadline == 7.0
    stream.until(0)
    assert next(stream.iterable) == block
    stream.blocks.has_missed_deadline = True  # as the producer finds
    stream.blocks.close()
    with pytest.raises(StopIteration if is_clean else StreamBroken):
        next(stream.iterable)
    assert stream.stream.reason == "send deadline"


def test_a_hand_off_whose_consumer_takes_nothing_closes_at_the_deadline() -> None:
    blocks = HandOff(read_ahead=10, max_block=100)
    blocks.send_deadline = 0.05
    producer = threading.Thread(target=blocks.hand_over_all, args=([b"data: of more than ten bytes\n\n"],))
    producer.start()
    producer.join(DEADLINE)
    assert not producer.is_alive()
    assert (blocks.has_missed_deadline, blocks.is_closed, blocks.is_empty) == (True, True, True)


# -- inline


class Inline:
    """An inline stream whose application yields *blocks* at certain seconds."""

    def __init__(
        self,
        blocks: list[tuple[float, bytes]],
        *,
        heartbeat: float | None = 10.0,
        retry: int | None = None,
        position: Position | None = None,
        turns: Turns | None = None,
    ) -> None:
        self.clock, self.client, self.stream, self.is_draining = Clock(), Client(), Stream(), False
        self.blocks = blocks
        self.pauses = [0.0]
        amended = position or Position()
        start = InlineStart(
            lambda *args: lambda block: None,
            lambda status, headers, place: Begun(place or place_of(self.stream), headers, amended, None),
            100,
        )
        start("200 OK", [EVENT_STREAM])
        ending = ending_of(self, retry)
        self.iterable = InlineStream(
            self._produce(), start, self.stream, lambda: ending, list, max_block=100, heartbeat=heartbeat,
            next_pause=lambda: self.pauses[-1], has_body=True, turns=turns, clock=self.clock, sleep=self._sleep,
        )  # fmt: skip
        self.iterator = iter(self.iterable)

    def _produce(self) -> Iterator[bytes]:
        for at, block in self.blocks:
            self.clock.now = max(self.clock.now, 1000.0 + at)
            yield block

    def _sleep(self, seconds: float) -> None:
        self.clock.now += seconds

    def rest(self) -> list[tuple[float, bytes]]:
        return [(round(self.clock.now - 1000.0, 3), block) for block in self.iterator]


def test_inline_an_empty_block_becomes_a_heartbeat_when_one_is_due() -> None:
    blocks = [
        (0.0, b"data: 1\n\n"),
        *[(number, b"") for number in (5.0, 11.0, 12.0, 22.0)],
        (23.0, b"data: 2\n\n"),
        (30.0, b""),
    ]
    assert Inline(blocks).rest() == [
        (0, b"data: 1\n\n"), (5, b""), (11, HEARTBEAT), (12, b""), (22, HEARTBEAT), (23, b"data: 2\n\n"), (30, b""),
    ]  # fmt: skip


def test_inline_a_heartbeat_may_come_first_and_takes_the_place_of_a_bom() -> None:
    blocks = [(0.0, b""), (11.0, b""), (12.0, BOM + b"data: 1\n\n"), (12.0, BOM + b"data: 2\n\n")]
    assert [block for _, block in Inline(blocks).rest()] == [b"", HEARTBEAT, b"data: 1\n\n", BOM + b"data: 2\n\n"]


@pytest.mark.parametrize(
    "options", [{"heartbeat": None}, {"position": OpaquePosition()}], ids=["without heartbeats", "encoded"]
)
def test_inline_an_empty_block_stays_one_where_no_heartbeat_may_be(options: dict[str, None]) -> None:
    assert [block for _, block in Inline([(0.0, b"data: 1\n\n"), (50.0, b"")], **options).rest()] == [b"data: 1\n\n", b""]


def test_inline_no_heartbeat_divides_a_line() -> None:
    assert [block for _, block in Inline([(0.0, b"data: 1"), (50.0, b"")]).rest()] == [b"data: 1", b""]


def test_inline_a_client_that_left_is_noticed_when_the_application_yields() -> None:
    for spacing in (0.0001, 0.3):
        stream = Inline([(number * spacing, b"data: 1\n\n") for number in range(100_000)])
        next(stream.iterator)
        stream.client.has_left = True
        assert len(stream.rest()) * spacing <= 1.0
        assert stream.stream.reason == "client gone"


def test_inline_each_block_that_does_not_follow_at_once_is_looked_at() -> None:
    burst = [(0.0, b"data: 1\n\n")] * 1000
    stream = Inline([*burst, *[(10.0 * number, b"data: 2\n\n") for number in range(1, 9)]])
    for _ in burst:
        next(stream.iterator)
    stream.client.has_left = True
    assert len(stream.rest()) <= 3


def test_inline_a_drain_ends_the_stream_behind_an_event() -> None:
    stream = Inline([(0.0, b"data: 1\n\n"), (1.0, b"data: 2\n"), (1.1, b"\n"), (1.2, b"data: 3\n\n")], retry=1000)
    assert next(stream.iterator) == b"data: 1\n\n"
    stream.is_draining = True
    *blocks, (at, last) = stream.rest()
    assert [block for _, block in blocks] == [b"data: 2\n", b"\n"]
    assert last.startswith(b"retry: ")
    assert at == 1.1
    assert stream.stream.reason == "drain"


@pytest.mark.parametrize("blocks", [[b"data: 1\n\n"], [b"data: 1\n", b"\n"]], ids=repr)
def test_inline_a_drain_ends_a_stream_cleanly_that_is_silent_but_for_empty_blocks(blocks: list[bytes]) -> None:
    stream = Inline([*((0.0, block) for block in blocks), *((number, b"") for number in range(1, 9))])
    for _ in blocks:
        next(stream.iterator)
    stream.is_draining = True
    assert [block for _, block in stream.rest() if block] == []
    assert stream.stream.reason == "drain"


def test_inline_a_drain_breaks_an_event_off_that_does_not_end() -> None:
    stream = Inline([(number / 10, b"data: 1\n") for number in range(100)])
    next(stream.iterator)
    stream.is_draining = True
    with pytest.raises(StreamBroken):
        stream.rest()
    assert stream.clock.now - 1000.0 < 1.1


def test_inline_the_application_is_pulled_later_while_memory_is_short() -> None:
    stream = Inline([(0.0, b"data: 1\n\n")] * 4)
    next(stream.iterator)
    stream.pauses.append(0.5)
    assert [at for at, _ in stream.rest()] == [0.5, 1.0, 1.5]


def test_inline_a_large_block_is_made_when_it_is_its_turn() -> None:
    class InThreeSeconds(OneTurn):
        def maybe_begin(self, last: int, waited: float = 0.0, earlier: Turn | None = None) -> Turn | None:
            return super().maybe_begin(last) if last == 0 or waited >= 3 else None

    turns = InThreeSeconds()
    blocks = [(0.0, b"data: 1\n\n"), (0.0, b"data: " + b"x" * 100 + b"\n\n"), (0.0, b"data: 2\n\n")]
    received = Inline(blocks, turns=turns).rest()
    assert received[0][0] == received[1][0] == 0
    assert received[-1][0] == pytest.approx(3, abs=0.1)
    assert turns.ended == [9, 9]


LARGE_AND_MORE = [(0.0, b"data: " + b"x" * 100 + b"\n\n"), (0.0, b"data: 2\n\n"), (0.0, b"data: 3\n\n")]


def test_inline_a_client_that_leaves_while_its_stream_waits_for_memory_ends_it_without_another_block() -> None:
    stream = Inline(LARGE_AND_MORE, turns=NoneBehindTheFirst())
    next(stream.iterator)
    stream.client.has_left = True
    left = stream.rest()
    assert b"data: 2\n\n" not in [block for _, block in left]
    assert stream.clock.now - 1000.0 < 0.7
    assert stream.stream.reason == "client gone"


def test_inline_a_drain_ends_a_stream_that_waits_for_memory() -> None:
    stream = Inline(LARGE_AND_MORE, turns=NoneBehindTheFirst())
    next(stream.iterator)
    stream.is_draining = True
    left = [block for _, block in stream.rest() if block]
    assert left[-1] == b"data: 2\n\n"  # it was asked for this one; there it may end
    assert stream.clock.now - 1000.0 < 1.0
    assert stream.stream.reason == "drain"


def test_inline_an_empty_block_and_a_small_one_need_no_turn() -> None:
    turns = OneTurn()
    assert len(Inline([(0.0, b""), (0.0, b""), (0.0, b"data: 1\n\n"), (0.0, b"")], turns=turns).rest()) == 4
    assert turns.ended == [0]


# -- the hand-off, with its thread


def started(blocks: Callable[[], Iterator[bytes]], **options: int) -> Relay:
    def application(environ: object, start_response: Callable[..., object]) -> Iterator[bytes]:
        start_response("200 OK", [EVENT_STREAM])
        return blocks()

    relay = Relay(application, {}, HandOff(read_ahead=options.get("read_ahead", 1000), max_block=100))
    relay.start()
    return relay


def everything(relay: Relay) -> bytes:
    received = []
    while True:
        is_finished = relay.blocks.is_finished
        block = relay.blocks.take()
        if block:
            received.append(block)
        elif is_finished:
            return b"".join(received)
        else:
            relay.blocks.wait(DEADLINE)


@pytest.mark.parametrize("size", [1, 7, 99, 100, 101, 5000])
@pytest.mark.parametrize("read_ahead", [1, 1000, 10**6])
def test_nothing_is_lost_in_the_hand_off(size: int, read_ahead: int) -> None:
    sent = [bytes([number % 256]) * size for number in range(200_000 // (size + 50))]
    relay = started(lambda: iter(sent), read_ahead=read_ahead)
    assert everything(relay) == b"".join(sent)
    assert relay.join(DEADLINE)


def test_close_wakes_an_application_that_waits_for_room() -> None:
    closed = threading.Event()

    def produce() -> Iterator[bytes]:
        try:
            while True:
                yield b"x" * 100
        finally:
            closed.set()

    relay = started(produce)
    while not relay.blocks.is_producer_waiting:
        relay.join(0.001)
    relay.close()
    assert closed.is_set()


def test_close_waits_for_the_application_that_it_wakes() -> None:
    closed = threading.Event()

    class Endless:
        def __iter__(self) -> Iterator[bytes]:
            return self

        def __next__(self) -> bytes:
            return b"x" * 100

        def __del__(self) -> None:
            time.sleep(0.1)  # the thread is awake and has not come to the end

    class Application:
        def __iter__(self) -> Iterator[bytes]:
            return Endless()

        def close(self) -> None:
            closed.set()

    class Awake(HandOff):
        def close(self) -> None:
            super().close()
            while self.is_producer_waiting:
                time.sleep(0)

    def application(environ: object, start_response: Callable[..., object]) -> Iterable[bytes]:
        start_response("200 OK", [EVENT_STREAM])
        return Application()

    relay = Relay(application, {}, Awake(read_ahead=1000, max_block=100))
    relay.start()
    while not relay.blocks.is_producer_waiting:
        relay.join(0.001)
    relay.close()
    assert closed.is_set()


def test_close_wakes_an_application_that_waits_for_memory() -> None:
    closed, paused = threading.Event(), threading.Event()

    def produce() -> Iterator[bytes]:
        try:
            yield b"x"
        finally:
            closed.set()

    def next_pause() -> float:
        paused.set()
        return 1e6

    def application(environ: object, start_response: Callable[..., object]) -> Iterator[bytes]:
        start_response("200 OK", [EVENT_STREAM])
        return produce()

    relay = Relay(application, {}, HandOff(read_ahead=1, max_block=16, next_pause=next_pause))
    relay.start()
    assert paused.wait(DEADLINE)
    relay.close()
    assert relay.join(DEADLINE)
    relay.raise_error()


def test_a_block_that_has_left_is_not_kept_while_the_next_one_waits() -> None:
    class Watched(bytes):
        def __del__(self) -> None:
            gone.set()

    gone = threading.Event()
    relay = started(lambda: (Watched(b"x" * 100) for _ in range(1)), read_ahead=1)
    while not relay.blocks.is_producer_waiting:
        relay.join(0.001)
    assert gone.wait(DEADLINE)
    assert not relay.blocks.is_empty  # what waits is a copy, as exactly bytes
    relay.close()


class OneTurn(Turns):
    """Turns of which there is but one at a time, for a first block and behind one of 100 bytes."""

    def __init__(self) -> None:
        super().__init__(lambda: Reading(0, 1), low=0.7, critical=0.9)
        self.free, self.asked, self.ended = True, threading.Event(), list[int]()

    def maybe_begin(self, last: int, waited: float = 0.0, earlier: Turn | None = None) -> Turn | None:
        self.asked.set()
        return Turn(1, 1e9, is_first=not last) if self.free else None

    def end(self, turn: Turn, size: int) -> None:
        self.ended.append(size)


class NoneBehindTheFirst(OneTurn):
    """Turns of which none is to be had behind a first block."""

    def maybe_begin(self, last: int, waited: float = 0.0, earlier: Turn | None = None) -> Turn | None:
        return None if last else super().maybe_begin(last)


def relay_with(turns: Turns, blocks: list[bytes]) -> Relay:
    def application(environ: object, start_response: Callable[..., object]) -> Iterator[bytes]:
        start_response("200 OK", [EVENT_STREAM])
        return iter(blocks)

    relay = Relay(application, {}, HandOff(read_ahead=100, max_block=1000, turns=turns))
    relay.start()
    return relay


def test_a_turn_is_taken_for_the_first_block_and_behind_large_ones() -> None:
    turns = OneTurn()
    sent = [b"a" * 10, b"b" * 100, b"c" * 200, b"d" * 10, b"e" * 10]
    relay = relay_with(turns, sent)
    received = b""
    while not (relay.blocks.is_finished and relay.blocks.is_empty):
        if relay.blocks.is_producer_waiting or relay.blocks.is_finished:  # no client is faster than the application is here
            received += relay.blocks.take()
        relay.join(0.001)
    assert received == b"".join(sent)
    assert turns.ended == [10, 200, 10]  # and the end of what follows the first, the second and the third block


def test_the_end_of_a_stream_ends_its_turn() -> None:
    turns = OneTurn()
    assert everything(relay_with(turns, [])) == b""
    assert turns.ended == [0]


def test_close_wakes_an_application_that_waits_for_its_turn() -> None:
    turns = OneTurn()
    turns.free = False
    relay = relay_with(turns, [b"data: 1\n\n"])
    assert turns.asked.wait(DEADLINE)
    relay.close()
    assert relay.join(DEADLINE)
    assert relay.blocks.is_empty


def test_close_wakes_a_server_that_waits_for_a_block() -> None:
    wakes = threading.Event()

    def produce() -> Iterator[bytes]:
        wakes.wait(DEADLINE)
        yield b""

    relay = started(produce)
    waiting = threading.Thread(target=relay.blocks.wait, args=(DEADLINE,))
    waiting.start()
    relay.stop()
    waiting.join(DEADLINE / 2)
    assert not waiting.is_alive()
    wakes.set()
    assert relay.join(DEADLINE)
