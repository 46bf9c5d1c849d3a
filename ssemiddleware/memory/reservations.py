"""How many bytes the processes that share a memory have set aside in it, such as the workers in one container.

A file of numbers in shared memory, one for each user, so that no process needs to be asked and none has to be there. What
stands in it holds for a second at most: nothing of a process that was killed has to be cleared away.

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
_PLACES = 256  # for one reservation each
# In which memory, whose, bytes, and when it ends by time.monotonic(), which is one for all of a machine. 32 bytes: none
# lies across two pages, so none is seen half written.
_RESERVATION = struct.Struct("=8s8sQd")
_UNTIL = struct.Struct("=d")


class Reservations:
    """What has been set aside of the memory called *name*, by us and by others; None for one that is not shared.

    *folders*: where the file may be; by default in shared memory, or else where temporary files are. Where it cannot be had,
    that is logged once, and other processes are not seen. For one thread at a time, but `end`; a forked process needs another.
    """

    def __init__(
        self, name: str | None, *, folders: tuple[Path, ...] | None = None, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.name = name
        self._folders = folders
        self._clock = clock
        self._memory = hashlib.blake2b((name or "").encode(), digest_size=8).digest()
        self._us = os.urandom(8)  # a process may have several, and there may be two processes of one number
        self._file: int | None = None  # its descriptor; closed at the end only, since another thread may just use it
        self._is_alone = name is None or fcntl is None
        self._free: int | None = None  # a place that nobody uses, as far as was seen
        with self._going_on_alone():
            if not self._is_alone:
                self._file = self._open()

    def __del__(self) -> None:
        if self._file is not None:
            os.close(self._file)

    @property
    def is_gone(self) -> bool:
        """Whether somebody has deleted the file, so that others may have another one."""
        return self._file is not None and os.fstat(self._file).st_nlink == 0

    @contextlib.contextmanager
    def alone(self) -> Iterator[bool]:
        """Keep the others from deciding meanwhile; the value is False if one of them does so just now."""
        file = None if self._is_alone else self._file
        has_lock = True
        with self._going_on_alone():
            has_lock = file is None or _lock(file)
        try:
            yield has_lock
        finally:
            if has_lock and file is not None:
                fcntl.flock(file, fcntl.LOCK_UN)

    def of_others(self) -> int:
        """Return the bytes that others have set aside."""
        content, total, now = b"", 0, self._clock()
        with self._going_on_alone():
            if self._file is not None and not self._is_alone:
                content = os.pread(self._file, _PLACES * _RESERVATION.size, 0)
        whole = len(content) // _RESERVATION.size
        self._free = whole if whole < _PLACES else None
        for place, (memory, owner, size, until) in enumerate(_RESERVATION.iter_unpack(content[: whole * _RESERVATION.size])):
            if not now < until <= now + HOLDS_FOR:
                self._free = place
            elif memory == self._memory and owner != self._us:
                total += size
        return total

    def begin(self, size: int, until: float) -> int | None:
        """Set *size* bytes aside until then, at most for `HOLDS_FOR`; return where that stands, None for nowhere.

        To be called behind `of_others`, and `alone` as that.
        """
        place, self._free = self._free, None
        with self._going_on_alone():
            if self._file is not None and not self._is_alone and place is not None:
                record = _RESERVATION.pack(self._memory, self._us, size, until)
                os.pwrite(self._file, record, place * _RESERVATION.size)
                return place
        return None

    def end(self, place: int, until: float) -> None:
        """Let the reservation at *place*, which has not ended, end earlier. Takes no lock."""
        with self._going_on_alone():
            if self._file is not None and not self._is_alone:
                os.pwrite(self._file, _UNTIL.pack(until), (place + 1) * _RESERVATION.size - _UNTIL.size)

    @contextlib.contextmanager
    def _going_on_alone(self) -> Iterator[None]:
        """Go on without the others where the file fails."""
        try:
            yield
        except OSError as error:
            if not self._is_alone:
                self._is_alone = True
                _log.warning("the memory that other processes have reserved cannot be read: %s", error)

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
    yield Path(tempfile.gettempdir())  # which raises OSError where there is none


def _lock(file: int) -> bool:
    try:  # no waiting: a process may be stopped while it decides
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _open_in(folder: Path) -> int:
    """Open the file of this user, or make it. Raises `OSError`, also for what somebody else may have put in its place."""
    path = folder / f"ssemiddleware-{os.geteuid()}"
    file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    found = os.fstat(file)
    if found.st_uid != os.geteuid() or not stat.S_ISREG(found.st_mode) or found.st_nlink != 1:
        os.close(file)
        raise PermissionError(f"{path} belongs to another user, or is no file of its own")
    return file
