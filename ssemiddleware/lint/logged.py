"""The linter of `SSEMiddleware(..., lint=True)`, which logs the mistakes of one event stream."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from .linter import Finding, Linter
from .mistakes import LONG


class LoggedLinter:
    """Checks what the application yields for *path*, and changes nothing. Not for two threads.

    *log*: called with a subject and a line; it logs only the first line for each subject. Long lines are left out, since they
    are logged without ``lint=True`` as well.
    """

    def __init__(self, path: str, log: Callable[[str, str], object]) -> None:
        self._path = path
        self._log = log
        self._linter = Linter()

    def feed(self, block: bytes) -> None:
        """Log the mistakes in the lines that *block* completes."""
        self._log_all(self._linter.feed(block))

    def finish(self) -> None:
        """Log the mistakes that show at the stream's end."""
        self._log_all(self._linter.finish())

    def close(self) -> None:
        """Log that no event has ended, for a stream that is cut before its own end. From any thread."""
        self._log_all(self._linter.cut())

    def _log_all(self, findings: Iterator[Finding]) -> None:
        for mistake, event, line, text in findings:
            if mistake is not LONG:
                self._log(
                    f"lint: {mistake.name} {self._path!r}",
                    f"{self._path!r} sends a mistake in line {line}, event {event}: {text!r}. {mistake.what} "
                    f"What a browser does: {mistake.browser} The fix: {mistake.fix}",
                )
