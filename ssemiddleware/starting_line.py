"""The log lines with the first stream of a process: what the middleware knows of the server, and what will cause trouble.

>>> from ssemiddleware.servers.server import Server
>>> [(level, line)] = starting_lines(Server({}), threads=8, limit=6, heartbeat=15.0)
>>> line.split("; ")[0]
'event streams under an unknown server: a disconnect is detected when the next block is sent'
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from typing import TYPE_CHECKING

from .servers.polling import CAN_POLL

if TYPE_CHECKING:
    from .servers.server import Server


_log = logging.getLogger("ssemiddleware")
_logged: dict[int, object] = {}  # by process id: the object of the first call


def log_once(server: Server, *, threads: int | None, limit: int | None, heartbeat: float | None) -> None:
    """Log `starting_lines` once for each process, since an application may have several middlewares. From any thread."""
    first = object()
    if _logged.setdefault(os.getpid(), first) is first:
        for level, line in starting_lines(server, threads=threads, limit=limit, heartbeat=heartbeat):
            _log.log(level, line)


def starting_lines(
    server: Server, *, threads: int | None, limit: int | None, heartbeat: float | None
) -> Iterator[tuple[int, str]]:
    """Yield each line with its level: one at INFO, and one at WARNING for each thing that will cause trouble, with its remedy.

    *threads*: of the server, *limit*: of open streams; each is None if there is no such number. *heartbeat*: seconds, or None
    for no heartbeats. To be called on the server's thread.
    """
    facts = (
        _disconnect(server),
        _heartbeats(server, heartbeat),
        _stop(server),
        _limit(threads, limit),
    )
    yield logging.INFO, f"event streams under {server.label}: {'; '.join(facts)}"
    yield from ((logging.WARNING, line) for line in _warnings(server, threads, heartbeat))


def _disconnect(server: Server) -> str:
    is_seen = CAN_POLL and server.connection() is not None
    return f"a disconnect is detected {'within half a second' if is_seen else 'when the next block is sent'}"


def _heartbeats(server: Server, heartbeat: float | None) -> str:
    if heartbeat is None:
        return "no heartbeats (heartbeat=None)"
    return (
        f"heartbeats after {heartbeat:g} s of silence" if server.has_writer else "no heartbeats while the application is silent"
    )


def _stop(server: Server) -> str:
    if server.stop_sign() is None:
        return "a stop of the server is not detected, so call drain() before the process ends"
    return "a stop of the server is detected, and streams are ended in time"


def _limit(threads: int | None, limit: int | None) -> str:
    of_threads = "" if threads is None else f", with {threads} thread{'s' * (threads > 1)}"
    if limit is None:
        return f"any number of streams{of_threads} (max_streams= sets a limit)"
    return f"at most {limit} stream{'s' * (limit > 1)} at a time{of_threads} (max_streams= sets another number)"


def _warnings(server: Server, threads: int | None, heartbeat: float | None) -> Iterator[str]:
    if threads == 1:
        yield f"an event stream takes the only thread of this process, so other requests wait: {server.more_threads}"
    if server.name and heartbeat is not None and not server.has_writer:
        yield f"no heartbeats while the application is silent: {server.why_no_writer}. {server.how_to_heartbeat}"
