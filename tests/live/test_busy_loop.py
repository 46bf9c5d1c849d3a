"""An event loop that is busy with other things."""

from __future__ import annotations

import re

import pytest

from .asgi import BUSY
from .conftest import Start
from .serving import EVENT_SOURCE, uvicorn
from .steps import event, pause

pytestmark = pytest.mark.live


def test_a_busy_event_loop_delays_heartbeats_and_stops_nothing(serve: Start) -> None:
    server = serve(uvicorn(), "live.asgi:bridged_beside_a_busy_loop")
    connection = server.open(pause(3 * BUSY), event("late"), headers=EVENT_SOURCE)
    connection.read_until(b":\n")
    busy = server.ask("/busy")
    busy.read_to_end()
    assert busy.ended_at - busy.sent_at > BUSY * 0.9
    assert server.get("/ping").body == b"pong"
    before = len(connection.body)
    connection.read_until(b"data: late\n\n")
    assert re.fullmatch(rb"(:\n){2,}data: late\n\n", connection.body[before:]), "the watcher has stopped"
