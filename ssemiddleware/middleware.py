r"""`SSEMiddleware` wraps a WSGI application (PEP 3333) and takes care of its event streams; `wrap` finds one by name.

>>> def application(environ, start_response):
...     start_response("200 OK", [("Content-Type", "text/event-stream")])
...     yield b"data: hello\n\n"
>>> SSEMiddleware(application, heartbeat=20)
SSEMiddleware(<function application at ...>, heartbeat=20)

A request that announces itself (``Accept: text/event-stream``) runs whole on a relay thread, while the server's thread waits
with a clock. Every other request runs inline, on the server's thread, and a response that is no event stream is returned
as the very same object.
"""

from __future__ import annotations

import ast
import functools
import importlib
import logging
import math
import os
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any, NoReturn

from .admission import Admission, Place
from .event_stream import OpaquePosition, Position
from .hand_off import HandOff
from .headers import Headers, accepts_event_stream, amend, is_encoded, is_event_source
from .inline import Begun, InlineStart, InlineStream
from .memory import MemoryGovernor
from .oversized import LONG_LINE, Fold, Fragment, LongLineWatch, OversizedEvents, Reshaping, begins_as_json
from .relay import Relay, ResponseStart
from .servers import old as servers
from .stats import Stats
from .stream import CLIENT_GONE, DRAIN, ENDED, RAISED, SHED, AnnouncedStream, Ending, RelayedResponse, Stream

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment

    from .memory import Turns

_log = logging.getLogger("ssemiddleware")

STREAM = "ssemiddleware.stream"  # the key of the `Stream` in environ
RETRY = "ssemiddleware.retry"  # the key of the milliseconds for which a request that is shed should stay away
_SHED_FOR = 3000  # milliseconds, where the reconnection time is left to the browser
_LOOK_EVERY = 0.5  # seconds between two looks at the client of an application that has not answered yet


class SSEMiddleware:
    """A WSGI application around *application* whose event streams arrive at once, stay alive and end in good order.

    *announced*: a callable that is given the environ and tells whether the request wants an event stream and so runs on
    a relay thread. By default ``Accept`` must name ``text/event-stream``; name a fetch()-based client by its path, say.

    *heartbeat*: seconds of silence after which an announced stream sends a comment, and None for neither heartbeats nor
    the opening comment that makes the headers leave at once.

    *max_block*: bytes of the largest block that the server gets, 16 or more. *read_ahead*: bytes that an announced
    application may be ahead of the server. *memory*: the `MemoryGovernor` that makes streams wait when memory is short, and
    sheds them when it is critical; None for neither.

    *max_streams*: how many streams may be open in this process; None for three quarters of the server's threads where it has
    a number of them that can be read (gunicorn's gthread, waitress, a2wsgi), so that ordinary requests always find one, and for
    any number elsewhere. A request for one more is shed: an EventSource comes back by itself, other clients get 503 with
    Retry-After. *on_shed*: a WSGI application that answers such a request instead; ``environ["ssemiddleware.retry"]`` has
    the milliseconds for which the client should stay away. An EventSource takes any status but 200 for final.

    *oversized*: what is done to events that are too large for their readers: `Fold(...)`, `Fragment(...)` or a list of both;
    None leaves every byte as it is, and tells the log of the first line that readers will suffer from.

    *send_deadline*: seconds that a client may take nothing of what is sent to it before its stream is ended, None for any
    number. *retry*: milliseconds that an EventSource waits before it comes back to a stream that we ended, from three quarters
    to one and a half of it; None to leave it to the browser (3 or 5 s for all of them at once).

    Immutable, and shared by all threads. Raises `ValueError` or `TypeError` for an option that it does not know or cannot use.
    """

    __slots__ = (
        "_admission", "_drain", "_limits", "_reshapes", "_told", "announced", "application", "heartbeat", "max_block",
        "max_streams", "memory", "on_shed", "oversized", "read_ahead", "retry", "send_deadline",
    )  # fmt: skip

    application: WSGIApplication
    announced: Callable[[WSGIEnvironment], bool]
    heartbeat: float | None
    max_block: int
    read_ahead: int
    memory: MemoryGovernor | None
    max_streams: int | None
    on_shed: WSGIApplication | None
    oversized: Fold | Fragment | Sequence[Fold | Fragment] | None
    send_deadline: float | None
    retry: int | None
    _reshapes: tuple[Fold | Fragment, ...]
    _admission: Admission
    _limits: dict[int, int | None]  # how many streams may be open, by process
    _drain: list[bool]  # not empty once the process is said to be going; an Event would take a lock in a signal handler
    _told: set[str]  # the subjects of which the log has been told

    def __init__(
        self,
        application: WSGIApplication,
        *,
        announced: Callable[[WSGIEnvironment], bool] = accepts_event_stream,
        heartbeat: float | None = 15.0,  # the standard suggests about 15; HAProxy gives up at 50, nginx and AWS at 60
        max_block: int = 131072,  # see benchmarks/block_size.py
        read_ahead: int = 524288,  # four blocks: enough to keep the server busy while the application catches up
        memory: MemoryGovernor | None = MemoryGovernor(),  # noqa: B008  (one for all: reads nothing before it is used)
        max_streams: int | None = None,  # so that a handful of tabs does not take the whole site down
        on_shed: WSGIApplication | None = None,
        oversized: Fold | Fragment | Sequence[Fold | Fragment] | None = None,  # the bytes are the application's
        send_deadline: float | None = 60.0,  # as long as nginx gives a client between two reads
        retry: int | None = 3000,  # what Chromium and WebKit do by themselves, but for the jitter
        **unknown: NoReturn,
    ) -> None:
        if unknown:
            given = ", ".join(f"{name}={value!r}" for name, value in dict[str, object](unknown).items())
            raise TypeError(f"unknown option {given}; the options are {', '.join(_OPTIONS)}")
        values = (
            application, announced, heartbeat, max_block, read_ahead, memory, max_streams, on_shed, oversized, send_deadline,
            retry,
        )  # fmt: skip
        options: dict[str, object] = dict(zip(("application", *_OPTIONS), values, strict=True))
        for name, value in options.items():
            is_right, allowed = _RULES[name]
            _check(name, value, is_right(value), allowed)
        shed_for = _SHED_FOR if retry is None else retry
        admission = Admission(limit=self._limit, counts_all=max_streams is None, retry=shed_for, memory=memory)
        options |= {"_drain": [], "_told": set(), "_reshapes": _reshapes_of(oversized), "_limits": {}, "_admission": admission}
        for name, value in options.items():
            object.__setattr__(self, name, value)
        self._admission.expect(max_streams)
        worker = servers.find_calling_worker()
        if worker is not None:
            self._limit_streams(worker.threads)

    def __setattr__(self, name: str, value: object) -> None:
        raise AttributeError(f"SSEMiddleware is immutable: {name} cannot be set")

    def __repr__(self) -> str:
        given = [f", {name}={getattr(self, name)!r}" for name in _OPTIONS if getattr(self, name) is not _OPTIONS[name]]
        return f"SSEMiddleware({self.application!r}{''.join(given)})"

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        """Answer one request; called by the server, on its thread."""
        outer = environ.get(STREAM)
        if outer is not None and not outer.is_answered:  # wrapped twice: the outer one does it all
            return self.application(environ, start_response)
        stream = environ[STREAM] = Stream(environ.get("HTTP_LAST_EVENT_ID", ""))
        is_preflight = environ.get("REQUEST_METHOD") == "OPTIONS"  # of a fetch()-based client that is announced by its path
        if not is_preflight and self.announced(environ) and self._can_start_threads(environ):
            place = self._admission.maybe_admit(environ, stream, is_announced=True)
            if place is None:
                return self._send_away(environ, start_response, stream)
            relay = self._maybe_start_relay(environ)
            if relay is not None:
                return self._respond_announced(environ, start_response, relay, place)
            place.forget()  # an inline request asks for one when it is known to be an event stream
        return self._respond_inline(environ, start_response, stream)

    def stats(self) -> Stats:
        """Return what the streams of this process carry and have carried, as numbers. Callable from any thread."""
        return self._admission.stats()

    def drain(self) -> None:
        """End all streams of this process, and those to come: whole events, a ``retry:`` for an EventSource, a clean end.

        For a server that tells its application before it stops; under gunicorn nothing needs to be called. Callable from
        any thread and from a signal handler. There is no way back: it is meant for a process that is going.
        """
        self._drain.append(True)

    # -- a request that nobody announced

    def _respond_inline(self, environ: WSGIEnvironment, start_response: StartResponse, stream: Stream) -> Iterable[bytes]:
        start = InlineStart(start_response, functools.partial(self._maybe_begin_inline, environ, stream), self.max_block)
        try:
            iterable = self.application(environ, start)
        except BaseException:
            stream.end(RAISED)
            start.leave()
            raise
        stream.is_answered = True
        if start.is_shed:
            stream.end(SHED)
            if hasattr(iterable, "close"):
                iterable.close()
            return self._send_away(environ, start_response, stream)
        if start.is_event_stream is False:
            return iterable
        return InlineStream(
            iterable,
            start,
            stream,
            lambda: self._ending(environ, start.place, inline=True),
            lambda: self._send_away(environ, start_response, stream),
            max_block=self.max_block,
            heartbeat=self.heartbeat,
            next_pause=self._next_pause,
            turns=self._turns,
            has_body=environ.get("REQUEST_METHOD") != "HEAD",
        )

    def _maybe_begin_inline(
        self, environ: WSGIEnvironment, stream: Stream, status: str, headers: Headers, place: Place | None
    ) -> Begun | None:
        place = place or self._admission.maybe_admit(environ, stream)
        return None if place is None else Begun(place, *self._amend(environ, status, headers))

    # -- an announced request

    def _can_start_threads(self, environ: WSGIEnvironment) -> bool:
        if servers.can_start_threads(environ):
            return True
        self._tell_once(
            "threads", "no thread may be started under this server: announced requests run inline, without heartbeats"
        )
        return False

    def _maybe_start_relay(self, environ: WSGIEnvironment) -> Relay | None:
        before: WSGIEnvironment = {key: environ[key] for key in ("HTTP_ACCEPT_ENCODING", "wsgi.multithread") if key in environ}
        # A compressing layer, inside or outside, would hold events back until it has enough of them.
        environ.pop("HTTP_ACCEPT_ENCODING", None)
        environ["wsgi.multithread"] = True
        blocks = HandOff(read_ahead=self.read_ahead, max_block=self.max_block, next_pause=self._next_pause, turns=self._turns)
        relay = Relay(self.application, environ, blocks)
        try:
            relay.start()
        except RuntimeError as error:  # the process is going, or has all the threads it may have
            environ.update(before)
            self._tell_once(
                "no threads left",
                f"no relay thread could be started ({error}): announced requests run inline, without heartbeats",
            )
            return None
        return relay

    def _respond_announced(
        self, environ: WSGIEnvironment, start_response: StartResponse, relay: Relay, place: Place
    ) -> Iterable[bytes]:
        place.hand_off = relay.blocks
        stream = place.stream
        try:
            if not self._wait_for_headers(environ, relay):
                stream.end(CLIENT_GONE)
                relay.close()
                self._give_back(place, relay)
                start_response("499 Client Closed Request", [("Content-Type", "text/plain"), ("Content-Length", "0")])
                return []
            start = relay.commit()
            stream.is_answered = True
            if not relay.has_returned:
                relay.raise_error()
            return self._begin_response(environ, start_response, relay, place, start)
        except BaseException:
            stream.end(RAISED)
            relay.stop()
            self._give_back(place, relay)
            raise

    @staticmethod
    def _give_back(place: Place, relay: Relay) -> None:
        if relay.blocks.is_event_stream:
            place.leave()
        else:
            place.forget()

    def _wait_for_headers(self, environ: WSGIEnvironment, relay: Relay) -> bool:
        """Return True when the response may begin, False if the client leaves before."""
        client = servers.find_client(environ)
        while not relay.knows_headers:
            relay.blocks.wait(_LOOK_EVERY)
            if client is not None and not relay.knows_headers and client.is_gone():
                return False
        return True

    def _begin_response(
        self,
        environ: WSGIEnvironment,
        start_response: StartResponse,
        relay: Relay,
        place: Place,
        start: ResponseStart | None,
    ) -> Iterable[bytes]:
        if start is None:  # a fault of the application, which the server knows how to name
            return self._unchanged(relay, place)
        status, headers, exc_info = start
        streams_events = relay.blocks.is_event_stream
        if streams_events:
            headers, position, oversized = self._amend(environ, status, headers)
        if exc_info is None:
            start_response(status, headers)
        else:
            start_response(status, headers, exc_info)
        if not streams_events:
            return self._unchanged(relay, place)
        return AnnouncedStream(
            relay,
            self._ending(environ, place, inline=False),
            position,
            place=place,
            heartbeat=self.heartbeat,
            retry=self._admission.maybe_usual_retry() if is_event_source(environ) else None,
            send_deadline=self.send_deadline,
            oversized=oversized,
            has_body=environ.get("REQUEST_METHOD") != "HEAD",
        )

    @staticmethod
    def _unchanged(relay: Relay, place: Place) -> Iterable[bytes]:
        place.forget()
        if relay.unrelayed is None:
            return RelayedResponse(relay, place.stream)
        place.stream.end(ENDED)
        return relay.unrelayed

    # -- any event stream

    @property
    def _next_pause(self) -> Callable[[], float] | None:
        return None if self.memory is None else self.memory.next_pause

    @property
    def _turns(self) -> Turns | None:
        return None if self.memory is None else self.memory.turns

    def _amend(
        self, environ: WSGIEnvironment, status: str, headers: Headers
    ) -> tuple[Headers, Position, OversizedEvents | None]:
        self._admission.see_headers(environ, headers)
        amended, dropped = amend(headers)
        if dropped:
            self._tell_once(
                ", ".join(sorted(dropped)).lower(),
                f"dropped {', '.join(dropped)} from an event stream: hop-by-hop headers belong to the server (PEP 3333; "
                "some answer 500 to them), and a length or ETag is wrong for a stream that comments are added to",
            )
        has_no_body = status.startswith("1") or status[:3] in ("204", "304")
        if has_no_body or is_encoded(headers):
            return amended, OpaquePosition(), None
        return amended, Position(), self._maybe_oversized_events(environ)

    def _maybe_oversized_events(self, environ: WSGIEnvironment) -> OversizedEvents | None:
        path = _path(environ)
        tell = functools.partial(self._tell_of_broken_json, path)
        steps: list[Reshaping] = [step for reshape in self._reshapes if (step := reshape.step(environ, tell))]
        if "long line" not in self._told:
            steps.append(LongLineWatch(functools.partial(self._tell_of_long_line, path)))
        return OversizedEvents(steps) if steps else None

    def _tell_of_broken_json(self, path: object, reason: str) -> None:
        self._tell_once("broken JSON", f"{path} sends {reason}")

    def _tell_of_long_line(self, path: object, data: bytes) -> None:
        given = {type(reshape) for reshape in self._reshapes}
        if begins_as_json(data.removeprefix(b" ")) and Fold not in given:
            remedy = "oversized=Fold() breaks such JSON into short lines"
        elif Fragment not in given:
            remedy = "oversized=Fragment() sends it in pieces to the clients that can join them"
        else:
            remedy = "a client that asks for fragments (sse-fragments=1 in the query) gets it in pieces"
        self._tell_once(
            "long line",
            f"{path} sends an event line of more than {LONG_LINE // 1024} KiB: WebKit (Safari) takes quadratic time to read it "
            f"(10 MB: 5 seconds and more), and readers written in Go or on aiohttp refuse it. The remedy: {remedy}.",
        )

    def _ending(self, environ: WSGIEnvironment, place: Place | None, *, inline: bool) -> Ending:
        assert place is not None
        if inline:
            self._tell_once(
                "inline",
                f"{_path(environ)} streams events to a client that did not announce it "
                f"(Accept: {environ.get('HTTP_ACCEPT', '')}): no heartbeats, and a leave or a deploy is noticed only when the "
                "application yields. Name such requests with announced=, or yield b'' now and then.",
            )
        is_told = self.retry is not None and is_event_source(environ)
        ending = Ending(
            place.stream,
            client=servers.find_client(environ),
            must_end=functools.partial(self._must_end, servers.find_worker(environ), place),
            next_retry=self._admission.next_retry if is_told else None,
        )
        if inline and self.send_deadline is not None:
            ending.limit_sending(self.send_deadline)
        return ending

    def _must_end(self, worker: servers.Worker | None, place: Place, now: float) -> str | None:
        if self._drain or (worker is not None and worker.is_going()):
            return DRAIN
        self._admission.relieve(now)
        return SHED if place.must_end else None

    # -- admission

    def _limit(self, environ: WSGIEnvironment) -> int | None:
        if self.max_streams is None and os.getpid() not in self._limits:
            self._limit_streams(servers.count_threads(environ))
        return self.max_streams if self.max_streams is not None else self._limits[os.getpid()]

    def _limit_streams(self, threads: int | None) -> None:
        """Leave the last quarter of the server's threads, at least one, to requests that are no streams."""
        if threads is None:
            self._limits[os.getpid()] = None
            return
        limit = self._limits[os.getpid()] = max(1, threads - max(1, threads // 4))
        if self.max_streams is not None:
            return
        self._admission.expect(limit)
        if threads == 1:
            _log.info("one event stream at a time takes the only thread of this process: give the server more threads")
            return
        _log.info(
            f"at most {limit} event streams at a time in this process, so that {threads - limit} of its {threads} threads "
            "stay free for other requests; max_streams= sets another number"
        )

    def _send_away(self, environ: WSGIEnvironment, start_response: StartResponse, stream: Stream) -> Iterable[bytes]:
        stream.end(SHED)
        self._tell_once(
            "shed",
            f"{_path(environ)} was sent away, and others will be, in silence: {self._admission.open} event "
            "streams are open in this process, which is as many as max_streams= or the server's threads allow, or memory is "
            "critical",
        )
        retry = environ[RETRY] = self._admission.next_retry()
        if self.on_shed is None:
            return self._admission.send_away(environ, start_response, retry)
        return self.on_shed(environ, start_response)

    def _tell_once(self, subject: str, line: str) -> None:
        if subject not in self._told:
            self._told.add(subject)
            _log.warning(line)


def _path(environ: WSGIEnvironment) -> str:
    """Return the path that was asked for, for the log; the application may be mounted somewhere."""
    return f"{environ.get('SCRIPT_NAME', '')}{environ.get('PATH_INFO', '')}"


_OPTIONS: dict[str, object] = SSEMiddleware.__init__.__kwdefaults__ or {}  # and their defaults


def _reshapes_of(oversized: object) -> tuple[Fold | Fragment, ...] | None:
    """Return what the option asks for, in the order of the way; None if it cannot be used."""
    given = () if oversized is None else tuple(oversized) if isinstance(oversized, (list, tuple)) else (oversized,)
    if not all(isinstance(reshape, (Fold, Fragment)) for reshape in given) or len(set(map(type, given))) < len(given):
        return None
    return tuple(sorted(given, key=lambda reshape: isinstance(reshape, Fold)))  # fragments first: they name the whole length


def _is_whole(least: int) -> Callable[[object], bool]:
    return lambda value: type(value) is int and value >= least


def _is_positive(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and 0 < value < math.inf


def _or_none(is_right: Callable[[object], bool]) -> Callable[[object], bool]:
    return lambda value: value is None or is_right(value)


_SECONDS_OR_NONE = _or_none(_is_positive), "a positive number of seconds or None"
_RULES: dict[str, tuple[Callable[[object], bool], str]] = {  # what an option may be, and how that is said
    "application": (callable, "a WSGI application (a callable)"),
    "announced": (callable, "a callable that takes the environ"),
    "heartbeat": _SECONDS_OR_NONE,
    "max_block": (_is_whole(16), "a whole number of bytes from 16"),
    "read_ahead": (_is_whole(1), "a positive whole number of bytes"),
    "memory": (
        _or_none(lambda value: isinstance(value, MemoryGovernor)),
        'a MemoryGovernor, such as MemoryGovernor("512MiB"), or None',
    ),
    "max_streams": (_or_none(_is_whole(1)), "a positive whole number of streams or None"),
    "on_shed": (_or_none(callable), "a WSGI application (a callable) or None"),
    "oversized": (lambda value: _reshapes_of(value) is not None, "Fold(...), Fragment(...), a list with one of each, or None"),
    "send_deadline": _SECONDS_OR_NONE,
    "retry": (_or_none(_is_whole(1)), "a positive whole number of milliseconds or None"),
}


def _check(name: str, value: object, is_right: bool, allowed: str) -> None:
    if not is_right:
        raise ValueError(f"{name} must be {allowed}, got {value!r}")


def wrap(name: str, /, **options: object) -> SSEMiddleware:
    """Return the application called *name*, wrapped: for a server's command line, where there is no code to change.

    *name* is ``"module:attribute"``, or ``"module:factory(literal, arguments='too')"`` as gunicorn has it; *options* are those
    of `SSEMiddleware`.

        gunicorn "ssemiddleware:wrap('shop.web:create_app()', heartbeat=20)"
    """
    allowed = '"module:attribute" or "module:factory(literal arguments)"'
    module, colon, expression = name.partition(":") if isinstance(name, str) else ("", "", "")
    _check("name", name, bool(module and colon and expression), allowed)
    try:
        node = ast.parse(expression.strip(), mode="eval").body
        call = node if isinstance(node, ast.Call) else None
        attribute = ast.unparse(call.func if call else node)
        arguments = [ast.literal_eval(argument) for argument in call.args] if call else []
        keywords = {keyword.arg: ast.literal_eval(keyword.value) for keyword in call.keywords} if call else {}
        if None in keywords or not all(part.isidentifier() for part in attribute.split(".")):
            raise ValueError
    except (SyntaxError, ValueError):
        raise ValueError(f"name must be {allowed}, got {name!r}") from None
    found: Any = importlib.import_module(module)
    for part in attribute.split("."):
        found = getattr(found, part)
    return SSEMiddleware(found(*arguments, **keywords) if call else found, **options)  # type: ignore[arg-type]  # checked there
