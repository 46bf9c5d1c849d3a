"""How much memory the worker gains by a big stream to a client that never reads. What an open stream takes: see `silence`.

Counted is the unique set size of the worker's process (what ending it would give back), less what it was when it had served
one such stream and slept. Each time a new server: memory that was once used often stays.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median

import psutil

from .reading import connect, read_stream, request
from .results import Effort, Figure, Outcome, Target, at_most, figure_of_turns, in_turn, number
from .serving import gunicorn


def measure(effort: Effort) -> Outcome:
    """Measure it on gthread, announced."""
    seconds, turns = effort.pick(3, 1), effort.pick(3, 1)
    unread = in_turn(turns, ("bare", "wrapped"), lambda way: bytes_of_unread_stream(way, seconds))
    return Outcome(
        "Memory that the worker gains by a client that never reads, gthread, announced",
        [figure("200 MB to a client that never reads: added memory", unread, at_most(1000))],
    )


def figure(subject: str, taken: Mapping[str, Sequence[float]], target: Target) -> Figure:
    """Return how many KB more than bare it was, turn by turn."""
    bare, wrapped = ([size / 1000 for size in taken[way]] for way in ("bare", "wrapped"))
    added = [after - before for before, after in zip(bare, wrapped, strict=True)]
    return figure_of_turns(subject, added, " KB", f"{number(median(wrapped))} KB, bare {number(median(bare))} KB", target)


def bytes_of_unread_stream(way: str, seconds: float) -> int:
    """Ask for 200 MB, read nothing of it, and return the most that the worker gained in so many seconds."""
    with gunicorn("gthread") as server, connect(server.port, receive_buffer=65536) as connection:
        before = settled_memory(server.port, server.worker, way)
        connection.sendall(request(f"/{way}/fresh/3052/65536", announced=True))
        most, end = 0, time.monotonic() + seconds
        while time.monotonic() < end:
            most = max(most, unique_memory(server.worker) - before)
            time.sleep(0.02)
        return most


def settled_memory(port: int, worker: psutil.Process, way: str) -> int:
    """Return the memory of a worker that has served a stream before."""
    settle(port, way)
    return unique_memory(worker)


def settle(port: int, way: str) -> None:
    """Have a worker serve a stream, so that everything is loaded."""
    read_stream(port, f"/{way}/ready/3/58", memoryview(bytearray(4096)), announced=True)
    time.sleep(0.5)


def unique_memory(process: psutil.Process) -> int:
    """Return the bytes that only this process has."""
    size: int = process.memory_full_info().uss
    return size


def forget_peak(process: psutil.Process) -> int:
    """Reset the peak of the resident memory (proc_pid_clear_refs(5)), and return where it begins."""
    Path(f"/proc/{process.pid}/clear_refs").write_text("5")
    return peak_memory(process)


def peak_memory(process: psutil.Process) -> int:
    """Return the most bytes of resident memory since `forget_peak`."""
    status = Path(f"/proc/{process.pid}/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) * 1024
