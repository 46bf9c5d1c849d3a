"""What a stream costs merely by being open: 800 silent ones on gthread and 4,000 on gevent, their CPU and their memory.

Each has had one event and then gets heartbeats only; bare not even these. Each way and turn has a server of its own, since
memory that was once used often stays. Memory is what the worker's resident memory has grown by when the time is over; before
the first of these streams it had served another one, so that all code was loaded.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import median
from typing import NamedTuple

from .many_clients import Seen, watch
from .memory_use import settle
from .results import Effort, Figure, Outcome, Target, at_most, figure_of_turns, in_turn, number
from .serving import gunicorn


class Crowd(NamedTuple):
    """How many streams are open on which worker, and how much of a core they may take."""

    worker_class: str
    streams: int
    cpu: Target  # percent


_CROWDS = (Crowd("gthread", 800, at_most(0.5)), Crowd("gevent", 4000, at_most(3)))
_FEW = tuple(crowd._replace(streams=20) for crowd in _CROWDS)
_MEMORY = at_most(6)  # KB of each stream more than bare


class Silence(NamedTuple):
    """What silent streams cost."""

    seen: Seen
    memory: float  # KB of each


Turns = Mapping[str, Sequence[Silence]]  # by way


def measure(effort: Effort) -> Outcome:
    """Measure CPU and memory on both workers."""
    outcome = Outcome("Silence: streams that are open and say nothing but a heartbeat each 15 seconds")
    for crowd in _FEW if effort.is_short else _CROWDS:
        taken = compare(crowd, effort)
        subject = f"{crowd.streams:,} silent streams, {crowd.worker_class}"
        cpu = cpu_figure(f"{subject}: of a core", crowd, taken)
        outcome.figures.extend([cpu, memory_figure(f"{subject}: memory of each", taken)])
        outcome.summary.append(cpu)
    return outcome


def compare(crowd: Crowd, effort: Effort) -> Turns:
    """Keep all streams open for 30 seconds, bare and wrapped in turn."""
    return in_turn(effort.pick(2, 1), ("bare", "wrapped"), lambda way: one_turn(crowd, way, effort.pick(30, 1)))


def one_turn(crowd: Crowd, way: str, seconds: int) -> Silence:
    """Keep all streams of a new server open for so many seconds."""
    with gunicorn(crowd.worker_class, threads=2 * crowd.streams) as server:
        settle(server.port, way)
        before = server.worker.memory_info().rss
        seen = watch(server, f"/{way}/idle", clients=crowd.streams, settle=1.0, seconds=seconds)
        return Silence(seen, (seen.memory - before) / 1000 / crowd.streams)


def cpu_figure(subject: str, crowd: Crowd, taken: Turns) -> Figure:
    """Return what the wrapped streams take of a core: bare they take none of it, so a ratio has no meaning."""
    bare, wrapped = ([turn.seen.share for turn in taken[way]] for way in ("bare", "wrapped"))
    heartbeats = median(turn.seen.comments for turn in taken["wrapped"]) / crowd.streams
    absolute = f"{number(median(wrapped))} %, bare {number(median(bare))} %; {number(heartbeats)} heartbeats each"
    return figure_of_turns(subject, wrapped, " %", absolute, crowd.cpu)


def memory_figure(subject: str, taken: Turns) -> Figure:
    """Return how many KB of memory a wrapped stream takes more than a bare one."""
    bare, wrapped = ([turn.memory for turn in taken[way]] for way in ("bare", "wrapped"))
    added = [after - before for before, after in zip(bare, wrapped, strict=True)]
    return figure_of_turns(subject, added, " KB", f"{number(median(wrapped))} KB, bare {number(median(bare))} KB", _MEMORY)
