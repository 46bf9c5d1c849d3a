"""How fast a burst of events reaches one client: small events a second, and bytes a second where events are big."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from statistics import median

from .bursts import Burst, Sender, big_events, small_events, timer, written_events
from .results import Curve, Effort, Figure, Outcome, Panel, Target, at_least, figure_of_turns, in_turn
from .serving import gunicorn, uvicorn

RIVAL = "sse-starlette on uvicorn with uvloop"

BIG_TARGETS = {10_000: at_least(1.0), 100_000: at_least(0.75), 10_000_000: at_least(0.75)}
SMALL_TARGETS = {"gthread": at_least(10), "gevent": at_least(8)}


def measure(effort: Effort) -> Outcome:
    """Measure all bursts under gthread and gevent, and the rival beside the first."""
    outcome = Outcome("Throughput: a burst of events to one client")
    curves: dict[str, list[tuple[float, float]]] = {}
    for worker_class, least in SMALL_TARGETS.items():
        with gunicorn(worker_class) as server:
            for burst, targets in bursts(effort, least):
                figures = compare(burst, worker_class, server.port, targets, effort)
                outcome.figures.extend(figures.values())
                for way in ("announced", "inline") if burst.stream.startswith(("ready", "fresh")) else ():
                    curves.setdefault(f"{worker_class}, {way}", []).append((burst.size, figures[way].value))
    outcome.plots["throughput"] = [panel([Curve(label, points) for label, points in curves.items()])]
    return outcome


def bursts(effort: Effort, least: Target) -> list[tuple[Burst, dict[str, Target]]]:
    """Return the bursts, and the targets of those that have some."""
    big = [(big_events(size, effort), {"announced": target, "inline": target}) for size, target in BIG_TARGETS.items()]
    return [(small_events(effort), {"announced": least}), (written_events(effort), {}), *big]


def compare(burst: Burst, worker_class: str, port: int, targets: Mapping[str, Target], effort: Effort) -> dict[str, Figure]:
    """Read one burst bare, announced and inline in turn; and from the rival, the smallest under gthread."""
    senders = {
        "bare": Sender(port, "bare", announced=True),
        "announced": Sender(port, "wrapped", announced=True),
        "inline": Sender(port, "wrapped", announced=False),
    }
    with ExitStack() as rivals:
        if worker_class == "gthread" and burst.stream.startswith("ready"):
            senders[RIVAL] = Sender(rivals.enter_context(uvicorn("rival")).port, "rival", announced=True)
        taken = in_turn(burst.turns(effort), tuple(senders), timer(burst, senders))
    without = taken.pop("bare")
    return {name: figure(burst, worker_class, name, without, seconds, targets.get(name)) for name, seconds in taken.items()}


def figure(
    burst: Burst, worker_class: str, sender: str, without: Sequence[float], seconds: Sequence[float], target: Target | None
) -> Figure:
    """Return how many times as fast as bare gunicorn it was, turn by turn."""
    ratios = [bare_seconds / own for bare_seconds, own in zip(without, seconds, strict=True)]
    absolute = f"{burst.speed(median(seconds))}, bare {burst.speed(median(without))}"
    subject = f"{sender} against {worker_class}" if sender == RIVAL else f"{worker_class}, {sender}"
    return figure_of_turns(f"events of {burst.name}, {subject}", ratios, "x", absolute, target)


def panel(curves: Sequence[Curve]) -> Panel:
    """Return the plot of the ratios by the size of events."""
    ticks = ((58, "58 bytes"), (10_000, "10 KB"), (100_000, "100 KB"), (10_000_000, "10 MB"))
    return Panel(
        "A burst of events to one client",
        "size of an event",
        "times as fast as bare",
        ticks,
        curves,
        x_is_logarithmic=True,
        y_is_logarithmic=True,
        level=1.0,
    )
