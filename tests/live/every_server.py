"""The table of docs/servers.md: its servers, its facts, and what each cell has to be. `test_every_server` measures it."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from fnmatch import fnmatch
from importlib.metadata import PackageNotFoundError, version
from typing import Literal

from . import under_apache, under_express
from .serving import (
    WAITRESS,
    WERKZEUG,
    WSGIREF,
    Kind,
    cheroot,
    flask_run,
    granian,
    gunicorn,
    hypercorn,
    mod_wsgi,
    mod_wsgi_express,
    runserver,
    simple,
    uvicorn,
    uwsgi,
    uwsgi_behind_nginx,
    waitress,
)  # fmt: skip

AT_ONCE, HEARTBEATS, SEEN, CLOSED = "events at once", "heartbeats in silence", "disconnect seen", "`close()` when it yields"
HEAD, TRUNCATED, AGAIN = "HEAD", "truncated shows", "connection used again"
AT_STOP, ANSWER = "EventSource at a stop", "answer at a stop"
FACTS = (AT_ONCE, HEARTBEATS, SEEN, CLOSED, AT_STOP, ANSWER, HEAD, TRUNCATED, AGAIN)

PACKAGES = (
    *("gunicorn", "gevent", "uvicorn", "uvicorn-worker", "uvloop", "a2wsgi", "hypercorn", "waitress", "cheroot", "werkzeug"),
    *("Flask", "Django", "pyuwsgi", "granian"),
)

WSGI = "live.applications:app_with_a_heartbeat_a_second"
ASGI = "live.asgi:bridged_with_a_heartbeat_a_second"

Stop = Literal["SIGTERM", "SIGHUP", "max-requests", "handler"]  # the last: see test_stop_recipes


LOOKAHEAD = waitress("--threads=10", "--channel-request-lookahead=1", name="waitress, lookahead")


@dataclass(frozen=True)
class Row:
    """A server with the wrapped application, and how it is stopped.

    *is_stopped_only*: all else is as in another row.
    """

    kind: Kind
    application: str = WSGI
    stop: Stop = "SIGTERM"
    is_stopped_only: bool = False

    def __str__(self) -> str:
        return self.kind.name

    @property
    def has_one_thread(self) -> bool:
        """Whether a stream is the only request at a time."""
        return self.kind.name.startswith(("gunicorn sync", "wsgiref")) or self.kind.name in ONE_THREAD


ONE_THREAD = {"uWSGI", "uWSGI --http", "uWSGI behind nginx", "gevent.pywsgi, not patched"}

_WORKERS = [
    ("sync", ("sync",), WSGI),
    ("gthread", ("gthread", "--threads=10"), WSGI),
    ("gevent", ("gevent",), WSGI),
    ("gevent_pywsgi", ("gevent_pywsgi",), WSGI),
    ("asgi, a2wsgi", ("asgi",), ASGI),
    ("uvicorn worker, a2wsgi", ("uvicorn_worker.UvicornWorker",), ASGI),
]


def _gunicorns() -> list[Row]:
    rows = []
    for name, (worker, *options), application in _WORKERS:
        for more in ((), ("--preload",), ("--reload",)):
            kind = gunicorn(worker, *options, *more, name=", ".join((f"gunicorn {name}", *more)))
            rows.append(Row(kind, application))
        for stop in ("SIGHUP", "max-requests") if name != "gevent_pywsgi" else ("SIGHUP",):  # it knows no --max-requests
            last = (f"--max-requests={1 if worker == 'sync' else 3}",) if stop == "max-requests" else ()
            kind = gunicorn(worker, *options, "--timeout=5", *last, name=f"gunicorn {name}, {stop}")
            rows.append(Row(kind, application, stop, is_stopped_only=True))
    return rows


def _uwsgis() -> list[Row]:
    rows = []
    for threads in ((), ("--threads=10",)):
        with_threads = " with threads" if threads else ""
        rows += [
            Row(uwsgi("--http-socket", *threads, name=f"uWSGI{with_threads}")),
            Row(uwsgi("--http", *threads, name=f"uWSGI --http{with_threads}")),
            Row(uwsgi_behind_nginx(*threads, name=f"uWSGI behind nginx{with_threads}")),
        ]
    return [*rows, Row(uwsgi("--http-socket", "--gevent=100", "--gevent-monkey-patch", name="uWSGI --gevent"))]


ROWS = [
    *_gunicorns(),
    Row(uvicorn("--loop=uvloop", grace=5, name="uvicorn (uvloop), a2wsgi"), ASGI),
    Row(uvicorn("--loop=asyncio", grace=5, name="uvicorn (asyncio), a2wsgi"), ASGI),
    Row(hypercorn(grace=5, name="hypercorn, a2wsgi"), ASGI),
    Row(hypercorn(grace=5, name="hypercorn's WSGI mode"), f"wsgi:{WSGI}"),
    Row(WAITRESS, stop="handler"),
    Row(LOOKAHEAD, stop="handler"),
    Row(cheroot(), stop="handler"),
    Row(WERKZEUG, stop="handler"),
    Row(flask_run(), "live.development_servers:flask", "handler"),
    Row(WSGIREF, stop="handler"),
    Row(runserver(), "live.development_servers", "handler"),
    Row(simple("pywsgi"), stop="handler"),
    Row(simple("unpatched pywsgi")),
    *_uwsgis(),
    Row(granian()),
    Row(mod_wsgi()),
    Row(mod_wsgi_express("--request-timeout=0")),
]

# What is not "yes" in the table.
EXCEPTIONS: dict[str, dict[str, list[str]]] = {  # by fact and word, the patterns of the names
    HEARTBEATS: {"no": ["hypercorn's WSGI mode", "gevent.pywsgi, not patched", "uWSGI --gevent", "granian", "mod_wsgi*"]},
    SEEN: {"no": ["hypercorn, a2wsgi", "granian", "mod_wsgi*"]},
    CLOSED: {"no": ["hypercorn, a2wsgi"]},
    AT_STOP: {"cut": ["hypercorn, a2wsgi", "uWSGI*", "mod_wsgi*", "gevent.pywsgi, not patched"], "goes on": ["granian"]},
    ANSWER: {"cut": ["uWSGI*", "mod_wsgi*", "gevent.pywsgi, not patched"]},
    HEAD: {"a last chunk": ["gunicorn gevent_pywsgi*", "waitress*", "gevent.pywsgi*"]},
    TRUNCATED: {
        "HTTP/1.1": ["gunicorn asgi*", "hypercorn*", "waitress*", "granian"],
        "no": ["runserver", "uWSGI --http*", "uWSGI behind nginx*", "mod_wsgi*"],
    },
    AGAIN: {
        "yes": ["uWSGI behind nginx*"],
        "closes": ["gunicorn sync*", "waitress*", "werkzeug", "flask run", "wsgiref", "runserver", "uWSGI*"],
    },
}


def expected(fact: str, row: Row) -> str:
    """Return the word that a cell has to have."""
    if row.is_stopped_only and fact not in (AT_STOP, ANSWER):
        return ""
    words = EXCEPTIONS.get(fact, {})
    return next((word for word, names in words.items() if any(fnmatch(str(row), name) for name in names)), "yes")


def lines_of_table(cells: Mapping[str, Mapping[str, str]]) -> Iterator[str]:
    """Yield the versions and the lines of the table, in Markdown, as far as it is filled."""
    yield f"Measured with {', '.join(_versions())}."
    yield ""
    yield f"| server | {' | '.join(FACTS)} |"
    yield "|---" * (len(FACTS) + 1) + "|"
    for row in ROWS:
        filled = cells.get(str(row), {})
        if filled:
            yield f"| {row} | {' | '.join(filled.get(fact, '') for fact in FACTS)} |"


def _versions() -> Iterator[str]:
    for package in PACKAGES:
        with contextlib.suppress(PackageNotFoundError):
            yield f"{package} {version(package)}"
    if not under_apache.lacks():
        yield f"mod_wsgi {under_apache.version()} (Debian's)"
    if shutil.which(under_express.PROGRAM) is not None:
        yield f"mod_wsgi-express {under_express.version()}"
