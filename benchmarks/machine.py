"""What the figures were measured on."""

from __future__ import annotations

import platform
import resource
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import psutil

_SERVERS = ("gunicorn", "gevent", "uvicorn", "uvloop", "httptools", "a2wsgi", "starlette", "sse-starlette")
_PACKAGES = (*_SERVERS, "werkzeug", "psutil")


def allow_many_files() -> None:
    """Let this process, and those that it starts, have as many connections open as the system allows."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


def facts() -> list[str]:
    """Return machine, kernel, processor, Python, packages, and how busy the machine was, a line each."""
    python = f"{platform.python_implementation()} {platform.python_version()}"
    packages = ", ".join(f"{name} {found}" for name in _PACKAGES if (found := maybe_version(name)))
    hardware = f"{processor()}, {psutil.cpu_count()} cores, {psutil.virtual_memory().total / 2**30:.0f} GiB"
    return [
        f"{platform.system()} {platform.release()} on {platform.machine()}: {hardware}",
        f"{python}, {packages}",
        f"Load average of the minute before: {psutil.getloadavg()[0]:.2f}",
    ]


def processor() -> str:
    """Return the processor's name, as far as it is known."""
    with suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or "a processor without a name"


def maybe_version(package: str) -> str | None:
    """Return the version of an installed package."""
    try:
        return version(package)
    except PackageNotFoundError:
        return None
