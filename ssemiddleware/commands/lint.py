"""``python -m ssemiddleware lint FILE|URL``: print the mistakes in the bytes of an event stream."""

from __future__ import annotations

import argparse
import asyncio
import sys
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path

from ..doctor import Observation
from ..lint import Finding, lint
from . import watching

_SHOWN = 3  # findings of one kind
_AT_ONCE = 65536  # bytes


def add_to(parser: argparse.ArgumentParser) -> None:
    """Describe the command's arguments."""
    parser.add_argument("source", metavar="FILE|URL", help="a file, - for standard input, or the URL of a stream")
    parser.add_argument("--for", dest="seconds", type=float, default=30.0, help="seconds to watch a URL (default: %(default)g)")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Print the mistakes, also after Ctrl-C; return 0 if there are none, 1 if there are some, and 2 if nothing can be read."""
    shown: Counter[str] = Counter()
    try:
        for finding in _findings(options.source, options.seconds):
            shown[finding.mistake.name] += 1
            if shown[finding.mistake.name] <= _SHOWN:
                print(_as_text(options.source, finding))
    except (OSError, watching.Unreachable) as error:
        print(error, file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        pass
    for name, count in shown.items():
        if count > _SHOWN:
            print(f"{count - _SHOWN} more: {name}")
    print(f"{shown.total()} mistake{'s' * (shown.total() > 1)}" if shown else "No mistakes.")
    return 1 if shown else 0


def _findings(source: str, seconds: float) -> Iterable[Finding]:
    if source.startswith(("http://", "https://")):
        watching.require_extra("httpx")
        seen, stop = Observation(source), asyncio.Event()
        watching.run(watching.watch(seen, seconds=seconds, stop=stop), stop)
        return seen.mistakes
    return lint(sys.stdin.buffer if source == "-" else _blocks(source))


def _blocks(name: str) -> Iterator[bytes]:
    with Path(name).open("rb") as file:
        yield from iter(lambda: file.read(_AT_ONCE), b"")


def _as_text(source: str, finding: Finding) -> str:
    mistake, event, line, text = finding
    return (
        f"{source}:{line}: event {event}: {text!r}\n"
        f"    {mistake.what}\n    A browser: {mistake.browser}\n    The fix: {mistake.fix}\n"
    )
