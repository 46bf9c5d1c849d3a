r"""`SSEMiddleware` wraps a WSGI application (PEP 3333) and takes care of its event streams.

>>> def application(environ, start_response):
...     start_response("200 OK", [("Content-Type", "text/event-stream")])
...     yield b"data: hello\n\n"
>>> SSEMiddleware(application, heartbeat=20)
SSEMiddleware(<function application at ...>, heartbeat=20)

The application is called, iterated and closed on the server's thread, exactly as without the middleware. A response that is
no event stream is returned as the very same object. Beside the streams runs one thread a process, the watcher.
"""

from __future__ import annotations

import functools
import logging
import math
import os
import time
from collections.abc import Callable, Hashable, Iterable, Sequence
from typing import TYPE_CHECKING, NoReturn

from .admission import Admission
from .care import Care
from .ending import RAISED, REFUSED, Round
from .handle import Stream, run_all
from .memory import MemoryGovernor
from .options import Options, StreamsPer, check, is_seconds_to_wait
from .oversized import Fold, Fragment
from .oversized.steps import OversizedSteps
from .refusing import RETRY, Refusals
from .request import Request, accepts_event_stream
from .response import Headers, amend, has_body, is_encoded
from .servers import find_server, stop_worker
from .service import Service
from .source import Sources
from .start import Start
from .starting_line import starting_lines
from .stats import MAX_STREAMS_PER, MEMORY, Stats
from .stream import EventStream
from .watcher import watcher
from .wire import Wire

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment

    from .servers.server import Server, StartThread


_log = logging.getLogger("ssemiddleware")

STREAM = "ssemiddleware.stream"  # the key of the `Stream` in environ
_MOST_LOGGED = 100  # subjects of which a line is logged: clients choose the paths
_LOOK_EVERY = 0.01  # seconds, while a drain waits
_REFUSED_FOR = 3000  # milliseconds, where the reconnection time is left to the browser


class SSEMiddleware:
    """A WSGI application around *application* whose event streams arrive at once, stay alive and end in good order.

    *announced*: a callable that takes the environ and returns whether the request asks for an event stream. By default
    ``Accept`` must name ``text/event-stream``; name a fetch()-based client by its path, say. Only such streams get heartbeats.

    *heartbeat*: seconds of silence after which a stream gets a comment; None turns heartbeats and the opening comment off.

    *max_block*: bytes of the largest block that the server gets, 16 or more. *memory*: the `MemoryGovernor` that slows streams
    down when memory is low, and refuses them when it is critical; None for neither.

    *max_streams*: how many streams may be open in this process. None: three quarters of the server's threads where their number
    is known (gunicorn's gthread, waitress, a2wsgi, cheroot, mod_wsgi, uWSGI with ``--threads``), so that ordinary requests
    always find one; no limit elsewhere. One more is refused: an EventSource reconnects by itself, others get 503 and
    Retry-After.
    *max_streams_per*: a number, and a callable that takes the environ and returns a key, a client's address or a user's number,
    say: so many streams may be open for one key in this process. None as the key: it is not limited.
    *on_refused*: a WSGI application that answers such a request instead; ``environ["ssemiddleware.retry"]`` has the
    milliseconds for which the client should wait. An EventSource does not reconnect after any status but 200.

    *oversized*: what is done to events that are too large for their readers: `Fold(...)`, `Fragment(...)` or a list of both;
    None leaves every byte as it is, and logs the first line that is too long for some readers.

    *send_deadline*: close a stream whose client has read nothing for this many seconds; None for never. *lease*: end an
    EventSource's stream after this many seconds, 10 % more or less; it reconnects by itself. None for never. *retry*:
    milliseconds that an EventSource waits before it reconnects to a stream that we ended, from three quarters to one and a half
    of it; None leaves it to the browser (3 or 5 s for all of them at once).

    Immutable, and shared by all threads. Raises `ValueError` or `TypeError` for an option that it does not know or cannot use.
    """

    __slots__ = ("_admission", "_drained", "_limits", "_logged", "_oversized", "_refusals", "_rounds", "_sources", "options")

    options: Options
    _admission: Admission
    _drained: list[bool]  # not empty once the process is said to stop; an Event would take a lock in a signal handler
    _limits: dict[int, int | None]  # how many streams may be open, by process
    _logged: set[str]  # the subjects of which a line has been logged
    _oversized: OversizedSteps
    _refusals: Refusals
    _rounds: dict[int, Round]  # by process
    _sources: Sources

    def __init__(
        self,
        application: WSGIApplication,
        *,
        announced: Callable[[WSGIEnvironment], bool] = accepts_event_stream,
        heartbeat: float | None = 15.0,  # the standard suggests about 15; HAProxy gives up at 50, nginx and AWS at 60
        max_block: int = 131072,  # see benchmarks/block_size.py
        memory: MemoryGovernor | None = MemoryGovernor(),  # noqa: B008  (one for all: reads nothing before it is used)
        max_streams: int | None = None,  # so that a handful of tabs does not take the whole site down
        max_streams_per: StreamsPer | None = None,  # six is what browsers open over HTTP/1 for one site
        on_refused: WSGIApplication | None = None,
        oversized: Fold | Fragment | Sequence[Fold | Fragment] | None = None,  # the bytes are the application's
        send_deadline: float | None = 60.0,  # as long as nginx gives a client between two reads
        lease: float | None = None,  # a connection may stay for as long as its client does
        retry: int | None = 3000,  # what Chromium and WebKit do by themselves, but for the jitter
        **unknown: NoReturn,
    ) -> None:
        if unknown:
            given = ", ".join(f"{name}={value!r}" for name, value in dict[str, object](unknown).items())
            raise TypeError(f"unknown option {given}; the options are {', '.join(_DEFAULTS)}")
        options = Options(
            application=application, announced=announced, heartbeat=heartbeat, max_block=max_block, memory=memory,
            max_streams=max_streams, max_streams_per=max_streams_per, on_refused=on_refused, oversized=oversized,
            send_deadline=send_deadline, lease=lease, retry=retry,
        )  # fmt: skip
        admission = Admission(
            limit=self._limit,
            per_key=max_streams_per and max_streams_per[0],
            counts_all=max_streams is None,
            retry=_REFUSED_FOR if retry is None else retry,
            memory=memory,
        )
        admission.expect(max_streams)
        slots: dict[str, object] = {
            "options": options,
            "_admission": admission,
            "_drained": [],
            "_limits": {},
            "_logged": set(),
            "_oversized": OversizedSteps(options.reshapes, self._log_once),
            "_refusals": Refusals(),
            "_rounds": {},
            "_sources": Sources(),
        }
        for name, value in slots.items():
            object.__setattr__(self, name, value)

    def __setattr__(self, name: str, value: object) -> None:
        raise AttributeError(f"SSEMiddleware is immutable: {name} cannot be set")

    def __repr__(self) -> str:
        given = {name: getattr(self.options, name) for name in _DEFAULTS}
        changed = [f", {name}={value!r}" for name, value in given.items() if value is not _DEFAULTS[name]]
        return f"SSEMiddleware({self.options.application!r}{''.join(changed)})"

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        """Answer one request; called by the server, on its thread."""
        outer = environ.get(STREAM)
        if outer is not None and not outer.is_answered:  # wrapped twice: the outer one does it all
            return self.options.application(environ, start_response)
        request = Request(environ, self.options.announced)
        handle = environ[STREAM] = Stream(environ.get("HTTP_LAST_EVENT_ID", ""), request.path, self._sources)
        service = None
        if request.takes_only_event_stream:
            service = self.maybe_begin(request, handle, may_refuse=True)
            if service is None:
                return self.refuse(request, handle, start_response)
            # A compressing layer, inside or outside, would hold events back until it has enough of them.
            environ.pop("HTTP_ACCEPT_ENCODING", None)
        start = Start(self, request, handle, start_response, service)
        try:
            iterable = self.options.application(environ, start)
            handle.is_answered = True
            if start.is_refused:
                return start.refuse_instead_of(iterable)
            return iterable if start.is_another else EventStream(iterable, start)
        except BaseException:
            handle.is_answered = True  # the same environ may come again: some layers ask again what has raised
            start.finish(RAISED)
            raise

    def stats(self) -> Stats:
        """Return what the streams of this process carry and have carried, as numbers. Callable from any thread."""
        return self._admission.stats(sources_left=len(self._sources.left))

    def drain(self, wait: float | None = None) -> bool:
        """End all streams of this process, and those to come: whole events, a ``retry:`` for an EventSource, a clean end.

        Return whether the last bytes of all of them have been handed to the kernel. *wait*: seconds to wait for that, None for
        none. Answers to other clients may be finite, so they run to their own end, or to the server's.

        For a server that lets its application know before it stops; `docs/servers.md` has the recipes, and under gunicorn
        nothing needs to be called. Callable from any thread; without *wait* from a signal handler too. A thread that serves a
        stream must not wait: that stream would wait for it. There is no way back: it is meant for a process that stops.
        """
        check("wait", wait, is_seconds_to_wait, "a number of seconds from 0, or None")
        self._drained.append(True)
        stop_worker()
        deadline = time.monotonic() + (wait or 0)
        while not (is_over := self._is_drained()) and time.monotonic() < deadline:
            time.sleep(_LOOK_EVERY)
        return is_over

    def _is_drained(self) -> bool:
        """Tell whether no stream is open, and nothing is left to be sent of any."""
        if self._admission.open:
            return False
        process = os.getpid()
        of_process = self._rounds.get(process)
        if of_process is None:
            return True
        return not watcher(process).has_streams(of_process) and of_process.have_last_bytes_left

    # -- what a `Start` asks

    def maybe_begin(self, request: Request, handle: Stream, *, may_refuse: bool) -> Service | None:
        """Return the service of a new stream, None if it is refused; with *may_refuse* False it is not."""
        server = find_server(request.environ)
        round_of_process = self._round(server)
        key = None if self.options.max_streams_per is None else self._key(request.environ, self.options.max_streams_per)
        place = self._admission.maybe_admit(handle, is_announced=request.is_announced, always=not may_refuse, key=key)
        if place is None:
            return None
        watching = watcher(round_of_process.process)
        try:
            service = Service(
                request, handle, place,
                options=self.options, admission=self._admission, round=round_of_process, server=server, over=watching.forget,
            )  # fmt: skip
            if not watching.add(service, self._care):
                round_of_process.looked_at = math.inf  # nobody waits for a watcher that never comes
        except BaseException:
            place.forget()
            raise
        return service

    def amend(self, service: Service, request: Request, status: str, headers: Headers) -> Headers:
        """Return an event stream's headers as they should leave, and give the service its wire."""
        self._refusals.see_headers(request, headers)
        amended, dropped = amend(headers)
        if dropped:
            self._log_once(
                ", ".join(sorted(dropped)).lower(),
                f"dropped {', '.join(dropped)} from an event stream: hop-by-hop headers belong to the server (PEP 3333; "
                "some answer 500 to them), and a length or ETag is wrong for a stream that comments are added to",
            )
        is_opaque = is_encoded(headers) or not has_body(status)
        service.wire = Wire(
            max_block=self.options.max_block,
            oversized=None if is_opaque else self._oversized.maybe_events(request),
            watch=None if is_opaque or not self._oversized.must_watch else self._oversized.watch,
            path=service.handle.path,
            is_opaque=is_opaque,
            carried=service.place.carried,
        )
        return amended

    def refuse(self, request: Request, handle: Stream, start_response: StartResponse) -> Iterable[bytes]:
        """Answer in place of a stream that gets no place."""
        run_all(handle.finish(REFUSED))
        self._log_once(
            f"refused by {handle.refused_by}",
            f"refused {request.path!r}: {self._why(handle.refused_by)}; further refusals are counted in stats().refused_by",
        )
        retry = request.environ[RETRY] = self._admission.next_retry()
        if self.options.on_refused is None:
            return self._refusals.answer(request, start_response, retry)
        return self.options.on_refused(request.environ, start_response)

    def _why(self, refused_by: str) -> str:
        if refused_by == MEMORY:
            return "memory is critical"
        if refused_by == MAX_STREAMS_PER:
            return f"{(self.options.max_streams_per or (0,))[0]} event streams are open for one key (max_streams_per)"
        return f"{self._admission.open} event streams are open (max_streams)"

    def _key(self, environ: WSGIEnvironment, per: StreamsPer) -> Hashable | None:
        """Return what the streams of this request are limited by; None if that cannot be told."""
        try:
            key = per[1](environ)
            hash(key)
        except Exception as error:
            line = "the callable of max_streams_per raised: its streams are not limited by a key"
            self._log_once("max_streams_per", line, error)
            return None
        return key

    # -- this process

    def _round(self, server: Server) -> Round:
        process = os.getpid()
        round_of_process = self._rounds.get(process)
        if round_of_process is not None:
            return round_of_process
        threads = server.threads()
        self._limit_streams(threads)
        drained: list[bool] = self._drained
        made = Round(functools.partial(bool, drained), self._admission.relieve, lambda: Stream.ends_told)
        round_of_process = self._rounds.setdefault(process, made)
        if round_of_process is made:  # else another thread was faster
            for level, line in starting_lines(server, threads=threads, limit=self._limit(), heartbeat=self.options.heartbeat):
                _log.log(level, line)
        return round_of_process

    def _limit(self) -> int | None:
        return self.options.max_streams or self._limits.get(os.getpid())

    def _limit_streams(self, threads: int | None) -> None:
        """Leave the last quarter of the server's threads, at least one, to requests that are no streams."""
        if threads is None or self.options.max_streams is not None:
            self._limits[os.getpid()] = None
            return
        limit = self._limits[os.getpid()] = max(1, threads - max(1, threads // 4))
        self._admission.expect(limit)

    def _care(self, service: Service, start: StartThread) -> Care:
        return Care(service, self._log_kept, start)

    def _log_kept(self, path: str) -> None:
        self._log_once(
            f"kept {path!r}",
            f"{path!r} keeps a thread of the server although its client is gone: wait with stream.closed.wait(), wake the "
            "application with stream.on_close(), or iterate what blocks through stream.each()",
        )

    def _log_once(self, subject: str, line: str, error: Exception | None = None) -> None:
        if subject not in self._logged and len(self._logged) < _MOST_LOGGED:
            self._logged.add(subject)
            _log.log(logging.WARNING if error is None else logging.ERROR, line, exc_info=error)


_DEFAULTS: dict[str, object] = SSEMiddleware.__init__.__kwdefaults__ or {}
