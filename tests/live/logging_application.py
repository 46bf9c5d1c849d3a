"""The application of the live tests, with what it logs shown from INFO on."""

from __future__ import annotations

import logging

from a2wsgi import WSGIMiddleware

from .applications import app

logging.basicConfig(level=logging.INFO, format="%(levelname)s %(name)s: %(message)s")

bridged = WSGIMiddleware(app)  # type: ignore[arg-type]  # its types ask for its own environ
__all__ = ["app", "bridged"]
