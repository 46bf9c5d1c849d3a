"""What is logged of events that are too large for their readers, and the steps that one stream's bytes go through."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Protocol

from .fold import Fold
from .fragment import Fragment
from .long_lines import LongLineWatch
from .reshaping import LONG_LINE, OversizedEvents, Reshaping, begins_as_json

if TYPE_CHECKING:
    from _typeshed.wsgi import WSGIEnvironment

_LONG_LINE = "long line"


class Asked(Protocol):
    """The request that a stream answers."""

    environ: WSGIEnvironment

    @property
    def path(self) -> str:
        """The path that was asked for."""


class OversizedSteps:
    """Makes the `OversizedEvents` of each stream, and logs the first line that is too long.

    *log*: given a subject and a line.
    """

    def __init__(self, reshapes: Sequence[Fold | Fragment], log: Callable[[str, str], object]) -> None:
        self._reshapes = reshapes
        self._log = log
        self._has_logged_long_line = False

    def maybe_events(self, request: Asked) -> OversizedEvents | None:
        """Return what is done to the events of one stream, None for nothing but a `watch`."""
        if not self._reshapes:
            return None
        path = request.path
        log = functools.partial(self._log_broken_json, path)
        steps: list[Reshaping] = [step for reshape in self._reshapes if (step := reshape.step(request.environ, log))]
        if not self._has_logged_long_line:
            steps.append(LongLineWatch(functools.partial(self._log_long_line, path)))
        return OversizedEvents(steps) if steps else None

    @property
    def must_watch(self) -> bool:
        """Whether to watch a stream for long lines: no option changes them, and none has been logged yet."""
        return not (self._reshapes or self._has_logged_long_line)

    def watch(self, path: str) -> OversizedEvents:
        """Return the step that watches the lines of a stream at *path*."""
        return OversizedEvents([LongLineWatch(functools.partial(self._log_long_line, path))])

    def _log_broken_json(self, path: str, reason: str) -> None:
        self._log("broken JSON", f"{path!r} sends {reason}")

    def _log_long_line(self, path: str, data: bytes) -> None:
        self._has_logged_long_line = True
        given = {type(reshape) for reshape in self._reshapes}
        if begins_as_json(data.removeprefix(b" ")) and Fold not in given:
            remedy = "oversized=Fold() breaks such JSON into short lines"
        elif Fragment not in given:
            remedy = "oversized=Fragment() sends it in pieces to the clients that can join them"
        else:
            remedy = "a client that asks for fragments (sse-fragments=1 in the query) gets it in pieces"
        self._log(
            _LONG_LINE,
            f"{path!r} sends an event line of more than {LONG_LINE // 1024} KiB: WebKit (Safari) takes quadratic time to read "
            f"it (10 MB: 5 seconds and more), and readers written in Go or on aiohttp refuse it. The remedy: {remedy}.",
        )
