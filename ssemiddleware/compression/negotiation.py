"""Which event streams are compressed, and the headers that say so.

>>> encoding_for("gzip, deflate, br"), encoding_for("br, *;q=0"), encoding_for("")
('gzip', '', '')
"""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING

from werkzeug.datastructures import Accept
from werkzeug.http import parse_accept_header, parse_dict_header, parse_set_header

from .encoders import encoders

if TYPE_CHECKING:
    from ..request import Request
    from ..response import Headers

_MOST_ACCEPT_ENCODING = 1024  # characters of the header; the rest is not read


def negotiate(status: str, given: Headers, amended: Headers, request: Request) -> tuple[Headers, str]:
    """Return an event stream's headers to send, and the encoding that its body has to be given, or ``""``.

    *given*: the application's headers. *amended*: the same, amended by `response.amend`.
    """
    if not _may_be_compressed(status, given, request):
        return amended, ""
    varying, encoding = _with_vary(amended), encoding_for(request.accept_encoding)
    return [*varying, ("Content-Encoding", encoding)] if encoding else varying, encoding


def encoding_for(accept_encoding: str) -> str:
    """Return the encoding that a client prefers, the first of ours among equals (RFC 9110, 12.5.3).

    Return ``""`` if it accepts none of ours, or prefers the body unchanged.
    """
    return _encoding_for(accept_encoding[:_MOST_ACCEPT_ENCODING]) if accept_encoding else ""


@lru_cache(maxsize=64)  # all clients of a kind send the same header
def _encoding_for(accept_encoding: str) -> str:
    quality_of = {name.lower(): quality for name, quality in parse_accept_header(accept_encoding, Accept)}
    qualities = {encoding: quality_of.get(encoding, quality_of.get("*", 0)) for encoding in encoders()}
    best = max(qualities, key=qualities.__getitem__)  # the first, of equals
    return best if 0 < qualities[best] >= quality_of.get("identity", 0) else ""


def _may_be_compressed(status: str, headers: Headers, request: Request) -> bool:
    """Return whether the response is a 200, and neither the application nor the client forbids to compress it.

    An application forbids it with ``Content-Encoding: identity`` or ``Cache-Control: no-transform``, and a client with the
    latter (RFC 9111, 5.2.1.6 and 5.2.2.6).
    """
    if status[:3] != "200" or any(name.lower() == "content-encoding" for name, _ in headers):
        return False
    said = [request.environ.get("HTTP_CACHE_CONTROL", ""), *_values(headers, "cache-control")]
    return not any(directive.lower() == "no-transform" for directive in parse_dict_header(",".join(said)))


def _with_vary(headers: Headers) -> Headers:
    """Say to caches that the body depends on Accept-Encoding, also if this client's is not encoded."""
    vary = parse_set_header(",".join(_values(headers, "vary")))
    if "*" in vary or "accept-encoding" in vary:
        return headers
    vary.add("Accept-Encoding")
    return [*((name, value) for name, value in headers if name.lower() != "vary"), ("Vary", ", ".join(vary))]


def _values(headers: Headers, wanted: str) -> list[str]:
    return [value for name, value in headers if name.lower() == wanted]
