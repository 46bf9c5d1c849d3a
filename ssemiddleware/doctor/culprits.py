"""The proxies between a client and its stream, as far as the headers show them, and the line that cures each."""

from __future__ import annotations

import re
from typing import NamedTuple

BUFFERED, COMPRESSED, CUT, CACHED = "buffered", "compressed", "cut", "cached"

# A name among the headers: its value is the body of the answer to a malformed request. The proxy that is nearest to the client
# writes that answer itself. In its other answers, the header `Server` may be that of the server behind it.
REFUSAL = "refusal"

Headers = list[tuple[str, str]]


class Remedy(NamedTuple):
    """A *line* to paste, and *where* it belongs."""

    line: str
    where: str


class Hop(NamedTuple):
    """A proxy: its *name*, the headers that reveal it, and its remedies by what it does to a stream."""

    name: str
    marks: dict[str, str]  # header -> regular expression
    remedies: dict[str, Remedy]


_LOCATION = "in the `location` of nginx (of the outer one, if there are two)"
_NGINX = {
    BUFFERED: Remedy("proxy_buffering off;", _LOCATION),
    COMPRESSED: Remedy("proxy_buffering off;", _LOCATION),  # its gzip and brotli then flush each event
    CUT: Remedy("proxy_read_timeout 1h;", _LOCATION),
    CACHED: Remedy("proxy_cache off;", _LOCATION),
}
_PIPE = Remedy('if (req.http.Accept ~ "text/event-stream") { return (pipe); }', "in `sub vcl_recv` of Varnish")
_NO_TRANSFORM = Remedy("Cache-Control: no-cache, no-transform", "as a header of the response")

_HAPROXY_CUT = Remedy("timeout server 1h", "in the `backend` of HAProxy")
HAPROXY_LATE = Remedy("option http-no-delay", "in the `defaults` of HAProxy")

# In the usual order, from the client to the application.
HOPS = (
    Hop("Cloudflare", {"cf-ray": ".", "server": "cloudflare"}, {BUFFERED: _NO_TRANSFORM, COMPRESSED: _NO_TRANSFORM}),
    Hop("CloudFront", {"via": "CloudFront"}, {}),
    Hop("AWS' load balancer", {"server": "awselb"}, {CUT: Remedy("idle_timeout.timeout_seconds=4000", "as its attribute")}),
    Hop("Varnish", {"x-varnish": ".", "via": "varnish"}, {
        BUFFERED: _PIPE,
        COMPRESSED: _PIPE,
        CUT: Remedy("set bereq.between_bytes_timeout = 1h;", "in `sub vcl_backend_fetch` of Varnish"),
        CACHED: Remedy('if (req.http.Accept ~ "text/event-stream") { return (pass); }', "in `sub vcl_recv` of Varnish"),
    }),
    Hop("Squid", {"via": "squid", "x-squid-error": "."}, {CUT: Remedy("read_timeout 1 hour", "in squid.conf")}),
    Hop("nghttpx", {"via": "nghttpx"}, {CUT: Remedy("backend-read-timeout=1h", "in nghttpx.conf")}),
    Hop("Envoy", {"server": "envoy", "x-envoy-upstream-service-time": "."}, {
        CUT: Remedy("timeout: 0s", "in the `route` of Envoy"),
    }),
    Hop("Caddy", {"server": "Caddy", "via": "Caddy"}, {
        BUFFERED: Remedy("flush_interval -1", "in the `reverse_proxy` of Caddy"),
        COMPRESSED: Remedy(
            "encode gzip {\n\tmatch {\n\t\theader Content-Type text/html*\n\t\theader Content-Type application/json*\n\t}\n}",
            "in place of Caddy's `encode`",
        ),
        CUT: Remedy("read_timeout 1h", "in the `transport http` of Caddy's `reverse_proxy`"),
    }),
    Hop("HAProxy", {REFUSAL: "Your browser sent an invalid request"}, {COMPRESSED: _NO_TRANSFORM, CUT: _HAPROXY_CUT}),
    Hop("nginx", {"server": "nginx|openresty|tengine"}, _NGINX),
    Hop("Apache", {"server": "Apache"}, {
        BUFFERED: Remedy('ProxyPass "/events" "http://127.0.0.1:8000/events" flushpackets=on', "in Apache's virtual host"),
        COMPRESSED: Remedy("SetEnvIf Accept text/event-stream no-gzip no-brotli", "in Apache's virtual host"),
        CUT: Remedy("ProxyTimeout 3600", "in Apache's virtual host"),
    }),
    Hop("lighttpd", {"server": "lighttpd"}, {BUFFERED: Remedy("server.stream-response-body = 2", "in lighttpd.conf")}),
    Hop("Express", {"x-powered-by": "Express"}, {BUFFERED: _NO_TRANSFORM, COMPRESSED: _NO_TRANSFORM}),
)  # fmt: skip

_UNKNOWN = {
    BUFFERED: Remedy(
        "X-Accel-Buffering: no\nCache-Control: no-cache, no-transform",
        "as headers of the response (around a WSGI application, SSEMiddleware sends them)",
    ),
    COMPRESSED: _NO_TRANSFORM,
    CUT: Remedy(":", "as a line, after 15 s of silence (a comment, which SSEMiddleware sends)"),
    CACHED: Remedy("Cache-Control: no-cache, no-transform", "as a header of the response (SSEMiddleware adds it)"),
}

_ABOUT = 1.7  # seconds; a cut may be that much later or earlier

# Seconds of silence after which these cut a stream by default.
_CUT_AFTER = {
    15: "Envoy",
    30: "HAProxy, or the server's own limit for a worker",
    50: "HAProxy (as Debian configures it)",
    55: "Heroku's router",
    60: "nginx, Varnish, nghttpx or AWS' load balancer",
    100: "Cloudflare",
    300: "Apache",
}

# Seconds after which these cut a stream that is not silent.
_CUT_ALIVE = {
    15: ("Envoy, because of the timeout of its route", Remedy("timeout: 0s", "in the `route` of Envoy")),
    30: (
        "the server, which thinks that a worker with a stream hangs",
        Remedy("--worker-class gthread --threads 100", "on the server's command line, in place of a sync worker"),
    ),
}
_READ_THE_LOG = Remedy("journalctl --since '5 min ago'", "on the server: did something stop, or raise an exception?")


def hops_in(headers: Headers) -> list[Hop]:
    """Return the proxies that *headers* reveal."""
    return [
        hop
        for hop in HOPS
        if any(re.search(hop.marks.get(name.lower(), "(?!)"), value, re.IGNORECASE) for name, value in headers)
    ]


def culprit_and_remedy(fault: str, headers: Headers) -> tuple[str | None, Remedy]:
    """Return who may have done it, or None if that is unknown, and the line that cures it."""
    hops = hops_in(headers)
    able = [hop for hop in hops if fault in hop.remedies]
    if not able:
        return None, _UNKNOWN[fault]
    return " or ".join(hop.name for hop in able), able[0].remedies[fault]


def who_cuts_after(seconds: float, headers: Headers) -> tuple[str | None, Remedy]:
    """Return who may have cut a stream after *seconds* of silence, and the line that cures it."""
    culprit, remedy = culprit_and_remedy(CUT, headers)
    if culprit is not None:
        return culprit, remedy
    usual = next((who for usual, who in _CUT_AFTER.items() if abs(seconds - usual) < _ABOUT), None)
    return usual, _HAPROXY_CUT if usual is not None and usual.startswith("HAProxy") else remedy


def who_cuts_alive(seconds: float) -> tuple[str | None, Remedy]:
    """Return who may have cut a stream *seconds* after its beginning, and the line that cures it."""
    return next((each for usual, each in _CUT_ALIVE.items() if abs(seconds - usual) < _ABOUT), (None, _READ_THE_LOG))
