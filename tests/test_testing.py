"""`ssemiddleware.testing`: streams of wrapped and bare applications, read as a client reads them, on the test's own thread."""

from __future__ import annotations

import contextlib
import functools
import queue
import signal
import socket
import sqlite3
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextvars import ContextVar
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING
from wsgiref.validate import validator

import flask
import pytest

from ssemiddleware import Event, SSEMiddleware, testing
from ssemiddleware.testing import DeadlineOver, OpenStream, open_stream

from .applications import DEADLINE, EVENT_STREAM, Blocks, application_of

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment

ROOT = Path(__file__).parents[1]
SOON = 0.05  # seconds; a deadline that a test is to miss

Wrap = Callable[["WSGIApplication"], "WSGIApplication"]


def bare(application: WSGIApplication) -> WSGIApplication:
    return application


def wrapped(application: WSGIApplication) -> WSGIApplication:
    return SSEMiddleware(application, heartbeat=0.05)


def refereed(application: WSGIApplication) -> WSGIApplication:
    return validator(SSEMiddleware(validator(application), heartbeat=0.05))


@pytest.fixture(params=[bare, wrapped, refereed])
def wrap(request: pytest.FixtureRequest) -> Wrap:
    chosen: Wrap = request.param
    return chosen


def lazy(produce: Callable[[WSGIEnvironment], Iterable[bytes]]) -> WSGIApplication:
    """Return an application that is a generator, so that its start_response is called with the first block only."""

    def application(environ: WSGIEnvironment, start_response: StartResponse) -> Iterator[bytes]:
        start_response("200 OK", [EVENT_STREAM])
        yield from produce(environ)

    return application


def eager(produce: Callable[[WSGIEnvironment], Iterable[bytes]]) -> WSGIApplication:
    """Return an application that calls start_response first, and then returns its generator."""

    def application(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        start_response("200 OK", [EVENT_STREAM])
        return produce(environ)

    return application


# -- What the client sees


def test_events_come_one_by_one_to_the_end(wrap: Wrap) -> None:
    application = application_of([b"id: 5\nretry: 70\ndata: 1\n\ndata: 2\n\n", b"data: 3\n\ndata: torn"])
    with open_stream(wrap(application)) as stream:
        assert stream.status == "200 OK"
        assert stream.status_code == 200
        assert stream.headers["Content-Type"].startswith("text/event-stream")
        assert stream.next_event() == Event("1", id="5", retry=70)
        assert [event.data for event in stream] == ["2", "3"]
        assert (stream.last_event_id, stream.retry) == ("5", 70)
        with pytest.raises(EOFError, match=r"the stream ended after \d+ bytes: .*torn"):
            stream.next_event()


def test_nothing_is_added_to_what_the_application_yields(wrap: Wrap) -> None:
    def produce(environ: WSGIEnvironment) -> Iterator[bytes]:
        yield b""
        threading.Event().wait(0.6)  # two ticks of the watcher, a dozen heartbeats
        yield b""
        yield b"data: 1\n\n"

    with open_stream(wrap(eager(produce))) as stream:
        stream.next_event()
        assert stream.received == b"data: 1\n\n"


def test_headers_are_there_before_the_first_event(wrap: Wrap) -> None:
    blocks = Blocks([b"data: 1\n\n"])
    with open_stream(wrap(application_of(blocks, EVENT_STREAM, ("X-Other", "x")))) as stream:
        assert stream.headers["X-Other"] == "x"
        assert (stream.received, blocks.threads) == (b"", set())


def test_headers_that_come_with_the_first_block_are_there_as_well(wrap: Wrap) -> None:
    with open_stream(wrap(lazy(lambda environ: [b"data: 1\n\n", b"data: 2\n\n"]))) as stream:
        assert stream.headers["Content-Type"].startswith("text/event-stream")
        assert stream.received == b"data: 1\n\n"
        assert [event.data for event in stream] == ["1", "2"]


def test_what_is_written_is_received_before_what_is_yielded(wrap: Wrap) -> None:
    def application(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        write = start_response("200 OK", [EVENT_STREAM])
        write(b"data: written\n\n")
        return [b"data: yielded\n\n"]

    with open_stream(wrap(application)) as stream:
        assert [event.data for event in stream] == ["written", "yielded"]


def test_an_error_response_replaces_headers_that_have_not_left(wrap: Wrap) -> None:
    def application(environ: WSGIEnvironment, start_response: StartResponse) -> Iterator[bytes]:
        start_response("200 OK", [EVENT_STREAM])
        try:
            raise LookupError
        except LookupError:
            start_response("500 Oh", [("Content-Type", "text/plain")], sys.exc_info())
        return iter([b"sorry"])

    with open_stream(wrap(application)) as stream:
        assert (stream.status_code, stream.headers["Content-Type"]) == (500, "text/plain")


def test_an_error_after_the_first_block_is_raised(wrap: Wrap) -> None:
    def application(environ: WSGIEnvironment, start_response: StartResponse) -> Iterator[bytes]:
        start_response("200 OK", [EVENT_STREAM])
        yield b"data: 1\n\n"
        try:
            raise LookupError("too late")
        except LookupError:
            start_response("500 Oh", [("Content-Type", "text/plain")], sys.exc_info())

    with open_stream(wrap(application)) as stream:
        assert stream.next_event().data == "1"
        with pytest.raises(LookupError, match="too late"):
            stream.next_event()


@pytest.mark.parametrize(
    ("blocks", "said"),
    [([], "without a call of start_response"), ([b""], "without a call"), ([b"data: 1\n\n"], "before the call of")],
)
def test_an_application_that_does_not_call_start_response_gets_an_error(blocks: list[bytes], said: str) -> None:
    with pytest.raises(AssertionError, match=said):
        open_stream(lambda environ, start_response: blocks)


def test_an_application_that_calls_start_response_twice_gets_an_error() -> None:
    def application(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        start_response("200 OK", [EVENT_STREAM])
        start_response("200 OK", [EVENT_STREAM])
        return []

    with pytest.raises(AssertionError, match="needs exc_info"):
        open_stream(application)


def test_what_the_application_raises_is_raised(wrap: Wrap) -> None:
    def application(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        raise LookupError("no such stream")

    with pytest.raises(LookupError, match="no such stream"):
        open_stream(wrap(application))
    with open_stream(wrap(application_of(Blocks([b"data: 1\n\n", LookupError("later")])))) as stream:
        assert stream.next_event().data == "1"
        with pytest.raises(LookupError, match="later"):
            stream.next_event()


def test_the_request_is_an_event_sources_by_default() -> None:
    seen: list[tuple[str, ...]] = []

    def application(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        keys = ("REQUEST_METHOD", "HTTP_ACCEPT", "HTTP_CACHE_CONTROL", "QUERY_STRING", "REMOTE_ADDR")
        seen.append(tuple(environ.get(key, "") for key in keys))
        start_response("404 Not Found", [("Content-Type", "text/plain")])
        return [environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))]

    with open_stream(application, "/x", query_string={"a": "b"}, environ_overrides={"REMOTE_ADDR": "::1"}) as stream:
        assert stream.status_code == 404
    with open_stream(application, "/x", headers={"Accept": "*/*"}, method="POST", data=b"body") as stream:
        with pytest.raises(EOFError, match="body"):
            stream.next_event()
    assert seen == [("GET", "text/event-stream", "no-cache", "a=b", "::1"), ("POST", "*/*", "no-cache", "", "")]


# -- The test's own thread


def test_the_application_is_called_iterated_and_closed_on_the_tests_thread(wrap: Wrap) -> None:
    here = threading.current_thread()
    called_on: list[threading.Thread] = []
    blocks = Blocks(b"data: 1\n\n" for _ in range(10**9))

    def produce(environ: WSGIEnvironment) -> Iterable[bytes]:
        called_on.append(threading.current_thread())
        return blocks

    with open_stream(wrap(eager(produce))) as stream:
        stream.next_event()
    assert (called_on, blocks.threads, blocks.closed_on) == ([here], {here}, [here])


def test_rows_in_a_database_in_memory_are_seen(wrap: Wrap) -> None:
    with contextlib.closing(sqlite3.connect(":memory:")) as database:  # raises on any other thread
        database.execute("CREATE TABLE visitors (name)")

        def produce(environ: WSGIEnvironment) -> Iterator[bytes]:
            while True:
                for (name,) in database.execute("SELECT name FROM visitors").fetchall():
                    yield f"data: {name}\n\n".encode()

        database.execute("INSERT INTO visitors VALUES ('Ada')")
        with open_stream(wrap(eager(produce))) as stream:
            assert stream.next_event().data == "Ada"
            database.execute("UPDATE visitors SET name = 'Bob'")
            assert stream.next_event().data == "Bob"


def test_a_django_testcase_sees_its_own_transaction_in_a_view_and_has_its_deadlines() -> None:
    command = [sys.executable, "-W", "error", "-m", "django", "test", "tests.django_project"]
    ran = subprocess.run(
        [*command, "--settings", "tests.django_project"], cwd=ROOT, capture_output=True, text=True, timeout=DEADLINE * 3
    )
    assert ran.returncode == 0, ran.stderr
    assert "Ran 2 tests" in ran.stderr


VISITOR: ContextVar[str] = ContextVar("VISITOR", default="no visitor")


def flask_app() -> flask.Flask:
    app = flask.Flask(__name__)

    @app.get("/<name>")
    def stream(name: str) -> flask.Response:
        def produce() -> Iterator[str]:
            while True:
                assert flask.request.path == f"/{name}"
                yield f"data: {name} for {VISITOR.get()}\n\n"

        return flask.Response(flask.stream_with_context(produce()), mimetype="text/event-stream")

    @app.get("/blocked")
    def blocked() -> str:
        threading.Event().wait()
        raise AssertionError("never")

    return app


def test_flask_streams_of_one_test_keep_their_contexts_apart_and_see_the_tests(wrap: Wrap) -> None:
    token = VISITOR.set("Ada")
    try:
        app = wrap(flask_app().wsgi_app)
        with open_stream(app, "/first") as first, open_stream(app, "/second") as second:
            for _ in range(2):
                assert first.next_event().data == "first for Ada"
                assert second.next_event().data == "second for Ada"
                assert not flask.has_request_context()
            first.leave()
            assert second.next_event().data == "second for Ada"
    finally:
        VISITOR.reset(token)


# -- Deadlines on the main thread


def receive() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.recv(1)


BLOCKED: dict[str, Callable[[], object]] = {
    "sleeps": lambda: time.sleep(DEADLINE),
    "waits for an event": lambda: threading.Event().wait(DEADLINE),
    "waits for a queue": lambda: queue.Queue[None]().get(timeout=DEADLINE),
    "waits for a queue forever": lambda: queue.SimpleQueue[None]().get(),
    "receives": receive,
    "computes": lambda: sum(1 for _ in iter(int, 1)),
}


@pytest.mark.parametrize("block", BLOCKED.values(), ids=BLOCKED)
@pytest.mark.parametrize("where", ["call", "first block", "second block", "close"])
def test_an_application_that_blocks_is_a_timeout_on_time(
    wrap: Wrap, where: str, block: Callable[[], object], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(testing, "_CLOSE_WITHIN", SOON)
    begun = time.monotonic()

    def maybe_block(here: str) -> None:
        if here == where:
            block()

    def produce(environ: WSGIEnvironment) -> Iterator[bytes]:
        try:
            maybe_block("first block")
            yield b"data: 1\n\n"
            maybe_block("second block")
            yield b"data: 2\n\n"
        finally:
            maybe_block("close")

    def application(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        maybe_block("call")
        start_response("200 OK", [EVENT_STREAM])
        return produce(environ)

    def within(here: str) -> float:
        return SOON if here == where else DEADLINE  # only what blocks may miss its deadline, on a busy machine too

    what = {"call": "no headers", "close": r"no return from close\(\)"}.get(where, "no event")
    with pytest.raises(TimeoutError, match=f"{what} within the deadline of 0.05 s"):
        with open_stream(wrap(application), timeout=within("call")) as stream:
            stream.next_event(timeout=within("first block"))
            if where != "close":
                stream.next_event(timeout=within("second block"))
    assert time.monotonic() - begun < DEADLINE / 2


def test_a_timeout_shows_where_the_application_waited(wrap: Wrap) -> None:
    def produce(environ: WSGIEnvironment) -> Iterator[bytes]:
        yield b"data: 1\n\n"
        where_it_waits()

    def where_it_waits() -> None:
        threading.Event().wait(DEADLINE)

    with open_stream(wrap(eager(produce))) as stream:
        stream.next_event()
        with pytest.raises(TimeoutError) as raised:
            stream.next_event(timeout=SOON)
    names: list[str] = []
    cause = raised.value.__cause__
    trace = cause.__traceback__ if isinstance(cause, DeadlineOver) else None
    while trace is not None:
        names.append(trace.tb_frame.f_code.co_name)
        trace = trace.tb_next
    assert "where_it_waits" in names


def test_a_lazy_application_that_blocks_is_a_timeout(wrap: Wrap) -> None:
    def produce(environ: WSGIEnvironment) -> Iterator[bytes]:
        threading.Event().wait(DEADLINE)
        yield b"data: 1\n\n"

    with pytest.raises(TimeoutError, match="no headers"):
        open_stream(wrap(lazy(produce)), timeout=SOON)


def test_a_flask_view_that_blocks_is_a_timeout_and_not_a_status_500(wrap: Wrap) -> None:
    with pytest.raises(TimeoutError, match="no headers"):
        open_stream(wrap(flask_app().wsgi_app), "/blocked", timeout=SOON)


def test_blocks_without_an_event_do_not_put_the_deadline_off(wrap: Wrap) -> None:
    def produce(environ: WSGIEnvironment) -> Iterator[bytes]:
        while True:
            yield b":\n"

    with open_stream(wrap(eager(produce))) as stream, pytest.raises(TimeoutError, match="no event"):
        stream.next_event(timeout=SOON)


def test_a_generator_that_was_interrupted_is_finished_and_says_why(wrap: Wrap) -> None:
    def produce(environ: WSGIEnvironment) -> Iterator[bytes]:
        yield b"data: 1\n\n"
        threading.Event().wait(DEADLINE)
        yield b"data: 2\n\n"

    with open_stream(wrap(eager(produce))) as stream:
        stream.next_event()
        with pytest.raises(TimeoutError):
            stream.next_event(timeout=SOON)
        with pytest.raises(EOFError, match="the stream was interrupted by a deadline after 9 bytes"):
            stream.next_event()


def test_a_bare_iterator_goes_on_after_a_timeout() -> None:
    class Clock:
        is_late = True

        def __iter__(self) -> Iterator[bytes]:
            return self

        def __next__(self) -> bytes:
            if self.is_late:
                self.is_late = False
                threading.Event().wait(DEADLINE)
            return b"data: 1\n\n"

    with open_stream(application_of(Clock())) as stream:
        with pytest.raises(TimeoutError):
            stream.next_event(timeout=SOON)
        assert stream.next_event().data == "1"


def test_an_application_that_swallows_the_interruption_is_a_timeout_and_its_event_is_not_lost(wrap: Wrap) -> None:
    def produce(environ: WSGIEnvironment) -> Iterator[bytes]:
        with contextlib.suppress(BaseException):
            threading.Event().wait(DEADLINE)
        yield b"data: late\n\n"

    with open_stream(wrap(eager(produce))) as stream:
        with pytest.raises(TimeoutError, match="no event"):
            stream.next_event(timeout=SOON)
        assert stream.next_event().data == "late"


def test_an_application_does_not_take_the_interruption_for_an_error_of_its_own(wrap: Wrap) -> None:
    def produce(environ: WSGIEnvironment) -> Iterator[bytes]:
        while True:
            with contextlib.suppress(Exception):
                threading.Event().wait(DEADLINE)
            yield b"data: swallowed\n\n"

    with open_stream(wrap(eager(produce))) as stream:
        with pytest.raises(TimeoutError):
            stream.next_event(timeout=SOON)
        with pytest.raises(EOFError):
            stream.next_event()


# -- Alarms that were set before, such as pytest-timeout's


class Rang(BaseException):
    pass


def ring(number: int, frame: FrameType | None) -> None:
    raise Rang


@pytest.fixture
def alarm() -> Iterator[Callable[[float], None]]:
    """Set another alarm in the place of pytest-timeout's, and put that back."""
    action, before = signal.getsignal(signal.SIGALRM), signal.getitimer(signal.ITIMER_REAL)

    def set_alarm(seconds: float) -> None:
        signal.signal(signal.SIGALRM, ring)
        signal.setitimer(signal.ITIMER_REAL, seconds)

    yield set_alarm
    signal.setitimer(signal.ITIMER_REAL, 0)
    signal.signal(signal.SIGALRM, action)
    signal.setitimer(signal.ITIMER_REAL, *before)


def blocked_for(seconds: float) -> WSGIApplication:
    def produce(environ: WSGIEnvironment) -> Iterator[bytes]:
        yield b"data: 1\n\n"
        threading.Event().wait(seconds)
        yield b"data: 2\n\n"

    return eager(produce)


def read_all(stream: OpenStream) -> list[str]:
    return [event.data for event in stream]


def test_an_alarm_that_was_set_before_has_its_remaining_time_again(wrap: Wrap, alarm: Callable[[float], None]) -> None:
    alarm(100.0)
    with open_stream(wrap(blocked_for(0.2))) as stream:
        assert read_all(stream) == ["1", "2"]
    assert signal.getsignal(signal.SIGALRM) is ring
    assert 50 < signal.getitimer(signal.ITIMER_REAL)[0] < 99.9


def test_no_alarm_is_left_where_there_was_none(wrap: Wrap, alarm: Callable[[float], None]) -> None:
    alarm(0)
    with open_stream(wrap(blocked_for(DEADLINE))) as stream, pytest.raises(TimeoutError):
        stream.next_event()
        stream.next_event(timeout=SOON)
    assert signal.getsignal(signal.SIGALRM) is ring
    assert signal.getitimer(signal.ITIMER_REAL) == (0.0, 0.0)


def test_an_alarm_that_is_due_earlier_comes_first(wrap: Wrap, alarm: Callable[[float], None]) -> None:
    with pytest.raises(Rang):
        with open_stream(wrap(blocked_for(DEADLINE)), timeout=DEADLINE) as stream:
            alarm(SOON)
            read_all(stream)


def test_an_alarm_that_became_due_in_the_meantime_rings_at_once(wrap: Wrap, alarm: Callable[[float], None]) -> None:
    def produce(environ: WSGIEnvironment) -> Iterator[bytes]:
        try:
            threading.Event().wait(DEADLINE)  # interrupted at 0.05 s
        except DeadlineOver:
            threading.Event().wait(DEADLINE)  # and at 0.2 s
        yield b""

    with open_stream(wrap(eager(produce))) as stream:
        alarm(0.2)
        with pytest.raises(Rang):
            stream.next_event(timeout=SOON)


def test_streams_inside_an_application_that_a_test_streams_have_both_their_deadlines(wrap: Wrap) -> None:
    def produce(environ: WSGIEnvironment) -> Iterator[bytes]:
        with open_stream(wrap(blocked_for(DEADLINE)), timeout=DEADLINE) as inner:
            for event in inner:
                yield bytes(event)

    with open_stream(wrap(eager(produce))) as stream:
        assert stream.next_event().data == "1"
        with pytest.raises(TimeoutError):
            stream.next_event(timeout=SOON)


def test_pytest_timeout_still_ends_a_test_whose_stream_had_a_deadline(tmp_path: Path) -> None:
    test = """
        import threading
        import pytest
        from ssemiddleware.testing import open_stream

        def application(environ, start_response):
            start_response("200 OK", [("Content-Type", "text/event-stream")])
            threading.Event().wait()
            yield b""

        @pytest.mark.timeout(1)
        def test_in_the_application():
            open_stream(application, timeout=100)

        @pytest.mark.timeout(1)
        def test_behind_it():
            with pytest.raises(TimeoutError):
                open_stream(application, timeout=0.1)
            threading.Event().wait()
    """
    (tmp_path / "test_blocked.py").write_text(textwrap.dedent(test), "utf-8")
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "--timeout-method=signal", str(tmp_path)]
    ran = subprocess.run([*command, "--rootdir", str(tmp_path)], cwd=ROOT, capture_output=True, text=True, timeout=DEADLINE * 3)
    assert "2 failed" in ran.stdout, ran.stdout + ran.stderr
    assert ran.stdout.count("Failed: Timeout") >= 2


# -- Deadlines on other threads


def elsewhere(test: Callable[[], None]) -> None:
    """Run *test* on a thread that is not the main one, and raise what it raises."""
    raised: list[BaseException] = []

    def run() -> None:
        try:
            test()
        except BaseException as error:
            raised.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join(2 * DEADLINE)
    assert not thread.is_alive()
    for error in raised:
        raise error


def woken_by_closed(environ: WSGIEnvironment) -> Iterator[bytes]:
    yield b"data: 1\n\n"
    environ["ssemiddleware.stream"].closed.wait(DEADLINE)


def woken_by_on_close(environ: WSGIEnvironment) -> Iterator[bytes]:
    items = queue.SimpleQueue[bytes]()
    environ["ssemiddleware.stream"].on_close(lambda: items.put(b""))
    yield b"data: 1\n\n"
    yield items.get(timeout=DEADLINE)


def woken_by_each(environ: WSGIEnvironment) -> Iterator[bytes]:
    items = queue.SimpleQueue[bytes]()
    items.put(b"data: 1\n\n")
    stop = functools.partial(items.put, b"")
    yield from environ["ssemiddleware.stream"].each(iter(items.get, b""), stop=stop)


WOKEN = [woken_by_closed, woken_by_on_close, woken_by_each]


@pytest.mark.parametrize("produce", WOKEN)
def test_on_another_thread_a_deadline_wakes_a_wrapped_application_by_a_disconnect(
    produce: Callable[[WSGIEnvironment], Iterator[bytes]],
) -> None:
    def test() -> None:
        with open_stream(SSEMiddleware(eager(produce))) as stream:
            assert stream.next_event().data == "1"
            begun = time.monotonic()
            with pytest.raises(TimeoutError, match="no event within the deadline"):
                stream.next_event(timeout=SOON)
            assert time.monotonic() - begun < DEADLINE / 2
            with pytest.raises(EOFError):
                stream.next_event()

    elsewhere(test)


def test_on_another_thread_an_event_that_is_late_is_a_timeout_and_is_not_lost(wrap: Wrap) -> None:
    def test() -> None:
        with open_stream(wrap(blocked_for(0.2))) as stream:
            stream.next_event()
            with pytest.raises(TimeoutError, match="no event within the deadline"):
                stream.next_event(timeout=SOON)
            if wrap is bare:
                assert stream.next_event().data == "2"

    elsewhere(test)


def test_on_another_thread_no_signal_is_used_and_no_thread_stays(wrap: Wrap) -> None:
    before, action = threading.active_count(), signal.getsignal(signal.SIGALRM)

    def test() -> None:
        with open_stream(wrap(application_of([b"data: 1\n\n"] * 3))) as stream:
            assert len(list(stream)) == 3
        assert signal.getsignal(signal.SIGALRM) is action

    elsewhere(test)
    names = [thread.name for thread in threading.enumerate() if not thread.name.startswith("ssemiddleware-")]
    assert len(names) <= before


# -- Leaving


def test_leaving_closes_the_application_once(wrap: Wrap) -> None:
    blocks = Blocks(b"data: 1\n\n" for _ in range(10**9))
    with open_stream(wrap(application_of(blocks))) as stream:
        stream.next_event()
        stream.leave()
        assert len(blocks.closed_on) == 1
        with pytest.raises(EOFError):
            stream.next_event()
    assert len(blocks.closed_on) == 1


def test_the_end_closes_the_application_as_a_server_does(wrap: Wrap) -> None:
    blocks = Blocks([b"data: 1\n\n"])
    stream = open_stream(wrap(application_of(blocks)))
    assert read_all(stream) == ["1"]
    assert len(blocks.closed_on) == 1


def test_an_application_that_fails_before_it_answers_leaves_nothing_open(wrap: Wrap) -> None:
    blocks = Blocks([LookupError("at once")])
    with open_stream(wrap(application_of(blocks))) as stream, pytest.raises(LookupError):
        stream.next_event()
    assert len(blocks.closed_on) == 1


def test_leaving_early_is_a_disconnect_for_the_application() -> None:
    seen: list[tuple[bool, str | None]] = []
    called_on: list[threading.Thread] = []

    def produce(environ: WSGIEnvironment) -> Iterator[bytes]:
        stream = environ["ssemiddleware.stream"]
        stream.on_close(lambda: called_on.append(threading.current_thread()))
        try:
            yield b"data: 1\n\n"
        finally:
            seen.append((stream.closed.is_set(), stream.reason))

    with open_stream(SSEMiddleware(eager(produce))) as stream:
        stream.next_event()
    assert seen == [(True, "client gone")]
    assert called_on == [threading.current_thread()]


def test_leaving_wakes_a_thread_of_the_applications_that_waits_for_closed() -> None:
    woken: list[bool] = []

    def produce(environ: WSGIEnvironment) -> Iterator[bytes]:
        thread = threading.Thread(target=lambda: woken.append(environ["ssemiddleware.stream"].closed.wait(DEADLINE)))
        thread.start()
        try:
            while True:
                yield b"data: 1\n\n"
        finally:
            thread.join(DEADLINE)

    with open_stream(SSEMiddleware(eager(produce))) as stream:
        stream.next_event()
    assert woken == [True]


@pytest.mark.parametrize("produce", WOKEN)
def test_a_disconnect_wakes_an_application_that_waits(
    produce: Callable[[WSGIEnvironment], Iterator[bytes]],
) -> None:
    with open_stream(SSEMiddleware(eager(produce)), timeout=DEADLINE) as stream:
        assert stream.next_event().data == "1"
        timer = threading.Timer(SOON, stream.leave)
        timer.start()
        begun = time.monotonic()
        with pytest.raises(EOFError):
            stream.next_event()
        assert time.monotonic() - begun < DEADLINE / 2
        timer.join()


def test_a_bare_application_that_runs_while_its_client_disconnects_is_closed_when_it_yields() -> None:
    leave: list[Callable[[], None]] = []
    closed: list[bool] = []

    def produce(environ: WSGIEnvironment) -> Iterator[bytes]:
        try:
            leave[0]()
            assert not closed
            yield b":\n"
        finally:
            closed.append(True)

    with open_stream(eager(produce)) as stream:
        leave.append(stream.leave)
        with pytest.raises(EOFError):
            stream.next_event()
        assert closed == [True]
