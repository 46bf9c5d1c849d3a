"""The watcher: one thread in each process for all streams. No stream's error ends it, and no stream can block it."""

from __future__ import annotations

import logging
import os
import queue
import socket
import subprocess
import sys
import threading
import time
import weakref
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING

import pytest

from ssemiddleware import SSEMiddleware
from ssemiddleware.handle import Callback
from ssemiddleware.servers.connection import Connection
from ssemiddleware.watcher import Watcher, watcher

from .applications import DEADLINE, EVENT_SOURCE, EVENT_STREAM, Blocks, Response, environ_of

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIEnvironment

Run = Callable[[list[Callback]], None]


class Asked:
    def __init__(self) -> None:
        self.looks = 0
        self.looked_at = 0.0
        self.error: BaseException | None = None

    def look(self, now: float) -> bool:
        self.looks += 1
        if self.error is not None:
            raise self.error
        return False


class Stream:
    """A stream that goes on for a number of ticks."""

    def __init__(self, connection: socket.socket | None = None, *, ticks: int = 10**9, asked: Asked | None = None) -> None:
        self.ending: str | None = None
        self.connection = None if connection is None else Connection(connection)
        self.ticks = ticks
        self.round = asked or Asked()
        self.watches_connection = True
        self.served = 0
        self.threads: set[threading.Thread] = set()
        self.noticed: list[str] = []
        self.failed = 0
        self.error: BaseException | None = None
        self.is_due_raises = False
        self.rests_until = 0.0
        self.is_done = False

    def is_due(self, now: float) -> bool:
        if self.is_due_raises:
            raise LookupError
        return True

    def serve(self, now: float, run: Run) -> bool:
        self.served += 1
        self.threads.add(threading.current_thread())
        if self.error is not None:
            raise self.error
        return self.served < self.ticks

    def notice(self, run: Run) -> None:
        assert self.connection is not None
        self.noticed.append(self.connection.state())

    def fail(self, run: Run) -> None:
        self.failed += 1


class Counting(queue.SimpleQueue[None]):
    puts = 0

    def put(self, item: None, block: bool = True, timeout: float | None = None) -> None:
        self.puts += 1
        super().put(item, block, timeout)


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    """A connection: the server's side and the client's."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        client = socket.create_connection(listener.getsockname())
        server, _ = listener.accept()
    with client, server:
        yield server, client


def wait_until(is_so: Callable[[], bool]) -> None:
    deadline = time.monotonic() + DEADLINE
    while not is_so():
        assert time.monotonic() < deadline
        time.sleep(0.005)


def add(watching: Watcher, stream: Stream) -> bool:
    return watching.add(stream, lambda newcomer, _start: newcomer)


def ticks(watching: Watcher) -> bool:
    watching._tick()
    return True


def test_all_streams_are_served_by_one_thread_that_no_process_waits_for() -> None:
    watching = Watcher()
    streams = [Stream(ticks=2) for _ in range(20)]
    for stream in streams:
        add(watching, stream)
    wait_until(lambda: all(stream.served == 2 for stream in streams))
    (thread,) = set.union(*(stream.threads for stream in streams))
    assert thread.daemon
    assert thread.name == "ssemiddleware-watcher"


class Holder:
    """What holds something, until it is sent."""

    within = 0.001

    def __init__(self, error: BaseException | None = None) -> None:
        self.is_expected = self.holds_some = True
        self.error = error
        self.sent, self.failed = 0, 0

    def send(self) -> None:
        self.sent += 1
        if self.error is not None:
            raise self.error
        self.holds_some = False

    def fail(self, run: Run) -> None:
        self.failed += 1
        self.holds_some = False


def test_what_is_held_is_sent_before_the_next_tick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ssemiddleware.watcher._TICK", 10 * DEADLINE)
    watching, holder = Watcher(), Holder()
    add(watching, Stream())
    wait_until(lambda: not watching._is_asleep)
    assert watching.expect(holder)
    wait_until(lambda: not holder.is_expected)
    assert holder.sent == 1
    again = Holder()
    assert watching.expect(again)
    wait_until(lambda: not again.is_expected)
    assert (holder.sent, again.sent) == (1, 1)


def test_streams_are_served_while_others_hold_something_all_the_time() -> None:
    watching, stream = Watcher(), Stream()
    add(watching, stream)
    holder = Holder()
    holder.send = lambda: None  # type: ignore[method-assign]  # and goes on to hold it
    assert watching.expect(holder)
    wait_until(lambda: stream.served > 2)
    holder.holds_some = False
    wait_until(lambda: not watching._holding)


def test_what_cannot_be_sent_ends_its_stream_and_no_other(caplog: pytest.LogCaptureFixture) -> None:
    watching, broken, other = Watcher(), Holder(LookupError()), Holder()
    add(watching, Stream())
    assert watching.expect(broken)
    assert watching.expect(other)
    wait_until(lambda: not (broken.is_expected or other.is_expected))
    assert (broken.failed, other.failed, other.sent) == (1, 0, 1)
    assert "and ends it" in caplog.text


def test_nothing_is_held_where_no_thread_runs() -> None:
    assert not Watcher().expect(Holder())


def test_a_stream_that_comes_after_a_silence_is_served_by_the_same_thread() -> None:
    watching = Watcher()
    first, second = Stream(ticks=1), Stream(ticks=1)
    add(watching, first)
    wait_until(lambda: first.served == 1 and not watching._streams)
    add(watching, second)
    wait_until(lambda: second.served == 1)
    assert first.threads == second.threads


def test_a_stream_that_ends_within_a_tick_is_forgotten_at_once() -> None:
    watching, gone, lives = Watcher(), Stream(), Stream()
    add(watching, gone)
    watching.forget(gone)
    watching.forget(gone)
    reference = weakref.ref(gone)
    del gone
    assert reference() is None  # no tick was needed for that
    add(watching, lives)
    wait_until(lambda: lives.served > 1)
    assert watching._streams == [lives]


def test_no_stream_is_overlooked_by_a_watcher_that_goes_to_sleep(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ssemiddleware.watcher._TICK", 0.0001)
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        watching = Watcher()
        for _ in range(500):
            stream = Stream(ticks=1)
            add(watching, stream)
            wait_until(lambda: stream.served == 1)  # noqa: B023  (called at once)
    finally:
        sys.setswitchinterval(before)


def test_streams_that_end_at_once_do_not_wake_it_one_by_one(monkeypatch: pytest.MonkeyPatch) -> None:
    watching = Watcher()
    watching._wakes = wakes = Counting()
    add(watching, Stream(ticks=1))
    wait_until(lambda: watching._is_asleep)
    monkeypatch.setattr("ssemiddleware.watcher._TICK", DEADLINE)
    for _ in range(20):
        stream = Stream()
        add(watching, stream)
        watching.forget(stream)
        time.sleep(0.002)  # the watcher gets its turn while no stream is open, as while a server waits for the next request
    assert wakes.puts == 1


def test_what_concerns_all_streams_is_asked_once_a_tick() -> None:
    watching, asked = Watcher(), Asked()
    streams = [Stream(asked=asked) for _ in range(10)]
    for stream in streams:
        watching._adopt(stream)
    watching._tick()
    watching._tick()
    assert asked.looks == 2
    assert [stream.served for stream in streams] == [2] * 10


def test_what_concerns_all_streams_is_asked_once_more_after_the_last_of_them() -> None:
    """A garbage collection may end a stream between the question and the stream's turn. The next look then reports that."""
    watching, asked = Watcher(), Asked()
    ended_at: list[int] = []

    class Last(Stream):
        def serve(self, now: float, run: Run) -> bool:
            ended_at.append(asked.looks)
            return False

    add(watching, Last(asked=asked))
    wait_until(lambda: bool(ended_at) and watching._is_asleep)
    assert asked.looks == ended_at[0] + 1


def test_an_error_of_one_stream_ends_that_stream_and_no_other(caplog: pytest.LogCaptureFixture) -> None:
    watching = Watcher()
    bad, good = Stream(), Stream()
    bad.error = LookupError("of this stream's")
    for stream in (bad, good):
        watching._adopt(stream)
    with caplog.at_level(logging.ERROR, "ssemiddleware"):
        watching._tick()
        watching._tick()
    assert (bad.served, bad.failed) == (1, 1)
    assert (good.served, good.failed) == (2, 0)
    (record,) = caplog.records
    assert record.exc_info is not None
    assert record.exc_info[1] is bad.error


def test_an_error_of_the_stop_sign_is_logged_and_ends_no_stream(caplog: pytest.LogCaptureFixture) -> None:
    watching, stream = Watcher(), Stream()
    stream.round.error = LookupError("of the sign's")
    watching._adopt(stream)
    with caplog.at_level(logging.ERROR, "ssemiddleware"):
        watching._tick()
    assert (stream.served, stream.failed) == (1, 0)
    assert len(caplog.records) == 1


def test_a_disconnect_is_noticed_once(pair: tuple[socket.socket, socket.socket]) -> None:
    server, client = pair
    watching, stream = Watcher(), Stream(server)
    watching._adopt(stream)
    watching._tick()
    assert stream.noticed == []
    client.shutdown(socket.SHUT_WR)
    wait_until(lambda: ticks(watching) and bool(stream.noticed))
    for _ in range(5):
        watching._tick()
    assert stream.noticed == ["half closed"]


def test_a_half_close_and_the_disconnect_after_it_are_both_noticed(pair: tuple[socket.socket, socket.socket]) -> None:
    server, client = pair
    watching, stream = Watcher(), Stream(server)
    watching._adopt(stream)
    client.shutdown(socket.SHUT_WR)
    wait_until(lambda: ticks(watching) and stream.noticed == ["half closed"])
    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    client.close()
    wait_until(lambda: ticks(watching) and stream.noticed == ["half closed", "gone"])


def test_the_number_of_a_closed_connection_is_never_taken_for_another_clients() -> None:
    watching = Watcher()
    ours, theirs = socket.socketpair()
    first = Stream(ours, ticks=2)
    watching._adopt(first)
    watching._tick()
    ours.close()
    theirs.close()
    again, client = socket.socketpair()  # probably with the same numbers
    second = Stream(again)
    watching._adopt(second)
    watching._tick()  # the first one is over
    client.close()
    wait_until(lambda: ticks(watching) and bool(second.noticed))
    again.close()
    assert first.noticed in ([], ["gone"])


def test_a_descriptor_that_others_have_closed_is_gone_for_its_stream_once_it_is_another_streams() -> None:
    watching = Watcher()
    ours, theirs = socket.socketpair()
    again, client = socket.socketpair()
    with again, client:
        first = Stream(ours)
        watching._adopt(first)
        os.dup2(again.fileno(), ours.fileno())  # what os.closerange() and the next client come to
        second = Stream(ours)
        watching._adopt(second)
        assert first.noticed == ["gone"]
        watching._tick()
        assert (first.noticed, second.noticed) == (["gone"], [])
    ours.close()
    theirs.close()


def test_a_stream_that_ends_is_forgotten(pair: tuple[socket.socket, socket.socket]) -> None:
    watching, stream = Watcher(), Stream(pair[0], ticks=1)
    watching._adopt(stream)
    watching._tick()
    assert (watching._streams, watching._descriptors, watching._by_descriptor) == ([], {}, {})


# -- the callbacks' thread


def test_callbacks_run_on_one_thread_of_their_own_in_order() -> None:
    watching, called, done = Watcher(), list[int](), threading.Event()
    threads: set[threading.Thread] = set()
    for number in range(5):
        watching.run([lambda number=number: called.append(number), lambda: threads.add(threading.current_thread())])  # type: ignore[misc]
    watching.run([])
    watching.run([done.set])
    assert done.wait(DEADLINE)
    assert called == list(range(5))
    ((thread),) = threads
    assert thread.daemon
    assert thread.name == "ssemiddleware-callbacks"


def test_a_callback_that_blocks_stops_no_stream_and_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    watching, stream, blocks, done = Watcher(), Stream(), threading.Event(), threading.Event()
    with caplog.at_level(logging.WARNING, "ssemiddleware"):
        add(watching, stream)
        watching.run([lambda: blocks.wait(DEADLINE)])
        watching.run([done.set])
        wait_until(lambda: bool(caplog.records))
        served = stream.served
        wait_until(lambda: stream.served > served)
        assert not done.is_set()
        blocks.set()
        assert done.wait(DEADLINE)
    stream.ticks = 0
    assert [record.getMessage() for record in caplog.records] == [
        "an on_close callback has not returned within 1 s, and other callbacks wait for it"
    ]


@pytest.mark.parametrize("kind", [LookupError, SystemExit])
def test_errors_of_callbacks_are_logged_and_stop_no_other(kind: type[BaseException], caplog: pytest.LogCaptureFixture) -> None:
    def raises() -> None:
        raise kind("gone")

    watching, done = Watcher(), threading.Event()
    with caplog.at_level(logging.ERROR, "ssemiddleware"):
        watching.run([raises])
        watching.run([done.set])
        assert done.wait(DEADLINE)
    (record,) = caplog.records
    assert record.exc_info is not None
    assert str(record.exc_info[1]) == "gone"


# -- where no thread can be had


class WithoutThreads(Watcher):
    """A watcher in a process that may start no thread: a subinterpreter with ``daemon=True``, or one with too many."""

    def start(self, name: str, target: Callable[[], None]) -> threading.Thread | None:
        class Refused(threading.Thread):
            def start(self) -> None:
                raise RuntimeError("can't start new thread")

        before = threading.Thread
        threading.Thread = Refused  # type: ignore[misc]
        try:
            return super().start(name, target)
        finally:
            threading.Thread = before  # type: ignore[misc]


def test_where_no_thread_can_be_started_streams_go_on_and_that_is_logged_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    watching = WithoutThreads()
    with caplog.at_level(logging.WARNING, "ssemiddleware"):
        for _ in range(3):
            add(watching, Stream())
    (record,) = caplog.records
    assert record.getMessage() == (
        "no thread can be started (can't start new thread): no heartbeats, and disconnects are not detected"
    )


def test_without_a_thread_callbacks_are_still_called() -> None:
    watching, called = WithoutThreads(), list[str]()
    watching.run([lambda: called.append("x")])
    watching.run([lambda: called.append("y")])
    assert called == ["x", "y"]


def test_a_process_that_cannot_start_a_thread_still_serves_streams() -> None:
    program = """
import resource, threading
from ssemiddleware import SSEMiddleware

class Refused(threading.Thread):
    def start(self):
        raise RuntimeError("daemon threads are disabled in this interpreter")

threading.Thread = Refused

def application(environ, start_response):
    start_response("200 OK", [("Content-Type", "text/event-stream")])
    yield b"data: 1\\n\\n"

middleware = SSEMiddleware(application)
for _ in range(3):
    response = middleware({"REQUEST_METHOD": "GET", "HTTP_ACCEPT": "text/event-stream"}, lambda *_: None)
    assert list(response) == [b"data: 1\\n\\n"]
    response.close()
assert middleware.stats().open == 0
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=DEADLINE, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("no thread can be started") == 1


# -- processes


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")  # of CPython 3.15, with threads
def test_there_is_one_watcher_a_process() -> None:
    assert watcher() is watcher()
    read, write = os.pipe()
    ours = id(watcher())
    child = os.fork()
    if not child:
        os.write(write, b"same" if id(watcher()) == ours else b"another")
        os._exit(0)
    os.waitpid(child, 0)
    assert os.read(read, 10) == b"another"
    os.close(read)
    os.close(write)


def test_nothing_of_a_stream_is_kept_once_it_has_ended() -> None:
    gone = threading.Event()

    class Held:
        def __del__(self) -> None:
            gone.set()

    def application(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        environ["held"] = Held()
        start_response("200 OK", [EVENT_STREAM])
        return Blocks([b"data: 1\n\n"])

    response = Response(SSEMiddleware(application), environ_of(EVENT_SOURCE))
    response.body()
    del response
    assert gone.is_set()  # at once: not in the watcher, at its next tick


def test_a_look_that_raises_does_not_end_the_watcher() -> None:
    broken, sound, own = Stream(), Stream(), Watcher()
    broken.is_due_raises = True
    for each in (broken, sound):
        own._adopt(each)
    own._tick()
    own._tick()
    assert (broken.served, sound.served) == (2, 2)


def test_streams_do_not_pile_up_for_a_thread_that_cannot_be_started(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", refuse)
    own = Watcher()
    streams = [Stream() for _ in range(3)]
    assert not any(add(own, each) for each in streams)  # the caller knows that no watcher will come
    assert not own._newcomers


def test_a_descriptor_that_now_belongs_to_another_stream_is_not_touched(pair: tuple[socket.socket, socket.socket]) -> None:
    server, client = pair
    old, new, own = Stream(server, ticks=1), Stream(server), Watcher()
    own._adopt(old)
    own._adopt(new)  # before the old one is seen to be done: keep-alive, or the same number
    own._tick()
    assert own._streams == [new]
    client.close()
    own._tick()
    assert (old.noticed, len(new.noticed)) == (["open"], 1)  # asked once, whether the number is still its own
    new.ticks = 0
    own._tick()
    assert (own._streams, own._descriptors, own._by_descriptor, own._poll.poll(0)) == ([], {}, {}, [])
