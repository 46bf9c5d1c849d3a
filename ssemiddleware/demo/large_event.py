"""One event with a list of orders in JSON, on one line, of exactly the size that was asked for."""

from __future__ import annotations

from functools import lru_cache

# Written as JSON.stringify writes it, so that a browser can tell that it got the same value. The numbers are of one length, and
# show which order is missing or in another's place.
_ORDER = (
    b'{"order":%d,"customer":"C. Stomer, 12 Long Street","paid":true,"items":[{"article":4711,"price":19.9,"note":null},'
    b'{"article":42,"price":-5,"note":"a gift: {no} invoice"}]},'
)
_FIRST_NUMBER = 1_000_000
_HEAD, _END = b"data: ", b"\n\n"


@lru_cache(maxsize=1)
def large_event(size: int) -> bytes:
    """Return the event with *size* bytes of data, 1000 or more. The latest is kept, for when it is asked for again."""
    number_of_orders = size // len(_ORDER % _FIRST_NUMBER) - 1
    orders = b"".join([_ORDER % number for number in range(_FIRST_NUMBER, _FIRST_NUMBER + number_of_orders)])
    filler = b"." * (size - len(orders) - len(b'[""]'))
    return b'%b[%b"%b"]%b' % (_HEAD, orders, filler, _END)


def large_json(size: int) -> bytes:
    """Return the data of that event."""
    return large_event(size)[len(_HEAD) : -len(_END)]
