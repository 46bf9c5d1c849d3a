"""What stands in examples/deployment is valid, and no restart of the server is the end of an EventSource."""

from __future__ import annotations

import os
import re
import shutil
import socket
import ssl
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from .columns import Route
from .proxied import WRAPPED
from .proxies import nginx
from .proxies.configuration import EXAMPLES, Configuration, example, require, start_proxy
from .restarting import restart
from .serving import START_WITHIN, Kind, gunicorn, start, start_again

pytestmark = pytest.mark.live

ROOT = EXAMPLES.parents[1]
DEPLOYMENT = EXAMPLES.parent / "deployment"
COMPOSE = (DEPLOYMENT / "compose.yaml").read_text(encoding="utf-8")
APPLICATION = "live.proxied:app"
AWAY = 6.0  # seconds, longer than the most that a client waits: 3 s, half as much again

UNCONFIGURED = Configuration("proxy_pass only", nginx.DEBIAN, nginx.SERVER % "")
CONFIGURED = example(nginx.DEBIAN, "configured", "nginx.conf")
OF_COMPOSE = Configuration(
    "of compose.yaml",
    nginx.DEBIAN,
    (DEPLOYMENT / "nginx.conf")
    .read_text(encoding="utf-8")
    .replace("demo:8000", "127.0.0.1:8000")
    .replace("listen ", "listen 127.0.0.1:"),
)
GUNICORN = gunicorn("gthread", "--config", str(DEPLOYMENT / "gunicorn.conf.py"), "--workers=1")


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    """The socket that systemd holds."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield listener


AS_SYSTEMD = """
import os, sys
os.dup2(int(sys.argv[1]), 3)
os.environ |= {"LISTEN_FDS": "1", "LISTEN_PID": str(os.getpid())}
os.execv(sys.executable, [sys.executable, "-m", "gunicorn", *sys.argv[2:]])
"""


def activated_by(listener: socket.socket) -> Kind:
    """Return gunicorn as shop.service starts it: with a socket that listens already."""
    listener.set_inheritable(True)
    config = f"--config={DEPLOYMENT / 'gunicorn.conf.py'}"

    def command(application: str, port: int) -> list[str]:
        return [sys.executable, "-c", AS_SYSTEMD, str(listener.fileno()), config, "--workers=1", application]

    return Kind("gunicorn with systemd's socket", command, ("gunicorn",))


class Restarts:
    """gunicorn, which is away for a while when it restarts."""

    def __init__(self, kind: Kind, folder: Path, port: int | None = None) -> None:
        self._folder = folder
        self.server = start(kind, APPLICATION, folder, port=port)

    def restart(self) -> None:
        self.server.process.terminate()
        self.server.process.wait(60)
        time.sleep(AWAY)
        self.server = start_again(self.server, APPLICATION, self._folder)


@pytest.mark.parametrize(
    ("configuration", "kind", "dies"),
    [
        pytest.param(UNCONFIGURED, GUNICORN, True, id="neither"),
        pytest.param(CONFIGURED, GUNICORN, False, id="error_page"),
        pytest.param(OF_COMPOSE, GUNICORN, False, id="error_page of compose.yaml"),
    ],
)
def test_an_event_source_survives_a_server_that_is_away_for_longer_than_it_waits(
    configuration: Configuration, kind: Kind, dies: bool, folder: Path, trust: ssl.SSLContext
) -> None:
    survives(configuration, Restarts(kind, folder), folder, trust, dies=dies)


def test_behind_systemd_s_socket_requests_wait_for_the_server(
    listener: socket.socket, folder: Path, trust: ssl.SSLContext
) -> None:
    gunicorn_of_systemd = Restarts(activated_by(listener), folder, listener.getsockname()[1])
    survives(UNCONFIGURED, gunicorn_of_systemd, folder, trust, dies=False)


def test_gunicorn_tells_systemd_that_it_is_ready(
    listener: socket.socket, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Systemd waits for that: the unit is of ``Type=notify``."""
    assert "\nType=notify\n" in (DEPLOYMENT / "shop.service").read_text(encoding="utf-8")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
        systemd.bind(str(folder / "notify"))
        systemd.settimeout(START_WITHIN)
        monkeypatch.setenv("NOTIFY_SOCKET", str(folder / "notify"))
        server = start(activated_by(listener), APPLICATION, folder, port=listener.getsockname()[1])
        try:
            assert systemd.recv(1000).startswith(b"READY=1\n")
        finally:
            server.end()


def survives(configuration: Configuration, upstream: Restarts, folder: Path, trust: ssl.SSLContext, *, dies: bool) -> None:
    with ExitStack() as servers:
        servers.callback(lambda: upstream.server.end())
        require(configuration)
        proxy = start_proxy(configuration, upstream.server, folder, trust, idle=60)
        servers.callback(proxy.end)
        [cell] = restart([Route(proxy, upstream.server, WRAPPED)], upstream.restart)
        assert cell.is_right is not dies, cell
        assert not dies or "died of a 502" in cell.says


def test_the_units_are_valid(tmp_path: Path) -> None:
    if shutil.which("systemd-analyze") is None:
        pytest.skip("no systemd-analyze: apt-get install systemd")
    for name in ("shop.service", "shop.socket"):
        text = (DEPLOYMENT / name).read_text(encoding="utf-8")
        (tmp_path / name).write_text(text.replace("/srv/shop/venv/bin/gunicorn", "/bin/true"), encoding="utf-8")
    paths = [str(tmp_path / name) for name in ("shop.service", "shop.socket")]
    checked = subprocess.run(["systemd-analyze", "verify", *paths], capture_output=True, text=True, check=False)
    assert (checked.returncode, checked.stderr) == (0, "")


def test_the_compose_file_is_valid() -> None:
    program = next((each for each in (["docker", "compose"], ["docker-compose"]) if works(each)), None)
    if program is None:
        pytest.skip("no docker compose: apt-get install docker-compose")
    command = [*program, "--file", str(DEPLOYMENT / "compose.yaml"), "config", "--quiet"]
    checked = subprocess.run(command, capture_output=True, text=True, check=False)
    assert checked.returncode == 0, checked.stderr


def works(program: list[str]) -> bool:
    if shutil.which(program[0]) is None:
        return False
    return subprocess.run([*program, "version"], capture_output=True, check=False).returncode == 0


@pytest.mark.usefixtures("own_network")
def test_the_compose_file_s_commands_serve_the_demo_through_nginx(folder: Path) -> None:
    """Before the server is there, while it is, and after it has been stopped."""
    if shutil.which("curl") is None:
        pytest.skip("no curl: apt-get install curl")
    require(OF_COMPOSE)
    room = Path(tempfile.mkdtemp(dir=folder))
    nginx.arguments(room, (DEPLOYMENT / "nginx.conf").read_text(encoding="utf-8"), 60, 8080)
    for file in re.findall(r"- [.]/(\S+?):", COMPOSE):
        if not (room / file).exists():
            shutil.copy(DEPLOYMENT / file, room)
    arguments = [sys.executable, "-m", "tests.live.composed", str(nginx.DEBIAN.path()), str(room)]
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    composed = subprocess.run(
        ["unshare", "--map-root-user", "--net", *arguments],
        cwd=ROOT,
        env={**os.environ, "PATH": path},
        capture_output=True,
        text=True,
        timeout=110,
        check=False,
    )
    assert composed.returncode == 0, composed.stderr
    got = {moment.name: moment.read_text(encoding="utf-8") for moment in room.glob("a *")}
    assert "502 Bad Gateway" in got["a page before"]
    assert got["a stream before"] == got["a stream after"] == "retry: 3000\n\n"
    assert "event streams, bare and wrapped" in got["a page"]
    assert re.fullmatch(r"(id: \d+\ndata: .*\n\n)+retry: \d+\n\n", got["a stream"]), got["a stream"]


def test_the_image_has_all_that_the_package_is_built_from() -> None:
    dockerfile = (DEPLOYMENT / "Dockerfile").read_text(encoding="utf-8")
    copied = " ".join(re.findall(r"^COPY (.*) \S+$", dockerfile, re.MULTILINE)).split()
    project = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    (readme,) = re.findall(r'^readme = "(.*)"$', project, re.MULTILINE)
    (license_files,) = re.findall(r'^license-files = \["(.*)"\]$', project, re.MULTILINE)
    assert sorted(copied) == sorted(["pyproject.toml", readme, license_files, "ssemiddleware"])
    assert all((ROOT / name).exists() for name in copied)


def test_each_supervisor_waits_for_longer_than_gunicorn_does() -> None:
    (grace,) = re.findall(
        r"^graceful_timeout = (\d+)", (DEPLOYMENT / "gunicorn.conf.py").read_text(encoding="utf-8"), re.MULTILINE
    )
    (of_systemd,) = re.findall(
        r"^TimeoutStopSec=(\d+)$", (DEPLOYMENT / "shop.service").read_text(encoding="utf-8"), re.MULTILINE
    )
    (of_docker,) = re.findall(r"^ +stop_grace_period: (\d+)s$", COMPOSE, re.MULTILINE)
    assert int(grace) < min(int(of_systemd), int(of_docker))
