"""`Start`: the ``start_response`` that an application is given. Here a response turns out to be an event stream, or not."""

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
    """Stand for the server's ``start_response`` once the response is closed."""
    raise StreamOver


class Host(Protocol):
    """What a `Start` asks of the middleware."""

    def maybe_begin(self, request: Request, handle: Stream, *, may_refuse: bool) -> Service | None:
        """Return the service of a new stream, None if it is refused; with *may_refuse* False it is not."""

    def amend(self, service: Service, request: Request, status: str, headers: Headers) -> Headers:
        """Return an event stream's headers as they should leave, and give the service its wire."""

    def refuse(self, request: Request, handle: Stream, start_response: StartResponse) -> Iterable[bytes]:
        """Answer in place of a stream that gets no place."""


class Puller(Protocol):
    """What a `Start` tells of a response that is started late, inside the first pull."""

    def has_begun(self, service: Service) -> None:
        """Take the response for an event stream from here on."""


class Start:
    """The ``start_response`` of one request: passes everything on, the headers of an event stream amended.

    *service*: of a request that would take nothing but an event stream, so that it has its place already. For the server's
    thread. Under the baton once there is a stream: a second call changes headers that the watcher may be sending.
    """

    __slots__ = ("_handle", "_host", "_start_response", "is_refused", "is_started", "puller", "request", "service")

    def __init__(
        self, host: Host, request: Request, handle: Stream, start_response: StartResponse, service: Service | None
    ) -> None:
        self._host = host
        self._handle = handle
        self._start_response = start_response
        self.request = request
        self.service = service
        self.is_started = False
        self.is_refused = False
        self.puller: Puller | None = None  # what pulls the first block of an application that has started nothing yet

    def __call__(self, status: str, headers: Headers, exc_info: OptExcInfo | None = None) -> Callable[[bytes], object]:
        """Start the response, as PEP 3333 has it."""
        if self._start_response is _over:  # else a stream would begin that nobody ends
            raise StreamOver
        self.is_refused = False
        if not is_event_stream(headers):
            return self._start_another(status, headers, exc_info)
        if self.service is None:
            # The application has run: what a client would send again must not run twice.
            self.service = self._host.maybe_begin(self.request, self._handle, may_refuse=self.request.is_safe)
        if self.service is None:
            self.is_refused = True
            return lambda _block: None
        return self._start_stream(self.service, status, headers, exc_info)

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
        """Say that the request has ended. From any thread, twice."""
        try:
            self._finish(reason)
        except BaseException:  # a signal, or a greenlet's end, between two steps
            self._finish(reason)
            raise

    def _finish(self, reason: str) -> None:
        if self.service is not None:
            self.service.finish(reason)
            self.service.let_go()
        else:
            run_all(self._handle.finish(reason))

    def vanish(self) -> None:
        """Say inside a garbage collection that the server has forgotten the response."""
        if self.service is not None:
            self.service.vanish()

    def let_go(self) -> None:
        """Forget the request and the server: the response is closed. From any thread, twice."""
        self._start_response, self.request = _over, _NO_REQUEST

    def _start_stream(
        self, service: Service, status: str, headers: Headers, exc_info: OptExcInfo | None
    ) -> Callable[[bytes], object]:
        is_given, wire = service.baton.take(), service.wire
        try:
            service.is_quick = False
            amended = self._host.amend(service, self.request, status, headers)
            service.begin(status, headers, self._pass_on(status, amended, exc_info))
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
        return service.write

    def _start_another(self, status: str, headers: Headers, exc_info: OptExcInfo | None) -> Callable[[bytes], object]:
        service = self.service
        is_given = service is not None and service.baton.take()
        try:
            write = self._pass_on(status, headers, exc_info)
            if service is not None:
                service.baton.is_over = True  # before the watcher may write: what follows is no event stream
        finally:
            exc_info = None
            if service is not None and is_given:
                service.baton.give()
        self.is_started = True
        if service is not None:
            service.forget()
            self.service = None
        return write

    def _pass_on(self, status: str, headers: Headers, exc_info: OptExcInfo | None) -> Callable[[bytes], object]:
        if exc_info is None:
            return self._start_response(status, headers)
        try:
            return self._start_response(status, headers, exc_info)
        finally:
            exc_info = None  # PEP 3333: nobody keeps a reference to it
