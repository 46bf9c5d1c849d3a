"""What the readers are sent, for gunicorn: ``/fold/orders/10000000`` is one event with that `documents.document`, folded.

``/`` is the page that browsers read it in. ``/prepared/orders/10000000`` makes the document before it is asked for, so that no
measured time includes its making. ``/wrapped`` and ``/wrapped-oversized`` lead to the streams of `benchmarks.shapes`, with
nothing and with everything that can be done to large events.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.applications import bare
from benchmarks.readers.documents import document
from ssemiddleware import Fold, Fragment, SSEMiddleware
from ssemiddleware.__main__ import CLIENT

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment

_PAGES = {
    "": ("text/html; charset=utf-8", Path(__file__).with_name("page.html")),
    "client.js": ("text/javascript; charset=utf-8", CLIENT),
}


@lru_cache(maxsize=2)
def _event(kind: str, size: int) -> bytes:
    return b"event: report\nid: 42\ndata: %b\n\n" % document(kind, size)


def one_event(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    """Answer with one event of the type ``report`` with the ID 42, as one block."""
    _, _, kind, size = environ["PATH_INFO"].split("/")
    start_response("200 OK", [("Content-Type", "text/event-stream")])
    return iter((_event(kind, int(size)),))


def in_fragments(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    """Answer in fragments, but only a client that asks for them: another reader would prove nothing."""
    if "sse-fragments=1" not in environ["QUERY_STRING"]:
        start_response("400 Bad Request", [("Content-Type", "text/plain")])
        return [b""]
    return _FRAGMENTED(environ, start_response)


def prepared(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    """Make an event to be asked for."""
    _, _, kind, size = environ["PATH_INFO"].split("/")
    _event(kind, int(size))
    start_response("200 OK", [("Content-Type", "text/plain"), ("Content-Length", "0")])
    return []


_FRAGMENTED = SSEMiddleware(one_event, oversized=Fragment())

_WAYS: dict[str, WSGIApplication] = {
    "plain": SSEMiddleware(one_event),
    "fold": SSEMiddleware(one_event, oversized=Fold()),
    "fragment": in_fragments,
    "prepared": prepared,
    "wrapped": SSEMiddleware(bare),
    "wrapped-oversized": SSEMiddleware(bare, oversized=[Fold(), Fragment(when=lambda environ: True)]),  # noqa: ARG005
}


def served(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    """Answer in the way that the path's first part names."""
    way = environ["PATH_INFO"].split("/", 2)[1]
    if way in _WAYS:
        return _WAYS[way](environ, start_response)
    content_type, file = _PAGES[way]
    content = file.read_bytes()
    start_response("200 OK", [("Content-Type", content_type), ("Content-Length", str(len(content)))])
    return [content]
