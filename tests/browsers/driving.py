"""Chromium, WebKitGTK and Firefox behind one small interface, each with an empty profile and ended by its own process id.

>>> with ENGINES["firefox"].start(Path("/an/empty/folder")) as browser:
...     browser.open("http://127.0.0.1:8000/")
...     browser.run("return document.title")

Chromium and WebKitGTK are driven by their own drivers through Selenium, Firefox by the Marionette protocol that it speaks
itself. WebKitGTK's browser needs a display, and gets an X server of its own.
"""

from __future__ import annotations

import importlib.util
import json
import logging
import os
import shutil
import socket
import subprocess
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, ExitStack, closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import psutil

if TYPE_CHECKING:
    from selenium.webdriver.common.options import ArgOptions
    from selenium.webdriver.common.service import Service
    from selenium.webdriver.remote.webdriver import WebDriver

_log = logging.getLogger(__name__)

_START_WITHIN = 60.0  # seconds; about 3 are usual
_ANSWER_WITHIN = 60.0  # to anything but a script
_RUNS_WITHIN = 30.0  # a script that waits for nothing
_END_WITHIN = 5.0  # before a process is killed

# WebKitGTK's own browser, which stands beside the library that its driver needs.
_MINI_BROWSER = str(max(Path("/usr/lib").glob("*/webkit2gtk-*/MiniBrowser"), default="MiniBrowser"))

# A script is the body of an async function. It answers in JSON text, so that all drivers hand back the same.
_RUN = """
const done = arguments[arguments.length - 1];
(async function () { %s
}).apply(null, Array.from(arguments).slice(0, -1)).then(
    value => done(JSON.stringify([true, value === undefined ? null : value])),
    error => done(JSON.stringify([false, String(error)])));
"""


class ScriptFailed(AssertionError):
    """A script threw an error in its page."""


class Browser(Protocol):
    """One window of a running browser."""

    name: str

    def open(self, url: str) -> None:
        """Go to *url* and wait until the page has loaded."""

    def run(self, script: str, *args: object, timeout: float = _RUNS_WITHIN) -> object:
        """Run *script*, the body of an async function with *args* as its ``arguments``, and return what it returns.

        Arguments and result are JSON. Raises `ScriptFailed` if the script throws, and the driver's own error if it takes
        longer than *timeout* seconds.
        """


class Engine(NamedTuple):
    """How to start a browser, and what has to be installed for it."""

    start: Callable[[Path], AbstractContextManager[Browser]]  # takes an empty folder
    programs: tuple[str, ...]
    modules: tuple[str, ...]
    remedy: str  # on Debian

    def missing(self) -> list[str]:
        """Return what is not installed."""
        missing = [program for program in self.programs if not shutil.which(program)]
        return missing + [module for module in self.modules if importlib.util.find_spec(module) is None]


# -- Processes


@contextmanager
def running(*command: str, log: Path, env: dict[str, str] | None = None, pass_fds: tuple[int, ...] = ()) -> Iterator[int]:
    """Start *command* and give its process id; on leaving, end it and all that it has started."""
    with log.open("wb") as output:
        process = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT, env=env, pass_fds=pass_fds)
    with process, _ended_with_family(process.pid):
        yield process.pid


@contextmanager
def _ended_with_family(pid: int) -> Iterator[None]:
    family = _family(pid)
    try:
        yield
    finally:
        _end(family | _family(pid))


def _family(pid: int) -> set[psutil.Process]:
    """Return the process and all that it has started. Nothing has waited for *pid* yet, so it is no other process's."""
    try:
        parent = psutil.Process(pid)
        return {parent, *parent.children(recursive=True)}
    except psutil.NoSuchProcess:
        return set()


def _end(processes: Iterable[psutil.Process]) -> None:
    for signal in (psutil.Process.terminate, psutil.Process.kill):
        for process in processes:
            try:
                signal(process)  # does nothing to another process that got the same id since
            except psutil.NoSuchProcess:
                pass
        _, processes = psutil.wait_procs(processes, _END_WITHIN)


def environment(home: Path) -> dict[str, str]:
    """Return the environment without what leads to another profile or off this machine."""
    away = {name for name in os.environ if name.startswith("XDG_") or name.lower().endswith("_proxy")}
    return {**{name: value for name, value in os.environ.items() if name not in away}, "HOME": str(home)}


# -- Chromium and WebKitGTK


class _DrivenBrowser:
    def __init__(self, name: str, driver: WebDriver) -> None:
        self.name = name
        self._driver = driver
        driver.set_page_load_timeout(_ANSWER_WITHIN)

    def open(self, url: str) -> None:
        self._driver.get(url)

    def run(self, script: str, *args: object, timeout: float = _RUNS_WITHIN) -> object:
        self._driver.set_script_timeout(timeout)
        return _answer_of(self._driver.execute_async_script(_RUN % script, *args))


def _answer_of(text: object) -> object:
    assert isinstance(text, str)
    succeeded, value = json.loads(text)
    if not succeeded:
        raise ScriptFailed(value)
    return value


@contextmanager
def _driven(name: str, service: Service, options: ArgOptions) -> Iterator[Browser]:
    from selenium.webdriver.remote.client_config import ClientConfig
    from selenium.webdriver.remote.remote_connection import RemoteConnection
    from selenium.webdriver.remote.webdriver import WebDriver

    service.start()
    with ExitStack() as stack:
        stack.callback(service.stop)
        stack.enter_context(_ended_with_family(service.process.pid))
        driver = WebDriver(RemoteConnection(client_config=ClientConfig(service.service_url)), options=options)
        stack.callback(_quit, driver)
        yield _DrivenBrowser(name, driver)


def _quit(driver: WebDriver) -> None:
    try:
        driver.quit()
    except Exception:  # a browser that crashes now has answered all that was asked; what is left of it will be killed
        _log.warning("the browser did not quit", exc_info=True)


@contextmanager
def _chromium(folder: Path) -> Iterator[Browser]:
    from selenium.webdriver.chrome.options import Options
    from selenium.webdriver.chrome.service import Service

    options = Options()
    options.binary_location = _path_of("chromium")
    for argument in ("--headless=new", "--no-sandbox", f"--user-data-dir={folder}"):
        options.add_argument(argument)
    with _driven("chromium", Service(_path_of("chromedriver"), env=environment(folder)), options) as browser:
        yield browser


@contextmanager
def _webkit(folder: Path) -> Iterator[Browser]:
    from selenium.webdriver.webkitgtk.options import Options
    from selenium.webdriver.webkitgtk.service import Service

    options = Options()
    options.binary_location = _MINI_BROWSER
    options.add_argument("--automation")
    with _x_server(folder) as display:
        service = Service(_path_of("WebKitWebDriver"), env={**environment(folder), "DISPLAY": display})
        with _driven("webkit", service, options) as browser:
            yield browser


def _path_of(program: str) -> str:
    path = shutil.which(program)
    assert path is not None
    return path


@contextmanager
def _x_server(folder: Path) -> Iterator[str]:
    """Start an X server on a free display, which it finds by itself and writes to a pipe."""
    reading, writing = os.pipe()
    with ExitStack() as stack:
        numbers = stack.enter_context(os.fdopen(reading))
        with os.fdopen(writing, "wb"):
            command = ("Xvfb", "-displayfd", str(writing), "-screen", "0", "800x600x24", "-nolisten", "tcp")
            stack.enter_context(running(*command, log=folder / "Xvfb.log", pass_fds=(writing,)))
        number = numbers.readline().strip()
        assert number, (folder / "Xvfb.log").read_text()
        yield f":{number}"


# -- Firefox


class _Marionette:
    """Firefox's own protocol: JSON after its length, ``[0, id, command, parameters]`` and ``[1, id, error, result]``."""

    def __init__(self, port: int) -> None:
        self._connection = socket.create_connection(("127.0.0.1", port), _ANSWER_WITHIN)
        self._answers = self._connection.makefile("rb")
        self._read()  # the greeting

    def ask(self, command: str, timeout: float = _ANSWER_WITHIN, **parameters: object) -> object:
        """Send *command* and return the value of its result."""
        self._connection.settimeout(timeout)
        question = json.dumps([0, 1, command, parameters]).encode()
        self._connection.sendall(b"%d:%s" % (len(question), question))
        _, _, error, result = self._read()
        if error is not None:
            raise RuntimeError(f"{command}: {error['error']}: {error['message']}")
        return result.get("value")

    def close(self) -> None:
        self._answers.close()
        self._connection.close()

    def _read(self) -> Any:
        length = b""
        while not length.endswith(b":"):
            digit = self._answers.read(1)
            if not digit:
                raise ConnectionError("Firefox has closed the connection")
            length += digit
        return json.loads(self._answers.read(int(length[:-1])))


class _Firefox:
    def __init__(self, marionette: _Marionette) -> None:
        self.name = "firefox"
        self._marionette = marionette
        marionette.ask("WebDriver:NewSession", capabilities={})

    def open(self, url: str) -> None:
        self._marionette.ask("WebDriver:Navigate", url=url)

    def run(self, script: str, *args: object, timeout: float = _RUNS_WITHIN) -> object:
        self._marionette.ask("WebDriver:SetTimeouts", script=round(timeout * 1000))
        answer = self._marionette.ask(
            "WebDriver:ExecuteAsyncScript", timeout + _ANSWER_WITHIN, script=_RUN % script, args=list(args)
        )
        return _answer_of(answer)


@contextmanager
def _firefox(folder: Path) -> Iterator[Browser]:
    (folder / "user.js").write_text('user_pref("marionette.port", 0);')  # a free one
    log = folder / "firefox.log"
    command = ("firefox-esr", "--headless", "--marionette", "--no-remote", "--profile", str(folder), "about:blank")
    with running(*command, log=log, env=environment(folder)):
        with closing(_Marionette(_marionette_port(folder, log))) as marionette:
            yield _Firefox(marionette)


def _marionette_port(profile: Path, log: Path) -> int:
    chosen = profile / "MarionetteActivePort"
    deadline = time.monotonic() + _START_WITHIN
    while not (chosen.exists() and chosen.read_text()):
        assert time.monotonic() < deadline, log.read_text()
        time.sleep(0.05)
    return int(chosen.read_text())


ENGINES = {
    "chromium": Engine(
        _chromium,
        programs=("chromium", "chromedriver"),
        modules=("selenium",),
        remedy="apt-get install chromium chromium-driver; pip install selenium",
    ),
    "webkit": Engine(
        _webkit,
        programs=("WebKitWebDriver", _MINI_BROWSER, "Xvfb"),
        modules=("selenium",),
        remedy="apt-get install webkit2gtk-driver xvfb; pip install selenium",
    ),
    "firefox": Engine(_firefox, programs=("firefox-esr",), modules=(), remedy="apt-get install firefox-esr"),
}
