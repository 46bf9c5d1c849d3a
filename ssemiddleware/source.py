"""`Stream.each`: iterate a source that blocks, in a stream that may end meanwhile.

The source is pulled on a thread of its own. Only here does a thread of ours run an application's code, because the application
asks for it.
"""

from __future__ import annotations

import contextvars
import logging
import queue
import threading
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from .handle import Callback, Stream

_T = TypeVar("_T")

_log = logging.getLogger("ssemiddleware")

_MOST_LOGGED = 100  # paths that are logged: clients choose them


class Sources:
    """The sources of one middleware whose loop has ended but whose thread still runs. For any thread.

    *most*: how many of them there may be. After that `Stream.each` raises `RuntimeError` and starts no more threads.
    """

    def __init__(self, most: int = 256) -> None:
        self.most = most
        self.left: set[threading.Thread] = set()
        self._logged: set[str] = set()

    def check(self, stream: Stream, *, has_stop: bool) -> None:
        """Log a source without *stop*, once for each path. Raise if too many sources have not stopped."""
        if not has_stop and stream.path not in self._logged and len(self._logged) < _MOST_LOGGED:
            self._logged.add(stream.path)
            _log.warning(
                "%r iterates a source without stop=: when its stream ends, the source's thread stays until the source yields",
                stream.path,
            )
        if len(self.left) >= self.most:
            raise RuntimeError(f"{len(self.left)} sources of Stream.each have not returned although their streams have ended")


class _End:
    """What follows the last item: the source has ended, maybe with an error, or the stream has ended."""

    __slots__ = ("error",)

    def __init__(self, error: BaseException | None = None) -> None:
        self.error = error


class _Pull:
    """A source on its thread. It is pulled at most one item ahead."""

    def __init__(self, iterable: Iterable[object], sources: Sources) -> None:
        self._iterable = iterable
        self._sources = sources
        self.wanted: queue.SimpleQueue[bool] = queue.SimpleQueue()  # True for each item that is wanted, False when no more are
        self.items: queue.SimpleQueue[object] = queue.SimpleQueue()
        self._has_ended = False
        run = contextvars.copy_context().run
        self.thread = threading.Thread(target=run, args=(self._run,), name="ssemiddleware-source", daemon=True)

    def _run(self) -> None:
        error: BaseException | None = None
        try:
            for item in self._iterable:
                self.items.put(item)
                del item
                if not self.wanted.get():
                    break
        except BaseException as raised:
            error = raised
        self._iterable = ()
        self.items.put(_End(error))
        del error
        self._has_ended = True  # first: `end` may add the thread just now
        self._sources.left.discard(self.thread)

    def end(self) -> None:
        """Stop: the thread ends as soon as the source yields or returns."""
        self._sources.left.add(self.thread)
        self.wanted.put(False)
        if self._has_ended or not self.thread.is_alive():  # or it was never started
            self._sources.left.discard(self.thread)


def each(
    stream: Stream, iterable: Iterable[_T], *, stop: Callback | None, endless: bool, sources: Sources | None
) -> Iterator[_T]:
    """Iterate over *iterable*; see `Stream.each`. A generator: nothing starts before the first item is asked for."""
    sources = sources or Sources()
    sources.check(stream, has_stop=stop is not None)
    pull = _Pull(iterable, sources)
    del iterable
    over, error = _End(), None

    def must_end() -> bool:
        return stream.reason is not None or (endless and stream.is_closing)

    def wake() -> None:
        if must_end():
            pull.items.put(over)

    stream.on_closing(wake)  # not through `on_close`: another stream's callback may keep that thread
    try:
        pull.thread.start()
        while not must_end():
            item = pull.items.get()
            if isinstance(item, _End):
                error = item.error
                del item
                if error is not None and stream.reason is None:
                    raise error
                break
            pull.wanted.put(True)
            yield item  # type: ignore[misc]
            del item
    finally:
        error = None  # its traceback refers to this frame
        stream.forget_on_closing(wake)
        pull.end()
        if stop is not None:
            _call(stop)


def _call(stop: Callback) -> None:
    try:
        stop()
    except Exception:
        _log.exception("the stop= of Stream.each raised")
