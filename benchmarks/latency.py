"""How much later an event arrives: the time from its yield to the client's ``recv()``, announced against bare, on gthread."""

from __future__ import annotations

import re
import time
from collections.abc import Mapping, Sequence
from statistics import median

from .many_clients import arrivals_in
from .reading import LAST_CHUNK, connect, request
from .results import Curve, Effort, Figure, Outcome, Panel, Target, at_most, figure_of_turns, in_turn, number
from .serving import gunicorn

_STAMP = re.compile(rb"data: ([0-9]+)\n\n")
_SHARES = (50.0, 75.0, 90.0, 99.0, 99.9)  # percent of the events that have arrived within ...
_TARGETS = {50.0: at_most(15), 99.0: at_most(100)}  # microseconds added, one event each millisecond

Latencies = list[float]  # microseconds, in order


def measure(effort: Effort) -> Outcome:
    """Measure an event each millisecond, and one each 100 ms, so that all have gone to sleep in between."""
    outcome = Outcome("Latency: from the yield of an event to its arrival, gthread, announced")
    paces: tuple[tuple[str, int, int, int, dict[float, Target]], ...] = (
        ("one event each millisecond", 1_000, effort.pick(4000, 300), effort.pick(7, 1), _TARGETS),
        ("one event each 100 ms", 100_000, effort.pick(60, 10), effort.pick(3, 1), {}),
    )
    with gunicorn("gthread") as server:
        for pace, microseconds, count, turns, targets in paces:
            taken = compare(server.port, f"timed/{count}/{microseconds}", count, turns)
            outcome.figures.extend(figures(pace, taken, targets))
            outcome.plots.setdefault("latency", []).append(panel(pace, taken))
    return outcome


def compare(port: int, stream: str, count: int, turns: int) -> dict[str, list[Latencies]]:
    """Read a timed stream bare and wrapped in turn."""
    return in_turn(turns, ("bare", "wrapped"), lambda way: latencies_of(port, f"/{way}/{stream}", count))


def latencies_of(port: int, path: str, count: int) -> Latencies:
    """Read a timed stream of *count* events, noting only when what came; the rest is done when it is over."""
    came: list[tuple[int, bytes]] = []
    with connect(port) as connection:
        connection.sendall(request(path, announced=True))
        tail = b""
        while tail != LAST_CHUNK:
            received = connection.recv(65536)
            came.append((time.perf_counter_ns(), received))
            if not received:
                raise ConnectionError(f"the server closed the connection after {len(came)} blocks")
            tail = (tail + received)[-len(LAST_CHUNK) :]
    latencies = sorted((arrived - made) / 1000 for arrived, made in arrivals_in(came, _STAMP))
    if len(latencies) != count:
        raise ValueError(f"expected {count:,} events, got {len(latencies):,}")
    return latencies


def share(latencies: Latencies, percent: float) -> float:
    """Return within how many microseconds so many percent of the events had arrived."""
    return latencies[min(len(latencies) - 1, int(len(latencies) * percent / 100))]


def figures(pace: str, taken: Mapping[str, Sequence[Latencies]], targets: Mapping[float, Target]) -> list[Figure]:
    """Return what was added to the median, the 99 % and the longest latency, turn by turn."""
    added = []
    for percent, name in ((50.0, "median"), (99.0, "99 %"), (100.0, "longest")):
        bare, wrapped = ([share(latencies, percent) for latencies in taken[way]] for way in ("bare", "wrapped"))
        turns = [after - before for before, after in zip(bare, wrapped, strict=True)]
        absolute = f"{number(median(wrapped))} µs, bare {number(median(bare))} µs"
        added.append(figure_of_turns(f"{pace}: added latency, {name}", turns, " µs", absolute, targets.get(percent)))
    return added


def panel(pace: str, taken: Mapping[str, Sequence[Latencies]]) -> Panel:
    """Return the plot of the latencies, all turns together."""
    curves = []
    for way, turns in taken.items():
        latencies = sorted(latency for turn in turns for latency in turn)
        curves.append(Curve(way, [(place, share(latencies, percent)) for place, percent in enumerate(_SHARES)]))
    ticks = [(place, f"{percent:g} %") for place, percent in enumerate(_SHARES)]
    return Panel(pace, "of the events arrived within", "µs from yield to arrival", ticks, curves, y_is_logarithmic=True)
