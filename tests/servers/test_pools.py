"""`servers.pools`: stand-ins run items of an executor's queue, end when they are not wanted, and lose no item."""

from __future__ import annotations

import gc
import subprocess
import sys
import threading
import time
import types
import weakref
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import pytest

from ssemiddleware.servers import pools
from ssemiddleware.servers.pools import ExecutorPool
from ssemiddleware.watcher import Watcher

from ..applications import DEADLINE

start_thread = Watcher().start


@pytest.fixture(autouse=True)
def look_often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pools, "_LOOK_EVERY", 0.01)


class Kept:
    """An executor with *threads* threads. A task keeps each of them until `let_go`."""

    def __init__(self, threads: int = 1) -> None:
        self.executor = ThreadPoolExecutor(threads)
        self.pool = ExecutorPool(self.executor)
        self.let_go = threading.Event()
        are_kept = threading.Barrier(threads + 1)
        self.tasks = [self.executor.submit(self._keep, are_kept) for _ in range(threads)]
        are_kept.wait(DEADLINE)

    def _keep(self, are_kept: threading.Barrier) -> None:
        are_kept.wait(DEADLINE)
        assert self.let_go.wait(DEADLINE)


def stand_ins() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "ssemiddleware-stand-in"]


def wait_until(is_so: Callable[[], bool]) -> bool:
    """Wait for something that has no event, such as a thread's end."""
    deadline = time.monotonic() + DEADLINE
    while not is_so() and time.monotonic() < deadline:
        time.sleep(0.001)
    return is_so()


@pytest.fixture
def kept() -> Iterator[Kept]:
    kept = Kept()
    yield kept
    kept.let_go.set()
    kept.executor.shutdown()
    assert wait_until(lambda: not stand_ins())


def lend(pool: ExecutorPool) -> Callable[[], None]:
    take_back = pool.lend(start_thread)
    assert take_back is not None
    return take_back


def test_a_stand_in_runs_items_while_all_threads_are_kept(kept: Kept) -> None:
    waiting = kept.executor.submit(threading.current_thread)
    lend(kept.pool)
    assert waiting.result(DEADLINE).name == "ssemiddleware-stand-in"
    assert kept.executor.submit(threading.current_thread).result(DEADLINE).name == "ssemiddleware-stand-in"


def test_an_exception_of_a_task_goes_to_its_future_and_the_stand_in_goes_on(kept: Kept) -> None:
    lend(kept.pool)
    with pytest.raises(SystemExit):
        kept.executor.submit(sys.exit).result(DEADLINE)
    assert kept.executor.submit(int).result(DEADLINE) == 0


def test_there_are_at_most_as_many_stand_ins_as_threads(kept: Kept) -> None:
    assert kept.pool.threads == 1
    take_back = lend(kept.pool)
    assert ExecutorPool(kept.executor).lend(start_thread) is None
    take_back()
    lend(ExecutorPool(kept.executor))


def test_taking_back_twice_counts_once(kept: Kept) -> None:
    first = lend(kept.pool)
    first()
    lend(kept.pool)
    first()
    assert kept.pool.lend(start_thread) is None


def test_a_stand_in_ends_when_it_is_taken_back(kept: Kept) -> None:
    lend(kept.pool)()
    assert wait_until(lambda: not stand_ins())


def test_a_stand_in_that_is_taken_back_finishes_its_task_first(kept: Kept) -> None:
    take_back = lend(kept.pool)
    begun, go_on = threading.Event(), threading.Event()

    def work() -> bool:
        begun.set()
        return go_on.wait(DEADLINE)

    task = kept.executor.submit(work)
    assert begun.wait(DEADLINE)
    take_back()
    go_on.set()
    assert task.result(DEADLINE)
    assert wait_until(lambda: not stand_ins())


def test_a_stand_in_that_still_runs_a_task_is_used_again(kept: Kept) -> None:
    take_back = lend(kept.pool)
    begun, go_on = threading.Event(), threading.Event()

    def work() -> bool:
        begun.set()
        return go_on.wait(DEADLINE)

    kept.executor.submit(work)
    assert begun.wait(DEADLINE)
    take_back()
    lend(kept.pool)
    assert len(stand_ins()) == 1
    go_on.set()
    assert kept.executor.submit(threading.current_thread).result(DEADLINE) == stand_ins()[0]


def test_no_item_is_lost_while_stand_ins_come_and_go() -> None:
    kept = Kept(threads=2)
    tasks: list[Future[int]] = []
    for number in range(300):
        take_back = kept.pool.lend(start_thread)
        tasks.append(kept.executor.submit(int, str(number)))
        if take_back is not None and number % 3:
            take_back()
    kept.let_go.set()
    assert [task.result(DEADLINE) for task in tasks] == list(range(300))
    kept.executor.shutdown()
    assert wait_until(lambda: not stand_ins())


def test_the_executor_still_starts_its_own_threads() -> None:
    with ThreadPoolExecutor(3) as executor:
        pool = ExecutorPool(executor)
        lend(pool)
        for _ in range(10):  # taken by the stand-in or by the executor's first thread
            executor.submit(int).result(DEADLINE)
        all_there = threading.Barrier(4)  # three threads and the stand-in
        tasks = [executor.submit(all_there.wait, DEADLINE) for _ in range(4)]
        assert sorted(task.result(DEADLINE) for task in tasks) == [0, 1, 2, 3]


@pytest.mark.parametrize("is_idle", [True, False], ids=["idle", "at work"])
def test_a_stand_in_passes_the_end_of_the_pool_on_to_its_threads(is_idle: bool) -> None:
    executor = ThreadPoolExecutor(2)
    lend(ExecutorPool(executor))
    all_there = threading.Barrier(3)
    tasks = [executor.submit(all_there.wait, DEADLINE) for _ in range(3)]
    if is_idle:
        assert len([task.result(DEADLINE) for task in tasks]) == 3
    executor.shutdown()  # waits for its threads
    assert wait_until(lambda: not stand_ins())
    assert all(task.done() for task in tasks)


def test_items_before_the_end_of_the_pool_are_run(kept: Kept) -> None:
    waiting = [kept.executor.submit(int) for _ in range(3)]
    lend(kept.pool)
    kept.executor.shutdown(wait=False)
    assert [task.result(DEADLINE) for task in waiting] == [0, 0, 0]


def test_a_stand_in_does_not_keep_its_executor_alive() -> None:
    executor = ThreadPoolExecutor(1)
    lend(ExecutorPool(executor))
    still_there = weakref.ref(executor)
    del executor
    assert wait_until(lambda: gc.collect() >= 0 and still_there() is None)
    assert wait_until(lambda: not stand_ins())


def test_a_stand_in_is_initialized_like_the_executors_threads() -> None:
    local = threading.local()
    with ThreadPoolExecutor(1, initializer=lambda value: setattr(local, "value", value), initargs=("set",)) as executor:
        lend(ExecutorPool(executor))
        both = threading.Barrier(2)
        tasks = [executor.submit(lambda: (both.wait(DEADLINE), local.value)[1]) for _ in range(2)]
        assert [task.result(DEADLINE) for task in tasks] == ["set", "set"]


def test_from_python_3_14_on_items_run_in_a_context_of_the_executor() -> None:
    seen: list[object] = []
    ran = threading.Event()

    class Context:
        def initialize(self) -> None:
            seen.append("initialize")

        def finalize(self) -> None:
            seen.append("finalize")

    class Item:
        def run(self, context: object) -> None:
            seen.append(type(context))
            ran.set()

    executor: Any = ThreadPoolExecutor(1)
    executor._create_worker_context = Context
    take_back = lend(ExecutorPool(executor))
    executor._work_queue.put(Item())
    assert ran.wait(DEADLINE)
    take_back()
    assert wait_until(lambda: not stand_ins())
    assert seen == ["initialize", Context, "finalize"]
    executor.shutdown()


def test_a_failing_initializer_is_logged_and_the_pool_goes_on(kept: Kept, caplog: pytest.LogCaptureFixture) -> None:
    executor: Any = kept.executor
    executor._initializer = sys.exit
    create = getattr(executor, "_create_worker_context", None)
    if create is not None:  # from CPython 3.14 on
        executor._create_worker_context = lambda: types.SimpleNamespace(initialize=sys.exit, finalize=list)
    lend(kept.pool)
    assert wait_until(lambda: not stand_ins())
    assert "a stand-in thread has ended with an error" in caplog.text
    executor._initializer = None
    if create is not None:
        executor._create_worker_context = create
    kept.let_go.set()
    assert executor.submit(int).result(DEADLINE) == 0


class OwnSubmit(ThreadPoolExecutor):
    def submit(self, *args: Any, **kwargs: Any) -> Any:
        return super().submit(*args, **kwargs)


@pytest.mark.parametrize("executor", [object(), OwnSubmit(1)], ids=["not an executor", "an executor with another submit"])
def test_an_executor_that_works_differently_gets_no_stand_in(executor: Any) -> None:
    assert ExecutorPool(executor).lend(start_thread) is None


def test_a_pool_that_has_ended_gets_no_stand_in() -> None:
    executor = ThreadPoolExecutor(1)
    executor.shutdown()
    assert ExecutorPool(executor).lend(start_thread) is None


def test_there_is_no_stand_in_when_no_thread_can_be_started(kept: Kept, monkeypatch: pytest.MonkeyPatch) -> None:
    def start(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", start)
        assert kept.pool.lend(start_thread) is None
    lend(kept.pool)


AT_EXIT = """
import threading, time
from concurrent.futures import ThreadPoolExecutor
from ssemiddleware.servers.pools import ExecutorPool
from ssemiddleware.watcher import Watcher
start_thread = Watcher().start
executor = ThreadPoolExecutor(2)
take_back = [ExecutorPool(executor).lend(start_thread) for _ in range(2)]
all_there = threading.Barrier(3)
tasks = [executor.submit(all_there.wait) for _ in range(3)]
[task.result() for task in tasks]
{more}
print("last line", flush=True)
"""


@pytest.mark.parametrize(
    "more",
    [
        "",
        "begun = threading.Event(); [executor.submit(lambda: (begun.set(), time.sleep(0.2))) for _ in range(2)]; begun.wait()",
    ],
    ids=["idle", "at work"],
)
def test_a_stand_in_does_not_delay_the_end_of_the_process(more: str) -> None:
    process = subprocess.run(
        [sys.executable, "-c", AT_EXIT.format(more=more)], capture_output=True, text=True, timeout=DEADLINE, check=True
    )
    assert process.stdout == "last line\n"
    assert process.stderr == ""
