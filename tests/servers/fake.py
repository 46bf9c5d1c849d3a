"""A server that a test drives step by step, with a client, a watcher and a clock that do what they are told.

All on one thread: an application plays a script, and where that says so it is silent while time passes and the watcher ticks.
Between two steps of the server's loop the server writes.

>>> exchange = Exchange(script(b"data: 1\n\n", 20.0, b"data: 2\n\n"), EVENT_SOURCE)
>>> exchange.rest()
[b'data: 1\n\n', b'data: 2\n\n']
>>> exchange.client.received
[b'data: 1\n\n', b':\n', b'data: 2\n\n']
"""

from __future__ import annotations

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
from ssemiddleware.servers.server import MOST_WRITTEN, Loop, Pool, Server, StopSign, Writer
from ssemiddleware.service import Service

from ..applications import EVENT_SOURCE, EVENT_STREAM, Headers, environ_of
from ..clock import Clock

if TYPE_CHECKING:
    from _typeshed import OptExcInfo
    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment

__all__ = ["EVENT_SOURCE", "Client", "Exchange", "script"]

_TICK = 0.25  # seconds, as the watcher's
_TICK_AT_END = 0.05

_EXCHANGE = "fake.exchange"
_OPENING = re.compile(rb"retry: [0-9]{3,}\n")  # no application of a test asks for so long a time


class Client:
    """A client, as the server sees it."""

    def __init__(self) -> None:
        self.state: State = "open"
        self.takes = True  # a few bytes, without a wait
        self.breaks = False  # a write fails half way
        self.progress: Progress | None = Progress(0, 0)
        self.received: list[bytes] = []  # with HEARTBEAT in place of an opening that says when to reconnect
        self.openings: list[bytes] = []  # as they were
        self.ours: list[bytes] = []  # what the watcher has written
        self.ends: list[bytes] = []  # with what the watcher has ended the response
        self.can_be_ended = True
        self.is_delimited = True  # a cut looks different from an end
        self.done: list[str] = []  # to the connection

    @property
    def body(self) -> bytes:
        return b"".join(self.received)

    def receive(self, block: bytes) -> bytes:
        """Receive *block*; return what stands for it in `received`."""
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

    def hold_little(self) -> None:
        self._client.done.append("hold little")

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

    def write(self, block: bytes) -> bool:
        assert 0 < len(block) <= MOST_WRITTEN
        self._check()
        if self.client.breaks:
            raise BrokenPipeError
        if not self.client.takes:
            return False
        self.client.ours.append(self.client.receive(block))
        return True

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


class FakeSign:
    """Whether the process stops, and how long it lets streams go on."""

    def __init__(self) -> None:
        self.must_be_told = False
        self.stops = False
        self.grace: float | None = None
        self.told_alive = 0

    def is_stopping(self) -> bool:
        return self.stops

    def seconds_left(self, stopping_for: float) -> float | None:
        return None if self.grace is None else self.grace - stopping_for

    def tell_alive(self) -> None:
        self.told_alive += 1


class FakePool:
    """A pool that lends as many stand-ins as it is asked for."""

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

    def holds_up_others(self) -> bool:
        return self.exchange.holds_up_others

    def writer(self, write: object) -> Writer | None:
        if not self.exchange.can_write or write != self.exchange.write or "Content-Encoding" in self.exchange.headers:
            return None
        self.exchange.writer = FakeWriter(self.exchange)
        return self.exchange.writer

    def stop_sign(self) -> StopSign | None:
        return self.exchange.sign

    def pool(self) -> Pool | None:
        return self.exchange.pool


def serve(iterable: Iterable[bytes], exchange: Exchange) -> Iterator[bytes]:
    """Be a server's loop; whoever iterates over this decides how long a write takes."""
    for block in iterable:
        exchange.client.receive(block)
        exchange.is_server_writing = True
        yield block
        exchange.is_server_writing = False


class _Middleware(SSEMiddleware):
    """A middleware whose streams nobody watches but their `Exchange`."""

    __slots__ = ()

    def maybe_begin(self, request: Request, handle: Stream, *, may_refuse: bool) -> Service | None:
        exchange: Exchange = request.environ[_EXCHANGE]
        exchange.asked_for_place.append(may_refuse)
        place = self._admission.maybe_admit(handle, is_announced=request.is_announced, always=not may_refuse)
        if place is None:
            return None
        service = exchange.service = Service(
            request, handle, place, options=self.options, admission=self._admission, round=exchange.round,
            server=exchange.server_of(request.environ), clock=exchange.clock,
        )  # fmt: skip
        exchange.care = Care(service, exchange.kept.append, lambda name, target: None)
        service.pulls = Pulls(
            self.options.memory, large=self.options.max_block, paused=place.paused, clock=exchange.clock, sleep=exchange.tick
        )
        return service

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
        holds_up_others: bool = False,
        **options: object,
    ) -> None:
        self.clock = Clock()
        self.clock.now = time.monotonic()  # as a place's
        self.client = Client()
        self.sign, self.pool = FakeSign(), FakePool()
        self.can_write = can_write
        self.connection = FakeConnection(self.client, closes_by_itself=closes_by_itself) if has_connection else None
        self.writer: FakeWriter | None = None
        self.is_server_writing = False
        self.is_known = is_known
        self.holds_up_others = holds_up_others
        self.is_drained = False
        self.is_watched = True  # by the watcher
        self.asked_for_place: list[bool] = []  # and whether it might be refused
        self.kept: list[str] = []
        self.callbacks: list[Callback] = []  # given to the callbacks' thread
        self.failed: list[BaseException] = []  # what the service raised in the watcher
        self.status, self.headers = "", dict[str, str]()
        self.service: Service | None = None
        self.care: Care | None = None
        self.middleware = _Middleware(application, **options)  # type: ignore[arg-type]
        self.round = Round(lambda: self.is_drained, self.middleware._admission.relieve, lambda: Stream.ends_told)
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
        """Take the next block, and stay where the server writes it."""
        return next(self._served)

    def rest(self) -> list[bytes]:
        """Take all blocks that are left, and close."""
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
            self.clock.now = min(until, self.clock.now + (_TICK_AT_END if at_end else _TICK))
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

    @property
    def service_is_over(self) -> bool:
        return self.care is None or not self.care.watches_connection


Step = bytes | float | BaseException | Callable[[Exchange], object]


def script(*steps: Step, headers: Headers | None = None, status: str = "200 OK", is_lazy: bool = False) -> WSGIApplication:
    """Return an application that yields bytes, is silent for seconds, raises errors and calls what is callable."""

    def play(environ: WSGIEnvironment) -> Iterator[bytes]:
        exchange: Exchange = environ[_EXCHANGE]
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
