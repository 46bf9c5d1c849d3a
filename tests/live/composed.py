"""What `docker compose up` does with examples/deployment, without Docker: ``composed FOLDER`` in a network of its own.

The service ``demo`` starts after nginx, and stops while a stream is open. The folder has nginx's main file and what
compose.yaml mounts. What curl gets stands there afterwards, a file for each moment.
"""

from __future__ import annotations

import os
import re
import shlex
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

NAME_SERVER = "127.0.0.11"  # Docker's
WITHIN = 30.0  # seconds for each moment
EVENT_SOURCE = ("-H", "Accept: text/event-stream", "-H", "Cache-Control: no-cache")


class Names:
    """The name server. It knows *demo* once `has_demo` is set."""

    def __init__(self) -> None:
        self.has_demo = False
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._socket.bind((NAME_SERVER, 53))
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        while True:
            query, client = self._socket.recvfrom(512)
            self._socket.sendto(self._answer(query), client)

    def _answer(self, query: bytes) -> bytes:
        """RFC 1035, 4.1: the question once more, and an address if an IPv4 one was asked for."""
        asks_for_ipv4 = query.endswith(b"\0\1\0\1")
        address = b"\xc0\x0c\0\1\0\1\0\0\0\0\0\4\x7f\0\0\1" if self.has_demo and asks_for_ipv4 else b""
        flags = b"\x81\x80" if self.has_demo else b"\x81\x83"  # 3: there is no such name
        return query[:2] + flags + b"\0\1" + bytes([0, bool(address)]) + b"\0\0\0\0" + query[12:] + address


def ask(folder: Path, moment: str, path: str, *options: str) -> str:
    """Write what nginx answers into a file; return its status."""
    url = f"http://127.0.0.1:8080{path}"
    command = ["curl", "-sN", "-o", str(folder / moment), "-w", "%{http_code}", *options, url]
    return subprocess.run(command, capture_output=True, text=True, timeout=WITHIN, check=False).stdout


def ask_until(status: str, folder: Path, moment: str, path: str, *options: str) -> None:
    deadline = time.monotonic() + WITHIN
    while ask(folder, moment, path, *options) != status:
        assert time.monotonic() < deadline, f"{moment}: not {status}"
        time.sleep(0.1)


def main(nginx: str, folder: Path) -> None:
    """Bring it up."""
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
    compose = (Path(__file__).parents[2] / "examples" / "deployment" / "compose.yaml").read_text(encoding="utf-8")
    (command,) = re.findall(r"^ +command: (.*)$", compose, re.MULTILINE)
    names = Names()
    with subprocess.Popen([nginx, "-p", str(folder), "-c", "nginx.conf", "-e", "stderr"]) as web:
        try:
            ask_until("502", folder, "a page before", "/")
            ask_until("200", folder, "a stream before", "/wrapped/ticker", *EVENT_SOURCE)
            names.has_demo = True
            with subprocess.Popen(shlex.split(command), cwd=folder, env={**os.environ, "HOME": str(folder)}) as demo:
                try:
                    ask_until("200", folder, "a page", "/")
                    stop = threading.Timer(3, demo.terminate)  # as `docker stop` does
                    stop.start()
                    ask_until("200", folder, "a stream", "/wrapped/ticker", *EVENT_SOURCE)
                    stop.join()
                finally:
                    demo.terminate()
            ask_until("200", folder, "a stream after", "/wrapped/ticker", *EVENT_SOURCE)
        finally:
            web.terminate()


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
