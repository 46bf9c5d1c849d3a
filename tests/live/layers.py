"""The application under test inside layers of others: some change what passes through them, some do not."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING

from werkzeug.middleware.dispatcher import DispatcherMiddleware
from werkzeug.middleware.proxy_fix import ProxyFix
from werkzeug.wsgi import ClosingIterator

from ssemiddleware import SSEMiddleware

from .applications import AMPLE, HEARTBEAT, play

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment

Headers = list[tuple[str, str]]

inner = SSEMiddleware(play, heartbeat=HEARTBEAT, memory=AMPLE)
joining = SSEMiddleware(play, heartbeat=HEARTBEAT, memory=AMPLE, join=0.02)


def layer(change: Callable[[Iterable[bytes]], Iterable[bytes]], *added: tuple[str, str]) -> WSGIApplication:
    """Return a layer that changes the blocks, and adds headers; like most, it passes the server's ``write`` on."""

    def layered(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        def start(status: str, headers: Headers, *exc_info: object) -> Callable[[bytes], object]:
            return start_response(status, [*headers, *(added if is_played else ())], *exc_info)  # type: ignore[arg-type]

        is_played = environ["PATH_INFO"] == "/play"
        blocks = inner(environ, start)
        if not is_played:
            return blocks
        return ClosingIterator(change(blocks), getattr(blocks, "close", None))

    return layered


def compress(blocks: Iterable[bytes]) -> Iterator[bytes]:
    """Yield the blocks as gzip, each flushed."""
    compressor = zlib.compressobj(wbits=31)
    for block in blocks:
        yield compressor.compress(block) + compressor.flush(zlib.Z_SYNC_FLUSH)
    yield compressor.flush()


def hold_and_compress(blocks: Iterable[bytes]) -> Iterator[bytes]:
    """Yield them as gzip when there is enough, as most layers do: the header too comes late."""
    compressor = zlib.compressobj(wbits=31)
    for block in blocks:
        yield compressor.compress(block)
    yield compressor.flush()


def write_upper_case(blocks: Iterable[bytes]) -> Iterator[bytes]:
    for block in blocks:
        yield block.upper()


def end_lines_with_crlf(blocks: Iterable[bytes]) -> Iterator[bytes]:
    """Yield them with other line ends: a heartbeat beside the layer would have another one than those that went through it."""
    for block in blocks:
        yield block.replace(b"\n", b"\r\n")


def collect(blocks: Iterable[bytes]) -> Iterator[bytes]:
    yield b"".join(blocks)


def _with_length_late(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    """Start the response when all is there, with its length."""
    if environ["PATH_INFO"] != "/play":
        return inner(environ, start_response)
    started: list[tuple[str, Headers]] = []
    written: list[bytes] = []

    def start(status: str, headers: Headers, *_: object) -> Callable[[bytes], object]:
        started[:] = [(status, headers)]
        return written.append

    blocks = inner(environ, start)
    body = b"".join([*blocks, *written])
    if hasattr(blocks, "close"):
        blocks.close()
    [(status, headers)] = started
    start_response(status, [*headers, ("Content-Length", str(len(body)))])
    return [body]


LENGTH = len("data: one\n\ndata: two\n\n")

gzip = layer(compress, ("Content-Encoding", "gzip"))
gzip_that_holds = layer(hold_and_compress, ("Content-Encoding", "gzip"))
gzip_in_secret = layer(compress)
upper_case = layer(write_upper_case)
mapped = layer(lambda blocks: map(bytes.upper, blocks))
mapped_to_crlf = layer(lambda blocks: map(_crlf, blocks))
crlf = layer(end_lines_with_crlf)
collecting = layer(collect)
with_length_late = _with_length_late
with_length = layer(lambda blocks: blocks, ("Content-Length", str(LENGTH)))


def _crlf(block: bytes) -> bytes:
    return block.replace(b"\n", b"\r\n")


# -- that change nothing

proxy_fix = ProxyFix(inner)
dispatcher = DispatcherMiddleware(inner, {"/elsewhere": play})


def closing(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    """A layer that has something to do when the response is closed: werkzeug's."""
    return ClosingIterator(inner(environ, start_response), lambda: None)


def closing_what_joins(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    """The same around one that would join events."""
    return ClosingIterator(joining(environ, start_response), lambda: None)


def create_sentry() -> WSGIApplication:
    """Return it inside Sentry's, which sends nothing without a DSN."""
    import sentry_sdk
    from sentry_sdk.integrations.wsgi import SentryWsgiMiddleware

    sentry_sdk.init(traces_sample_rate=1.0, default_integrations=False, auto_enabling_integrations=False)
    return SentryWsgiMiddleware(inner)


def create_opentelemetry() -> WSGIApplication:
    """Return it inside OpenTelemetry's."""
    from opentelemetry.instrumentation.wsgi import OpenTelemetryMiddleware

    return OpenTelemetryMiddleware(inner)
