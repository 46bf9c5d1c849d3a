"""Real servers as processes of their own, each on a free port, each ended by its own process id."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import psutil

from .memory_group import MemoryGroup
from .reading import answer_of

_STARTS_WITHIN = 30.0  # seconds
_ENDS_WITHIN = 10.0  # seconds; some streams never end by themselves, and gunicorn then waits for its grace

ROOT = Path(__file__).resolve().parent.parent


class Server(NamedTuple):
    """A server that answers."""

    port: int
    worker: psutil.Process  # the process that runs the application


def gunicorn(
    worker_class: str,
    *,
    workers: int = 1,
    threads: int = 8,
    application: str = "applications:served",
    group: MemoryGroup | None = None,
) -> contextlib.AbstractContextManager[Server]:
    """Run gunicorn with one of our applications in each worker; all of it in *group*."""
    options = (
        f"--workers {workers} --worker-class {worker_class} --threads {threads} --worker-connections 10000 "
        "--timeout 0 --graceful-timeout 1 --log-level warning"
    )
    port = _free_port()
    module = ["gunicorn", "--bind", f"127.0.0.1:{port}", *options.split(), f"benchmarks.{application}"]
    return _running(port, module, group)


def cpu_seconds(process: psutil.Process) -> float:
    """Return the seconds of a core that the process has taken so far, in the kernel and outside of it."""
    times = process.cpu_times()
    return float(times.user + times.system)


def uvicorn(application: str) -> contextlib.AbstractContextManager[Server]:
    """Run uvicorn with uvloop, one of `asgi`'s applications in it."""
    options = "--host 127.0.0.1 --loop uvloop --no-access-log --log-level warning --timeout-graceful-shutdown 1"
    port = _free_port()
    return _running(port, ["uvicorn", "--port", str(port), *options.split(), f"benchmarks.asgi:{application}"])


def granian(threads: int, application: str) -> contextlib.AbstractContextManager[Server]:
    """Run granian's WSGI mode with one of our applications in its one worker."""
    port = _free_port()
    options = f"--interface wsgi --workers 1 --blocking-threads {threads} --backpressure {threads} --no-ws --log-level warning"
    return _running(port, ["granian", "--port", str(port), *options.split(), f"benchmarks.{application}"])


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port: int = probe.getsockname()[1]
    return port


@contextlib.contextmanager
def _running(port: int, module: list[str], group: MemoryGroup | None = None) -> Iterator[Server]:
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    with tempfile.TemporaryFile("w+") as log:
        command = [sys.executable, "-m", *module]
        command = command if group is None else group.command(command)
        process = subprocess.Popen(command, env={**os.environ, "PYTHONPATH": path}, stdout=log, stderr=subprocess.STDOUT)
        try:
            yield Server(port, _worker_that_answers(port, process))
        except Exception:
            log.seek(0)
            sys.stderr.write(f"{module[0]} said:\n{log.read()[-4000:]}\n")
            raise
        finally:
            _end(process)


def _worker_that_answers(port: int, process: subprocess.Popen[bytes]) -> psutil.Process:
    deadline = time.monotonic() + _STARTS_WITHIN
    while True:
        try:
            worker = psutil.Process(int(answer_of(port, "/bare/process")))
        except (OSError, ValueError):
            if process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"no server answers on port {port}") from None
            time.sleep(0.02)
            continue
        if process.pid not in (worker.pid, worker.ppid()):
            raise RuntimeError(f"a foreign server, process {worker.pid}, answers on port {port}")
        return worker


def _end(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(_ENDS_WITHIN)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
