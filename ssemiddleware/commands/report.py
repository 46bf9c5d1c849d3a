"""The doctor's display while it watches, and its report. Needs rich."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence

from rich.console import Console
from rich.live import Live
from rich.table import Table
from rich.text import Text

from ..doctor import Comparison, Finding, Observation, Severity, is_healthy, summary

_COLOURS = {Severity.FATAL: "bold red", Severity.SERIOUS: "red", Severity.MINOR: "yellow", Severity.NOTE: "cyan"}
_REFRESH = 0.2  # seconds


async def show_live(both: Sequence[Observation]) -> None:
    """Show what arrives, on stderr, until cancelled."""
    with Live(console=Console(stderr=True), transient=True, auto_refresh=False) as live:
        while True:
            live.update(_so_far(both), refresh=True)
            await asyncio.sleep(_REFRESH)


def _so_far(both: Sequence[Observation]) -> Table:
    table = Table("stream", "status", "seconds", "events", "bytes", "last byte", caption="Ctrl-C reports what is known so far")
    for seen in both:
        watched = time.time() - seen.began if seen.began else 0.0
        last = f"{watched - seen.arrivals[-1].at:.1f} s ago" if seen.arrivals else "none yet"
        status = "no headers yet" if seen.status is None else str(seen.status)
        table.add_row(seen.url, status, f"{watched:.0f}", str(len(seen.events)), str(seen.received), last)
    return table


def print_report(both: Sequence[Observation], found: Sequence[list[Finding]], comparison: Comparison | None) -> None:
    """Print the findings of each stream, worst first, and the difference between two ways."""
    console = Console(soft_wrap=True, highlight=False)
    for seen, findings in zip(both, found, strict=True):
        console.print(Text(seen.url, "bold"))
        console.print(Text(summary(seen)))
        if is_healthy(findings):
            console.print(Text("Nothing is wrong with this stream.", "green"))
        for finding in findings:
            console.print(_as_text(finding))
        console.print()
    if comparison is not None:
        console.print(_compared(comparison))


def _as_text(finding: Finding) -> Text:
    text = Text.assemble(
        "\n", (f"{finding.severity.name.lower()}: ", _COLOURS[finding.severity]), (finding.what, "bold"),
        f"\n  evidence: {finding.evidence}",
    )  # fmt: skip
    if finding.culprit:
        text.append(f"\n  culprit:  {finding.culprit}")
    text.append(f"\n  remedy, {finding.remedy.where}:")
    for line in finding.remedy.line.split("\n"):
        text.append(f"\n      {line}", "green")
    return text


def _compared(comparison: Comparison) -> Text:
    text = Text.assemble(("The second way, compared with the first: ", "bold"), comparison.hop)
    names = ", ".join(finding.name for finding in comparison.added)
    text.append(f"\n  adds: {names or 'no fault'}")
    for label, seconds in (("first byte", comparison.first_byte_later), ("each event", comparison.events_later)):
        if seconds is not None:
            text.append(f"\n  {label}: {seconds:+.2f} s")
    for header in comparison.changed_headers:
        text.append(f"\n  {header}")
    return text
