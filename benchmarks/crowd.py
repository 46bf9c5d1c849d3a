"""How long ordinary requests take while there are more clients than max_streams, and beside clients that never read.

An ordinary request is made each 20 ms, on a new connection, and its time is taken from when it was due. Each situation has a
server of its own.
"""

from __future__ import annotations

import json
import time
from bisect import bisect_right
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import NamedTuple

from .crowd_clients import Answer, Crowd, DeafClients, Visit, ask_meanwhile, share
from .reading import answer_of
from .results import Curve, Effort, Figure, Outcome, Panel, Target, at_most, figure_of_turns, number, table
from .serving import Server, gunicorn

_SERVERS, _WAYS = ("gthread", "gevent"), ("bare", "wrapped")
_EVENTS = 4  # of a stream of the crowd
_ENDLESS = "fresh/1000000/1000000"  # events of 1 MB
_HEADINGS = ("beside", "server", "way", "requests", "unanswered", "median", "99 %", "longest", "worker gains, at most")


class Size(NamedTuple):
    """How large a crowd is."""

    clients: int
    streams: int  # that may be open
    retry: int  # milliseconds
    stream: str  # that each client asks for
    deaf: int  # clients that never read
    seconds: float  # for which they do not
    settled_after: float  # seconds: until then the kernel takes the first megabytes for each of them
    patience: float  # seconds after which an ordinary request beside them counts as unanswered


_FULL, _SHORT = (
    Size(500, 100, 3000, "timed/4/250000", 100, 20.0, 2.0, 5.0),
    Size(30, 10, 200, "timed/4/50000", 12, 0.6, 0.3, 0.3),
)


class Seen(NamedTuple):
    """What was measured in one situation."""

    answers: Sequence[Answer]  # to ordinary requests
    gained: int  # bytes of resident memory, at most
    visits: Sequence[Visit] = ()  # of the crowd
    history: Sequence[tuple[float, int]] = ()  # how many streams of the application were open from when on

    def after(self, seconds: float) -> Seen:
        """Return the same without the beginning."""
        since = self.answers[0].due_at + seconds
        return self._replace(answers=[answer for answer in self.answers if answer.due_at >= since])

    def row(self) -> tuple[str, ...]:
        """Return this as the end of a row in the table."""
        taken = milliseconds(self.answers)
        times = [f"{number(value)} ms" for value in (share(taken, 50), share(taken, 99), max(taken))] if taken else ["-"] * 3
        unanswered = len(self.answers) - len(taken)
        return f"{len(self.answers):,}", f"{unanswered:,}", *times, f"{number(self.gained / 1e6)} MB"


Situations = dict[tuple[str, str], Seen]  # by server and way


def measure(effort: Effort) -> Outcome:
    """Measure a crowd, and clients that never read, under gthread and gevent, bare and wrapped."""
    size = _SHORT if effort.is_short else _FULL
    crowds = in_all_situations(lambda server, way: beside_crowd(server, way, size))
    deaf = in_all_situations(lambda server, way: beside_deaf_clients(server, way, size))
    settled = {key: seen.after(size.settled_after) for key, seen in deaf.items()}
    many, mute = f"{size.clients} clients for {size.streams} streams", f"{size.deaf} clients that never read"
    beside = {many: crowds, f"{mute}, as they come": deaf, f"{mute}, once they are there": settled}
    rows = [(name, *key, *seen.row()) for name, situations in beside.items() for key, seen in situations.items()]
    return Outcome(
        "Ordinary requests beside more clients than there may be streams, and beside clients that never read",
        [
            *added(f"{many}, gthread", "gthread", crowds, {99: at_most(0)}),
            *added(f"{many}, gevent", "gevent", crowds, {}),
            *added(f"{mute}, gevent, once they are there", "gevent", settled, {50: at_most(1)}),
        ],
        [table(_HEADINGS, rows), *(fate(server, crowds[server, "wrapped"], size) for server in _SERVERS)],
        {"crowd": [*crowd_panels(many, crowds), deaf_panel(mute, deaf, size)]},
    )


# -- the situations


def in_all_situations(see: Callable[[str, str], Seen]) -> Situations:
    """Measure under each server, bare and wrapped."""
    return {(server, way): see(server, way) for server in _SERVERS for way in _WAYS}


def beside_crowd(worker_class: str, way: str, size: Size) -> Seen:
    """Let all clients connect at once, and measure until all are served. There are threads for the streams and some more."""
    options = f"max_streams={size.streams}, retry={size.retry}"
    with serving(worker_class, size.streams + size.streams // 3, options) as server:
        before = resident_memory(server)
        with Crowd(server.port, f"/{way}/{size.stream}", clients=size.clients, events=_EVENTS, within=300.0) as crowd:
            answers, most = look(server, way, crowd.is_there, patience=60.0)
            visits = crowd.visits()
        history = json.loads(answer_of(server.port, f"/{way}/counts"))["history"]
        return Seen(answers, most - before, visits, history)


def beside_deaf_clients(worker_class: str, way: str, size: Size) -> Seen:
    """Measure while clients do not read. There are fewer threads than clients."""
    with serving(worker_class, size.deaf * 64 // 100, "send_deadline=None") as server:
        before = resident_memory(server)
        with DeafClients(server.port, f"/{way}/{_ENDLESS}", clients=size.deaf):
            until = time.monotonic() + size.seconds
            answers, most = look(server, way, lambda: time.monotonic() < until, patience=size.patience)
        return Seen(answers, most - before)


def serving(worker_class: str, threads: int, options: str) -> AbstractContextManager[Server]:
    """Run a server with options of `SSEMiddleware`."""
    return gunicorn(worker_class, threads=threads, application=f"crowd_application:create({options})")


def look(server: Server, way: str, still: Callable[[], bool], *, patience: float) -> tuple[list[Answer], int]:
    """Make ordinary requests; return their answers, and the most resident memory that the worker had meanwhile."""
    most = 0

    def goes_on() -> bool:
        nonlocal most
        most = max(most, resident_memory(server))
        return still()

    return ask_meanwhile(server.port, f"/{way}/stock", goes_on, patience=patience), most


def resident_memory(server: Server) -> int:
    """Return the bytes that the worker has in memory."""
    size: int = server.worker.memory_info().rss
    return size


# -- what was found


def milliseconds(answers: Sequence[Answer]) -> list[float]:
    """Return how long they took, without those that did not come."""
    return [answer.seconds * 1000 for answer in answers if answer.seconds is not None]


def added(subject: str, server: str, situations: Situations, targets: Mapping[int, Target]) -> Iterator[Figure]:
    """Yield what was added to the median and the 99 % of the ordinary requests."""
    bare, wrapped = (milliseconds(situations[server, way].answers) for way in _WAYS)
    if not (bare and wrapped):  # a short run on a busy machine may get no answer in time
        return
    for percent, name in ((50, "median"), (99, "99 %")):
        without, own = share(bare, percent), share(wrapped, percent)
        absolute = f"{number(own)} ms, bare {number(without)} ms"
        what = f"{subject}: added to ordinary requests, {name}"
        yield figure_of_turns(what, [own - without], " ms", absolute, targets.get(percent))


def fate(server: str, seen: Seen, size: Size) -> str:
    """Return what happened to the crowd, as a sentence."""
    refused = [(visit.retry or 0) / 1000 for visit in seen.visits if visit.was_refused]
    served = [visit.ended_at for visit in seen.visits if visit.events == _EVENTS]
    visits = max(sum(visit.client == client for visit in seen.visits) for client in range(size.clients))
    begin = (
        f"{server}, wrapped: {len(served)} of {size.clients} clients were served within "
        f"{number(max(served) - seen.visits[0].asked_at)} s, at most {max(count for _, count in seen.history)} at a time."
    )
    if not refused:
        return f"{begin} No request was refused."
    spread = f"{number(min(refused))} to {number(max(refused))} s (median {number(share(refused, 50))} s)"
    return (
        f"{begin} {len(refused)} requests were refused, to reconnect after {spread}; no client came more than {visits} times."
    )


# -- the plots


def crowd_panels(title: str, crowds: Situations) -> list[Panel]:
    """Return how many were served and how many streams were open over time, and how long ordinary requests took."""
    clients, requests = list[Curve](), list[Curve]()
    for server in _SERVERS:
        seen = crowds[server, "wrapped"]
        clients.append(Curve(f"served, {server}", served_over_time(seen)))
        clients.append(Curve(f"open streams, {server}", open_over_time(seen)))
    for (server, way), seen in crowds.items():
        requests.append(Curve(f"{server}, {way}", longest_over_time(seen, 1.0)))
    last = max(curve.points[-1][0] for curve in clients)
    ticks = [(float(second), str(second)) for second in range(0, int(last) + 2, 5 if last > 5 else 1)]
    return [
        Panel(f"{title}, wrapped", "seconds", "clients", ticks, clients),
        Panel(f"{title}: the longest ordinary request of each second", "seconds", "ms", ticks, requests, y_is_logarithmic=True),
    ]


def deaf_panel(title: str, deaf: Mapping[tuple[str, str], Seen], size: Size) -> Panel:
    """Return how long ordinary requests took beside clients that never read, where they were answered."""
    step = size.seconds / 20
    curves = [
        Curve(f"{server}, {way}", points) for (server, way), seen in deaf.items() if (points := longest_over_time(seen, step))
    ]
    ticks = [(size.seconds * part / 6, f"{size.seconds * part / 6:.3g}") for part in range(7)]
    unanswered = [f"{way} {server}" for (server, way), seen in deaf.items() if not milliseconds(seen.answers)]
    x_label = "seconds" + (f" ({' and '.join(unanswered)} answers none)" if unanswered else "")
    shown = f"{title}: the longest ordinary request of each {step:g} s"
    return Panel(shown, x_label, "ms", ticks, curves, y_is_logarithmic=True)


def served_over_time(seen: Seen) -> list[tuple[float, float]]:
    """Return how many clients had been served, each half second."""
    began = seen.visits[0].asked_at
    served = sorted(visit.ended_at - began for visit in seen.visits if visit.events == _EVENTS)
    return [(at, float(bisect_right(served, at))) for at in half_seconds(served[-1])]


def open_over_time(seen: Seen) -> list[tuple[float, float]]:
    """Return how many streams were open, each half second."""
    began = seen.visits[0].asked_at
    changes = [at - began for at, _ in seen.history]
    numbers = [0, *(number for _, number in seen.history)]
    return [(at, float(numbers[bisect_right(changes, at)])) for at in half_seconds(changes[-1])]


def half_seconds(last: float) -> list[float]:
    """Return each half second from 0, and one after *last*."""
    return [half / 2 for half in range(int(last * 2) + 2)]


def longest_over_time(seen: Seen, step: float) -> list[tuple[float, float]]:
    """Return the milliseconds of the longest ordinary request of those due in each *step*, at its middle."""
    longest: dict[int, float] = {}
    began = seen.answers[0].due_at
    for answer in seen.answers:
        if answer.seconds is not None:
            place = int((answer.due_at - began) / step)
            longest[place] = max(longest.get(place, 0.0), answer.seconds * 1000)
    return [((place + 0.5) * step, value) for place, value in sorted(longest.items())]
