"""What ``max_block`` does: throughput, peak memory under two servers, and the delay of a small stream beside one of big events.

The sentence at the end names the smallest block that is fast enough: the memory that a block costs grows with it.
"""

from __future__ import annotations

import contextlib
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from statistics import median

from .applications import MAX_BLOCKS
from .bursts import Burst, Sender, big_events, small_events, timer
from .latency import latencies_of, share
from .memory_use import forget_peak, peak_memory, settle
from .reading import connect, request
from .results import Curve, Effort, Outcome, Panel, in_turn, number, size_name, table
from .serving import ROOT, Server, gunicorn, uvicorn
from .throughput import BIG_TARGETS, SMALL_TARGET

# How many times as fast as bare a burst should be.
_FAST_ENOUGH = {"58 bytes": SMALL_TARGET.bound} | {size_name(size): target.bound for size, target in BIG_TARGETS.items()}
_BIG_EVENTS = "fresh/1000000/10000000"  # 10 MB each, without an end

Columns = dict[str, dict[str, float]]  # what was measured, and of it a value for each way: "bare", "wrapped-65536" ...


def measure(effort: Effort) -> Outcome:
    """Measure every ``max_block`` from 32 to 512 KiB, and bare beside them."""
    sizes = MAX_BLOCKS[: effort.pick(len(MAX_BLOCKS), 1)]
    ways = ("bare", *map(way_of, sizes))
    speeds = throughputs(ways, effort)
    peaks = {
        "gthread": peaks_of(lambda: gunicorn("gthread"), ways, effort),
        "a2wsgi on uvicorn": peaks_of(lambda: uvicorn("bridged"), ways, effort),
    }
    delays = delays_on("gthread", ways, effort) | delays_on("gevent", ways, effort)
    return Outcome(
        "max_block from 32 to 512 KiB, announced streams",
        notes=[comparison(sizes, speeds, peaks, delays), choice(sizes, speeds, peaks, delays)],
        plots={"block_size": panels(sizes, speeds, peaks, delays)},
    )


def way_of(size: int) -> str:
    """Return the first part of the path that leads to this ``max_block``."""
    return f"wrapped-{size}"


# -- how it is measured


def throughputs(ways: Sequence[str], effort: Effort) -> Columns:
    """Return how many times as fast as from bare gthread each burst arrives."""
    small, big = small_events(effort), [big_events(size, effort) for size in BIG_TARGETS]
    with gunicorn("gthread") as server:
        senders = {way: Sender(server.port, way, announced=True) for way in ways}
        return {burst.name: speeds_of(burst, senders, effort) for burst in (small, *big)}


def speeds_of(burst: Burst, senders: Mapping[str, Sender], effort: Effort) -> dict[str, float]:
    """Return how many times as fast as from the bare one *burst* comes from each of *senders*."""
    taken = in_turn(effort.pick(7, 1), tuple(senders), timer(burst, senders))
    return {way: median(bare / own for bare, own in zip(taken["bare"], seconds, strict=True)) for way, seconds in taken.items()}


def peaks_of(start: Callable[[], AbstractContextManager[Server]], ways: Sequence[str], effort: Effort) -> dict[str, float]:
    """Return by how many MB the worker grows at most while a slow client reads big events; a new server each time."""
    taken = in_turn(effort.pick(2, 1), ways, lambda way: _peak(start, way, effort.pick(2, 1)))
    return {way: median(peaks) for way, peaks in taken.items()}


def _peak(start: Callable[[], AbstractContextManager[Server]], way: str, seconds: int) -> float:
    with start() as server, connect(server.port) as connection:
        settle(server.port, way)
        before = forget_peak(server.worker)
        connection.sendall(request(f"/{way}/{_BIG_EVENTS}", announced=True))
        landing, end = bytearray(2**18), time.monotonic() + seconds
        while time.monotonic() < end:
            connection.recv_into(landing)
            time.sleep(0.005)  # 50 MB a second at most
        return (peak_memory(server.worker) - before) / 1e6


def delays_on(worker_class: str, ways: Sequence[str], effort: Effort) -> Columns:
    """Return how many microseconds small events take beside a stream of big ones to a client that reads as fast as it can."""
    count, microseconds = effort.pick(100, 20), 10_000
    with gunicorn(worker_class) as server:

        def latencies_beside(way: str) -> tuple[float, float]:
            neighbour = contextlib.nullcontext() if way == "alone" else reader_of(server.port, f"/{way}/{_BIG_EVENTS}")
            path = f"/{way.replace('alone', 'bare')}/timed/{count}/{microseconds}"
            with neighbour:
                latencies = latencies_of(server.port, path, count)
            return share(latencies, 50), share(latencies, 99)

        taken = in_turn(effort.pick(3, 1), ("alone", *ways), latencies_beside)
    medians, nearly_all = {}, {}
    for way, turns in taken.items():
        medians[way], nearly_all[way] = map(median, zip(*turns, strict=True))
    return {f"{worker_class}, median": medians, f"{worker_class}, 99 %": nearly_all}


@contextlib.contextmanager
def reader_of(port: int, path: str) -> Iterator[None]:
    """Have a process read a stream meanwhile, and drop what it reads."""
    reader = subprocess.Popen([sys.executable, "-m", "benchmarks.reading", str(port), path], cwd=ROOT)
    try:
        time.sleep(0.5)  # until it reads
        if reader.poll() is not None:
            raise RuntimeError(f"the reader of {path} ended with {reader.returncode}")
        yield
    finally:
        reader.terminate()
        reader.wait()


# -- how it is shown


def comparison(sizes: Sequence[int], speeds: Columns, peaks: Columns, delays: Columns) -> str:
    """Return a table with a row for each ``max_block``."""
    units = (", x bare", speeds), (", peak MB", peaks), (", µs", delays)
    headings = [name + unit for unit, columns in units for name in columns]
    columns = [*speeds.values(), *peaks.values(), *delays.values()]
    names = {"alone": "bare, no big events beside it", "bare": "bare"} | {way_of(size): size_name(size) for size in sizes}
    rows = [[name, *(number(column[way]) if way in column else "" for column in columns)] for way, name in names.items()]
    return table(["max_block", *headings], rows)


def choice(sizes: Sequence[int], speeds: Columns, peaks: Columns, delays: Columns) -> str:
    """Return the block size to choose, and why: the smallest one that is fast enough, since each block costs memory."""
    reached = {size: min(speeds[name][way_of(size)] / least for name, least in _FAST_ENOUGH.items()) for size in sizes}
    chosen = next((size for size in sizes if reached[size] >= 1), None)
    reason = "the smallest block with which every burst reaches the target of its throughput"
    if chosen is None:
        chosen = max(sizes, key=reached.__getitem__)
        reason = (
            f"no block lets every burst reach the target of its throughput; here the slowest is at {reached[chosen]:.0%} of it"
        )
    peak = " and ".join(f"{number(column[way_of(chosen)])} MB on {name}" for name, column in peaks.items())
    delay = ", ".join(f"{number(column[way_of(chosen)])} µs ({name})" for name, column in delays.items())
    return (
        f"These figures speak for {size_name(chosen)}: {reason}. "
        f"Its peak is {peak}, and small events beside big ones take {delay}."
    )


def panels(sizes: Sequence[int], speeds: Columns, peaks: Columns, delays: Columns) -> list[Panel]:
    """Return the plots by ``max_block``, bare at their left."""
    places = {"bare": "bare"} | {way_of(size): size_name(size) for size in sizes}
    ticks = list(enumerate(places.values()))
    shown = (
        ("A burst of events to one client", "times as fast as bare", speeds, 1.0),
        ("Peak memory, events of 10 MB to a slow client", "MB gained", peaks, None),
        ("Small events beside a stream of events of 10 MB", "µs from yield to arrival", delays, None),
    )
    return [
        Panel(
            title,
            "max_block",
            y_label,
            ticks,
            curves_of(columns, tuple(places)),
            y_is_logarithmic=columns is not peaks,
            level=level,
        )
        for title, y_label, columns, level in shown
    ]


def curves_of(columns: Columns, ways: Sequence[str]) -> list[Curve]:
    """Return a line for each thing measured."""
    return [Curve(name, [(place, column[way]) for place, way in enumerate(ways)]) for name, column in columns.items()]
