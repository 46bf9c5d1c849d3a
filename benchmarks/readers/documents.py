r"""What is sent: JSON of an exact size on one line, written as ``JSON.stringify`` writes it.

>>> document("image", 48)
b'{"name":"report.png","image":"aGVsbG8gd29ybGQh"}'
"""

from __future__ import annotations

from itertools import count
from typing import Final

# ASCII without escapes, as most of what is sent.
_ORDER = (
    '{"order":%d,"customer":"C. Stomer, 12 Long Street","paid":true,"items":[{"article":4711,"price":19.9,"note":null},'
    '{"article":42,"price":-5,"note":"a gift: {no} invoice"}]},'
)
# Characters of one to four bytes, every kind of escape, and whatever looks like JSON in a string.
_TEXT = (
    '{"text":%d,"a \\"key\\", with: a colon":"aé€𝄞\u2028 [\\"quoted\\",{\\"b\\":1}] C:\\\\temp\\\\ \\n\\t\\u0001",'
    '"":[[],{},[[1.5,true]],false,null,"\\\\","\\\\\\"",""]},'
)
_BASE64: Final = b"aGVsbG8gd29ybGQh"

_ROWS = {"orders": _ORDER, "texts": _TEXT}


def document(kind: str, size: int) -> bytes:
    """Return a document of *size* bytes.

    *kind*: ``orders`` and ``texts`` are lists of many records, the latter with everything that JSON can hold; ``image`` is
    an object with one long string, in which there is no place to break a line.
    """
    if kind == "image":
        head, tail = b'{"name":"report.png","image":"', b'"}'
        return head + _padding(size - len(head) - len(tail)) + tail
    row, rows, missing = _ROWS[kind], [b"["], size - len(b'[""]')
    for number in count(1_000_000):
        record = (row % number).encode()
        if len(record) > missing:
            break
        rows.append(record)
        missing -= len(record)
    return b"".join([*rows, b'"', _padding(missing), b'"]'])


def _padding(size: int) -> bytes:
    return (_BASE64 * (size // len(_BASE64) + 1))[:size]
