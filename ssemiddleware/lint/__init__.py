r"""Find the mistakes in the bytes of an event stream: the event and line of each, what a browser does, and the fix.

>>> [(finding.mistake.name, finding.line) for finding in lint([b"Data: hello\n\n", b"retry: 3s\ndata: 1\n\n"])]
[('field-name', 1), ('retry', 3)]

For development: `SSEMiddleware(..., lint=True)` logs them, and ``python -m ssemiddleware lint`` prints those of a file or a
URL. Nothing here does I/O, starts a thread or reads a clock.
"""

from .linter import Finding, Linter, lint
from .logged import LoggedLinter
from .mistakes import MISTAKES, Mistake

__all__ = ["MISTAKES", "Finding", "Linter", "LoggedLinter", "Mistake", "lint"]
