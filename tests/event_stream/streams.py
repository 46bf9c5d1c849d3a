"""Event streams of all kinds, and every way to cut one into blocks."""

from __future__ import annotations

from collections.abc import Iterator

from hypothesis import strategies as st

# Pieces that streams are made of: line ends in all forms, comments, fields, characters of several bytes.
PIECES = [
    b"\n", b"\r", b"\r\n", b"\n\n", b"\r\r", b"\r\n\r\n", b":", b":\n", b": c\n", b"data: x", b"data", b"id: 7", b"event: e",
    b"retry: 9", b" ", "ä€😀".encode(), b"\xef\xbb\xbf", b"\xff\xfe", b"\0", b"data: y\n\n",
]  # fmt: skip
streams = st.lists(st.one_of(st.sampled_from(PIECES), st.binary(max_size=5)), max_size=30).map(b"".join)
texts = st.text(st.characters(exclude_categories=["Cs"]))


@st.composite
def cuttings(draw: st.DrawFn, of: st.SearchStrategy[bytes] = streams) -> list[bytes]:
    """A stream in blocks of any sizes."""
    stream = draw(of)
    cuts = sorted(draw(st.lists(st.integers(0, len(stream)), max_size=12)))
    return [stream[start:end] for start, end in zip([0, *cuts], [*cuts, len(stream)], strict=True)]


def every_way(stream: bytes) -> Iterator[list[bytes]]:
    """Yield *stream* whole, byte by byte, and cut at each place in two, also with an empty block between."""
    yield [stream]
    yield [stream[index : index + 1] for index in range(len(stream))]
    for index in range(len(stream) + 1):
        yield [stream[:index], stream[index:]]
        yield [stream[:index], b"", stream[index:]]
