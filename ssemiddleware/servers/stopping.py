"""The stop sign of a server that shows its stop when it is asked, and that has no supervisor."""

from __future__ import annotations

from collections.abc import Callable

_MARGIN = 1.0  # seconds between the end of the streams and the end of the process; half of the grace if that is less


class AskedSign:
    """A `server.StopSign` that calls *is_stopping*. *grace*: the server cuts its streams after so many seconds; None: never."""

    __slots__ = ("_grace", "is_stopping")

    needs_reports = False

    def __init__(self, is_stopping: Callable[[], bool], grace: float | None) -> None:
        self.is_stopping = is_stopping
        self._grace = grace

    def seconds_left(self, stopping_for: float) -> float | None:
        """See `server.StopSign`."""
        if self._grace is None:
            return None
        return max(0.0, self._grace - min(_MARGIN, self._grace / 2) - stopping_for)

    def report_alive(self) -> None:
        """Do nothing."""
