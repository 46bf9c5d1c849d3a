"""HEAD of an endless event stream on every server: the headers of GET, no body, and the application closed at once."""

from __future__ import annotations

import time

import pytest

from .client import Headers
from .conftest import Pool
from .every_server import ASGI, each_server
from .serving import EVENT_SOURCE, UNANNOUNCED, Kind, gunicorn, new_key, play_target
from .steps import Step, event, pause, repeat, wait_for_the_end

pytestmark = pytest.mark.live

LAST_CHUNK = b"0\r\n\r\n"  # servers that send it behind the headers of a HEAD, whatever the application does
SENDS_LAST_CHUNK = {"waitress", "gunicorn gevent_pywsgi", "pywsgi", "uWSGI behind its router"}
CLOSED_WITHIN = 5.0  # seconds; a stream would go on for a minute
OF_ONE_RESPONSE = {"date", "server", "x-process", "connection", "keep-alive", "transfer-encoding"}

TICKING: list[Step] = [repeat(event("tick"), pause(0.2))]
SILENT: list[Step] = [event("hello"), wait_for_the_end()]


@each_server((gunicorn("asgi"), ASGI))
@pytest.mark.parametrize("headers", [EVENT_SOURCE, UNANNOUNCED], ids=["EventSource", "unannounced"])
@pytest.mark.parametrize("steps", [TICKING, SILENT], ids=["that ticks", "that is silent"])
def test_head_is_the_headers_and_nothing_goes_on(
    kind: Kind, application: str, headers: Headers, steps: list[Step], pool: Pool
) -> None:
    server, key = pool.get(kind, application), new_key()
    got = server.open(*steps, headers=headers)
    got.read_headers()
    got.leave()
    asked_at = time.monotonic()
    head = server.ask(play_target(*steps, key=key), [*headers, ("Connection", "close")], method="HEAD")
    status_and_headers, _, behind = head.rest(within=CLOSED_WITHIN).partition(b"\r\n\r\n")
    status, *lines = status_and_headers.decode("latin-1").split("\r\n")
    assert status.split()[1] == "200"
    assert shown([tuple(line.split(": ", 1)) for line in lines]) == shown(got.headers)  # type: ignore[misc]  # of two
    assert behind == b"" or (behind == LAST_CHUNK and kind.name in SENDS_LAST_CHUNK)
    life = server.life_once(key, lambda life: life.closed_on, within=CLOSED_WITHIN)
    assert life.blocks <= 2
    assert time.monotonic() - asked_at < CLOSED_WITHIN


def shown(headers: Headers) -> Headers:
    return sorted((name.lower(), value) for name, value in headers if name.lower() not in OF_ONE_RESPONSE)
