"""One application, mounted bare and wrapped in several ways, and a page that shows the difference.

    python -m ssemiddleware demo

`create_app()` returns it for any other WSGI server; one worker with many threads suits it, since every open stream
takes one. It needs the extra: `pip install "ssemiddleware[demo]"`. Without Django, only `/django/` is missing.
"""

from __future__ import annotations

import importlib.util
from typing import TYPE_CHECKING

from ssemiddleware import Fold, Fragment, MemoryGovernor, SSEMiddleware

if TYPE_CHECKING:
    from _typeshed.wsgi import WSGIApplication


def create_app(limit: int | str = "512MiB") -> WSGIApplication:
    """Return the page at `/`, the streams at `/bare/`, `/wrapped/`, `/folded/` and `/fragments/`, Django's below `/django/`.

    *limit*: of this process's memory, so that the page shows the same on any machine; see `MemoryGovernor`. Runs of the page
    with the largest event stay below 260 MB, where no stream waits.
    """
    from werkzeug.middleware.dispatcher import DispatcherMiddleware

    from ssemiddleware.demo.memory import create_memory_app
    from ssemiddleware.demo.page import create_page

    memory = MemoryGovernor(limit)
    mounts = bare_and_wrapped(memory)
    if importlib.util.find_spec("django"):
        mounts |= bare_and_wrapped_django(memory)
    wrapped = [application for application in mounts.values() if isinstance(application, SSEMiddleware)]
    mounts["/memory"] = SSEMiddleware(create_memory_app(memory, wrapped), memory=None)  # its readings do not wait for memory
    return DispatcherMiddleware(create_page(), mounts)


def bare_and_wrapped(memory: MemoryGovernor) -> dict[str, WSGIApplication]:
    """Mount one Flask application bare and wrapped, the latter also with each remedy for large events."""
    from ssemiddleware.demo.flask_streams import create_flask_app

    flask_app = create_flask_app()
    return {
        "/bare": flask_app,
        "/wrapped": SSEMiddleware(flask_app, memory=memory),  # the only difference
        "/folded": SSEMiddleware(flask_app, memory=memory, oversized=Fold()),
        "/fragments": SSEMiddleware(flask_app, memory=memory, oversized=Fragment()),
    }


def bare_and_wrapped_django(memory: MemoryGovernor) -> dict[str, WSGIApplication]:
    """Mount one Django application twice."""
    from ssemiddleware.demo.django_ticker import create_django_app

    django_app = create_django_app()
    return {
        "/django/bare": django_app,
        "/django/wrapped": SSEMiddleware(django_app, memory=memory),
    }
