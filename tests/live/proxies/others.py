"""Proxies of which a few lines are enough: Varnish, Squid, lighttpd and nghttpx."""

from __future__ import annotations

import shutil
from pathlib import Path

from .configuration import EXAMPLES, Configuration, Program, example

# -- Varnish


def varnish_arguments(room: Path, text: str, idle: int, port: int) -> list[str]:
    (room / "shop.vcl").write_text(text)
    times = [f"-p{name}={idle}" for name in ("between_bytes_timeout", "first_byte_timeout", "pipe_timeout")]
    listen = f"127.0.0.1:{port}"
    return [
        "-F",
        "-j",
        "none",
        "-n",
        str(room / "work"),
        "-s",
        "default,32m",
        "-a",
        listen,
        "-f",
        str(room / "shop.vcl"),
        *times,
    ]


VARNISH = Program("Varnish", lambda: shutil.which("varnishd"), "apt-get install varnish", varnish_arguments, 60, ("-V",))
VCL = 'vcl 4.1;\nbackend default { .host = "127.0.0.1"; .port = "8000"; }\n'
GZIP = 'sub vcl_backend_response { if (beresp.http.Content-Type ~ "text/event-stream") { set beresp.do_gzip = true; } }\n'

COMPRESSED = dict.fromkeys(
    ("first event", "largest delay", "large", "folded", "disconnect", "restart"),
    "do_gzip sends what it has compressed at the end of the response",
)

# -- Squid

SQUID_TEXT = """
http_port 127.0.0.1:8080 accel defaultsite=localhost
cache_peer 127.0.0.1 parent 8000 0 no-query originserver
http_access allow all
"""
SQUID_MAIN = """
pid_filename none
access_log none
cache_log /dev/null
cache_effective_user proxy
coredump_dir {room}
shutdown_lifetime 0 seconds
read_timeout {idle} seconds
"""


def squid_arguments(room: Path, text: str, idle: int, port: int) -> list[str]:
    (room / "squid.conf").write_text(SQUID_MAIN.format(room=room, idle=idle) + text)
    return ["-N", "-f", str(room / "squid.conf")]


SQUID = Program("Squid", lambda: shutil.which("squid"), "apt-get install squid", squid_arguments, 900)

# -- lighttpd

LIGHTTPD_TEXT = """
server.bind = "127.0.0.1"
server.port = 8080
server.modules += ("mod_proxy")
proxy.server = ("" => (("host" => "127.0.0.1", "port" => 8000)))
"""


def lighttpd_arguments(room: Path, text: str, idle: int, port: int) -> list[str]:
    main = f'server.document-root = "{room}"\nserver.upload-dirs = ("{room}")\n'
    (room / "lighttpd.conf").write_text(main + text)
    return ["-D", "-f", str(room / "lighttpd.conf")]


LIGHTTPD = Program("lighttpd", lambda: shutil.which("lighttpd"), "apt-get install lighttpd", lighttpd_arguments, 0)
HELD = dict.fromkeys(
    ("headers", "first event", "largest delay", "large", "folded", "compressed", "disconnect", "restart"),
    "by default it reads a response to its end before it sends it",
)

# -- nghttpx


def nghttpx_arguments(room: Path, text: str, idle: int, port: int) -> list[str]:
    (room / "nghttpx.conf").write_text(f"{text}\nbackend-read-timeout={idle}s\n")
    return [f"--conf={room / 'nghttpx.conf'}"]


NGHTTPX = Program("nghttpx", lambda: shutil.which("nghttpx"), "apt-get install nghttp2-proxy", nghttpx_arguments, 60)
NGHTTPX_TEXT = "frontend=127.0.0.1,8080;no-tls\nbackend=127.0.0.1,8000\nworkers=1\naccesslog-file=/dev/null\n"

CONFIGURATIONS = [
    Configuration("as installed", VARNISH, VCL, disconnects=False),
    Configuration("do_gzip", VARNISH, VCL + GZIP, COMPRESSED, disconnects=False),
    example(VARNISH, "configured", "varnish.vcl"),
    Configuration("configured, do_gzip", VARNISH, (EXAMPLES / "varnish.vcl").read_text(encoding="utf-8") + GZIP),
    Configuration("accelerator", SQUID, SQUID_TEXT),
    Configuration("mod_proxy only", LIGHTTPD, LIGHTTPD_TEXT, HELD, disconnects=False),
    example(LIGHTTPD, "configured", "lighttpd.conf", disconnects=False),
    Configuration("one backend", NGHTTPX, NGHTTPX_TEXT),
]
