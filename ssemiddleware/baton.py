"""`Baton`: the right to write to one client. Only the thread that has it may write, or touch the wire's state.

It is one token. While the application's code runs the token is free. While the server writes the server has it.

| who | calls | where the token is | where it is afterwards |
|---|---|---|---|
| server's thread, into the application | `give` | with this thread | free |
| server's thread, out of the application | `take` | anywhere; it waits for the watcher | with this thread |
| application, in ``write()`` and ``start_response`` | `take`, `give` | anywhere; it waits for the watcher | where it was |
| watcher | `take_ours`, `give_ours` | free | with the watcher |
| watcher | `take_ours` | anywhere else | there; the watcher tries again at its next tick |
| any thread, between any two bytecodes | `end` | anywhere | over: nothing may be written any more |

Each step is one operation on a set, which is atomic with and without the GIL. So there is no lock that a signal, a greenlet's
end, a garbage collection or a fork could leave locked. A thread of ours that uses the connection without the token, to shut it
down, calls `hold` first. `end` waits for that, so that a server never gets its descriptor back while we use it.
"""

from __future__ import annotations

import os
import sys
import threading
import time

_BRIEFLY = 0.0002  # seconds between two checks whether the watcher has written its 64 bytes at most


class Baton:
    """The right to write to one client. At first the server has it."""

    __slots__ = ("_process", "_taken", "free", "holder", "is_over")

    def __init__(self, process: int | None = None) -> None:
        self.free: set[None] = set()  # holds the token while it is free; a deque would take half a KB more
        self._taken = 0  # how often the watcher has tried to take the token
        self._process = process or os.getpid()
        self.is_over = False  # nothing may be written any more
        self.holder = 0  # the thread of ours that uses the connection; 0 without one

    @property
    def is_free(self) -> bool:
        """Whether the application's code runs."""
        return bool(self.free)

    def give(self) -> None:
        """Put the token down: the application's code runs now."""
        self.free.add(None)

    def take(self) -> bool:
        """Take the token; wait if the watcher has it. Return False if the caller already has it."""
        if not self.free and not self._taken:  # the watcher has never tried, so it is the caller's
            return False
        return self._maybe_take() or self._take_after_watcher()

    def _maybe_take(self) -> bool:
        if not self.free:  # as in each call of `write` and `start_response`; an exception costs ten times as much
            return False
        try:
            self.free.pop()
        except KeyError:
            return False
        return True

    def _take_after_watcher(self) -> bool:
        while True:
            taken = self._taken
            if self._maybe_take():
                return True
            if self._is_held():
                time.sleep(_BRIEFLY)
            elif self._maybe_take():  # given back just now
                return True
            elif self._taken == taken:  # the watcher has not had it between these two checks
                return False

    def _is_held(self) -> bool:
        """Tell whether a running thread uses the connection. In a fork, and when Python ends, that thread does not run."""
        # `threading` is asked late: under gevent, every greenlet has a number of its own.
        holder = self.holder
        if not holder:
            return False
        return holder != threading.get_ident() and self._process == os.getpid() and not sys.is_finalizing()

    # -- the watcher

    def hold(self) -> bool:
        """Keep the server from getting its connection back until `let_go`. Return False if the stream is over."""
        self.holder = threading.get_ident()
        if self.is_over:  # asked once: if `end` is called after this, it waits for us
            self.holder = 0
            return False
        return True

    def let_go(self) -> None:
        """End what `hold` began."""
        self.holder = 0

    def take_ours(self) -> bool:
        """Take the token if it is free and the stream is not over. Return whether it was taken. Never waits."""
        if not self.hold():
            return False
        self._taken += 1  # first: `take` must be able to tell that it may have been the watcher
        if self._maybe_take():
            if not self.is_over:  # asked again: the thread that had the token may have ended the stream
                return True
            self.free.add(None)
        self.let_go()
        return False

    def give_ours(self) -> None:
        """Give the token back that `take_ours` took."""
        self.free.add(None)
        self.let_go()

    # -- the end

    def end(self) -> None:
        """Allow no more writes, and return when no thread of ours is writing. Callable from any thread, any time, and twice."""
        self.is_over = True
        while self.holder and self._is_held():
            time.sleep(_BRIEFLY)
