"""A burst of events to one client: who sends it, and how long it takes. What `throughput` and `block_size` share."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple

from .reading import check_bytes, check_size, new_landing, read_stream
from .results import Effort, rate, size_name


class Sender(NamedTuple):
    """Who sends: a server, the first part of the path there, and whether the request announces itself."""

    port: int
    way: str
    announced: bool


class Burst(NamedTuple):
    """A stream that comes as fast as it can; *stream* as `shapes.events_of` has it."""

    name: str
    stream: str
    number: int  # of events
    size: int  # bytes of each

    def turns(self, effort: Effort) -> int:
        """Return how often to send it: big events are over in a tenth of a second, and differ more from time to time."""
        return effort.pick(9 if self.size < 1000 else 21, 1)

    def speed(self, seconds: float) -> str:
        """Return the figure: small events a second, or the bytes of big ones."""
        return rate(self.number / seconds, " events") if self.size < 1000 else rate(self.number * self.size / seconds, "B")


def small_events(effort: Effort) -> Burst:
    """Return 100,000 events of 58 bytes."""
    count = effort.pick(100_000, 20_000)
    return Burst("58 bytes", f"ready/{count}/58", count, 58)


def written_events(effort: Effort) -> Burst:
    """Return as many events that cost their application something."""
    count = effort.pick(100_000, 20_000)
    return Burst("58 bytes from json.dumps", f"written/{count}", count, 58)


def big_events(size: int, effort: Effort) -> Burst:
    """Return 200 MB of events of *size* bytes."""
    count = effort.pick(200_000_000, 20_000_000) // size
    return Burst(size_name(size), f"fresh/{count}/{size}", count, size)


def timer(burst: Burst, senders: Mapping[str, Sender]) -> Callable[[str], float]:
    """Return a function that reads *burst* from one of *senders* and returns its seconds.

    Before that, each has sent it once untimed, and every byte of it was right.
    """
    landing = new_landing(burst.number * burst.size)
    sizes: dict[str, int] = {}

    def read(name: str) -> tuple[float, memoryview]:
        port, way, announced = senders[name]
        return read_stream(port, f"/{way}/{burst.stream}", landing, announced=announced)

    def read_and_check(name: str) -> float:
        seconds, response = read(name)
        check_size(response, sizes[name])
        return seconds

    for name in senders:
        sizes[name] = check_bytes(read(name)[1], burst.stream)
    return read_and_check
