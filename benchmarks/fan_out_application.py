"""What `fan_out` asks: one source, a thread that makes ten events a second and hands each to all subscribers' queues.

``/bare/fan-out`` is a subscriber's stream, ``/wrapped/fan-out`` the same through `SSEMiddleware`; ``/bare/subscribers`` tells
how many there are. An event is the `time.monotonic_ns` at which it was made.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Iterator
from queue import SimpleQueue
from typing import TYPE_CHECKING

from ssemiddleware import SSEMiddleware

from .applications import bare as other_answers

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment

EVENTS_A_SECOND = 10


class Source:
    """Makes events on a thread of its own, which starts with the first `run`, and hands each to *hand_out*."""

    def __init__(self, hand_out: Callable[[bytes], object]) -> None:
        self._hand_out = hand_out
        self._starting = threading.Lock()
        self._is_running = False

    def run(self) -> None:
        """Start the thread, unless it runs."""
        with self._starting:
            if not self._is_running:
                self._is_running = True
                threading.Thread(target=self._make_events, daemon=True).start()

    def _make_events(self) -> None:
        due = time.monotonic()
        while True:
            due = max(due + 1 / EVENTS_A_SECOND, time.monotonic())
            time.sleep(max(0.0, due - time.monotonic()))
            self._hand_out(b"data: %d\n\n" % time.monotonic_ns())


_queues: set[SimpleQueue[bytes]] = set()


def _hand_to_all(event: bytes) -> None:
    for queue in _queues.copy():
        queue.put(event)


_source = Source(_hand_to_all)


def events() -> Iterator[bytes]:
    """Subscribe, and yield what the source makes."""
    queue: SimpleQueue[bytes] = SimpleQueue()
    _queues.add(queue)
    try:
        while True:
            yield queue.get()
    finally:
        _queues.discard(queue)


def application(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    """Answer with a subscriber's stream, or with how many there are."""
    what = environ["PATH_INFO"].split("/", 2)[2]
    if what == "subscribers":
        answer = b"%d" % len(_queues)
        start_response("200 OK", [("Content-Type", "text/plain"), ("Content-Length", str(len(answer)))])
        return [answer]
    if what != "fan-out":
        return other_answers(environ, start_response)
    _source.run()
    start_response("200 OK", [("Content-Type", "text/event-stream")])
    return events()


_WAYS: dict[str, WSGIApplication] = {"bare": application, "wrapped": SSEMiddleware(application)}


def served(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    """Answer bare or wrapped, as the path's first part says."""
    return _WAYS[environ["PATH_INFO"].split("/", 2)[1]](environ, start_response)
