"""What applications and the layers around them do on their server's thread, each bare and wrapped: it has to work alike.

Paths: /database, /loop, /context, /transaction are event streams; /hangs never answers; /committed tells what was committed.
"""

from __future__ import annotations

import asyncio
import contextvars
import itertools
import logging
import sqlite3
import sys
import threading
import time
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

from ssemiddleware import SSEMiddleware

from .applications import AMPLE, answer

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment

REQUEST_ID: contextvars.ContextVar[str] = contextvars.ContextVar("REQUEST_ID", default="none")
EVENT_STREAM = [("Content-Type", "text/event-stream")]

_numbers = itertools.count(1)
_committed: list[str] = []
_of_main_thread: list[Any] = []  # a connection and an event loop, as modules make them when they are imported

if threading.current_thread() is threading.main_thread():
    _of_main_thread = [sqlite3.connect(":memory:"), asyncio.new_event_loop()]
    asyncio.set_event_loop(_of_main_thread[1])


def three_from_database() -> Iterator[bytes]:
    """Ask a connection that only the thread may use that made it."""
    for number in range(3):
        yield b"data: %d\n\n" % _of_main_thread[0].execute("select ? * 2", [number]).fetchone()[0]


async def double(number: int) -> int:
    await asyncio.sleep(0.01)
    return number * 2


def three_from_loop() -> Iterator[bytes]:
    """Run the main thread's event loop."""
    for number in range(3):
        yield b"data: %d\n\n" % asyncio.get_event_loop().run_until_complete(double(number))


def three_in_context(name: str) -> Iterator[bytes]:
    for number in range(3):
        yield b"data: %d of %s\n\n" % (number, REQUEST_ID.get().encode())
    REQUEST_ID.set(f"{name}, all sent")


class Joined:
    """A data manager that notes that its transaction was committed."""

    def __init__(self, name: str) -> None:
        self.name = name

    def sortKey(self) -> str:  # noqa: N802  (transaction's name)
        return self.name

    def tpc_begin(self, transaction: object) -> None: ...
    def commit(self, transaction: object) -> None: ...
    def tpc_vote(self, transaction: object) -> None: ...
    def tpc_abort(self, transaction: object) -> None: ...
    def abort(self, transaction: object) -> None: ...

    def tpc_finish(self, transaction: object) -> None:
        _committed.append(self.name)


def three_in_transaction() -> Iterator[bytes]:
    import transaction

    transaction.get().join(Joined("joined while it was iterated"))
    for number in range(3):
        yield b"data: %d\n\n" % number


def application(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    path = environ["PATH_INFO"]
    if path == "/hangs":
        try:
            time.sleep(120)
        finally:
            sys.stderr.write("finally\n")
    if path == "/committed":
        return answer(start_response, "\n".join(_committed).encode())
    if path == "/ping":
        return answer(start_response, b"pong")
    start_response("200 OK", EVENT_STREAM)
    if path == "/context":
        name = f"request {next(_numbers)}"
        REQUEST_ID.set(name)
        return three_in_context(name)
    if path == "/transaction":
        import transaction

        transaction.get().join(Joined("joined in the view"))
        return three_in_transaction()
    return {"/database": three_from_database, "/loop": three_from_loop}[path]()


wrapped = SSEMiddleware(application, memory=AMPLE)
bare = application
hanging_bare, hanging_wrapped = bare, wrapped


def create_transactional(way: str) -> WSGIApplication:
    """Return it inside repoze.tm2's transaction manager."""
    from repoze.tm import TM

    found: WSGIApplication = TM({"bare": bare, "wrapped": wrapped}[way], None)
    return found


# -- gunicorn's settings: what reads a ContextVar after the request, on its thread


class NotesRequestId(logging.Filter):
    """Writes the request's id into each line of the access log."""

    def filter(self, record: logging.LogRecord) -> bool:
        record.request_id = REQUEST_ID.get()
        return True


def post_request(worker: Any, req: Any, environ: Any, resp: Any) -> None:
    """Write it from gunicorn's hook."""
    sys.stderr.write(f"post_request sees {REQUEST_ID.get()}\n")


accesslog = "-"
logconfig_dict = {
    "version": 1,
    "disable_existing_loggers": False,
    "filters": {"request": {"()": "live.as_bare.NotesRequestId"}},
    "formatters": {"request": {"format": "access log sees %(request_id)s"}},
    "handlers": {"access": {"class": "logging.StreamHandler", "formatter": "request", "filters": ["request"]}},
    "root": {"level": "INFO", "handlers": []},
    "loggers": {"gunicorn.access": {"level": "INFO", "handlers": ["access"], "propagate": False}},
}
