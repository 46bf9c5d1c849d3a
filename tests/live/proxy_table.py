"""The tables of docs/proxies.md: `make proxies` measures each configuration and writes its row, and the README's table."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from .proxies.configuration import Configuration

WRITE_TO = "SSEMIDDLEWARE_WRITE_PROXIES"  # names the document

Row = tuple[str, ...]


@dataclass(frozen=True)
class Table:
    """One of them, between two comments with its name."""

    name: str
    columns: tuple[str, ...]

    @property
    def head(self) -> Row:
        return ("proxy", "configuration", *self.columns)

    def rows_in(self, document: str) -> list[Row]:
        """Return the rows that stand in a document."""
        return [tuple(line.strip("| ").split(" | ")) for line in self._find(document)[0].splitlines()[2:]]

    def maybe_write(self, row: Row) -> None:
        """Put the row in place of that of the same configuration, or at the end, if that was asked for."""
        if WRITE_TO not in os.environ:
            return
        path = Path(os.environ[WRITE_TO])
        document = path.read_text(encoding="utf-8")
        rows = self.rows_in(document)
        places = [place for place, other in enumerate(rows) if key_of(other) == key_of(row)]
        rows[slice(places[0], places[0] + 1) if places else slice(len(rows), None)] = [row]
        lines = [as_line(each) for each in (self.head, ("---",) * len(self.head), *rows)]
        found = self._find(document)
        document = document[: found.start()] + "\n".join(lines) + document[found.end() :]
        path.write_text(document, encoding="utf-8")
        write_summary(document, path.parents[1] / "README.md")

    def _find(self, document: str) -> re.Match[str]:
        begin, end = f"<!-- {self.name}: begin -->\n\n", f"\n\n<!-- {self.name}: end -->"
        found = re.search(f"(?<={begin}).*?(?={end})", document, re.DOTALL)
        assert found is not None, self.name
        return found


THROUGH = Table(
    "proxies",
    (
        "headers",
        "first event",
        "largest delay",
        "idle",
        "large",
        "folded",
        "compressed",
        "replay",
        "disconnect",
        "refusal",
    ),
)
MINUTE = Table("a minute", ("80 s of silence", "disconnect, heartbeat=15", "disconnect, heartbeat=5", "restart"))


def row_of(configuration: Configuration, cells: Iterable[str]) -> Row:
    """Return the row of a configuration; one that is an example has a link to its file."""
    name = configuration.name
    linked = f"[{name}](../examples/proxies/{configuration.example})" if configuration.example else name
    return (f"{configuration.program.name} {configuration.program.installed_version()}", linked, *cells)


def as_line(row: Row) -> str:
    return f"| {' | '.join(row)} |"


def key_of(row: Row) -> tuple[str, str]:
    """Return what a row is of: the proxy, without its version, and the configuration."""
    return re.sub(r" [\d.]+$", "", row[0]), re.sub(r"^\[(.*)\]\(.*\)$", r"\1", row[1])


# -- the README's

# Of these the README shows the first configuration, which has no line for event streams.
SHOWN = ("nginx (Debian)", "Apache", "HAProxy", "Caddy (Debian)", "Varnish", "Squid", "lighttpd", "nghttpx", "Envoy")
SHOWN_OF_NODE = ("http-proxy-middleware", "http-proxy")
FACTS = (
    ("largest delay of an event", THROUGH, "largest delay"),
    ("80 s of silence", MINUTE, "80 s of silence"),
    ("a disconnect is seen after", MINUTE, "disconnect, heartbeat=15"),
)


def summary(document: str) -> str:
    """Return the README's table, a column for each proxy, made from the document's."""
    rows = [("", *map(short_name, first_of_each(THROUGH.rows_in(document)))), ("---",) * (1 + len(SHOWN + SHOWN_OF_NODE))]
    for label, table, column in FACTS:
        place = table.head.index(column)
        rows.append((label, *(row[place] for row in first_of_each(table.rows_in(document)).values())))
    return "\n".join(map(as_line, rows))


def first_of_each(rows: Iterable[Row]) -> dict[str, Row]:
    """Return the first row of each proxy that is shown, by its name and version."""
    of_name: dict[str, Row] = {}
    for row in rows:
        of_name.setdefault(re.sub(r" [\d.]+(, Node .*)?$", "", row[0]), row)
    return {of_name[name][0]: of_name[name] for name in SHOWN + SHOWN_OF_NODE}


def short_name(name: str) -> str:
    return re.sub(r" \(Debian\)|, Node .*", "", name)


def write_summary(document: str, readme: Path) -> None:
    """Put the table in place of the README's, which begins with an empty cell and nginx."""
    text = readme.read_text(encoding="utf-8")
    readme.write_text(re.sub(r"\|  \| nginx .*?(?=\n\n)", lambda _: summary(document), text, flags=re.DOTALL), encoding="utf-8")
