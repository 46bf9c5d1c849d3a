"""The applications that the servers run: one that plays what a request asks for (see `steps`), and notes what became of it.

    /play?steps=[...]&key=...    an event stream, unless `type` names another media type; `extra` headers;
                                 `lazy`: seconds in the first next() before the response is started, or "until closed"
    /life?key=...                what became of that request, as JSON
    /release?key=...             lets it go on after `wait_for_release`
    /end?key=...&reason=...      ends it with `Stream.end`
    /stats                       what the middleware says of the streams of its process, as JSON
    /fill?percent=...            fills the memory of `app_under_pressure` so far, as far as that can tell
    /inside                      what streams, threads and objects there are in the process, as JSON
    /ping, /file, /list, /empty, /no-content, /fail    ordinary responses

Every response names the process that made it (`X-Process`).
"""

from __future__ import annotations

import ctypes  # also so that `look_inside` counts no 450 objects more once memory is low
import gc
import io
import json
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Generator, Iterable, Iterator
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs

from werkzeug.wsgi import FileWrapper

from ssemiddleware import Compress, MemoryGovernor, SSEMiddleware, Stream

from .steps import Step, large_document_bytes, large_event_bytes

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment

Headers = list[tuple[str, str]]

FILE = b"".join(b"line %d of the file\n" % number for number in range(10_000))


@dataclass
class Life:
    """What became of one request."""

    stream: Stream | None  # None where the application runs bare
    threads: dict[str, list[str]] = field(default_factory=lambda: {"call": [], "next": [], "close": []})
    blocks: int = 0
    size: int = 0
    noticed_at: float | None = None  # when the application saw that its stream had ended; time.monotonic()
    released: threading.Event = field(default_factory=threading.Event)

    def note(self, moment: str) -> None:
        """Note which thread is here now; of `next` only changes."""
        thread = threading.current_thread()
        name = f"{thread.name} ({threading.get_ident()})"
        if moment != "next" or self.threads["next"][-1:] != [name]:
            self.threads[moment].append(name)

    def as_json(self) -> bytes:
        """Return all of it for the test."""
        closed = self.stream is not None and self.stream.closed.is_set()
        reason = self.stream.reason if self.stream else None
        last = self.stream.last_event_id if self.stream else ""
        seen = {
            "last_event_id": last,
            "threads": self.threads,
            "blocks": self.blocks,
            "size": self.size,
            "noticed_at": self.noticed_at,
        }
        return json.dumps({**seen, "closed": closed, "reason": reason}).encode()


LIVES: dict[str, Life] = {}


class Play:
    """An iterable that plays steps and notes which threads pull and close it."""

    def __init__(self, steps: list[Step], life: Life, begin: Callable[[], object]) -> None:
        self._life = life
        self._begin = begin
        self._blocks = self._play(steps)

    def __iter__(self) -> Iterator[bytes]:
        return self

    def __next__(self) -> bytes:
        self._life.note("next")
        self._begin()
        block = next(self._blocks)
        self._life.blocks += 1
        self._life.size += len(block)
        return block

    def close(self) -> None:
        self._life.note("close")
        self._blocks.close()

    def _play(self, steps: list[Step]) -> Generator[bytes, None, None]:
        for step in steps:
            if isinstance(step, str):
                yield step.encode()
            elif step["do"] == "repeat":
                for _ in range(int(str(step["times"]))):
                    yield from self._play(step["steps"])  # type: ignore[arg-type]  # JSON
            else:
                options = {name: value for name, value in step.items() if name != "do"}
                yield from getattr(self, f"_{step['do']}")(**options)

    def _large_event(self, size: int, many_lines: bool) -> Iterator[bytes]:
        yield large_event_bytes(size, many_lines=many_lines)

    def _same_event(self, size: int, times: int) -> Iterator[bytes]:
        yield from [large_event_bytes(size, many_lines=False)] * times

    def _large_document(self, size: int) -> Iterator[bytes]:
        yield large_document_bytes(size)

    def _send_time(self) -> Iterator[bytes]:
        yield b": %s\ndata: %r\n\n" % (b"." * 1000, time.monotonic())

    def _text(self, data: Any) -> Iterator[bytes]:
        yield data

    def _pause(self, seconds: float) -> Iterator[bytes]:
        time.sleep(seconds)
        yield from ()

    def _wait_for_release(self, seconds: float) -> Iterator[bytes]:
        self._life.released.wait(seconds)
        yield from ()

    def _wait_for_the_end(self, seconds: float) -> Iterator[bytes]:
        assert self._life.stream is not None
        if self._life.stream.closed.wait(seconds):
            self._life.noticed_at = time.monotonic()
        yield from ()

    def _go_on_until_closing(self, seconds: float, data: str) -> Iterator[bytes]:
        assert self._life.stream is not None
        while not self._life.stream.closing.wait(seconds):
            yield data.encode()
        self._life.noticed_at = time.monotonic()

    def _fail(self, message: str) -> Iterator[bytes]:
        fail_as_requested(message)
        yield from ()

    def _compute(self, seconds: float, in_c: bool) -> Iterator[bytes]:
        if in_c:
            ctypes.PyDLL(None).usleep(int(seconds * 1e6))  # with the interpreter's lock
        until = time.monotonic() + seconds
        while time.monotonic() < until and not in_c:
            pass
        yield from ()

    def _exit_process(self, how: str) -> Iterator[bytes]:
        if how == "GreenletExit":
            import gevent

            gevent.spawn_later(0.001, gevent.getcurrent().kill)
            gevent.sleep(60)
        yield from ()
        raise SystemExit(3)

    def _say_how_much(self) -> Iterator[bytes]:
        sys.stderr.write(f"yielded {self._life.size}\n")
        yield from ()


def fail_as_requested(message: str) -> None:
    """Raise in a function whose name a traceback must show."""
    raise RuntimeError(message)


def play(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    """The application under test, bare."""
    query = {name: values[0] for name, values in parse_qs(environ["QUERY_STRING"]).items()}
    return ROUTES[environ["PATH_INFO"]](environ, start_response, query)


def respond_with_steps(environ: WSGIEnvironment, start_response: StartResponse, query: dict[str, str]) -> Iterable[bytes]:
    life = LIVES[query.get("key", "")] = Life(environ.get("ssemiddleware.stream"))
    life.note("call")
    media_type = query.get("type", "text/event-stream")
    extra = [(str(name), str(value)) for name, value in json.loads(query.get("extra", "[]"))]
    headers: Headers = [("Content-Type", media_type), ("X-Process", str(os.getpid())), *extra]
    begun: list[bool] = []

    def begin() -> None:
        if not begun:
            begun.append(True)
            if query.get("lazy") == "until closed":
                sys.stderr.write(f"{query['key']} waits\n")
                assert life.stream is not None
                life.stream.closed.wait(60)
            else:
                time.sleep(float(query.get("lazy", "0")))
            start_response("200 OK", headers)

    if "lazy" not in query:
        begin()
    return Play(json.loads(query["steps"]), life, begin)


def answer_life(environ: WSGIEnvironment, start_response: StartResponse, query: dict[str, str]) -> Iterable[bytes]:
    life = LIVES.get(query["key"])
    return answer(start_response, life.as_json() if life else b"null", "application/json")


def answer_stats(environ: WSGIEnvironment, start_response: StartResponse, query: dict[str, str]) -> Iterable[bytes]:
    stats = app.stats()
    numbers = {each.name: getattr(stats, each.name) for each in fields(stats)}
    return answer(start_response, json.dumps({**numbers, "ended": dict(stats.ended)}).encode(), "application/json")


def release(environ: WSGIEnvironment, start_response: StartResponse, query: dict[str, str]) -> Iterable[bytes]:
    LIVES[query["key"]].released.set()
    return answer(start_response, b"released")


def end(environ: WSGIEnvironment, start_response: StartResponse, query: dict[str, str]) -> Iterable[bytes]:
    stream = LIVES[query["key"]].stream
    assert stream is not None
    stream.end(query["reason"])
    return answer(start_response, b"ended")


def fill(environ: WSGIEnvironment, start_response: StartResponse, query: dict[str, str]) -> Iterable[bytes]:
    FILLED[0] = int(query["percent"])
    return answer(start_response, b"filled")


def look_inside(environ: WSGIEnvironment, start_response: StartResponse, query: dict[str, str]) -> Iterable[bytes]:
    gc.collect()
    stats, objects = app_for_many.stats(), gc.get_objects()
    inside = {
        "open": stats.open,
        "ended": dict(stats.ended),
        "kept_threads": stats.kept_threads,
        "greenlets": sum(any(base.__name__ == "greenlet" for base in type(one).__mro__) for one in objects),
        "objects": len(objects),
    }
    return answer(start_response, json.dumps(inside).encode(), "application/json")


def ping(environ: WSGIEnvironment, start_response: StartResponse, query: dict[str, str]) -> Iterable[bytes]:
    return answer(start_response, b"pong")


def send_file(environ: WSGIEnvironment, start_response: StartResponse, query: dict[str, str]) -> Iterable[bytes]:
    start_response("200 OK", [("Content-Type", "text/plain"), ("Content-Length", str(len(FILE)))])
    wrapper: Callable[[Any], Iterable[bytes]] = environ.get("wsgi.file_wrapper", FileWrapper)  # werkzeug offers none
    return wrapper(io.BytesIO(FILE))


def send_list(environ: WSGIEnvironment, start_response: StartResponse, query: dict[str, str]) -> Iterable[bytes]:
    start_response("200 OK", [("Content-Type", "text/plain"), ("Content-Length", "10"), ("Cache-Control", "max-age=60")])
    return [b"one, ", b"two", b"..."[:2]]


def send_nothing(environ: WSGIEnvironment, start_response: StartResponse, query: dict[str, str]) -> Iterable[bytes]:
    start_response("200 OK", [("Content-Type", "text/html"), ("ETag", '"empty"')])
    return []


def send_no_content(environ: WSGIEnvironment, start_response: StartResponse, query: dict[str, str]) -> Iterable[bytes]:
    start_response("204 No Content", [])
    return []


def fail_at_once(environ: WSGIEnvironment, start_response: StartResponse, query: dict[str, str]) -> Iterable[bytes]:
    fail_as_requested(query["message"])
    return []


def answer(start_response: StartResponse, body: bytes, media_type: str = "text/plain") -> Iterable[bytes]:
    headers = [("Content-Type", media_type), ("Content-Length", str(len(body))), ("X-Process", str(os.getpid()))]
    start_response("200 OK", headers)
    return [body]


ROUTES: dict[str, Callable[[WSGIEnvironment, StartResponse, dict[str, str]], Iterable[bytes]]] = {
    "/play": respond_with_steps,
    "/life": answer_life,
    "/release": release,
    "/end": end,
    "/stats": answer_stats,
    "/fill": fill,
    "/inside": look_inside,
    "/ping": ping,
    "/file": send_file,
    "/list": send_list,
    "/empty": send_nothing,
    "/no-content": send_no_content,
    "/fail": fail_at_once,
}

HEARTBEAT = 0.5  # seconds, two ticks of the watcher: a test need not wait long
SLOW_HEARTBEAT = 3.0  # seconds, so that none comes because a machine is busy

# Others may use nearly all of the machine meanwhile: streams wait only where it is all but full.
AMPLE = MemoryGovernor(critical=0.99)

app = SSEMiddleware(play, memory=AMPLE)
app_with_heartbeats = SSEMiddleware(play, heartbeat=HEARTBEAT, memory=AMPLE)
app_that_compresses = SSEMiddleware(play, heartbeat=HEARTBEAT, memory=AMPLE, compress=Compress())
app_that_joins = SSEMiddleware(play, memory=AMPLE, join=0.02)
app_that_joins_and_compresses = SSEMiddleware(play, memory=AMPLE, join=0.02, compress=Compress())
app_with_a_heartbeat_a_second = SSEMiddleware(play, heartbeat=1.0, memory=AMPLE)
app_with_slow_heartbeats = SSEMiddleware(play, heartbeat=SLOW_HEARTBEAT, memory=AMPLE)
FILLED = [0]  # percent
wrapped_under_pressure = SSEMiddleware(play, heartbeat=HEARTBEAT, memory=MemoryGovernor(read=lambda: (FILLED[0], 100)))
app_for_many = SSEMiddleware(play, max_streams=1000, memory=AMPLE)
app_for_six_tabs = SSEMiddleware(play, max_streams_per=(6, lambda environ: environ.get("HTTP_X_USER")), memory=AMPLE)
app_with_a_lease = SSEMiddleware(play, lease=2.0, retry=300, memory=AMPLE)
app_with_send_deadline = SSEMiddleware(play, send_deadline=2.0, heartbeat=HEARTBEAT, memory=AMPLE)


def app_under_pressure(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    """Answer wrapped, or bare where the query says ``way=bare``."""
    return (play if "way=bare" in environ["QUERY_STRING"] else wrapped_under_pressure)(environ, start_response)


def create_app(shops: int) -> WSGIApplication:
    """Return the application as a factory does, for a server's command line."""
    if shops != 3:
        raise ValueError(f"shops must be 3, got {shops!r}")
    return play


def create_app_with_a_drain_signal() -> WSGIApplication:
    """Return the wrapped application; SIGUSR1 drains it, for servers that do not show when they stop."""
    signal.signal(signal.SIGUSR1, lambda *_: app.drain())
    return app
