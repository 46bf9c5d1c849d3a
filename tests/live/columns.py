"""What is measured of each proxy: the columns of the table in docs/proxies.md, each with what is right.

A measurement returns seconds, or says what went wrong instead.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Collection
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from statistics import median

from .client import Connection, Headers, TooLate
from .event_source import BROWSER
from .proxied import BARE, BUSY, COMPRESSED, FOLDED, FULL, HEARTBEATS, WRAPPED
from .serving import ANNOUNCED, Server, new_key, play_target
from .steps import (
    Step,
    event,
    large_document,
    large_document_bytes,
    nothing,
    pause,
    repeat,
    send_time,
    wait_for_the_end,
)  # fmt: skip

SILENCE = 2.0  # seconds before the first event
TICKS = [pause(SILENCE), repeat(send_time(), pause(0.5), times=6)]
LATE, EACH_LATE = 1.0, 0.1  # seconds of a single event, and of each one
LONG_SILENCE = 6.0  # seconds, longer than the idle time that the proxies have here
LARGE = 5_000_000  # bytes
BEHIND_LARGE = 3.0  # seconds of silence after the large event, at whose end a tail that was held comes
GIVES_UP = 12.0  # seconds until a disconnect counts as never seen
LOOKS = 12  # times that a server could look for a disconnect of a bare stream, one each half a second
COMPRESSIBLE = 200_000  # bytes of an event in a compressed stream
QUIET = 1.5  # seconds without an event in a compressed stream

TAKES_COMPRESSED: Headers = [("Accept-Encoding", "gzip, br")]
FIRST_WITHIN = 10.0  # seconds; what is held does not arrive at all
TRIES = 3  # of which one has to be right: a machine may be busy with other things


@dataclass(frozen=True)
class Cell:
    """What was measured, in words, and whether that is right."""

    says: str
    is_right: bool
    seconds: float = 0.0

    def __str__(self) -> str:
        return self.says if self.is_right else f"**{self.says}**"


NO_EVENT = Cell("no event arrives", is_right=False)


@dataclass(frozen=True)
class Route:
    """A way to the application: through a proxy, bare or wrapped."""

    proxy: Server
    upstream: Server
    mount: str

    def open(self, *steps: Step, headers: Headers = BROWSER, **query: str) -> Connection:
        connection = self.proxy.ask(self.mount + play_target(*steps, **query), [*headers, *TAKES_COMPRESSED])
        connection.decodes = True
        return connection


def in_words(seconds: float) -> str:
    return f"{seconds * 1000:.0f} ms" if seconds < 0.95 else f"{seconds:.1f} s"


def in_time(seconds: float, right: float) -> Cell:
    return Cell(in_words(seconds), seconds < right)


def headers(route: Route) -> Cell:
    """The headers, which should come before the first event is sent, two seconds after the request."""
    connection = route.open(*TICKS)
    connection.read_headers()
    came_at = time.monotonic()
    first_sent_at, _ = times_of(connection)[0]
    return Cell(in_words(came_at - connection.sent_at), is_right=came_at < first_sent_at)


def first_event(route: Route) -> Cell:
    """The delay of the first event, from when the application sends it."""
    sent_at, came_at = times_of(route.open(*TICKS))[0]
    return in_time(came_at - sent_at, LATE)


def largest_delay(route: Route) -> Cell:
    """The largest delay of small events. It is wrong beyond a second, and where half of the events are late."""
    delays = [came_at - sent_at for sent_at, came_at in times_of(route.open(*TICKS))]
    return Cell(in_words(max(delays)), is_right=max(delays) < LATE and median(delays) < EACH_LATE)


def times_of(connection: Connection, end: bytes = b"\n\n") -> list[tuple[float, float]]:
    """Read to the end; return when each event was sent, and when it came: all of it, which ends with *end*."""
    connection.read_to_end()
    seen, times = b"", []
    for arrival in connection.arrivals:
        seen += arrival.block
        *whole, seen = seen.split(end)
        times += [
            (float(sent_at), arrival.at) for each in whole for sent_at in re.findall(rb"^data: ([0-9.]+)$", each, re.MULTILINE)
        ]
    connection.disconnect()
    assert times, f"no event in a response with status {connection.status}"
    return times


def replay(route: Route) -> Cell:
    """A second client that asks for the same: has it events that were sent before it came?"""
    with ThreadPoolExecutor(2) as readers:
        first = readers.submit(times_of, route.open(*TICKS))
        time.sleep(SILENCE + 1)
        second = route.open(*TICKS)
        late = [(second.sent_at, readers.submit(times_of, second))]
        first.result()
        third = route.open(*TICKS)
        late.append((third.sent_at, readers.submit(times_of, third)))
    replayed = any(made_at < sent_at for sent_at, times in late for made_at, _ in times.result())
    return Cell("yes", is_right=False) if replayed else Cell("no", is_right=True)


def idle(route: Route, silence: float = LONG_SILENCE) -> Cell:
    """A silence that is longer than the proxy's idle time: is the event after it in the same stream?"""
    connection = route.open(event("hello"), pause(silence), event("bye"), pause(1))
    try:
        connection.read_until(b"bye", within=silence + 5)
    except AssertionError:
        return Cell(f"cut after {time.monotonic() - connection.sent_at:.0f} s", is_right=False)
    return Cell("ok", is_right=True)


def large(route: Route) -> Cell:
    """An event of 5 MB, from when the application sends it until it is whole."""
    silence = pause(BEHIND_LARGE) if route.mount == BARE else wait_for_the_end(BEHIND_LARGE)
    connection = route.open(send_time(), large_document(LARGE), silence, event("bye"))
    connection.read_until(b"\n\n")
    sent_at = re.search(rb"^data: ([0-9.]+)$", connection.body, re.MULTILINE)
    assert sent_at is not None, connection.body[:3000]
    came_at = connection.read_bytes(sent_at.end() + LARGE, within=60)
    connection.disconnect()
    return in_time(came_at - float(sent_at[1]), BEHIND_LARGE - 0.5)


def compressed(route: Route) -> Cell:
    """The delay of small events in a stream with ``compress=``, if it arrives whole, and heartbeats where it is silent."""
    connection = route.open(repeat(send_time(), pause(0.5), times=3), pause(QUIET), large_document(COMPRESSIBLE))
    times = times_of(connection)
    if connection.header("Content-Encoding") != "gzip":
        return Cell(f"sent as {connection.header('Content-Encoding')}", is_right=False)
    events = re.sub(rb"^(:.*|retry: [0-9]+)\n", b"", connection.body, flags=re.MULTILINE)
    expected = rb"(data: [0-9.]+\n\n){3}" + re.escape(large_document_bytes(COMPRESSIBLE))
    if not connection.is_whole or not re.fullmatch(expected, events):
        return Cell("not whole", is_right=False)
    delays = [at - sent_at for sent_at, at in times]
    quiet_since = times[-1][1]
    heartbeats = [each.at - quiet_since for each in connection.arrivals if each.block.strip(b":\n") == b""]
    if max(delays) < 1 and not any(0.2 < each < QUIET for each in heartbeats):
        return Cell("no heartbeat", is_right=False)
    return in_time(max(delays) if max(delays) > LATE else median(delays), EACH_LATE)


def disconnect_bare(route: Route) -> Cell:
    """The time until a bare application is closed that yields ``b""``: each time the server could look for the disconnect."""
    key = new_key()
    connection = route.open(event("hello"), repeat(nothing(), pause(0.5), times=LOOKS), key=key)
    try:
        connection.read_until(b"hello", within=LOOKS / 4)
    except TooLate:
        return NO_EVENT
    disconnected_at = connection.disconnect()
    life = route.upstream.life_once(key, lambda life: life.closed_on)
    seconds = time.monotonic() - disconnected_at
    return Cell("never", is_right=False) if life.blocks > LOOKS else Cell(in_words(seconds), is_right=True, seconds=seconds)


def disconnect(route: Route, within: float = GIVES_UP) -> Cell:
    """The time until a silent application knows that its client has disconnected."""
    key = new_key()
    connection = route.open(event("hello"), wait_for_the_end(within), key=key)
    try:
        connection.read_until(b"hello", within=FIRST_WITHIN)
    except TooLate:
        return NO_EVENT
    disconnected_at = connection.disconnect()
    life = route.upstream.life_once(key, lambda life: life.closed_on, within=within + 5)
    if life.noticed_at is None:
        return Cell("never", is_right=False)
    seconds = life.noticed_at - disconnected_at
    return Cell(in_words(seconds), is_right=True, seconds=seconds)


def refusal(route: Route) -> Cell:
    """While all places are taken, an EventSource gets a time to reconnect, and others get a 503."""
    taken = route.upstream.ask(FULL + play_target(event("hello"), pause(4)), BROWSER)
    taken.read_until(b"hello")
    to_event_source, to_others = (route.open(event("hello"), headers=each) for each in (BROWSER, ANNOUNCED))
    body = to_event_source.read_to_end()
    to_others.read_to_end()
    taken.read_to_end()
    has_retry = to_event_source.status == 200 and re.fullmatch(rb"(:\n)?retry: [0-9]+\n\n", body)
    is_503 = to_others.status == 503 and to_others.header("Retry-After")
    return Cell("ok", is_right=True) if has_retry and is_503 else Cell(f"{to_event_source.status}, {body!r}", is_right=False)


def refusal_bare(route: Route) -> Cell:
    """A request waits, for longer than the proxy's idle time: what does an EventSource get?"""
    taken = route.upstream.ask(BUSY + play_target(event("hello"), pause(LONG_SILENCE)), BROWSER)
    taken.read_until(b"hello")
    waiting = route.open(event("hello"))
    waiting.read_to_end()
    seconds = time.monotonic() - waiting.sent_at
    taken.read_to_end()
    return Cell("waits" if waiting.status == 200 else f"{waiting.status or 'cut'} after {seconds:.0f} s", is_right=False)


# By the column and whether it is wrapped: what measures it, and how the application is mounted.
AT_THE_SAME_TIME: dict[tuple[str, bool], tuple[Callable[[Route], Cell], str]] = {
    ("headers", False): (headers, BARE),
    ("headers", True): (headers, WRAPPED),
    ("first event", False): (first_event, BARE),
    ("first event", True): (first_event, WRAPPED),
    ("largest delay", False): (largest_delay, BARE),
    ("largest delay", True): (largest_delay, WRAPPED),
    ("replay", False): (replay, BARE),
    ("replay", True): (replay, WRAPPED),
    ("idle", False): (idle, BARE),
    ("idle", True): (idle, HEARTBEATS),
    ("compressed", True): (compressed, COMPRESSED),
    ("disconnect", False): (disconnect_bare, BARE),
    ("disconnect", True): (disconnect, HEARTBEATS),
    ("refusal", False): (refusal_bare, BUSY),
    ("refusal", True): (refusal, FULL),
    ("large", False): (large, BARE),
}
ONE_BY_ONE: dict[tuple[str, bool], tuple[Callable[[Route], Cell], str]] = {
    ("large", True): (large, WRAPPED),
    ("folded", True): (large, FOLDED),
}


def cell(act: Callable[[Route], Cell], route: Route) -> Cell:
    """Return what *act* measures. No response, or another one than requested, is wrong."""
    try:
        return act(route)
    except (AssertionError, OSError):
        return NO_EVENT


def cells_of(proxy: Server, upstream: Server, red: Collection[str]) -> dict[tuple[str, bool], Cell]:
    """Return all cells of a row, by the column and whether it is wrapped. *red*: the columns that are expected to be wrong."""

    def measured(act: Callable[[Route], Cell], mount: str) -> Cell:
        return cell(act, Route(proxy, upstream, mount))

    with ThreadPoolExecutor(len(AT_THE_SAME_TIME)) as pool:
        running = {key: pool.submit(measured, *how) for key, how in AT_THE_SAME_TIME.items()}
        cells = {key: job.result() for key, job in running.items()}
    cells |= {key: measured(*how) for key, how in ONE_BY_ONE.items()}
    for (column, is_wrapped), how in (AT_THE_SAME_TIME | ONE_BY_ONE).items():
        for _ in range(TRIES - 1):
            if is_wrapped and column not in red and not cells[column, is_wrapped].is_right:
                cells[column, is_wrapped] = measured(*how)
    return cells
