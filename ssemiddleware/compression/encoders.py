"""The option that turns compression on, and the encoders.

>>> next(iter(encoders()))
'gzip'
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from typing import Protocol

from .gzip import GzipEncoder


@dataclass(frozen=True, slots=True)
class Compress:
    """Compress event streams with gzip or zstd for clients that accept one of them, and flush each event at its end.

    A client gets gzip, as all browsers do, unless it prefers zstd or accepts no gzip. zstd needs Python 3.14, or the extra
    ``compress``. A stream takes 41 KB more with gzip, and 61 KB with zstd. Do not compress a secret together with text that
    somebody else can choose (BREACH): see docs/compression.md.
    """


class Encoder(Protocol):
    """Compresses one body. Not for two threads."""

    def encode(self, block: bytes, /) -> bytes:
        """Add *block*, and return the compressed bytes that are ready, maybe none."""

    def flush(self) -> bytes:
        """Return the rest of what was added, so that a reader can decompress all of it."""

    def finish(self) -> bytes:
        """Return the rest of what was added, and the end of the body."""


@cache
def encoders() -> dict[str, type[Encoder]]:
    """Return the encoders that are installed, by their encodings. The one that we prefer is the first.

    gzip needs the fewest bytes and the least memory. brotli is not offered: settings that compress small events take 280 KB a
    stream or more. See benchmarks/compression.py.
    """
    installed: dict[str, type[Encoder]] = {"gzip": GzipEncoder}
    with suppress(ImportError):
        from .zstd import ZstdEncoder

        installed["zstd"] = ZstdEncoder
    return installed
