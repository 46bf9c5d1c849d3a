"""What threads, signals, collections and forks may do to a stream, beside what `test_baton` tries in all orders."""

from __future__ import annotations

import contextlib
import gc
import os
import random
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any

import pytest

from ssemiddleware import SSEMiddleware, streams
from ssemiddleware.ending import StreamBroken, StreamOver

from .applications import DEADLINE, EVENT_SOURCE, EVENT_STREAM, environ_of
from .test_baton import EVENT, HALF, REST, Application, Body, Broke, FakeServer, Watching

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment


@pytest.fixture
def watching(monkeypatch: pytest.MonkeyPatch) -> Watching:
    """Return the watcher's part: it ticks when a test says so."""
    watching = Watching()
    monkeypatch.setattr(streams, "watcher", lambda *_: watching)
    monkeypatch.setattr(streams, "find_server", lambda environ: environ["fake.server"])
    return watching


# -- no memory, and an end


class NoMemory:
    """`Pulls` that wait until the stream has to end."""

    def wait(self, must_stop: Callable[[float], bool]) -> bool:
        return not must_stop(0.0)

    def note_block(self, block: bytes) -> None:
        pass

    def close(self) -> None:
        pass


def _asked_to_end(watching: Watching, server: FakeServer, *, ago: float) -> Callable[[Body], bytes]:
    def act(_: Body) -> bytes:
        watching.services[0].pulls = NoMemory()  # type: ignore[assignment]
        server.is_stopping = True
        watching.tick(time.monotonic() - ago)
        return HALF

    return act


def test_an_event_under_way_is_finished_without_waiting_for_memory(watching: Watching) -> None:
    server = FakeServer()
    application = Application(_asked_to_end(watching, server, ago=0), REST, EVENT)
    server.respond(SSEMiddleware(application, memory=None), EVENT_SOURCE)
    assert server.error is None
    assert [block for _, block in server.log][:2] == [HALF, REST]
    assert len(server.log) == 3
    assert server.log[2][1].startswith(b"retry:")


def test_an_event_that_stays_unfinished_is_cut_without_waiting_for_memory(watching: Watching) -> None:
    server = FakeServer()
    server.respond(SSEMiddleware(Application(_asked_to_end(watching, server, ago=10), HALF), memory=None), EVENT_SOURCE)
    assert isinstance(server.error, StreamBroken)
    assert not server.has_ended


# -- many threads at once


class Hurried(FakeServer):
    """A server whose threads are changed wherever they are."""

    __slots__ = ("chances",)

    def __init__(self, chances: random.Random) -> None:
        super().__init__()
        self.chances = chances

    def point(self, where: str) -> None:
        if self.chances.random() < 0.3:
            time.sleep(0)


def _script(chances: random.Random, server: FakeServer) -> Application:
    """Return an application that writes and yields events, some of them in two blocks, and sometimes raises or is left."""

    def act(body: Body) -> bytes | None:
        what = chances.random()
        if what < 0.1:
            for block in (HALF, REST):
                with contextlib.suppress(StreamOver):
                    body.write(block)
        elif what < 0.11:
            server.state = "gone"
        elif what < 0.115:
            raise LookupError
        elif what < 0.5:
            time.sleep(0.0005)  # for long enough to be spoken for
        return EVENT if what < 0.2 else b""

    steps: list[bytes | Callable[[Body], bytes | None]] = []
    for _ in range(chances.randrange(80)):
        steps += chances.choice([[EVENT], [EVENT], [EVENT] * 5, [HALF, REST], [act]])
    return Application(*steps)


def _is_right(server: FakeServer, application: Application) -> list[str]:
    left = [block for who, block in server.log if who == "server" and not block.startswith((b":", b"retry:"))]
    wrong = [*server.broken]
    if left != application.given[: len(left)]:
        wrong.append(f"{left} of {application.given}")
    if left != application.given and server.state == "open" and not server.is_closed and server.error is None:
        wrong.append("a part was lost")
    return wrong


def test_heartbeats_between_thousands_of_events(watching: Watching) -> None:
    seed = random.randrange(1 << 32)
    print(f"seed {seed}")  # noqa: T201
    until, before = time.monotonic() + 2.0, sys.getswitchinterval()
    wrong: list[str] = []
    counts: list[tuple[int, int, int]] = []
    current: dict[int, FakeServer] = {}
    bodies: list[Body] = []

    def serve(number: int) -> None:
        chances = random.Random(seed + number)
        while time.monotonic() < until and not wrong:
            server = Hurried(chances)
            application = _script(chances, server)
            wrapped = SSEMiddleware(application, memory=None, send_deadline=None)
            current[number] = server
            server.respond(wrapped, EVENT_SOURCE)
            wrong.extend(_is_right(server, application))
            bodies.extend(application.bodies)
            if wrapped.stats().open:
                wrong.append("a place was kept")
            counts.append((1, len(application.given), sum(who == "watcher" for who, _ in server.log)))

    def watch() -> None:
        now = 1000.0
        while any(thread.is_alive() for thread in servers):
            now += 100.0
            cares, watching.cares = watching.cares, []
            for each in cares:
                each.notice(watching.run)
                if each.serve(now, watching.run):
                    watching.cares.append(each)

    def close() -> None:
        chances = random.Random(seed)
        while any(thread.is_alive() for thread in servers):
            time.sleep(chances.random() / 50)
            server = current.get(chances.randrange(3))
            if server is not None:
                server.is_closed = True
                with contextlib.suppress(ValueError):  # as a generator that runs
                    server.close()

    servers = [threading.Thread(target=serve, args=[number], daemon=True) for number in range(3)]
    others = [threading.Thread(target=act, daemon=True) for act in (watch, close)]
    sys.setswitchinterval(1e-6)
    try:
        for thread in [*servers, *others]:
            thread.start()
        for thread in [*servers, *others]:
            thread.join(DEADLINE)
            assert not thread.is_alive()
    finally:
        sys.setswitchinterval(before)
    assert wrong == []
    assert {body.closed for body in bodies} == {1}
    responses, events, heartbeats = map(sum, zip(*counts, strict=True))
    print(f"{responses} responses, {events} blocks, {heartbeats} heartbeats")  # noqa: T201
    assert heartbeats


# -- collections and forks


def _iterable(application: WSGIApplication, server: FakeServer) -> Iterable[bytes]:
    """Return what an application gives a server that neither iterates nor closes it."""
    environ = environ_of(EVENT_SOURCE)
    environ["fake.server"] = server
    return SSEMiddleware(application, memory=None)(environ, server.start_response)


def test_a_collection_of_a_forgotten_stream_takes_no_lock_and_calls_nothing(watching: Watching) -> None:
    """It may run inside any lock: the one of an Event that is waited for, say. The watcher does the rest."""
    application = Application(EVENT)
    iterable = _iterable(application, FakeServer())
    (service,) = watching.services
    closed = service.handle.closed
    with closed._cond:  # type: ignore[attr-defined]  # as if the collection ran inside of closed.wait()
        del iterable
        gc.collect()
    assert (service.baton.is_over, application.called_back, watching.callbacks) == (True, 0, [])
    watching.tick(100.0)
    assert closed.is_set()
    assert len(watching.callbacks) == 1
    assert service.connection is None
    assert not watching.cares[0].serve(200.0, watching.run)


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")  # of CPython 3.15, with threads
def test_a_forked_child_waits_for_no_watcher_and_does_not_touch_the_connection(watching: Watching) -> None:
    server = FakeServer()
    iterable = iter(_iterable(Application(EVENT, EVENT), server))
    next(iterable)
    (service,) = watching.services
    service.baton.give()
    assert service.baton.take_ours()  # the watcher writes, at the very moment of the fork
    service.baton.holder += 1  # as another thread than this one
    service.round.stopping_since = 1.0  # so that the connection would be shut for reading
    child = os.fork()
    if not child:  # pragma: no cover
        server.is_released = True  # nothing may be done to it
        try:
            next(iterable)
            iterable.close()  # type: ignore[attr-defined]
        except BaseException:
            os._exit(1)
        os._exit(0 if server.broken == [] else 2)
    until = time.monotonic() + DEADLINE
    while True:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            break
        assert time.monotonic() < until
        time.sleep(0.01)
    assert os.waitstatus_to_exitcode(status) == 0
    assert not service.baton.is_over


# -- applications that do what they should not


class Odd(Application):
    """An application whose iterable raises where no iterable should."""

    def __init__(self, *steps: bytes, iter_raises: bool = False, close_raises: bool = False) -> None:
        super().__init__(*steps)
        self.iter_raises, self.close_raises = iter_raises, close_raises

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        body = super().__call__(environ, start_response)
        odd = self

        class OddBody:
            def __iter__(self) -> Iterator[bytes]:
                if odd.iter_raises:
                    raise LookupError("iter")
                return iter(body)

            def close(self) -> None:
                body.close()  # type: ignore[attr-defined]
                if odd.close_raises:
                    raise LookupError("close")

        return OddBody()


@pytest.mark.parametrize("which", ["iter_raises", "close_raises"])
def test_an_iterable_that_raises_gives_its_place_back(watching: Watching, which: str) -> None:
    server, application = FakeServer(), Odd(EVENT, **{which: True})
    wrapped = SSEMiddleware(application, memory=None)
    with contextlib.ExitStack() as stack:
        if which == "close_raises":
            stack.enter_context(pytest.raises(LookupError, match="close"))
        server.respond(wrapped, EVENT_SOURCE)
    assert wrapped.stats().open == 0
    assert application.called_back == 1
    assert application.bodies[0].closed == 1
    watching.tick(100.0)
    assert watching.services[0].connection is None


def test_a_callback_that_raises_stops_neither_the_others_nor_the_end(watching: Watching) -> None:
    called: list[str] = []

    def application(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        stream = environ["ssemiddleware.stream"]
        stream.on_close(lambda: 1 / 0)
        stream.on_close(lambda: called.append("after it"))
        start_response("200 OK", [EVENT_STREAM])
        return [EVENT]

    server = FakeServer()
    wrapped = SSEMiddleware(application, memory=None)
    server.respond(wrapped, EVENT_SOURCE)
    assert called == ["after it"]
    assert server.has_ended
    assert wrapped.stats().open == 0


def test_a_callback_that_ends_the_thread_gives_the_place_back(watching: Watching) -> None:
    def application(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        environ["ssemiddleware.stream"].on_close(sys.exit)
        start_response("200 OK", [EVENT_STREAM])
        return [EVENT]

    server = FakeServer()
    wrapped = SSEMiddleware(application, memory=None)
    with pytest.raises(SystemExit):
        server.respond(wrapped, EVENT_SOURCE)
    server.close()
    assert wrapped.stats().open == 0
    assert watching.services[0].is_done


def test_a_stream_in_place_of_an_error_page_in_place_of_a_stream_gives_its_place_back(watching: Watching) -> None:
    def application(environ: WSGIEnvironment, start_response: StartResponse) -> Iterator[bytes]:
        start_response("200 OK", [EVENT_STREAM])
        try:
            raise LookupError
        except LookupError:
            start_response("500 Oh", [("Content-Type", "text/html")], sys.exc_info())
            yield b""
            start_response("200 OK", [EVENT_STREAM], sys.exc_info())
            yield EVENT

    server = FakeServer()
    wrapped = SSEMiddleware(application, memory=None)
    server.respond(wrapped, EVENT_SOURCE)
    assert server.error is None
    assert EVENT in [block for _, block in server.log]
    assert wrapped.stats().open == 0
    assert all(service.is_done for service in watching.services)


def test_close_of_another_thread_before_the_response_has_started_gives_the_place_back(watching: Watching) -> None:
    """An application that starts its response lazily, in a thread that goes on after the close."""
    server = FakeServer()
    iterable: list[Any] = []

    def application(environ: WSGIEnvironment, start_response: StartResponse) -> Iterator[bytes]:
        with contextlib.suppress(ValueError):  # it runs
            iterable[0].close()
        start_response("200 OK", [EVENT_STREAM])
        yield EVENT

    wrapped = SSEMiddleware(application, memory=None)
    environ = environ_of({"HTTP_ACCEPT": "application/json, text/event-stream"})
    environ["fake.server"] = server
    iterable.append(wrapped(environ, server.start_response))
    with pytest.raises(StreamOver):
        next(iter(iterable[0]))
    assert wrapped.stats().open == 0
    assert watching.cares == []


class Torn(FakeServer):
    """A server whose write fails half way, once."""

    __slots__ = ()

    def write(self, block: bytes, who: str = "server") -> None:
        super().write(block[:-3] if block == EVENT else block, who)
        if block == EVENT:
            raise Broke


def test_nothing_of_ours_follows_a_write_of_the_applications_that_failed_half_way(watching: Watching) -> None:
    def torn(body: Body) -> bytes:
        with contextlib.suppress(Broke):
            body.write(EVENT)
        watching.tick(100.0, 200.0, 300.0)
        return REST

    server = Torn()
    server.respond(SSEMiddleware(Application(torn), memory=None), EVENT_SOURCE)
    assert server.broken == []
    assert {who for who, _ in server.log} == {"server"}
