"""Serve an application with a server that has no command line: ``simple_servers SERVER PORT MODULE:NAME``."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING
from wsgiref.simple_server import make_server

from werkzeug.serving import run_simple
from werkzeug.utils import import_string

if TYPE_CHECKING:
    from _typeshed.wsgi import WSGIApplication


def main(server: str, port: str, name: str) -> None:
    """Serve until the process is ended, with werkzeug, wsgiref, pywsgi or "unpatched pywsgi"; ``name()`` is a factory."""
    if server == "pywsgi":
        from gevent import monkey

        monkey.patch_all()
    found = import_string(name.removesuffix("()"))
    application: WSGIApplication = found() if name.endswith("()") else found
    if server.endswith("pywsgi"):
        from gevent.pywsgi import WSGIServer

        WSGIServer(("127.0.0.1", int(port)), application, log=None).serve_forever()
    elif server == "werkzeug":
        run_simple("127.0.0.1", int(port), application, threaded=True)
    else:
        with make_server("127.0.0.1", int(port), application) as wsgiref:
            wsgiref.serve_forever()


if __name__ == "__main__":
    main(*sys.argv[1:])
