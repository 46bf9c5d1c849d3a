"""Streams that are wrong on purpose: of small servers, and of proxies by default or with a line of configuration."""

from __future__ import annotations

import socketserver
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from .proxies import apache, caddy, envoy, haproxy, nginx, others
from .proxies.configuration import Configuration

# -- A server for each fault

Part = bytes | float | threading.Event  # what is sent, or for how long nothing is, or what is set then
HEAD = (
    b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream; charset=utf-8\r\nCache-Control: no-cache\r\n"
    b"Access-Control-Allow-Origin: *\r\nConnection: close\r\n"
)


def head(*, without: bytes = b"\0", more: bytes = b"") -> bytes:
    """Return the headers of a healthy stream, except those that begin with *without*, and with *more*."""
    lines = [line for line in HEAD.splitlines(keepends=True) if not line.startswith(without)]
    return b"".join(lines) + more + b"\r\n"


@contextmanager
def serve_parts(parts: Sequence[Part], *, answers_head: bool = True) -> Iterator[str]:
    """Answer each request with *parts*, and then close the connection. Yields the URL."""
    over = threading.Event()

    class Answer(socketserver.StreamRequestHandler):
        def handle(self) -> None:
            method = self.rfile.readline().split()[0]
            if method == b"HEAD" and answers_head:
                self.wfile.write(head())
                return
            try:
                for part in parts if method == b"GET" else [60.0]:
                    if over.is_set():
                        return
                    if isinstance(part, bytes):
                        self.wfile.write(part)
                    elif isinstance(part, threading.Event):
                        part.set()
                    else:
                        over.wait(part)
            except OSError:
                return

    class Servers(socketserver.ThreadingTCPServer):
        daemon_threads = True

    with Servers(("127.0.0.1", 0), Answer) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}/events"
        finally:
            over.set()
            server.shutdown()
            thread.join()


# -- Proxies

# Each with the place in its configuration where more lines go.
PROXIES = {
    "nginx": (nginx.DEBIAN, nginx.SERVER),
    "caddy": (caddy.DEBIAN, caddy.TEXT),
    "haproxy": (haproxy.HAPROXY, haproxy.TEXT.replace("frontend shop", "    %s\nfrontend shop")),
    "varnishd": (others.VARNISH, others.VCL + "sub vcl_backend_response { %s }\n"),
    "lighttpd": (others.LIGHTTPD, others.LIGHTTPD_TEXT + "%s\n"),
    "envoy": (envoy.ENVOY, envoy.DEFAULT.replace("timeout: 15s", "%s")),
    "apache2": (apache.APACHE, "%s\n" + apache.PASS),  # which takes the ProxyTimeout that stands before it
}


def configured(program: str, more: str) -> Configuration:
    """Return a proxy with *more* lines in its configuration."""
    proxy, text = PROXIES[program]
    return Configuration(more, proxy, text % more)
