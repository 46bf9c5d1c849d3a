"""What a large process can give back: `gc.collect()` and glibc's `malloc_trim(0)`, each alone, after a worker freed much.

16 clients at a time have read events of 1 to 8 MB, each new, and half of them are in the middle of another one, as when memory
is low. How much ``gc.collect()`` frees depends on the application, so one is measured that makes no cycles, and one whose
every event is part of one.
"""

from __future__ import annotations

import gc
import json
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from functools import partial
from itertools import product
from statistics import median
from typing import TYPE_CHECKING, NamedTuple

import psutil

from ssemiddleware import SSEMiddleware
from ssemiddleware.memory import give_back_memory

from .applications import bare as other_answers
from .reading import answer_of, connect, new_landing, read_stream, request
from .results import Effort, Outcome, number, table
from .serving import gunicorn
from .shapes import orders

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIEnvironment

CLIENTS = 16
_MEGABYTE = 1_000_000
_READ_OF_THE_LAST = 1_000_000  # bytes

WAYS: dict[str, Callable[[], object]] = {"gc.collect()": gc.collect, "malloc_trim(0)": give_back_memory}
KINDS = {"plain": "no cycles", "cycles": "each event in a cycle"}


REMARK = """The governor calls `malloc_trim(0)`, at most once a second, without the GIL. It leaves `gc.collect()` out, which
holds the GIL and runs the application's finalizers on our thread; what cycles hold, Python's own collector frees."""


# -- In the worker


def cycles(count: int, size: int) -> Iterator[bytes]:
    """Yield events each of which is held by a cycle of few objects, so that the collector seldom looks by itself."""
    for event in orders(count, size):
        document: dict[str, object] = {"event": event}
        document["itself"] = document
        yield event


def application(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    """Stream two events of 5 MB, ``/plain/5`` or ``/cycles/5``, or give back as ``/give-back/0`` says."""
    kind, _, rest = environ["PATH_INFO"].lstrip("/").partition("/")
    if kind == "give-back":
        answer = json.dumps(give_back(list(WAYS.values())[int(rest)])).encode()
        start_response("200 OK", [("Content-Type", "application/json"), ("Content-Length", str(len(answer)))])
        return [answer]
    if kind not in KINDS:
        return other_answers(environ, start_response)
    start_response("200 OK", [("Content-Type", "text/event-stream")])
    return (orders if kind == "plain" else cycles)(2, int(rest) * _MEGABYTE)


served = SSEMiddleware(application, max_streams=CLIENTS + 1)


def give_back(way: Callable[[], object]) -> tuple[int, float]:
    """Return the resident bytes that *way* gave back, and the milliseconds of a core that it took."""
    process = psutil.Process()
    before, began = process.memory_info().rss, time.thread_time()
    way()
    took = time.thread_time() - began
    return before - process.memory_info().rss, 1000 * took


# -- Outside of it


class Given(NamedTuple):
    """What was given back, in bytes, and in how many milliseconds of a core."""

    size: int
    milliseconds: float


def measure(effort: Effort) -> Outcome:
    """Measure each way on a new worker, with each kind of application."""
    taken = {
        (kind, way): [give_back_in_worker(kind, number, effort.pick(CLIENTS, 4)) for _ in range(effort.pick(3, 1))]
        for kind, (number, way) in product(KINDS, enumerate(WAYS))
    }
    headings = "application", "way", "given back", "lowest to highest turn", "of a core"
    rows = [row(KINDS[kind], way, turns) for (kind, way), turns in taken.items()]
    title = f"Memory that a gthread worker gives back, {CLIENTS} clients, events of 1 to 8 MB"
    return Outcome(title, notes=[table(headings, rows), REMARK])


def row(kind: str, way: str, turns: list[Given]) -> tuple[str, ...]:
    """Return a row of the table, in MB."""
    sizes = [turn.size / 1e6 for turn in turns]
    typical = f"**{number(median(sizes))} MB**"
    milliseconds = number(median(turn.milliseconds for turn in turns))
    return kind, f"`{way}`", typical, f"{number(min(sizes))} to {number(max(sizes))}", f"{milliseconds} ms"


def give_back_in_worker(kind: str, way: int, clients: int) -> Given:
    """Load a new worker as the module says, and have it give back."""
    with gunicorn("gthread", threads=32, application="give_back:served") as server, ExitStack() as streams:
        with ThreadPoolExecutor(clients) as threads:
            list(threads.map(partial(read_both, server.port, kind), range(clients)))
        for client in range(clients // 2):
            connection = streams.enter_context(connect(server.port, receive_buffer=65536))
            connection.sendall(request(path(kind, client), announced=True))
            received = 0
            while received < _READ_OF_THE_LAST:
                received += len(connection.recv(65536))
        time.sleep(1.0)  # until those who read have what the kernel holds for them
        return Given(*json.loads(answer_of(server.port, f"/give-back/{way}")))


def path(kind: str, client: int) -> str:
    """Return what that client asks for."""
    return f"/{kind}/{client % 8 + 1}"


def read_both(port: int, kind: str, client: int) -> None:
    """Read both events of a client."""
    read_stream(port, path(kind, client), new_landing(17 * _MEGABYTE), announced=True)
