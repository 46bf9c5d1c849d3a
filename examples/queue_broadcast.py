"""Broadcast to all clients of one process: a queue for each, iterated through `Stream.each`. Run it with

gunicorn --worker-class gthread --threads 50 --chdir examples queue_broadcast:application
curl -N http://127.0.0.1:8000/events
curl -d 'Hello!' http://127.0.0.1:8000/publish

With more than one worker, each has clients of its own: see ``redis_broadcast``.
"""

from __future__ import annotations

import queue
from collections.abc import Iterable
from typing import TYPE_CHECKING

from ssemiddleware import Event, SSEMiddleware

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIEnvironment

_MOST_WAITING = 1000  # texts for one client: a client that reads more slowly loses the others

mailboxes: set[queue.Queue[str | None]] = set()


def broadcast(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    """Send what is published to everybody who listens."""
    if environ["PATH_INFO"] == "/publish" and environ["REQUEST_METHOD"] == "POST":
        publish(environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0)).decode())
        start_response("204 No Content", [])
        return []
    if environ["PATH_INFO"] == "/events":
        start_response("200 OK", [("Content-Type", "text/event-stream")])
        return events(environ)
    start_response("404 Not Found", [("Content-Type", "text/plain")])
    return [b"There are /events and /publish.\n"]


def events(environ: WSGIEnvironment) -> Iterable[bytes]:
    """Return the stream of one client, whose mailbox is there from now on."""
    stream = environ["ssemiddleware.stream"]
    mailbox: queue.Queue[str | None] = queue.Queue()
    mailboxes.add(mailbox)
    stream.on_close(lambda: mailboxes.discard(mailbox))
    texts = stream.each(iter(mailbox.get, None), stop=lambda: mailbox.put(None), endless=True)
    return (bytes(Event(text)) for text in texts)


def publish(text: str) -> None:
    """Put a text into every mailbox."""
    for mailbox in mailboxes.copy():
        if mailbox.qsize() < _MOST_WAITING:
            mailbox.put(text)


application = SSEMiddleware(broadcast)
