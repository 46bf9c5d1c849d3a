"""How many bytes each process has set aside of a memory that it shares with others, such as the workers in one container.

A file of numbers in shared memory, one for each user, with a place for each process, so that no process needs to be asked and
none has to be there. What a process writes holds for a second at most: nothing of one that was killed has to be cleared away.

>>> reservations = Reservations(None)  # a memory that is not shared
>>> with reservations.alone() as is_alone:
...     is_alone, reservations.of_others()
(True, 0)
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
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
_PLACES = 256  # processes that come one after another have different places
# Of a process: which memory, the process, bytes, and when it ends by time.monotonic(), which is one for all of a machine.
_RESERVATION = struct.Struct("=8sQQd")
_TRIES, _TRY_EVERY = 20, 0.0005  # seconds; the others need 20 microseconds


class Reservations:
    """What the processes have set aside of the memory called *name*, None for one that is not shared.

    *folder*: where the file is; by default in shared memory, else where temporary files are. Where it cannot be had, the log
    is told and each process counts by itself. For one thread at a time, but `write`; a forked process needs another.
    """

    def __init__(self, name: str | None, *, folder: Path | None = None, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._process = os.getpid()
        self._memory = hashlib.blake2b((name or "").encode(), digest_size=8).digest()
        self._file: int | None = None  # its descriptor
        if name is not None and fcntl is not None:
            with self._going_on_alone():
                self._file = _open(_folder() if folder is None else folder)

    def __del__(self) -> None:
        if self._file is not None:
            os.close(self._file)

    @contextlib.contextmanager
    def alone(self) -> Iterator[bool]:
        """Keep the others from deciding meanwhile; the value is False if one of them does so just now, and for long."""
        is_alone = True
        with self._going_on_alone():
            is_alone = self._file is None or _lock(self._file)
        try:
            yield is_alone
        finally:
            if is_alone and self._file is not None:
                fcntl.flock(self._file, fcntl.LOCK_UN)

    def of_others(self) -> int:
        """Return the bytes that other processes have set aside."""
        content = b""
        with self._going_on_alone():
            if self._file is not None:
                content = os.pread(self._file, _PLACES * _RESERVATION.size, 0)
        now, ours = self._clock(), self._process
        reservations = _RESERVATION.iter_unpack(content[: len(content) // _RESERVATION.size * _RESERVATION.size])
        return sum(
            size
            for memory, process, size, until in reservations
            if memory == self._memory and process != ours and now < until <= now + HOLDS_FOR
        )

    def write(self, size: int, until: float) -> None:
        """Say that this process has set *size* bytes aside until then, at most for `HOLDS_FOR`. Takes no lock."""
        with self._going_on_alone():
            if self._file is not None:
                place = self._process % _PLACES * _RESERVATION.size
                os.pwrite(self._file, _RESERVATION.pack(self._memory, self._process, size, until), place)

    @contextlib.contextmanager
    def _going_on_alone(self) -> Iterator[None]:
        """Go on without the others where the file fails."""
        try:
            yield
        except OSError as error:
            file, self._file = self._file, None
            if file is not None:
                os.close(file)
            _log.warning("what other processes set aside of the memory cannot be seen: %s", error)


def _lock(file: int) -> bool:
    for _ in range(_TRIES):  # no waiting: a process may be stopped while it decides
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            time.sleep(_TRY_EVERY)
        else:
            return True
    return False


def _folder() -> Path:
    shared_memory = Path("/dev/shm")  # noqa: S108  (the file is opened as one that anybody may have put there)
    return shared_memory if shared_memory.is_dir() else Path(tempfile.gettempdir())


def _open(folder: Path) -> int:
    """Open the file of this user, or make it. Raises `OSError`, also for one of another user and for a link."""
    path = folder / f"ssemiddleware-{os.geteuid()}"
    file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    found = os.fstat(file)
    if found.st_uid != os.geteuid() or not stat.S_ISREG(found.st_mode):
        os.close(file)
        raise PermissionError(f"{path} belongs to another user, or is no file")
    return file
