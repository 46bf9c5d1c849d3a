"""Run uWSGI behind nginx: ``behind_nginx PORT pyuwsgi ... --socket ADDRESS ...``; the address is replaced by a Unix socket."""

from __future__ import annotations

import os
import sys
from pathlib import Path

CONFIGURATION = """
daemon off; user root; worker_processes 1; pid {folder}/pid; error_log stderr warn;
events {{}}
http {{
    access_log off; client_body_temp_path {folder}; uwsgi_temp_path {folder}; proxy_temp_path {folder};
    fastcgi_temp_path {folder}; scgi_temp_path {folder};
    server {{
        listen 127.0.0.1:{port};
        location / {{ include /etc/nginx/uwsgi_params; uwsgi_pass unix:{folder}/uwsgi.sock; }}
    }}
}}
"""


def main(port: str, program: str, *options: str) -> None:
    """Become uWSGI, with nginx as a daemon of its own."""
    folder = Path(f"nginx-{port}").resolve()
    folder.mkdir()
    configuration = folder / "nginx.conf"
    configuration.write_text(CONFIGURATION.format(folder=folder, port=port), encoding="utf-8")
    given = list(options)
    given[given.index("--socket") + 1] = str(folder / "uwsgi.sock")
    os.execv(program, [program, *given, "--attach-daemon", f"nginx -c {configuration}"])


if __name__ == "__main__":
    main(*sys.argv[1:])
