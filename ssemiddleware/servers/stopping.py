"""The stop sign of a server that has to be asked, and whose threads nobody watches."""

from __future__ import annotations

from collections.abc import Callable

_MARGIN = 1.0  # seconds before its end at which the streams of a process should be over; half of a grace shorter than 2


class AskedSign:
    """A `server.StopSign`: *is_stopping* tells, and *grace* says after how many seconds the server cuts its streams.

    None where it waits for them for ever.
    """

    __slots__ = ("_grace", "is_stopping")

    must_be_told = False

    def __init__(self, is_stopping: Callable[[], bool], grace: float | None) -> None:
        self.is_stopping = is_stopping
        self._grace = grace

    def seconds_left(self, stopping_for: float) -> float | None:
        """See `server.StopSign`."""
        if self._grace is None:
            return None
        return max(0.0, self._grace - min(_MARGIN, self._grace / 2) - stopping_for)

    def tell_alive(self) -> None:
        """Do nothing."""
