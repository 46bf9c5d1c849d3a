"""Clients that read few bytes a second of a large event, and reconnect until they have all their events."""

from __future__ import annotations

import http.client
import socket
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress

from ssemiddleware.reading import EventReader

from .reading import connect
from .shapes import check_orders

_AT_ONCE = 10_000  # bytes of one read
_RECEIVE_BUFFER = 65536  # bytes that the kernel holds for a client that is slow
_RECONNECT_AFTER = 3.0  # seconds: what Chromium and WebKit do without a ``retry:``


class SlowReader:
    """Reads *count* events at *rate* bytes a second. As an EventSource does, it reconnects with the last event's id.

    A client that does not announce itself is refused with 503, and obeys Retry-After. `run` is for a thread of its own.
    """

    def __init__(self, port: int, path: str, *, announced: bool, count: int, rate: int) -> None:
        self.served_at: float | None = None  # time.monotonic()
        self.refused = 0
        self.breaks: list[str] = []  # connections that were cut, refused or never answered: how
        self._port, self._path, self._count, self._rate = port, path, count, rate
        self._headers = {"Accept": "text/event-stream", "Cache-Control": "no-cache"} if announced else {"Accept": "*/*"}
        self._last_event_id = ""
        self._events = 0
        self._given_up = threading.Event()
        self._socket: socket.socket | None = None
        self._began, self._received = 0.0, 0  # of this connection: time.monotonic(), and bytes

    def run(self) -> None:
        """Read until all events are there, or `give_up` is called."""
        wait = 0.0
        while self.served_at is None and not self._given_up.wait(wait):
            try:
                wait = self._read_once()
            except (OSError, http.client.HTTPException) as error:
                if not self._given_up.is_set():
                    self.breaks.append(f"{error!r} after {time.monotonic() - self._began:.1f} s and {self._received:,} bytes")
                wait = _RECONNECT_AFTER

    def give_up(self) -> None:
        """Let `run` end soon. For any thread."""
        self._given_up.set()
        with suppress(AttributeError, OSError):  # none, or closed
            self._socket.shutdown(socket.SHUT_RDWR)  # type: ignore[union-attr]  # another thread may set it meanwhile

    def _read_once(self) -> float:
        """Read one response; return after how many seconds to ask again."""
        self._began, self._received = time.monotonic(), 0
        connection = http.client.HTTPConnection("127.0.0.1", self._port)
        self._socket = connection.sock = connect(self._port, receive_buffer=_RECEIVE_BUFFER)
        try:
            ours = {"Last-Event-ID": self._last_event_id} if self._last_event_id else {}
            connection.request("GET", self._path, headers=self._headers | ours)
            with connection.getresponse() as response:
                if response.status == 503:
                    self.refused += 1
                    return float(response.headers["Retry-After"])
                return self._read_events(response)
        finally:
            connection.close()
            self._socket = None

    def _read_events(self, response: http.client.HTTPResponse) -> float:
        if response.status != 200 or response.headers.get_content_type() != "text/event-stream":
            raise AssertionError(f"no event stream: {response.status} {response.headers}")
        reader, events = EventReader(), self._events
        began = time.monotonic()
        while not self._given_up.is_set() and (block := response.read1(_AT_ONCE)):
            for event in reader.feed(block):
                check_orders(event.data)
                self._events, self._last_event_id = self._events + 1, reader.last_event_id
            if self._events >= self._count:
                self.served_at = time.monotonic()
                return 0.0
            self._received += len(block)
            self._given_up.wait(max(0.0, began + self._received / self._rate - time.monotonic()))
        self.refused += reader.retry is not None and self._events == events
        return _RECONNECT_AFTER if reader.retry is None else reader.retry / 1000


@contextmanager
def reading(readers: Sequence[SlowReader]) -> Iterator[None]:
    """Let the *readers* read at the same time, and give up at the end."""
    threads = [threading.Thread(target=reader.run, daemon=True) for reader in readers]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        for reader in readers:
            reader.give_up()
        for thread in threads:
            thread.join(10)


def all_are_served(readers: Sequence[SlowReader]) -> bool:
    """Tell whether each has had all its events."""
    return all(reader.served_at is not None for reader in readers)
