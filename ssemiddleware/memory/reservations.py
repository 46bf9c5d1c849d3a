"""How many bytes each of the processes that share one memory has reserved, such as the workers in one container.

The numbers are in a file in shared memory, one file for each user. So no process has to ask another one. A reservation ends
after a second at most, so those of a killed process need no cleaning up.

>>> reservations = Reservations(None)  # memory that is not shared
>>> with reservations.alone() as is_alone:
...     is_alone, reservations.of_others()
(True, 0)
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import math
import os
import stat
import struct
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

try:
    import fcntl
except ImportError:  # pragma: no cover  (Windows, whose servers have one process)
    fcntl = None  # type: ignore[assignment]

_log = logging.getLogger("ssemiddleware")

HOLDS_FOR = 1.0  # seconds, at most
_PLACES = 256  # each for one reservation
# The memory's name, the owner, the bytes, and when it ends by time.monotonic(), which is the same in all processes of a
# machine. At 32 bytes no reservation crosses a page boundary, so none is read while it is half written.
_RESERVATION = struct.Struct("=8s8sQd")
_ENDED = struct.pack("=d", 0.0)
_LOCKED_OUT = 10  # failed attempts, one after the other. A stream that waits makes 20 in a second


class Reservations:
    """What this process and others have reserved of the memory called *name*. None: the memory is not shared.

    *folders*: where the file may be; by default in shared memory, else in the folder for temporary files. If the file cannot be
    opened, that is logged once, and other processes are ignored. For one thread at a time, except `end`. A forked process needs
    an instance of its own.
    """

    def __init__(
        self, name: str | None, *, folders: tuple[Path, ...] | None = None, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.name = name
        self._folders = folders
        self._clock = clock
        self._memory = hashlib.blake2b((name or "").encode(), digest_size=8).digest()
        self._us = os.urandom(8)  # not the process id: a process may have several, and containers may have equal ids
        self._file: int | None = None  # a descriptor; closed only in `__del__`, since another thread may be using it
        self._is_alone = name is None or fcntl is None
        self._free: list[int] = []  # free places, when the file was read last
        self._locked_since = 0.0  # when another process was first seen to hold the lock
        self._locked_out = 0  # failed attempts since then
        with self._alone_on_failure():
            if not self._is_alone:
                self._file = self._open()

    def __del__(self) -> None:
        if self._file is not None:
            os.close(self._file)

    @property
    def has_many_places(self) -> bool:
        """Whether more than half of the places were free when `of_others` was called last."""
        return len(self._free) > _PLACES // 2

    @property
    def is_gone(self) -> bool:
        """Whether the file was deleted, so that other processes may use a new one."""
        return self._file is not None and os.fstat(self._file).st_nlink == 0

    @contextlib.contextmanager
    def alone(self) -> Iterator[bool]:
        """Hold the lock of all processes. The value is False if another process holds it now; nothing is waited for.

        A process that holds the lock for a second, whenever it is asked for, was suspended, or is malicious. From then on other
        processes are ignored.
        """
        file = None if self._is_alone else self._file
        has_lock = True
        with self._alone_on_failure():
            has_lock = file is None or _lock(file)
            self._note_lock(has_lock)
        try:
            yield has_lock
        finally:
            if has_lock and file is not None:
                fcntl.flock(file, fcntl.LOCK_UN)

    def _note_lock(self, has_lock: bool) -> None:
        now = self._clock()
        if has_lock or not self._locked_out:
            self._locked_since = now
        self._locked_out = 0 if has_lock else self._locked_out + 1
        if self._locked_out > _LOCKED_OUT and now - self._locked_since >= HOLDS_FOR:
            raise TimeoutError(f"another process has held the lock for {HOLDS_FOR:.0f} s")

    def of_others(self, limit: float = math.inf) -> int:
        """Return the bytes that other processes have reserved. A sum above *limit* counts as a broken file."""
        content, total, now = b"", 0, self._clock()
        with self._alone_on_failure():
            if self._file is not None and not self._is_alone:
                content = os.pread(self._file, _PLACES * _RESERVATION.size, 0)
        whole = len(content) // _RESERVATION.size
        self._free = list(range(_PLACES - 1, whole - 1, -1))
        for place, (memory, owner, size, until) in enumerate(_RESERVATION.iter_unpack(content[: whole * _RESERVATION.size])):
            if not now < until <= now + HOLDS_FOR:
                self._free.append(place)
            elif memory == self._memory and owner != self._us:
                total += size
        with self._alone_on_failure():
            if total > limit:
                raise ValueError(f"the file says that {total} bytes are reserved, but at most {limit} can be")
        return 0 if self._is_alone else total

    def begin(self, size: int, until: float) -> int | None:
        """Reserve *size* bytes until then, for `HOLDS_FOR` at most. Return the reservation's place in the file, or None.

        To be called after `of_others`, while `alone` holds the lock.
        """
        with self._alone_on_failure():
            if self._file is not None and not self._is_alone and self._free:
                place = self._free.pop()
                record = _RESERVATION.pack(self._memory, self._us, size, until)
                os.pwrite(self._file, record, place * _RESERVATION.size)
                return place
        return None

    def end(self, place: int) -> None:
        """End the reservation at *place* now. It must not have ended yet. Takes no lock."""
        with self._alone_on_failure():
            if self._file is not None and not self._is_alone:
                os.pwrite(self._file, _ENDED, (place + 1) * _RESERVATION.size - len(_ENDED))

    @contextlib.contextmanager
    def _alone_on_failure(self) -> Iterator[None]:
        """Ignore other processes from now on if the file cannot be used, or has impossible content."""
        try:
            yield
        except (OSError, ValueError) as error:
            if not self._is_alone:
                self._is_alone = True
                _log.warning("the memory that other processes reserve cannot be read, and is ignored from now on: %s", error)

    def _open(self) -> int:
        failure = OSError("no folder")
        for folder in self._folders or _usual_folders():
            try:
                return _open_in(folder)
            except OSError as error:
                failure = error
        raise failure


def _usual_folders() -> Iterator[Path]:
    yield Path("/dev/shm")  # noqa: S108  (see `_open_in`)
    yield Path(tempfile.gettempdir())  # raises OSError if there is none


def _lock(file: int) -> bool:
    try:  # without waiting: a process may be suspended while it holds the lock
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _open_in(folder: Path) -> int:
    """Open the file of this user, or create it. Raises `OSError`, also if another user has put something in its place."""
    path = folder / f"ssemiddleware-{os.geteuid()}"
    file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    found = os.fstat(file)
    if found.st_uid != os.geteuid() or not stat.S_ISREG(found.st_mode) or found.st_nlink != 1:
        os.close(file)
        raise PermissionError(f"{path} belongs to another user, is not a regular file, or has a second link")
    return file
