"""Checks of an event stream's status and headers, and of the answers to other requests."""

from __future__ import annotations

import re
from collections.abc import Iterator

from ..event_stream import MEDIA_TYPE
from .culprits import CACHED, Remedy, culprit_and_remedy
from .findings import Finding, Severity
from .observation import CUT, Observation

_HEADERS = "among the headers of the response"
# Headers of a single connection, which an application must not set (RFC 9110, 7.6.1), except those that servers set themselves.
_OF_ONE_HOP = {"proxy-connection", "te", "trailer", "upgrade", "proxy-authenticate"}
_MALFORMED_IN_HTTP_2 = _OF_ONE_HOP | {"connection", "keep-alive", "transfer-encoding"}  # RFC 9113, 8.2.2


def check_headers(seen: Observation) -> Iterator[Finding]:
    """Yield what is wrong with the status and the headers. If the status is not 200, that is the only finding."""
    if seen.status is None:
        if seen.ended == CUT:
            yield Finding(
                "no-answer", Severity.FATAL, "The connection was closed before any header came.",
                f"closed after {seen.ended_at:.1f} s",
                Remedy("curl -sv -H 'Accept: text/event-stream' " + seen.url, "in a terminal, while you read the server's log"),
            )  # fmt: skip
        return
    yield from _status(seen)
    if seen.status == 200:
        for check in (_type, _caching, _hop_by_hop, _length, _connections, _head, _origin):
            yield from check(seen)


def _status(seen: Observation) -> Iterator[Finding]:
    if seen.status != 200:
        what = "The status is not 200: an EventSource gives up, and never reconnects."
        answer = "HTTP/1.1 200 OK\nContent-Type: text/event-stream\n\nretry: 5000\n\n"
        remedy = Remedy(answer, "as the answer to a client that should reconnect later")
        yield Finding("status", Severity.FATAL, what, f"status {seen.status} after {seen.headers_at or 0:.1f} s", remedy)


def _type(seen: Observation) -> Iterator[Finding]:
    given = seen.header("content-type")
    remedy = Remedy(f"Content-Type: {MEDIA_TYPE}; charset=utf-8", _HEADERS)
    if (given or "").partition(";")[0].strip().lower() != MEDIA_TYPE:
        what = "The type is not text/event-stream: an EventSource gives up, and never reconnects."
        yield Finding("type", Severity.FATAL, what, f"Content-Type: {given}" if given else "no Content-Type", remedy)
        return
    charset = re.search(r"charset\s*=\s*\"?([^\s;\"]*)", given or "", re.IGNORECASE)
    if charset is None:
        what = "No charset is named. Browsers need none; readers that use `requests` read the text as Latin-1."
        yield Finding("charset", Severity.NOTE, what, f"Content-Type: {given}", remedy)
    elif charset[1].lower() != "utf-8":
        what = "The charset is not UTF-8: Chromium gives up."
        yield Finding("charset", Severity.FATAL, what, f"Content-Type: {given}", remedy)


def _caching(seen: Observation) -> Iterator[Finding]:
    age, first = seen.header("age") or "0", next((event.sequence for event in seen.events), None)
    culprit, remedy = culprit_and_remedy(CACHED, seen.marks)
    evidence = None
    if age.isdigit() and int(age) > 0:
        evidence = f"Age: {age}"
    elif re.match("hit", seen.header("x-cache") or "", re.IGNORECASE):
        evidence = f"X-Cache: {seen.header('x-cache')}"
    elif re.fullmatch(r"\d+ \d+", seen.header("x-varnish") or ""):  # the second number is the request that filled the cache
        evidence = f"X-Varnish: {seen.header('x-varnish')}"
    elif first is not None and first > 1:
        evidence = f"the canary's first event has the number {first}, not 1"
    if evidence is not None:
        what = "The stream comes from a cache: it replays what another client received."
        yield Finding("cached", Severity.SERIOUS, what, evidence, remedy, culprit)
        return
    given = seen.header("cache-control") or ""
    if not re.search(r"no-cache|no-store|private", given, re.IGNORECASE):
        yield Finding(
            "caching", Severity.MINOR, "A shared cache may store the stream, and replay it to other users.",
            f"Cache-Control: {given}" if given else "no Cache-Control",
            Remedy("Cache-Control: no-cache, no-transform", _HEADERS),
        )  # fmt: skip


def _hop_by_hop(seen: Observation) -> Iterator[Finding]:
    is_http_2 = seen.http_version == "HTTP/2"
    forbidden = _MALFORMED_IN_HTTP_2 if is_http_2 else _OF_ONE_HOP
    wrong = [f"{name}: {value}" for name, value in seen.headers if name.lower() in forbidden]
    connection = [value for name, value in seen.headers if name.lower() == "connection"]
    if not is_http_2 and len(connection) > 1:
        wrong += [f"Connection: {value}" for value in connection]
    if wrong:
        what = "The application has set headers that belong to a single connection."
        if is_http_2:
            what += " Over HTTP/2 such an answer is malformed, and Safari drops the connection."
        remedy = Remedy(
            f"response.headers.pop({wrong[0].partition(':')[0]!r}, None)",
            "in the application; SSEMiddleware drops such headers",
        )
        yield Finding("hop-by-hop", Severity.SERIOUS if is_http_2 else Severity.MINOR, what, "; ".join(wrong), remedy)


def _length(seen: Observation) -> Iterator[Finding]:
    length = seen.header("content-length")
    if length is not None:
        what = "The stream has a length: it was collected before it was sent, or it ends after that many bytes."
        remedy = Remedy("response.headers.pop('Content-Length', None)", "in the application or the layer that sets it")
        yield Finding("content-length", Severity.SERIOUS, what, f"Content-Length: {length}", remedy)


def _connections(seen: Observation) -> Iterator[Finding]:
    if seen.http_version.startswith("HTTP/1"):
        what = "Over HTTP/1 a browser opens at most six connections to a site. With a stream in each of seven tabs it hangs."
        remedy = Remedy("listen 443 ssl http2;", "in the `server` of nginx, for example: HTTP/2 has no such limit")
        yield Finding("six-connections", Severity.NOTE, what, seen.http_version, remedy)


def _head(seen: Observation) -> Iterator[Finding]:
    if seen.answers_head is False:
        what = "HEAD hangs: each one, from a monitor or `curl -I`, keeps a thread of the server."
        remedy = Remedy("if request.method == 'HEAD': return Response()", "in the view; SSEMiddleware answers with the headers")
        yield Finding("head", Severity.MINOR, what, "no answer to HEAD in time, while GET got one", remedy)


def _origin(seen: Observation) -> Iterator[Finding]:
    if seen.allows_origin is False:
        severity = Severity.NOTE if seen.origin is None else Severity.FATAL
        what = "A page of another origin may not read the stream."
        evidence = f"no Access-Control-Allow-Origin for {seen.origin or 'a page elsewhere'}"
        remedy = Remedy(f"Access-Control-Allow-Origin: {seen.origin or 'https://app.example.com'}", _HEADERS)
        yield Finding("cors", severity, what, evidence, remedy)
