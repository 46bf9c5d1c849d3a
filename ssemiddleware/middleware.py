r"""`SSEMiddleware`, which wraps a WSGI application (PEP 3333), and takes care of its event streams.

>>> def application(environ, start_response):
...     start_response("200 OK", [("Content-Type", "text/event-stream")])
...     yield b"data: hello\n\n"
>>> SSEMiddleware(application, heartbeat=20)
SSEMiddleware(<function application at ...>, heartbeat=20)

The application is called, iterated and closed on the server's thread, exactly as without the middleware. A response that is
no event stream is returned as the same object. One thread in each process, the watcher, serves all streams.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any, NoReturn

from .canary import canary as canary_stream
from .compression import Compress
from .ending import RAISED
from .handle import Stream
from .joining import JoiningStream
from .memory import MemoryGovernor
from .options import Options, StreamsPer, check, is_seconds_to_wait
from .oversized import Fold, Fragment
from .request import Request, accepts_event_stream, last_event_id_in_query
from .servers import stop_worker
from .start import Start
from .stats import Stats
from .stream import EventStream
from .streams import Streams

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment


STREAM = "ssemiddleware.stream"  # the key of the `Stream` in environ
_LOOK_EVERY = 0.01  # seconds between two looks while `drain` waits


class SSEMiddleware:
    """A WSGI application around *application* whose event streams arrive at once, stay open and end cleanly.

    *announced*: a callable that takes the environ and returns whether the request asks for an event stream. Only such streams
    get heartbeats. By default ``Accept`` must name ``text/event-stream``. Name a client that uses ``fetch()`` by its path.

    *heartbeat*: seconds of silence before a comment is sent, a sixteenth later at most. None turns heartbeats and the opening
    comment off.

    *max_block*: bytes of the largest block that the server gets, 16 or more. A larger one is cut, between events if possible.

    *memory*: the `MemoryGovernor` that limits how many large events are made at once when memory is low. None turns it off.

    *max_streams*: how many streams may be open in one process. None means three quarters of the server's threads, so that
    ordinary requests always find a free one, and no limit where the server has no fixed number of threads.

    *max_streams_per*: a number and a callable that takes the environ and returns a key, such as a client's address or a user's
    name. At most that many streams may be open for one key in one process. A request whose key is None has no such limit.

    *on_refused*: a WSGI application that answers a refused request in place of our answer. It finds the milliseconds for which
    the client should wait in ``environ["ssemiddleware.retry"]``. An EventSource does not reconnect after any status but 200.

    *oversized*: what is done to events that are too large for their readers: `Fold()`, `Fragment()` or a list of both. None
    leaves every byte as it is, and logs the first line that is too long for some readers.

    *send_deadline*: close a stream whose client has read nothing for this many seconds. None means never.

    *lease*: end an EventSource's stream after this many seconds, 10 % more or less. It reconnects by itself. None means never.

    *retry*: milliseconds after which an EventSource reconnects to a stream that we ended, from 0.75 to 1.5 times that. They are
    sent at the stream's end, and in place of the opening comment. None leaves the time to the browser: 3 or 5 seconds, the same
    for all clients.

    *last_event_id_parameter*: the name of a query parameter that is read where the ``Last-Event-ID`` header is missing:
    ``"lastEventId"`` for polyfills. None means that only the header is read.

    *on_open*: a callable that takes the environ. It is called once for each stream, on the server's thread, when the response
    starts and before the first event. What it raises is logged once, and the stream goes on.

    *lint*: for development: log mistakes in the bytes of event streams, each kind of mistake once for each path. No byte is
    changed.

    *canary*: a path at which the middleware itself answers: an endless stream with the time and a number once a second.
    ``python -m ssemiddleware doctor`` measures delay, loss and cadence by it. None means that there is no such path.

    *compress*: ``Compress()`` compresses the streams of clients that accept gzip or zstd, and flushes each event at its end.
    None sends them uncompressed.

    *join*: seconds for which an event may wait to be sent together with those that follow it at once. For thousands of small
    events a second to one announced client. An event waits longer while the application keeps the interpreter (the GIL) or
    gevent's hub busy. None sends each event when it comes.

    Immutable, and shared by all threads. Raises `ValueError` or `TypeError` for an option that it does not know or cannot use.
    """

    __slots__ = ("_streams", "options")

    options: Options
    _streams: Streams

    def __init__(
        self,
        application: WSGIApplication,
        *,
        announced: Callable[[WSGIEnvironment], bool] = accepts_event_stream,
        heartbeat: float | None = 15.0,  # the standard suggests about 15; HAProxy gives up at 50, nginx and AWS at 60
        max_block: int = 131072,  # see benchmarks/block_size.py
        memory: MemoryGovernor | None = MemoryGovernor(),  # noqa: B008  (one for all: reads nothing before it is used)
        max_streams: int | None = None,  # a few open tabs must not stop the whole site
        max_streams_per: StreamsPer | None = None,  # six is what browsers open over HTTP/1 for one site
        on_refused: WSGIApplication | None = None,
        oversized: Fold | Fragment | Sequence[Fold | Fragment] | None = None,  # the bytes are the application's
        send_deadline: float | None = 60.0,  # as long as nginx gives a client between two reads
        lease: float | None = None,  # a connection may stay for as long as its client does
        retry: int | None = 3000,  # as Chromium and WebKit do by themselves, but with jitter
        last_event_id_parameter: str | None = None,  # what it means in a query is the application's choice
        on_open: Callable[[WSGIEnvironment], object] | None = None,
        lint: bool = False,  # it reads every byte
        canary: str | None = None,  # a stream more that anybody may open
        compress: Compress | None = None,  # it costs memory and time, and secrets need care (BREACH)
        join: float | None = None,  # an event must not wait, unless the application is known to go on
        **unknown: NoReturn,
    ) -> None:
        if unknown:
            given = ", ".join(f"{name}={value!r}" for name, value in dict[str, object](unknown).items())
            raise TypeError(f"unknown option {given}; the options are {', '.join(_DEFAULTS)}")
        options = Options(
            application=application, announced=announced, heartbeat=heartbeat, max_block=max_block, memory=memory,
            max_streams=max_streams, max_streams_per=max_streams_per, on_refused=on_refused, oversized=oversized,
            send_deadline=send_deadline, lease=lease, retry=retry, last_event_id_parameter=last_event_id_parameter,
            on_open=on_open, lint=lint, canary=canary, compress=compress, join=join,
        )  # fmt: skip
        object.__setattr__(self, "options", options)
        object.__setattr__(self, "_streams", Streams(options))

    def __setattr__(self, name: str, value: object) -> None:
        raise AttributeError(f"SSEMiddleware is immutable: {name} cannot be set")

    def __repr__(self) -> str:
        changed = [f", {name}={value!r}" for name, value in self._changed().items()]
        return f"SSEMiddleware({self.options.application!r}{''.join(changed)})"

    def __reduce__(self) -> tuple[Callable[[WSGIApplication], SSEMiddleware], tuple[WSGIApplication]]:
        """Copy or pickle the application and the options: another process, or a copy, has streams of its own."""
        return functools.partial(SSEMiddleware, **self._changed()), (self.options.application,)

    def _changed(self) -> dict[str, Any]:
        given = {name: getattr(self.options, name) for name in _DEFAULTS}
        return {name: value for name, value in given.items() if value is not _DEFAULTS[name]}

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        """Answer one request; called by the server, on its thread."""
        options, streams = self.options, self._streams
        application = options.application
        outer = environ.get(STREAM)
        if outer is not None and not outer.is_answered and outer.reason is None:  # wrapped twice: the outer one does all
            return application(environ, start_response)
        if options.canary is not None and options.canary == environ.get("PATH_INFO"):
            application = canary_stream
        request = Request(environ, options.announced)
        last_event_id = environ.get("HTTP_LAST_EVENT_ID", "")
        if not last_event_id and options.last_event_id_parameter is not None:
            last_event_id = last_event_id_in_query(environ, options.last_event_id_parameter)
        handle = environ[STREAM] = Stream(last_event_id, request.path, streams.sources)
        start = Start(streams, request, handle, start_response)
        try:
            if request.takes_only_event_stream:
                start.service = streams.maybe_begin(request, handle, may_refuse=True)
                if start.service is None:
                    return streams.refuse(request, handle, start_response)
                # A layer that compresses, inside or outside, would hold events back until it has enough of them.
                environ.pop("HTTP_ACCEPT_ENCODING", None)
            iterable = application(environ, start)
            handle.is_answered = start.is_started or start.is_refused  # otherwise it may still ask another middleware
            if start.is_refused:
                return start.refuse_instead_of(iterable)
            if start.is_another:
                start.is_left_alone = True
                return iterable
            if options.join is None:
                return EventStream(iterable, start)
            return JoiningStream(iterable, start, options.join, streams.expect)
        except BaseException:
            handle.is_answered = True  # some layers call an application that has raised once more, with the same environ
            start.finish(RAISED)
            raise

    def stats(self) -> Stats:
        """Return numbers about the streams of this process, open and ended. Callable from any thread."""
        return self._streams.stats()

    def drain(self, wait: float | None = None) -> bool:
        """End all streams of this process, because it stops. There is no way back.

        An EventSource's stream ends after a whole event, with a ``retry:`` and a clean end; a new one ends at once. The answer
        to any other client runs to its own end, or until the server stops.

        Return whether the last bytes of all streams have been handed to the kernel. *wait*: seconds to wait for that; None
        means not to wait.

        Under gunicorn nothing needs to be called. For other servers ``docs/servers.md`` has recipes. Callable from any thread,
        and without *wait* from a signal handler. Do not wait on a thread that serves a stream: that stream could not end.
        """
        check("wait", wait, is_seconds_to_wait, "a number of seconds from 0, or None")
        self._streams.drain()
        stop_worker()
        deadline = time.monotonic() + (wait or 0)
        while not (is_over := self._streams.are_drained) and time.monotonic() < deadline:
            time.sleep(_LOOK_EVERY)
        return is_over


_DEFAULTS: dict[str, object] = SSEMiddleware.__init__.__kwdefaults__ or {}
