"""What each WSGI server shows and allows, a file a server. The only place in the package that names one.

Everything is probed by duck typing, and absent where a server does not have it. Each file says what was measured, and with
which version.
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
    """Return the server of a request; the base `Server`, which knows nothing, where it is none of ours."""
    for known in _KNOWN:
        if known.recognises(environ):
            return known(environ)
    return Server(environ)


def stop_worker() -> None:
    """Have the server stop this process as its own handler of SIGTERM does, which an application may have replaced."""
    worker = find_worker()
    if worker is not None:
        worker.alive = False


def is_worker() -> bool:
    """Tell whether this process is known to be one that answers requests, and not one that loads the application for others."""
    return find_worker() is not None
