"""The streams of one middleware: how one begins or is refused, what each process knows of them, and what is logged once."""

from __future__ import annotations

import functools
import logging
import math
import os
from collections.abc import Callable, Hashable, Iterable
from typing import TYPE_CHECKING

from .admission import Admission
from .care import SHORT_LEASE, Care
from .collecting import collections
from .compression import negotiate
from .encoded_wire import EncodedWire
from .ending import REFUSED, Round
from .handle import Stream, run_all
from .lint import LoggedLinter
from .oversized.steps import OversizedSteps
from .refusing import RETRY, Refusals
from .response import Headers, read_head
from .servers import find_server
from .service import Service
from .source import Sources
from .starting_line import log_once
from .stats import MAX_STREAMS_PER, Stats
from .watcher import watcher
from .wire import Wire

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIEnvironment

    from .joining import Held
    from .options import Options, StreamsPer
    from .request import Request
    from .servers.server import Server, StartThread

_log = logging.getLogger("ssemiddleware")

_MOST_LOGGED = 100  # different lines that are logged: some name a path, and clients choose the paths
_REFUSED_FOR = 3000  # milliseconds until a refused client reconnects, with ``retry=None``


class Streams:
    """The streams of a middleware with these *options*. For any thread, and in every process that has the middleware."""

    def __init__(self, options: Options) -> None:
        self.options = options
        per = options.max_streams_per
        self.admission = Admission(
            limit=self._limit,
            per_key=per and per[0],
            counts_all=options.max_streams is None,
            retry=_REFUSED_FOR if options.retry is None else options.retry,
            memory=options.memory,
        )
        self.admission.expect(options.max_streams)
        self.sources = Sources()
        self.observers: list[Callable[[Service, WSGIEnvironment], object]] = []  # called when a stream opens, on its thread
        self.refusals = Refusals()
        self._drained: list[bool] = []  # not empty once `drain` was called; an Event would take a lock in a signal handler
        self._limits: dict[int, int | None] = {}  # how many streams may be open, by process
        self._logged: set[str] = set()  # the subjects of the lines that have been logged
        self._oversized = OversizedSteps(options.reshapes, self._log_once)
        self._rounds: dict[int, Round] = {}  # by process

    def stats(self) -> Stats:
        """Return numbers about the streams of this process, open and ended."""
        return self.admission.stats(sources_left=len(self.sources.left))

    def drain(self) -> None:
        """Have the watcher end all streams. Takes no lock."""
        self._drained.append(True)

    @property
    def are_drained(self) -> bool:
        """Whether no stream of this process is open and all bytes have been sent."""
        if self.admission.open:
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
        place = self.admission.maybe_admit(handle, is_announced=request.is_announced, always=not may_refuse, key=key)
        if place is None:
            return None
        watching = watcher(round_of_process.process)
        try:
            service = Service(
                request, handle, place,
                options=self.options, admission=self.admission, round=round_of_process, server=server, over=watching.forget,
            )  # fmt: skip
            if not watching.add(service, self._care):
                round_of_process.looked_at = math.inf  # no thread must wait for a watcher that does not run
        except BaseException:
            place.cancel()
            raise
        if service.is_event_source and server.delays_others():
            line = f"{server.why_short_lease}. Until then an EventSource's stream ends after {SHORT_LEASE:g} s at the latest"
            self._log_once("short lease", line)
        return service

    def amend(self, service: Service, request: Request, status: str, headers: Headers) -> Headers:
        """Return the headers of an event stream as they should be sent, and give the service its wire."""
        origin = request.environ.get("HTTP_ORIGIN")
        if origin is not None:
            self.refusals.see_headers(origin, headers)
        head = read_head(status, headers)
        amended = head.headers.copy()
        if head.dropped:
            self._log_once(
                ", ".join(sorted(head.dropped)).lower(),
                f"dropped {', '.join(head.dropped)} from the headers of an event stream: an application must not set "
                "hop-by-hop headers (PEP 3333; some servers answer 500), and a length or ETag would be wrong, since comments "
                "are added",
            )
        encoding = ""
        if self.options.compress is not None:
            amended, encoding = negotiate(status, headers, amended, request)
        path, oversized, watch, lint = service.handle.path, None, None, None
        if not head.is_opaque:
            oversized = self._oversized.maybe_events(request)
            watch = self._oversized.watch if self._oversized.must_watch else None
            lint = LoggedLinter(path, self._log_once) if self.options.lint else None
        # By their places: each keyword would take a tenth of the time.
        service.wire = (EncodedWire if encoding else Wire)(
            self.options.max_block, service.carried, path, head.is_opaque, head.takes_lines, encoding, oversized, watch, lint
        )
        return amended

    def note_opened(self, service: Service, request: Request) -> None:
        """Call `on_open`: the response of a stream has started."""
        for observe in self.observers:
            observe(service, request.environ)
        if self.options.on_open is not None:
            try:
                self.options.on_open(request.environ)
            except Exception as error:
                self._log_once("on_open", "the callable of on_open raised; the stream goes on", error)

    def refuse(self, request: Request, handle: Stream, start_response: StartResponse) -> Iterable[bytes]:
        """Answer a refused request."""
        run_all(handle.finish(REFUSED))
        self._log_once(
            f"refused by {handle.refused_by}",
            f"refused {request.path!r}: {self._why(handle.refused_by)}; further refusals are counted in stats().refused_by",
        )
        retry = request.environ[RETRY] = self.admission.next_retry()
        if self.options.on_refused is None:
            return self.refusals.answer(request, start_response, retry)
        return self.options.on_refused(request.environ, start_response)

    def _why(self, refused_by: str) -> str:
        if refused_by == MAX_STREAMS_PER:
            return f"{(self.options.max_streams_per or (0,))[0]} event streams are open for one key (max_streams_per)"
        return f"{self.admission.open} event streams are open (max_streams)"

    def _key(self, environ: WSGIEnvironment, per: StreamsPer) -> Hashable | None:
        """Return the key of this request; None if it has no key, or the callable fails."""
        try:
            key = per[1](environ)
            hash(key)
        except Exception as error:
            line = "the callable of max_streams_per raised an exception, so this request has no limit per key"
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
        for of_parent in [*self._rounds.values()]:
            of_parent.kept.clear()
        drained: list[bool] = self._drained
        made = Round(functools.partial(bool, drained), self.admission.look, lambda: Stream.ends_requested)
        round_of_process = self._rounds.setdefault(process, made)
        if round_of_process is made:  # otherwise another thread was faster
            log_once(server, threads=threads, limit=self._limit(), heartbeat=self.options.heartbeat)
            if _log.isEnabledFor(logging.DEBUG):  # each stream's end is logged then, but not inside a collection
                collections.watch()
        return round_of_process

    def _limit(self) -> int | None:
        return self.options.max_streams or self._limits.get(os.getpid())

    def _limit_streams(self, threads: int | None) -> None:
        """Keep the last quarter of the server's threads, at least one, for requests that are not streams."""
        if threads is None or self.options.max_streams is not None:
            self._limits[os.getpid()] = None
            return
        limit = self._limits[os.getpid()] = max(1, threads - max(1, threads // 4))
        self.admission.expect(limit)

    def _care(self, service: Service, start: StartThread) -> Care:
        return Care(service, self._log_kept, start)

    def expect(self, held: Held) -> bool:
        """Have the watcher send what is held. Return False where none runs."""
        return watcher().expect(held)

    def _log_kept(self, path: str) -> None:
        self._log_once(
            f"kept {path!r}",
            f"{path!r} keeps a thread of the server although its client has disconnected: wait with stream.closed.wait(), "
            "wake the application with stream.on_close(), or iterate a source that blocks through stream.each()",
        )

    def _log_once(self, subject: str, line: str, error: Exception | None = None) -> None:
        if subject not in self._logged and len(self._logged) < _MOST_LOGGED:
            self._logged.add(subject)
            _log.log(logging.WARNING if error is None else logging.ERROR, line, exc_info=error)
