"""The demo's page: static files, the package's reader of fragments, and what the server runs on."""

from __future__ import annotations

import platform
from importlib.metadata import PackageNotFoundError, version

from flask import Flask, Response, jsonify, request, send_file

from ssemiddleware.__main__ import CLIENT


def create_page() -> Flask:
    """Return the application that serves `static/` at `/`, `/client.js` and `/environment`."""
    page = Flask(__name__, static_url_path="")
    page.add_url_rule("/", endpoint="index", view_func=lambda: page.send_static_file("index.html"))
    # The type by name: it would be guessed from what the machine knows of file types, and a browser runs a module of no other.
    page.add_url_rule("/client.js", endpoint="client", view_func=lambda: send_file(CLIENT, mimetype="text/javascript"))
    page.add_url_rule("/environment", view_func=environment)
    return page


def environment() -> Response:
    """Answer with names and versions as JSON, for the page's footer; null where a package is not installed."""
    return jsonify(
        python=f"{platform.python_implementation()} {platform.python_version()}",
        server=request.environ.get("SERVER_SOFTWARE"),
        ssemiddleware=installed_version("ssemiddleware"),
        flask=installed_version("flask"),
        django=installed_version("django"),
    )


def installed_version(package: str) -> str | None:
    """Return the package's version, or None where it is not installed (or runs from a plain directory)."""
    try:
        return version(package)
    except PackageNotFoundError:
        return None
