"""What the README shows of a terminal is what a terminal shows, and its Redis examples reach Redis."""

from __future__ import annotations

import importlib
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from ssemiddleware.testing import open_stream

from ..test_documents import README, ROOT, no_source_is_left, run

pytestmark = pytest.mark.live

START_WITHIN = 60.0  # seconds
ADDRESS = "127.0.0.1:8000"  # the demo's by default


def sessions() -> list[tuple[str, str]]:
    """Return the commands of the README's consoles, and what follows each."""
    consoles = re.findall(r"```console\n(.*?)```", README, re.DOTALL)
    return [
        (command, output) for console in consoles for command, output in re.findall(r"\$ (.*)\n((?:(?!\$ ).*\n)*)", console)
    ]


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
        return port


def wait_for(port: int) -> None:
    deadline = time.monotonic() + START_WITHIN
    while True:
        try:
            socket.create_connection(("127.0.0.1", port)).close()
        except ConnectionRefusedError:
            assert time.monotonic() < deadline
            time.sleep(0.05)
        else:
            return


@pytest.fixture
def demo(tmp_path: Path) -> Iterator[tuple[subprocess.Popen[bytes], int]]:
    port = free_port()
    command = [sys.executable, "-m", "ssemiddleware", "demo", "--port", str(port)]
    with (tmp_path / "output").open("wb") as output, subprocess.Popen(command, stdout=output, stderr=output) as process:
        wait_for(port)
        yield process, port
        process.terminate()


def curl(command: str, port: int) -> str:
    """Return what the command prints, as the README shows it: for other numbers its own stand there."""
    assert command.startswith("curl ")
    assert ADDRESS in command
    shown = subprocess.run(
        ["bash", "-c", command.replace(ADDRESS, f"127.0.0.1:{port}")],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        timeout=60,
        check=False,
    )
    return shown.stdout.decode().replace("\r\n", "\n")


def is_as_shown(output: str, shown: str) -> bool:
    """Tell whether *output* is what is *shown*, where "..." stands for whole lines, and a time to reconnect is any number."""
    pattern = re.escape(shown).replace(re.escape("...\n"), r"(?:.*\n)*")
    return re.fullmatch(re.sub(r"(retry:(?:\\ | ))\d+", r"\1\\d+", pattern), output) is not None


@pytest.mark.skipif(shutil.which("curl") is None, reason="no curl")
def test_curl_prints_what_the_readme_shows(demo: tuple[subprocess.Popen[bytes], int]) -> None:
    process, port = demo
    silent = [session for session in sessions() if "/silent" in session[0]]
    ticking = [session for session in sessions() if "/ticker" in session[0]]
    assert (len(silent), len(ticking)) == (2, 1)
    with ThreadPoolExecutor(len(silent)) as terminals:
        outputs = terminals.map(lambda session: curl(session[0], port), silent)
        for (command, shown), output in zip(silent, outputs, strict=True):
            assert is_as_shown(output, shown), (command, output)
    with ThreadPoolExecutor(2) as terminals:
        wrapped = terminals.submit(curl, ticking[0][0], port)
        bare = terminals.submit(curl, ticking[0][0].replace("/wrapped/", "/bare/"), port)
        time.sleep(2)
        process.send_signal(signal.SIGTERM)
        assert is_as_shown(wrapped.result(), ticking[0][1]), wrapped.result()
        (error,) = re.findall(r"`(curl: [^`]+)`", README)
        assert bare.result().endswith(error.replace("\n", " ") + "\n"), bare.result()


@pytest.fixture
def redis_port(tmp_path: Path) -> Iterator[int]:
    program = shutil.which("redis-server")
    if program is None:
        pytest.skip("no redis-server: apt-get install redis-server")
    port = free_port()
    command = [program, "--port", str(port), "--bind", "127.0.0.1", "--save", "", "--dir", str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL) as process:
        wait_for(port)
        yield port
        process.terminate()


@pytest.mark.parametrize("where", ["README.md", "examples"])
def test_what_redis_publishes_reaches_each_client(where: str, redis_port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    redis: Any = pytest.importorskip("redis")
    if where == "examples":
        monkeypatch.setenv("REDIS_URL", f"redis://127.0.0.1:{redis_port}")
        monkeypatch.syspath_prepend(ROOT / "examples")
        monkeypatch.delitem(sys.modules, "redis_broadcast", raising=False)
        app, path = importlib.import_module("redis_broadcast").app, "/events"
    else:
        readme = run("README.md", monkeypatch)
        readme["database"] = redis.Redis(port=redis_port)
        app, path = readme["app"], "/news"
    with open_stream(app, path) as one, open_stream(app, path) as other:
        if where == "examples":
            assert app.test_client().post("/publish", data={"text": "Hello!"}).status_code == 204
        else:
            redis.Redis(port=redis_port).publish("news", "Hello!")
        assert one.next_event().data == other.next_event().data == "Hello!"
    assert no_source_is_left()
