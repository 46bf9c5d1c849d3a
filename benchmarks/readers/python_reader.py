"""Read one event with one of Python's clients, and write how long it took from the request and what it was, as JSON.

    python python_reader.py httpx-sse http://127.0.0.1:8000/fold/orders/10000000

The clients are used as their documentation shows. None of them joins fragments: `Joiner` is all that a client needs for that.
"""

from __future__ import annotations

import asyncio
import hashlib
import importlib
import json
import re
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from typing import Any, NamedTuple

TIMEOUT = 600  # seconds; who started us has less patience
HEADERS = {"Accept": "text/event-stream", "Cache-Control": "no-store"}


class Received(NamedTuple):
    """An event as a client gives it."""

    type: str
    id: str
    data: str


class Joiner:
    """Makes one event of the fragments of one, as `ssemiddleware.oversized.fragment` describes them."""

    _HEADER = re.compile(r"(\d+)-(\d+)/(\d+|\*)(?: (.+))?", re.ASCII)

    def __init__(self) -> None:
        self._pieces: list[str] = []
        self._next = 0

    def maybe_join(self, event: Received) -> Received | None:
        """Take an event, and return the one that is whole now."""
        header, _, piece = event.data.partition("\n")
        place = self._HEADER.fullmatch(header) if event.type == "fragment" else None
        if place is None or int(place[1]) != self._next:
            self._pieces, self._next = [], 0
        if place is None:
            return None if event.type == "fragment" else event
        if int(place[1]) == self._next:
            self._pieces.append(piece)
            self._next = int(place[2]) + 1
            if place[3] == str(self._next):
                return Received(place[4] or "message", event.id, "".join(self._pieces))
        return None


class Clock:
    """Counts the milliseconds since the request; each client starts it."""

    _began = 0.0

    def start(self) -> None:
        self._began = time.perf_counter()

    def milliseconds(self) -> float:
        return (time.perf_counter() - self._began) * 1000


# -- The clients


def with_httpx_sse(url: str, clock: Clock) -> Iterator[Received]:
    import httpx
    from httpx_sse import connect_sse

    with httpx.Client(timeout=TIMEOUT) as client:
        clock.start()  # a client is made once, and takes its time for it
        with connect_sse(client, "GET", url) as source:
            yield from _received(source.iter_sse())


def with_httpx2(url: str, clock: Clock) -> Iterator[Received]:
    import httpx2

    with httpx2.Client(timeout=TIMEOUT) as client:
        clock.start()
        with client.sse(url) as source:
            yield from _received(source)


def with_sseclient_over_urllib3(url: str, clock: Clock) -> Iterator[Received]:
    import sseclient
    import urllib3

    clock.start()
    response = urllib3.PoolManager().request("GET", url, headers=HEADERS, preload_content=False)
    yield from _received(sseclient.SSEClient(response).events())


def with_sseclient_over_requests(url: str, clock: Clock) -> Iterator[Received]:
    import requests
    import sseclient

    clock.start()
    response = requests.get(url, headers=HEADERS, stream=True, timeout=TIMEOUT)
    yield from _received(sseclient.SSEClient(response).events())  # type: ignore[arg-type]  # as its documentation shows


def _received(events: Iterable[Any]) -> Iterator[Received]:
    """All of these clients call the parts of an event the same."""
    for event in events:
        yield Received(event.event, event.id or "", event.data)


async def with_aiohttp(url: str, clock: Clock) -> AsyncIterator[Received]:
    """Read line by line, as one does in a loop of one's own."""
    import aiohttp

    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=TIMEOUT)) as session:
        clock.start()
        async with session.get(url, headers=HEADERS) as response:
            fields: dict[str, list[str]] = {}
            while line := (await response.content.readline()).decode():
                name, _, value = line.removesuffix("\n").partition(":")
                if name:
                    fields.setdefault(name, []).append(value.removeprefix(" "))
                elif line == "\n" and "data" in fields:
                    event_type, event_id = (fields.get(name, [""])[-1] for name in ("event", "id"))
                    yield Received(event_type, event_id, "\n".join(fields["data"]))
                    fields = {}


async def _first_of(events: AsyncIterator[Received]) -> Received | None:
    joiner = Joiner()
    async for event in events:
        if whole := joiner.maybe_join(event):
            return whole
    return None


def _first(client: Callable[[str, Clock], Iterator[Received]]) -> Callable[[str, Clock], Received | None]:
    return lambda url, clock: next(filter(None, map(Joiner().maybe_join, client(url, clock))), None)


READERS: dict[str, tuple[Callable[[str, Clock], Received | None], tuple[str, ...]]] = {  # and the modules that they need
    "aiohttp": (lambda url, clock: asyncio.run(_first_of(with_aiohttp(url, clock))), ("aiohttp",)),
    "httpx-sse": (_first(with_httpx_sse), ("httpx", "httpx_sse")),
    "httpx2": (_first(with_httpx2), ("httpx2",)),
    "sseclient-py over urllib3": (_first(with_sseclient_over_urllib3), ("sseclient", "urllib3")),
    "sseclient-py over requests": (_first(with_sseclient_over_requests), ("sseclient", "requests")),
}


# -- What is printed


def reported(milliseconds: float, event: Received) -> dict[str, object]:
    """Return what *event* was. That it parses without its line ends being part of a value is what makes them harmless."""
    json.loads(event.data)
    text = event.data.replace("\n", "").encode()
    lines, sha256 = event.data.count("\n") + 1, hashlib.sha256(text).hexdigest()
    return {
        "milliseconds": milliseconds, "type": event.type, "id": event.id, "lines": lines, "size": len(text), "sha256": sha256
    }  # fmt: skip


def main(reader: str, url: str) -> None:
    """Read with *reader* from *url*."""
    read, modules = READERS[reader]
    for module in modules:
        importlib.import_module(module)
    try:
        event = read(url, clock := Clock())
        milliseconds = clock.milliseconds()
        if event is None:
            raise EOFError("the stream ended without the event")
        print(json.dumps(reported(milliseconds, event)))
    except Exception as error:
        print(json.dumps({"error": f"{type(error).__name__}: {error}"}))


if __name__ == "__main__":
    main(*sys.argv[1:])
