"""What stands between us and the server: nothing, a layer that hands on what we yield, or one that changes it.

The watcher may write behind the application's back only where that is known for each stream; see `servers.loop` for the proof.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from .servers.loop import has_sent, is_called_from_c, iterates
from .servers.server import NO_SERVER, Server
from .wire import QUICK

if TYPE_CHECKING:
    from .servers.server import Writer


class Outside:
    """What is known of the way from us to the server, and so whether there is a *writer*. For the server's thread.

    *writer* is for the watcher, with the baton: it is there only while nothing outside changes what we yield.
    """

    __slots__ = ("_is_direct", "_last_block", "_possible_writer", "_server", "writer")

    def __init__(self, server: Server) -> None:
        self._server = server
        self._possible_writer: Writer | None = None
        self._is_direct: bool | None = None  # whether the server itself iterates us, None before the first look
        self._last_block = b""  # that left, where that is not so
        self.writer: Writer | None = None

    def begin(self, writer: Writer | None) -> None:
        """Take the *writer* that the server has for the response."""
        self._possible_writer = writer
        # An application that starts its response lazily does so inside the first pull, before which we have looked.
        self.writer = writer if self._is_direct else None

    def look(self, iterable: object) -> None:
        """See whether the server itself iterates *iterable*, which is ours; if not, whether what it sent is what we yielded.

        To be asked inside ``__next__``, where the server's frame stands above.
        """
        server = self._server
        if self._is_direct is None:
            self._is_direct = iterates(server.loops, iterable) or (server.iterates_in_c and is_called_from_c())
            self.writer = self._possible_writer if self._is_direct else None
        elif self.needs_proof:
            self.writer = self._possible_writer if has_sent(server.loops, self._last_block) else None

    @property
    def is_mute(self) -> bool:
        """Whether nothing can be written while the application is silent this time."""
        return self._is_direct is not None and self.writer is None

    @property
    def needs_proof(self) -> bool:
        """Whether it has to be seen behind each block what a layer outside did to it."""
        return self._possible_writer is not None and not self._is_direct

    def left(self, block: bytes) -> bytes:
        """Note that *block* leaves, and return it."""
        if self.needs_proof:
            self._last_block = block if len(block) <= QUICK else b""
        return block

    def forget(self) -> None:
        """Let go of all that belongs to the request."""
        self.writer = self._possible_writer = None
        self._server, self._last_block = NO_SERVER, b""
