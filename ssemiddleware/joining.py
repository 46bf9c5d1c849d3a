"""`join=`: a burst of small events is sent in few writes. When an event may wait for the next one, and who sends it then.

Once `FOLLOWED` blocks have followed each other `AT_ONCE`, the server's thread pulls more than one in a `JoiningStream`'s
``__next__`` and returns them as one block, of `MOST_JOINED` bytes at most. It stops to pull when one comes late, and returns
that one with the others.

While the application's code runs, two threads use what is `Held`. The server's thread adds blocks without the baton. The
watcher takes the baton, and sends them if the application does not yield another block in time. Each of them takes all held
blocks at once, and there are none while the server has the baton. So none is left when a stream ends, and all are in order.
"""

from __future__ import annotations

import contextlib
import os
from collections import deque
from collections.abc import Callable, Iterable
from operator import length_hint
from typing import TYPE_CHECKING

from .care import cut_from_outside, fail
from .servers.server import MOST_JOINED
from .stream import EventStream

if TYPE_CHECKING:
    from typing_extensions import Self

    from .servers.server import Writer
    from .service import Run, Service
    from .start import Start

FOLLOWED = 64  # blocks before the first that is held: until then it may be a short answer, or a few events now and then
AT_ONCE = 0.0003  # seconds for which the application may work on a block; what takes it longer gains little

_EVENT_END = b"\n\n"
_GROWS = 128  # bytes by which what cannot be compressed may grow, with what waited for the watcher


class Held:
    """The blocks of one stream that have come and not been sent, whole events each, for *within* seconds at most.

    The server's thread calls `add` and `take`, the watcher the others.
    """

    __slots__ = ("_blocks", "_process", "_service", "is_expected", "within")

    def __init__(self, service: Service, within: float) -> None:
        self._service = service
        self._blocks: deque[bytes] = deque()
        self._process = os.getpid()
        self.within = within
        self.is_expected = False  # the watcher is going to call `send`

    @property
    def is_ours(self) -> bool:
        """Whether this process made it: a fork has no watcher that sends anything."""
        return self._process == os.getpid()

    def add(self, block: bytes) -> None:
        """Hold *block*. The baton is free."""
        self._blocks.append(block)

    def take(self, *last: bytes) -> bytes:
        """Return all that is held and *last* as one block, counted. With the baton."""
        # In a fork they are the parent's, which sends them.
        held = self._blocks if self.is_ours else ()
        blocks = (*held, *last)
        self._blocks.clear()
        wire = self._service.wire
        return wire.join(blocks) if blocks and wire is not None else b""

    # -- the watcher

    @property
    def holds_some(self) -> bool:
        """Whether there is something that may still be sent."""
        return bool(self._blocks) and not self._service.baton.is_over

    def send(self) -> None:
        """Send what is held, if that is possible without a wait."""
        baton = self._service.baton
        if not self._blocks or not baton.take_ours():
            return
        try:
            self.send_with_baton()
        except BaseException:
            cut_from_outside(self._service)
            raise
        finally:
            baton.give_ours()

    def send_with_baton(self) -> bool:
        """Send what is held until nothing is. Return False if that would have to wait."""
        service = self._service
        while self._blocks:
            writer, wire = service.outside.writer, service.wire
            if writer is None or wire is None or writer.room() < MOST_JOINED:
                return False
            blocks = []
            while self._blocks:  # more may come meanwhile
                blocks.append(self._blocks.popleft())
            if not self._has_written(writer, wire.join(blocks)):
                cut_from_outside(service)
                return False
        return True

    def _has_written(self, writer: Writer, joined: bytes) -> bool:
        """Write; return False if the client has disconnected meanwhile."""
        try:
            return writer.write(joined, MOST_JOINED)
        except OSError:
            return False

    def fail(self, run: Run) -> None:
        """End the stream: `send` raised an exception."""
        fail(self._service, run)


class JoiningStream(EventStream):
    """An `EventStream` that joins the events of a burst. *within*: seconds for which it may hold one.

    *expect*: has the watcher call `Held.send` within that time; returns False where no watcher runs. For the server's thread.
    """

    __slots__ = ("_expect", "_followed", "_within")

    _within: float
    _expect: Callable[[Held], bool]
    _followed: int  # blocks that have followed each other at once

    def __new__(cls, iterable: Iterable[bytes], start: Start, within: float, expect: Callable[[Held], bool]) -> Self:  # noqa: D102
        stream = super().__new__(cls, iterable, start)
        stream._within, stream._expect = within, expect
        stream._followed = 0
        return stream

    def __next__(self) -> bytes:
        service = self._service
        if service is None or not (service.is_quick or self._is_joinable(service)):
            self._followed = 0
            return super().__next__()
        if self._followed >= FOLLOWED:
            held = self._maybe_hold(service)
            if held is not None:
                return self._next_joined(service, held)
        began = service.clock()
        block = super().__next__()
        self._followed = self._followed + 1 if block and service.clock() - began < AT_ONCE else 0
        return block

    def _is_joinable(self, service: Service) -> bool:
        """Tell whether more than one block may be pulled at a time, although each is looked into: it is compressed."""
        wire = service.wire
        return (
            wire is not None
            and bool(wire.encoding)
            and wire.is_joinable
            and service.carried.moves > 0
            and length_hint(self._pieces, 1) == 0
            and service.goes_on
            and not service.is_waiting_for_first
        )

    def _maybe_hold(self, service: Service) -> Held | None:
        """Return where to hold blocks, or None if no other thread could send them: a layer is outside, or no watcher runs."""
        writer = service.outside.direct_writer
        if writer is not None:
            held = service.held
            if held is None and writer.room() >= MOST_JOINED:
                held = service.held = Held(service, self._within)
            if held is not None and held.is_ours and self._is_expected(held):
                return held
        self._followed = 0  # so that it is not asked for each block
        return None

    def _is_expected(self, held: Held) -> bool:
        if held.is_expected:
            return True
        held.is_expected = True  # first: the watcher sets it to False
        if self._expect(held):
            return True
        held.is_expected = False
        return False

    def _next_joined(self, service: Service, held: Held) -> bytes:
        if self._quick is not None:  # it would keep the block that it yielded last
            self._quick.close()
        service.baton.give()
        try:
            block, size = self._pull_all(service, held)
        except StopIteration:
            self._send(service)
            return self._rest(service)
        except BaseException as error:
            with contextlib.suppress(OSError):  # the client has disconnected; what the application raises says more
                self._send(service)
            if self._raised(service, error):
                raise
            return self._rest(service)
        service.baton.take()
        if size <= MOST_JOINED and self._goes_on(service) and service.held is held:
            self._look(service, size)
            return held.take(block)
        self._send(service)
        return self._pass_on(service, block)

    def _look(self, service: Service, size: int) -> None:
        """Have the end checked before the next pull, if that is due."""
        if not service.is_quick:  # blocks that are looked into have this done for each
            service.hold_little(size)
            if service.is_overlooked():
                self._followed = 0
        elif service.carried.quick_bytes + size > service.look_at and not service.has_looked(size):
            service.is_quick = False

    def _goes_on(self, service: Service) -> bool:
        """Tell whether nothing has happened meanwhile that ends the burst. With the baton or without it."""
        return service.is_quick or (service.wire is not None and bool(service.wire.encoding) and service.goes_on)

    def _pull_all(self, service: Service, held: Held) -> tuple[bytes, int]:
        """Pull blocks, and hold all but the last one. Return that, and the bytes of all; of too many if it cannot be joined."""
        get_next, clock, within = self._next_block, service.clock, self._within
        most = MOST_JOINED if service.is_quick else MOST_JOINED - _GROWS
        size, began = 0, clock()
        last = began
        while True:
            block = get_next()
            now = clock()
            if type(block) is not bytes or block[-2:] != _EVENT_END:
                self._followed = 0
                return block, MOST_JOINED + 1
            size += len(block)
            if now - last >= AT_ONCE:
                self._followed = 0
                return block, size
            if size + len(block) > most or now - began >= within or not (service.is_quick or self._goes_on(service)):
                return block, size
            held.add(block)
            if not held.is_expected:
                self._is_expected(held)
            last = now

    def _send(self, service: Service) -> None:
        """Write what is held before something else happens, and keep the baton."""
        service.baton.take()
        service.write_held()
