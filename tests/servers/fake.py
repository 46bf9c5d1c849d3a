"""A server that a test drives step by step, with a client, a watcher and a clock that the test controls.

All of this runs on one thread. An application plays a script: at a number it is silent while time passes and the watcher ticks.
Between two steps of the server's loop the server writes.

>>> exchange = Exchange(script(b"data: 1\n\n", 20.0, b"data: 2\n\n"), EVENT_SOURCE)
>>> exchange.rest()
[b'data: 1\n\n', b'data: 2\n\n']
>>> exchange.client.received
[b'data: 1\n\n', b':\n', b'data: 2\n\n']
"""

from __future__ import annotations

import math
import re
import time
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING

from ssemiddleware import SSEMiddleware
from ssemiddleware.care import Care
from ssemiddleware.ending import Round
from ssemiddleware.event_stream import HEARTBEAT
from ssemiddleware.handle import Callback, Stream, run_all
from ssemiddleware.memory import Pulls
from ssemiddleware.request import Request
from ssemiddleware.servers.connection import Connection, Progress, State
from ssemiddleware.servers.server import MOST_JOINED, MOST_WRITTEN, Loop, Pool, Server, StopSign, Writer
from ssemiddleware.service import Service
from ssemiddleware.streams import Streams
from ssemiddleware.watcher import Watcher

from ..applications import EVENT_SOURCE, EVENT_STREAM, Headers, environ_of
from ..clock import Clock

if TYPE_CHECKING:
    from _typeshed import OptExcInfo
    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment

    from ssemiddleware.joining import Held

__all__ = ["EVENT_SOURCE", "Client", "Exchange", "script"]

_TICK = 0.25  # seconds, as the watcher's
_TICK_AT_END = 0.05

_EXCHANGE = "fake.exchange"
_OPENING = re.compile(rb"retry: [0-9]{3,}\n")  # no test's application sends such a long time


class Client:
    """A client, as the server sees it."""

    def __init__(self) -> None:
        self.state: State = "open"
        self.takes = True  # a few bytes, without a wait
        self.breaks = False  # a write fails half way
        self.progress: Progress | None = Progress(0, 0)
        self.received: list[bytes] = []  # with HEARTBEAT in place of an opening `retry:`
        self.openings: list[bytes] = []  # as they were
        self.ours: list[bytes] = []  # what the watcher has written
        self.joined: list[bytes] = []  # of the application's, what the watcher has written
        self.ends: list[bytes] = []  # the last bytes with which the watcher ended the response
        self.can_be_ended = True
        self.is_delimited = True  # a cut does not look like an end
        self.done: list[str] = []  # what was done to the connection

    @property
    def body(self) -> bytes:
        return b"".join(self.received)

    def receive(self, block: bytes) -> bytes:
        """Receive *block*, and return it as it is put into `received`."""
        if _OPENING.fullmatch(block) and not any(self.received):
            self.openings.append(block)
            block = HEARTBEAT
        self.received.append(block)
        return block


class FakeConnection(Connection):
    """The connection of a `Client`. Without a descriptor, so that nothing real is polled."""

    def __init__(self, client: Client, *, closes_by_itself: bool = False) -> None:
        super().__init__(self)
        self._client = client
        self._closes_by_itself = closes_by_itself

    @property
    def is_closed_by_itself(self) -> bool:
        return self._closes_by_itself

    def fileno(self) -> int:
        return -1

    def state(self) -> State:
        return self._client.state

    def is_writable(self) -> bool:
        return self._client.takes

    def hold_little(self, *, is_fast: bool = False) -> None:
        self._client.done.append("hold more" if is_fast else "hold little")

    def restore(self) -> None:
        self._client.done.append("restore")

    def progress(self) -> Progress | None:
        return self._client.progress

    def shutdown(self, how: int) -> None:
        self._client.done.append(f"shutdown {how}")

    def reset_on_close(self) -> None:
        self._client.done.append("reset on close")

    def cut(self) -> None:
        self._client.done.append("cut")

    def close(self) -> None:
        self._client.done.append("close")


class FakeWriter:
    """Writes to a `Client` in the server's place."""

    def __init__(self, exchange: Exchange) -> None:
        self._exchange = exchange
        self.client = exchange.client

    @property
    def is_delimited(self) -> bool:
        return self.client.is_delimited

    def write(self, block: bytes, most: int = MOST_WRITTEN) -> bool:
        assert 0 < len(block) <= most
        self._check()
        if not self.client.takes:
            return False
        (self.client.ours if most == MOST_WRITTEN else self.client.joined).append(self.client.receive(block))
        return True

    def room(self) -> int:
        return MOST_JOINED if self.client.takes else 0

    def end(self, last: bytes) -> bool:
        self._check()
        if not self.client.can_be_ended:
            return False
        self.client.ends.append(last)
        self.client.received.append(last)
        return True

    def _check(self) -> None:
        assert not self._exchange.is_server_writing
        assert not self.client.ends
        if self.client.breaks:
            raise BrokenPipeError


class FakeSign:
    """Says whether the process stops, and how long streams may go on."""

    def __init__(self) -> None:
        self.needs_reports = False
        self.stops = False
        self.grace: float | None = None
        self.reports = 0

    def is_stopping(self) -> bool:
        return self.stops

    def seconds_left(self, stopping_for: float) -> float | None:
        return None if self.grace is None else self.grace - stopping_for

    def report_alive(self) -> None:
        self.reports += 1


class FakePool:
    """A pool without a limit for stand-ins."""

    threads = 4

    def __init__(self) -> None:
        self.lent = self.taken_back = 0

    def lend(self, start: object) -> Callable[[], None] | None:
        self.lent += 1

        def take_back() -> None:
            self.taken_back += 1

        return take_back


class FakeServer(Server):
    """The server of an `Exchange`, whose loop is `serve`, in Python."""

    __slots__ = ("exchange",)

    name = "fake"
    loops = (Loop(__name__, "serve", "iterable", "block"),)

    def __init__(self, environ: WSGIEnvironment) -> None:
        super().__init__(environ)
        self.exchange: Exchange = environ[_EXCHANGE]

    def connection(self) -> Connection | None:
        return self.exchange.connection

    def delays_others(self) -> bool:
        return self.exchange.delays_others

    def writer(self, write: object, encoding: str = "") -> Writer | None:
        found = self.exchange.headers.get("Content-Encoding", "")
        if not self.exchange.can_write or write != self.exchange.write or found != encoding:
            return None
        self.exchange.writer = FakeWriter(self.exchange)
        return self.exchange.writer

    def stop_sign(self) -> StopSign | None:
        return self.exchange.sign

    def pool(self) -> Pool | None:
        return self.exchange.pool


def exchange_of(environ: WSGIEnvironment) -> Exchange:
    """Return the exchange of a request."""
    exchange: Exchange = environ[_EXCHANGE]
    return exchange


def serve(iterable: Iterable[bytes], exchange: Exchange) -> Iterator[bytes]:
    """Act as a server's loop. The caller decides how long a write takes: it ends with the next step."""
    for block in iterable:
        exchange.client.receive(block)
        exchange.is_server_writing = True
        yield block
        exchange.is_server_writing = False


class _Streams(Streams):
    """The streams of a middleware that are watched by their `Exchange` only."""

    def maybe_begin(self, request: Request, handle: Stream, *, may_refuse: bool) -> Service | None:
        exchange = exchange_of(request.environ)
        exchange.asked_for_place.append(may_refuse)
        place = self.admission.maybe_admit(handle, is_announced=request.is_announced, always=not may_refuse)
        if place is None:
            return None
        service = exchange.service = Service(
            request, handle, place, options=self.options, admission=self.admission, round=exchange.round,
            server=exchange.server_of(request.environ), clock=exchange.clock,
        )  # fmt: skip
        exchange.care = Care(service, exchange.kept.append, lambda name, target: None)
        service.pulls = Pulls(
            self.options.memory, large=self.options.max_block, kept=exchange.round.kept, paused=place.paused,
            clock=exchange.clock, sleep=exchange.tick,
        )  # fmt: skip
        return service

    def expect(self, held: Held) -> bool:
        exchange: Exchange = held._service.server.exchange  # type: ignore[attr-defined]  # a `FakeServer`
        exchange.sends_at = min(exchange.sends_at, exchange.clock.now + held.within)
        exchange.watcher._holding[held] = None
        return exchange.has_watcher

    def call_later(self, callbacks: list[Callback]) -> None:
        run_all(callbacks)


class Exchange:
    """One request to *application*, its response, and the watcher's part in it.

    *layer*: a middleware outside of ours. *options*: those of `SSEMiddleware`.
    """

    def __init__(
        self,
        application: WSGIApplication,
        given: dict[str, str] | None = None,
        *,
        layer: Callable[[WSGIApplication], WSGIApplication] = lambda application: application,
        can_write: bool = True,
        has_connection: bool = True,
        closes_by_itself: bool = False,
        is_known: bool = True,
        delays_others: bool = False,
        **options: object,
    ) -> None:
        self.clock = Clock()
        self.clock.now = time.monotonic()  # like a place's clock
        self.client = Client()
        self.sign, self.pool = FakeSign(), FakePool()
        self.can_write = can_write
        self.connection = FakeConnection(self.client, closes_by_itself=closes_by_itself) if has_connection else None
        self.writer: FakeWriter | None = None
        self.is_server_writing = False
        self.is_known = is_known
        self.delays_others = delays_others
        self.is_drained = False
        self.watcher = Watcher()  # which sends what is held
        self.has_watcher = True
        self.sends_at = math.inf
        self.is_watched = True  # by the watcher
        self.asked_for_place: list[bool] = []  # for each time, whether it might be refused
        self.kept: list[str] = []
        self.callbacks: list[Callback] = []  # given to the callbacks' thread
        self.failed: list[BaseException] = []  # what the service raised in the watcher
        self.status, self.headers = "", dict[str, str]()
        self.service: Service | None = None
        self.care: Care | None = None
        self.middleware = SSEMiddleware(application, **options)  # type: ignore[arg-type]
        object.__setattr__(self.middleware, "_streams", _Streams(self.middleware.options))
        self.round = Round(lambda: self.is_drained, self.middleware._streams.admission.look, lambda: Stream.ends_requested)
        self.environ = environ_of(given) | {_EXCHANGE: self}
        self.iterable = layer(self.middleware)(self.environ, self.start_response)
        self._served = serve(self.iterable, self)

    def server_of(self, environ: WSGIEnvironment) -> Server:
        return FakeServer(environ) if self.is_known else Server(environ)

    @property
    def stream(self) -> Stream:
        """The application's handle."""
        found: Stream = self.environ["ssemiddleware.stream"]
        return found

    # -- the server

    def start_response(self, status: str, headers: Headers, exc_info: OptExcInfo | None = None) -> Callable[[bytes], object]:
        if exc_info is not None and any(self.client.received):
            assert exc_info[1] is not None
            raise exc_info[1]
        self.status, self.headers = status, dict(headers)
        return self.write

    def write(self, block: bytes) -> None:
        self.client.receive(block)

    def next(self) -> bytes:
        """Take the next block, and stop while the server writes it."""
        return next(self._served)

    def rest(self) -> list[bytes]:
        """Take all remaining blocks, and close."""
        try:
            return list(self._served)
        finally:
            self.close()

    def close(self) -> None:
        self.is_server_writing = False
        if hasattr(self.iterable, "close"):
            self.iterable.close()

    # -- the watcher

    def tick(self, seconds: float = _TICK) -> None:
        """Let time pass, with the watcher's ticks."""
        care, until = self.care, self.clock.now + seconds
        while self.clock.now < until - 1e-9:
            at_end = care is not None and care.ending
            due = min(until, self.clock.now + (_TICK_AT_END if at_end else _TICK))
            while self.sends_at <= due:
                self.clock.now = max(self.clock.now, self.sends_at)
                self._send_held()
            self.clock.now = due
            is_urgent = self.round.look(self.clock.now)
            if care is None or not self.is_watched:
                continue
            try:
                if self.client.state != "open" and not self.service_is_over:
                    care.notice(self.callbacks.extend)
                if (self.clock.now >= care.rests_until and care.is_due(self.clock.now)) or is_urgent:
                    self.is_watched = care.serve(self.clock.now, self.callbacks.extend)
            except Exception as error:
                self.failed.append(error)
                self.is_watched = False
                care.fail(self.callbacks.extend)

    def _send_held(self) -> None:
        self.watcher._send_held()
        within = min((held.within for held in self.watcher._holding), default=math.inf)
        self.sends_at = self.clock.now + within

    @property
    def service_is_over(self) -> bool:
        return self.care is None or not self.care.watches_connection


Step = bytes | float | BaseException | Callable[[Exchange], object]


def script(*steps: Step, headers: Headers | None = None, status: str = "200 OK", is_lazy: bool = False) -> WSGIApplication:
    """Return an application. Of its steps it yields bytes, sleeps for numbers (seconds), raises errors and calls callables."""

    def play(environ: WSGIEnvironment) -> Iterator[bytes]:
        exchange = exchange_of(environ)
        for step in steps:
            if isinstance(step, bytes):
                yield step
            elif isinstance(step, BaseException):
                raise step
            elif callable(step):
                step(exchange)
            else:
                exchange.tick(step)

    def application(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        start_response(status, headers or [EVENT_STREAM])
        return play(environ)

    def lazy(environ: WSGIEnvironment, start_response: StartResponse) -> Iterator[bytes]:
        start_response(status, headers or [EVENT_STREAM])
        yield from play(environ)

    return lazy if is_lazy else application
