"""What the clients of one source see on each server, and what that costs: the fan-out of `fan_out`, as a user would try it.

A tool that counts requests a second (ab, wrk) sees one request that never ends: see docs/load-tests.md.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from statistics import median
from typing import NamedTuple

from .crowd_clients import share
from .fan_out import RIVAL, curve, one_turn, panel
from .fan_out_application import EVENTS_A_SECOND
from .many_clients import Seen
from .results import Effort, Outcome, number, table
from .serving import Server, granian, gunicorn, uvicorn

_APPLICATION = "fan_out_application:served"


class Kind(NamedTuple):
    """A server, and the applications that it serves one after the other."""

    name: str
    start: Callable[[int], AbstractContextManager[Server]]  # with so many threads
    ways: tuple[str, ...] = ("bare", "wrapped")


KINDS = (
    Kind("gunicorn gthread", lambda threads: gunicorn("gthread", threads=threads, application=_APPLICATION)),
    Kind("gunicorn gevent", lambda threads: gunicorn("gevent", threads=threads, application=_APPLICATION)),
    Kind("granian, WSGI", lambda threads: granian(threads, _APPLICATION)),
    Kind("uvicorn, uvloop", lambda threads: uvicorn("rival"), (RIVAL,)),  # noqa: ARG005
)

HEADINGS = (
    "server", "application", "events/s", "delay, median", "95 %", "99 %", "longest gap", "reconnects", "CPU", "memory",
)  # fmt: skip


def measure(effort: Effort) -> Outcome:
    """Have all clients read each way, one after the other."""
    clients = effort.pick(300, 20)
    outcome = Outcome(f"Load: {clients} clients of one source, {EVENTS_A_SECOND} events a second, on each server")
    seen: dict[tuple[str, str], Seen] = {}
    for kind in KINDS:
        with kind.start(2 * clients) as server:
            for way in kind.ways:
                seen[kind.name, way.partition(" ")[0]] = one_turn(server, way, clients, effort)
    outcome.notes.append(table(HEADINGS, [row(*names, found) for names, found in seen.items()]))
    outcome.notes.append(f"{EVENTS_A_SECOND * clients:,} events a second are made. The longest gap is the median client's.")
    outcome.plots["load"] = [panel(outcome.title, [curve(" ".join(names), [found]) for names, found in seen.items()])]
    return outcome


def row(server: str, application: str, seen: Seen) -> tuple[str, ...]:
    """Return a row of the table."""
    delays = [f"{number(share(seen.latencies, percent) / 1000)} ms" for percent in (50, 95, 99)]
    return (
        server, application, number(seen.events / seen.seconds), *delays, f"{number(median(seen.gaps))} ms",
        str(seen.reconnects), f"{number(seen.share)} %", f"{number(seen.memory / 1e6)} MB",
    )  # fmt: skip
