"""granian 2.8.9: a server written in Rust. It shows an application neither the client's connection nor a ``write()``.

A disconnect is seen only when the next block is sent, and a stop is not seen at all.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from .server import Server

if TYPE_CHECKING:
    from _typeshed.wsgi import WSGIEnvironment


class Granian(Server):
    """granian's WSGI interface."""

    __slots__ = ()

    name = "granian"
    why_no_writer = "granian gives WSGI applications no write()"

    @staticmethod
    def recognises(environ: WSGIEnvironment) -> bool:
        """Look for its name."""
        return environ.get("SERVER_SOFTWARE") == "Granian"
