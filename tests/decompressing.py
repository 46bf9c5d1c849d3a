"""Decompressors of the encodings that the middleware offers, as clients have them."""

from __future__ import annotations

import zlib
from typing import Protocol

from ssemiddleware.compression.zstd import zstd


class Decompressor(Protocol):
    """Decompresses one body. After its end, what else comes is *unused_data*."""

    def decompress(self, data: bytes, /) -> bytes: ...

    @property
    def eof(self) -> bool: ...

    @property
    def unused_data(self) -> bytes: ...


def decompressor_of(encoding: str) -> Decompressor:
    """Return a new one."""
    return zstd.ZstdDecompressor() if encoding == "zstd" else zlib.decompressobj(wbits=31)
