"""The demo's application: its page, its streams bare and wrapped in each way, and the large event to compare them with."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest
from werkzeug.test import Client, TestResponse

from ssemiddleware import Event, read_events
from ssemiddleware.__main__ import CLIENT
from ssemiddleware.demo import create_app
from ssemiddleware.demo.large_event import large_event, large_json
from ssemiddleware.testing import open_stream

if TYPE_CHECKING:
    from _typeshed.wsgi import WSGIApplication

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
        yield create_app()


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


def test_the_page_is_told_what_the_server_runs_on(demo: WSGIApplication) -> None:
    environment = get(demo, "/environment").get_json()
    assert set(environment) == {"python", "server", "ssemiddleware", "flask", "django"}
    assert environment["python"].startswith(("CPython 3.", "PyPy 3."))


def test_another_path_is_not_found(demo: WSGIApplication) -> None:
    for path in ("/wrapped/", "/other"):
        assert get(demo, path).status_code == 404


# -- The streams


@pytest.mark.parametrize("mount", MOUNTS)
def test_a_ticker_begins_at_once_and_goes_on_from_the_last_event_id(demo: WSGIApplication, mount: str) -> None:
    with open_stream(demo, f"{mount}/ticker", headers={"Last-Event-ID": "41"}) as stream:
        event = stream.next_event()
        assert (event.id, json.loads(event.data)["number"]) == ("42", 42)


def test_a_wrapped_silent_stream_opens_at_once(demo: WSGIApplication) -> None:
    with open_stream(demo, "/wrapped/silent") as stream:
        assert stream.headers["Content-Type"].startswith("text/event-stream")


def test_the_memory_is_told(demo: WSGIApplication) -> None:
    with open_stream(demo, "/wrapped/memory") as stream:
        assert json.loads(stream.next_event().data)["rss"] > MEGABYTE


@pytest.mark.parametrize("mount", FLASK_MOUNTS)
def test_a_burst_is_as_many_events_as_asked_for_and_their_end(demo: WSGIApplication, mount: str) -> None:
    *events, end = events_at(demo, f"{mount}/burst?n=3")
    assert [event.data for event in events] == ["1", "2", "3"]
    assert (end.event, end.data) == ("end", "3")


# -- The large event

WAYS = {  # a mount, and how the data stands in the event
    "/bare": lambda data: data,
    "/wrapped": lambda data: data,
    "/folded": lambda data: data.replace("\n", ""),
    "/fragments": lambda data: data,
}


@pytest.mark.parametrize("mount", WAYS)
def test_the_large_event_is_what_it_is_compared_with(demo: WSGIApplication, mount: str) -> None:
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
def test_a_size_that_cannot_be_is_refused_by_its_name(demo: WSGIApplication, path: str, mb: str) -> None:
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
