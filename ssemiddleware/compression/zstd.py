"""The encoder for zstd. Its import fails where zstd is not installed.

>>> encoder = ZstdEncoder()
>>> sent = encoder.encode(b"data: 1") + encoder.flush()
>>> zstd.ZstdDecompressor().decompress(sent)
b'data: 1'
"""

from __future__ import annotations

import sys

__all__ = ["ZstdEncoder", "zstd"]

if sys.version_info >= (3, 14):
    from compression import zstd  # the standard library's
else:
    from backports import zstd  # the same for older Pythons; zstandard has an interface of its own

# See benchmarks/compression.py: a stream takes 61 KB, and more than 64 KB with a longer chain or a window of 8 KiB.
_SETTINGS: dict[int, int] = {
    zstd.CompressionParameter.window_log: 12,
    zstd.CompressionParameter.hash_log: 9,
    zstd.CompressionParameter.chain_log: 10,
    zstd.CompressionParameter.search_log: 4,
    zstd.CompressionParameter.min_match: 4,
    zstd.CompressionParameter.strategy: zstd.Strategy.lazy,
}


class ZstdEncoder:
    """Compresses one body, for ``Content-Encoding: zstd`` (RFC 8878, 7.2). Not for two threads."""

    __slots__ = ("_compressor",)

    def __init__(self) -> None:
        self._compressor: zstd.ZstdCompressor = zstd.ZstdCompressor(options=_SETTINGS)

    def encode(self, block: bytes) -> bytes:
        """Add *block*, and return the compressed bytes that are ready, maybe none."""
        return self._compressor.compress(block)

    def flush(self) -> bytes:
        """Return the rest of what was added, so that a reader can decompress all of it."""
        return self._compressor.flush(zstd.ZstdCompressor.FLUSH_BLOCK)

    def finish(self) -> bytes:
        """Return the rest of what was added, and the end of the body."""
        return self._compressor.flush()
