"""Read the event streams of a WSGI application in a unit test: event by event, each with a deadline.

    from ssemiddleware.testing import open_stream

    def test_a_visitor_is_greeted():
        with open_stream(app, "/events") as stream:
            assert stream.status_code == 200
            assert stream.next_event(timeout=1).data == "hello"
        # here the client has left; the application's close() runs as soon as the application yields

Built on werkzeug's test client; the application, wrapped or bare, runs on a thread of its own, and a socket stands for the
client's connection, so that leaving early is a real leave.
"""

from __future__ import annotations

import socket
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from types import TracebackType
from typing import TYPE_CHECKING, Any

from werkzeug.datastructures import Headers
from werkzeug.test import Client

from .event_stream import Event
from .hand_off import HandOff
from .reading import EventReader
from .relay import Relay

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment

_EVENT_SOURCE = {"Accept": "text/event-stream", "Cache-Control": "no-cache"}
_READ_AHEAD = 1  # byte: the stream itself reads ahead, the test need not


def open_stream(
    application: WSGIApplication,
    path: str = "/",
    *,
    headers: Mapping[str, str] | None = None,
    timeout: float = 5.0,  # seconds; a test that waits longer for one event is stuck
    **request: Any,
) -> OpenStream:
    """Request *path* as an EventSource does and return the stream that is the answer.

    *headers* are added to an EventSource's, or replace them (``{"Accept": "*/*"}`` is a request that is not announced).
    *timeout*: seconds to wait for the headers and, by default, for each event. *request*: more for werkzeug's
    `EnvironBuilder <https://werkzeug.palletsprojects.com/en/stable/test/#werkzeug.test.EnvironBuilder>`_, such as ``method``,
    ``json``, ``query_string``. What the application raises before it answers is raised here.
    """
    return OpenStream(application, path, {**_EVENT_SOURCE, **(headers or {})}, timeout, request)


class OpenStream:
    """A stream as its client sees it. Iterate over it for all events to its end; leave the ``with`` block to leave early.

    For one thread. ``received`` is every byte so far, with comments; ``last_event_id`` and ``retry`` are what a browser would
    remember.
    """

    def __init__(
        self, application: WSGIApplication, path: str, headers: Mapping[str, str], timeout: float, request: dict[str, Any]
    ) -> None:
        self._timeout = timeout
        self._reader = EventReader()
        self._events: deque[Event] = deque()
        self._client, servers_side = socket.socketpair()
        # Where the development server puts the client's connection.
        overrides = {"werkzeug.socket": servers_side, **request.pop("environ_overrides", {})}
        self._application = _WithDeadline(application, servers_side)
        self._application.allow(timeout)
        try:
            response = Client(self._application).open(path, headers=headers, environ_overrides=overrides, **request)
        except BaseException:
            self.leave()
            raise
        self.status: str = response.status
        self.status_code: int = response.status_code
        self.headers: Headers = response.headers
        self._received = bytearray()
        self._response = response
        self._blocks = iter(response.response)

    @property
    def received(self) -> bytes:
        """All bytes so far, with comments."""
        return bytes(self._received)

    @property
    def last_event_id(self) -> str:
        """What the client would send as ``Last-Event-ID``."""
        return self._reader.last_event_id

    @property
    def retry(self) -> int | None:
        """Milliseconds that the client would wait before it comes back, None for its default."""
        return self._reader.retry

    def next_event(self, timeout: float | None = None) -> Event:
        """Return the next event. Raises `TimeoutError` after *timeout* seconds, `EOFError` at the end of the stream."""
        self._application.allow(self._timeout if timeout is None else timeout)
        while not self._events:
            try:
                block = next(self._blocks)
            except StopIteration:
                raise EOFError(f"the stream ended after {len(self._received)} bytes: ...{self.received[-100:]!r}") from None
            assert isinstance(block, bytes)
            self._received += block
            self._events.extend(self._reader.feed(block))
        return self._events.popleft()

    def __iter__(self) -> Iterator[Event]:
        while True:
            try:
                yield self.next_event()
            except EOFError:
                return

    def leave(self) -> None:
        """Close the connection as a client does that leaves, and wait until *application* has let go of it (5 s at most).

        Wrapped, it lets go within half a second; what it wraps is closed when it yields next, as with a real server.
        """
        self._client.close()
        self._application.close()

    def __enter__(self) -> OpenStream:  # noqa: PYI034  (typing.Self came with 3.11)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.leave()


class _WithDeadline:
    """A WSGI application that runs another on a relay thread and raises `TimeoutError` when that takes too long."""

    def __init__(self, application: WSGIApplication, servers_side: socket.socket) -> None:
        self._application = application
        self._servers_side = servers_side
        self._relay: Relay | None = None
        self._deadline = 0.0

    def allow(self, timeout: float) -> None:
        """Let the next block take *timeout* seconds from now."""
        self._deadline = time.monotonic() + timeout

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        relay = self._relay = Relay(self._application, environ, HandOff(read_ahead=_READ_AHEAD, max_block=_READ_AHEAD))
        relay.start()
        while not relay.knows_headers:
            self._wait(relay, "headers")
        if not relay.has_returned:
            relay.raise_error()
        start = relay.commit()
        if start is not None:
            start_response(start.status, start.headers)
        return _Blocks(relay, self._wait) if relay.unrelayed is None else relay.unrelayed

    def close(self) -> None:
        if self._relay is not None:
            self._relay.stop()
            self._relay.join(5.0)
            self._relay.close()
        self._servers_side.close()

    def _wait(self, relay: Relay, what: str) -> None:
        left = self._deadline - time.monotonic()
        if left <= 0:
            raise TimeoutError(f"no {what} within the deadline")
        relay.blocks.wait(left)


class _Blocks:
    """Iterates over a relay's blocks; unlike a generator it can go on after a `TimeoutError`."""

    def __init__(self, relay: Relay, wait: Callable[[Relay, str], None]) -> None:
        self._relay = relay
        self._wait = wait
        self._is_first = True

    def __iter__(self) -> Iterator[bytes]:
        return self

    def __next__(self) -> bytes:
        if self._is_first:  # the test client waits for a block before it shows the headers
            self._is_first = False
            return b""
        while True:
            is_finished = self._relay.blocks.is_finished
            block = self._relay.blocks.take_unchanged()
            if block is not None:
                return block
            if is_finished:
                self._relay.raise_error()
                raise StopIteration
            self._wait(self._relay, "event")
