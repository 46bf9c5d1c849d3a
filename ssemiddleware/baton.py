"""`Baton`: the right to write to one client. Whoever has it may write and touch the wire's state, and nobody else.

It is one token. While the application's code runs the token lies free; while the server writes it is the server's.

| who | does | finds the token | then |
|---|---|---|---|
| server's thread, into the application | `give` | with itself | free |
| server's thread, out of the application | `take` | free / with the watcher / with itself | its own; waits for the watcher |
| application, in ``write()`` and ``start_response`` | `take`, `give` | the same | the same; in its call the server keeps it |
| watcher | `take_ours`, `give_ours` | free / anywhere else | its own / tries again at its next tick |
| anybody, also between any two bytecodes | `end` | anywhere | over: nobody may write any more |

Each step is one operation on a set, which is atomic with and without the GIL, so there is no lock that a signal, a greenlet's
end, a garbage collection or a fork could leave locked. Whoever of ours touches the connection without the token, to shut it
down, says so with `hold`; `end` waits for that, so that a server never gets its descriptor back while we use it.
"""

from __future__ import annotations

import os
import sys
import threading
import time

_BRIEFLY = 0.0002  # seconds between two looks at a watcher that writes 64 bytes at most


class Baton:
    """The right to write to one client. It begins with the server."""

    __slots__ = ("_process", "_taken", "free", "holder", "is_over")

    def __init__(self, process: int | None = None) -> None:
        self.free: set[None] = set()  # holds the token while nobody has it; a deque would take half a KB more
        self._taken = 0  # times that the watcher has reached for the token
        self._process = process or os.getpid()
        self.is_over = False  # nothing may be written any more
        self.holder = 0  # the thread of ours that uses the connection, 0 for none

    @property
    def is_free(self) -> bool:
        """Whether the application's code runs."""
        return bool(self.free)

    def give(self) -> None:
        """Let the token lie: the application's code runs now."""
        self.free.add(None)

    def take(self) -> bool:
        """Take the token, after the watcher if that has it. Return False if it was with the caller already."""
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
            elif self._taken == taken:  # the watcher has not had it between these looks
                return False

    def _is_held(self) -> bool:
        """Tell whether a thread uses the connection that will let go of it: none does in a fork, or once Python ends."""
        # `threading` is asked late: under gevent, every greenlet has a number of its own.
        holder = self.holder
        if not holder:
            return False
        return holder != threading.get_ident() and self._process == os.getpid() and not sys.is_finalizing()

    # -- the watcher

    def hold(self) -> bool:
        """Keep the server from getting its connection back until `let_go`. Return False if the stream is over."""
        self.holder = threading.get_ident()
        if self.is_over:  # asked once: `end` may come behind this, and waits for us then
            self.holder = 0
            return False
        return True

    def let_go(self) -> None:
        """End what `hold` began."""
        self.holder = 0

    def take_ours(self) -> bool:
        """Take the token if it lies free and the stream is not over, and return whether it was so. Never waits."""
        if not self.hold():
            return False
        self._taken += 1  # first: `take` must be able to tell that it may have been the watcher
        if self._maybe_take():
            if not self.is_over:  # asked again: who had the token may have ended the stream before giving it
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
        """Let nobody write any more, and return once nobody of ours does. From any thread, at any time, and twice."""
        self.is_over = True
        while self._is_held():
            time.sleep(_BRIEFLY)
