"""Plots as SVG that colour-blind people can read: colours by Okabe and Ito, markers and dashes, names at the lines' ends.

The ground is white, so that they can be read on a dark page too. Needs matplotlib.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

from .results import Curve, Panel

if TYPE_CHECKING:
    from matplotlib.typing import RcKeyType

# Okabe and Ito without their yellow, which is hard to see on white; black first.
_COLOURS = ("#000000", "#D55E00", "#0072B2", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
_MARKERS = "osD^vPX"
_MOST_MARKERS = 15  # on a line
_DASHES = ("-", "--", "-.", ":", (0, (5, 1)), (0, (3, 1, 1, 1)), (0, (1, 1)))
_LINE_OF_TEXT = 12.0  # points from one name to the next
_RIGHT = 0.8  # of the axes' width: what ends farther left is named where it is highest
_WIDTH, _HEIGHT, _AXES_HEIGHT = 8.6, 3.3, 2.4  # inches of 96 pixels: a README is 830 wide; heights of each panel

_SETTINGS: dict[RcKeyType, Any] = {
    "font.size": 9.5,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#DDDDDD",
    "svg.hashsalt": "ssemiddleware",  # the same figures give the same file
}


def draw(plots: Mapping[str, Sequence[Panel]], directory: Path) -> None:
    """Write each plot to a file of its name."""
    directory.mkdir(parents=True, exist_ok=True)
    with mpl.rc_context(_SETTINGS):
        for name, panels in plots.items():
            _figure(panels).savefig(directory / f"{name}.svg", facecolor="white", metadata={"Date": None})


def _figure(panels: Sequence[Panel]) -> Figure:
    height = _HEIGHT * len(panels)
    figure = Figure(figsize=(_WIDTH, height))
    for row, panel in enumerate(panels):
        # The title stands above, the x axis' labels below, and to the right is room for the lines' names.
        bottom = (height - (row + 1) * _HEIGHT + 0.55) / height
        _draw_panel(figure.add_axes((0.1, bottom, 0.65, _AXES_HEIGHT / height)), panel)
    return figure


def _draw_panel(axes: Axes, panel: Panel) -> None:
    axes.set_title(panel.title, loc="left", fontweight="bold")
    axes.set_xlabel(panel.x_label)
    axes.set_ylabel(panel.y_label)
    if panel.x_is_logarithmic:
        axes.set_xscale("log")
    if panel.y_is_logarithmic:
        axes.set_yscale("log")
        axes.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
        axes.yaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,g}"))
    axes.set_xticks([place for place, _ in panel.ticks], [name for _, name in panel.ticks])
    axes.xaxis.set_minor_locator(NullLocator())
    if panel.level is not None:
        axes.axhline(panel.level, color="#555555", linewidth=1)
    for curve, colour, marker, dashes in zip(panel.curves, _COLOURS, _MARKERS, _DASHES, strict=False):
        x, y = zip(*curve.points, strict=True)
        axes.plot(x, y, color=colour, marker=marker, markevery=_every(x), linestyle=dashes, linewidth=1.6, markersize=5)
    if panel.crosses:
        x, y = zip(*panel.crosses, strict=True)
        axes.scatter(x, y, s=70, color="#000000", marker="x", linewidths=2.2, zorder=3)
    axes.autoscale_view()  # so that it is known where the lines end
    if not panel.y_is_logarithmic:
        axes.set_ylim(bottom=0)
    _name_lines(axes, panel.curves)


def _every(points: Sequence[float]) -> int:
    """Return how many points there are to a marker: a marker at each of hundreds would hide the line."""
    return 1 + len(points) // _MOST_MARKERS


def _name_lines(axes: Axes, curves: Sequence[Curve]) -> None:
    """Write each line's name where it ends at the right, moved apart where two end close together; else at its highest."""
    to_axes = axes.transData + axes.transAxes.inverted()
    ends = [to_axes.transform(curve.points[-1]) for curve in curves]
    for curve, (x, _) in zip(curves, ends, strict=True):
        if x < _RIGHT:  # a long line to its name would be taken for the curve
            highest = max(curve.points, key=lambda point: point[1])
            axes.annotate(curve.label, highest, (8, -1), textcoords="offset points")
    upwards = sorted((index for index, (x, _) in enumerate(ends) if x >= _RIGHT), key=lambda index: ends[index][1])
    for index, place in zip(upwards, _apart([ends[index][1] for index in upwards]), strict=True):
        axes.annotate(
            curves[index].label,
            curves[index].points[-1],
            (1.04, place),
            textcoords="axes fraction",
            verticalalignment="center",
            arrowprops={"arrowstyle": "-", "color": _COLOURS[index], "linewidth": 0.8, "shrinkB": 3, "relpos": (0.0, 0.5)},
        )


def _apart(places: Sequence[float]) -> list[float]:
    """Return *places*, which rise, with a line of text between any two, and below the top of the axes if possible."""
    gap = _LINE_OF_TEXT / (72 * _AXES_HEIGHT)  # as a share of the axes' height
    moved: list[float] = []
    for place in places:
        moved.append(max([place, *(lower + gap for lower in moved[-1:])]))
    highest = 1.0
    for index in reversed(range(len(moved))):
        moved[index] = min(moved[index], highest)
        highest = moved[index] - gap
    return moved
