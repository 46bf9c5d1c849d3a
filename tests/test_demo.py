"""The demo's application: its page, its streams bare and wrapped in each way, and the large event to compare them with."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil
import pytest
from werkzeug.test import Client, TestResponse

import ssemiddleware.demo
from ssemiddleware import Event, MemoryGovernor, read_events
from ssemiddleware.__main__ import CLIENT
from ssemiddleware.demo import create_app
from ssemiddleware.demo.large_event import large_event, large_json
from ssemiddleware.demo.pressure import Pressure, PressureRefused
from ssemiddleware.testing import OpenStream, open_stream

from .clock import Clock

if TYPE_CHECKING:
    from _typeshed.wsgi import WSGIApplication

PACKAGE = Path(ssemiddleware.demo.__file__).parent
FLASK_MOUNTS = ["/bare", "/wrapped", "/folded", "/fragments"]
MOUNTS = [*FLASK_MOUNTS, "/django/bare", "/django/wrapped"]
MEGABYTE = 1_000_000


@pytest.fixture(scope="module")
def demo() -> Iterator[WSGIApplication]:
    from django.conf import settings
    from django.test import override_settings

    if not settings.configured:
        settings.configure(ALLOWED_HOSTS=["*"], ROOT_URLCONF="tests.test_documents")
    middleware = ["django.middleware.gzip.GZipMiddleware"]
    with override_settings(ROOT_URLCONF="ssemiddleware.demo.django_ticker", MIDDLEWARE=middleware):
        yield create_app(limit=2 * resident())  # so that it starts at a half, whatever the tests before have left behind


def resident() -> int:
    return psutil.Process().memory_info().rss


def get(demo: WSGIApplication, path: str) -> TestResponse:
    return Client(demo).get(path)


def events_at(demo: WSGIApplication, path: str, *, join_fragments: bool = False) -> list[Event]:
    return list(read_events(get(demo, path).iter_encoded(), join_fragments=join_fragments))


# -- The page

FILES = {
    "/": "text/html",
    "/demo.css": "text/css",
    "/demo.js": "text/javascript",
    "/shared.js": "text/javascript",
    "/large-event.js": "text/javascript",
    "/memory.js": "text/javascript",
    "/client.js": "text/javascript",
}


@pytest.mark.parametrize("path", FILES)
def test_the_page_s_files_are_served_with_their_type(demo: WSGIApplication, path: str) -> None:
    response = get(demo, path)
    assert (response.status_code, response.mimetype) == (200, FILES[path])
    assert response.get_data()
    response.close()


def test_the_page_gets_the_package_s_reader_of_fragments(demo: WSGIApplication) -> None:
    response = get(demo, "/client.js")
    assert response.get_data() == CLIENT.read_bytes()
    response.close()


def test_the_page_shows_what_the_server_runs_on(demo: WSGIApplication) -> None:
    environment = get(demo, "/environment").get_json()
    assert set(environment) == {"python", "server", "ssemiddleware", "flask", "django"}
    assert environment["python"].startswith(("CPython 3.", "PyPy 3."))


def test_another_path_is_not_found(demo: WSGIApplication) -> None:
    for path in ("/wrapped/", "/other"):
        assert get(demo, path).status_code == 404


def test_the_page_shows_how_the_application_is_really_mounted() -> None:
    (code,) = re.findall("<pre.*?><code>(.*?)</code></pre>", (PACKAGE / "static" / "index.html").read_text("utf-8"), re.DOTALL)
    shown = "".join(re.sub("<.*?>", "", code).split()).strip("{}")
    assert shown == '"/bare":flask_app,"/wrapped":SSEMiddleware(flask_app,memory=memory),'
    assert shown in "".join((PACKAGE / "__init__.py").read_text("utf-8").split())


# -- The streams


@pytest.mark.parametrize("mount", MOUNTS)
def test_a_ticker_begins_at_once_and_goes_on_from_the_last_event_id(demo: WSGIApplication, mount: str) -> None:
    with open_stream(demo, f"{mount}/ticker", headers={"Last-Event-ID": "41"}) as stream:
        event = stream.next_event()
        assert (event.id, json.loads(event.data)["number"]) == ("42", 42)


def test_a_wrapped_silent_stream_opens_at_once(demo: WSGIApplication) -> None:
    with open_stream(demo, "/wrapped/silent") as stream:
        assert stream.headers["Content-Type"].startswith("text/event-stream")


@pytest.mark.parametrize("mount", FLASK_MOUNTS)
def test_a_burst_is_as_many_events_as_asked_for_and_their_end(demo: WSGIApplication, mount: str) -> None:
    *events, end = events_at(demo, f"{mount}/burst?n=3")
    assert [event.data for event in events] == ["1", "2", "3"]
    assert (end.event, end.data) == ("end", "3")


# -- Memory


def next_reading(stream: OpenStream) -> dict[str, Any]:
    reading: dict[str, Any] = json.loads(stream.next_event().data)
    return reading


def reading_when(stream: OpenStream, state: str) -> dict[str, Any]:
    """Return the first reading in this *state*; four seconds of readings are enough."""
    for _ in range(8):
        reading = next_reading(stream)
        if reading["state"] == state:
            return reading
    raise AssertionError(f"still {reading['state']}, not {state}: {reading}")


def test_a_reading_has_the_memory_its_marks_and_numbers_of_the_wrapped_streams(demo: WSGIApplication) -> None:
    with open_stream(demo, "/wrapped/ticker") as ticker, open_stream(demo, "/memory/readings") as stream:
        ticker.next_event()
        reading = next_reading(stream)
    assert set(reading) == {
        "used", "limit", "critical", "state", "open", "pauses", "paused_seconds", "refused", "pressure",
    }  # fmt: skip
    assert MEGABYTE < reading["used"] < reading["critical"] < reading["limit"]
    assert (reading["state"], reading["open"], reading["refused"], reading["pressure"]) == ("normal", 1, 0, 0)


def test_under_pressure_all_events_are_sent_and_its_memory_is_freed_at_its_end(demo: WSGIApplication) -> None:
    client = Client(demo)
    with open_stream(demo, "/memory/readings") as stream, open_stream(demo, "/wrapped/ticker") as ticker:
        before = next_reading(stream)
        assert client.post("/memory/pressure").status_code == 204
        try:
            during = reading_when(stream, "critical")
            assert during["critical"] < during["used"] < during["limit"]
            assert 5 < during["pressure"] <= 15
            numbers = [json.loads(ticker.next_event().data)["number"] for _ in range(2)]
            assert numbers == [1, 2]
            refused = client.post("/memory/pressure")
            assert (refused.status_code, refused.mimetype) == (409, "text/plain")
            assert refused.get_data(as_text=True) == "It is under pressure already.\n"
            assert len(events_at(demo, "/wrapped/burst?n=10000")) == 10_001
            assert next_reading(stream)["pauses"] == before["pauses"]
            assert len(events_at(demo, "/wrapped/large?mb=1")) == 1
        finally:
            assert client.delete("/memory/pressure").status_code == 204
        after = reading_when(stream, "normal")
        assert after["used"] < after["critical"]
        assert after["pressure"] == 0
        assert after["refused"] == before["refused"]
        assert json.loads(ticker.next_event().data)["number"] == 3
    assert client.delete("/memory/pressure").status_code == 204  # there is none, and nothing to complain about


def test_pressure_ends_when_it_is_asked_after_its_time() -> None:
    clock = Clock()
    pressure = Pressure(MemoryGovernor(2 * resident()), lasts=15, clock=clock)
    pressure.begin()
    held = resident()
    assert pressure.seconds_left == 15
    clock.now += 15
    assert pressure.seconds_left == 0
    assert resident() < held * 0.8
    pressure.begin()
    assert pressure.seconds_left == 15
    pressure.end()
    assert pressure.seconds_left == 0


def test_pressure_ends_when_its_last_user_has_gone() -> None:
    pressure = Pressure(MemoryGovernor(2 * resident()))
    with pressure.watched():
        with pressure.watched():
            pressure.begin()
        assert pressure.seconds_left > 0
    assert pressure.seconds_left == 0


def test_pressure_is_refused_where_the_memory_is_full_already() -> None:
    with pytest.raises(PressureRefused, match="that full already"):
        Pressure(MemoryGovernor(resident() // 2)).begin()


def test_pressure_is_refused_where_it_would_kill_the_process() -> None:
    with pytest.raises(PressureRefused, match="not enough free memory"):
        Pressure(MemoryGovernor(2 * psutil.virtual_memory().total)).begin()


# -- The large event

WAYS = {  # a mount, and how the data stands in the event
    "/bare": lambda data: data,
    "/wrapped": lambda data: data,
    "/folded": lambda data: data.replace("\n", ""),
    "/fragments": lambda data: data,
}


@pytest.mark.parametrize("mount", WAYS)
def test_the_large_event_equals_its_expected_value(demo: WSGIApplication, mount: str) -> None:
    sent = get(demo, f"{mount}/large.json?mb=1")
    assert sent.mimetype == "application/json"
    (event,) = events_at(demo, f"{mount}/large?mb=1&sse-fragments=1", join_fragments=True)
    assert WAYS[mount](event.data) == sent.get_data(as_text=True)
    assert len(sent.get_data()) == MEGABYTE


def test_each_mount_sends_the_large_event_in_its_way(demo: WSGIApplication) -> None:
    received = {mount: events_at(demo, f"{mount}/large?mb=1&sse-fragments=1") for mount in WAYS}
    lines = {mount: len(events[0].data.split("\n")) for mount, events in received.items() if len(events) == 1}
    assert lines == {"/bare": 1, "/wrapped": 1, "/folded": 17}
    assert {event.event for event in received["/fragments"]} == {"fragment"}


@pytest.mark.parametrize("path", ["large", "large.json"])
@pytest.mark.parametrize("mb", ["0", "51", "-1", "1.5", "x", "", "٣", "1e1"])
def test_an_impossible_size_is_refused_and_named(demo: WSGIApplication, path: str, mb: str) -> None:
    response = get(demo, f"/wrapped/{path}?mb={mb}")
    assert response.status_code == 400
    assert response.mimetype == "text/plain"
    assert response.get_data(as_text=True) == f"mb must be a whole number from 1 to 50, got {mb!r}\n"


@pytest.mark.parametrize("size", [1000, 1001, 54_321, MEGABYTE])
def test_the_large_event_has_just_as_much_data_as_asked_for_on_one_line(size: int) -> None:
    data = large_json(size)
    assert len(data) == size
    assert large_event(size) == b"data: " + data + b"\n\n"
    # As JSON.stringify writes it: a browser compares the text of what it has parsed with what was sent.
    assert json.dumps(json.loads(data), separators=(",", ":")).encode() == data
