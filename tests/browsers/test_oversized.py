"""One event of 1, 10 and 50 MB in Chromium, WebKit and Firefox, on one line, folded and in fragments: what arrives is what was
sent. Every reading has a deadline, after which it is late, and so no whole one, and its browser is killed.

``--log-cli-level=INFO`` shows how long things took.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from itertools import product

import pytest

from benchmarks.readers.harness import WAYS, Page, Server, Verdict, page_reader, serving

from .driving import ENGINES

pytestmark = [pytest.mark.live, pytest.mark.timeout(300)]  # a browser may be slow to start

WITHIN = 60.0  # seconds; most take less than one
SIZES = (1, 10, 50)  # MB

_log = logging.getLogger(__name__)


@pytest.fixture(scope="module")
def sender(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with serving(tmp_path_factory.mktemp("gunicorn")) as server:
        yield server


@pytest.fixture(scope="module", params=ENGINES)
def reader(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Page]:
    """A browser that this module may kill."""
    engine = ENGINES[request.param]
    missing = engine.missing()
    if missing:
        reason = f"no {', '.join(missing)}: {engine.remedy}"
        if os.environ.get("SSEMIDDLEWARE_REQUIRE_BROWSERS"):
            pytest.fail(reason)
        pytest.skip(reason)
    with page_reader(request.param, tmp_path_factory.mktemp(request.param)) as page:
        yield page


def milliseconds_of(sender: Server, reader: Page, way: str, kind: str, size: int) -> float:
    """Return how long it took for an event of *size* MB to arrive whole."""
    reading = sender.ask(reader, way, kind, size * 1_000_000, within=WITHIN)
    assert reading.verdict is Verdict.WHOLE, reading
    _log.info("%s, %d MB, %s: %.0f ms", reader.name, size, way, reading.milliseconds)
    return reading.milliseconds


# WebKit takes quadratic time for one line: 5 seconds for 10 MB, minutes for 50.
CASES = [case for case in product(ENGINES, WAYS, SIZES) if case not in {("webkit", "plain", 10), ("webkit", "plain", 50)}]
IDS = [f"{engine}, {way}, {size} MB" for engine, way, size in CASES]


@pytest.mark.parametrize(("reader", "way", "size"), CASES, ids=IDS, indirect=["reader"])
def test_a_large_event_arrives_whole(sender: Server, reader: Page, way: str, size: int) -> None:
    milliseconds_of(sender, reader, way, "orders", size)


@pytest.mark.parametrize("way", ["fold", "fragment"])
def test_every_character_and_escape_arrives(sender: Server, reader: Page, way: str) -> None:
    milliseconds_of(sender, reader, way, "texts", 1)


def test_one_long_string_arrives_in_fragments(sender: Server, reader: Page) -> None:
    milliseconds_of(sender, reader, "fragment", "image", 10)


@pytest.mark.parametrize("way", ["fold", "fragment"])
@pytest.mark.parametrize("reader", ["webkit"], indirect=True)
def test_webkit_takes_linear_time(sender: Server, reader: Page, way: str) -> None:
    least = {size: min(milliseconds_of(sender, reader, way, "orders", size) for _ in range(3)) for size in (10, 40)}
    assert least[40] < 10 * least[10]  # linear would be 4 times as long, quadratic 16 times
