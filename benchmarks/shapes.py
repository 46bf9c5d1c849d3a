r"""The shapes of event streams that are measured, each naming what it stresses; for the server and the client that checks.

A stream is asked for by name and whole numbers, ``ready/200000/58``, so that both ends make the same bytes.

>>> list(events_of("fresh/2/20"))
[b'data: 0000000000xx\n\n', b'data: 0000000001xx\n\n']
"""

from __future__ import annotations

import ctypes
import json
import threading
import time
from collections.abc import Callable, Iterator
from functools import lru_cache


def ready(count: int, size: int) -> Iterator[bytes]:
    """Yield events that were made before the stream began: stresses what is done for each event on its way.

    A thousand different ones take turns, so that a lost, doubled or displaced one is found.
    """
    events = _different_events(size)
    for _ in range(count // len(events)):
        yield from events
    yield from events[: count % len(events)]


def fresh(count: int, size: int) -> Iterator[bytes]:
    """Yield events each of which is a new object: stresses memory, as big events of real applications do.

    One object yielded again and again would stay in the processor's cache, and every copy of it would look cheap.
    """
    padding = b"x" * (size - len(b"data: 0000000000\n\n"))
    for number in range(count):
        yield b"".join((b"data: %010d" % number, padding, b"\n\n"))


def written(count: int) -> Iterator[bytes]:
    """Yield events of 58 bytes, each written with `json.dumps`: how much of a gain remains with some work."""
    for number in range(1_000_000, 1_000_000 + count):
        yield b"data: %s\n\n" % json.dumps({"order": number, "state": "on its way to you"}).encode()


def timed(count: int, microseconds: int) -> Iterator[bytes]:
    """Yield an event each so many microseconds, with the time at which it was yielded: stresses the delay of one.

    Linux has one `time.perf_counter_ns` for all processes.
    """
    due = time.perf_counter()
    for _ in range(count):
        due += microseconds / 1e6
        time.sleep(max(0.0, due - time.perf_counter()))
        yield b"data: %d\n\n" % time.perf_counter_ns()


def before_work(count: int, milliseconds: int, kind: int) -> Iterator[bytes]:
    """Yield events as `timed`, but at once, then work for so long, and yield a last one: another thread may have to send them.

    *kind*: 0 sleeps, 1 computes in Python, 2 holds the interpreter (the GIL) as C code may.
    """
    for _ in range(count - 1):
        yield b"data: %d\n\n" % time.perf_counter_ns()
    if kind == 0:
        time.sleep(milliseconds / 1000)
    elif kind == 1:
        until = time.monotonic() + milliseconds / 1000
        while time.monotonic() < until:
            pass
    else:
        ctypes.PyDLL(None).usleep(milliseconds * 1000)
    yield b"data: %d\n\n" % time.perf_counter_ns()


def orders(count: int, size: int, first: int = 0) -> Iterator[bytes]:
    """Yield events of about *size* bytes, each written with `json.dumps` from new data: stresses memory while one is made.

    The data takes three times as many bytes as its JSON, for as long as it takes to write that.
    """
    for number in range(first + 1, count + 1):
        yield b"id: %d\ndata: %s\n\n" % (number, json.dumps(_new_orders(size // 128)).encode())


def _new_orders(count: int) -> list[dict[str, object]]:
    return [{"order": 1_000_000 + number, "note": f"{number:010}".ljust(70, "."), "items": [number]} for number in range(count)]


def check_orders(data: str) -> None:
    """Raise `ValueError` unless *data* is a whole event of `orders`.

    It does not parse the JSON: 100 threads that each parse 5 MB keep their process from reading for up to 10 s.
    """
    begins, (_, _, last) = data[:2] == "[{", data[-40:].rpartition('"items": [')
    number = last.removesuffix("]}]")
    if not (begins and number.isdigit() and data.count('"order": ') == int(number) + 1):
        raise ValueError(f"expected whole orders, got {len(data):,} characters that end in {data[-40:]!r}")


def idle() -> Iterator[bytes]:
    """Yield one event and then nothing more: stresses what a stream costs merely by being open."""
    yield b"data: here\n\n"
    threading.Event().wait()


SHAPES: dict[str, Callable[..., Iterator[bytes]]] = {
    shape.__name__: shape for shape in (ready, fresh, written, orders, timed, before_work, idle)
}


def events_of(stream: str) -> Iterator[bytes]:
    """Begin the stream called ``shape/number/number``."""
    shape, *numbers = stream.split("/")
    return SHAPES[shape](*map(int, numbers))


@lru_cache
def _different_events(size: int) -> tuple[bytes, ...]:
    return tuple(fresh(1000, size))
