"""How a row of the table of servers is filled, and each cell checked against what it has to be."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path

from .conftest import Fill, require
from .every_server import Row, expected
from .serving import Server, start

TRIES = 3  # of which one has to keep a promise of time


class Measured:
    """A server of the table while its row is filled."""

    def __init__(self, row: Row, folder: Path, fill: Fill) -> None:
        self.row = row
        self._folder = folder
        self._fill = fill
        self._server: Server | None = None

    @property
    def server(self) -> Server:
        """The server, started if it does not run."""
        if self._server is None:
            self._server = start(self.row.kind, self.row.application, self._folder)
        return self._server

    def end(self) -> None:
        """End the server, if it runs."""
        if self._server is not None:
            self._server.end()
            sys.stdout.write(f"-- {self.row}\n{self._server.output()}")  # pytest shows it if a test has failed
        self._server = None

    def fill(self, fact: str, word: str, seconds: float | None = None) -> None:
        """Fill a cell, and check it."""
        if self._server is not None:
            self._server.disconnect_all()  # gunicorn's sync worker waits for 2 s until a client disconnects
        self._fill(str(self.row), fact, word if seconds is None or word != "yes" else f"{word}, {max(seconds, 0.001):.1g} s")
        assert word == expected(fact, self.row)

    def fill_best(self, fact: str, look: Callable[[], tuple[str, float]], within: float) -> None:
        """Fill a cell with the first of a few tries that is as expected and keeps its promise, or the last."""
        for _ in range(TRIES):
            word, seconds = look()
            if word == expected(fact, self.row) and (word != "yes" or seconds < within):
                break
        self.fill(fact, word, seconds)
        assert word != "yes" or seconds < within


def measure(row: Row, folder: Path, fill: Fill) -> Iterator[Measured]:
    """Yield what fills a row; a server that is not installed is skipped."""
    require(row.kind)
    measured = Measured(row, folder, fill)
    yield measured
    measured.end()
