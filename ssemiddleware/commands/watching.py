"""Open a stream as an EventSource does, and record what arrives and when. Needs httpx."""

from __future__ import annotations

import asyncio
import contextlib
import importlib.util
import signal
import ssl
import sys
import time
from collections.abc import Coroutine, Sequence
from typing import TYPE_CHECKING, TypeVar

from ..canary import CLOCK
from ..doctor import CLEANLY, CUT, OPEN, REFUSAL, Observation

if TYPE_CHECKING:
    import httpx

_T = TypeVar("_T")

CONNECT_WITHIN = 10.0  # seconds
_ANSWER_WITHIN = 5.0
REFUSED_WITHIN = 2.0
_REFUSAL_SIZE = 4096  # bytes
_ANOTHER_ORIGIN = "https://another-origin.example"
_EVENT_SOURCE = {"Accept": "text/event-stream", "Cache-Control": "no-cache", "User-Agent": "ssemiddleware-doctor"}


class Unreachable(Exception):
    """Raised if the server cannot be reached."""


def require_extra(*names: str) -> None:
    """Exit with 2 unless the modules with these names are installed."""
    missing = [name for name in names if importlib.util.find_spec(name) is None]
    if missing:
        print(f'This needs {" and ".join(missing)}: pip install "ssemiddleware[doctor]"', file=sys.stderr)
        sys.exit(2)


def run(until_stopped: Coroutine[None, None, _T], stop: asyncio.Event) -> _T:
    """Run *until_stopped*. Ctrl-C sets *stop*; a second Ctrl-C kills the process."""

    async def with_signal() -> _T:
        loop = asyncio.get_running_loop()

        def on_interrupt() -> None:
            stop.set()
            loop.remove_signal_handler(signal.SIGINT)

        loop.add_signal_handler(signal.SIGINT, on_interrupt)
        return await until_stopped

    return asyncio.run(with_signal())


async def watch(seen: Observation, *, seconds: float, stop: asyncio.Event, headers: Sequence[tuple[str, str]] = ()) -> None:
    """Watch the stream at `seen.url` for *seconds*, or until it ends or *stop* is set. Raises `Unreachable`."""
    async with _client(headers) as client:
        connected = asyncio.Event()
        seen.began, began = time.time(), time.monotonic()
        if await _until(stop, _read(client, seen, began, connected), seconds):
            return
        if not connected.is_set():
            raise Unreachable(f"no connection to {seen.url} within {time.monotonic() - began:.1f} s")
        seen.finish(OPEN, time.monotonic() - began)


async def _until(stop: asyncio.Event, task: Coroutine[None, None, None], seconds: float | None = None) -> bool:
    """Run *task* to its end, and return True; cancel it when *stop* is set or after so many seconds."""
    running, stopping = asyncio.ensure_future(task), asyncio.ensure_future(stop.wait())
    await asyncio.wait([running, stopping], timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
    stopping.cancel()
    if running.done():
        running.result()
        return True
    running.cancel()
    await asyncio.wait([running])
    return False


async def ask_more(seen: Observation, *, stop: asyncio.Event, headers: Sequence[tuple[str, str]] = ()) -> None:
    """Ask whether another origin may read the stream, and whether HEAD is answered, unless *stop* is set.

    To be called after the stream: such a request may itself keep a thread of the server, and would then disturb the stream.
    """
    await _until(stop, _ask_more(seen, headers))


async def _ask_more(seen: Observation, headers: Sequence[tuple[str, str]]) -> None:
    within = max(_ANSWER_WITHIN, 2 * (seen.headers_at or 0))
    origin = seen.origin or _ANOTHER_ORIGIN
    async with _client(headers) as client:
        answer = await _headers_of(client, "GET", seen.url, within, {"Origin": origin})
        if answer is not None:
            allowed = {value for name, value in answer if name.lower() == "access-control-allow-origin"}
            seen.allows_origin = bool(allowed & {"*", origin})
        asked = time.time()
        head = await _headers_of(client, "HEAD", seen.url, within)
        if answer is not None or head is not None:  # else the server may have no free thread: that is not HEAD's fault
            seen.answers_head = head is not None
        seen.other_headers += head or answer or []
        clock = next((value for name, value in head or () if name.lower() == CLOCK.lower()), None)
        if clock is not None:
            seen.clock_ahead = float(clock) - (asked + time.time()) / 2


async def ask_front(seen: Observation) -> None:
    """Send a malformed request. The first proxy refuses it itself, and so reveals its name, which it may hide otherwise."""
    import httpx

    url = httpx.URL(seen.url)
    secure = ssl.create_default_context() if url.scheme == "https" else None
    try:
        reader, writer = await asyncio.wait_for(
            asyncio.open_connection(url.host, url.port or (443 if secure else 80), ssl=secure), REFUSED_WITHIN
        )
        with contextlib.closing(writer):
            writer.write(b"GET / HTTP/1.1\r\nHost: %b\r\nno header\r\n\r\n" % url.netloc)
            answer = await asyncio.wait_for(reader.read(_REFUSAL_SIZE), REFUSED_WITHIN)
    except (TimeoutError, asyncio.TimeoutError, OSError):
        return
    head, _, body = answer.decode("latin-1").partition("\r\n\r\n")
    status, *lines = head.split("\r\n")
    if " 400" in status:
        fields = [line.partition(":") for line in lines]
        seen.other_headers += [*((name, value.strip()) for name, _, value in fields), (REFUSAL, body)]


def _client(headers: Sequence[tuple[str, str]]) -> httpx.AsyncClient:
    import httpx

    timeout = httpx.Timeout(None, connect=CONNECT_WITHIN)
    return httpx.AsyncClient(http2=True, follow_redirects=True, timeout=timeout, headers={**_EVENT_SOURCE, **dict(headers)})


async def _read(client: httpx.AsyncClient, seen: Observation, began: float, connected: asyncio.Event) -> None:
    import httpx

    async def trace(event: str, _: object) -> None:
        if event.endswith("send_request_headers.started"):
            connected.set()

    try:
        async with client.stream("GET", seen.url, extensions={"trace": trace}) as response:
            seen.headers_at = time.monotonic() - began
            seen.status, seen.http_version, seen.headers = response.status_code, response.http_version, _decoded(response)
            try:
                async for block in response.aiter_bytes():
                    seen.received = response.num_bytes_downloaded
                    seen.take(time.monotonic() - began, block)
            finally:  # bytes that cannot be decompressed yet count too
                seen.received = response.num_bytes_downloaded
    except (httpx.ConnectError, httpx.ConnectTimeout, httpx.UnsupportedProtocol, httpx.InvalidURL) as error:
        raise Unreachable(f"no connection to {seen.url}: {error or type(error).__name__}") from error
    except httpx.HTTPError:
        seen.finish(CUT, time.monotonic() - began)
    else:
        seen.finish(CLEANLY, time.monotonic() - began)


async def _headers_of(
    client: httpx.AsyncClient, method: str, url: str, within: float, headers: dict[str, str] | None = None
) -> list[tuple[str, str]] | None:
    """Return the headers of the answer, or None if there is none in time."""
    import httpx

    async def ask() -> list[tuple[str, str]]:
        async with client.stream(method, url, headers=headers) as response:
            return _decoded(response)

    try:
        return await asyncio.wait_for(ask(), within)
    except (TimeoutError, asyncio.TimeoutError, httpx.HTTPError):
        return None


def _decoded(response: httpx.Response) -> list[tuple[str, str]]:
    return [(name.decode("latin-1"), value.decode("latin-1")) for name, value in response.headers.raw]
