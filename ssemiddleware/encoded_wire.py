r"""`EncodedWire`: a `Wire` whose bytes are compressed in the last step. Our own lines go through the same encoder.

A complete event is never held back: if an event ends in a block, everything is flushed after the block. The position of the
wire is that of the bytes before they are compressed.

>>> import zlib
>>> wire = EncodedWire(max_block=131072, encoding="gzip")
>>> zlib.decompressobj(wbits=31).decompress(b"".join(wire.feed(b"data: 1\n\ndata: 2\n\n")))
b'data: 1\n\ndata: 2\n\n'
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from .compression import Encoder, encoders
from .wire import Wire

# The watcher writes at most 64 bytes. So it writes a line of ours only if the line and the unflushed bytes before it are no
# more than this together. With gzip, bytes that cannot be compressed grow by 11 (a stored block, and the flush), and the header
# has 10. With zstd they grow by 3, and the header has 6.
_MOST_OF_OURS = 40


class EncodedWire(Wire):
    """A wire that compresses with its *encoding*, for a body that nothing has encoded before."""

    # The values at a stream's beginning. They make an instance need a dict, which is small beside the encoder's window.
    _maybe_encoder: Encoder | None = None  # None before the first byte: the answer to a HEAD has none
    _waiting = b""  # a compressed line of ours that is not written yet: it is sent before anything else
    _unflushed = 0  # bytes that a reader may not be able to decompress yet
    _is_flush_due = False  # an event has ended since the last flush

    @property
    def is_quick(self) -> bool:
        """False: no block is sent unchanged."""
        return False

    @property
    def is_joinable(self) -> bool:
        """Whether blocks of whole events, one after the other, may be sent as one: they are flushed once."""
        return super().is_quick

    def join(self, blocks: Sequence[bytes]) -> bytes:
        """Count *blocks* of whole events and return what is sent in their place: 100 bytes more than they have, at most."""
        self.carried.blocks_in += len(blocks) - 1
        return b"".join(self.feed(b"".join(blocks)))

    def feed(self, block: bytes) -> Iterator[bytes]:
        """Yield what may be sent after *block*, maybe nothing. To be exhausted before the next call."""
        return self._send_encoded(super().feed(block))

    def finish(self) -> Iterator[bytes]:
        """Yield what is still held at the stream's end, except what `end` returns."""
        return self._send_encoded(super().finish())

    def end(self, line: bytes = b"") -> bytes:
        """Return the last bytes of the body, with a *line* of ours in front, if there is one."""
        return self._counted(self._taken() + self._encode(line) + self._flushed(self._encoder.finish()))

    def ours(self, line: bytes) -> bytes:
        """Return the bytes that the watcher has to write for a *line* of ours, or ``b""`` if they may be too many.

        The line is compressed now. It waits until `note_ours`, or until it is sent before the next block.
        """
        if not self._waiting and self._unflushed + len(line) <= _MOST_OF_OURS:
            self._stand_in_front()
            self._waiting = self._encode(line) + self._flush()
        return self._waiting

    def note_ours(self, line: bytes) -> bytes:
        """Note that a line of ours is sent now, and return its bytes."""
        self._stand_in_front()
        self.carried.heartbeats += 1
        return self._counted(self._taken() or self._encode(line) + self._flush())

    def _note_sent(self, piece: bytes) -> None:
        # LF after the CR that ended an event: some readers wait for it.
        is_after_cr = self.position.takes_end and not self.position.takes_comment
        if (is_after_cr and piece.startswith(b"\n")) or self.position.event_end(piece) >= 0:
            self._is_flush_due = True
        self.position.advance(piece)

    def _send_encoded(self, pieces: Iterable[bytes]) -> Iterator[bytes]:
        encoded = self._taken()
        for piece in pieces:
            encoded += self._encode(piece)
            while len(encoded) > self.max_block:
                yield self._counted(encoded[: self.max_block])
                encoded = encoded[self.max_block :]
        if self._unflushed and (self._is_flush_due or self.position.takes_end):
            encoded += self._flush()
        for start in range(0, len(encoded), self.max_block):
            yield self._counted(encoded[start : start + self.max_block])

    def _counted(self, block: bytes) -> bytes:
        self.carried.count_out(block)
        return block

    def _taken(self) -> bytes:
        waiting, self._waiting = self._waiting, b""
        return waiting

    @property
    def _encoder(self) -> Encoder:
        if self._maybe_encoder is None:
            self._maybe_encoder = encoders()[self.encoding]()
        return self._maybe_encoder

    def _encode(self, piece: bytes) -> bytes:
        self._unflushed += len(piece)
        return self._encoder.encode(piece)

    def _flush(self) -> bytes:
        return self._flushed(self._encoder.flush())

    def _flushed(self, encoded: bytes) -> bytes:
        self._unflushed, self._is_flush_due = 0, False
        return encoded
