"""`EncodedWire`: each complete event can be decompressed at once, and our own lines are only where they may be."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ssemiddleware import Compress, Fold, Fragment
from ssemiddleware.encoded_wire import EncodedWire
from ssemiddleware.event_stream import BOM, HEARTBEAT, last_event_end, retry_line
from ssemiddleware.oversized import OversizedEvents
from ssemiddleware.servers.server import MOST_WRITTEN
from ssemiddleware.stats import Carried
from ssemiddleware.wire import Wire

from .decompressing import decompressor_of
from .event_stream.streams import PIECES, cuttings, every_way
from .servers.fake import EVENT_SOURCE, Exchange, script

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment

EVENT = b"data: 1\n\n"
GZIP = {**EVENT_SOURCE, "HTTP_ACCEPT_ENCODING": "gzip"}
ENCODINGS = ["gzip", "zstd"]
MAX_BLOCK = 24  # often less than what one flush returns


class Client:
    """Decompresses each block when it arrives, as a browser does."""

    def __init__(self, encoding: str = "gzip") -> None:
        self._decompressor = decompressor_of(encoding)
        self.body = b""

    def get(self, blocks: Iterable[bytes]) -> None:
        for block in blocks:
            assert len(block) > 0
            self.body += self._decompressor.decompress(block)

    @property
    def is_at_end(self) -> bool:
        return self._decompressor.eof and not self._decompressor.unused_data


def wire_of(encoding: str = "gzip", *, max_block: int = 131072, **options: Any) -> EncodedWire:
    return EncodedWire(encoding=encoding, max_block=max_block, **options)


def decompressed(blocks: Iterable[bytes], encoding: str = "gzip") -> Client:
    client = Client(encoding)
    client.get(block for block in blocks if block)
    return client


def assert_holds_no_event_back(blocks: list[bytes], encoding: str) -> None:
    wire, client, came = wire_of(encoding, max_block=MAX_BLOCK), Client(encoding), b""
    for block in blocks:
        client.get(wire.feed(block))
        came += block
        assert client.body == came[: len(client.body)]
        assert len(client.body) >= last_event_end(came)
        assert len(client.body) == len(came) or not wire.takes_end
    client.get(wire.finish())
    client.get([wire.end()])
    assert (client.body, client.is_at_end) == (b"".join(blocks), True)


@pytest.mark.parametrize("encoding", ENCODINGS)
@given(cuttings())
def test_each_complete_event_is_sent_at_once(encoding: str, blocks: list[bytes]) -> None:
    assert_holds_no_event_back(blocks, encoding)


@pytest.mark.parametrize("encoding", ENCODINGS)
@pytest.mark.parametrize("end", [b"\n\n", b"\r\n\r\n", b"\r\r"], ids=repr)
def test_each_complete_event_is_sent_at_once_however_it_is_cut(end: bytes, encoding: str) -> None:
    for blocks in every_way(b"data: 1" + end + b": c\n" + b"data: 2" + end + b"data: 3"):
        assert_holds_no_event_back(blocks, encoding)


def texts(size: int, events: int) -> bytes:
    chosen = random.Random(7)
    return b"".join(b"data: %s\n\n" % chosen.randbytes(size // 2).hex().encode() for _ in range(events))


@pytest.mark.parametrize("encoding", ENCODINGS)
@pytest.mark.parametrize("max_block", [100, 131072])
def test_more_than_a_block_is_sent_as_several_blocks(max_block: int, encoding: str) -> None:
    stream = texts(300_000, 3)
    wire = wire_of(encoding, max_block=max_block)
    pieces = list(wire.feed(stream))
    assert max(map(len, pieces)) == max_block
    assert decompressed(pieces, encoding).body == stream


def test_several_events_in_one_block_are_flushed_once() -> None:
    one, each = wire_of(), wire_of()
    together = b"".join(one.feed(EVENT * 100))
    apart = b"".join(piece for _ in range(100) for piece in each.feed(EVENT))
    flush = b"\0\0\xff\xff"
    assert (together.count(flush), apart.count(flush)) == (1, 100)


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_a_block_that_ends_inside_an_event_is_not_flushed(encoding: str) -> None:
    wire = wire_of(encoding)
    list(wire.feed(EVENT))
    assert [list(wire.feed(block)) for block in (b"data: 2", b"\n", b"data: 3\n")] == [[], [], []]
    assert len(list(wire.feed(b"\n"))) == 1


lines_of_ours = st.sampled_from([HEARTBEAT, b"retry: 3000\n"])
steps = st.lists(
    st.one_of(
        st.one_of(st.sampled_from(PIECES), st.binary(max_size=60)).map(lambda block: ("application", block)),
        lines_of_ours.map(lambda line: ("server", line)),
        lines_of_ours.map(lambda line: ("watcher", line)),
        lines_of_ours.map(lambda line: ("watcher without success", line)),
    ),
    max_size=40,
)


@pytest.mark.parametrize("encoding", ENCODINGS)
@given(steps)
def test_our_own_lines_are_where_they_would_be_without_compression(encoding: str, given_steps: list[tuple[str, bytes]]) -> None:
    carried, client = Carried(), Client(encoding)
    wire, plain = wire_of(encoding, max_block=MAX_BLOCK, carried=carried), Wire(max_block=MAX_BLOCK)
    sent, expected = list[bytes](), b""
    for who, line in given_steps:
        if who == "application":
            sent += wire.feed(line)
            expected += b"".join(plain.feed(line))
        assert (wire.takes_comment, wire.takes_end) == (plain.takes_comment, plain.takes_end)
        if who == "application" or not wire.takes_comment:
            continue
        is_new = wire._waiting == b""
        block = wire.ours(line) if who.startswith("watcher") else b""
        assert len(block) <= MOST_WRITTEN
        if who == "server" or block:
            expected += plain.note_ours(line) if is_new else b""
        if who == "server" or (who == "watcher" and block):
            sent.append(wire.note_ours(line))
            assert block in (b"", sent[-1])
    sent += wire.finish()
    expected += b"".join(plain.finish())
    sent.append(wire.end(b"retry: 5\n\n"))
    client.get(sent)
    assert (client.body, client.is_at_end) == (expected + b"retry: 5\n\n", True)
    assert (carried.blocks_out, carried.bytes_out) == (len(sent), sum(map(len, sent)))


@pytest.mark.parametrize("encoding", ENCODINGS)
@pytest.mark.parametrize("is_first", [True, False])
@given(size=st.integers(0, 100), seed=st.integers(0, 10**9))
def test_the_watcher_never_writes_much_even_if_bytes_cannot_be_compressed(
    is_first: bool, encoding: str, size: int, seed: int
) -> None:
    unfinished = random.Random(seed).randbytes(size)
    wire = wire_of(encoding)
    if not is_first:
        list(wire.feed(texts(3000, 3)))
    list(wire.feed(unfinished + b"\n"))
    assert len(wire.ours(b"retry: 1000000000\n")) <= MOST_WRITTEN


def test_a_byte_order_mark_is_dropped_after_a_line_that_could_not_be_written() -> None:
    wire = wire_of()
    assert wire.ours(HEARTBEAT)  # but it was not written
    assert decompressed(wire.feed(BOM + EVENT)).body == HEARTBEAT + EVENT


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_the_end_of_a_stream_of_which_nothing_was_sent_is_short_enough_for_the_watcher(encoding: str) -> None:
    wire = wire_of(encoding)
    wire.ours(b"retry: 4567\n")  # but it was not written
    assert len(wire.end(retry_line(4567))) <= MOST_WRITTEN


# -- in a stream


def exchange_of(*steps: object, encoding: str = "gzip", **options: object) -> Exchange:
    request = {**EVENT_SOURCE, "HTTP_ACCEPT_ENCODING": encoding}
    exchange = Exchange(script(*steps), request, compress=Compress(), **options)  # type: ignore[arg-type]
    try:
        exchange.rest()
    finally:
        assert exchange.failed == []
    return exchange


@pytest.mark.parametrize(("encoding", "sizes"), [("gzip", [28, 8, 11]), ("zstd", [21, 5, 13])])
def test_the_opening_and_heartbeats_go_into_the_compressed_stream(encoding: str, sizes: list[int]) -> None:
    exchange = exchange_of(1.0, EVENT, 20.0, b"data: 2\n", 20.0, b"\n", encoding=encoding)
    assert exchange.headers["Content-Encoding"] == encoding
    client = decompressed(exchange.client.received, encoding)
    assert client.body.startswith(b"retry: ")
    assert client.body.partition(b"\n")[2] == EVENT + HEARTBEAT + b"data: 2\n" + HEARTBEAT + b"\n"
    assert client.is_at_end
    assert [len(line) for line in exchange.client.ours] == sizes


def test_no_heartbeat_is_written_after_much_of_an_unfinished_event() -> None:
    unfinished = texts(100, 1)[:-1]
    exchange = exchange_of(EVENT, unfinished, 60.0, b"\n")
    assert exchange.client.ours == []
    assert decompressed(exchange.client.received).body == EVENT + unfinished + b"\n"


def test_a_heartbeat_that_could_not_be_written_is_sent_once_before_the_next_block() -> None:
    def stop_taking(exchange: Exchange) -> None:
        exchange.client.takes = False

    def take(exchange: Exchange) -> None:
        exchange.client.takes = True

    exchange = exchange_of(EVENT, stop_taking, 40.0, drain, 1.0)
    assert decompressed(exchange.client.received).body.startswith(EVENT + HEARTBEAT + b"retry: ")
    assert len(exchange.client.ends) == 1
    exchange = exchange_of(EVENT, stop_taking, 40.0, take, EVENT)
    assert decompressed(exchange.client.received).body == EVENT + HEARTBEAT + EVENT
    exchange = exchange_of(EVENT, stop_taking, 40.0, take, 1.0, EVENT)
    assert decompressed(exchange.client.received).body == EVENT + HEARTBEAT + EVENT
    assert len(exchange.client.ours) == 1


def passing_on(application: WSGIApplication) -> WSGIApplication:
    def layered(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        yield from application(environ, start_response)

    return layered


def copying(application: WSGIApplication) -> WSGIApplication:
    def layered(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        for block in application(environ, start_response):
            yield bytes(bytearray(block))

    return layered


@pytest.mark.parametrize(("layer", "times"), [(passing_on, 1), (copying, 0)], ids=["passing on", "copying"])
def test_heartbeats_are_written_past_a_layer_only_if_it_passes_the_same_objects_on(
    layer: Callable[[WSGIApplication], WSGIApplication], times: int
) -> None:
    exchange = exchange_of(EVENT, 20.0, EVENT, layer=layer)
    client = decompressed(exchange.client.received)
    assert client.body.partition(b"\n")[2] == EVENT + HEARTBEAT * times + EVENT  # after the opening
    assert client.is_at_end
    assert len(exchange.client.ours) == times


def drain(exchange: Exchange) -> None:
    exchange.is_drained = True


@pytest.mark.parametrize("encoding", ENCODINGS)
@pytest.mark.parametrize("begins", [True, False])
def test_the_watcher_ends_a_silent_stream_cleanly(begins: bool, encoding: str) -> None:
    exchange = exchange_of(*([EVENT] if begins else [0.1]), drain, 1.0, EVENT, encoding=encoding)
    (last,) = exchange.client.ends
    assert len(last) <= MOST_WRITTEN
    client = decompressed(exchange.client.received, encoding)
    assert client.body.removeprefix(EVENT).startswith(b"retry: ")
    assert client.is_at_end


def cannot_be_ended(exchange: Exchange) -> None:
    exchange.client.can_be_ended = False


def test_a_stream_whose_end_is_too_long_for_the_watcher_is_cut() -> None:
    exchange = exchange_of(EVENT, drain, 1.0, retry=10**150)
    assert (exchange.client.ends, exchange.client.done[0]) == ([], "cut")


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_a_cut_body_does_not_end_as_a_whole_one_does(encoding: str) -> None:
    exchange = exchange_of(EVENT, cannot_be_ended, drain, 1.0, EVENT, encoding=encoding)
    assert exchange.client.done[0] == "cut"
    client = decompressed(exchange.client.received, encoding)
    assert (client.body, client.is_at_end) == (EVENT, False)


def test_a_stream_that_cannot_be_cut_ends_after_the_application_s_next_event() -> None:
    exchange = exchange_of(EVENT, cannot_be_ended, drain, 1.0, EVENT, has_connection=False)
    client = decompressed(exchange.client.received)
    assert client.body.startswith(EVENT + EVENT + b"retry: ")
    assert client.is_at_end


def test_after_an_exception_the_body_is_not_whole() -> None:
    exchange = Exchange(script(EVENT, RuntimeError("no database")), GZIP, compress=Compress())
    with pytest.raises(RuntimeError, match="no database"):
        exchange.rest()
    assert not decompressed(exchange.client.received).is_at_end


def test_after_a_cut_on_a_drain_the_body_is_not_whole() -> None:
    exchange = exchange_of(EVENT, b"data: 2\n", drain, 4.0, b"data: 3\n")
    assert exchange.client.done[0] == "cut"
    assert not decompressed(exchange.client.received).is_at_end


@pytest.mark.parametrize("encoding", ENCODINGS)
@pytest.mark.parametrize("steps_", [(), (b"",), (b"data: unfinished",), (b"\xef\xbb",), (b"", EVENT, b"", b"")], ids=repr)
def test_a_stream_that_ends_by_itself_is_a_whole_body(steps_: tuple[bytes, ...], encoding: str) -> None:
    client = decompressed(exchange_of(*steps_, encoding=encoding).client.received, encoding)
    assert (client.body, client.is_at_end) == (b"".join(steps_), True)


def test_blocks_given_to_write_are_compressed_too() -> None:
    def application(environ: object, start_response: object) -> list[bytes]:
        write = start_response("200 OK", [("Content-Type", "text/event-stream")])  # type: ignore[operator]
        write(EVENT)
        return [b"data: 2\n\n"]

    exchange = Exchange(application, GZIP, compress=Compress())
    exchange.rest()
    client = decompressed(exchange.client.received)
    assert (client.body, client.is_at_end) == (EVENT + b"data: 2\n\n", True)


@pytest.mark.parametrize("oversized", [Fold(), Fragment(over=200_000, size=50_000)], ids=lambda each: type(each).__name__)
def test_large_events_are_reshaped_before_they_are_compressed(oversized: Fold | Fragment) -> None:
    event = b'data: {"texts": [%s]}\n\n' % b",".join(b'"%d"' % number for number in range(100_000))
    request = {**GZIP, "QUERY_STRING": "sse-fragments=1"}
    plain = Exchange(script(event), request, oversized=oversized)
    encoded = Exchange(script(event), request, oversized=oversized, compress=Compress())
    plain.rest()
    encoded.rest()
    skip = len(HEARTBEAT)  # in place of an opening, which has a random number
    assert decompressed(encoded.client.received).body.partition(b"\n")[2] == plain.client.body[skip:]
    assert plain.client.body[skip:] != event


def test_long_lines_are_watched_for() -> None:
    wire = wire_of(watch=lambda path: OversizedEvents([]))
    assert decompressed(wire.feed(texts(200_000, 1))).body == texts(200_000, 1)
