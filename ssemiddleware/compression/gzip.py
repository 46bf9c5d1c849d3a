"""The encoder for gzip.

>>> encoder = GzipEncoder()
>>> sent = encoder.encode(b"data: 1") + encoder.flush()
>>> zlib.decompressobj(wbits=31).decompress(sent)
b'data: 1'
"""

from __future__ import annotations

import zlib

# See benchmarks/compression.py: a stream takes 41 KB with a window of 4 KiB, and 164 KB with zlib's default of 32 KiB.
LEVEL = 6
WINDOW_BITS = 12
MEMORY_LEVEL = 5
_GZIP = 16  # added to the window's bits, it asks for gzip's header and trailer


class GzipEncoder:
    """Compresses one body, for ``Content-Encoding: gzip``. Not for two threads."""

    __slots__ = ("_compressor",)

    def __init__(self) -> None:
        self._compressor = zlib.compressobj(LEVEL, zlib.DEFLATED, _GZIP + WINDOW_BITS, MEMORY_LEVEL)

    def encode(self, block: bytes) -> bytes:
        """Add *block*, and return the compressed bytes that are ready, maybe none."""
        return self._compressor.compress(block)

    def flush(self) -> bytes:
        """Return the rest of what was added, so that a reader can decompress all of it."""
        return self._compressor.flush(zlib.Z_SYNC_FLUSH)

    def finish(self) -> bytes:
        """Return the rest of what was added, and the end of the body."""
        return self._compressor.flush(zlib.Z_FINISH)
