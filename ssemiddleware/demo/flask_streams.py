"""Event streams of a plain Flask application. The same application is served bare and wrapped."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import TYPE_CHECKING

from flask import Flask, Response, abort, request

from ssemiddleware import Event
from ssemiddleware.demo.large_event import large_event, large_json
from ssemiddleware.demo.ticks import has_no_client_after, ticks

if TYPE_CHECKING:
    from _typeshed.wsgi import WSGIEnvironment


def create_flask_app() -> Flask:
    """Return the application with its four streams."""
    app = Flask(__name__, static_folder=None)
    for view in (ticker, silent, burst, large):
        app.add_url_rule(f"/{view.__name__}", view_func=view)
    app.add_url_rule("/large.json", view_func=large_without_stream)
    return app


def ticker() -> Response:
    """An event a second."""
    return event_stream(ticks(request.environ))


def silent() -> Response:
    """Nothing at all for 20 seconds, then one event."""
    return event_stream(silence_and_one_event(request.environ))


def burst() -> Response:
    """`n` small events as fast as they are taken, then one named `end`."""
    return event_stream(small_events(asked_number("n", default=100_000, most=1_000_000)))


def large() -> Response:
    """One event of `mb` megabytes (10^6 bytes) of JSON, on one line."""
    return event_stream(iter([large_event(asked_bytes())]))


def large_without_stream() -> Response:
    """The data of that event as an ordinary response, to compare with. It also makes the event, if that is not done yet."""
    return Response(large_json(asked_bytes()), mimetype="application/json")


def event_stream(blocks: Iterator[bytes]) -> Response:
    """Stream the blocks as Flask's documentation shows it, with no header but the type."""
    return Response(blocks, mimetype="text/event-stream")


def asked_bytes() -> int:
    """Read the size of a large event from the query, and return it in bytes."""
    return asked_number("mb", default=5, most=50) * 1_000_000


def asked_number(name: str, default: int, most: int) -> int:
    """Read a number from the query; anything but 1 to `most` is answered with 400 and the reason."""
    text = request.args.get(name, str(default))
    if re.fullmatch("[0-9]{1,9}", text) and 1 <= int(text) <= most:
        return int(text)
    reason = f"{name} must be a whole number from 1 to {most}, got {text!r}\n"
    return abort(Response(reason, 400, mimetype="text/plain"))


def silence_and_one_event(environ: WSGIEnvironment) -> Iterator[bytes]:
    """Yield one event after 20 seconds."""
    if not has_no_client_after(environ, 20.0):
        yield bytes(Event("the silence is over"))


def small_events(number: int) -> Iterator[bytes]:
    """Yield *number* events and the one that ends the burst."""
    for index in range(1, number + 1):
        yield b"data: %d\n\n" % index  # not Event: the demo measures how bytes are sent, not how they are made
    yield bytes(Event(str(number), event="end"))
