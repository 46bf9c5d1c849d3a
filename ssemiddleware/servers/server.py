"""What a WSGI server shows of one request, and what may be done to its response from another thread.

`Server` is the server that nobody knows, a unit test's say: it shows nothing, and nothing is ever written to it. Each known
server is a subclass in a file of its own; `ssemiddleware.servers.find_server` picks one by the environ.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, NamedTuple, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable
    from threading import Thread

    from _typeshed.wsgi import WSGIEnvironment

    from .connection import Connection

MOST_WRITTEN = 64  # bytes of one write of ours: behind a true POLLOUT it never waits, 64 KiB do (see DESIGN.md)


class StartThread(Protocol):
    """How the watcher starts a thread that no process waits for."""

    def __call__(self, name: str, target: Callable[[], None]) -> Thread | None:
        """Return the thread, None where none can be started."""


class Loop(NamedTuple):
    """Where a server iterates responses: its function, and what it calls the iterable and the block that came last.

    Each is a local name, or the path to an attribute of one: ``self.result``.
    """

    module: str  # f_globals["__name__"]
    function: str  # f_code.co_name
    iterable: str
    block: str


class Writer(Protocol):
    """How our bytes get to a client while the server's own thread is inside the iterable. Used with the baton only."""

    @property
    def is_delimited(self) -> bool:
        """Whether a client can tell a response that was cut from one that has ended: by its chunks."""

    def write(self, block: bytes) -> bool:
        """Write at most `MOST_WRITTEN` bytes if that is possible without waiting; return whether it was.

        Whatever it raises, the connection may have got a part: the stream is over then, and its connection is cut.
        """

    def end(self, last: bytes) -> bool:
        """Write *last* and end the response cleanly in the server's place; return False if this server's cannot be ended.

        Afterwards nothing that the server does when the application wakes may reach the client.
        """


class StopSign(Protocol):
    """How a server's process shows that it stops. One object a process; asked once a tick, from the watcher's thread."""

    @property
    def must_be_told(self) -> bool:
        """Whether `tell_alive` does anything, and so has to be called at each tick."""

    def is_stopping(self) -> bool:
        """Tell whether the process is going to end: a signal, a reload, enough requests served."""

    def seconds_left(self, stopping_for: float) -> float | None:
        """Return for how many seconds streams may go on that were seen to stop *stopping_for* seconds ago; None for any."""

    def tell_alive(self) -> None:
        """Tell a supervisor that would otherwise take a silent stream for a hung worker that the worker lives."""


class Pool(Protocol):
    """A server's threads, to which a stand-in can be lent while an application keeps one after its client is gone."""

    @property
    def threads(self) -> int:
        """How many there are."""

    def lend(self, start: StartThread) -> Callable[[], None] | None:
        """Have *start* start a thread that works off the queue; return what takes it back, None where that cannot be now."""


class Server:
    """The server of one request, as its stream sees it; made on the server's thread. The base class knows nothing."""

    __slots__ = ("environ",)

    name: ClassVar[str] = ""  # for the log; "" where the server is not known
    loops: ClassVar[tuple[Loop, ...]] = ()  # where it iterates; () for a server without Python frames
    iterates_in_c: ClassVar[bool] = False  # no frame of its own stands above ours: see `loop.is_called_from_c`
    can_open: ClassVar[bool] = True  # its writer's first write sends the headers; False: a block of the stream must leave first
    why_no_writer: ClassVar[str] = "the server is not known"  # for the log
    can_start_threads: ClassVar[bool] = True
    more_threads: ClassVar[str] = "give the server more threads"  # how, for the log
    how_to_heartbeat: ClassVar[str] = 'Yield b"" from time to time: it becomes a heartbeat when one is due'  # without a writer

    def __init__(self, environ: WSGIEnvironment) -> None:
        self.environ = environ

    @staticmethod
    def recognises(environ: WSGIEnvironment) -> bool:  # noqa: ARG004  (for the subclasses)
        """Tell by the environ whether a request is this server's. Cheap: asked for each stream."""
        return False

    @property
    def label(self) -> str:
        """What the log calls the server, and its worker."""
        return self.name or "an unknown server"

    @property
    def has_writer(self) -> bool:
        """Whether `writer` gives one for an event stream that nothing outside of us changes."""
        return type(self).writer is not Server.writer

    def connection(self) -> Connection | None:
        """Return the client's connection, None where the server does not show it."""
        return None

    def holds_up_others(self) -> bool:
        """Tell whether the requests of one connection are answered one after another, and a browser sends all over one."""
        return False

    def writer(self, write: object) -> Writer | None:  # noqa: ARG002  (for the subclasses)
        """Return how to write to the client; *write* is what the server's ``start_response`` has returned.

        None where another thread may not write, and for a response whose length or encoding was set outside of us.
        """
        return None

    def stop_sign(self) -> StopSign | None:
        """Return how this process shows that it stops, None where it does not. Called on the server's thread."""
        return None

    def pool(self) -> Pool | None:
        """Return the server's threads, None where there are none or no stand-in can be lent. On the server's thread."""
        return None

    def last_bytes(self) -> Callable[[], bool] | None:
        """Return what tells whether the bytes that this server writes after the iterable's ``close()`` have left.

        None where it writes everything before. Called on the server's thread, in that ``close()``; asked from any thread.
        """
        return None

    def threads(self) -> int | None:
        """Return how many requests this process answers at a time, None where that is no number of threads."""
        return None


NO_SERVER = Server({})  # in place of the one of a request that has ended
