"""A Django project under WSGI, with GZipMiddleware, a database, and views that stream."""

from __future__ import annotations

import json
import threading
import time
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

from django.conf import settings
from django.core.signals import request_finished
from django.core.wsgi import get_wsgi_application
from django.http import HttpRequest, HttpResponse, StreamingHttpResponse
from django.urls import path

from ssemiddleware import SSEMiddleware

DATABASE = Path("django.sqlite3")

settings.configure(
    ALLOWED_HOSTS=["*"],
    DATABASES={"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": str(DATABASE)}},
    MIDDLEWARE=["django.middleware.gzip.GZipMiddleware"],
    ROOT_URLCONF=__name__,
    SECRET_KEY="live",
)
application = SSEMiddleware(get_wsgi_application())

from django.db import connection, connections  # noqa: E402  (needs the settings)

releasing = SSEMiddleware(get_wsgi_application(), on_open=lambda environ: connections.close_all())

# By the request's key: which thread did what.
threads: defaultdict[str, dict[str, list[int]]] = defaultdict(lambda: {"opened": [], "used": [], "closed": []})
keys = threading.local()  # of the requests that use the database, by thread


def use_database(request: HttpRequest) -> int:
    """Ask the database, and note which thread did, and whether it had to connect."""
    keys.current = request.GET["key"]
    seen = threads[keys.current]
    if connection.connection is None:
        seen["opened"].append(threading.get_ident())
    with connection.cursor() as cursor:
        cursor.execute("select 2")
        seen["used"].append(threading.get_ident())
        result: int = cursor.fetchone()[0]
    return result


def note_finished(**_: object) -> None:
    """Note on which thread a request that used the database finished, if its connection is closed there by now."""
    key = keys.__dict__.pop("current", None)
    if key is not None and connection.connection is None:
        threads[key]["closed"].append(threading.get_ident())


request_finished.connect(note_finished)  # after Django's own receiver, which closes the connection


def ticks(request: HttpRequest) -> StreamingHttpResponse:
    """Three events, each from the database, and a pause in seconds after it."""
    use_database(request)
    return StreamingHttpResponse(three_ticks(request, float(request.GET.get("pause", "0.1"))), content_type="text/event-stream")


def three_ticks(request: HttpRequest, pause: float) -> Iterator[bytes]:
    for number in range(3):
        yield b"data: tick %d of %d\n\n" % (number, use_database(request))
        time.sleep(pause)


def endless(request: HttpRequest) -> StreamingHttpResponse:
    """An event each 50 ms, without end."""
    use_database(request)
    return StreamingHttpResponse(endless_ticks(request), content_type="text/event-stream")


def endless_ticks(request: HttpRequest) -> Iterator[bytes]:
    while True:
        yield b"data: tick of %d\n\n" % use_database(request)
        time.sleep(0.05)


def connected(request: HttpRequest) -> StreamingHttpResponse:
    """Tell whether the view's connection is still there when the stream begins, and use the database again."""
    use_database(request)
    return StreamingHttpResponse(whether_connected(request), content_type="text/event-stream")


def whether_connected(request: HttpRequest) -> Iterator[bytes]:
    yield b"data: not connected\n\n" if connection.connection is None else b"data: connected\n\n"
    yield b"data: %d\n\n" % use_database(request)


def page(request: HttpRequest) -> HttpResponse:
    """A page that is worth compressing."""
    return HttpResponse("<p>Lorem ipsum dolor sit amet</p>" * 1000)


def life(request: HttpRequest) -> HttpResponse:
    return HttpResponse(json.dumps(threads[request.GET["key"]]), content_type="application/json")


def ping(request: HttpRequest) -> HttpResponse:
    return HttpResponse("pong")


urlpatterns = [path(view.__name__, view) for view in (ticks, endless, connected, page, life, ping)]
