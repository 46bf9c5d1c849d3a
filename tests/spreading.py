"""How pytest-xdist spreads the live tests: what shares a browser or a server's end, or keeps the machine busy, stays together.

Its own groups (``--dist loadgroup``) do nothing in pytest-xdist 3.8 with pytest 9.2, where a node id cannot be changed.
"""

from __future__ import annotations

import re

import pytest
from xdist.scheduler import LoadScopeScheduling

# By a regular expression that a node id begins with; a group that matches has a name in it, or is the whole match.
_GROUPS = [
    re.compile(r"tests/(browsers)/"),
    re.compile(r"tests/live/test_(?:container|crowd|coming_and_going|backpressure)[.]py()"),
    re.compile(r"tests/live/(test_readers)[.]py"),
    re.compile(r"tests/live/test_drain[.]py::\w+\[(\w+, \w+)[]-]"),
]


def group_of(node_id: str) -> str:
    """Return the name of a test's group, which is the test's own where it may run anywhere."""
    for group in _GROUPS:
        found = group.match(node_id)
        if found:
            return found[1] or "busy"
    return node_id


class Spreading(LoadScopeScheduling):  # type: ignore[misc]  # it has no types
    """Sends groups to processes as these get free, the largest first."""

    def _split_scope(self, nodeid: str) -> str:
        return group_of(nodeid)


@pytest.hookimpl
def pytest_xdist_make_scheduler(config: pytest.Config, log: object) -> Spreading:
    """Be pytest-xdist's hook."""
    return Spreading(config, log)
