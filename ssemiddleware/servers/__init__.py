"""What each WSGI server shows and allows, one file for each server. No other part of the package names a server.

Everything is found by duck typing, and is missing where a server does not have it:

| file | measured with | has | shown by, in tests/servers/ |
|---|---|---|---|
| gunicorn | gunicorn 27.0.1 | connection, writer, stop_sign, pool, threads, delays_others | test_gunicorn |
| pywsgi | gevent 26.9.0 | connection, writer | test_pywsgi |
| waitress | waitress 3.0.2 | connection, writer, stop_sign, pool, threads, last_bytes | test_waitress |
| werkzeug | werkzeug 3.1.9 | connection, writer | test_threaded_servers |
| wsgiref | CPython 3.10 to 3.15, Django 5.2 | connection, writer | test_threaded_servers |
| cheroot | cheroot 11.1.2 | connection, writer, stop_sign, threads, last_bytes | test_threaded_servers, test_other_servers |
| a2wsgi | a2wsgi 1.10.10 | connection, writer, stop_sign, pool, threads | test_a2wsgi |
| uwsgi | pyuwsgi 2.0.30 | connection, writer, threads | test_uwsgi |
| hypercorn | hypercorn 0.18 | connection, stop_sign | test_other_servers |
| granian | granian 2.8.9 | | test_other_servers |
| mod_wsgi | mod_wsgi 4.9.4, 6.1.1 | threads | test_other_servers |
| testing | | connection | test_connection |

docs/servers.md says what a client sees of each server, as measured by tests/live/test_every_server.py. The other files hold
what several servers share.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from .a2wsgi import A2wsgi
from .cheroot import Cheroot
from .granian import Granian
from .gunicorn import Gunicorn, GunicornPywsgi, find_worker
from .hypercorn import Hypercorn
from .mod_wsgi import ModWsgi
from .pywsgi import PatchedPywsgi, UnpatchedPywsgi
from .server import Server
from .testing import UnitTest
from .uwsgi import Uwsgi
from .waitress import Waitress
from .werkzeug import Werkzeug
from .wsgiref import Wsgiref

if TYPE_CHECKING:
    from _typeshed.wsgi import WSGIEnvironment

_KNOWN: tuple[type[Server], ...] = (
    Gunicorn,
    GunicornPywsgi,
    PatchedPywsgi,
    UnpatchedPywsgi,
    Waitress,
    Werkzeug,
    Wsgiref,
    Cheroot,
    A2wsgi,
    Uwsgi,
    Hypercorn,
    Granian,
    ModWsgi,
    UnitTest,
)


def find_server(environ: WSGIEnvironment) -> Server:
    """Return the server of a request, or the base class `Server` if it is not a known one."""
    for known in _KNOWN:
        if known.recognises(environ):
            return known(environ)
    return Server(environ)


def stop_worker() -> None:
    """Stop this process as the server's own handler of SIGTERM does, which an application may have replaced."""
    worker = find_worker()
    if worker is not None:
        worker.alive = False


def is_worker() -> bool:
    """Return whether this process is a worker that answers requests, as far as is known. A parent that loads it is not."""
    return find_worker() is not None
