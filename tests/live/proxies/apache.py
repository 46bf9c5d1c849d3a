"""Apache httpd."""

from __future__ import annotations

import shutil
from pathlib import Path

from .configuration import Configuration, Program, example

MODULES = ("mpm_event", "authz_core", "proxy", "proxy_http", "filter", "deflate", "brotli")

MAIN = """
ServerRoot {room}
ServerName localhost
User www-data
PidFile apache.pid
ErrorLog /dev/stderr
Listen 127.0.0.1:{port}
ProxyTimeout {idle}
Include {room}/site.conf
"""


def arguments(room: Path, text: str, idle: int, port: int) -> list[str]:
    modules = "".join(f"LoadModule {name}_module /usr/lib/apache2/modules/mod_{name}.so\n" for name in MODULES)
    (room / "apache.conf").write_text(modules + MAIN.format(room=room, port=port, idle=idle))
    (room / "site.conf").write_text(text)
    return ["-f", str(room / "apache.conf"), "-DFOREGROUND"]


APACHE = Program("Apache", lambda: shutil.which("apache2"), "apt-get install apache2", arguments, 300)
PASS = 'ProxyPass "/" "http://127.0.0.1:8000/"\n'

BROTLI = Configuration("brotli", APACHE, PASS + "AddOutputFilterByType BROTLI_COMPRESS text/event-stream\n", disconnects=False)
CONFIGURED = example(APACHE, "configured", "apache.conf", disconnects=False)
CONFIGURATIONS = [
    Configuration("ProxyPass only", APACHE, PASS, disconnects=False),
    Configuration("deflate", APACHE, PASS + "AddOutputFilterByType DEFLATE text/event-stream\n", disconnects=False),
    BROTLI,
    CONFIGURED,
]
