"""The baton in all orders of its threads' steps: the real code, stopped before each step."""

from __future__ import annotations

import contextlib
import functools
import itertools
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, NamedTuple

import pytest

from ssemiddleware import SSEMiddleware, baton, care, joining, outside, service, start, stream, streams, watcher
from ssemiddleware.baton import Baton
from ssemiddleware.ending import StreamOver
from ssemiddleware.servers.connection import Connection, Progress, State
from ssemiddleware.servers.server import MOST_JOINED, MOST_WRITTEN, Loop, Pool, Server, StartThread, StopSign, Writer
from ssemiddleware.watcher import Watcher

from .applications import ANNOUNCED, EVENT_SOURCE, EVENT_STREAM, Headers, environ_of
from .interleaving import Injected, Injection, Run, explore

if TYPE_CHECKING:
    from _typeshed import OptExcInfo
    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment

    from ssemiddleware.care import Care
    from ssemiddleware.handle import Callback
    from ssemiddleware.joining import Held
    from ssemiddleware.servers.server import StartThread
    from ssemiddleware.service import Service

EVENT, HALF, REST = b"data: 1\n\n", b"data: hal", b"f\n\n"
OURS = (b":\n", b"retry: ")

# An exception that is put into a `__del__` is printed by Python, and goes no further.
ignores_what_is_raised_in_a_collection = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")


class Broke(OSError):
    """Raised by a write whose connection is cut."""


class FakeServer(Server):
    """A server of one response. What is written to its client stands in `log`, and who has begun what and not ended it."""

    __slots__ = (
        "breaks", "broken", "error", "has_ended", "is_closed", "is_cut", "is_released", "is_stopping", "is_stream", "iterable",
        "lent", "log", "run", "state", "writing",
    )  # fmt: skip

    name = "fake"
    loops = (Loop(__name__, "iterate", "iterable", "block"),)

    def __init__(self, run: Run | None = None) -> None:
        self.environ = {}
        self.run = run
        self.log: list[tuple[str, bytes]] = []  # who wrote what
        self.writing: list[str] = []
        self.broken: list[str] = []  # of what must hold
        self.is_stream = False
        self.state: State = "open"
        self.is_cut = self.has_ended = self.is_released = self.is_stopping = self.is_closed = False
        self.breaks = False  # a write of ours fails half way
        self.error: BaseException | None = None  # that the application or a write raised
        self.lent: set[object] = set()  # stand-ins that were not taken back
        self.iterable: Iterable[bytes] = ()

    def point(self, where: str) -> None:
        if self.run is not None:
            self.run.point(where)

    # -- what is asked of a server

    def connection(self) -> Connection:
        return FakeConnection(self)

    def writer(self, write: object, encoding: str = "") -> Writer:
        return FakeWriter(self)

    def stop_sign(self) -> StopSign:
        return FakeSign(self)

    def pool(self) -> Pool:
        return FakePool(self)

    # -- its loop

    def write(self, block: bytes, who: str = "server") -> None:
        self.must(not self.writing, f"{who} writes {block!r} while {self.writing} does")
        self.must(not self.has_ended, f"{who} writes {block!r} after the end")
        if self.is_cut:
            raise Broke
        self.writing.append(who)
        self.log.append((who, block))
        try:
            self.point(f"half of {block!r}")
            if who == "watcher" and self.breaks:
                raise Broke
        finally:
            self.writing.remove(who)

    def must(self, holds: bool, what: str) -> None:
        """Note what is broken; an error might be caught by those that are tested."""
        if not holds:
            self.broken.append(what)

    def start_response(self, status: str, headers: Headers, exc_info: OptExcInfo | None = None, /) -> Callable[[bytes], object]:
        self.must(not self.writing, f"headers change while {self.writing} writes")
        if exc_info is not None and self.log:
            raise exc_info[1] or AssertionError
        self.writing.append("start_response")
        try:
            self.point("the headers change")
        finally:
            self.writing.remove("start_response")
        self.is_stream = dict(headers)["Content-Type"].startswith("text/event-stream")
        return self.write

    def iterate(self, iterable: Iterable[bytes]) -> None:
        for block in iterable:
            if block:
                self.write(block)
        if not self.has_ended:
            self.point("the end")
            self.has_ended = not self.is_cut

    def respond(self, application: WSGIApplication, given: dict[str, str]) -> None:
        """Answer one request, as servers do."""
        environ = environ_of(given)
        environ["fake.server"] = self
        try:
            self.iterable = application(environ, self.start_response)
            self.iterate(self.iterable)
        except (Exception, Injected) as error:
            self.error = error
        try:
            self.close()
        except Injected as error:
            self.error = error
        self.is_released = True

    def close(self) -> None:
        """Close the iterable: the server's thread does, or another."""
        if hasattr(self.iterable, "close"):
            self.iterable.close()


class FakeConnection(Connection):
    """The connection of a `FakeServer`'s client, which may not be used once the server has it back."""

    __slots__ = ("_server",)

    def __init__(self, server: FakeServer) -> None:
        self._server = server

    def _use(self, where: str) -> None:
        self._server.must(not self._server.is_released, f"{where} of a connection that the server has back")
        self._server.point(where)
        self._server.must(not self._server.is_released, f"{where} of a connection that the server has back meanwhile")

    is_closed_by_itself = is_lost = False

    def disown(self) -> None:
        pass

    def fileno(self) -> int:
        return -1

    def state(self) -> State:
        self._use("state")
        return self._server.state

    def hold_little(self, *, is_fast: bool = False) -> None:
        pass

    def restore(self) -> None:
        pass

    def progress(self) -> Progress | None:
        self._use("progress")
        return Progress(0, 0)

    def shutdown(self, how: int) -> None:
        self._use("shutdown")

    def reset_on_close(self) -> None:
        self._use("reset")

    def cut(self) -> None:
        self._use("cut")
        self._server.is_cut = True

    def close(self) -> None:
        self._use("close")
        self._server.is_cut = True


class FakeWriter:
    is_delimited = True

    def __init__(self, server: FakeServer) -> None:
        self._server = server

    def write(self, block: bytes, most: int = MOST_WRITTEN) -> bool:
        server = self._server
        before = server.log[-1][1] if server.log else b"\n"
        server.must(before.endswith(b"\n"), f"{block!r} after {before!r}")
        server.must(server.is_stream, f"{block!r} in what is no stream")
        server.must(not server.is_released, f"{block!r} after the response")
        server.write(block, "watcher")
        return True

    def room(self) -> int:
        return MOST_JOINED if self._server.state == "open" else 0

    def end(self, last: bytes) -> bool:
        self.write(last)
        self._server.has_ended = True
        return True


class FakeSign:
    needs_reports = True

    def __init__(self, server: FakeServer) -> None:
        self._server = server

    def is_stopping(self) -> bool:
        return self._server.is_stopping

    def seconds_left(self, stopping_for: float) -> float | None:
        return None

    def report_alive(self) -> None:
        pass


class FakePool:
    threads = 4

    def __init__(self, server: FakeServer) -> None:
        self._server = server

    def lend(self, start: StartThread) -> Callable[[], None]:
        lent = object()
        self._server.lent.add(lent)
        self._server.point("lent")
        return lambda: self._server.lent.discard(lent)


class Watching:
    """The watcher's part, at the times that a test says."""

    def __init__(self) -> None:
        self.cares: list[Care] = []
        self.callbacks: list[Callback] = []
        self.failed: list[BaseException] = []
        self.sender = Watcher()

    @property
    def services(self) -> list[Service]:
        return [each.service for each in self.cares]

    def add(self, newcomer: Service, watch: Callable[[Service, StartThread], Care]) -> bool:
        self.cares.append(watch(newcomer, self.start))
        return True

    def forget(self, newcomer: Service) -> None:
        """Go on with it: it was adopted at once."""

    def run(self, callbacks: list[Callback]) -> None:
        self.callbacks += callbacks

    def start(self, name: str, target: Callable[[], None]) -> threading.Thread | None:
        return None

    def expect(self, held: Held) -> bool:
        self.sender._holding[held] = None
        return True

    def send_held(self) -> None:
        self.sender._send_held()

    def tick(self, *times: float, notice: bool = False) -> None:
        for now in times:
            for each in self.cares:
                try:
                    if notice:
                        each.notice(self.run)
                    each.round.look(now)
                    each.serve(now, self.run)
                except Exception as error:
                    self.failed.append(error)
                    each.fail(self.run)


Act = Callable[["Body"], "bytes | None"]


class Application:
    """An application of *steps*: a block that it yields, or what is called in its place."""

    def __init__(self, *steps: bytes | Act, in_call: Act | None = None) -> None:
        self.steps, self.in_call = steps, in_call
        self.given: list[bytes] = []  # in this order
        self.bodies: list[Body] = []
        self.called_back = 0
        self.was_called = False

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        environ["ssemiddleware.stream"].on_close(self._note)
        self.was_called = True
        body = Body(self, start_response, start_response("200 OK", [EVENT_STREAM]))
        if self.in_call is not None:
            self.in_call(body)
        self.bodies.append(body)
        return body

    def _note(self) -> None:
        self.called_back += 1


class Body:
    def __init__(self, application: Application, start_response: StartResponse, write: Callable[[bytes], object]) -> None:
        self._application, self.start_response, self._write = application, start_response, write
        self._steps = iter(application.steps)
        self.closed = 0

    def __iter__(self) -> Iterator[bytes]:
        return self

    def __next__(self) -> bytes:
        step = next(self._steps)
        block = step if isinstance(step, bytes) else step(self)
        if block:
            self._application.given.append(block)
        return block or b""

    def write(self, block: bytes) -> None:
        self._application.given.append(block)
        self._write(block)

    def close(self) -> None:
        self.closed += 1


# What threads share; a thread is stopped before each line of ours that names one of these.
_SHARED = (
    r"\b(holder|is_(free|over|quick|done|stream)|writer|_possible_writer|_write|connection|ending|wire|_take_back|server|free|_taken|held|is_expected|_blocks|_holding)\b"
    r"|baton\.\w+\(|_maybe_take|let_go\(|_is_held|forget\("
)

Others = Callable[["Scene"], dict[str, Callable[[], object]]]


class Scene:
    """One request, and who else has to do with it."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self._setattr = monkeypatch.setattr
        self._setattr(streams, "find_server", lambda environ: environ["fake.server"])
        self._begin(lambda: Application(), None)
        self.with_injection = 0

    def _begin(self, application: Callable[[], Application], run: Run | None, *, joins: bool = False) -> None:
        self.server, self.watching, self.application = FakeServer(run), Watching(), application()
        self._setattr(streams, "watcher", lambda *_: self.watching)
        join = 60.0 if joins else None
        self.wrapped = SSEMiddleware(self.application, memory=None, send_deadline=None, join=join)

    def explore(
        self,
        application: Callable[[], Application],
        others: Others,
        *,
        request: dict[str, str] = EVENT_SOURCE,
        prepare: Callable[[Scene], object] = lambda scene: None,
        preemptions: int = 2,
        inject: Injection | None = None,
        joins: bool = False,
    ) -> int:
        """Return how many orders there were. *joins*: the third event and those after it are held, two at a time."""
        self._setattr(joining, "FOLLOWED", 1)
        self._setattr(joining, "AT_ONCE", 60.0)
        self._setattr(joining, "MOST_JOINED", 2 * len(EVENT))

        def make(choices: Iterable[int]) -> Run:
            run = Run(
                (stream, service, start, care, outside, baton, joining, watcher),
                shared=_SHARED,
                preemptions=preemptions,
                choices=choices,
                inject=inject,
            )
            self._begin(application, run, joins=joins)
            self._setattr(baton, "time", _Sleeping(run))
            prepare(self)
            run.add("server", lambda: self.server.respond(self.wrapped, request))
            for name, act in others(self).items():
                run.add(name, act)
            return run

        return explore(make, self._check)

    def _check(self, run: Run) -> None:
        server, watching, application = self.server, self.watching, self.application
        self.with_injection += run.was_injected
        watching.tick(900)  # what has ended is released
        assert all(isinstance(error, Broke) for error in watching.failed), watching.failed
        assert server.broken == []
        assert server.writing == []
        assert server.error is None or isinstance(server.error, (Injected, OSError))  # a cut, or a write after it
        assert application.was_called or run.was_injected
        for each in watching.services:
            assert (each.baton.is_over, each.baton.holder, each.is_done) == (True, 0, True)
            assert each.handle.reason is not None
            assert each.connection is None
        assert self.wrapped.stats().open == 0
        assert server.lent == set()
        closed = sum(body.closed for body in application.bodies)
        assert closed == len(application.bodies) or (run.was_injected and closed == 0)  # just before, and as without us
        if not run.was_injected:
            assert application.called_back + len(watching.callbacks) == application.was_called
        written = [block for who, block in server.log if not block.startswith((b":", b"retry:"))]
        assert b"".join(application.given).startswith(b"".join(written))
        assert self.wrapped.options.join is not None or written == application.given[: len(written)]
        assert all(each.held is None for each in watching.services)
        is_whole = b"".join(written) == b"".join(application.given) and server.has_ended
        is_known = server.error is not None or server.is_cut or server.state != "open" or server.is_stopping or server.is_closed
        assert is_whole or is_known


class _Sleeping:
    """The module `time` of a run's threads."""

    def __init__(self, run: Run) -> None:
        self.sleep = run.sleep


def _ticks(*times: float) -> Others:
    return lambda scene: {"watcher": lambda: scene.watching.tick(*times)}


@pytest.fixture
def scene(monkeypatch: pytest.MonkeyPatch) -> Scene:
    return Scene(monkeypatch)


def _report(orders: int) -> None:
    print(f"{orders} orders")  # noqa: T201  (how much has been tried)


FETCH = {**ANNOUNCED, "REQUEST_METHOD": "POST"}  # announced, and no EventSource


def _write(*blocks: bytes) -> Act:
    def act(body: Body) -> None:
        for block in blocks:
            with contextlib.suppress(StreamOver):
                body.write(block)

    return act


def _restart(status: str, *headers: tuple[str, str]) -> Act:
    """Start another response in mid-stream; the application goes on if that is too late."""

    def act(body: Body) -> None:
        try:
            raise LookupError
        except LookupError:
            with contextlib.suppress(LookupError):
                body.start_response(status, list(headers), sys.exc_info())

    return act


def _noticing(state: State, *times: float) -> Others:
    def others(scene: Scene) -> dict[str, Callable[[], object]]:
        def end() -> None:
            scene.server.state = state
            scene.watching.tick(*times, notice=True)

        return {"watcher": end}

    return others


def _closing(scene: Scene) -> None:
    scene.server.is_closed = True
    with contextlib.suppress(Injected):
        scene.server.close()
    for each in scene.watching.services:
        if hasattr(scene.server.iterable, "close"):
            scene.server.must(each.baton.is_over, "close() has returned, and the stream is not over")
            scene.server.must("watcher" not in scene.server.writing, "close() has returned, and the watcher writes")


def _closing_and_ticks(*times: float) -> Others:
    return lambda scene: {"other": lambda: _closing(scene), "watcher": lambda: scene.watching.tick(*times)}


def _stopping(ago: float, *others_: float) -> Others:
    def others(scene: Scene) -> dict[str, Callable[[], object]]:
        def stop() -> None:
            scene.server.is_stopping = True
            scene.watching.tick(*(time.monotonic() - ago + each for each in (0.0, *others_)))

        return {"watcher": stop}

    return others


def _breaking(scene: Scene) -> dict[str, Callable[[], object]]:
    scene.server.breaks = True
    return {"watcher": lambda: scene.watching.tick(100, 200, 300)}


def _cutting(scene: Scene) -> dict[str, Callable[[], object]]:
    def cut() -> None:
        scene.server.is_cut = True  # so that the server's next write fails
        scene.watching.tick(100)

    return {"watcher": cut}


def _sending(times: int, *ticks: float) -> Others:
    """Have the watcher send what is held, and then tick."""

    def others(scene: Scene) -> dict[str, Callable[[], object]]:
        def send() -> None:
            for _ in range(times):
                scene.watching.send_held()
            scene.watching.tick(*ticks)
            scene.watching.send_held()

        return {"watcher": send}

    return others


def _breaking_sending(scene: Scene) -> dict[str, Callable[[], object]]:
    scene.server.breaks = True
    return _sending(1, 100, 200)(scene)


def _fail(body: Body) -> bytes:
    raise Broke


def _application(*steps: bytes | Act, in_call: Act | None = None) -> Callable[[], Application]:
    return lambda: Application(*steps, in_call=in_call)


class Case(NamedTuple):
    application: Callable[[], Application]
    others: Others
    request: dict[str, str] = EVENT_SOURCE
    preemptions: int = 1  # 2 takes ten times as long
    joins: bool = False


CASES = {
    "heartbeats between events": Case(_application(EVENT, EVENT), _ticks(100, 200)),
    "heartbeats in events": Case(_application(HALF, REST), _ticks(100, 200), preemptions=2),
    "write() in the call": Case(_application(EVENT, in_call=_write(HALF, REST)), _ticks(100, 200)),
    "write() in the iterable": Case(_application(_write(HALF, REST), EVENT), _ticks(100, 200), preemptions=2),
    "another stream in its place": Case(_application(_restart("200 OK", EVENT_STREAM), EVENT), _ticks(100, 200)),
    "another stream too late": Case(_application(HALF, _restart("200 OK", EVENT_STREAM), REST), _ticks(100, 200)),
    "no stream in its place": Case(
        _application(_restart("500 Oh", ("Content-Type", "text/html")), b"<p>"), _ticks(100, 200), preemptions=2
    ),
    "a drain between events": Case(_application(EVENT, EVENT), _stopping(0, 0.2)),
    "a drain in an event": Case(_application(HALF, REST), _stopping(0, 0.2), preemptions=2),
    "a drain in an event that does not end": Case(_application(HALF, HALF), _stopping(10, 0.5)),
    "a drain of a fetch()": Case(_application(EVENT, EVENT), _stopping(10, 0.5), FETCH),
    "a client that disconnects": Case(_application(EVENT, EVENT), _noticing("gone", 100, 200)),
    "a client that sends no more": Case(_application(EVENT, EVENT), _noticing("half closed", 100, 200), FETCH),
    "a thread that is kept": Case(_application(EVENT), _noticing("gone", 100, 102, 104), preemptions=2),
    "a write that fails": Case(_application(EVENT), _breaking, preemptions=2),
    "a connection that breaks": Case(_application(EVENT, EVENT), _cutting),
    "close() in another thread": Case(_application(EVENT), _closing_and_ticks(100, 200), preemptions=1),
    "close() while a thread is kept": Case(
        _application(EVENT),
        lambda scene: {"other": lambda: _closing(scene), **_noticing("gone", 100, 102)(scene)},
        preemptions=1,
    ),
    "held events": Case(_application(*[EVENT] * 6), _sending(1, 100), preemptions=2, joins=True),
    "held events that are sent again and again": Case(_application(*[EVENT] * 5), _sending(3), joins=True),
    "held events before write()": Case(
        _application(EVENT, EVENT, EVENT, _write(HALF, REST), EVENT), _sending(1, 100, 200), joins=True
    ),
    "held events before half an event": Case(
        _application(EVENT, EVENT, EVENT, EVENT, HALF, REST), _sending(1, 100, 200), preemptions=2, joins=True
    ),
    "held events before an error": Case(_application(EVENT, EVENT, EVENT, EVENT, _fail), _sending(1, 100, 200), joins=True),
    "held events before another stream": Case(
        _application(EVENT, EVENT, EVENT, _restart("200 OK", EVENT_STREAM), EVENT), _sending(1, 100, 200), joins=True
    ),
    "a drain while events are held": Case(_application(*[EVENT] * 5), _stopping(0, 0.2), joins=True),
    "a client that disconnects while events are held": Case(
        _application(*[EVENT] * 5), _noticing("gone", 100, 200), joins=True
    ),
    "a write of held events that fails": Case(_application(*[EVENT] * 5), _breaking_sending, joins=True),
    "close() in another thread while events are held": Case(
        _application(*[EVENT] * 4), lambda scene: {"other": lambda: _closing(scene), **_sending(1, 100)(scene)}, joins=True
    ),
}


class Pipe:
    """The place where the thread that has the baton writes, and no other at the same time."""

    def __init__(self, run: Run) -> None:
        self.run, self.baton = run, Baton()
        self.writing: list[str] = []
        self.broken: list[str] = []

    def write(self, who: str) -> None:
        self.writing.append(who)
        self.run.point(f"{who} writes")
        if len(self.writing) > 1:
            self.broken.append(f"at the same time: {self.writing}")
        self.writing.remove(who)

    def serve(self, times: int) -> None:
        """Be the server's thread: its application writes in its call, and in its iterable."""
        self.apply()
        for _ in range(times):
            self.baton.give()
            self.apply()
            self.baton.take()
            if not self.baton.is_over:
                self.write("server")

    def apply(self) -> None:
        is_given = self.baton.take()
        if not self.baton.is_over:
            self.write("application")
        if is_given:
            self.baton.give()

    def speak(self, times: int, looks: int = 0) -> None:
        """Be the watcher, which writes, and then looks at the connection."""
        for _ in range(times):
            if self.baton.take_ours():
                self.write("watcher")
                self.baton.give_ours()
        for _ in range(looks):
            if self.baton.hold():
                self.run.point("the watcher looks")
                self.baton.let_go()

    def end(self) -> None:
        """Be anybody."""
        self.baton.end()
        if "watcher" in self.writing or self.baton.holder:
            self.broken.append("end() has returned, and the watcher uses the connection")


def test_the_token_is_not_taken_for_the_servers_own_while_the_watcher_has_it_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """A watcher that gives it back and takes it again between two looks: that takes five preemptions."""
    taken: list[bool] = []
    pipes: list[Pipe] = []

    def serve() -> None:
        taken.append(pipes[0].baton.take())
        pipes[0].write("server")

    def make(choices: Iterable[int]) -> Run:
        run = Run((), (baton,), shared=r"^(holder|_taken|pop|append)$", preemptions=5, choices=choices)
        monkeypatch.setattr(baton, "time", _Sleeping(run))
        pipes[:], taken[:] = [Pipe(run)], []
        pipes[0].baton.give()
        run.add("watcher", lambda: pipes[0].speak(2))
        run.add("server", serve)
        return run

    def check(run: Run) -> None:
        assert taken == [True]
        assert pipes[0].broken == []

    _report(explore(make, check))


@pytest.mark.parametrize(
    ("preemptions", "threads"),
    [
        (3, {"server": lambda pipe: pipe.serve(1), "watcher": lambda pipe: pipe.speak(2)}),
        (2, {"server": lambda pipe: pipe.serve(2), "watcher": lambda pipe: pipe.speak(2, looks=1)}),
        (2, {"server": lambda pipe: pipe.serve(1), "watcher": lambda pipe: pipe.speak(1), "other": Pipe.end}),
        (2, {"watcher": lambda pipe: pipe.speak(1, looks=1), "other": Pipe.end, "one more": Pipe.end}),
    ],
    ids=["a write each", "a look at the connection", "an end", "an end by two"],
)
def test_only_one_thread_writes_at_a_time(
    monkeypatch: pytest.MonkeyPatch, preemptions: int, threads: dict[str, Callable[[Pipe], object]]
) -> None:
    """The baton alone, stopped before each instruction that touches something."""
    pipes: list[Pipe] = []

    def make(choices: Iterable[int]) -> Run:
        run = Run((), (baton,), shared=r"^(holder|is_over|_taken|pop|append)$", preemptions=preemptions, choices=choices)
        monkeypatch.setattr(baton, "time", _Sleeping(run))
        pipes[:] = [Pipe(run)]
        for name, act in threads.items():
            run.add(name, functools.partial(act, pipes[0]))
        return run

    def check(run: Run) -> None:
        assert pipes[0].broken == []
        assert pipes[0].baton.holder == 0

    _report(explore(make, check))


@pytest.mark.exhaustive
@pytest.mark.parametrize("name", CASES)
def test_all_orders(scene: Scene, name: str) -> None:
    case = CASES[name]
    _report(scene.explore(case.application, case.others, request=case.request, preemptions=case.preemptions, joins=case.joins))


def _report_injected(scene: Scene, case: Case, preemptions: int) -> None:
    """Raise an exception at each step of each thread that runs the server's or the application's code."""
    orders = 0
    for thread in ("server", "other"):
        for step in itertools.count(1):
            before = scene.with_injection
            orders += scene.explore(
                case.application,
                case.others,
                request=case.request,
                preemptions=preemptions,
                inject=Injection(thread, step),
                joins=case.joins,
            )
            if scene.with_injection == before:
                break
    print(f"{orders} orders, an exception in {scene.with_injection}")  # noqa: T201


@pytest.mark.exhaustive
@ignores_what_is_raised_in_a_collection
@pytest.mark.parametrize("name", CASES)
def test_an_exception_between_any_two_steps(scene: Scene, name: str) -> None:
    _report_injected(scene, CASES[name], preemptions=0)


@pytest.mark.exhaustive
@ignores_what_is_raised_in_a_collection
def test_an_exception_in_all_orders(scene: Scene) -> None:
    _report_injected(scene, Case(_application(EVENT), _ticks(100)), preemptions=1)
