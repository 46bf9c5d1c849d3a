"""Checks of the times of arrival: was the stream held back, compressed without a flush, silent for too long, or cut?"""

from __future__ import annotations

from collections.abc import Iterator
from statistics import median
from typing import NamedTuple

from .culprits import BUFFERED, COMPRESSED, HAPROXY_LATE, Remedy, culprit_and_remedy, who_cuts_after, who_cuts_alive
from .findings import Finding, Severity
from .observation import CLEANLY, CUT, OPEN, Observation

_AT_ONCE = 0.25  # seconds: arrivals closer together are one burst
_PAUSE = 0.5  # seconds of silence inside an event, after which its rest counts as held back
_HELD = 1.0  # seconds: if some events take so much longer than others, they were held back
_AN_EVENT = 0.4  # seconds: if every event is so late, each probably waits for the next one
_LATE = 0.15  # seconds: if every event is so late, and the clocks are known, that is a finding
_HEADERS_WITHIN = 2.0  # seconds
_SILENCE = 60.0  # seconds: nginx, Varnish and AWS cut by then
_BUFFER = 4096  # bytes: most buffers are a multiple of it
_COMMENT = Remedy(":", "as a first line, as soon as the stream is opened (a comment, which SSEMiddleware sends)")


class Burst(NamedTuple):
    """Arrivals close together: their start and end, bytes, events, and whether the last event is whole."""

    at: float
    until: float
    size: int
    events: int
    is_whole: bool


def check_timing(seen: Observation) -> Iterator[Finding]:
    """Yield what is wrong with the times of arrival."""
    held = maybe_held_back(seen)
    if held is not None:
        yield held
    else:
        yield from _headers_late(seen)
        yield from _late(seen)
        yield from _torn(seen)
    yield from _no_heartbeat(seen)
    yield from _cut(seen)


def bursts_of(seen: Observation) -> list[Burst]:
    """Return the arrivals, joined where they are close together."""
    bursts: list[Burst] = []
    for at, size, events, is_whole in seen.arrivals:
        if bursts and at - bursts[-1].until < _AT_ONCE:
            last = bursts.pop()
            bursts.append(Burst(last.at, at, last.size + size, last.events + events, is_whole))
        else:
            bursts.append(Burst(at, at, size, events, is_whole))
    return bursts


def maybe_held_back(seen: Observation) -> Finding | None:
    """Return the finding that the stream was buffered, or compressed without a flush; None if nothing shows that."""
    bursts = bursts_of(seen)
    evidence = _by_the_server_s_clock(seen) or _all_at_the_end(seen, bursts) or _in_buffers(seen, bursts)
    if seen.is_encoded:
        evidence = evidence or _nothing_readable(seen) or _an_event_late(seen)
    if evidence is None:
        return None
    fault = COMPRESSED if seen.is_encoded else BUFFERED
    culprit, remedy = culprit_and_remedy(fault, seen.marks)
    if fault == COMPRESSED:
        what = "The stream is compressed without a flush after each event: events wait until there is enough to compress."
        evidence = f"Content-Encoding: {seen.header('content-encoding')}; {evidence}"
    else:
        what = "A proxy or a server holds the stream back: events wait in a buffer, and arrive together."
    return Finding(fault, Severity.SERIOUS, what, evidence, remedy, culprit)


def _by_the_server_s_clock(seen: Observation) -> str | None:
    delays = seen.delays
    if not delays or max(delays) - min(delays) < _HELD:
        return None
    return (
        f"by the time that the server wrote into them, some events took {max(delays) - min(delays):.1f} s longer than others"
        f"{_bursts(seen)}"
    )


def _bursts(seen: Observation) -> str:
    crowded = [burst for burst in bursts_of(seen) if burst.events > 1]
    return f"; up to {max(burst.events for burst in crowded)} of them arrived at once" if crowded else ""


def _all_at_the_end(seen: Observation, bursts: list[Burst]) -> str | None:
    if len(bursts) != 1 or seen.ended != CLEANLY or seen.delays:
        return None
    [burst] = bursts
    if burst.events < 3 or burst.at < _HELD or seen.ended_at - burst.until > _AT_ONCE:
        return None
    return f"all {burst.events} events came at once, {burst.at:.1f} s after the request, and then the stream ended"


def _in_buffers(seen: Observation, bursts: list[Burst]) -> str | None:
    """Describe bursts that end inside an event: a buffer was full, and the rest had to wait."""
    torn = _waits_inside(bursts[:-1], bursts[-1].at) if bursts else []
    between = [burst.size for burst in bursts[1:-1]]
    are_multiples = between and all(size % _BUFFER == 0 for size in between)
    if not torn or not (are_multiples or (seen.is_encoded and len(torn) > 1)):
        return None
    sizes = ", ".join(str(size) for size in between[:4])
    of_buffers = f" of {sizes} bytes, multiples of {_BUFFER}," if are_multiples else ""
    return f"{len(torn)} bursts{of_buffers} ended inside an event, whose rest came with the next burst"


def _waits_inside(bursts: list[Burst], until: float) -> list[float]:
    """Return the length of each silence during which an event was unfinished."""
    next_at = [*(burst.at for burst in bursts[1:]), until]
    waits = [at - burst.until for burst, at in zip(bursts, next_at, strict=False) if not burst.is_whole]
    return [wait for wait in waits if wait >= _PAUSE]


def _nothing_readable(seen: Observation) -> str | None:
    if seen.arrivals or not seen.received or seen.ended_at - (seen.headers_at or 0) < _HELD:
        return None
    return f"{seen.received} bytes came, and no event can be read from them"


def _an_event_late(seen: Observation) -> str | None:
    """Describe events that each wait for the next one, as with HAProxy's compression."""
    if seen.clock_ahead is None or not seen.delays or median(seen.delays) < _AN_EVENT:
        return None
    return f"every event came late, by {median(seen.delays):.2f} s (median) and the server's clock"


def _headers_late(seen: Observation) -> Iterator[Finding]:
    evidence = None
    if seen.status is None and seen.ended == OPEN:  # however short that was: such a stream is not healthy
        evidence = f"no header within {seen.ended_at:.{0 if seen.ended_at >= _HEADERS_WITHIN else 1}f} s"
    elif seen.headers_at is not None and seen.headers_at >= _HEADERS_WITHIN:
        evidence = f"the headers came after {seen.headers_at:.1f} s"
    if evidence is not None:
        what = (
            "The headers are late: the page cannot tell that the stream is open. The server waits for a first byte of the "
            "body, or a proxy holds everything back."
        )
        culprit, remedy = culprit_and_remedy(BUFFERED, seen.marks)
        culprit = culprit and f"the server of the application, or {culprit}"
        yield Finding("headers-late", Severity.SERIOUS, what, evidence, remedy if culprit else _COMMENT, culprit)


def _late(seen: Observation) -> Iterator[Finding]:
    delays = seen.delays
    if seen.clock_ahead is None or not delays or median(delays) < _LATE:
        return
    delay = median(delays)
    culprit: str | None
    if delay < _AN_EVENT:
        culprit, remedy = "HAProxy, which waits 0.2 s for more to send, or a slow network", HAPROXY_LATE
    else:
        culprit, remedy = culprit_and_remedy(COMPRESSED, seen.marks)
        culprit = culprit or "a layer that sends each event together with the next one, as HAProxy's compression does"
    yield Finding(
        "late", Severity.MINOR, "Every event comes late.", f"{delay:.2f} s (median), by the server's clock", remedy, culprit
    )


def _torn(seen: Observation) -> Iterator[Finding]:
    torn = _waits_inside(bursts_of(seen), seen.ended_at)
    if len(torn) >= 2 or (torn and torn[0] >= 2):
        what = "Events come in parts: one begins, and its rest comes later or not at all."
        evidence = f"{len(torn)} time{'s' * (len(torn) > 1)}, for up to {max(torn):.1f} s"
        culprit, remedy = culprit_and_remedy(BUFFERED, seen.marks)
        if culprit is None:
            remedy = Remedy(r'yield b"data: hello\n\n"', "in the application: a whole event, with its blank line, in one block")
        yield Finding("torn", Severity.SERIOUS, what, evidence, remedy, culprit and f"the application, or {culprit}")


def _no_heartbeat(seen: Observation) -> Iterator[Finding]:
    longest = max((until - since for since, until in seen.silences), default=0)
    if seen.status is not None and round(longest) >= _SILENCE:  # rounded, since a proxy's cut is seen a little early or late
        what = "No heartbeat: most proxies cut a stream after 60 s of silence, some after 50."
        remedy = Remedy(":", "as a line, after 15 s of silence (a comment, which SSEMiddleware sends)")
        yield Finding("no-heartbeat", Severity.SERIOUS, what, f"nothing came for {longest:.0f} s", remedy)


def _cut(seen: Observation) -> Iterator[Finding]:
    if seen.ended == OPEN:
        return
    last = max([seen.headers_at or 0.0, *(arrival.at for arrival in seen.arrivals[-1:])])
    idle = seen.ended_at - last
    is_cut = seen.ended == CUT
    if not is_cut and idle < 10:
        return
    if idle >= 2:
        culprit, remedy = who_cuts_after(idle, seen.marks)
        what = (
            f"The stream was cut after {idle:.0f} s of silence."
            if is_cut
            else f"The stream ended after {idle:.0f} s of silence."
        )
        evidence = (
            f"the last byte came after {last:.1f} s, the end{'' if is_cut else ', a clean one,'} after {seen.ended_at:.1f} s"
        )
    else:
        culprit, remedy = who_cuts_alive(seen.ended_at)
        what = "The stream was cut while it was not silent: it stopped without the end that HTTP requires."
        is_whole = not seen.arrivals or seen.arrivals[-1].is_whole
        evidence = f"after {seen.ended_at:.1f} s, {'after a whole event' if is_whole else 'inside an event'}"
    yield Finding("cut", Severity.SERIOUS if is_cut else Severity.MINOR, what, evidence, remedy, culprit)
