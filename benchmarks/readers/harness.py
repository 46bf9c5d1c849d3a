"""Ask a reader for an event, and judge what it got: whole, refused by the reader itself, too late, or not what was sent.

>>> with serving(folder) as server, all_readers(folder) as readers:
...     server.ask(readers["WebKit"], "fold", "orders", 10_000_000, within=60)
Reading(verdict=Verdict.WHOLE, milliseconds=95.0, said='')

Times are milliseconds from the request to the whole event in the hands of the reader's user, on the reader's own clock: what
it costs the server to fold is in them. Each program is a process of its own; a browser is one as long as it answers.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from enum import Enum
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple, Protocol, cast
from urllib.request import urlopen

import psutil

from ssemiddleware.__main__ import CLIENT
from tests.browsers.driving import ENGINES, Browser, ScriptFailed, environment, running

from .documents import document
from .python_reader import READERS

WAYS = ("plain", "fold", "fragment")
NPM_PACKAGES = ("eventsource@4.1.1", "eventsource-parser@3.1.1")
NODE_REMEDY = "apt-get install nodejs npm"

_HERE = Path(__file__).resolve().parent
_ROOT = _HERE.parent.parent
_OLDEST_NODE = 20  # that eventsource 4 runs on
_PREPARES_WITHIN = 60.0  # seconds
_INSTALLS_WITHIN = 300.0


class Verdict(Enum):
    """What happened to an event."""

    WHOLE = "whole"
    REFUSED = "refused"  # by the reader, with an error of its own
    LATE = "late"  # not there when the time was over
    WRONG = "wrong"


class Reading(NamedTuple):
    """What a reader got. *said*: the reader's own error, how long it had, or what it got instead."""

    verdict: Verdict
    milliseconds: float = 0.0
    said: str = ""


class Refused(Exception):
    """The reader has an error of its own instead of the event."""


Reported = Mapping[str, Any]  # what `python_reader.reported` and the like return for an event


class Reader(Protocol):
    """A reader of an event stream."""

    @property
    def name(self) -> str:
        """Its usual name."""

    def read(self, url: str, *, joins: bool, within: float) -> Reported:
        """Read one event, which comes in fragments if it *joins* them.

        Raises `Refused`, and `TimeoutError` if that takes longer than *within* seconds.
        """


# -- The readers


class Program(NamedTuple):
    """A reader that is a program. *joining*: the arguments that make it join fragments."""

    name: str
    command: tuple[str, ...]
    arguments: tuple[str, ...] = ()
    joining: tuple[str, ...] = ()

    def read(self, url: str, *, joins: bool, within: float) -> Reported:
        """Run the program."""
        command = (*self.command, url, *self.arguments, *(self.joining if joins else ()))
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=within, check=False)
        except subprocess.TimeoutExpired:
            raise TimeoutError from None
        return _reported(json.loads(done.stdout) if done.stdout else {"error": done.stderr})


def _reported(reported: Reported) -> Reported:
    if "error" in reported:
        raise Refused(reported["error"])
    return reported


class Page:
    """A reader that is a page in a browser, which is started when it is first asked, and again when it had to be killed."""

    def __init__(self, name: str, engine: str, folder: Path) -> None:
        self.name = name
        self._engine = ENGINES[engine]
        self._folder = folder
        self._stack = ExitStack()
        self._browser: Browser | None = None
        self._processes: set[psutil.Process] = set()
        self._killed = threading.Event()

    def read(self, url: str, *, joins: bool, within: float) -> Reported:
        """Load the page anew, and have it read."""
        browser = self._browser or self._start()
        browser.open(url.partition("/")[0] + "//" + url.split("/")[2] + "/")
        # A page that is busy with a long line notices no timeout, so this is the only one.
        timer = threading.Timer(within, self._kill)
        timer.start()
        try:
            script = "return read(arguments[0], arguments[1]);"
            return cast(Reported, browser.run(script, url, joins, timeout=within + 60))
        except Exception as error:
            if self._killed.is_set():
                raise TimeoutError from None
            if isinstance(error, ScriptFailed):
                raise Refused(str(error)) from None
            raise
        finally:
            timer.cancel()
            timer.join()
            if self._killed.is_set():
                self.close()

    def close(self) -> None:
        """End the browser."""
        self._browser = None
        if self._killed.is_set():
            with suppress(Exception):  # its driver misses it
                self._stack.close()
            self._killed.clear()
        else:
            self._stack.close()

    def _start(self) -> Browser:
        before = set(psutil.Process().children())
        profile = Path(tempfile.mkdtemp(dir=self._folder))
        self._browser = self._stack.enter_context(self._engine.start(profile))
        self._processes = set(psutil.Process().children()) - before
        return self._browser

    def _kill(self) -> None:
        self._killed.set()
        for process in self._processes:
            with suppress(psutil.NoSuchProcess):
                for each in (*process.children(recursive=True), process):
                    with suppress(psutil.NoSuchProcess):
                        each.kill()


BROWSERS = {"chromium": "Chromium", "webkit": "WebKit", "firefox": "Firefox"}


@contextmanager
def page_reader(engine: str, folder: Path) -> Iterator[Page]:
    """Start a browser, and end it at the end of the ``with`` block."""
    page = Page(BROWSERS[engine], engine, folder)
    try:
        yield page
    finally:
        page.close()


def python_readers() -> dict[str, Program]:
    """Return the Python clients whose packages are there."""
    program = (sys.executable, str(_HERE / "python_reader.py"))
    there = [name for name, (_, modules) in READERS.items() if not lacking(modules)]
    return {name: Program(name, (*program, name)) for name in there}


def lacking(modules: tuple[str, ...]) -> list[str]:
    """Return which of *modules* are not installed."""
    return [module for module in modules if importlib.util.find_spec(module) is None]


def node_readers(packages: Path) -> dict[str, Program]:
    """Return the clients that `install_npm_packages` has put into the folder *packages*."""
    program = ("node", str(_HERE / "node_reader.mjs"))
    names = [package.partition("@")[0] for package in NPM_PACKAGES]
    return {name: Program(name, (*program, name), (str(packages),), (str(CLIENT),)) for name in names}


def lacks_node() -> list[str]:
    """Return which programs are missing that npm's packages need."""
    missing = [program for program in ("node", "npm") if not shutil.which(program)]
    if "node" not in missing:
        version = subprocess.run(["node", "--version"], capture_output=True, text=True, check=True).stdout.strip()
        found = re.match(r"v(\d+)", version)
        if found is None or int(found[1]) < _OLDEST_NODE:
            missing.append(f"node {_OLDEST_NODE} or newer (there is {version})")
    return missing


def install_npm_packages(folder: Path, packages: tuple[str, ...] = NPM_PACKAGES) -> None:
    """Install *packages* in their versions; raises `RuntimeError` with what npm said if it cannot."""
    # Without a package.json npm would look for one in the folders above.
    (folder / "package.json").write_text('{"private": true}')
    command = ("npm", "install", "--no-audit", "--no-fund", "--no-package-lock", "--ignore-scripts", *packages)
    try:
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=_INSTALLS_WITHIN, check=False)
    except subprocess.TimeoutExpired:
        raise RuntimeError(f"npm install has not ended within {_INSTALLS_WITHIN:.0f} s") from None
    if done.returncode:
        raise RuntimeError(f"npm install failed:\n{done.stderr}")


# -- The server, and what it is asked for


class Server(NamedTuple):
    """A gunicorn with `application` in it. *url* ends with a slash."""

    url: str

    @property
    def port(self) -> int:
        """Return where it listens."""
        return int(self.url.split(":")[2].rstrip("/"))

    def ask(self, reader: Reader, way: str, kind: str, size: int, *, within: float) -> Reading:
        """Have *reader* read a `documents.document` as one event, and judge what it got."""
        with urlopen(f"{self.url}prepared/{kind}/{size}", timeout=_PREPARES_WITHIN):
            pass
        url = f"{self.url}{way}/{kind}/{size}"
        joins = way == "fragment"
        try:
            reported = reader.read(url + "?sse-fragments=1" if joins else url, joins=joins, within=within)
        except TimeoutError:
            return Reading(Verdict.LATE, said=f"longer than {within:g} s")
        except Refused as error:
            return Reading(Verdict.REFUSED, said=str(error))
        is_folded = way == "fold" and kind != "image" and size > 61440
        expected = {"type": "report", "id": "42", "size": size, "sha256": _sha256(kind, size)}
        if any(reported[name] != value for name, value in expected.items()) or (reported["lines"] > 1) != is_folded:
            return Reading(Verdict.WRONG, reported["milliseconds"], f"{reported} instead of {expected} folded: {is_folded}")
        return Reading(Verdict.WHOLE, reported["milliseconds"])


@lru_cache
def _sha256(kind: str, size: int) -> str:
    return hashlib.sha256(document(kind, size)).hexdigest()


@contextmanager
def serving(folder: Path) -> Iterator[Server]:
    """Run gunicorn with one worker of threads until the end of the ``with`` block; its log is in *folder*."""
    log = folder / "gunicorn.log"
    paths = [str(_ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    env = {**environment(folder), "PYTHONPATH": os.pathsep.join(paths)}
    options = [
        "--worker-class",
        "gthread",
        "--threads",
        "8",
        "--timeout",
        "0",
        "--graceful-timeout",
        "1",
        "--log-level",
        "warning",
    ]
    with ExitStack() as stack:
        with socket.create_server(("127.0.0.1", 0)) as listener:
            url, fd = f"http://127.0.0.1:{listener.getsockname()[1]}/", listener.fileno()
            command = ("-m", "gunicorn", "--bind", f"fd://{fd}", *options, "benchmarks.readers.application:served")
            stack.enter_context(running(sys.executable, *command, log=log, env=env, pass_fds=(fd,)))
        try:
            with urlopen(url, timeout=_PREPARES_WITHIN):  # it listens already, and answers once it has started
                pass
        except OSError as error:
            raise RuntimeError(f"gunicorn does not answer:\n{log.read_text()}") from error
        yield Server(url)
