"""What is between us and the server: nothing, a layer that passes our blocks on, or a layer that changes them.

The watcher may write only if it is proven, for each stream, that nothing changes our blocks. `servers.loop` has the proof.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from .servers.loop import has_sent, is_called_from_c, iterates
from .servers.server import NO_SERVER, Server
from .wire import QUICK

if TYPE_CHECKING:
    from .servers.server import Writer

_OURS = 4  # frames that stand above the server's at least: those of `EventStream`, and what asks


class Outside:
    """What is known of the layers between us and the server, and so whether there is a *writer*. For the server's thread.

    *writer* is for the watcher, with the baton. It is None unless nothing outside changes what we yield.
    """

    __slots__ = ("_is_direct", "_last_block", "_possible_writer", "_server", "needs_proof", "writer")

    def __init__(self, server: Server) -> None:
        self._server = server
        self._possible_writer: Writer | None = None
        self._is_direct: bool | None = None  # whether the server itself iterates us; None before the first check
        self._last_block = b""  # the last one that was sent, if a layer is outside
        self.writer: Writer | None = None
        self.needs_proof = False  # whether to check after each block what a layer outside did to it

    def begin(self, writer: Writer | None) -> None:
        """Take the *writer* that the server has for the response."""
        self._possible_writer = writer
        # An application may start its response inside the first pull, which comes after the first check.
        self._decide()

    def look(self, iterable: object) -> None:
        """Check whether the server itself iterates our *iterable*, or else sent the same object that we yielded last.

        Call it while the server asks for a block, when its frame is above ours.
        """
        server = self._server
        if self._is_direct is None:
            self._is_direct = iterates(server.loops, iterable, _OURS) or (server.iterates_in_c and is_called_from_c())
            self._decide()
        elif self.needs_proof:
            self.writer = self._possible_writer if has_sent(server.loops, self._last_block, _OURS) else None

    def _decide(self) -> None:
        self.writer = self._possible_writer if self._is_direct else None
        self.needs_proof = self._possible_writer is not None and not self._is_direct

    @property
    def direct_writer(self) -> Writer | None:
        """The writer if the server itself iterates us, so that even bytes of the application's may go through it."""
        return self.writer if self._is_direct else None

    @property
    def is_mute(self) -> bool:
        """Whether nothing can be written during this silence of the application."""
        return self._is_direct is not None and self.writer is None

    def note_sent(self, block: bytes) -> bytes:
        """Note that *block* is sent, and return it."""
        if self.needs_proof:
            self._last_block = block if len(block) <= QUICK else b""
        return block

    def drop(self) -> None:
        """Drop all references to the request."""
        self.writer = self._possible_writer = None
        self.needs_proof = False
        self._server, self._last_block = NO_SERVER, b""
