"""The encoders: which there are, and what a stream costs."""

from __future__ import annotations

import random
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from ssemiddleware.compression import encoders, encoding_for, negotiation

from ..decompressing import decompressor_of

ENCODINGS = ["gzip", "zstd"]
ROOT = Path(__file__).parents[2]


def test_each_encoding_is_offered_and_gzip_is_preferred() -> None:
    assert list(encoders()) == ENCODINGS


@pytest.fixture
def no_zstd(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Make this a process where zstd is not installed."""
    caches = encoders, negotiation._encoding_for
    monkeypatch.setitem(sys.modules, "ssemiddleware.compression.zstd", None)
    for cached in caches:
        cached.cache_clear()
    yield
    for cached in caches:
        cached.cache_clear()


@pytest.mark.usefixtures("no_zstd")
def test_zstd_is_not_offered_where_it_is_not_installed() -> None:
    assert list(encoders()) == ["gzip"]
    assert [encoding_for(accepted) for accepted in ("zstd", "zstd, gzip;q=0.1", "*")] == ["", "gzip", "gzip"]


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_all_that_was_added_before_a_flush_can_be_decompressed(encoding: str) -> None:
    chosen = random.Random(1)
    encoder, decompressor, came, read = encoders()[encoding](), decompressor_of(encoding), b"", b""
    for size in (0, 1, 60, 10_000, 3, 200_000, 5):
        block = chosen.randbytes(size // 2).hex().encode()
        came += block
        read += decompressor.decompress(encoder.encode(block) + encoder.flush())
        assert read == came
    assert not decompressor.eof
    assert decompressor.decompress(encoder.encode(b"last") + encoder.finish()) == b"last"
    assert decompressor.eof


# In a process of its own: the memory of zstd's library is not Python's, so that only the process's tells.
MEMORY = """
from functools import partial
from benchmarks.compression import kilobytes_a_stream, lists, tokens, used

print(kilobytes_a_stream(partial(used, "%s"), [*list(tokens())[:50], next(lists())]))
"""


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_a_stream_takes_less_than_64_kb(encoding: str) -> None:
    command = [sys.executable, "-c", MEMORY % encoding]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60, cwd=ROOT)
    assert 10 < float(done.stdout) < 64
