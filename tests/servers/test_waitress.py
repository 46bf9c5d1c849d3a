"""waitress: its unsent bytes, its stop, and stand-ins among its threads."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import pytest

from ssemiddleware.servers.server import Pool, StopSign
from ssemiddleware.servers.waitress import Waitress
from ssemiddleware.watcher import Watcher

from .real_servers import DEADLINE, Silent, is_soon, request_to, serve_with_waitress, writer_of

if TYPE_CHECKING:
    from collections.abc import Callable

Dispatcher = Any  # waitress has no types


@pytest.fixture
def dispatcher() -> Iterator[Dispatcher]:
    """A dispatcher of two threads, as waitress starts it."""
    found = pytest.importorskip("waitress.task").ThreadedTaskDispatcher()
    found.set_thread_count(2)
    yield found
    found.shutdown()


class Task:
    """A request that keeps a thread until `go_on`."""

    def __init__(self) -> None:
        self.is_running, self.go_on = threading.Event(), threading.Event()

    def service(self) -> None:
        self.is_running.set()
        assert self.go_on.wait(DEADLINE)

    def cancel(self) -> None:
        pass


def environ_for(dispatcher: Dispatcher) -> dict[str, object]:
    """Return an environ that leads to *dispatcher* as waitress's own does."""
    channel_type: Any = pytest.importorskip("waitress.channel").HTTPChannel
    channel: Any = channel_type.__new__(channel_type)
    server: Any = type("TcpWSGIServer", (), {})()
    server.task_dispatcher = dispatcher
    channel.server, channel.adj = server, type("Adjustments", (), {"threads": 2})
    return {"waitress.client_disconnected": channel.check_client_disconnected}


def pool_of(dispatcher: Dispatcher) -> Pool:
    found = Waitress(environ_for(dispatcher)).pool()
    assert found is not None
    return found


def sign_of(dispatcher: Dispatcher) -> StopSign:
    found = Waitress(environ_for(dispatcher)).stop_sign()
    assert found is not None
    return found


def keep_all_threads(dispatcher: Dispatcher) -> list[Task]:
    tasks = [Task(), Task()]
    for task in tasks:
        dispatcher.add_task(task)
        assert task.is_running.wait(DEADLINE)
    return tasks


def has_run(task: Task) -> bool:
    """Return whether *task* runs before the deadline, and let it end."""
    found = task.is_running.wait(DEADLINE)
    task.go_on.set()
    return found


def counts(dispatcher: Dispatcher) -> tuple[int, int, int]:
    with dispatcher.lock:
        return len(dispatcher.threads), dispatcher.active_count, dispatcher.stop_count


def lend(pool: Pool) -> Callable[[], None]:
    found: list[Callable[[], None]] = []

    def lends() -> bool:
        take_back = pool.lend(Watcher().start)  # None while another thread has the dispatcher's lock
        if take_back is not None:
            found.append(take_back)
        return bool(found)

    assert is_soon(lends)
    return found[0]


def test_nothing_is_written_while_waitress_has_unsent_bytes() -> None:
    application = Silent()
    with serve_with_waitress(application) as address, request_to(address, application):
        channel = application.server.environ["waitress.client_disconnected"].__self__
        channel.total_outbufs_len = 1
        assert not writer_of(application).write(b":\n")
        assert not writer_of(application).room()
        channel.total_outbufs_len = 0
        assert writer_of(application).write(b":\n")


@pytest.mark.parametrize("flag", [{"connected": False}, {"will_close": True}], ids=["closed", "about to be closed"])
def test_nothing_is_written_to_a_connection_that_waitress_closes(flag: dict[str, bool]) -> None:
    application = Silent()
    with serve_with_waitress(application) as address, request_to(address, application):
        channel = application.server.environ["waitress.client_disconnected"].__self__
        before = {name: getattr(channel, name) for name in flag}
        vars(channel).update(flag)
        assert not writer_of(application).write(b":\n")
        assert not writer_of(application).room()
        vars(channel).update(before)


def test_a_channel_that_waitress_has_closed_is_gone() -> None:
    application = Silent()
    with serve_with_waitress(application) as address, request_to(address, application):
        connection, channel = application.connection, application.server.environ["waitress.client_disconnected"].__self__
        assert connection is not None
        assert connection.is_closed_by_itself
        channel.connected = False
        assert (connection.state(), connection.fileno()) == ("gone", -1)
        channel.connected = True


def test_a_stand_in_answers_while_all_threads_are_kept(dispatcher: Dispatcher) -> None:
    kept = keep_all_threads(dispatcher)
    lend(pool_of(dispatcher))
    for _ in range(20):
        task = Task()
        dispatcher.add_task(task)
        assert has_run(task)
    for task in kept:
        task.go_on.set()


def test_a_stand_in_answers_a_request_that_came_before_it(dispatcher: Dispatcher) -> None:
    kept, waiting = keep_all_threads(dispatcher), Task()
    dispatcher.add_task(waiting)
    lend(pool_of(dispatcher))
    assert has_run(waiting)
    for task in kept:
        task.go_on.set()


def test_the_counts_are_as_before_once_a_stand_in_is_taken_back(dispatcher: Dispatcher) -> None:
    assert is_soon(lambda: counts(dispatcher) == (2, 0, 0))
    take_back = lend(pool_of(dispatcher))
    assert is_soon(lambda: counts(dispatcher) == (3, 0, 0))
    take_back()
    take_back()  # the second call does nothing
    assert is_soon(lambda: counts(dispatcher) == (2, 0, 0))


def test_when_a_stand_in_is_taken_back_the_first_free_thread_ends(dispatcher: Dispatcher) -> None:
    take_back, tasks = lend(pool_of(dispatcher)), [*keep_all_threads(dispatcher), Task()]
    dispatcher.add_task(tasks[2])
    assert tasks[2].is_running.wait(DEADLINE)
    take_back()
    assert counts(dispatcher) == (3, 3, 1)
    assert not sign_of(dispatcher).is_stopping()
    tasks[0].go_on.set()
    assert is_soon(lambda: counts(dispatcher) == (2, 2, 0))
    for task in tasks:
        task.go_on.set()


def test_a_server_that_stops_shows_it_and_gets_no_stand_in(dispatcher: Dispatcher) -> None:
    kept, take_back, sign = keep_all_threads(dispatcher), lend(pool_of(dispatcher)), sign_of(dispatcher)
    assert not sign.is_stopping()
    dispatcher.set_thread_count(0)
    assert sign.is_stopping()
    assert pool_of(dispatcher).lend(Watcher().start) is None
    take_back()
    for task in kept:
        task.go_on.set()
    assert is_soon(lambda: counts(dispatcher) == (0, 0, 0))
    assert sign.is_stopping()


def test_a_lower_number_of_threads_is_no_stop(dispatcher: Dispatcher) -> None:
    kept = keep_all_threads(dispatcher)
    dispatcher.set_thread_count(1)
    assert not sign_of(dispatcher).is_stopping()
    for task in kept:
        task.go_on.set()


def test_there_is_no_stand_in_while_the_dispatcher_holds_its_lock(dispatcher: Dispatcher) -> None:
    pool = pool_of(dispatcher)
    with dispatcher.lock:
        assert pool.lend(Watcher().start) is None


def test_streams_end_a_second_before_waitress_stops_waiting(dispatcher: Dispatcher) -> None:
    sign = sign_of(dispatcher)
    sign.report_alive()
    assert [sign.seconds_left(seconds) for seconds in (0.0, 1.5, 9.0)] == [4.0, 2.5, 0.0]


def test_the_number_of_threads_is_that_of_its_option(dispatcher: Dispatcher) -> None:
    server = Waitress(environ_for(dispatcher))
    assert (server.threads(), pool_of(dispatcher).threads) == (2, 2)


@pytest.mark.parametrize(
    "found", [None, object(), list[int]().append], ids=["nothing", "an object", "a method of another object"]
)
def test_an_environ_that_leads_nowhere_shows_nothing(found: object) -> None:
    server = Waitress({"waitress.client_disconnected": found})
    shown = server.connection(), server.writer(None), server.stop_sign(), server.pool(), server.threads()
    assert shown == (None, None, None, None, None)
