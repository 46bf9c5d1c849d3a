"""How much memory is used, and its limit: in the cgroup, or by the process.

>>> gauge = MemoryGauge("512MiB")
>>> gauge.source, gauge.read().limit
('process', 536870912)
"""

from __future__ import annotations

import logging
import math
import os
import re
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Literal

import psutil

from .cgroup import CgroupMemory, Reading

Source = Literal["cgroup", "machine", "process"]

_log = logging.getLogger("ssemiddleware")

_UNITS = {"": 1, "k": 1000, "m": 1000**2, "g": 1000**3, "t": 1000**4, "ki": 1024, "mi": 1024**2, "gi": 1024**3, "ti": 1024**4}
_AMOUNT = re.compile(r"(?P<number>[0-9]+(?:\.[0-9]+)?) ?(?:(?P<percent>%)|(?P<unit>[kmgt]i?)?b?)", re.IGNORECASE)
_READ_EVERY = 0.1  # seconds; a reading costs 15 (process) to 110 microseconds (five nested groups), once for all streams
_KEEP_FOR = 10  # seconds for which the last reading is used while reading fails, for example when no descriptor is free
_UNKNOWN = Reading(0, sys.maxsize)


class MemoryGauge:
    """How much memory is used, and its limit.

    *limit*: with a number of bytes, ``"512MiB"``, ``"2GB"`` or ``"80%"`` of the machine, the used memory is the resident memory
    of this process. With None, it is that of the fullest cgroup with a limit. Where no cgroup has one, it is the resident
    memory of this process, and the limit is that memory plus what is available on the machine. *read*: a function that returns
    both numbers instead.

    *root*: the directory in which the cgroup is looked for. Nothing is read before the first call of `read`. For any thread,
    also in a forked process.
    """

    def __init__(
        self,
        limit: int | str | None = None,
        *,
        read: Callable[[], tuple[int, int]] | None = None,
        root: Path = Path("/"),
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._limit = None if limit is None else _parse_limit(limit)
        self._given = read
        self._root = root
        self._clock = clock
        self._last = _UNKNOWN
        self._source: Source = "machine" if limit is None else "process"
        self._failed = False
        self._begin()

    def _begin(self) -> None:
        self._reading = threading.RLock()  # held by the thread that reads, maybe in a signal handler; guards all below
        self._read_at = self._succeeded_at = -math.inf
        self._read_source: Callable[[], Reading] | None = None
        self._shared: str | None = None
        self._has_read = False
        self._pid = os.getpid()

    @property
    def source(self) -> Source:
        """What was read last. Reads first if nothing was."""
        self.read()
        return self._source

    @property
    def shared(self) -> str | None:
        """A name for the memory that was read last, the same in all processes that share it. None: no other process does."""
        self.read()
        return self._shared

    def read(self) -> Reading:
        """Return the bytes used and the limit, at most 100 ms old. Only the first reading makes other threads wait.

        If reading fails, the last reading is used for ten seconds. After that, and before the first reading, the share is 0.
        Cheap enough for every block.
        """
        if self._pid != os.getpid():  # the parent's lock may be held, and its resident memory is not ours
            self._begin()
        if not self._has_read or self._clock() - self._read_at >= _READ_EVERY:
            self._maybe_read()
        return self._last

    def read_now(self) -> Reading:
        """Return the bytes used and the limit of this moment, or the last reading if reading fails. Takes 15 to 110 us.

        Unlike `read`, it may wait for another thread's reading.
        """
        if self._pid != os.getpid():
            self._begin()
        with self._reading:
            self._read_anew(self._clock())
            return self._last

    def _maybe_read(self) -> None:
        reading = self._reading  # after a fork another thread may replace it meanwhile
        if reading.acquire(blocking=not self._has_read):  # wait only for the first: before it nothing is known
            try:
                now = self._clock()
                if now - self._read_at >= _READ_EVERY:
                    self._read_anew(now)
            finally:
                reading.release()

    def _read_anew(self, now: float) -> None:
        self._read_at = now
        try:
            if self._read_source is None:
                self._read_source = self._choose_source()
            self._last, self._succeeded_at = self._read_source(), now
        except Exception as error:
            self._read_source = None  # look for the group again: the process may have moved to another
            if now - self._succeeded_at > _KEEP_FOR:
                self._last = _UNKNOWN
            if not self._failed:
                self._failed = True
                line = "memory cannot be read: the last reading is used for %d s, then no stream waits: %s"
                _log.warning(line, _KEEP_FOR, error)
        self._has_read = True

    def _choose_source(self) -> Callable[[], Reading]:
        if (given := self._given) is not None:
            return lambda: Reading(*given())
        process = psutil.Process()
        if self._limit is not None:
            limit = self._limit()
            return lambda: Reading(process.memory_info().rss, limit)
        cgroup = CgroupMemory.find(self._root)
        return lambda: self._read_cgroup_or_machine(cgroup, process)

    def _read_cgroup_or_machine(self, cgroup: CgroupMemory | None, process: psutil.Process) -> Reading:
        reading = None if cgroup is None else cgroup.read()
        if cgroup is None or reading is None:  # a limit may be set, or lifted, at any time
            return self._read_machine(process)
        if self._source != "cgroup" or self._shared is None:
            self._source, self._shared = "cgroup", cgroup.name
        return reading

    def _read_machine(self, process: psutil.Process) -> Reading:
        self._source = self._shared = "machine"
        used = process.memory_info().rss
        return Reading(used, used + psutil.virtual_memory().available)  # other processes count in what is available


def _parse_limit(limit: int | str) -> Callable[[], int]:
    if type(limit) is int and limit > 0:
        return lambda: limit
    amount = _AMOUNT.fullmatch(limit.strip()) if isinstance(limit, str) else None
    number = float(amount["number"]) if amount else 0
    if amount is None or number <= 0 or (amount["percent"] and number > 100):
        allowed = 'a positive number of bytes, a size like "512MiB", a share of the machine like "80%", or None'
        raise ValueError(f"limit must be {allowed}, got {limit!r}")
    if amount["percent"]:
        return lambda: int(psutil.virtual_memory().total * number / 100)
    size = int(number * _UNITS[(amount["unit"] or "").lower()])
    return lambda: size
