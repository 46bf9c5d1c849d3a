"""What a benchmark returns, and how it is written: figures with their spread, targets met or missed, plots as plain data."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from statistics import median
from typing import NamedTuple, TypeVar

Measured = TypeVar("Measured")


class Effort(NamedTuple):
    """How much to measure."""

    is_short: bool

    def pick(self, full: int, short: int) -> int:
        """Return the first number, or the second one in a short run."""
        return short if self.is_short else full


class Target(NamedTuple):
    """What a figure should be, in the figure's own unit."""

    bound: float
    is_least: bool

    def is_met_by(self, value: float) -> bool:
        """Tell whether a figure is as it should be."""
        return value >= self.bound if self.is_least else value <= self.bound


def at_least(bound: float) -> Target:
    """Return the target of a gain."""
    return Target(bound, is_least=True)


def at_most(bound: float) -> Target:
    """Return the target of a cost."""
    return Target(bound, is_least=False)


@dataclass(frozen=True)
class Figure:
    """One result against the bare server: *value* in *unit*, its spread, and the absolute figures beside it."""

    subject: str
    value: float
    lowest: float
    highest: float
    unit: str
    beside: str
    target: Target | None = None

    def row(self) -> tuple[str, ...]:
        """Return the cells of this figure's row in a table."""
        spread = f"{number(self.lowest)} to {number(self.highest)}"
        return self.subject, f"**{number(self.value)}{self.unit}**", spread, self.wanted(), self.beside

    def wanted(self) -> str:
        """Return the target and whether it is met."""
        if self.target is None:
            return ""
        verdict = "met" if self.target.is_met_by(self.value) else "**missed**"
        return f"{'≥' if self.target.is_least else '≤'} {self.target.bound:,.4g}{self.unit}: {verdict}"


def figure_of_turns(subject: str, turns: Sequence[float], unit: str, beside: str, target: Target | None = None) -> Figure:
    """Return the figure that is the median of *turns*."""
    return Figure(subject, median(turns), min(turns), max(turns), unit, beside, target)


class Curve(NamedTuple):
    """A labelled line of a plot."""

    label: str
    points: Sequence[tuple[float, float]]


class Panel(NamedTuple):
    """One pair of axes. *ticks*: where the x axis is labelled, and how. *level*: a y, *crosses*: points that are marked."""

    title: str
    x_label: str
    y_label: str
    ticks: Sequence[tuple[float, str]]
    curves: Sequence[Curve]
    x_is_logarithmic: bool = False
    y_is_logarithmic: bool = False
    level: float | None = None
    crosses: Sequence[tuple[float, float]] = ()


@dataclass(frozen=True)
class Outcome:
    """All that a benchmark has found."""

    title: str
    figures: list[Figure] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)  # tables of another form, and sentences
    plots: dict[str, list[Panel]] = field(default_factory=dict)  # by the name of the file
    summary: list[Figure] = field(default_factory=list)  # those that the README has, too


HEADINGS = ("what", "against bare", "lowest to highest turn", "target", "absolute figures")


def table(headings: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a table that can be read as it is, and as Markdown."""
    cells = [headings, *rows]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    lines = [" | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in cells]
    lines.insert(1, " | ".join("-" * width for width in widths))
    return "\n".join(f"| {line} |" for line in lines)


def number(value: float) -> str:
    """Return *value* with about three significant digits."""
    size = abs(value)
    return f"{value:,.{0 if size >= 99.5 else 1 if size >= 9.95 else 2}f}"


def rate(value: float, unit: str) -> str:
    """Return so many of *unit* a second, with the prefix that fits."""
    for factor, prefix in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= factor:
            return f"{number(value / factor)} {prefix}{unit}/s"
    return f"{number(value)} {unit.strip()}/s"


def size_name(size: int) -> str:
    """Return a number of bytes as people write it."""
    for factor, unit in ((2**20, "MiB"), (2**10, "KiB"), (10**6, "MB"), (10**3, "KB")):
        if size >= factor and size % factor == 0:
            return f"{size // factor} {unit}"
    return f"{size} bytes"


def in_turn(turns: int, ways: Sequence[str], measure: Callable[[str], Measured]) -> dict[str, list[Measured]]:
    """Measure every way in every turn. Each turn begins with another way, so that no way always follows the same one."""
    taken: dict[str, list[Measured]] = {way: [] for way in ways}
    for turn in range(turns):
        first = turn % len(ways)
        for way in (*ways[first:], *ways[:first]):
            taken[way].append(measure(way))
    return taken
