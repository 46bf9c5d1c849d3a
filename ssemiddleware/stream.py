"""`EventStream`: the iterable that the server gets for an event stream, announced or not.

Each time that the server asks for a block, the baton is given up, the application's next block is pulled, and the baton is
taken back. So while the application's code runs the baton is free, and while the server writes it is the server's. Call,
iteration and ``close()`` of the application happen on the server's thread, in its Context, as without us.

The stream is an `itertools.chain` over two generators: `_parts` takes a look at each block, and as long as there is nothing to
look for, `_quick_blocks` passes them on. To call a ``__next__`` written in Python would take as long as all that is done there.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Generator, Iterable, Iterator
from itertools import chain, repeat, starmap
from types import GeneratorType
from typing import TYPE_CHECKING, NoReturn, cast
from weakref import ref

from .ending import CLIENT_GONE, ENDED, RAISED
from .event_stream import COUNTED, LF, count_event_ends
from .wire import QUICK, only_bytes

if TYPE_CHECKING:
    from typing_extensions import Self

    from .service import Service
    from .start import Start

_log = logging.getLogger("ssemiddleware")

_EVENT_END = b"\n\n"
_NOTHING: Iterator[bytes] = iter(())  # also in place of an iterator that has ended, which must not be asked again
_PULLED = object()  # in place of a block, while the application's code runs

_Itself = Callable[[], "EventStream"]  # a weak reference


class EventStream(chain[bytes]):
    """The iterable for the server, in place of *iterable*: an event stream, or a response that starts late and may become one.

    *start*: the ``start_response`` that the application was given. For the server's thread; any thread may call `close`, twice.
    """

    __slots__ = ("__weakref__", "_iterable", "_pieces", "_quick", "_service", "_source", "_start")

    _iterable: list[Iterable[bytes]]  # until it is closed
    _start: Start
    _service: Service | None
    _source: Iterator[bytes] | None  # the application's iterator; None before the first pull, `_NOTHING` at the end
    _pieces: Iterator[bytes]  # what is sent before the application is asked again
    _quick: Generator[bytes] | None  # what passes blocks on without a look

    def __new__(cls, iterable: Iterable[bytes], start: Start) -> Self:  # noqa: D102  (the class says it)
        itself: list[_Itself] = []
        stream = cast("Self", cls.from_iterable(_parts(itself)))
        itself.append(cast("_Itself", ref(stream)))
        stream._iterable = [iterable]
        stream._start = start
        stream._service = start.service
        stream._source = stream._quick = None
        stream._pieces = _NOTHING
        return stream

    def close(self) -> None:
        """End the stream, for whatever reason the server has, and close the application's iterable once."""
        try:
            self._start.finish(CLIENT_GONE)
        finally:
            self._start.let_go()
            self._source = self._pieces = _NOTHING
            if self._quick is not None:
                with contextlib.suppress(ValueError):  # a thread is in it, and ends it when the application yields
                    self._quick.close()
            try:
                iterable: object = self._iterable.pop()
            except IndexError:  # another thread has closed it
                iterable = None
            if hasattr(iterable, "close"):
                iterable.close()

    def __del__(self) -> None:  # a server may neither iterate nor close
        if self._iterable:
            self._start.abandon()

    def _maybe_quick(self) -> Iterator[bytes] | None:
        """Return what passes the next blocks on without a look, or None if each needs one."""
        service = self._service
        if service is None or not service.is_quick or self._source is None:
            return None
        self._quick = _quick_blocks(cast("_Itself", ref(self)), service, self._source)
        return self._quick

    # -- with a look

    def _next_with_a_look(self) -> bytes:
        for piece in self._pieces:  # of what has come already
            if self._service is not None:
                self._service.outside.note_sent(piece)
            return piece
        if self._source is _NOTHING:
            self._stop()
        service = self._service
        if service is None or not service.is_stream:
            return self._next_of_unknown()
        if service.is_announced:
            service.outside.look(self)
        opening = service.maybe_opening(None) if service.is_waiting_for_first else None
        if opening is not None:
            return service.outside.note_sent(opening)
        if service.baton.is_over:
            self._stop()
        if service.wire is not None and not self._start.request.has_body:
            return self._headers_alone()
        if service.ends_now():
            return self._final_bytes(service)
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
        """Go on after a wait for memory in which the stream had to end. An unfinished event is finished without waiting."""
        if service.baton.is_over:
            self._stop()
        if service.ends_now():
            return self._final_bytes(service)
        return self._pull(service, waits=False)

    def _next_block(self) -> bytes:
        if self._source is None:
            self._source = _only_next(iter(self._iterable[0]))
        return next(self._source)

    def _pass_on(self, service: Service, block: object) -> bytes:
        """Return the first piece to be sent, now that *block* has come."""
        if not service.is_stream or service.wire is None:  # the response is not an event stream, or has not started
            return block  # type: ignore[return-value]
        if type(block) is not bytes:
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
        left = service.look_at - service.carried.quick_bytes
        service.hold_little(len(block))
        service.pulls.note_block(block)
        must_look = len(block) >= left and service.is_overlooked()  # before the next pull
        service.look_at = service.carried.quick_bytes + QUICK
        if not block:
            return service.outside.note_sent(service.maybe_heartbeat())
        opening = service.maybe_opening(block) if service.is_waiting_for_first else None
        if opening is None and service.wire.pass_quickly(block):
            service.become_quick(may=not must_look)
            return service.outside.note_sent(block)
        pieces = service.wire.feed(block)
        is_small = len(block) <= service.wire.max_block
        if is_small:
            pieces = iter([*pieces])
        self._pieces = pieces if opening is None else chain((opening,), pieces)
        del block  # so that a large one is freed before the next one is made, unless `Pulls` keeps it
        piece = next(self._pieces, b"")  # PEP 3333: a block for each block, so that the server can do other work
        has_more = must_look or not is_small or opening is not None or getattr(pieces, "__length_hint__", int)() > 0
        service.become_quick(may=not has_more and service.wire.is_quick)
        return service.outside.note_sent(piece)

    def _next_of_unknown(self) -> bytes:
        """Pull a block of a response that is no event stream, or has not started: an application may start it late."""
        self._start.puller = self
        try:
            block = self._next_block()
        except BaseException as error:
            if self._start.is_refused and isinstance(error, StopIteration):
                return self._refused()
            self._source = _NOTHING
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
        if self._start.service is not None:  # started just now, maybe in place of another response
            self._start.service.baton.take()
            return self._pass_on(self._start.service, block)
        return block

    def has_begun(self, service: Service) -> None:
        """Begin an event stream: the application has just started it, and may be silent before its first block."""
        if self._service is not service:
            self._service = service
            if service.is_announced and not service.server.iterates_in_c:  # otherwise our frames are not the lowest
                service.outside.look(self)
            service.baton.give()

    def _refused(self) -> bytes:
        self._source = _NOTHING
        try:
            iterable = self._iterable.pop()
            if hasattr(iterable, "close"):
                iterable.close()
        finally:
            self._pieces = iter(self._start.refuse())
        return next(self._pieces, b"")

    # -- the end

    def _headers_alone(self) -> bytes:
        """Answer a HEAD: the headers are the whole answer, however long the stream would go on."""
        self._source = _NOTHING
        return b""

    def _rest(self, service: Service) -> bytes:
        """Return what is still to be sent now that the application has ended. Raise `StopIteration` if that is nothing."""
        self._source = _NOTHING
        service.pulls.note_block(b"")
        service.baton.take()
        was_quick, service.is_quick = service.is_quick, False
        if service.wire is None or service.baton.is_over or not service.is_stream:
            self._stop()
        if service.must_end:
            service.maybe_break_off()
        elif was_quick:  # so nothing is held
            self._stop()
        self._pieces = chain(service.wire.finish(), service.end_of_body())
        piece = next(self._pieces, None)
        return self._stop() if piece is None else service.outside.note_sent(piece)

    def _final_bytes(self, service: Service) -> bytes:
        self._source = _NOTHING
        return service.final_bytes() or self._stop()

    def _stop(self) -> NoReturn:
        if self._service is not None:
            self._service.finish(ENDED)
        raise StopIteration

    def _raised(self, service: Service, error: BaseException) -> bool:
        """Note that the application has raised *error*. Return whether to raise it to the server.

        Once the stream has to end, an exception is an ordinary way to end: redis-py raises in ``listen()`` when its pubsub is
        closed.
        """
        self._source = _NOTHING
        service.pulls.note_block(b"")
        service.baton.take()
        has_ended = service.baton.is_over or (service.wire is not None and service.wire.takes_end)
        if service.handle.reason is not None and has_ended and isinstance(error, Exception):
            _log.debug("%r raised after its stream had ended", service.handle.path, exc_info=error)
            return False
        if service.carried.moves and not service.baton.is_over:  # otherwise the server answers 500
            service.cut()
        service.finish(RAISED)
        return True


def _parts(itself: list[_Itself]) -> Iterator[Iterable[bytes]]:
    """Yield each block that was looked at, and what passes others on. *itself*: the stream, which a server may just drop."""
    stream = itself.pop()
    while part := _at_most_one(stream()._next_with_a_look):
        yield part
        del part  # so that a large block is freed before the next one is made
        quick = stream()._maybe_quick()
        if quick is not None:
            yield quick
        del quick


def _at_most_one(act: Callable[..., bytes], *arguments: object) -> tuple[bytes, ...]:
    """Return the block that *act* returns, or none if it raises StopIteration, which a generator must not."""
    try:
        return (act(*arguments),)
    except StopIteration:
        return ()


def _quick_blocks(stream: _Itself, service: Service, source: Iterator[bytes]) -> Generator[bytes]:
    """Pull from *source* and pass on, as long as the blocks are small and have whole events, and nothing else is to be done.

    `Baton.give` and `take`, and `Wire.pass_quickly`, are written out: calls would take as long as all the rest.
    """
    free, carried, look_at = service.baton.free, service.carried, service.look_at
    block: object = _PULLED
    try:
        free.add(None)
        for block in source:
            try:
                free.pop()
            except KeyError:
                service.baton.take()
            if not service.is_quick or type(block) is not bytes:
                break
            size = len(block)
            passed = carried.quick_bytes + size
            if passed > look_at:
                if not service.has_looked(size):
                    break
                look_at = service.look_at
            if size <= COUNTED:
                lines = block.removesuffix(_EVENT_END)
                if len(lines) == size:
                    break
                if LF in lines:
                    carried.quick_more_events += block.count(_EVENT_END) - 1
            elif block[-2:] != _EVENT_END:
                break
            elif LF in block[:COUNTED]:
                carried.quick_more_events += count_event_ends(block) - 1
            carried.quick_bytes = passed
            carried.quick_blocks += 1
            yield block
            if not service.is_quick:
                return  # type: ignore[unreachable]  # the watcher has set it meanwhile
            block = _PULLED
            free.add(None)
    except BaseException as error:
        if block is not _PULLED or stream()._raised(service, error):
            raise
    rest = _at_most_one(stream()._rest, service) if block is _PULLED else _at_most_one(stream()._pass_on, service, block)
    del block
    yield from rest


def _only_next(iterator: Iterator[bytes]) -> Iterator[bytes]:
    """Return what calls ``__next__`` of *iterator* and nothing else: a loop calls ``__iter__``, and some start anew then."""
    return iterator if type(iterator) is GeneratorType else starmap(iterator.__next__, repeat(()))
