"""SIGTERM with the handlers that docs/servers.md shows, as they are written there; and where no handler is needed."""

from __future__ import annotations

import re
import signal
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil
import pytest

from ..test_documents import blocks_of
from .client import Headers
from .conftest import Fill, Measure, Start
from .every_server import ANSWER, AT_STOP, LOOKAHEAD
from .serving import (
    EVENT_SOURCE,
    UNANNOUNCED,
    WAITRESS,
    WERKZEUG,
    WSGIREF,
    Kind,
    cheroot,
    flask_run,
    gunicorn,
    runserver,
    simple,
    uvicorn,
)  # fmt: skip
from .steps import Step, event, pause, repeat, wait_for_the_end

pytestmark = pytest.mark.live

RECIPE, RECIPE_OF_GEVENT = (block for block in blocks_of("python", "docs/servers.md") if "drain(wait=5)" in block)
NAIVE = "import signal\nsignal.signal(signal.SIGTERM, lambda *_: application.drain())\n"
GONE_WITHIN = 20.0  # seconds

APPLICATION = "from live.applications import app as application\n"
AFTER = """
from a2wsgi import WSGIMiddleware
from flask import Flask
asgi = WSGIMiddleware(application)
flask = Flask(__name__)
flask.wsgi_app = application
ALLOWED_HOSTS, DEBUG, SECRET_KEY, ROOT_URLCONF, urlpatterns = ["*"], True, "live", __name__, []
WSGI_APPLICATION = __name__ + ".application"
"""

SILENT: list[Step] = [event("hello"), wait_for_the_end()]
TICKING: list[Step] = [repeat(event("tick"), pause(0.05))]
TOKENS: list[Step] = [repeat(event("token"), pause(0.05), times=30), event("done")]


def with_recipe(recipe: str, folder: Path) -> str:
    """Write the module of an application with a handler, and return its name. The servers are started in the folder."""
    name = f"recipe_{time.monotonic_ns()}"
    (folder / f"{name}.py").write_text(APPLICATION + recipe + AFTER, encoding="utf-8")
    return name


NEED_IT = [
    pytest.param(WAITRESS, ":application", RECIPE, id="waitress"),
    pytest.param(LOOKAHEAD, ":application", RECIPE, id="waitress, lookahead"),
    pytest.param(cheroot(), ":application", RECIPE, id="cheroot"),
    pytest.param(WERKZEUG, ":application", RECIPE, id="werkzeug"),
    pytest.param(flask_run(), ":flask", RECIPE, id="flask run"),
    pytest.param(runserver(), "", RECIPE, id="runserver"),
    pytest.param(simple("pywsgi"), ":application", RECIPE_OF_GEVENT, id="gevent.pywsgi"),
]
NEEDING_IT = [each.values[0] for each in NEED_IT]
NEED_NONE = [
    pytest.param(gunicorn("gthread", "--threads=10"), ":application", RECIPE, id="gthread"),
    pytest.param(gunicorn("gthread", "--threads=10", "--preload"), ":application", RECIPE, id="gthread, preloaded"),
    pytest.param(gunicorn("gevent"), ":application", RECIPE, id="gevent"),
    pytest.param(gunicorn("gevent_pywsgi"), ":application", RECIPE, id="gevent_pywsgi"),
    pytest.param(gunicorn("asgi"), ":asgi", RECIPE, id="asgi"),
    pytest.param(gunicorn("uvicorn_worker.UvicornWorker"), ":asgi", RECIPE, id="uvicorn worker"),
    pytest.param(uvicorn(), ":asgi", RECIPE, id="uvicorn"),
    pytest.param(gunicorn("gthread", "--threads=10"), ":application", NAIVE, id="gthread, whose handler only drains"),
    pytest.param(gunicorn("gevent"), ":application", NAIVE, id="gevent, whose handler only drains"),
]


@pytest.mark.parametrize(("kind", "name", "recipe"), [*NEED_IT, *NEED_NONE])
def test_every_stream_ends_cleanly_and_then_the_process(
    kind: Kind, name: str, recipe: str, serve: Start, folder: Path, measure: Measure, fill: Fill
) -> None:
    server = serve(kind, with_recipe(recipe, folder) + name)
    to_event_sources = [server.open(*steps, headers=EVENT_SOURCE) for steps in (SILENT, SILENT, TICKING, TICKING)]
    answer = server.open(*TOKENS, headers=UNANNOUNCED)
    for stream in (*to_event_sources, answer):
        stream.read_until(b"\n\n")
    worker = server.worker()
    stopped_at = time.monotonic()
    server.process.send_signal(signal.SIGTERM)
    with ThreadPoolExecutor(5) as readers:
        list(readers.map(lambda stream: stream.read_to_end(), (*to_event_sources, answer)))
    for stream in to_event_sources:
        assert stream.ended == "cleanly"
        assert re.fullmatch(rb"(data: (hello|tick)\n\n)+retry: [0-9]+\n\n", stream.body), stream.body[-100:]
    assert answer.ended == "cleanly" or kind.name.startswith("uvicorn")  # which is set to cut after a second
    if answer.ended == "cleanly":
        assert answer.body == b"data: token\n\n" * 30 + b"data: done\n\n"
    server.disconnect_all()
    server.process.wait(GONE_WITHIN)
    assert not psutil.pid_exists(worker.pid)
    measure(f"gone after SIGTERM, an answer of 1.5 s, {kind}", time.monotonic() - stopped_at)
    if answer.ended == "cleanly":
        assert "Traceback" not in server.output()
    if kind in NEEDING_IT:
        seconds = max(stream.ended_at for stream in to_event_sources) - stopped_at
        fill(kind.name, AT_STOP, f"yes, {seconds:.1g} s")
        fill(kind.name, ANSWER, "yes")


@pytest.mark.parametrize(
    ("kind", "recipe"),
    [
        pytest.param(WSGIREF, RECIPE, id="wsgiref"),
        pytest.param(gunicorn("sync"), RECIPE, id="gunicorn sync"),
        pytest.param(gunicorn("sync"), NAIVE, id="gunicorn sync, whose handler only drains"),
    ],
)
@pytest.mark.parametrize(
    ("steps", "headers"),
    [
        pytest.param(SILENT, EVENT_SOURCE, id="silent"),
        pytest.param(TICKING, EVENT_SOURCE, id="ticking"),
        pytest.param(TOKENS, UNANNOUNCED, id="answer"),
    ],
)
def test_the_only_stream_of_a_process_ends_too(
    kind: Kind, recipe: str, steps: list[Step], headers: Headers, serve: Start, folder: Path, fill: Fill
) -> None:
    """A handler runs on the main thread, inside the application: it must not wait there."""
    server = serve(kind, f"{with_recipe(recipe, folder)}:application")
    stream = server.open(*steps, headers=headers)
    stream.read_until(b"\n\n")
    stopped_at = time.monotonic()
    server.process.send_signal(signal.SIGTERM)
    last = rb"data: done" if steps is TOKENS else rb"retry: [0-9]+"
    assert re.fullmatch(rb"(data: (hello|tick|token)\n\n)+%b\n\n" % last, stream.read_to_end())
    assert stream.ended == "cleanly"
    if kind is WSGIREF and steps is TOKENS:
        fill(kind.name, ANSWER, "yes")
    elif kind is WSGIREF:
        fill(kind.name, AT_STOP, f"yes, {stream.ended_at - stopped_at:.1g} s")
    server.process.wait(GONE_WITHIN)
