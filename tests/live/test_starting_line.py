"""With the first stream of a process the log says once what was found of the server, and what will cause trouble."""

from __future__ import annotations

import re

import pytest

from .conftest import Start
from .serving import EVENT_SOURCE, GEVENT, GTHREAD, SYNC, WAITRESS, Kind, granian, simple, uvicorn
from .steps import event

pytestmark = pytest.mark.live

WSGI, ASGI = "live.logging_application:app", "live.logging_application:bridged"
SEEN, SILENT = "a disconnect is detected within half a second", "no heartbeats while the application is silent"
SPEAKS = "heartbeats after 15 s of silence"
STOPS, CALL = "a stop of the server is detected, and streams are ended in time", "a stop of the server is not detected"
ONE_THREAD = "takes the only thread of this process, so other requests wait: use --worker-class gthread --threads 100"


@pytest.mark.parametrize(
    ("kind", "application", "facts", "warnings"),
    [
        pytest.param(
            SYNC,
            WSGI,
            ["gunicorn, SyncWorker", SEEN, SPEAKS, STOPS, "at most 1 stream at a time, with 1 thread "],
            [ONE_THREAD],
            id="sync",
        ),
        pytest.param(
            GTHREAD,
            WSGI,
            ["gunicorn, ThreadWorker", SEEN, SPEAKS, STOPS, "at most 8 streams at a time, with 10 threads "],
            [],
            id="gthread",
        ),
        pytest.param(GEVENT, WSGI, ["gunicorn, GeventWorker", SEEN, SPEAKS, STOPS, "any number of streams"], [], id="gevent"),
        pytest.param(
            simple("unpatched pywsgi"),
            WSGI,
            ["gevent.pywsgi", SEEN, SILENT, CALL],
            ["monkey patching is missing"],
            id="pywsgi, not patched",
        ),
        pytest.param(WAITRESS, WSGI, ["waitress", SEEN, SPEAKS, STOPS, "with 10 threads "], [], id="waitress"),
        pytest.param(uvicorn(), ASGI, ["a2wsgi", SEEN, SPEAKS, STOPS], [], id="uvicorn"),
        pytest.param(granian(), WSGI, ["granian", SILENT, CALL], [SILENT], id="granian"),
    ],
)
def test_the_first_stream_of_a_process_is_logged_once_with_what_was_found(
    kind: Kind, application: str, facts: list[str], warnings: list[str], serve: Start
) -> None:
    server = serve(kind, application)
    server.get("/ping")
    assert "event streams under" not in server.output()
    for _ in range(3):
        assert b"hello" in server.open(event("hello"), headers=EVENT_SOURCE).read_to_end()
        server.disconnect_all()
    (line,) = re.findall(r"INFO ssemiddleware: event streams under (.*)", server.output())
    found = line.split("; ")
    assert found[0].startswith(facts[0] + ":")
    assert [fact for fact in facts if fact not in line] == []
    warned = re.findall(r"WARNING ssemiddleware: (.*)", server.output())
    assert len(warned) == len(warnings)
    assert [warning for warning in warnings if warning not in "\n".join(warned)] == []
