"""``python -m ssemiddleware doctor URL``: watch a stream, and say what is wrong with it and what cures it."""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict

from ..doctor import Comparison, Finding, Observation, compare, diagnose, is_healthy, summary
from . import watching


def add_to(parser: argparse.ArgumentParser) -> None:
    """Describe the command's arguments."""
    parser.add_argument("url", metavar="URL", help="the stream to watch")
    parser.add_argument(
        "--through", metavar="URL2", help="another URL of the same stream, to compare the two: through the proxy, for example"
    )
    parser.add_argument(
        "--for", dest="seconds", metavar="SECONDS", type=float, default=75.0,
        help="how long to watch; Ctrl-C reports earlier (default: %(default)g, since most proxies cut after 60 s of silence)",
    )  # fmt: skip
    parser.add_argument("--origin", help="the origin of the page that reads the stream, if that is another one (CORS)")
    parser.add_argument(
        "--header", metavar="'NAME: VALUE'", dest="headers", type=_header, action="append", default=[],
        help="an additional header, such as a session's Cookie; may be repeated",
    )  # fmt: skip
    parser.add_argument("--json", action="store_true", help="print JSON, and show nothing while it watches")
    parser.set_defaults(run=run)


def _header(text: str) -> tuple[str, str]:
    name, colon, value = text.partition(":")
    if not (name.strip() and colon):
        raise argparse.ArgumentTypeError(f"must be 'NAME: VALUE', got {text!r}")
    return name.strip(), value.strip()


def run(options: argparse.Namespace) -> int:
    """Print the report; return 0 for a healthy stream, 1 if something is wrong, and 2 without a connection."""
    watching.require_extra("httpx", "rich")
    both = [Observation(url, origin=options.origin) for url in (options.url, options.through) if url is not None]
    stop = asyncio.Event()
    try:
        watching.run(_watch(both, options, stop), stop)
    except watching.Unreachable as error:
        print(json.dumps({"error": str(error)}) if options.json else error, file=sys.stdout if options.json else sys.stderr)
        return 2
    found = [diagnose(seen) for seen in both]
    comparison = compare(*both) if options.through is not None else None
    if options.json:
        print(json.dumps(_as_json(both, found, comparison), indent=2))
    else:
        from .report import print_report

        print_report(both, found, comparison)
    return 0 if all(map(is_healthy, found)) else 1


async def _watch(both: Sequence[Observation], options: argparse.Namespace, stop: asyncio.Event) -> None:
    watches = [watching.watch(seen, seconds=options.seconds, stop=stop, headers=options.headers) for seen in both]
    display = None
    if not options.json and sys.stderr.isatty():
        from .report import show_live

        display = asyncio.ensure_future(show_live(both))
    try:
        await asyncio.gather(*watches)
    finally:
        if display is not None:
            display.cancel()
    for seen in both:
        await watching.ask_front(seen)
        if not stop.is_set():
            await watching.ask_more(seen, stop=stop, headers=options.headers)


def _as_json(both: Sequence[Observation], found: Sequence[list[Finding]], comparison: Comparison | None) -> dict[str, object]:
    first, *second = [
        {
            "url": seen.url,
            "healthy": is_healthy(findings),
            "summary": summary(seen),
            "findings": [_finding(finding) for finding in findings],
        }
        for seen, findings in zip(both, found, strict=True)
    ]
    if comparison is None:
        return first
    return {**first, "through": second[0], "comparison": {**asdict(comparison), "added": [*map(_finding, comparison.added)]}}


def _finding(finding: Finding) -> dict[str, object]:
    return {**finding._asdict(), "severity": finding.severity.name.lower(), "remedy": finding.remedy._asdict()}
