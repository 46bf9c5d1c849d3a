"""A stream that ends before its application does: its lease is over, or the application says so (`Stream.end`)."""

from __future__ import annotations

import re
import time
from urllib.parse import urlencode

import pytest

from .client import Connection, Headers
from .conftest import Pool
from .serving import ANNOUNCED, EVENT_SOURCE, GEVENT, GTHREAD, Kind, Server, granian, hypercorn, new_key
from .steps import Step, event, pause, repeat

pytestmark = pytest.mark.live

LEASE, RETRY = 2.0, 300  # seconds and milliseconds, of the application
SOON = 3.0  # seconds: half of one, and what a busy machine adds
APPLICATION = "live.applications:app_with_a_lease"

WITH_A_WRITER = [pytest.param(GTHREAD, APPLICATION, id="gthread"), pytest.param(GEVENT, APPLICATION, id="gevent")]
WITHOUT = [
    pytest.param(granian(), APPLICATION, id="granian"),
    pytest.param(hypercorn(), f"wsgi:{APPLICATION}", id="hypercorn in WSGI mode"),
]
TICKING: list[Step] = [repeat("id: 7\ndata: in ", pause(0.05), "halves\n\n", pause(0.05))]
TICKING_WHOLE: list[Step] = [repeat("id: 7\ndata: in halves\n\n", pause(0.1))]
SLEEPING: list[Step] = ["id: 7\ndata: in halves\n\n", pause(8), event("late")]
WHOLE_EVENTS = rb"(?::\n)*(?:id: 7\ndata: in halves\n\n)+(?::\n)*"


def is_whole_with_a_retry(stream: Connection) -> bool:
    """Tell whether a stream of whole events has ended cleanly, and has said last when to reconnect."""
    retry = re.fullmatch(WHOLE_EVENTS + rb"retry: ([0-9]+)\n\n", stream.body)
    return stream.ended == "cleanly" and retry is not None and RETRY * 0.75 <= int(retry[1]) <= RETRY * 1.5


def reconnect(server: Server, stream: Connection) -> None:
    """Reconnect as an EventSource does, and be served."""
    *_, retry = re.findall(rb"retry: ([0-9]+)\n\n", stream.body)
    time.sleep(int(retry) / 1000)
    key = new_key()
    again = server.open(event("again"), headers=[*EVENT_SOURCE, ("Last-Event-ID", "7")], key=key)
    again.read_until(b"data: again")
    assert server.life(key).last_event_id == "7"


def end(server: Server, key: str, reason: str) -> float:
    """Have the application end the stream; return when."""
    assert server.get("/end?" + urlencode({"key": key, "reason": reason})).body == b"ended"
    return time.monotonic()


@pytest.mark.parametrize(("kind", "application"), [*WITH_A_WRITER, *WITHOUT])
def test_a_lease_ends_an_event_source_s_stream_after_an_event_and_it_reconnects(
    kind: Kind, application: str, pool: Pool
) -> None:
    server, key = pool.get(kind, application), new_key()
    stream = server.open(*TICKING, headers=EVENT_SOURCE, key=key)
    stream.read_to_end()
    assert is_whole_with_a_retry(stream), stream.body[-200:]
    assert LEASE * 0.9 < stream.ended_at - stream.sent_at < LEASE * 1.1 + SOON
    assert server.life_once(key, lambda life: life.closed_on).reason == "lease"
    reconnect(server, stream)


@pytest.mark.parametrize(("kind", "application"), WITH_A_WRITER)
def test_a_lease_ends_a_stream_whose_application_sleeps(kind: Kind, application: str, pool: Pool) -> None:
    server = pool.get(kind, application)
    stream = server.open(*SLEEPING, headers=EVENT_SOURCE)
    stream.read_to_end()
    assert is_whole_with_a_retry(stream), stream.body[-200:]
    assert LEASE * 0.9 < stream.ended_at - stream.sent_at < LEASE * 1.1 + SOON
    reconnect(server, stream)


@pytest.mark.parametrize(("kind", "application"), [*WITH_A_WRITER, *WITHOUT])
def test_an_answer_to_another_client_has_no_lease(kind: Kind, application: str, pool: Pool) -> None:
    tokens = [event("token"), pause(LEASE * 1.1 + 0.5), event("done")]
    answer = pool.get(kind, application).open(*tokens, headers=ANNOUNCED)
    assert answer.read_to_end() == b"data: token\n\ndata: done\n\n"
    assert answer.ended == "cleanly"


@pytest.mark.parametrize(("kind", "application"), [*WITH_A_WRITER, *WITHOUT])
@pytest.mark.parametrize(
    ("headers", "ended"), [(EVENT_SOURCE, "cleanly"), (ANNOUNCED, "cut")], ids=["EventSource", "another client"]
)
def test_an_application_ends_a_stream_after_an_event(
    kind: Kind, application: str, headers: Headers, ended: str, pool: Pool
) -> None:
    server, key = pool.get(kind, application), new_key()
    # Only an EventSource's event is finished. The answer to another client is cut, but after all that was yielded.
    stream = server.open(*(TICKING if headers is EVENT_SOURCE else TICKING_WHOLE), headers=headers, key=key)
    stream.read_until(b"halves\n\n")
    stopped_at = end(server, key, "revoked")
    stream.read_to_end()
    assert stream.ended == ended
    assert stream.ended_at - stopped_at < SOON
    assert server.life_once(key, lambda life: life.closed_on).reason == "revoked"
    if headers is EVENT_SOURCE:
        assert is_whole_with_a_retry(stream), stream.body[-200:]
        reconnect(server, stream)
    elif kind.name == "granian":  # it drops what it holds when an iterable raises
        assert re.match(WHOLE_EVENTS, stream.body), stream.body[-200:]
    else:
        assert re.fullmatch(WHOLE_EVENTS, stream.body), stream.body[-200:]


@pytest.mark.parametrize(("kind", "application"), WITH_A_WRITER)
def test_an_application_ends_a_stream_that_sleeps(kind: Kind, application: str, pool: Pool) -> None:
    server, key = pool.get(kind, application), new_key()
    stream = server.open(*SLEEPING, headers=EVENT_SOURCE, key=key)
    stream.read_until(b"halves\n\n")
    stopped_at = end(server, key, "revoked")
    stream.read_to_end()
    assert is_whole_with_a_retry(stream), stream.body[-200:]
    assert stream.ended_at - stopped_at < SOON
    reconnect(server, stream)
