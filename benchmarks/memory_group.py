"""A memory cgroup for one server, as a container has one: a limit at which the kernel kills, and what it counts of that.

Only root can make one, where a hierarchy for memory (version 1 or 2) is mounted and may be written.
"""

from __future__ import annotations

import os
import shlex
import signal
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

import psutil

_EMPTY_WITHIN = 10.0  # seconds


class NoGroup(Exception):
    """No memory cgroup can be made here, for a reason that can be read."""


class _Version(NamedTuple):
    """The names of a version's files."""

    limit: str
    swap: str  # limit of memory and swap, or of swap alone; missing where the kernel does not count swap
    used: str
    most_used: str
    events: str  # has a line "oom_kill N"


_V1 = _Version(
    "memory.limit_in_bytes", "memory.memsw.limit_in_bytes", "memory.usage_in_bytes", "memory.max_usage_in_bytes",
    "memory.oom_control",
)  # fmt: skip
_V2 = _Version("memory.max", "memory.swap.max", "memory.current", "memory.peak", "memory.events")


class MemoryGroup:
    """A group that `memory_group` has made; what is started by `command` is in it."""

    def __init__(self, folder: Path, version: _Version, limit: int) -> None:
        self.limit = limit
        self._folder = folder
        self._version = version
        self._write(version.limit, limit)
        if (folder / version.swap).exists():
            self._write(version.swap, limit if version is _V1 else 0)

    def command(self, command: Sequence[str]) -> list[str]:
        """Return a command that enters the group and then becomes *command*."""
        members = shlex.quote(str(self._folder / "cgroup.procs"))
        return ["sh", "-c", f'echo $$ > {members} && exec "$@"', "sh", *command]

    @property
    def used(self) -> int:
        """Bytes in use now, page cache included."""
        return int(self._read(self._version.used))

    @property
    def most_used(self) -> int | None:
        """The most bytes that were ever in use, page cache included; None before Linux 5.19 with version 2."""
        return int(self._read(self._version.most_used)) if (self._folder / self._version.most_used).exists() else None

    @property
    def kills(self) -> int:
        """How many processes the kernel has killed because the group was full."""
        counts = dict(line.split() for line in self._read(self._version.events).splitlines())
        return int(counts["oom_kill"])

    def remove(self) -> None:
        """Kill what is left in the group, and remove it."""
        deadline = time.monotonic() + _EMPTY_WITHIN
        while members := self._read("cgroup.procs").split():
            for member in members:
                with suppress(ProcessLookupError):
                    os.kill(int(member), signal.SIGKILL)
            if time.monotonic() > deadline:
                raise TimeoutError(f"{self._folder} is not empty after {_EMPTY_WITHIN} s: {members}")
            time.sleep(0.02)
        self._folder.rmdir()

    def _read(self, name: str) -> str:
        return (self._folder / name).read_text()

    def _write(self, name: str, value: int) -> None:
        (self._folder / name).write_text(str(value))


@contextmanager
def memory_group(limit: int) -> Iterator[MemoryGroup]:
    """Make a group of that many bytes below our own, or as near to it as may be. Raises `NoGroup`."""
    folder, version = _new_folder()
    try:
        group = MemoryGroup(folder, version, limit)
        group.kills  # noqa: B018  (Linux before 4.13 does not count them)
    except (OSError, KeyError) as error:
        folder.rmdir()
        raise NoGroup(f"a memory cgroup cannot be used here: {error!r}") from error
    try:
        yield group
    finally:
        group.remove()


def _new_folder() -> tuple[Path, _Version]:
    reasons = []
    for parent, version in _parents():
        folder = parent / f"ssemiddleware-{os.getpid()}-{time.monotonic_ns()}"
        try:
            folder.mkdir()
        except OSError as error:
            reasons.append(str(error))
            continue
        if (folder / version.limit).exists():  # version 2 has it only where the parent hands the controller down
            return folder, version
        folder.rmdir()
        reasons.append(f"{parent} does not hand the memory controller down to new groups")
    raise NoGroup(f"no memory cgroup can be made here: {reasons[0] if reasons else 'none is mounted'}")


def _parents() -> Iterator[tuple[Path, _Version]]:
    """Yield our own group and its ancestors, the innermost first."""
    for mount in psutil.disk_partitions(all=True):
        if mount.fstype == "cgroup" and "memory" in mount.opts.split(","):
            version = _V1
        elif mount.fstype == "cgroup2":
            version = _V2
        else:
            continue
        own = Path(mount.mountpoint, _own_path(version))
        for folder in (own, *own.parents):
            if folder.is_relative_to(mount.mountpoint) and folder.is_dir():  # a mount may show less than the whole tree
                yield folder, version


def _own_path(version: _Version) -> str:
    for line in Path("/proc/self/cgroup").read_text().splitlines():
        _, controllers, path = line.split(":", 2)
        if ("memory" in controllers.split(",")) if version is _V1 else not controllers:
            return path.lstrip("/")
    return ""
