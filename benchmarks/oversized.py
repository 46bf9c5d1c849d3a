"""How long real readers take for one event of 1, 10 and 50 MB: on one line, folded, and in fragments; and what that costs."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from functools import partial
from itertools import product
from pathlib import Path
from statistics import median
from typing import NamedTuple

from ssemiddleware.oversized.fold import Folding
from ssemiddleware.oversized.fragment import Fragmenting
from tests.browsers.driving import ENGINES

from .readers.documents import document
from .readers.harness import (
    BROWSERS,
    NODE_REMEDY,
    WAYS,
    Reader,
    Reading,
    Server,
    Verdict,
    install_npm_packages,
    lacks_node,
    node_readers,
    page_reader,
    python_readers,
    serving,
)
from .readers.python_reader import READERS
from .results import Curve, Effort, Figure, Outcome, Panel, at_least, figure_of_turns, number, table

WITHIN = 60.0  # seconds, for one event
MEGABYTE = 1_000_000
NAMES = {"plain": "on one line", "fold": "folded", "fragment": "in fragments"}
BLOCK = 131072  # bytes: what the middleware gives to a step at once
GAIN_IN_WEBKIT = at_least(30)


class Case(NamedTuple):
    """An event of *size* MB, sent in one of the ways."""

    way: str
    size: int


Readings = dict[Case, list[Reading]]  # of one reader; those that were not tried are missing


def measure(effort: Effort) -> Outcome:
    """Have every installed reader read every event in every way."""
    outcome = Outcome("Large events in real readers, through gunicorn with gthread")
    sizes = (1,) if effort.is_short else (1, 10, 50)
    taken: dict[str, Readings] = {}
    missing: list[str] = []
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        server = stack.enter_context(serving(Path(folder)))
        for name, start in readers(Path(folder), missing):
            with start() as reader:
                taken[name] = read_all(server, reader, sizes, effort.pick(3, 1))
    outcome.notes.append(table(headings(), rows(taken, sizes)))
    outcome.notes.extend(remarks(taken))
    outcome.notes.extend(f"**Not measured: {line}**" for line in missing)
    if "WebKit" in taken and not effort.is_short:
        outcome.figures.extend(gains(taken["WebKit"]))
    outcome.plots["oversized"] = [panel(name, taken[name], sizes) for name in BROWSERS.values() if name in taken]
    outcome.notes.append(table(("in process, one core", "speed", "target"), speeds(effort)))
    return outcome


# -- The readers


def readers(folder: Path, missing: list[str]) -> Iterator[tuple[str, Callable[[], AbstractContextManager[Reader]]]]:
    """Yield all installed readers, each with the function that starts it; add the others to *missing*."""
    for engine, name in BROWSERS.items():
        if lacks := ENGINES[engine].missing():
            missing.append(f"{name}, which needs {', '.join(lacks)} ({ENGINES[engine].remedy})")
        else:
            yield name, partial(page_reader, engine, folder)
    there: dict[str, Reader] = {**python_readers()}
    missing.extend(f"{name}, which needs {', '.join(modules)}" for name, (_, modules) in READERS.items() if name not in there)
    if lacks := lacks_node():
        missing.append(f"npm's packages, which need {', '.join(lacks)} ({NODE_REMEDY})")
    else:
        packages = folder / "npm"
        packages.mkdir()
        install_npm_packages(packages)
        there.update(node_readers(packages))
    for name, reader in there.items():
        yield name, partial(as_it_is, reader)


@contextmanager
def as_it_is(reader: Reader) -> Iterator[Reader]:
    """Start nothing: a program is started for each event."""
    yield reader


def read_all(server: Server, reader: Reader, sizes: Iterable[int], turns: int) -> Readings:
    """Read each event so many times; but not again, and no larger one, once it took too long or was refused."""
    taken: Readings = {}
    hopeless: set[str] = set()
    for size, way in product(sizes, WAYS):
        for _ in range(turns):
            if way in hopeless:
                break
            reading = server.ask(reader, way, "orders", size * MEGABYTE, within=WITHIN)
            if reading.verdict is Verdict.WRONG:
                raise AssertionError(f"{reader.name}, {way}, {size} MB: {reading.said}")
            taken.setdefault(Case(way, size), []).append(reading)
            if reading.verdict is not Verdict.WHOLE:
                hopeless.add(way)
    return taken


# -- The table, the plot and the gain


def headings() -> tuple[str, ...]:
    """Return the heads of the table's columns."""
    return "reader", "event", *NAMES.values()


def rows(taken: dict[str, Readings], sizes: Iterable[int]) -> Iterator[tuple[str, ...]]:
    """Yield a row for each reader and size: the median time in each way."""
    for (name, readings), size in product(taken.items(), sizes):
        yield name, f"{size} MB", *(cell(readings.get(Case(way, size))) for way in WAYS)


def cell(readings: list[Reading] | None) -> str:
    """Return the median time, or why there is none."""
    if readings is None:
        return "–"
    verdict = readings[-1].verdict
    return {Verdict.LATE: f"**> {WITHIN:.0f} s**", Verdict.REFUSED: "**refused**"}.get(verdict, f"{typical(readings):,.0f} ms")


def typical(readings: list[Reading]) -> float:
    """Return the median of the milliseconds it took."""
    return median(reading.milliseconds for reading in readings)


def remarks(taken: dict[str, Readings]) -> Iterator[str]:
    """Yield the errors of readers that refuse an event, and the meaning of a dash."""
    yield "Time from the request to the whole event, median of all turns. –: not tried, since a smaller one did not arrive."
    for name, readings in taken.items():
        said = {reading.said for each in readings.values() for reading in each if reading.verdict is Verdict.REFUSED}
        yield from (f"{name} refuses with `{shortened(line)}`" for line in sorted(said))


def shortened(text: str) -> str:
    """Return the first line of *text*, which may be what it was given."""
    return text.partition("\n")[0][:100]


def gains(readings: Readings) -> Iterator[Figure]:
    """Yield how many times as fast WebKit gets 10 MB, turn by turn."""
    plain = readings[Case("plain", 10)]
    for way in ("fold", "fragment"):
        pairs = zip(plain, readings[Case(way, 10)], strict=False)
        turns = [before.milliseconds / after.milliseconds for before, after in pairs]
        beside = f"{typical(readings[Case(way, 10)]):,.0f} ms, on one line {typical(plain):,.0f} ms"
        yield figure_of_turns(f"WebKit, one event of 10 MB, {NAMES[way]}", turns, "x", beside, GAIN_IN_WEBKIT)


def panel(name: str, readings: Readings, sizes: Iterable[int]) -> Panel:
    """Return the plot of one reader's times."""
    curves = []
    for way in WAYS:
        there = {size: readings[Case(way, size)] for size in sizes if Case(way, size) in readings}
        points = [(size, typical(each)) for size, each in there.items() if each[-1].verdict is Verdict.WHOLE]
        late = [f"{size} MB: > {WITHIN:.0f} s" for size, each in there.items() if each[-1].verdict is Verdict.LATE]
        curves.append(Curve(" – ".join([NAMES[way], *late]), points))
    ticks = [(size, f"{size} MB") for size in sizes]
    axes = ("one event of JSON", "milliseconds", ticks, curves)
    return Panel(f"{name}: from the request to the whole event", *axes, x_is_logarithmic=True, y_is_logarithmic=True)


# -- What it costs the server


def speeds(effort: Effort) -> Iterator[tuple[str, str, str]]:
    """Yield how fast events go through each step, in blocks as the middleware has them."""
    size = effort.pick(32, 2) * MEGABYTE
    steps: dict[str, Callable[[], Folding | Fragmenting]] = {
        "Fold": partial(Folding, over=61440, width=61440),
        "Fragment": partial(Fragmenting, over=262144, size=65536),
    }
    targets = {("Fold", "orders"): at_least(600), ("Fold", "texts"): at_least(200)}
    kinds = {"orders": "JSON without escapes", "texts": "JSON with many escapes"}
    for (step, make), (kind, what) in product(steps.items(), kinds.items()):
        event = b"data: %b\n\n" % document(kind, size)
        blocks = [event[at : at + BLOCK] for at in range(0, len(event), BLOCK)]
        turns = [len(event) / seconds_for(make, blocks) / MEGABYTE for _ in range(effort.pick(7, 1))]
        subject, target = f"{step}, {what}", targets.get((step, kind))
        figure = figure_of_turns(subject, turns, " MB/s", "", target)
        yield subject, f"**{number(figure.value)} MB/s**", figure.wanted()


def seconds_for(make: Callable[[], Folding | Fragmenting], blocks: list[bytes]) -> float:
    """Return how long one event takes through a step."""
    step = make()
    began = time.perf_counter()
    for block in blocks:
        for _ in step.feed(block):
            pass
    for _ in step.finish():
        pass
    return time.perf_counter() - began
