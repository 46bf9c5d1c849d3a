"""A container of 256 MB whose clients are slow and whose events are big: bare, it is killed; wrapped, all are served.

32 clients, which read 200 KB a second, each ask gunicorn's gthread with 32 threads for events of 5 MB, each event new.
Server and worker are in a memory cgroup of their own, which only root can make. A client that is refused, or whose
connection breaks, reconnects as an EventSource does.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import NamedTuple

from .memory_group import MemoryGroup, NoGroup, memory_group
from .results import Curve, Effort, Outcome, Panel, table
from .serving import gunicorn
from .slow_readers import SlowReader, all_are_served, reading

LIMIT = 256 * 2**20  # bytes
THREADS = CLIENTS = 32
EVENT = 5_000_000  # bytes
RATE = 200_000  # bytes a second
SAMPLE_EVERY = 0.1  # seconds
_MIB = 2**20


class Sample(NamedTuple):
    """What the group's memory was at a moment."""

    second: float
    used: int  # bytes


class Course(NamedTuple):
    """What happened to the container and its clients."""

    samples: list[Sample]
    most_used: int  # bytes; as the kernel has it, where it tells
    kills: list[float]  # when the kernel killed, in seconds
    served: int  # clients
    refused: int  # times
    breaks: list[str]  # of connections: how each broke
    seconds: float


def run(
    way: str,
    *,
    announced: bool = True,
    events: int = 1,
    workers: int = 1,
    kind: str = "gthread",
    clients: int = CLIENTS,
    limit: int = LIMIT,
    within: float,
    until_killed: bool = False,
) -> Course:
    """Let all *clients* read in the way ``bare`` or ``wrapped``, until all are served or *within* seconds are over.

    The *workers*, of gunicorn's *kind*, share the threads, and with all else in the container its *limit*. Raises `NoGroup`
    where there can be none.
    """
    threads = clients // workers
    with memory_group(limit) as group, gunicorn(kind, workers=workers, threads=threads, group=group) as server:
        path = f"/{way}/orders/{events}/{EVENT}"
        readers = [SlowReader(server.port, path, announced=announced, count=events, rate=RATE) for _ in range(clients)]
        with reading(readers):
            return watch(group, readers, within, until_killed)


def watch(group: MemoryGroup, readers: Sequence[SlowReader], within: float, until_killed: bool) -> Course:
    """Sample the memory while the clients read."""
    samples: list[Sample] = []
    kills: list[float] = []
    began, now = time.monotonic(), 0.0
    while now < within and not all_are_served(readers) and not (until_killed and kills):
        now = time.monotonic() - began
        samples.append(Sample(now, group.used))
        kills.extend([now] * (group.kills - len(kills)))
        time.sleep(SAMPLE_EVERY)
    served = sum(reader.served_at is not None for reader in readers)
    refused, breaks = sum(reader.refused for reader in readers), [each for reader in readers for each in reader.breaks]
    most_used = group.most_used or max(sample.used for sample in samples)
    return Course(samples, most_used, kills, served, refused, breaks, now)


def measure(effort: Effort) -> Outcome:
    """Run wrapped, then bare for as long, then wrapped in four workers."""
    outcome = Outcome(
        f"A container of {LIMIT // _MIB} MiB, gthread with {THREADS} threads: {CLIENTS} clients at {RATE // 1000} KB/s, "
        "each asking for two events of 5 MB"
    )
    try:
        wrapped = run("wrapped", events=2, within=effort.pick(240, 4))
        bare = run("bare", events=2, within=wrapped.seconds)
        in_four_workers = run("wrapped", events=2, workers=4, within=effort.pick(240, 4))
    except NoGroup as reason:
        outcome.notes.append(f"**Not measured: {reason}**")
        return outcome
    courses = {"bare": bare, "wrapped": wrapped}
    rows = [row(way, course) for way, course in {**courses, "wrapped, four workers": in_four_workers}.items()]
    outcome.notes.append(table(HEADINGS, rows))
    outcome.plots["container"] = [panel(courses)]
    return outcome


HEADINGS = ("", "clients served", "killed by the kernel", "highest memory", "refused", "connections broken", "seconds")


def row(way: str, course: Course) -> tuple[str, ...]:
    """Return a row of the table."""
    killed = f"{len(course.kills)} times, first after {course.kills[0]:.1f} s" if course.kills else "never"
    highest = f"{course.most_used / _MIB:.0f} MiB"
    return (
        way, f"**{course.served} of {CLIENTS}**", f"**{killed}**", highest, str(course.refused), str(len(course.breaks)),
        f"{course.seconds:.0f}",
    )  # fmt: skip


def panel(courses: dict[str, Course]) -> Panel:
    """Return the plot of the memory over time, the limit and the kills marked."""
    curves = [Curve(way, [(second, used / _MIB) for second, used in course.samples]) for way, course in courses.items()]
    end = max(course.seconds for course in courses.values())
    ticks = [(second, f"{second}") for second in range(0, int(end) + 1, 10)]
    return Panel(
        "Memory of the container, its limit, and kills by the kernel (crosses)",
        "seconds",
        "MiB",
        ticks,
        curves,
        level=LIMIT / _MIB,
        crosses=[(second, LIMIT / _MIB) for course in courses.values() for second in course.kills],
    )
