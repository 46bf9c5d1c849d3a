"""`Start`: the ``start_response`` that an application is given. Here it is seen whether a response is an event stream."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, NoReturn, Protocol

from .ending import StreamOver
from .handle import run_all
from .request import Request
from .response import Headers, is_event_stream

if TYPE_CHECKING:
    from _typeshed import OptExcInfo
    from _typeshed.wsgi import StartResponse

    from .handle import Stream
    from .service import Service

_NO_REQUEST = Request({}, lambda _: False)


def _over(*_: object) -> NoReturn:
    """Take the place of the server's ``start_response`` once the response is closed."""
    raise StreamOver


class Host(Protocol):
    """What a `Start` asks of the middleware."""

    def maybe_begin(self, request: Request, handle: Stream, *, may_refuse: bool) -> Service | None:
        """Return the service of a new stream, None if it is refused; with *may_refuse* False it is not."""

    def amend(self, service: Service, request: Request, status: str, headers: Headers) -> Headers:
        """Return the headers of an event stream as they should be sent, and give the service its wire."""

    def note_opened(self, service: Service, request: Request) -> None:
        """Say that the response of a stream has started."""

    def refuse(self, request: Request, handle: Stream, start_response: StartResponse) -> Iterable[bytes]:
        """Answer in place of a stream that gets no place."""


class Puller(Protocol):
    """What a `Start` tells about a response that is started late, inside the first pull."""

    def has_begun(self, service: Service) -> None:
        """Treat the response as an event stream from here on."""


class Start:
    """The ``start_response`` of one request: passes everything on, and amends the headers of an event stream.

    For the server's thread. Once there is a stream, it takes the baton: a second call changes headers that the watcher may be
    sending.
    """

    __slots__ = (
        "_handle", "_host", "_start_response", "is_left_alone", "is_refused", "is_started", "puller", "request", "service",
    )  # fmt: skip

    def __init__(self, host: Host, request: Request, handle: Stream, start_response: StartResponse) -> None:
        self._host = host
        self._handle = handle
        self._start_response = start_response
        self.request = request
        self.service: Service | None = None  # before the response starts only if the request accepts only an event stream
        self.is_started = False
        self.is_refused = False
        self.is_left_alone = False  # the application's own iterable was passed on, so that we would not see a stream's end
        self.puller: Puller | None = None  # pulls the first block of an application that has not started a response yet

    def __call__(self, status: str, headers: Headers, exc_info: OptExcInfo | None = None) -> Callable[[bytes], object]:
        """Start the response, as PEP 3333 has it."""
        headers = headers if isinstance(headers, list) else list(headers)  # some servers take an iterator too, to be read once
        try:
            if self.is_left_alone or not is_event_stream(headers):
                return self._start_another(status, headers, exc_info)
            service = self._maybe_service()
            return (lambda _block: None) if service is None else self._start_stream(service, status, headers, exc_info)
        finally:
            exc_info = None  # PEP 3333: no reference to it may be kept

    def _maybe_service(self) -> Service | None:
        """Return the service of the event stream that starts here; None if it is refused."""
        if self._start_response is _over:  # otherwise a stream would begin that never ends
            raise StreamOver
        if self.service is None:
            # The application has run. A client that is refused would send the request again, and it must not run twice.
            self.service = self._host.maybe_begin(self.request, self._handle, may_refuse=self.request.is_safe)
        self.is_refused = self.service is None
        return self.service

    def refuse(self) -> Iterable[bytes]:
        """Answer in place of a stream that gets no place."""
        return self._host.refuse(self.request, self._handle, self._start_response)

    def refuse_instead_of(self, iterable: Iterable[bytes]) -> Iterable[bytes]:
        """Close the application's *iterable*, and answer in its place."""
        try:
            if hasattr(iterable, "close"):
                iterable.close()
        finally:
            answer = self.refuse()
        return answer

    @property
    def is_another(self) -> bool:
        """Whether the response has turned out to be no event stream."""
        return self.is_started and self.service is None

    def finish(self, reason: str) -> None:
        """Note that the request has ended. Callable from any thread, and twice."""
        try:
            self._finish(reason)
        except BaseException:  # a signal or a greenlet's end, between two steps
            self._finish(reason)
            raise

    def _finish(self, reason: str) -> None:
        if self.service is not None:
            self.service.finish(reason)
            self.service.let_go()
        else:
            run_all(self._handle.finish(reason))

    def abandon(self) -> None:
        """Note inside a garbage collection that the server has dropped the response."""
        if self.service is not None:
            self.service.abandon()

    def let_go(self) -> None:
        """Drop all references to the request and the server: the response is closed. Callable from any thread, and twice."""
        self._start_response, self.request = _over, _NO_REQUEST

    def _start_stream(
        self, service: Service, status: str, headers: Headers, exc_info: OptExcInfo | None
    ) -> Callable[[bytes], object]:
        is_given, wire = service.baton.take(), service.wire
        try:
            service.is_quick = False
            amended = self._host.amend(service, self.request, status, headers)
            service.begin(self._pass_on(status, amended, exc_info))
        except BaseException:
            service.wire = wire  # the response goes on as it has begun, if the application does
            raise
        finally:
            exc_info = None
            if is_given:
                service.baton.give()
        self.is_started = True
        if self.puller is not None:
            self.puller.has_begun(service)
        if wire is None:  # for the first time
            self._host.note_opened(service, self.request)
        return service.write

    def _start_another(self, status: str, headers: Headers, exc_info: OptExcInfo | None) -> Callable[[bytes], object]:
        self.is_refused = False
        try:
            if self.service is not None:
                write = self._replace_stream(self.service, status, headers, exc_info)
            elif exc_info is None:  # most responses
                write = self._start_response(status, headers)
            else:
                write = self._pass_on(status, headers, exc_info)
        finally:
            exc_info = None
        self.is_started = True
        return write

    def _replace_stream(
        self, service: Service, status: str, headers: Headers, exc_info: OptExcInfo | None
    ) -> Callable[[bytes], object]:
        """Start a response that is no event stream where one was expected, or has begun."""
        is_given = service.baton.take()
        try:
            write = self._pass_on(status, headers, exc_info)
            service.baton.is_over = True  # before the watcher may write: what follows is no event stream
        finally:
            exc_info = None
            if is_given:
                service.baton.give()
        service.cancel()
        self.service = None
        return write

    def _pass_on(self, status: str, headers: Headers, exc_info: OptExcInfo | None) -> Callable[[bytes], object]:
        if exc_info is None:
            return self._start_response(status, headers)
        try:
            return self._start_response(status, headers, exc_info)
        finally:
            exc_info = None  # PEP 3333: no reference to it may be kept
