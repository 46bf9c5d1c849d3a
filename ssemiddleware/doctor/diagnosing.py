"""All findings of one stream, and its summary."""

from __future__ import annotations

from collections.abc import Iterable
from statistics import median

from .content import check_content
from .findings import Finding, Severity
from .headers import check_headers
from .observation import Observation
from .timing import check_timing


def diagnose(seen: Observation) -> list[Finding]:
    """Return what is wrong with the stream, worst first. Notes are no faults, and come last."""
    found = [*check_headers(seen)]
    if all(finding.name not in ("status", "type", "no-answer") for finding in found):
        found += [*check_timing(seen), *check_content(seen)]
    return sorted(found, key=lambda finding: -finding.severity)


def is_healthy(findings: Iterable[Finding]) -> bool:
    """Return whether there are no findings, or only notes."""
    return all(finding.severity is Severity.NOTE for finding in findings)


def summary(seen: Observation) -> str:
    """Return in one line what arrived."""
    parts = [seen.http_version, str(seen.status)] if seen.status is not None else ["no headers"]
    if seen.headers_at is not None:
        parts.append(f"headers after {seen.headers_at:.2f} s")
    if seen.arrivals:
        parts.append(f"first byte after {seen.arrivals[0].at:.2f} s")
    if seen.events:
        parts.append(f"first event after {seen.events[0].at:.2f} s")
    parts += [
        f"{len(seen.events)} event{'s' * (len(seen.events) != 1)}",
        f"{seen.received} bytes",
        f"{seen.ended} after {seen.ended_at:.1f} s",
    ]
    if seen.clock_ahead is not None and seen.delays:
        parts.append(f"delay {median(seen.delays) * 1000:.0f} ms (median), {max(seen.delays) * 1000:.0f} ms (largest)")
    if seen.cadence:
        parts.append(f"an event each {median(seen.cadence):.2f} s (median), {max(seen.cadence):.2f} s at most")
    return ", ".join(parts)
