"""What the README and the pages show of a terminal is what a terminal shows, and their examples reach Redis and PostgreSQL."""

from __future__ import annotations

import importlib
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

import ssemiddleware
from ssemiddleware.testing import open_stream

from ..test_documents import DOCUMENTS, README, ROOT, blocks_of, no_source_is_left, run

pytestmark = pytest.mark.live

START_WITHIN = 60.0  # seconds
ADDRESS = "127.0.0.1:8000"  # the demo's by default


def sessions(name: str = "README.md") -> list[tuple[str, str]]:
    """Return the commands of a document's consoles, and what follows each."""
    return [
        (command, output)
        for console in blocks_of("console", name)
        for command, output in re.findall(r"\$ (.*)\n((?:(?!\$ ).*\n)*)", console)
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
    with (tmp_path / "output").open("wb") as output:
        with subprocess.Popen(command, stdout=output, stderr=output, start_new_session=True) as process:
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


needs_curl = pytest.mark.skipif(shutil.which("curl") is None, reason="no curl")


PAGES = [name for name in DOCUMENTS if name not in ("README.md", "docs/doctor.md") and sessions(name)]  # which have others


@needs_curl
@pytest.mark.parametrize("name", PAGES)
def test_curl_prints_what_a_page_shows(name: str, demo: tuple[subprocess.Popen[bytes], int]) -> None:
    _, port = demo
    with ThreadPoolExecutor(8) as terminals:
        outputs = terminals.map(lambda session: curl(session[0], port), sessions(name))
        for (command, shown), output in zip(sessions(name), outputs, strict=True):
            assert is_as_shown(output, shown), (command, output)


@needs_curl
def test_the_quickstart_s_commands_serve_its_application(tmp_path: Path) -> None:
    (code,) = (block for block in blocks_of("python", "docs/quickstart.md") if "/progress" in block)
    (shell,) = (block for block in blocks_of("sh", "docs/quickstart.md") if "hello:app" in block)
    install, serve, ask = shell.splitlines()
    assert install.startswith("pip install gunicorn ")
    (logging,) = (block for block in blocks_of("python", "docs/quickstart.md") if "logging" in block)
    (line,) = blocks_of("text", "docs/quickstart.md")
    (tmp_path / "hello.py").write_text(code + logging, encoding="utf-8")
    port = free_port()
    command = [sys.executable, "-m", *serve.split(), "--bind", f"127.0.0.1:{port}"]
    environment = {**os.environ, "PYTHONPATH": str(Path(ssemiddleware.__file__).parents[1])}
    with (tmp_path / "output").open("wb") as output:
        with subprocess.Popen(command, cwd=tmp_path, env=environment, stdout=output, stderr=output) as process:
            try:
                wait_for(port)
                shown = curl(ask, port)
            finally:
                process.terminate()
    assert re.findall("^data: .*", shown, re.MULTILINE)[-1] == 'data: {"percent":100}'
    assert line in (tmp_path / "output").read_text()


@needs_curl
def test_curl_prints_what_the_readme_shows(demo: tuple[subprocess.Popen[bytes], int]) -> None:
    _, port = demo
    silent = [session for session in sessions() if "/silent" in session[0]]
    assert len(silent) == 2
    with ThreadPoolExecutor(len(silent)) as terminals:
        outputs = terminals.map(lambda session: curl(session[0], port), silent)
        for (command, shown), output in zip(silent, outputs, strict=True):
            assert is_as_shown(output, shown), (command, output)


@needs_curl
@pytest.mark.parametrize("stop", [signal.SIGINT, signal.SIGTERM], ids=["Ctrl-C", "SIGTERM"])
def test_the_tickers_that_the_demo_names_end_as_the_readme_says(
    stop: signal.Signals, demo: tuple[subprocess.Popen[bytes], int], tmp_path: Path
) -> None:
    process, port = demo
    tickers = re.findall(r"^  (curl .*)$", (tmp_path / "output").read_text(), re.MULTILINE)
    with ThreadPoolExecutor(2) as terminals:
        bare, wrapped = (terminals.submit(curl, f"{each} -sS".replace(str(port), ADDRESS[-4:]), port) for each in tickers)
        time.sleep(2)
        if stop == signal.SIGINT:
            os.killpg(process.pid, stop)  # a terminal sends it to all of them
        else:
            process.send_signal(stop)
        (last_line,) = re.findall(r"its last line \(`([^`]+)`\)", README)
        assert is_as_shown(wrapped.result(), f"...\n{last_line}\n\n"), wrapped.result()
        (error,) = re.findall(r"`(curl: [^`]+)`", README)
        assert bare.result().endswith(error.replace("\n", " ") + "\n"), bare.result()


def test_the_doctor_and_lint_print_what_their_document_shows(demo: tuple[subprocess.Popen[bytes], int]) -> None:
    _, port = demo
    for command, shown in sessions("docs/doctor.md"):
        here = command.replace("python -m", f"{sys.executable} -m").replace(ADDRESS, f"127.0.0.1:{port}")
        ended = subprocess.run(["sh", "-c", here], capture_output=True, text=True, timeout=60, check=False)
        assert ended.returncode == 1, ended.stderr
        output = ended.stdout.replace(f"127.0.0.1:{port}", ADDRESS)
        assert re.sub(r"\d\.\d s", "", output.strip()) == re.sub(r"\d\.\d s", "", shown.strip())


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


@pytest.mark.parametrize("where", ["README.md", "docs/in-your-application.md", "examples"])
def test_what_redis_publishes_reaches_each_client(where: str, redis_port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    redis: Any = pytest.importorskip("redis")
    if where == "examples":
        monkeypatch.setenv("REDIS_URL", f"redis://127.0.0.1:{redis_port}")
        monkeypatch.syspath_prepend(ROOT / "examples")
        monkeypatch.delitem(sys.modules, "redis_broadcast", raising=False)
        app, path = importlib.import_module("redis_broadcast").app, "/events"
    else:
        document = run(where, monkeypatch)
        document["database"] = redis.Redis(port=redis_port)
        app, path = document["app"], "/news"
    with open_stream(app, path) as one, open_stream(app, path) as other:
        if where == "examples":
            assert app.test_client().post("/publish", data={"text": "Hello!"}).status_code == 204
        else:
            redis.Redis(port=redis_port).publish("news", "Hello!")
        assert one.next_event().data == other.next_event().data == "Hello!"
    assert no_source_is_left()


@pytest.fixture
def postgresql() -> Iterator[str]:
    """Start a server, on a Unix socket alone; return how to connect. It does not run as root."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin")) or [Path(shutil.which("initdb") or "/").parent]
    programs, options = found[-1], {} if os.geteuid() else {"user": "postgres"}
    if not (programs / "initdb").exists():
        pytest.skip("no PostgreSQL: apt-get install postgresql")
    with tempfile.TemporaryDirectory(prefix="pg") as name:  # the path of a socket is short, and every folder above is open
        folder = Path(name)
        if options:
            shutil.chown(folder, **options)
        quiet: dict[str, Any] = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, "cwd": folder, **options}
        data = str(folder / "data")
        subprocess.run([programs / "initdb", "--no-sync", "--auth=trust", "--username=shop", data], check=True, **quiet)
        command = [str(programs / "postgres"), "-D", data, "-k", name, "-c", "listen_addresses=", "-c", "fsync=off"]
        with subprocess.Popen(command, **quiet) as process:
            yield f"host={name} user=shop dbname=postgres"
            process.send_signal(signal.SIGINT)  # the fast stop: it waits for no client


def test_what_postgresql_notifies_reaches_each_client(postgresql: str, monkeypatch: pytest.MonkeyPatch) -> None:
    psycopg: Any = pytest.importorskip("psycopg")
    deadline = time.monotonic() + START_WITHIN
    while True:
        try:
            connection = psycopg.connect(postgresql, autocommit=True)
            break
        except psycopg.OperationalError:
            assert time.monotonic() < deadline
            time.sleep(0.05)
    document = run("docs/in-your-application.md", monkeypatch)
    document["POSTGRESQL"] = postgresql
    app = document["app"]
    with connection, open_stream(app, "/orders") as stream:
        with ThreadPoolExecutor(1) as other:
            published = other.submit(publish_orders, connection)
            assert stream.next_event().data == "order 7"
            published.result()
        app.wsgi_app.drain()
        list(stream)  # raises TimeoutError if it does not end


def publish_orders(connection: Any) -> None:
    """Notify the application, once it listens."""
    listens = "SELECT count(*) FROM pg_stat_activity WHERE query = 'LISTEN orders'"
    deadline = time.monotonic() + START_WITHIN
    while connection.execute(listens).fetchone() == (0,):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    connection.execute("NOTIFY orders, 'order 7'")
