"""The bytes that arrive are the bytes that the application yielded, and our comments."""

from __future__ import annotations

import re

import pytest

from .applications import app
from .client import Headers
from .conftest import Pool
from .serving import CLIENTS, GUNICORNS, UNANNOUNCED, Kind, Server
from .steps import Step, event, half_an_event, large_event, large_event_bytes, repeat

pytestmark = pytest.mark.live

SMALL = b"data: small\n\n"


def shape(name: str, step: Step, expected: bytes) -> object:
    return pytest.param(step, expected, id=name)


SHAPES = [
    shape("small events", repeat(event("small"), times=20_000), SMALL * 20_000),
    *(
        shape(
            f"{times} x {size // 1000} kB in {'many lines' if many_lines else 'one line'}",
            repeat(large_event(size, many_lines=many_lines), times=times),
            large_event_bytes(size, many_lines=many_lines) * times,
        )
        for size, times in ((200_000, 50), (10_000_000, 1))
        for many_lines in (True, False)
    ),
]


def without_comments(body: bytes) -> bytes:
    return re.sub(rb"(?m)^:\n", b"", body)


@pytest.mark.parametrize("path", CLIENTS)
@pytest.mark.parametrize(("step", "expected"), SHAPES)
def test_what_arrives_is_what_was_yielded(server: Server, path: Headers, step: Step, expected: bytes) -> None:
    connection = server.open(step, headers=path)
    body = connection.read_to_end(within=60)
    assert connection.ended == "cleanly"
    restored = body if path is UNANNOUNCED else without_comments(body)
    assert (len(restored), restored == expected) == (len(expected), True)  # pytest would show the difference for minutes
    if connection.header("Transfer-Encoding") == "chunked":
        assert max(len(arrival.block) for arrival in connection.arrivals) <= app.options.max_block


@pytest.mark.parametrize("path", CLIENTS)
@pytest.mark.parametrize("kind", GUNICORNS, ids=str)
def test_each_block_is_sent_as_it_was_yielded(kind: Kind, path: Headers, pool: Pool) -> None:
    connection = pool.get(kind).open(
        repeat(event("small"), times=2000), half_an_event("a half"), " and another\n", "\n", headers=path
    )
    connection.read_to_end(within=60)
    blocks = [arrival.block for arrival in connection.arrivals if arrival.block != b":\n"]  # gunicorn makes each a chunk
    assert blocks == [SMALL] * 2000 + [b"data: a half", b" and another\n", b"\n"]
