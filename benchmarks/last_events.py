"""How late the last events of a burst come if they may be joined: the application then sleeps, or works for two seconds.

While it works in Python, another thread can send them, but no greenlet. While it holds the interpreter, no thread can.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import median

from .latency import latencies_of
from .results import Effort, Figure, Outcome, figure_of_turns, in_turn, number
from .serving import gunicorn

_EVENTS = 1000
_WORKS = {"sleeps": 0, "computes in Python": 1, "holds the interpreter": 2}  # as `shapes.before_work` has it


def measure(effort: Effort) -> Outcome:
    """Measure all kinds of work under gthread and gevent."""
    outcome = Outcome("Last events: a burst with join=0.05, and then 2 seconds without an event")
    milliseconds, turns = effort.pick(2000, 200), effort.pick(5, 1)
    for worker_class in ("gthread", "gevent"):
        with gunicorn(worker_class) as server:
            for work, kind in _WORKS.items():
                taken = compare(server.port, f"before_work/{_EVENTS}/{milliseconds}/{kind}", turns)
                outcome.figures.append(figure(f"{worker_class}, the application then {work}: longest delay of an event", taken))
    return outcome


def compare(port: int, stream: str, turns: int) -> dict[str, list[float]]:
    """Return the milliseconds of the event that came latest, bare and joined in turn."""
    return in_turn(turns, ("bare", "joined"), lambda way: latencies_of(port, f"/{way}/{stream}", _EVENTS)[-1] / 1000)


def figure(subject: str, taken: Mapping[str, Sequence[float]]) -> Figure:
    """Return what is added to the delay."""
    added = [after - before for before, after in zip(taken["bare"], taken["joined"], strict=True)]
    absolute = f"{number(median(taken['joined']))} ms, bare {number(median(taken['bare']))} ms"
    return figure_of_turns(subject, added, " ms", absolute)
