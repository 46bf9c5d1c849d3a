"""Whether a garbage collection runs in this thread.

The code that a collection runs (``__del__``, the end of a stream) may run while its thread holds any lock, an exporter's or a
library's. So such code must not take another lock.
"""

from __future__ import annotations

import gc
import threading


class Collections:
    """The garbage collections of this process, after a call of `watch`."""

    def __init__(self) -> None:
        self._collects: int | None = None  # the thread that collects now; Python never starts a collection inside another

    def watch(self) -> None:
        """Begin to watch them. Each collection then takes two more calls."""
        if self._see not in gc.callbacks:
            gc.callbacks.append(self._see)

    @property
    def is_ours(self) -> bool:
        """Whether a collection runs in this thread."""
        return self._collects == threading.get_ident()

    def _see(self, phase: str, _info: object) -> None:
        self._collects = threading.get_ident() if phase == "start" else None


collections = Collections()
