"""How pytest-xdist spreads the live tests: what shares a browser or a server's end, or keeps the machine busy, stays together.

And what the tests measured in its processes, printed in the end: seconds, and the table of servers.

Its own groups (``--dist loadgroup``) do nothing in pytest-xdist 3.8 with pytest 9.2, where a node id cannot be changed.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from collections.abc import Mapping

# By a regular expression that a node id begins with; a group that matches has a name in it, or is the whole match.
_GROUPS = [
    re.compile(r"tests/(browsers)/"),
    re.compile(r"tests/live/test_(?:container|full_container|crowd|coming_and_going|backpressure)[.]py()"),
    re.compile(r"tests/live/(test_readers)[.]py"),
    re.compile(r"tests/live/test_through_proxies[.]py::\w+\[(http-proxy)"),  # npm's packages are installed once
    re.compile(r"tests/live/test_drain[.]py::\w+\[(\w+, \w+)[]-]"),
    re.compile(r"tests/live/test_every_server[.]py::\w+(\[.*\])$"),
]


def group_of(node_id: str) -> str:
    """Return the name of a test's group, which is the test's own where it may run anywhere."""
    for group in _GROUPS:
        found = group.match(node_id)
        if found:
            return found[1] or "busy"
    return node_id


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: object) -> object:
    """Send groups to processes as these get free, the largest first."""
    from xdist.scheduler import LoadScopeScheduling

    class Spreading(LoadScopeScheduling):  # type: ignore[misc]  # it has no types
        def _split_scope(self, nodeid: str) -> str:
            return group_of(nodeid)

    return Spreading(config, log)


class Measured:
    """Seconds that tests have measured, by what they are, the table of servers, and lines of the table of proxies."""

    def __init__(self) -> None:
        self._seconds: dict[str, list[float]] = {}
        self._cells: dict[str, dict[str, str]] = {}  # by row and column
        self.lines: list[str] = []

    def note(self, what: str, seconds: float) -> None:
        self._seconds.setdefault(what, []).append(seconds)

    def fill(self, row: str, column: str, cell: str) -> None:
        self._cells.setdefault(row, {})[column] = cell

    def hand_over(self, config: pytest.Config) -> None:
        """Give them to the process that prints, if this is one of pytest-xdist's."""
        if hasattr(config, "workeroutput"):
            config.workeroutput |= {"measured": self._seconds, "cells": self._cells, "lines": self.lines}

    def take_over(self, given: Mapping[str, Any]) -> None:
        for what, seconds in given.get("measured", {}).items():
            self._seconds.setdefault(what, []).extend(seconds)
        for row, cells in given.get("cells", {}).items():
            self._cells.setdefault(row, {}).update(cells)
        self.lines += given.get("lines", [])

    def print(self, terminalreporter: pytest.TerminalReporter) -> None:
        if self._seconds:
            terminalreporter.section("measured, in seconds unless it says otherwise: least, most (number)")
        for what, seconds in sorted(self._seconds.items()):
            terminalreporter.line(f"{what}: {min(seconds):.3g}, {max(seconds):.3g} ({len(seconds)})")
        if self._cells:
            from .live.every_server import lines_of_table

            terminalreporter.section("every server, as in docs/servers.md")
            for line in lines_of_table(self._cells):
                terminalreporter.line(line)
        for line in sorted(self.lines):
            terminalreporter.line(line)


_measured_elsewhere = Measured()


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any, error: object) -> None:
    """Take what a process of pytest-xdist's has measured."""
    _measured_elsewhere.take_over(getattr(node, "workeroutput", {}))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    _measured_elsewhere.print(terminalreporter)
