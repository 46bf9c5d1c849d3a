"""mod_wsgi 4.9.4, 6.1.1: the client's connection is in a process of Apache, and the application may be in another one.

Another thread may not call its ``write``. ``mod_wsgi.subscribe_shutdown`` reports a stop only after the streams were cut.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from .server import Server

if TYPE_CHECKING:
    from _typeshed.wsgi import WSGIEnvironment


class ModWsgi(Server):
    """mod_wsgi, embedded in Apache or in daemon mode."""

    __slots__ = ()

    name = "mod_wsgi"
    why_no_writer = "under mod_wsgi the client's connection is Apache's"

    @staticmethod
    def recognises(environ: WSGIEnvironment) -> bool:
        """Look for the version that mod_wsgi puts into each environ."""
        return "mod_wsgi.version" in environ

    def threads(self) -> int | None:
        """Return the number of threads of a process, which is in mod_wsgi's module."""
        found = getattr(sys.modules.get("mod_wsgi"), "threads_per_process", None)
        return found if type(found) is int and found > 0 else None
