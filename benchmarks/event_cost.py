"""What an event costs in process, and a request that is no event stream: nanoseconds over the bare application, no server.

Needs nothing but ssemiddleware's own dependencies, so that it can be run on any Python.
"""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Iterable
from statistics import median
from typing import TYPE_CHECKING

from ssemiddleware import SSEMiddleware

from .results import Effort, Figure, Outcome, Target, at_most, number
from .shapes import ready

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment

# What a browser sends for a page, as gunicorn hands it on.
_ENVIRON: WSGIEnvironment = {
    "REQUEST_METHOD": "GET",
    "SCRIPT_NAME": "",
    "PATH_INFO": "/orders/4711",
    "QUERY_STRING": "",
    "SERVER_NAME": "127.0.0.1",
    "SERVER_PORT": "8000",
    "SERVER_PROTOCOL": "HTTP/1.1",
    "SERVER_SOFTWARE": "gunicorn/27.0.1",
    "REMOTE_ADDR": "127.0.0.1",
    "REMOTE_PORT": "50000",
    "HTTP_HOST": "127.0.0.1:8000",
    "HTTP_USER_AGENT": "Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/140.0.0.0 Safari/537.36",
    "HTTP_ACCEPT": "text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,image/webp,image/apng,*/*;q=0.8",
    "HTTP_ACCEPT_ENCODING": "gzip, deflate, br, zstd",
    "HTTP_ACCEPT_LANGUAGE": "en-GB,en;q=0.9",
    "HTTP_CACHE_CONTROL": "max-age=0",
    "wsgi.version": (1, 0),
    "wsgi.url_scheme": "http",
    "wsgi.input": None,
    "wsgi.errors": None,
    "wsgi.multithread": True,
    "wsgi.multiprocess": False,
    "wsgi.run_once": False,
}
_AS_AN_EVENT_SOURCE = {"HTTP_ACCEPT": "text/event-stream", "HTTP_CACHE_CONTROL": "no-cache"}
_PAGE = [b"<!doctype html><title>Order 4711</title>"]


def measure(effort: Effort) -> Outcome:
    """Measure an event stream's small event, and a request for a page."""
    outcome = Outcome("Cost in process, without a server")
    outcome.figures.append(cost_of_an_event("announced", {**_ENVIRON, **_AS_AN_EVENT_SOURCE}, effort))
    outcome.figures.append(cost_of_an_event("not announced", _ENVIRON, effort))
    outcome.figures.append(cost_of_a_page(effort))
    outcome.summary.append(outcome.figures[-1])
    return outcome


def cost_of_an_event(way: str, environ: WSGIEnvironment, effort: Effort) -> Figure:
    """Measure a wrapped generator of small events, pulled as servers do."""
    count = effort.pick(50_000, 10_000)

    def application(_environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        start_response("200 OK", [("Content-Type", "text/event-stream")])
        return ready(count, 58)

    def once(wrapped_or_bare: WSGIApplication) -> float:
        blocks = wrapped_or_bare(environ.copy(), _start_response)
        began = time.perf_counter_ns()
        for _ in blocks:
            pass
        nanoseconds = time.perf_counter_ns() - began
        blocks.close()  # type: ignore[attr-defined]  # a generator's or ours
        return nanoseconds / count

    wrapped = SSEMiddleware(application)
    if b"".join(wrapped(environ.copy(), _start_response)) != b"".join(ready(count, 58)):
        raise ValueError("the wrapped stream differs from the bare one")
    return figure(f"an event of 58 bytes, {way}", once, application, wrapped, effort)


def cost_of_a_page(effort: Effort) -> Figure:
    """Measure a request whose response is no event stream, and check that it is the application's own object."""
    count = effort.pick(10_000, 1_000)

    def application(_environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        start_response("200 OK", [("Content-Type", "text/html; charset=utf-8"), ("Content-Length", "40")])
        return _PAGE

    def once(wrapped_or_bare: WSGIApplication) -> float:
        environs = [_ENVIRON.copy() for _ in range(count)]  # each request has its own
        began = time.perf_counter_ns()
        for environ in environs:
            wrapped_or_bare(environ, _start_response)
        return (time.perf_counter_ns() - began) / count

    wrapped = SSEMiddleware(application)
    if wrapped(_ENVIRON.copy(), _start_response) is not _PAGE:
        raise ValueError("the response is not the object that the application returned")
    return figure("a request that is no event stream, same object", once, application, wrapped, effort, at_most(2000))


def figure(
    subject: str,
    once: Callable[[WSGIApplication], float],
    bare: WSGIApplication,
    wrapped: WSGIApplication,
    effort: Effort,
    target: Target | None = None,
) -> Figure:
    """Take the least of many medians, bare and wrapped side by side: what disturbs a measurement only ever adds to it."""
    turns = []
    for _ in range(effort.pick(20, 3)):
        pairs = [(once(bare), once(wrapped)) for _ in range(7)]
        turns.append([median(side) for side in zip(*pairs, strict=True)])
        gc.collect()  # it is off meanwhile; what 140,000 requests leave in cycles, if they do, would fill the memory
    least_bare, least_wrapped = map(min, zip(*turns, strict=True))
    added = [after - before for before, after in turns]
    absolute = f"{number(least_wrapped)} ns, bare {number(least_bare)} ns"
    return Figure(subject, least_wrapped - least_bare, min(added), max(added), " ns", absolute, target)


def _start_response(_status: str, _headers: object, _exc_info: object = None, /) -> Callable[[bytes], object]:
    return _PAGE.append  # never called
