"""The same stream over two ways, and what is different on the second."""

from __future__ import annotations

from dataclasses import dataclass
from statistics import median

from ..canary import CLOCK
from .culprits import hops_in
from .diagnosing import diagnose
from .findings import Finding
from .observation import Observation

_OF_ONE_ANSWER = {"date", "age", "x-varnish", "x-request-id", "set-cookie", "cf-ray", CLOCK.lower()}  # different each time


@dataclass(frozen=True)
class Comparison:
    """What is different on the way *through* a hop, compared with the direct way."""

    hop: str  # its name, as far as the headers show it
    added: list[Finding]  # found only on that way
    changed_headers: list[str]
    first_byte_later: float | None  # seconds
    events_later: float | None  # seconds, for each event, by the time that the server wrote into it


def compare(direct: Observation, through: Observation) -> Comparison:
    """Compare two ways to the same stream."""
    known = {finding.name for finding in diagnose(direct)}
    before = {hop.name for hop in hops_in(direct.marks)}
    hops = [hop.name for hop in hops_in(through.marks) if hop.name not in before]
    first = [seen.arrivals[0].at for seen in (direct, through) if seen.arrivals]
    delays = [_by_our_clock(seen) for seen in (direct, through) if seen.delays]
    return Comparison(
        hop=" or ".join(hops) or "a proxy or server that gives no name",
        added=[finding for finding in diagnose(through) if finding.name not in known],
        changed_headers=_changed(direct, through),
        first_byte_later=first[1] - first[0] if len(first) == 2 else None,
        events_later=delays[1] - delays[0] if len(delays) == 2 else None,
    )


def _by_our_clock(seen: Observation) -> float:
    """Return the median delay, off by how far the server's clock is from ours, which is the same for both ways."""
    return median(event.at + seen.began - event.stamp for event in seen.events if event.stamp is not None)


def _changed(direct: Observation, through: Observation) -> list[str]:
    """Return the headers that differ, each with both values; none if one of the ways had no headers."""
    if direct.status is None or through.status is None:
        return []
    names = {name.lower() for name, _ in (*direct.headers, *through.headers)} - _OF_ONE_ANSWER
    both = {name: (direct.header(name), through.header(name)) for name in sorted(names)}
    return [f"{name}: {before or '(none)'} -> {after or '(none)'}" for name, (before, after) in both.items() if before != after]
