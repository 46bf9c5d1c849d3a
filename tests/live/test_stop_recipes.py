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
from .conftest import Measure, Start
from .serving import (
    EVENT_SOURCE,
    UNANNOUNCED,
    WERKZEUG,
    WSGIREF,
    Kind,
    cheroot,
    flask_run,
    gunicorn,
    runserver,
    simple,
    uvicorn,
    waitress,
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
ANSWER: list[Step] = [repeat(event("token"), pause(0.05), times=30), event("done")]


def with_recipe(recipe: str, folder: Path) -> str:
    """Write the module of an application with a handler, and return its name. The servers are started in the folder."""
    name = f"recipe_{time.monotonic_ns()}"
    (folder / f"{name}.py").write_text(APPLICATION + recipe + AFTER, encoding="utf-8")
    return name


NEED_IT = [
    pytest.param(waitress("--threads=10"), ":application", RECIPE, id="waitress"),
    pytest.param(cheroot(), ":application", RECIPE, id="cheroot"),
    pytest.param(WERKZEUG, ":application", RECIPE, id="werkzeug"),
    pytest.param(flask_run(), ":flask", RECIPE, id="flask run"),
    pytest.param(runserver(), "", RECIPE, id="runserver"),
    pytest.param(simple("pywsgi"), ":application", RECIPE_OF_GEVENT, id="gevent.pywsgi"),
]
NEED_NONE = [
    pytest.param(gunicorn("gthread", "--threads=10"), ":application", RECIPE, id="gthread"),
    pytest.param(gunicorn("gthread", "--threads=10", "--preload"), ":application", RECIPE, id="gthread, preloaded"),
    pytest.param(gunicorn("gevent"), ":application", RECIPE, id="gevent"),
    pytest.param(gunicorn("gevent_pywsgi"), ":application", RECIPE, id="gevent_pywsgi"),
    pytest.param(uvicorn(), ":asgi", RECIPE, id="uvicorn"),
    pytest.param(gunicorn("gthread", "--threads=10"), ":application", NAIVE, id="gthread, whose handler only drains"),
    pytest.param(gunicorn("gevent"), ":application", NAIVE, id="gevent, whose handler only drains"),
]


@pytest.mark.parametrize(("kind", "name", "recipe"), [*NEED_IT, *NEED_NONE])
def test_every_stream_ends_cleanly_and_then_the_process(
    kind: Kind, name: str, recipe: str, serve: Start, folder: Path, measure: Measure
) -> None:
    server = serve(kind, with_recipe(recipe, folder) + name)
    to_event_sources = [server.open(*steps, headers=EVENT_SOURCE) for steps in (SILENT, SILENT, TICKING, TICKING)]
    answer = server.open(*ANSWER, headers=UNANNOUNCED)
    for stream in (*to_event_sources, answer):
        stream.read_until(b"\n\n")
    worker = server.worker()
    told_at = time.monotonic()
    server.process.send_signal(signal.SIGTERM)
    with ThreadPoolExecutor(5) as readers:
        list(readers.map(lambda stream: stream.read_to_end(), (*to_event_sources, answer)))
    for stream in to_event_sources:
        assert stream.ended == "cleanly"
        assert re.fullmatch(rb"(data: (hello|tick)\n\n)+retry: [0-9]+\n\n", stream.body), stream.body[-100:]
    assert answer.ended == "cleanly" or kind.name.startswith("uvicorn")  # which was told to cut after a second
    if answer.ended == "cleanly":
        assert answer.body == b"data: token\n\n" * 30 + b"data: done\n\n"
    server.leave_all()
    server.process.wait(GONE_WITHIN)
    assert not psutil.pid_exists(worker.pid)
    measure(f"gone after SIGTERM, an answer of 1.5 s, {kind}", time.monotonic() - told_at)
    if answer.ended == "cleanly":
        assert "Traceback" not in server.output()


@pytest.mark.parametrize(
    ("kind", "recipe"),
    [
        pytest.param(WSGIREF, RECIPE, id="wsgiref"),
        pytest.param(gunicorn("sync"), RECIPE, id="gunicorn sync"),
        pytest.param(gunicorn("sync"), NAIVE, id="gunicorn sync, whose handler only drains"),
    ],
)
@pytest.mark.parametrize("steps", [SILENT, TICKING], ids=["silent", "ticking"])
def test_the_only_stream_of_a_process_ends_too(kind: Kind, recipe: str, steps: list[Step], serve: Start, folder: Path) -> None:
    """A handler runs on the main thread, inside the application: it must not wait there."""
    server = serve(kind, f"{with_recipe(recipe, folder)}:application")
    stream = server.open(*steps, headers=EVENT_SOURCE)
    stream.read_until(b"\n\n")
    server.process.send_signal(signal.SIGTERM)
    assert re.fullmatch(rb"(data: (hello|tick)\n\n)+retry: [0-9]+\n\n", stream.read_to_end())
    assert stream.ended == "cleanly"
    server.process.wait(GONE_WITHIN)
