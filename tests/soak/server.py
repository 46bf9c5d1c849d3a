"""gunicorn as the soak runs it: started, reloaded, stopped and started again on one port, and looked into while it rests."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from typing import NamedTuple

import psutil

ROOT = Path(__file__).parents[2]
GRACE = 5  # seconds
WITHIN = 30.0  # seconds, on a machine that has other things to do


class Inside(NamedTuple):
    """What is in the worker, and in gunicorn's main process."""

    process: int
    open: int
    kept_threads: int
    threads: int
    descriptors: int
    resident: int  # bytes
    of_main_process: int  # descriptors


class Stuck(AssertionError):
    """The server does not do what it is asked to do."""


class Gunicorn:
    """A gunicorn with one worker."""

    def __init__(self, worker: str, threads: int, port: int, output: Path) -> None:
        self.worker, self.threads, self.port = worker, threads, port
        self._output = output
        self.process: psutil.Popen
        self.start()

    def start(self) -> None:
        """Start it, and return once it answers."""
        options = f"--worker-class {self.worker} --threads {self.threads} --worker-connections 1000 --log-level warning"
        times = f"--graceful-timeout {GRACE} --timeout 30"
        command = [sys.executable, "-m", "gunicorn", "--bind", f"127.0.0.1:{self.port}", *options.split(), *times.split()]
        with self._output.open("ab") as output:
            self.process = psutil.Popen(
                [*command, "tests.soak.application:app"], cwd=ROOT, stdout=output, stderr=subprocess.STDOUT
            )
        _wait_until(lambda: self._ask() is not None, f"{self.worker} does not answer")

    def reload(self) -> float:
        """Send SIGHUP; return after how many seconds the old worker was gone, and another answers."""
        stopped_at, old = time.monotonic(), self.process.children()
        self.process.send_signal(signal.SIGHUP)
        _wait_until(lambda: not any(each.is_running() for each in old), f"{self.worker}: the old worker stays after SIGHUP")
        _wait_until(lambda: self._ask() is not None, f"{self.worker} does not answer after SIGHUP")
        return time.monotonic() - stopped_at

    def restart(self) -> float:
        """Send SIGTERM, and start it again; return after how many seconds it was gone."""
        gone_after = self.end()
        self.start()
        return gone_after

    def end(self) -> float:
        """Send SIGTERM; return after how many seconds it was gone."""
        stopped_at, processes = time.monotonic(), [self.process, *self.process.children(recursive=True)]
        self.process.terminate()
        _, left = psutil.wait_procs(processes, timeout=WITHIN)
        for each in left:
            each.kill()
        if left:
            raise Stuck(f"{self.worker} stays after SIGTERM")
        return time.monotonic() - stopped_at

    def inside(self) -> Inside:
        """Return what is in it."""
        state = self._ask()
        if state is None:
            raise Stuck(f"{self.worker} does not answer")
        worker = psutil.Process(state["process"])
        with worker.oneshot():
            of_worker = worker.num_threads(), worker.num_fds(), worker.memory_info().rss
        return Inside(state["process"], state["open"], state["kept_threads"], *of_worker, self.process.num_fds())

    def output(self) -> str:
        """Return all that it has written."""
        return self._output.read_text(errors="replace")

    def _ask(self) -> dict[str, int] | None:
        connection = HTTPConnection("127.0.0.1", self.port, timeout=WITHIN)
        try:
            connection.request("GET", "/inside")
            state: dict[str, int] = json.loads(connection.getresponse().read())
        except (OSError, HTTPException):
            return None
        finally:
            connection.close()
        return state


def _wait_until(holds: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + WITHIN
    while not holds():
        if time.monotonic() > deadline:
            raise Stuck(what)
        time.sleep(0.05)
