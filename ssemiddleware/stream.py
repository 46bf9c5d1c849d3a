"""`EventStream`: the iterable that the server gets for an event stream, announced or not.

Its ``__next__`` gives the baton up, pulls the application's next block, takes the baton back and returns. So while the
application's code runs the baton is free, and while the server writes it is the server's: from each return to the next call.
Call, iteration and ``close()`` of the application happen on the server's thread, in its Context, as without us.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Iterable, Iterator
from itertools import chain
from typing import TYPE_CHECKING, NoReturn

from .ending import CLIENT_GONE, ENDED, RAISED
from .event_stream import count_event_ends
from .wire import QUICK, only_bytes

if TYPE_CHECKING:
    from .service import Service
    from .start import Start

_log = logging.getLogger("ssemiddleware")

_EVENT_END = b"\n\n"


class EventStream:
    """An iterable for the server in place of *iterable*, which is an event stream or, lazily started, may turn out to be one.

    *start*: the ``start_response`` that the application was given. For the server's thread; `close` may come from any, twice.
    """

    __slots__ = ("__weakref__", "_get_next", "_iterable", "_look_at", "_pieces", "_service", "_start")

    def __init__(self, iterable: Iterable[bytes], start: Start) -> None:
        self._iterable: list[Iterable[bytes]] = [iterable]  # until it is closed
        self._start = start
        self._service: Service | None = start.service
        self._get_next: Callable[[], bytes] | None = None  # None before the first pull
        self._pieces: Iterator[bytes] = iter(())  # what leaves before the application is asked again
        self._look_at = QUICK  # bytes in small blocks, at which to look at memory and the like

    def __iter__(self) -> Iterator[bytes]:
        return self

    def __next__(self) -> bytes:
        service = self._service
        if service is None or not service.is_quick:
            return self._next_with_a_look()
        free = service.baton.free  # `give` and `take` stand here in full: a call costs as much as all the rest
        free.add(None)
        try:
            block = self._get_next()  # type: ignore[misc]  # a stream is quick behind its first block only
        except StopIteration:
            return self._rest(service)
        except BaseException as error:
            if self._raised(service, error):
                raise
            return self._rest(service)
        try:
            free.pop()
        except KeyError:
            service.baton.take()
        if service.is_quick and type(block) is bytes and block[-2:] == _EVENT_END:
            size = len(block)
            carried = service.carried
            passed = carried.quick_bytes + size
            if passed <= self._look_at or self._has_looked(service, size):
                carried.quick_bytes = passed
                carried.quick_blocks += 1
                if block.find(b"\n") != size - 2:  # one line and a blank one are one event: nearly always
                    carried.quick_more_events += count_event_ends(block) - 1
                return block
        return self._pass_on(service, block)

    def close(self) -> None:
        """End the stream, whatever the server's reason is, and close the application's iterable, once."""
        try:
            self._start.finish(CLIENT_GONE)
        finally:
            self._start.let_go()
            self._get_next = _stopped
            self._pieces = iter(())
            iterable: object = None
            with contextlib.suppress(IndexError):  # another thread has closed it
                iterable = self._iterable.pop()
            if hasattr(iterable, "close"):
                iterable.close()

    def __del__(self) -> None:  # a server that neither iterates nor closes must not leave a place behind
        if self._iterable:
            self._start.vanish()

    def _has_looked(self, service: Service, size: int) -> bool:
        """Look whether all goes on, once the small blocks have come to so much; False where that takes more than a look."""
        if size > service.wire.quick_size or service.is_overlooked() or not service.pulls.go_on(size):  # type: ignore[union-attr]
            return False
        service.hold_little(size)
        self._look_at = service.carried.quick_bytes + size + QUICK
        return True

    # -- with a look

    def _next_with_a_look(self) -> bytes:
        for piece in self._pieces:  # of what has come already
            if self._service is not None:
                self._service.outside.left(piece)
            return piece
        if self._get_next is _stopped:
            self._stop()
        service = self._service
        if service is None or not service.is_stream:
            return self._next_of_unknown()
        if service.is_announced:
            service.outside.look(self)
        opening = service.maybe_opening(None) if service.may_open else None
        if opening is not None:
            return service.outside.left(opening)
        if service.baton.is_over:
            self._stop()
        if service.wire is not None and not self._start.request.has_body:
            return self._headers_alone()
        if service.ends_now():
            return self._last_words(service)
        return self._pull(service)

    def _pull(self, service: Service, *, waits: bool = True) -> bytes:
        block: object = None
        service.baton.give()
        try:
            has_memory = not waits or service.pulls.wait(service.must_stop)
            if has_memory:
                block = self._next_block()
        except StopIteration:
            return self._rest(service)
        except BaseException as error:
            if self._raised(service, error):
                raise
            return self._rest(service)
        service.baton.take()
        return self._pass_on(service, block) if has_memory else self._next_without_memory(service)

    def _next_without_memory(self, service: Service) -> bytes:
        """Go on where the stream had to end while it waited for memory. An event that is under way is finished without."""
        if service.baton.is_over:
            self._stop()
        if service.ends_now():
            return self._last_words(service)
        return self._pull(service, waits=False)

    def _next_block(self) -> bytes:
        if self._get_next is None:
            self._get_next = iter(self._iterable[0]).__next__
        return self._get_next()

    def _pass_on(self, service: Service, block: object) -> bytes:
        """Return the first piece of what leaves now that *block* has come."""
        if not service.is_stream or service.wire is None:  # another response has been started in its place, or none
            return block  # type: ignore[return-value]
        try:
            block = only_bytes(block)
        except TypeError as error:
            if self._raised(service, error):
                raise
            return self._rest(service)
        if service.baton.is_over:
            self._stop()
        if not self._start.request.has_body:
            return self._headers_alone()
        left = self._look_at - service.carried.quick_bytes
        must_look = len(block) >= left  # before the next pull, at memory and at the end
        service.hold_little(len(block))
        service.pulls.came(len(block), QUICK - left)
        self._look_at = service.carried.quick_bytes + QUICK
        if not block:
            return service.outside.left(service.maybe_heartbeat())
        opening = service.maybe_opening(block) if service.may_open else None
        service.may_open = False
        if opening is None and service.wire.pass_quickly(block):
            service.become_quick(has_more=must_look)
            return service.outside.left(block)
        pieces = service.wire.feed(block)
        is_small = len(block) <= service.wire.max_block
        if is_small:
            pieces = iter([*pieces])
        self._pieces = pieces if opening is None else chain((opening,), pieces)
        del block  # a large one may have left before the next is made
        piece = next(self._pieces, b"")  # PEP 3333: a block for a block, so that the server can do other work
        has_more = must_look or not is_small or opening is not None or getattr(pieces, "__length_hint__", int)() > 0
        service.become_quick(has_more=has_more)
        return service.outside.left(piece)

    def _next_of_unknown(self) -> bytes:
        """Pull a block of what is no event stream, or may yet turn out to be one: the application starts it when it likes."""
        self._start.puller = self
        try:
            block = self._next_block()
        except BaseException as error:
            if self._start.is_refused and isinstance(error, StopIteration):
                return self._refused()
            self._get_next = _stopped
            if self._start.service is not None:
                self._service = self._start.service
                if isinstance(error, StopIteration) or not self._raised(self._service, error):
                    return self._rest(self._service)
            self._start.finish(ENDED if isinstance(error, StopIteration) else RAISED)
            raise
        finally:
            self._start.puller = None
        if self._start.is_refused:
            return self._refused()
        if self._start.service is not None:  # one that was begun now, maybe in place of what was begun in place of another
            self._start.service.baton.take()
            return self._pass_on(self._start.service, block)
        return block

    def has_begun(self, service: Service) -> None:
        """Take the response for an event stream: the application has just started it, and may be silent before it yields."""
        if self._service is not service:
            self._service = service
            if service.is_announced and not service.server.iterates_in_c:  # else our frames are not the lowest
                service.outside.look(self)
            service.baton.give()

    def _refused(self) -> bytes:
        self._get_next = _stopped
        try:
            iterable = self._iterable.pop()
            if hasattr(iterable, "close"):
                iterable.close()
        finally:
            self._pieces = iter(self._start.refuse())
        return next(self._pieces, b"")

    # -- the end

    def _headers_alone(self) -> bytes:
        """Answer a HEAD: its headers are the answer, however long the stream would go on."""
        self._get_next = _stopped
        return b""

    def _rest(self, service: Service) -> bytes:
        """Return what is left to leave now that the application has ended; raise `StopIteration` if nothing is."""
        self._get_next = _stopped
        service.pulls.came(0)
        service.baton.take()
        service.is_quick = False
        if service.wire is None or service.baton.is_over or not service.is_stream:
            self._stop()
        if service.must_break_off:
            service.break_off()
        self._pieces = chain(service.wire.finish(), service.last_words_if_told_to_end())
        piece = next(self._pieces, None)
        return self._stop() if piece is None else service.outside.left(piece)

    def _last_words(self, service: Service) -> bytes:
        self._get_next = _stopped
        return service.last_words() or self._stop()

    def _stop(self) -> NoReturn:
        if self._service is not None:
            self._service.finish(ENDED)
        raise StopIteration

    def _raised(self, service: Service, error: BaseException) -> bool:
        """Note that the application has raised *error*; tell whether the server has to know.

        What is raised by an application that was told to end is how it ends: redis-py raises in ``listen()`` once its pubsub is
        closed.
        """
        self._get_next = _stopped
        service.pulls.came(0)
        service.baton.take()
        has_ended = service.baton.is_over or (service.wire is not None and service.wire.takes_end)
        if service.handle.reason is not None and has_ended and isinstance(error, Exception):
            _log.debug("%r raised after its stream had ended", service.handle.path, exc_info=error)
            return False
        if service.carried.moves and not service.baton.is_over:  # else the server answers 500
            service.cut()
        service.finish(RAISED)
        return True


def _stopped() -> NoReturn:
    """Stand for an iterator that has ended: it is never asked again."""
    raise StopIteration
