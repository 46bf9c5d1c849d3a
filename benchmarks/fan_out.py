"""What an event costs that one source hands to 300 clients, ten times a second: seconds of a core, and how late it comes.

One thread in the server's process makes the events and hands each to all subscribers' queues: what a chat, a dashboard or a
stock ticker does. The clients are one process, which reads all 300 connections through one epoll.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from statistics import median

from .crowd_clients import share
from .fan_out_application import EVENTS_A_SECOND
from .many_clients import Seen, watch
from .reading import answer_of
from .results import Curve, Effort, Figure, Outcome, Panel, Target, at_most, figure_of_turns, in_turn, number
from .serving import Server, gunicorn, uvicorn

RIVAL = "sse-starlette on uvicorn with uvloop"

_CPU = at_most(1.15)  # times as much as bare
_LATENCY = at_most(1)  # milliseconds more than bare, 99 %
_SHARES = (50.0, 75.0, 90.0, 99.0, 99.9)  # percent of the events that have arrived within ...
_GONE_WITHIN = 10.0  # seconds

Turns = Mapping[str, Sequence[Seen]]  # by way


def measure(effort: Effort) -> Outcome:
    """Measure bare and wrapped under gthread and gevent, and the rival beside the first."""
    clients = effort.pick(300, 20)
    outcome = Outcome(f"Fan-out: one source, {clients} clients, {EVENTS_A_SECOND} events a second")
    for worker_class in ("gthread", "gevent"):
        taken = compare(worker_class, clients, effort)
        subject = f"{clients} clients of one source"
        figures = figures_of(f"{subject}, {worker_class}", "wrapped", taken)
        outcome.figures.extend(figures)
        outcome.summary.append(figures[0])
        if RIVAL in taken:
            outcome.figures.extend(figures_of(f"{subject}, {RIVAL} against {worker_class}", RIVAL, taken))
        curves = [curve(way.partition(" ")[0], turns) for way, turns in taken.items()]
        outcome.plots.setdefault("fan_out", []).append(panel(f"{outcome.title}, {worker_class}", curves))
    return outcome


def compare(worker_class: str, clients: int, effort: Effort) -> Turns:
    """Let all clients read bare and wrapped in turn, from one server."""
    with ExitStack() as stack:
        server = stack.enter_context(gunicorn(worker_class, threads=2 * clients, application="fan_out_application:served"))
        servers = {"bare": server, "wrapped": server}
        if worker_class == "gthread":
            servers[RIVAL] = stack.enter_context(uvicorn("rival"))
        return in_turn(effort.pick(5, 1), tuple(servers), lambda way: one_turn(servers[way], way, clients, effort))


def one_turn(server: Server, way: str, clients: int, effort: Effort) -> Seen:
    """Let all clients read in one way, and wait until the server has detected that they have disconnected."""
    path = "/rival/fan-out" if way == RIVAL else f"/{way}/fan-out"
    seen = watch(server, path, clients=clients, settle=effort.pick(1, 0), seconds=effort.pick(6, 1))
    deadline = time.monotonic() + _GONE_WITHIN
    while subscribers := int(answer_of(server.port, "/bare/subscribers")):
        if time.monotonic() > deadline:
            raise TimeoutError(f"{subscribers} of {clients} streams of {path} go on without a client")
        time.sleep(0.1)
    return seen


def figures_of(subject: str, way: str, taken: Turns) -> list[Figure]:
    """Return the cost of an event as a multiple of bare, and what was added to its latency, turn by turn."""
    bare, own = taken["bare"], taken[way]
    is_ours = way != RIVAL
    ratios = [after.cpu_of_an_event / before.cpu_of_an_event for before, after in zip(bare, own, strict=True)]
    costs = [median(seen.cpu_of_an_event for seen in turns) for turns in (own, bare)]
    absolute = f"{number(costs[0])} µs, bare {number(costs[1])} µs"
    cpu = figure_of_turns(f"{subject}: CPU of an event", ratios, "x", absolute, _CPU if is_ours else None)
    late = [latency(f"{subject}: latency, median", 50, bare, own, None)]
    late.append(latency(f"{subject}: latency, 99 %", 99, bare, own, _LATENCY if is_ours else None))
    return [cpu, *late]


def latency(subject: str, percent: int, bare: Sequence[Seen], own: Sequence[Seen], target: Target | None) -> Figure:
    """Return how many milliseconds later so many percent of the events have arrived."""
    without, taken = ([share(seen.latencies, percent) / 1000 for seen in turns] for turns in (bare, own))
    added = [after - before for before, after in zip(without, taken, strict=True)]
    return figure_of_turns(subject, added, " ms", f"{number(median(taken))} ms, bare {number(median(without))} ms", target)


def curve(name: str, turns: Sequence[Seen]) -> Curve:
    """Return the latencies of all *turns* together, as `panel` plots them."""
    latencies = sorted(latency for seen in turns for latency in seen.latencies)
    return Curve(name, [(float(place), share(latencies, percent) / 1000) for place, percent in enumerate(_SHARES)])


def panel(title: str, curves: list[Curve]) -> Panel:
    """Return the plot of the latencies."""
    ticks = [(float(place), f"{percent:g} %") for place, percent in enumerate(_SHARES)]
    return Panel(title, "of the events arrived within", "ms from making to arrival", ticks, curves, y_is_logarithmic=True)
