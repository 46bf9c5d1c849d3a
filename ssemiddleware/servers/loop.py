"""Does the server send what we yield unchanged? The server's own frames show that for each stream.

A layer outside of us may compress, rewrite or delay what we yield. A heartbeat that is written past such a layer would be in
the wrong place. The server's frame has the iterable that it iterates: if that is ours, there is no such layer. If it is not,
the frame has the block that the server sent last: if that is the same object that we yielded, the layer changes nothing.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable
from types import FrameType

from .server import Loop

_PACKAGE = __name__.partition(".")[0]


def find_loop(loops: tuple[Loop, ...], depth: int = 1) -> tuple[FrameType, Loop] | None:
    """Return the frame in which a server iterates us, among our callers from *depth* up, or None."""
    frame: FrameType | None = sys._getframe(depth)
    while frame is not None:
        name = frame.f_code.co_name
        for loop in loops:
            if name == loop.function and frame.f_globals.get("__name__") == loop.module:
                return frame, loop
        frame = frame.f_back
    return None


def iterates(loops: tuple[Loop, ...], iterable: object, depth: int = 2) -> bool:
    """Return whether a known server iterates *iterable* itself. To be called while the server asks for a block."""
    found = find_loop(loops, depth)
    return found is not None and _local(found[0], found[1].iterable) is iterable


def has_sent(loops: tuple[Loop, ...], block: bytes, depth: int = 2) -> bool:
    """Return whether *block* is the same object that the server sent last. To be called while it asks for the next."""
    if len(block) < 2:  # Python may have only one object for such bytes, so being the same proves nothing
        return False
    found = find_loop(loops, depth)
    return found is not None and _local(found[0], found[1].block) is block


def return_check(module: str, function: str) -> Callable[[], bool]:
    """Return a function that tells whether the innermost call of *function* in *module* that calls us now has returned.

    The frame is remembered by its id and its code, since a reference would keep the response alive. A later call's frame may
    have the same id, so the function may return True late. For threads, not for greenlets.
    """
    found = find_loop((Loop(module, function, "", ""),))
    if found is None:
        return lambda: True
    number, code, thread = id(found[0]), found[0].f_code, threading.get_ident()
    del found

    def has_returned() -> bool:
        frame = sys._current_frames().get(thread)
        while frame is not None and not (id(frame) == number and frame.f_code is code):
            frame = frame.f_back
        return frame is None

    return has_returned


def is_called_from_c() -> bool:
    """Return whether a server that iterates in C calls us, with no layer written in Python between. See `iterates`.

    Under pyuwsgi the lowest frame of the main thread is the script that started it. A layer without a frame, such as
    ``map(bytes.upper, stream)``, is not seen.
    """
    frame: FrameType | None = sys._getframe(1)
    while frame is not None and _is_ours(frame):
        frame = frame.f_back
    return frame is None or frame.f_code.co_name == "<module>"


def _is_ours(frame: FrameType) -> bool:
    return str(frame.f_globals.get("__name__")).partition(".")[0] == _PACKAGE


def find_local(loops: tuple[Loop, ...], name: str, depth: int = 2) -> object:
    """Return a local of the frame in which a server iterates us, or will do so. None if there is none."""
    found = find_loop(loops, depth)
    return None if found is None else _local(found[0], name)


def _local(frame: FrameType, path: str) -> object:
    """Return a local of *frame*, or an attribute of one (``self.result``). None if there is none.

    Before Python 3.13 a frame keeps the dict of its locals. It is cleared here: otherwise it would keep the block, 10 MB
    perhaps, until the frame's end.
    """
    name, *attributes = path.split(".")
    names = frame.f_locals
    found = names.get(name)
    if type(names) is dict:
        names.clear()
    for attribute in attributes:
        found = getattr(found, attribute, None)
    return found
