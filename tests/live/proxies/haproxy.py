"""HAProxy, with the times that Debian's /etc/haproxy/haproxy.cfg has."""

from __future__ import annotations

import shutil
from pathlib import Path

from .configuration import Configuration, Program, example


def arguments(room: Path, text: str, idle: int, port: int) -> list[str]:
    (room / "haproxy.cfg").write_text(text.replace(f"{HAPROXY.own_idle}s", f"{idle}s"))
    return ["-db", "-f", str(room / "haproxy.cfg")]


HAPROXY = Program("HAProxy", lambda: shutil.which("haproxy"), "apt-get install haproxy", arguments, 50)

TEXT = """
global
    maxconn 500
defaults
    mode http
    timeout connect 5s
    timeout client 50s
    timeout server 50s
frontend shop
    bind 127.0.0.1:8080
    default_backend gunicorn
backend gunicorn
    server one 127.0.0.1:8000
"""
COMPRESSION = "    compression algo gzip\n    compression type text/event-stream\n"

LATE = dict.fromkeys(("largest delay", "compressed"), "it waits 200 ms for more of a chunked response")

CONFIGURATIONS = [
    Configuration("Debian's defaults", HAPROXY, TEXT, LATE, disconnects=False),
    Configuration("compression", HAPROXY, TEXT + COMPRESSION, LATE, disconnects=False),
    example(HAPROXY, "configured", "haproxy.cfg"),
]
