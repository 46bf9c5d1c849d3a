"""How fast a burst of events reaches one client: small events a second, and bytes a second where events are big."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from statistics import median

from .applications import JOIN
from .bursts import Burst, Sender, big_events, small_events, timer, written_events
from .results import Curve, Effort, Figure, Outcome, Panel, Target, at_least, figure_of_turns, in_turn
from .serving import gunicorn, uvicorn

RIVAL = "sse-starlette on uvicorn with uvloop"

NOT_ANNOUNCED = "not announced"
WAYS = ("announced", NOT_ANNOUNCED)
JOINED = f"announced, join={JOIN}"
SMALL = 100  # bytes of an event, up to which joining is measured
SMALL_TARGET = at_least(0.93)
BIG_TARGETS = {10_000: at_least(1.0), 100_000: at_least(0.95), 10_000_000: at_least(1.0)}
OTHER_SIZES = (200_000, 1_000_000)  # bytes; they are cut, which takes a larger part of the time than it does for 10 MB


def measure(effort: Effort) -> Outcome:
    """Measure all bursts under gthread and gevent, and the rival beside the first."""
    outcome = Outcome("Throughput: a burst of events to one client")
    curves: dict[str, list[tuple[float, float]]] = {}
    for worker_class in ("gthread", "gevent"):
        with gunicorn(worker_class) as server:
            for burst, target in bursts(effort):
                figures = compare(burst, worker_class, server.port, target, effort)
                outcome.figures.extend(figures.values())
                for way in WAYS if target else ():
                    curves.setdefault(f"{worker_class}, {way}", []).append((burst.size, figures[way].value))
    outcome.plots["throughput"] = [panel([Curve(label, points) for label, points in curves.items()])]
    return outcome


def bursts(effort: Effort) -> list[tuple[Burst, Target | None]]:
    """Return the bursts, and the targets of those that have one."""
    big = [(big_events(size, effort), BIG_TARGETS.get(size)) for size in sorted((*BIG_TARGETS, *OTHER_SIZES))]
    return [(small_events(effort), SMALL_TARGET), (written_events(effort), None), *big]


def compare(burst: Burst, worker_class: str, port: int, target: Target | None, effort: Effort) -> dict[str, Figure]:
    """Read one burst bare, announced and not announced in turn; and from the rival, the smallest under gthread."""
    senders = {
        "bare": Sender(port, "bare", announced=True),
        "announced": Sender(port, "wrapped", announced=True),
        NOT_ANNOUNCED: Sender(port, "wrapped", announced=False),
    }
    if burst.size <= SMALL:
        senders[JOINED] = Sender(port, "joined", announced=True)
    with ExitStack() as rivals:
        if worker_class == "gthread" and burst.stream.startswith("ready"):
            senders[RIVAL] = Sender(rivals.enter_context(uvicorn("rival")).port, "rival", announced=True)
        taken = in_turn(burst.turns(effort), tuple(senders), timer(burst, senders))
    without = taken.pop("bare")
    return {
        name: figure(burst, worker_class, name, without, seconds, None if name in (RIVAL, JOINED) else target)
        for name, seconds in taken.items()
    }


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
        level=1.0,
    )
