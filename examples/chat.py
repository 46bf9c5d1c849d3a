"""A fetch()-based chat: its client sends a POST and ``Accept: */*``, so its path announces it. Run it with

gunicorn --worker-class gthread --threads 50 --chdir examples chat:application
curl -N -d 'How are you?' http://127.0.0.1:8000/chat
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from ssemiddleware import Event, SSEMiddleware, accepts_event_stream

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIEnvironment


def chat(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    """Answer a question word by word."""
    if environ["PATH_INFO"] != "/chat":
        start_response("404 Not Found", [("Content-Type", "text/plain")])
        return
    stream = environ["ssemiddleware.stream"]
    question = environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0)).decode()
    start_response("200 OK", [("Content-Type", "text/event-stream")])
    for word in f"You asked: {question} I think so.".split():
        if stream.closed.wait(0.1):
            return
        yield bytes(Event(json={"token": word + " "}))
    yield bytes(Event("[DONE]"))


def announced(environ: WSGIEnvironment) -> bool:
    """Tell whether the request wants an event stream."""
    return environ["PATH_INFO"] == "/chat" or accepts_event_stream(environ)


application = SSEMiddleware(chat, announced=announced)
