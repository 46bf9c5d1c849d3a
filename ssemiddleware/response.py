"""Is this response an event stream, and which headers keep its way unbuffered: pure functions on headers.

>>> is_event_stream([("Content-Type", "Text/Event-Stream; charset=utf-8")])
True
>>> amend([("Content-Type", "text/event-stream"), ("Connection", "keep-alive")])[1]
['Connection']
"""

from __future__ import annotations

from functools import lru_cache

from werkzeug.http import dump_options_header, is_hop_by_hop_header, parse_dict_header, parse_options_header

from .event_stream import MEDIA_TYPE

Headers = list[tuple[str, str]]

# Beside the hop-by-hop headers of RFC 9110, section 7.6.1, which PEP 3333 forbids to applications: names that servers
# refuse as well, and two that speak of the body's exact bytes, to which we add.
_FALSE_FOR_A_STREAM = frozenset({"content-length", "etag", "proxy-connection", "trailers"})


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
    """Tell whether a comment may go into the body: to anything but a 200 that is not encoded a byte of ours is an error."""
    return status[:3] == "200" and not is_encoded(headers)


def amend(headers: Headers) -> tuple[Headers, list[str]]:
    """Return an event stream's headers as they should leave, and the names of those dropped.

    ``Cache-Control`` gains ``no-cache`` (shared caches replay the stream to other users without it) and ``no-transform``
    (against compression that holds events back), ``X-Accel-Buffering: no`` tells nginx not to buffer, and the character
    set is UTF-8, as WHATWG 9.2.5 has it (Chromium refuses another, ``requests`` assumes Latin-1 where there is none).
    """
    given = tuple([(name, value) for name, value in headers])
    amended, dropped = _amended_before(given) if len(given) <= _FEW else _amended(given)
    return list(amended), list(dropped)


def _amended(headers: tuple[tuple[str, str], ...]) -> tuple[Headers, list[str]]:
    dropped = [name for name, _ in headers if is_hop_by_hop_header(name) or name.lower() in _FALSE_FOR_A_STREAM]
    kept = [(name, value) for name, value in headers if name not in dropped]
    kept = [(name, _in_utf8(value) if name.lower() == "content-type" else value) for name, value in kept]
    kept = _with_cache_control(kept)
    if not any(name.lower() == "x-accel-buffering" for name, _ in kept):
        kept.append(("X-Accel-Buffering", "no"))
    return kept, dropped


# An application's streams have the same few headers, as a rule. More of them may hold a cookie, which is not for keeping.
_FEW = 3
_amended_before = lru_cache(maxsize=64)(_amended)


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
    # A directive with an argument (no-cache="Set-Cookie") speaks of some headers only, and so does not count.
    directives = parse_dict_header(",".join(values)) if values else {}
    given = {name.lower() for name, argument in directives.items() if argument is None}
    missing = [] if given & {"no-cache", "no-store"} else ["no-cache"]
    if "no-transform" not in given:
        missing.append("no-transform")
    if not missing:
        return headers
    others = [(name, value) for name, value in headers if name.lower() != "cache-control"]
    return [*others, ("Cache-Control", ", ".join([value for value in values if value.strip()] + missing))]
