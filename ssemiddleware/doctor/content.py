"""Checks of the events themselves: the mistakes in their bytes, the time to reconnect, and a canary's numbers."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import groupby, pairwise

from .. import canary
from ..lint import mistakes
from .culprits import Remedy
from .findings import Finding, Severity
from .observation import Observation

_STALLED = 2.0  # seconds: if the canary is made so much later than it is due, its process stood still
_ONLY_MINOR = {mistakes.RETRY, mistakes.LONG, mistakes.NOT_UTF_8, mistakes.NO_DATA}


def check_content(seen: Observation) -> Iterator[Finding]:
    """Yield what is wrong with the events."""
    for _, group in groupby(sorted(seen.mistakes, key=lambda each: each.mistake.name), key=lambda each: each.mistake.name):
        found = [*group]
        mistake, event, line, text = found[0]
        again = f", and {len(found) - 1} times more" if len(found) > 1 else ""
        yield Finding(
            mistake.name, Severity.MINOR if mistake in _ONLY_MINOR else Severity.SERIOUS,
            f"{mistake.what} What a browser does: {mistake.browser}", f"event {event}, line {line}: {text!r}{again}",
            Remedy(mistake.fix, "in the application"), "the application",
        )  # fmt: skip
    yield from _retry(seen)
    yield from _loss(seen)
    yield from _stall(seen)


def _retry(seen: Observation) -> Iterator[Finding]:
    if seen.events and seen.reader.retry is None:
        what = "No `retry:` came: after a restart all browsers reconnect at the same time, after 3 or 5 seconds."
        remedy = Remedy(
            "retry: 3000",
            "as a line of the stream, with a slightly different number for each client (SSEMiddleware does that)",
        )
        yield Finding("no-retry", Severity.NOTE, what, f"none in {len(seen.events)} events", remedy)


def _loss(seen: Observation) -> Iterator[Finding]:
    numbers = [event.sequence for event in seen.events if event.sequence is not None]
    if len(numbers) < 2:
        return
    lost = max(numbers) - min(numbers) + 1 - len(set(numbers))
    if lost or numbers != sorted(set(numbers)):
        what = "Events of the canary were lost, repeated or reordered."
        evidence = f"{lost} of {max(numbers) - min(numbers) + 1} are missing; {len(numbers) - len(set(numbers))} came again"
        remedy = Remedy(f"python -m ssemiddleware doctor DIRECT_URL --through {seen.url}", "in a terminal, to see where")
        yield Finding("lost", Severity.SERIOUS, what, evidence, remedy)


def _stall(seen: Observation) -> Iterator[Finding]:
    made = [(event.sequence, event.stamp) for event in seen.events if event.sequence is not None and event.stamp is not None]
    apart = [(then - before, first, second) for (first, before), (second, then) in pairwise(made) if second == first + 1]
    longest, first, second = max(apart, default=(0.0, 0, 0))
    if longest > canary.INTERVAL + _STALLED:
        apart_by_clock = f"made {longest:.1f} s apart by the server's clock, instead of {canary.INTERVAL:g} s"
        yield Finding(
            "stalled", Severity.SERIOUS,
            "The server stood still: it made an event of the canary too late. No proxy can cause that.",
            f"events {first} and {second} were {apart_by_clock}",
            Remedy("py-spy dump --pid PID", "on the server: what runs while no other thread or greenlet can?"),
            "the server's process or its machine",
        )  # fmt: skip
