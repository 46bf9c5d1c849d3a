"""A client that never reads: the application waits, and little is read ahead of the client."""

from __future__ import annotations

import re
import time
from typing import NamedTuple

import pytest

from .applications import app
from .client import Headers
from .conftest import BARE, WRAPPED, Start
from .serving import ALL_SERVERS, ANNOUNCED, GTHREAD, UNANNOUNCED, Kind, Server, play_target
from .steps import event, large_event, repeat, say_how_much

pytestmark = pytest.mark.live

BLOCK = 65536
OFFERED = 200_000_000
AHEAD = app.options.max_block  # the block that the server is sending
NOISE = 2 * BLOCK  # what the kernel buffers may differ by; for the bare application it was nothing in 18 measurements
MEMORY = 1_000_000  # bytes, the promise

# Waitress' own memory grew by 5.4 to 8.3 MB in as many runs on a busy machine, where a server may also pause before it is full.
TRIES = 3


class Held(NamedTuple):
    """What a client that never reads makes a server hold, in bytes."""

    yielded: int  # by the application: most of it is in the kernel's buffers
    grown: int  # resident memory


@pytest.mark.parametrize(
    ("kind", "path"),
    [
        *(pytest.param(kind, ANNOUNCED, id=f"{kind}, announced") for kind in ALL_SERVERS),
        pytest.param(GTHREAD, UNANNOUNCED, id=f"{GTHREAD}, unannounced"),
    ],
)
def test_a_client_that_never_reads_makes_the_application_wait(kind: Kind, path: Headers, serve: Start) -> None:
    bare, wrapped = [], []
    for _ in range(TRIES):
        bare.append(hold(serve(kind, BARE), path))
        wrapped.append(hold(serve(kind, WRAPPED), path))
        is_little_ahead = min(held.yielded for held in wrapped) <= max(held.yielded for held in bare) + AHEAD + NOISE
        if is_little_ahead and min(held.grown for held in wrapped) <= max(held.grown for held in bare) + MEMORY:
            return
    raise AssertionError(f"{wrapped}, and not {AHEAD + NOISE} bytes and {MEMORY} bytes of memory more than {bare}")


def hold(server: Server, path: Headers) -> Held:
    """Offer 200 MB to a client that never reads, until the application is asked for no more."""
    server.get(play_target(event("warm")), path)
    worker = server.worker()
    before = worker.memory_info().rss
    steps = repeat(large_event(BLOCK, many_lines=True), say_how_much(), times=OFFERED // BLOCK)
    server.connect(receive_buffer=BLOCK).send("GET", play_target(steps), path)
    yielded = standstill(server)
    return Held(yielded, worker.memory_info().rss - before)


def standstill(server: Server) -> int:
    """Return how much the application has yielded, once that has not changed for a while."""
    yielded, since = 0, time.monotonic()
    while time.monotonic() - since < 1:
        now = re.findall(r"yielded ([0-9]+)\n", server.output_once("yielded [0-9]+\n"))[-1]
        if int(now) != yielded:
            yielded, since = int(now), time.monotonic()
        time.sleep(0.05)
    return yielded
