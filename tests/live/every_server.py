"""The servers that a test of all kinds asks, each with the wrapped application in the form that it takes."""

from __future__ import annotations

import pytest

from .conftest import WRAPPED
from .serving import ALL_SERVERS, Kind, cheroot, flask_run, granian, gunicorn, hypercorn, runserver, simple, uvicorn, uwsgi

ASGI = "live.asgi:bridged"
ROUTER = uwsgi("--http", "--threads=4", name="uWSGI behind its router")
SERVERS = [
    *((kind, WRAPPED) for kind in (*ALL_SERVERS, gunicorn("gevent_pywsgi"), cheroot(), simple("pywsgi"), granian())),
    (flask_run(), "live.development_servers:flask"),
    (runserver(), "live.development_servers"),
    (uvicorn(), ASGI),
    (hypercorn(), ASGI),
    (hypercorn(), f"wsgi:{WRAPPED}"),
    (uwsgi("--http-socket", name="uWSGI"), WRAPPED),
    (ROUTER, WRAPPED),
]


def each_server(*more: tuple[Kind, str]) -> pytest.MarkDecorator:
    """Give a test each server as *kind* and *application*, and *more* of them."""
    return pytest.mark.parametrize(
        ("kind", "application"),
        [pytest.param(kind, name, id=f"{kind}{' in WSGI mode' * name.startswith('wsgi')}") for kind, name in (*SERVERS, *more)],
    )
