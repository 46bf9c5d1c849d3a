"""What a proxy is and how it is configured, and how one is started on a free port.

A configuration is a text as in ``examples/proxies``: it listens on 8080 and asks port 8000. Here these become free ports.
"""

from __future__ import annotations

import os
import re
import ssl
import subprocess
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from ..serving import Kind, Server, free_port, start

EXAMPLES = Path(__file__).parents[3] / "examples" / "proxies"

SHORT_IDLE = 4  # seconds, in place of a proxy's own idle time


@dataclass(frozen=True)
class Program:
    """A proxy. *arguments* writes what it needs into a folder, and returns what its command takes."""

    name: str
    path: Callable[[], str | None]  # None where it is not installed
    remedy: str
    arguments: Callable[[Path, str, int, int], list[str]]  # of a folder, the configuration, the idle time and the port
    own_idle: int  # seconds of silence after which it gives up by default; 0: never
    version: tuple[str, ...] = ("-v",)

    def installed_version(self) -> str:
        """Return the version, as the program itself prints it."""
        printed = subprocess.run([self.path() or "", *self.version], capture_output=True, text=True, check=False)
        output = printed.stdout + printed.stderr
        found = re.search(r"\d+\.\d+\.\d+", output) or re.search(r"\d+\.\d+", output)
        return found[0] if found else "?"


@dataclass(frozen=True)
class Configuration:
    """One row of the table.

    *red*: what is still wrong behind the middleware, by its column, and why. *varies*: what is wrong at some times, and why.
    *disconnects*: whether it closes its connection to the server at once when its client has disconnected.
    """

    name: str
    program: Program
    text: str
    red: Mapping[str, str] = field(default_factory=dict)
    varies: Mapping[str, str] = field(default_factory=dict)
    http2: bool = False
    unix_socket: bool = False  # between the proxy and the server
    example: str = ""  # the file in `examples/proxies` that it is
    disconnects: bool = True

    def __str__(self) -> str:
        return f"{self.program.name}, {self.name}"


def example(program: Program, name: str, file: str, *, disconnects: bool = True) -> Configuration:
    """Return the configuration that stands in a file of `examples/proxies`."""
    return Configuration(name, program, (EXAMPLES / file).read_text(encoding="utf-8"), example=file, disconnects=disconnects)


def require(configuration: Configuration) -> None:
    """Skip, and say what is missing, where the proxy is not installed; fail where CI has installed it."""
    program = configuration.program
    if program.path() is not None:
        return
    reason = f"{program.name} is not installed: {program.remedy}"
    if os.environ.get("SSEMIDDLEWARE_REQUIRE_PROXIES"):
        pytest.fail(reason)
    pytest.skip(reason)


def start_proxy(
    configuration: Configuration, upstream: Server, folder: Path, trust: ssl.SSLContext, *, idle: int = SHORT_IDLE
) -> Server:
    """Start a proxy in front of *upstream*; *folder* has a certificate.pem, which *trust* trusts."""
    program = configuration.program

    def command(upstream_port: str, port: int) -> list[str]:
        room = Path(tempfile.mkdtemp(dir=folder))
        room.chmod(0o755)  # some give up root's rights
        replaced = {
            "8000": upstream_port,
            "/run/shop.sock": str(folder / f"server-{upstream_port}.sock"),
            "/etc/ssl/shop.pem": str(folder / "certificate.pem"),
            "8080": str(port),
            "8081": str(free_port()),  # between two tiers
        }
        pattern = "|".join(re.escape(each) for each in replaced)
        text = re.sub(pattern, lambda found: replaced[found[0]], configuration.text)
        return [program.path() or program.name, *program.arguments(room, text, idle, port)]

    kind = Kind(re.sub(r"[^\w. -]", " ", str(configuration)), command, ())
    return start(kind, str(upstream.port), folder, trust=trust if configuration.http2 else None)
