"""What a WSGI server shows of one request, and what another thread may do to its response.

The class `Server` stands for an unknown server, such as a unit test: it shows nothing, and nothing is ever written to it. Each
known server is a subclass in a file of its own. `ssemiddleware.servers.find_server` chooses one by the environ.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, NamedTuple, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable
    from threading import Thread

    from _typeshed.wsgi import WSGIEnvironment

    from .connection import Connection

MOST_WRITTEN = 64  # bytes in one write of ours: after POLLOUT such a write never waits, while one of 64 KiB does
MOST_JOINED = 4096  # bytes of the application's in one write of ours, by a writer that has `room` for them


class StartThread(Protocol):
    """How the watcher starts a daemon thread."""

    def __call__(self, name: str, target: Callable[[], None]) -> Thread | None:
        """Return the thread, or None if none can be started."""


class Loop(NamedTuple):
    """The function in which a server iterates a response, and its variables for the iterable and the last block.

    Each variable is a local, or the path to an attribute of one: ``self.result``.
    """

    module: str  # f_globals["__name__"]
    function: str  # f_code.co_name
    iterable: str
    block: str


class Writer(Protocol):
    """Writes our bytes to a client while the server's own thread is inside the iterable. Only for the holder of the baton."""

    @property
    def is_delimited(self) -> bool:
        """Whether a client can see by its chunks that a response was cut before its end."""

    def write(self, block: bytes, most: int = MOST_WRITTEN) -> bool:
        """Write at most *most* bytes if that is possible without waiting; return whether it was.

        More than `MOST_WRITTEN` only where there is `room` for them.

        After any exception the client may have got a part of the block. Then the stream is over, and its connection is cut.
        """

    def room(self) -> int:
        """Return how many of the application's bytes it takes now: `MOST_JOINED`, or 0 where they would wait, or never."""

    def end(self, last: bytes) -> bool:
        """Write *last* and end the response cleanly in the server's place; return False if that is impossible.

        Afterwards, nothing that the server does when the application returns may reach the client.
        """


class StopSign(Protocol):
    """How a server's process shows that it stops. One object for each process. The watcher's thread asks it once a tick."""

    @property
    def needs_reports(self) -> bool:
        """Whether `report_alive` does anything, and so has to be called at each tick."""

    def is_stopping(self) -> bool:
        """Return whether the process is stopping: after a signal, on a reload, or after its last request."""

    def seconds_left(self, stopping_for: float) -> float | None:
        """Return how many seconds streams may go on if the stop was seen *stopping_for* seconds ago; None for no limit."""

    def report_alive(self) -> None:
        """Report that the worker is alive, to a supervisor that would take a silent stream for a hung worker."""


class Pool(Protocol):
    """A server's threads. A stand-in joins them while an application keeps one of them after its client is gone."""

    @property
    def threads(self) -> int:
        """The number of threads."""

    def lend(self, start: StartThread) -> Callable[[], None] | None:
        """Add a stand-in, which *start* starts; return a function that removes it, or None if none can be added now."""


class Server:
    """The server of one request, created on the server's thread. The base class is for an unknown server."""

    __slots__ = ("_connection", "environ")

    name: ClassVar[str] = ""  # for the log; "" for an unknown server
    loops: ClassVar[tuple[Loop, ...]] = ()  # where it iterates responses; () for a server without Python frames
    iterates_in_c: ClassVar[bool] = False  # it has no Python frame that calls ours: see `loop.is_called_from_c`
    can_open: ClassVar[bool] = True  # its writer's first write sends the headers; False: the server must send a block first
    why_no_writer: ClassVar[str] = "the server is not known"  # for the log
    more_threads: ClassVar[str] = "give the server more threads"  # how, for the log
    why_short_lease: ClassVar[str] = ""  # for a server whose `delays_others` may return True
    how_to_heartbeat: ClassVar[str] = 'Yield b"" from time to time: it becomes a heartbeat when one is due'  # without a writer

    def __init__(self, environ: WSGIEnvironment) -> None:
        self.environ = environ
        self._connection: Connection | None = None  # for a server whose writer needs it, too

    @staticmethod
    def recognises(environ: WSGIEnvironment) -> bool:  # noqa: ARG004  (for the subclasses)
        """Return whether this server made the environ. Cheap: called for each stream."""
        return False

    @property
    def label(self) -> str:
        """The name of the server and its worker in the log."""
        return self.name or "an unknown server"

    @property
    def has_writer(self) -> bool:
        """Whether there is a writer for an event stream that no layer outside of us changes."""
        return type(self).writer is not Server.writer

    @property
    def is_delimited(self) -> bool:
        """See `Writer.is_delimited`: for a response without a writer."""
        return self.environ.get("SERVER_PROTOCOL") != "HTTP/1.0"

    def connection(self) -> Connection | None:
        """Return the client's connection, or None if the server does not show it."""
        return None

    def delays_others(self) -> bool:
        """Return whether a stream delays its browser's other requests: they share a connection, and are answered in turn."""
        return False

    def writer(self, write: object, encoding: str = "") -> Writer | None:  # noqa: ARG002  (for the subclasses)
        """Return a writer to the client, or None.

        *write*: the result of the server's ``start_response``. *encoding*: the encoding that we give the body, or ``""``. There
        is no writer if another thread may not write, or if a layer outside of us has set the response's length or encoding.
        """
        return None

    def stop_sign(self) -> StopSign | None:
        """Return the sign that this process stops, or None if there is none. Called on the server's thread."""
        return None

    def pool(self) -> Pool | None:
        """Return the server's threads, or None if no stand-in can join them. Called on the server's thread."""
        return None

    def last_bytes(self) -> Callable[[], bool] | None:
        """Return a function that tells whether the bytes that the server writes after the iterable's ``close()`` are sent.

        None if the server writes everything before. This method is called on the server's thread, in that ``close()``. Any
        thread may call the function.
        """
        return None

    def threads(self) -> int | None:
        """Return how many requests this process answers at a time, or None if threads do not limit that."""
        return None


NO_SERVER = Server({})  # for a request that has ended
