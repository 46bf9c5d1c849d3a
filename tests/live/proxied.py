"""The application behind the proxies: `applications.play` bare, and under a path for each way to wrap it.

Where the silence is shorter than an idle time, the heartbeats are as by default: shorter ones would push held bytes on.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable
from typing import TYPE_CHECKING

from werkzeug.middleware.dispatcher import DispatcherMiddleware
from werkzeug.wsgi import ClosingIterator

from ssemiddleware import Compress, Fold, SSEMiddleware

from .applications import AMPLE, HEARTBEAT, play

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIEnvironment

BARE, WRAPPED, HEARTBEATS, SOONER, FOLDED, FULL = "", "/wrapped", "/heartbeats", "/sooner", "/folded", "/full"
BUSY, COMPRESSED = "/busy", "/compressed"

_turn = threading.Lock()


def play_in_turn(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    """Play bare, a request at a time: the others wait, as they do for a thread where streams have all threads of a server."""
    _turn.acquire()
    try:
        return ClosingIterator(play(environ, start_response), _turn.release)
    except BaseException:
        _turn.release()
        raise


app = DispatcherMiddleware(
    play,
    {
        WRAPPED: SSEMiddleware(play, max_streams=1000, memory=AMPLE),
        HEARTBEATS: SSEMiddleware(play, heartbeat=HEARTBEAT, max_streams=1000, memory=AMPLE),
        SOONER: SSEMiddleware(play, heartbeat=5.0, max_streams=1000, memory=AMPLE),
        FOLDED: SSEMiddleware(play, max_streams=1000, memory=AMPLE, oversized=Fold()),
        FULL: SSEMiddleware(play, max_streams=1, memory=AMPLE),
        BUSY: play_in_turn,
        COMPRESSED: SSEMiddleware(play, heartbeat=HEARTBEAT, max_streams=1000, memory=AMPLE, compress=Compress()),
    },
)
