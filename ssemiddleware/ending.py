"""How streams end: for which reasons, how long the end may take, and whether this process stops."""

from __future__ import annotations

import errno
import os
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .memory import Pulls
    from .servers.server import Pool, Server, StopSign

# Reasons for which a stream ends.
ENDED, RAISED, CLIENT_GONE, SEND_DEADLINE = "application ended", "application raised", "client gone", "send deadline"
DRAIN, LEASE, REFUSED, FAILED = "drain", "lease", "refused", "failed"
REASONS = (ENDED, RAISED, CLIENT_GONE, SEND_DEADLINE, DRAIN, LEASE, REFUSED, FAILED)

# Seconds that an unfinished event may take to end, once its stream has to end.
_FINISH_EVENT_WITHIN = 2.0
_FINISH_EVENT_WITHIN_AT_STOP = 0.3  # a process that stops has little time
LEAVE_WHOLE_FOR = 0.2  # seconds in which all that the application yields is still sent; after that only up to an event's end
WAKE_WITHIN = 0.1  # seconds that an application has to end its stream by itself, before it is ended from outside


def finish_event_within(reason: str) -> float:
    """Return how many seconds an unfinished event has to end, in a stream that has to end for *reason*."""
    return _FINISH_EVENT_WITHIN_AT_STOP if reason == DRAIN else _FINISH_EVENT_WITHIN


class StreamBroken(ConnectionAbortedError):
    """Raised to the server to cut a response inside an event: a clean end would look like that of a whole response."""

    def __init__(self) -> None:
        # Servers log EPIPE as a lost connection, not as an error of the application.
        super().__init__(errno.EPIPE, "the event stream had to end inside an event")


class StreamOver(ConnectionAbortedError):
    """Raised in an application that calls ``write()`` for a stream that has ended."""

    def __init__(self) -> None:
        super().__init__(errno.EPIPE, "the event stream has ended")


class Round:
    """What is asked once a tick for all streams of one middleware in one process: does the process stop?

    *is_drained*: returns whether `drain` was called. *each*: what else is due once a tick. *ends_requested*: returns a number
    that changes when `Stream.end` is called. For the watcher.
    """

    __slots__ = (
        "_each", "_ends_requested", "_is_drained", "_last_bytes", "_seen", "is_served", "kept", "looked_at",
        "pool", "process", "sign", "stopping_since",
    )  # fmt: skip

    def __init__(
        self, is_drained: Callable[[], object], each: Callable[[], object], ends_requested: Callable[[], int] = int
    ) -> None:
        self._is_drained = is_drained
        self._ends_requested = ends_requested
        self._seen = ends_requested()
        self._each = each
        self._last_bytes: deque[Callable[[], bool]] = deque()  # of streams that ended while the process stops
        self.kept: dict[Pulls, bytes] = {}  # large blocks that are sent, or being sent
        self.looked_at = 0.0  # the watcher's clock, in seconds
        self.process = os.getpid()
        self.is_served = False  # by a known server, which has been asked what it shows of the process
        self.sign: StopSign | None = None
        self.pool: Pool | None = None
        self.stopping_since: float | None = None  # None while the process goes on

    def see(self, server: Server) -> None:
        """Ask once what the *server* shows of the process. On the server's thread: its frames lead to the server."""
        if not self.is_served:
            self.sign, self.pool, self.is_served = server.stop_sign(), server.pool(), bool(server.name)

    def look(self, now: float) -> bool:
        """Ask; *now*: the watcher's clock, in seconds. Return whether that concerns each stream at once."""
        self.looked_at = now
        self.kept.clear()  # an application that has made no other block since the last tick may wait for long
        if self.stopping_since is None and (self._is_drained() or (self.sign is not None and self.sign.is_stopping())):
            self.stopping_since = now
        before, self._seen = self._seen, self._ends_requested()
        self._each()
        return self.stopping_since is not None or before != self._seen

    @property
    def is_stopping(self) -> bool:
        """Whether the process stops, even if the watcher has not noticed it yet."""
        return self.stopping_since is not None or bool(self._is_drained())

    def note_close(self, server: Server) -> None:
        """Note that a stream is closed while the process stops. On the server's thread."""
        last_bytes = server.last_bytes()
        if last_bytes is not None:
            self._last_bytes.append(last_bytes)

    @property
    def have_last_bytes_left(self) -> bool:
        """Whether the server has sent the last bytes of the streams that were closed while the process stops."""
        while self._last_bytes and self._last_bytes[0]():
            self._last_bytes.popleft()
        return not self._last_bytes

    @property
    def is_grace_over(self) -> bool:
        """Whether the server is about to kill the requests that still run."""
        if self.stopping_since is None or self.sign is None or not self.sign.is_stopping():
            return False
        left = self.sign.seconds_left(self.looked_at - self.stopping_since)
        return left is not None and left <= 0
