"""The command line of the benchmarks: see `benchmarks`."""

from __future__ import annotations

import argparse
import gc
import logging
import signal
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path

from . import __doc__ as description
from . import (
    block_size,
    container,
    crowd,
    event_cost,
    fan_out,
    last_events,
    latency,
    load,
    memory_use,
    oversized,
    short_streams,
    silence,
    throughput,
)
from .machine import allow_many_files, facts
from .results import HEADINGS, Effort, Figure, Outcome, table

BENCHMARKS: dict[str, Callable[[Effort], Outcome]] = {
    "fan-out": fan_out.measure,
    "load": load.measure,
    "silence": silence.measure,
    "throughput": throughput.measure,
    "latency": latency.measure,
    "last-events": last_events.measure,
    "short-streams": short_streams.measure,
    "event-cost": event_cost.measure,
    "memory": memory_use.measure,
    "container": container.measure,
    "crowd": crowd.measure,
    "oversized": oversized.measure,
    "block-size": block_size.measure,
}

BEGIN, END = "<!-- benchmarks: begin -->", "<!-- benchmarks: end -->"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run what the arguments name, one benchmark at a time. Return 1 if one could not be run; a missed target is no failure."""
    options = command_line().parse_args(arguments)
    prepare_process()
    about = facts() + (["A short run: it shows that everything runs, and nothing else."] if options.short else [])
    print("\n".join(about), flush=True)
    names = [name for name in BENCHMARKS if name in (options.only or BENCHMARKS)]
    outcomes = [outcome for name in names if (outcome := maybe_run(name, Effort(options.short)))]
    if options.markdown:
        write_markdown("\n\n".join([*map(written, outcomes), *about]), options.markdown)
    if options.summary:
        write_markdown(figures_table([figure for outcome in outcomes for figure in outcome.summary]), options.summary)
    if options.plots:
        draw_plots(outcomes, options.plots)
    return 0 if len(outcomes) == len(names) else 1


def command_line() -> argparse.ArgumentParser:
    """Describe the options."""
    formatter = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=description, formatter_class=formatter)
    parser.add_argument("--short", action="store_true", help="see that everything runs, in a minute or two")
    only = f"one of {', '.join(BENCHMARKS)}; may be repeated"
    parser.add_argument("--only", action="append", choices=BENCHMARKS, metavar="NAME", help=only)
    between = f"write the results between {BEGIN} and {END} in FILE, or print them if it has no such lines"
    parser.add_argument("--markdown", type=Path, metavar="FILE", help=between)
    parser.add_argument("--summary", type=Path, metavar="FILE", help="write the few most telling results there in the same way")
    parser.add_argument("--plots", type=Path, metavar="DIR", help="write plots as SVG to DIR (needs matplotlib)")
    return parser


def prepare_process() -> None:
    """Prepare this process: no garbage collection, as many connections as allowed, and no server outlives it."""
    gc.collect()
    gc.freeze()
    gc.disable()
    logging.getLogger("ssemiddleware").setLevel(logging.ERROR)  # what it advises is on purpose here
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # as an exception, so that what was started is ended
    allow_many_files()


def maybe_run(name: str, effort: Effort) -> Outcome | None:
    """Run one benchmark and print what it found; None if it raised, so that the others still run."""
    began = time.monotonic()
    try:
        outcome = BENCHMARKS[name](effort)
    except Exception:
        traceback.print_exc()
        return None
    print(f"\n{written(outcome)}\n({name}: {time.monotonic() - began:.0f} s)", flush=True)
    gc.collect()
    return outcome


def written(outcome: Outcome) -> str:
    """Return an outcome as text, which is Markdown."""
    parts = [f"### {outcome.title}"]
    if outcome.figures:
        parts.append(figures_table(outcome.figures))
    return "\n\n".join([*parts, *outcome.notes])


def figures_table(figures: Sequence[Figure]) -> str:
    """Return the table of figures."""
    return table(HEADINGS, [figure.row() for figure in figures])


def write_markdown(text: str, file: Path) -> None:
    """Put *text* between the two marks in *file*, or print it if they are not there."""
    before, begin, rest = (file.read_text() if file.exists() else "").partition(BEGIN)
    _, end, after = rest.partition(END)
    if begin and end:
        file.write_text(f"{before}{begin}\n\n{text}\n\n{end}{after}")
    else:
        print(f"\n{file} holds no {BEGIN} and {END}; this would stand between them:\n\n{text}")


def draw_plots(outcomes: Sequence[Outcome], directory: Path) -> None:
    """Draw the plots of all outcomes."""
    from .plots import draw  # needs matplotlib, which nothing else here does

    draw({name: panels for outcome in outcomes for name, panels in outcome.plots.items()}, directory)


if __name__ == "__main__":
    sys.exit(main())
