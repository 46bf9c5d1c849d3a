"""Which event streams are compressed, for which clients, and the headers that say so."""

from __future__ import annotations

import pytest

from ssemiddleware import Compress, SSEMiddleware
from ssemiddleware.compression import encoding_for, negotiate
from ssemiddleware.request import Request, accepts_event_stream

from ..applications import EVENT_STREAM, environ_of
from ..servers.fake import EVENT_SOURCE, Exchange, script

Headers = list[tuple[str, str]]

GZIP = {**EVENT_SOURCE, "HTTP_ACCEPT_ENCODING": "gzip, deflate, br, zstd"}
EVENT = b"data: 1\n\n"


@pytest.mark.parametrize(
    ("accept_encoding", "expected"),
    [
        ("gzip", "gzip"),
        ("GZip", "gzip"),
        ("zstd, br, deflate, gzip", "gzip"),
        ("br;q=1.0, gzip;q=0.1", "gzip"),
        ("*", "gzip"),
        ("*;q=0.5, identity;q=0.2", "gzip"),
        ("zstd", "zstd"),
        ("br, Zstd;q=0.1", "zstd"),
        ("gzip;q=0.8, zstd;q=0.9", "zstd"),
        ("gzip;q=0.5, *", "zstd"),
        ("gzip;q=0, *", "zstd"),
        ("zstd;q=0.5, identity;q=0.5", "zstd"),
        ("", ""),
        ("br", ""),
        ("gzip;q=0", ""),
        ("*;q=0", ""),
        ("gzip;q=0, zstd;q=0, *", ""),
        ("gzip;q=0.5, zstd;q=0.9, identity", ""),
        ("x" * 2000 + ", gzip", ""),
    ],
)
def test_a_client_gets_the_encoding_that_it_prefers(accept_encoding: str, expected: str) -> None:
    assert encoding_for(accept_encoding) == expected


def negotiated(*headers: tuple[str, str], status: str = "200 OK", **asked: str) -> tuple[str, bool]:
    """Return the encoding of the response, and whether it has a `Vary` header."""
    request = Request(environ_of({**GZIP, **asked}), accepts_event_stream)
    given = [EVENT_STREAM, *headers]
    sent, found = negotiate(status, given, [*given, ("Cache-Control", "no-cache, no-transform")], request)
    assert (sent[-1] == ("Content-Encoding", found)) == bool(found)
    return found, any(name == "Vary" for name, _ in sent)


def test_an_event_stream_is_compressed_for_a_client_that_accepts_an_encoding() -> None:
    assert negotiated() == ("gzip", True)
    assert negotiated(("Cache-Control", "private"), HTTP_ACCEPT_ENCODING="zstd") == ("zstd", True)


def test_for_other_clients_the_response_has_vary_too() -> None:
    assert negotiated(HTTP_ACCEPT_ENCODING="br") == ("", True)


@pytest.mark.parametrize(
    "header",
    [
        ("Content-Encoding", "gzip"),
        ("content-encoding", "identity"),
        ("Cache-Control", "private, no-transform"),
        ("cache-control", "No-Transform"),
    ],
    ids=": ".join,
)
def test_a_response_that_is_encoded_or_must_not_be_is_not_changed(header: tuple[str, str]) -> None:
    assert negotiated(header) == ("", False)


def test_a_client_may_forbid_compression() -> None:
    assert negotiated(HTTP_CACHE_CONTROL="no-cache, no-transform") == ("", False)


@pytest.mark.parametrize("status", ["206 Partial Content", "404 Not Found", "204 No Content"])
def test_only_a_200_is_compressed(status: str) -> None:
    assert negotiated(status=status) == ("", False)


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ([], ["Accept-Encoding"]),
        (["Cookie"], ["Cookie, Accept-Encoding"]),
        (["Cookie", "Origin"], ["Cookie, Origin, Accept-Encoding"]),
        (["accept-encoding"], ["accept-encoding"]),
        (["*"], ["*"]),
    ],
)
def test_accept_encoding_is_added_to_vary(given: list[str], expected: list[str]) -> None:
    request = Request(environ_of(GZIP), accepts_event_stream)
    headers = [EVENT_STREAM, *(("vary", value) for value in given)]
    sent, _ = negotiate("200 OK", headers, headers, request)
    assert [value for name, value in sent if name.lower() == "vary"] == expected


def test_the_application_does_not_see_accept_encoding() -> None:
    exchange = Exchange(script(EVENT), GZIP, compress=Compress())
    assert "HTTP_ACCEPT_ENCODING" not in exchange.environ
    exchange.rest()
    assert exchange.headers["Content-Encoding"] == "gzip"


def test_a_head_has_the_headers_of_the_get_and_no_body() -> None:
    headers: list[dict[str, str]] = []
    for method in ("GET", "HEAD"):
        exchange = Exchange(script(EVENT), {**GZIP, "REQUEST_METHOD": method}, compress=Compress())
        exchange.rest()
        headers.append(exchange.headers)
        assert (exchange.client.body == b"") == (method == "HEAD")
    assert headers[0] == headers[1]
    assert headers[0]["Content-Encoding"] == "gzip"


def test_nothing_is_compressed_without_the_option() -> None:
    exchange = Exchange(script(EVENT), GZIP)
    exchange.rest()
    assert exchange.client.body == EVENT
    assert not {"Content-Encoding", "Vary"} & set(exchange.headers)


def test_another_response_is_the_same_object() -> None:
    body = [b"{}"]

    def application(environ: object, start_response: object) -> list[bytes]:
        start_response("200 OK", [("Content-Type", "application/json")])  # type: ignore[operator]
        return body

    assert SSEMiddleware(application, compress=Compress())(environ_of(GZIP), lambda *_: lambda _block: None) is body
