"""Stand-ins: threads of ours in a `concurrent.futures.ThreadPoolExecutor`, which gunicorn's gthread worker and a2wsgi have.

An application that goes on after its client has disconnected keeps a thread of the pool. Meanwhile a stand-in takes items from
the pool's own queue, as the kept thread would have done. (Raising ``_max_workers`` does not help: it starts a thread only at
the next ``submit``, and not even then while the pool counts idle threads. 0 of 20 requests were answered.)

    pool = ExecutorPool(executor)
    take_back = pool.lend(start)  # None if no stand-in can be added
    ...
    take_back()                   # the kept thread is free again

The pool's own count of idle threads is not changed. It may be too low after a stand-in has taken an item; then ``submit``
starts a thread that is not needed, within its limit. If it were too high, ``submit`` would not start a thread that is needed.

Run with CPython 3.10 to 3.15.
"""

from __future__ import annotations

import concurrent.futures.thread as futures
import functools
import logging
import queue
import threading
import weakref
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .server import StartThread

_logger = logging.getLogger("ssemiddleware")

_LOOK_EVERY = 1.0  # seconds until an idle stand-in notices that it is not wanted any more; until then it does no harm


class ExecutorPool:
    """The threads of an executor, as `servers.server.Pool`. There may be several objects for one executor. For any thread."""

    __slots__ = ("_executor",)

    def __init__(self, executor: ThreadPoolExecutor) -> None:
        self._executor = executor

    @property
    def threads(self) -> int:
        """The largest number of its threads."""
        return self._executor._max_workers

    def lend(self, start: StartThread) -> Callable[[], None] | None:
        """Add a stand-in; return a function that removes it, or None if there are as many stand-ins as threads already.

        The function may be called from any thread and more than once. A stand-in that runs an item finishes it first.
        """
        if not _can_be_joined(self._executor):
            return None
        with _lock:
            stand_ins = _of_executors.setdefault(self._executor, _StandIns(self._executor))
        return stand_ins.lend(self._executor, start)


class _StandIns:
    """The stand-ins of one executor. They are all alike. If there are more than *_wanted*, one of them ends."""

    def __init__(self, executor: ThreadPoolExecutor) -> None:
        self._executor = weakref.ref(executor)  # weak, so that the executor can be destroyed
        self._queue: queue.SimpleQueue[Any] = executor._work_queue
        self._lock = threading.Lock()  # guards the two that follow
        self._wanted = 0
        self._threads: set[threading.Thread] = set()

    def lend(self, executor: ThreadPoolExecutor, start: StartThread) -> Callable[[], None] | None:
        with self._lock:
            if self._wanted >= executor._max_workers:
                return None
            if len(self._threads) <= self._wanted and not self._start(executor, start):
                return None
            self._wanted += 1
        return self._take_back_once()

    def _start(self, executor: ThreadPoolExecutor, start: StartThread) -> bool:
        thread = start("ssemiddleware-stand-in", functools.partial(self._work, _ThreadSetup(executor)))
        if thread is not None:
            self._threads.add(thread)
        return thread is not None

    def _take_back_once(self) -> Callable[[], None]:
        lent = [None]

        def take_back() -> None:
            with self._lock:
                if lent:
                    lent.pop()
                    self._wanted -= 1

        return take_back

    # -- on a stand-in's own thread

    def _work(self, setup: _ThreadSetup) -> None:
        try:
            setup.enter()
            while self._is_wanted() and self._run_one(setup):
                pass
        except BaseException:
            _logger.exception("a stand-in thread has ended with an error")
        finally:
            setup.leave()
            with self._lock:
                self._threads.discard(threading.current_thread())

    def _is_wanted(self) -> bool:
        with self._lock:
            is_wanted = len(self._threads) <= self._wanted
            if not is_wanted:
                self._threads.discard(threading.current_thread())
            return is_wanted

    def _run_one(self, setup: _ThreadSetup) -> bool:
        """Run an item of the queue if one comes within `_LOOK_EVERY`; return False if the pool has ended."""
        try:
            item = self._queue.get(timeout=_LOOK_EVERY)
        except queue.Empty:
            executor = self._executor()
            return executor is not None and not _has_ended(executor)
        if item is None:  # marks the pool's end after its last item; put back for the pool's own threads
            self._queue.put(None)
            return False
        setup.run(item)
        return True


class _ThreadSetup:
    """What an executor sets up in each of its threads, and how items run there."""

    def __init__(self, executor: ThreadPoolExecutor) -> None:
        create: Callable[[], Any] | None = getattr(executor, "_create_worker_context", None)
        self._context = None if create is None else create()  # from CPython 3.14 on
        self._initializer: Callable[..., object] | None = getattr(executor, "_initializer", None)
        self._arguments: tuple[Any, ...] = getattr(executor, "_initargs", ())

    def enter(self) -> None:
        if self._context is not None:
            self._context.initialize()
        elif self._initializer is not None:
            self._initializer(*self._arguments)

    def run(self, item: Any) -> None:
        if self._context is not None:
            item.run(self._context)
        else:
            item.run()

    def leave(self) -> None:
        if self._context is not None:
            self._context.finalize()


_of_executors: weakref.WeakKeyDictionary[ThreadPoolExecutor, _StandIns] = weakref.WeakKeyDictionary()  # of those that exist
_lock = threading.Lock()  # guards it


def _can_be_joined(executor: object) -> bool:
    """Return whether an executor works as the standard library's, and has not ended."""
    if not isinstance(executor, ThreadPoolExecutor) or type(executor).submit is not ThreadPoolExecutor.submit:
        return False
    return type(executor._work_queue) is queue.SimpleQueue and not _has_ended(executor)


def _has_ended(executor: ThreadPoolExecutor) -> bool:
    return executor._shutdown or bool(executor._broken) or futures._shutdown
