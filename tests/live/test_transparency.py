"""Layers of others outside of the middleware: nothing is written behind the back of one that changes what passes through it."""

from __future__ import annotations

import re
import zlib

import pytest

from .applications import HEARTBEAT
from .client import Headers
from .conftest import Pool
from .layers import LENGTH
from .serving import ANNOUNCED, EVENT_SOURCE, GEVENT, GTHREAD, Kind, Server
from .steps import event, pause, repeat

pytestmark = [pytest.mark.live, pytest.mark.parametrize("kind", [GTHREAD, GEVENT], ids=str)]

EVENTS = b"data: one\n\ndata: two\n\n"
SILENT = pause(3 * HEARTBEAT), event("one"), pause(4 * HEARTBEAT), event("two")
NO_HEARTBEATS = re.compile(rb"(:\n)?" + EVENTS)


def read(server: Server, headers: Headers) -> bytes:
    connection = server.open(*SILENT, headers=headers)
    body = connection.read_to_end()
    assert connection.status == 200
    assert connection.ended == "cleanly"
    return body


to_both = pytest.mark.parametrize(
    "headers", [pytest.param(EVENT_SOURCE, id="EventSource"), pytest.param(ANNOUNCED, id="announced")]
)


@to_both
@pytest.mark.parametrize("layer", ["gzip", "gzip_that_holds", "gzip_in_secret"])
def test_nothing_stands_inside_or_in_front_of_what_is_compressed_outside(
    kind: Kind, layer: str, headers: Headers, pool: Pool
) -> None:
    body = read(pool.get(kind, f"live.layers:{layer}"), headers)
    decompressor = zlib.decompressobj(wbits=31)
    assert NO_HEARTBEATS.fullmatch(decompressor.decompress(body) + decompressor.flush())
    assert (decompressor.eof, decompressor.unused_data) == (True, b"")


@to_both
@pytest.mark.parametrize("layer", ["upper_case", "mapped"])
def test_nothing_goes_around_a_layer_that_rewrites(kind: Kind, layer: str, headers: Headers, pool: Pool) -> None:
    server = pool.get(kind, f"live.layers:{layer}")
    assert re.fullmatch(rb"(:\n)?" + EVENTS.upper(), read(server, headers))
    burst = server.open(repeat(event("small"), times=40), pause(2 * HEARTBEAT), event("last"), headers=headers).read_to_end()
    assert burst.removeprefix(b":\n") == b"DATA: SMALL\n\n" * 40 + b"DATA: LAST\n\n"


@to_both
@pytest.mark.parametrize("layer", ["crlf", "mapped_to_crlf"])
def test_no_line_goes_around_a_layer_that_writes_other_line_ends(kind: Kind, layer: str, headers: Headers, pool: Pool) -> None:
    assert re.fullmatch(rb"(:\r\n)?" + EVENTS.replace(b"\n", b"\r\n"), read(pool.get(kind, f"live.layers:{layer}"), headers))


@to_both
@pytest.mark.parametrize("layer", ["collecting", "with_length_late"])
def test_nothing_is_sent_before_a_layer_that_collects(kind: Kind, layer: str, headers: Headers, pool: Pool) -> None:
    connection = pool.get(kind, f"live.layers:{layer}").open(*SILENT, headers=headers)
    assert NO_HEARTBEATS.fullmatch(connection.read_to_end())
    assert connection.ended == "cleanly"
    assert connection.arrivals[0].at - connection.sent_at > 7 * HEARTBEAT


def test_a_length_from_outside_is_kept(kind: Kind, pool: Pool) -> None:
    connection = pool.get(kind, "live.layers:with_length").open(*SILENT, headers=ANNOUNCED)
    assert connection.read_to_end() == EVENTS
    assert (connection.header("Content-Length"), connection.ended) == (str(LENGTH), "cleanly")


@pytest.mark.parametrize(
    ("layer", "is_direct", "needs"),
    [
        pytest.param("proxy_fix", True, (), id="ProxyFix"),
        pytest.param("dispatcher", True, (), id="DispatcherMiddleware"),
        pytest.param("closing", False, (), id="ClosingIterator"),
        pytest.param("create_sentry()", False, ("sentry_sdk",), id="Sentry"),
        pytest.param("create_opentelemetry()", False, ("opentelemetry.instrumentation.wsgi",), id="OpenTelemetry"),
    ],
)
@to_both
def test_under_a_layer_that_changes_nothing_heartbeats_go_on(
    kind: Kind, layer: str, is_direct: bool, needs: tuple[str, ...], headers: Headers, pool: Pool
) -> None:
    for module in needs:
        pytest.importorskip(module)
    body = read(pool.get(kind, f"live.layers:{layer}"), headers)
    assert re.sub(rb"(?m)^:\n", b"", body) == EVENTS
    before, between = re.fullmatch(rb"((?::\n)*)data: one\n\n((?::\n)*)data: two\n\n", body, re.DOTALL).groups()  # type: ignore[union-attr]
    assert len(between) // 2 >= 2, body
    assert before or not (is_direct or headers is EVENT_SOURCE), body
