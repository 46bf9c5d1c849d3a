"""What tells without waiting whether sockets are writable, and whether their clients have disconnected.

`select.poll` does on Linux. Other systems lack ``POLLRDHUP``, and Windows has no `poll` at all: there a disconnect shows when
the next block is sent.
"""

from __future__ import annotations

import select
import sys
from collections.abc import Callable
from typing import Protocol

CAN_POLL = hasattr(select, "POLLRDHUP")
HALF_CLOSED: int = getattr(select, "POLLRDHUP", 0)
WRITABLE: int = getattr(select, "POLLOUT", 4)
HUNG_UP: int = getattr(select, "POLLHUP", 16)
GONE: int = HUNG_UP | getattr(select, "POLLERR", 8) | getattr(select, "POLLNVAL", 32)


class Poll(Protocol):
    """The part of `select.poll` that is used."""

    def register(self, descriptor: int, events: int, /) -> object:
        """Ask for *events* of *descriptor* from now on."""

    def modify(self, descriptor: int, events: int, /) -> object:
        """Ask for other events."""

    def unregister(self, descriptor: int, /) -> object:
        """Ask no longer."""

    def poll(self, timeout: float, /) -> list[tuple[int, int]]:
        """Return the descriptors with events, and these. *timeout*: milliseconds, always 0 here."""


class PollBySelect:
    """A `Poll` for Windows: sees whether a socket is writable, and nothing else."""

    def __init__(self) -> None:
        self._asked: dict[int, int] = {}

    def register(self, descriptor: int, events: int) -> None:
        """See `Poll`."""
        self._asked[descriptor] = events

    modify = register

    def unregister(self, descriptor: int) -> None:
        """See `Poll`."""
        del self._asked[descriptor]

    def poll(self, _timeout: float) -> list[tuple[int, int]]:
        """See `Poll`."""
        asked = [descriptor for descriptor, events in self._asked.items() if events & WRITABLE]
        writable: list[int] = select.select([], asked, [], 0)[1] if asked else []  # Windows takes no three empty lists
        return [(descriptor, WRITABLE) for descriptor in writable]


def new_poll() -> Poll:
    """Return a poll object that does not switch greenlets: gevent's own runs others, and takes a round of its loop."""
    monkey = sys.modules.get("gevent.monkey")
    try:
        poll: Callable[[], Poll] = monkey.get_original("select", "poll") if monkey else select.poll
    except AttributeError:
        return PollBySelect()
    return poll()
