"""An example whose page loads its libraries from this very server, since a test has no CDN: the same bytes, from npm."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from _typeshed import OptExcInfo
    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment

CDN = "https://cdn.jsdelivr.net/npm/"


def create_application(example: str, packages: str) -> WSGIApplication:
    """Return the application of an *example*; *packages*: the folder with those of npm, each called ``name@version``."""
    application: WSGIApplication = importlib.import_module(example).app

    def local(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        path = environ["PATH_INFO"]
        if path.startswith("/npm/"):
            start_response("200 OK", [("Content-Type", "text/javascript")])
            return [Path(packages, path.removeprefix("/npm/")).read_bytes()]
        if path != "/":
            return application(environ, start_response)
        return [_with_local_libraries(application, environ, start_response)]

    return local


def _with_local_libraries(application: WSGIApplication, environ: WSGIEnvironment, start_response: StartResponse) -> bytes:
    def start(status: str, headers: list[tuple[str, str]], exc_info: OptExcInfo | None = None) -> Callable[[bytes], object]:
        return start_response(status, [(name, value) for name, value in headers if name.lower() != "content-length"])

    page = b"".join(application(environ, start))
    return page.replace(CDN.encode(), b"/npm/")
