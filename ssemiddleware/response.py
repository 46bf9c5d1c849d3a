"""Is this response an event stream, and which headers should it have? Pure functions on headers.

>>> is_event_stream([("Content-Type", "Text/Event-Stream; charset=utf-8")])
True
>>> amend([("Content-Type", "text/event-stream"), ("Connection", "keep-alive")])[1]
['Connection']
"""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

from werkzeug.http import dump_options_header, is_hop_by_hop_header, parse_dict_header, parse_options_header

from .event_stream import MEDIA_TYPE

Headers = list[tuple[str, str]]

# Beside the hop-by-hop headers of RFC 9110, section 7.6.1, which PEP 3333 forbids to applications: names that servers
# refuse as well, and those that describe the exact bytes of the body, to which we add (RFC 9110, RFC 9530 and what was before).
_OF_EXACT_BYTES = {"content-length", "etag", "content-digest", "repr-digest", "digest", "content-md5"}
_FALSE_FOR_A_STREAM = frozenset({"proxy-connection", "trailers"} | _OF_EXACT_BYTES)


def is_event_stream(headers: Headers) -> bool:
    """Tell whether the media type is ``text/event-stream``, in any case and with any parameters (RFC 9110, 8.3.1)."""
    for name, value in headers:
        if name.lower() == "content-type":
            return value.partition(";")[0].strip(" \t").lower() == MEDIA_TYPE
    return False


def is_encoded(headers: Headers) -> bool:
    """Tell whether the body is compressed or otherwise encoded, so that lines cannot be seen in it."""
    return any(name.lower() == "content-encoding" and value.strip().lower() not in ("", "identity") for name, value in headers)


def has_body(status: str) -> bool:
    """Tell whether a response of that status may have a body (RFC 9110, 15.2, 15.3.5 and 15.4.5)."""
    return not status.startswith("1") and status[:3] not in ("204", "304")


def takes_lines_of_ours(status: str, headers: Headers) -> bool:
    """Tell whether our lines may be added to the body: only to a 200 that is not encoded. Elsewhere they are an error."""
    return status[:3] == "200" and not is_encoded(headers)


def amend(headers: Headers) -> tuple[Headers, list[str]]:
    """Return the headers of an event stream as they should be sent, and the names of those that were dropped.

    ``Cache-Control`` gains ``no-cache`` (shared caches replay the stream to other users without it) and ``no-transform``
    (against compression that holds events back), ``X-Accel-Buffering: no`` tells nginx not to buffer, and the character
    set is UTF-8, as WHATWG 9.2.5 has it (Chromium refuses another, ``requests`` assumes Latin-1 where there is none).
    """
    dropped = [name for name, _ in headers if is_hop_by_hop_header(name) or name.lower() in _FALSE_FOR_A_STREAM]
    kept = [(name, value) for name, value in headers if name not in dropped]
    kept = [(name, _in_utf8(value) if name.lower() == "content-type" else value) for name, value in kept]
    kept = _with_cache_control(kept)
    if not any(name.lower() == "x-accel-buffering" for name, _ in kept):
        kept.append(("X-Accel-Buffering", "no"))
    return kept, dropped


class Head(NamedTuple):
    """The status and the headers of an event stream, read once."""

    headers: Headers  # as they should be sent; never changed
    dropped: list[str]  # the names of those that are not
    is_opaque: bool  # the body is encoded or must not exist, so its content cannot be seen
    takes_lines: bool  # lines of ours may be added to the body


def read_head(status: str, headers: Headers) -> Head:
    """Return what is to be known of an event stream's *status* and *headers*."""
    given = tuple([(name, value) for name, value in headers])
    return _known_head(status, given) if len(given) <= _FEW else _head(status, given)


def _head(status: str, headers: tuple[tuple[str, str], ...]) -> Head:
    given = list(headers)
    is_opaque = is_encoded(given) or not has_body(status)
    return Head(*amend(given), is_opaque, takes_lines_of_ours(status, given))


# The streams of an application usually have the same few headers. More headers may hold a cookie, which must not be cached.
_FEW = 3
_known_head = lru_cache(maxsize=64)(_head)


@lru_cache(maxsize=64)
def _in_utf8(content_type: str) -> str:
    media_type, options = parse_options_header(content_type)
    if options.get("charset", "").lower() == "utf-8":
        return content_type
    if "charset" not in options:
        return content_type.rstrip("; \t") + "; charset=utf-8"
    return dump_options_header(media_type, {**options, "charset": "utf-8"})


def _with_cache_control(headers: Headers) -> Headers:
    values = [value for name, value in headers if name.lower() == "cache-control"]
    # A directive with an argument (no-cache="Set-Cookie") is about some headers only, so it does not count.
    directives = parse_dict_header(",".join(values)) if values else {}
    given = {name.lower() for name, argument in directives.items() if argument is None}
    missing = [] if given & {"no-cache", "no-store"} else ["no-cache"]
    if "no-transform" not in given:
        missing.append("no-transform")
    if not missing:
        return headers
    others = [(name, value) for name, value in headers if name.lower() != "cache-control"]
    return [*others, ("Cache-Control", ", ".join([value for value in values if value.strip()] + missing))]
