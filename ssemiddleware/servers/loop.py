"""Does what we yield leave as it is? A look at the server's own frames answers, and proves it for each stream.

A layer outside of us may compress, rewrite or hold what we yield; a heartbeat that is written past it would be bytes in the
wrong place. What the server iterates stands in its frame: if that *is* our iterable, no layer is between. If not, the layer
is transparent where the very object that we returned is the block that the server has sent.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable
from types import FrameType

from .server import Loop

_PACKAGE = __name__.partition(".")[0]


def find_loop(loops: tuple[Loop, ...], depth: int = 1) -> tuple[FrameType, Loop] | None:
    """Return the frame in which a server iterates us, among our callers from *depth* up; None where there is none."""
    frame: FrameType | None = sys._getframe(depth)
    while frame is not None:
        name = frame.f_code.co_name
        for loop in loops:
            if name == loop.function and frame.f_globals.get("__name__") == loop.module:
                return frame, loop
        frame = frame.f_back
    return None


def iterates(loops: tuple[Loop, ...], iterable: object, depth: int = 2) -> bool:
    """Tell whether a server of ours is iterating *iterable* itself. To be asked inside its ``__next__``."""
    found = find_loop(loops, depth)
    return found is not None and _local(found[0], found[1].iterable) is iterable


def has_sent(loops: tuple[Loop, ...], block: bytes, depth: int = 2) -> bool:
    """Tell whether *block* is the very object that the server has sent last. To be asked inside the ``__next__`` behind it.

    Bytes of which Python has only one object prove nothing: none, and one.
    """
    if len(block) < 2:
        return False
    found = find_loop(loops, depth)
    return found is not None and _local(found[0], found[1].block) is block


def leaves(module: str, function: str) -> Callable[[], bool]:
    """Return what tells whether this thread has left the innermost call of *function* in *module* that calls us now.

    The frame is known by its number and its code, and not kept: it would keep the response. The next call may get the same
    number, so the answer may come late. For threads, and not for greenlets.
    """
    found = find_loop((Loop(module, function, "", ""),))
    if found is None:
        return lambda: True
    number, code, thread = id(found[0]), found[0].f_code, threading.get_ident()
    del found

    def has_left() -> bool:
        frame = sys._current_frames().get(thread)
        while frame is not None and not (id(frame) == number and frame.f_code is code):
            frame = frame.f_back
        return frame is None

    return has_left


def is_called_from_c() -> bool:
    """Tell whether no layer written in Python stands above us, under a server that iterates in C. To be asked in ``__next__``.

    Under pyuwsgi the main thread's lowest frame is the script that has started it. ``map(bytes.upper, stream)`` has no frame,
    and is not seen.
    """
    frame: FrameType | None = sys._getframe(1)
    while frame is not None and _is_ours(frame):
        frame = frame.f_back
    return frame is None or frame.f_code.co_name == "<module>"


def _is_ours(frame: FrameType) -> bool:
    return str(frame.f_globals.get("__name__")).partition(".")[0] == _PACKAGE


def find_local(loops: tuple[Loop, ...], name: str, depth: int = 2) -> object:
    """Return a local of the frame in which a server iterates or will iterate us; None where there is none."""
    found = find_loop(loops, depth)
    return None if found is None else _local(found[0], name)


def _local(frame: FrameType, path: str) -> object:
    """Return a local of *frame*, or an attribute of one (``self.result``); None where there is none.

    Before Python 3.13 the dict of a frame's locals stays with the frame: left as it is, it would keep the block that stood in
    it, 10 MB perhaps, until the frame's end.
    """
    name, *attributes = path.split(".")
    names = frame.f_locals
    found = names.get(name)
    if type(names) is dict:
        names.clear()
    for attribute in attributes:
        found = getattr(found, attribute, None)
    return found
