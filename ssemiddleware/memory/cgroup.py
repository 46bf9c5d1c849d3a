"""The memory of the cgroup that this process runs in: its working set and its tightest limit.

A container, a pod and a systemd service are cgroups, and the kernel kills at their limit, not at the machine's. `CgroupMemory`
finds the group, and its ancestors if they are visible. It works for versions 1 and 2, mounted alone or together, with or
without cgroup namespaces. Only Linux has cgroups.

>>> group = CgroupMemory.find()
>>> reading = group.read() if group else None  # None: no group has a limit
>>> reading is None or reading.used >= 0
True
"""

from __future__ import annotations

import errno
import math
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

_READ_AT_MOST = 65536  # bytes; the longest file, memory.stat, has a few thousand
_OCTAL_ESCAPE = re.compile(r"\\([0-7]{3})")


class Reading(NamedTuple):
    """How much memory is used, and its limit, both in bytes."""

    used: int
    limit: int

    @property
    def share(self) -> float:
        """The used part of the limit: 1 at the limit, more above it."""
        return self.used / self.limit if self.limit else math.inf


@dataclass(frozen=True)
class CgroupMemory:
    """A cgroup, and its ancestors whose memory can be read. For any thread."""

    groups: tuple[_Group, ...]
    machine: int

    @classmethod
    def find(cls, root: Path = Path("/"), pid: int | str = "self", machine: int | None = None) -> CgroupMemory | None:
        """Return the groups that process *pid* is in, or None if there are none.

        *root*: the directory that contains ``/proc`` and the mounts. *machine*: the physical memory in bytes, by default this
        machine's. A limit of that much or more does not count as one (version 1 writes 9223372036854771712 for no limit).

        See proc_pid_mountinfo(5), cgroup_namespaces(7) and the kernel's cgroup-v1/memory.rst and cgroup-v2.rst.
        """
        try:
            memberships = list(_memberships(os.fsdecode((root / f"proc/{pid}/cgroup").read_bytes())))
            mounts = list(_mounts(os.fsdecode((root / f"proc/{pid}/mountinfo").read_bytes())))
        except OSError:
            return None
        found = [
            _groups(version, str(root / mount_point.lstrip("/")), names)
            for version, path in memberships
            for mounted, mount_root, mount_point in mounts
            if mounted is version and (names := _names_below(path, mount_root)) is not None
        ]
        groups = max(found, key=len, default=())  # a second mount may show fewer ancestors
        return cls(groups, _physical_memory() if machine is None else machine) if groups else None

    @property
    def name(self) -> str:
        """A name for the outermost group with a limit: the same in all its processes, and in no others. Raises OSError."""
        limited = [group for group in self.groups if group.limit() < self.machine]
        found = os.stat((limited or self.groups)[-1].directory)  # noqa: PTH116
        return f"{found.st_dev:x}-{found.st_ino:x}"

    def read(self) -> Reading | None:
        """Return the working set and the limit of the group that is fullest now, or None while no group has a limit.

        Limits are read each time, since they may change. A group that cannot be read is skipped. If none can be read, this
        raises OSError.
        """
        readings, failures = [], []
        for group in self.groups:
            try:
                readings.append(group.read(self.machine))
            except OSError as error:
                failures.append(error)
        if not readings:
            raise failures[0]
        return max((reading for reading in readings if reading), key=lambda reading: reading.share, default=None)


@dataclass(frozen=True)
class _Version:
    """The names of a version's files, and of the entries that are read from its ``memory.stat``."""

    limits: tuple[str, ...]  # at least one of them exists
    usage: str
    page_cache: tuple[str, ...]  # the kernel reclaims it before it kills, also that of files that were read twice


_V1 = _Version(("memory.limit_in_bytes",), "memory.usage_in_bytes", ("total_inactive_file", "total_active_file"))
_V2 = _Version(("memory.max", "memory.high"), "memory.current", ("inactive_file", "active_file"))


@dataclass(frozen=True)
class _Group:
    version: _Version
    directory: str
    limits: tuple[str, ...]
    # In version 1, memory.stat has the limit of ancestors that the mount or the namespace hides. Those that are visible are
    # read themselves.
    hides_ancestors: bool

    def limit(self) -> float:
        return self._tightest_limit(_read(self._statistics_file) if self.hides_ancestors else "")

    def _tightest_limit(self, statistics: str) -> float:
        limits = [_limit(f"{self.directory}/{name}") for name in self.limits]
        if "hierarchical_memory_limit " in statistics:
            limits.append(_statistic(statistics, "hierarchical_memory_limit", self._statistics_file))
        return min(limits)

    def read(self, machine: int) -> Reading | None:
        statistics = _read(self._statistics_file) if self.hides_ancestors else ""
        limit = self._tightest_limit(statistics)
        if limit >= machine:
            return None
        usage_file = f"{self.directory}/{self.version.usage}"
        usage = _number(_read(usage_file), usage_file)
        statistics = statistics or _read(self._statistics_file)
        page_cache = sum(_statistic(statistics, name, self._statistics_file) for name in self.version.page_cache)
        return Reading(max(0, usage - page_cache), int(limit))

    @property
    def _statistics_file(self) -> str:
        return f"{self.directory}/memory.stat"


def _memberships(text: str) -> Iterator[tuple[_Version, str]]:
    for line in text.split("\n"):
        hierarchy, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if "memory" in controllers.split(","):
            yield _V1, path
        elif (hierarchy, controllers) == ("0", ""):
            yield _V2, path


def _mounts(text: str) -> Iterator[tuple[_Version, str, str]]:
    """Yield the version, root and mount point of each mount that may have memory groups."""
    for line in text.split("\n"):
        mount, _, filesystem = line.partition(" - ")
        fields, (kind, _, options) = mount.split(" "), (filesystem.split(" ") + [""] * 3)[:3]
        version = {"cgroup": _V1, "cgroup2": _V2}.get(kind)
        if version is None or len(fields) < 5 or (version is _V1 and "memory" not in options.split(",")):
            continue
        yield version, _unescape(fields[3]), _unescape(fields[4])


def _unescape(field: str) -> str:
    return _OCTAL_ESCAPE.sub(lambda escape: chr(int(escape[1], 8)), field)


def _names_below(path: str, mount_root: str) -> tuple[str, ...] | None:
    """Return the names from the mount's root down to the group at *path*, or None if they cannot be known.

    Both paths are relative to the root of our cgroup namespace. ``/..`` is its parent, whose children's names are not visible.
    """
    path_names, root_names = _names(path), _names(mount_root)
    names = path_names[len(root_names) :]
    return names if path_names[: len(root_names)] == root_names and ".." not in names else None


def _names(path: str) -> tuple[str, ...]:
    return tuple(name for name in path.split("/") if name)


def _groups(version: _Version, mount_point: str, names: tuple[str, ...]) -> tuple[_Group, ...]:
    """Return the groups whose memory can be read, innermost first."""
    groups: list[_Group] = []
    for depth in range(len(names) + 1):
        directory = "/".join((mount_point, *names[:depth]))
        limits = tuple(name for name in version.limits if os.path.exists(f"{directory}/{name}"))  # noqa: PTH110
        others = all(os.path.exists(f"{directory}/{name}") for name in (version.usage, "memory.stat"))  # noqa: PTH110
        if limits and others:
            groups.append(_Group(version, directory, limits, hides_ancestors=version is _V1 and not groups))
    return tuple(reversed(groups))


def _physical_memory() -> int:
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def _limit(file: str) -> float:
    text = _read(file)
    return math.inf if text.strip() == "max" else _number(text, file)


def _statistic(statistics: str, name: str, file: str) -> int:
    _, _, behind = f"\n{statistics}".partition(f"\n{name} ")
    return _number(behind.partition("\n")[0], file)


def _number(text: str, file: str) -> int:
    digits = text.strip()
    if not (digits.isascii() and digits.isdigit()):
        raise OSError(errno.EINVAL, f"not a number of bytes: {digits[:40]!r}", file)
    return int(digits)


def _read(file: str) -> str:
    # Takes two thirds of the time of open(file).read(). One read is enough: the kernel returns a group's file whole.
    try:
        descriptor = os.open(file, os.O_RDONLY | os.O_CLOEXEC)
        try:
            return os.fsdecode(os.read(descriptor, _READ_AT_MOST))
        finally:
            os.close(descriptor)
    except OSError as error:
        error.filename = file  # os.read does not set it
        raise
