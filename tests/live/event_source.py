"""An EventSource as WHATWG 9.2 has it, as far as reconnecting goes: it obeys ``retry:``, and any status but 200 is its end."""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Iterable
from contextlib import suppress

from .client import Connection, Headers, TooLate
from .serving import EVENT_SOURCE, Server

BROWSER: Headers = [*EVENT_SOURCE, ("Pragma", "no-cache")]  # all that they send of it; Varnish takes Cache-Control away
DEFAULT_RETRY = 3.0  # seconds, in Chromium and WebKit
LOOKS_EACH = 0.2  # seconds, whether it was closed


class EventSource:
    """A client on a thread of its own, until `close` is called."""

    def __init__(self, server: Server, target: str) -> None:
        self.events: list[float] = []  # when each came
        self.died_of: int | None = None  # the status
        self._server = server
        self._target = target
        self._retry = DEFAULT_RETRY
        self.closed = threading.Event()
        self.thread = threading.Thread(target=self._run, daemon=True)
        self.thread.start()

    def close(self) -> None:
        """Ask the thread to end, and wait for it."""
        close_all([self])

    def wait_for_event(self, since: float, within: float) -> bool:
        """Tell whether an event came after *since*, on the clock of `time.monotonic`, in the next seconds."""
        deadline = time.monotonic() + within
        while not (self.events and self.events[-1] > since):
            if time.monotonic() > deadline or self.died_of is not None:
                return False
            time.sleep(0.02)
        return True

    def _run(self) -> None:
        while self.died_of is None and not self.closed.is_set():
            try:
                connection = self._server.ask(self._target, BROWSER)
                self._read(connection)
                connection.disconnect()
            except (OSError, AssertionError):  # refused, or no whole response: the network's error, after which it reconnects
                pass
            self.closed.wait(self._retry)

    def _read(self, connection: Connection) -> None:
        while not connection.status and not self.closed.is_set():
            with suppress(TooLate):
                connection.read_headers(LOOKS_EACH)
        if connection.status not in (0, 200):
            self.died_of = connection.status
        while connection.ended is None and self.died_of is None and not self.closed.is_set():
            before = len(connection.arrivals)
            connection.read_for(LOOKS_EACH)
            self.events += [arrival.at for arrival in connection.arrivals[before:] if b"data:" in arrival.block]
        opening = connection.opening[0] if connection.opening else b""
        for milliseconds in re.findall(rb"^retry: ([0-9]+)$", opening + connection.body, re.MULTILINE):
            self._retry = int(milliseconds) / 1000


def close_all(clients: Iterable[EventSource]) -> None:
    """Ask the threads of all of them to end, and wait for these."""
    clients = list(clients)
    for client in clients:
        client.closed.set()
    for client in clients:
        client.thread.join()
