"""`ssemiddleware.request`: what one request tells: is a stream announced, by an EventSource, and what may be answered."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from ssemiddleware import Stream
from ssemiddleware.request import Request, accepts_event_stream, last_event_id_in_query

from .applications import ANNOUNCED, DATASTAR, EVENT_SOURCE, MCP, environ_of
from .growth import is_linear


def request(announced: object = None, /, **given: str) -> Request:
    names = {name if name in ("REQUEST_METHOD", "PATH_INFO", "SCRIPT_NAME") else f"HTTP_{name}": given[name] for name in given}
    return Request(environ_of(names), accepts_event_stream if announced is None else lambda environ: announced)  # type: ignore[arg-type,return-value]


ACCEPTS = {
    "text/event-stream": True,
    "Text/Event-Stream": True,
    "application/json, text/event-stream": True,
    "text/event-stream;q=0.5, */*;q=0.1": True,
    "text/event-stream; charset=utf-8": True,
    "text/event-stream;q=0": False,
    "*/*": False,
    "text/*": False,
    "text/event-stream-v2": False,
    "text/html": False,
    "": False,
}


@pytest.mark.parametrize("accept", ACCEPTS, ids=repr)
def test_a_request_announces_itself_by_its_accept_header(accept: str) -> None:
    assert accepts_event_stream({"HTTP_ACCEPT": accept}) is ACCEPTS[accept]
    assert request(ACCEPT=accept).is_announced is ACCEPTS[accept]


def test_a_request_without_accept_announces_nothing() -> None:
    assert not accepts_event_stream({})
    bare = Request({}, accepts_event_stream)
    assert not (bare.is_announced or bare.takes_only_event_stream or bare.is_event_source or bare.is_safe)


def test_no_more_than_8_kib_of_an_accept_header_are_parsed() -> None:
    filler = "text/x-a;q=0.1, "
    assert accepts_event_stream({"HTTP_ACCEPT": filler * 500 + "text/event-stream"})
    assert not accepts_event_stream({"HTTP_ACCEPT": filler * 513 + "text/event-stream"})


@pytest.mark.parametrize("part", ["text/event-stream,", ",", ";", "a/b,", "text/event-stream;a="], ids=repr)
def test_a_long_accept_header_costs_little(part: str) -> None:
    def read(size: int) -> Callable[[], object]:
        environ = environ_of({"HTTP_ACCEPT": part * size, "HTTP_CACHE_CONTROL": "no-cache"})

        def work() -> None:
            asked = Request(environ, accepts_event_stream)
            _ = asked.takes_only_event_stream, asked.is_event_source

        return work

    assert is_linear(read, 10_000)


@pytest.mark.parametrize(
    ("accept", "cache_control", "expected"),
    [
        ("text/event-stream", "no-cache", True),
        ("text/event-stream", "No-Cache, max-age=0", True),
        ("text/event-stream", "", False),
        ("text/event-stream", "no-store", False),
        ("text/event-stream, */*", "no-cache", False),
        ("text/event-stream;q=0.9", "no-cache", False),
        ("*/*", "no-cache", False),
    ],
)
@pytest.mark.parametrize("header", ["CACHE_CONTROL", "PRAGMA"])
def test_an_event_source_is_distinguished_from_other_clients(
    accept: str, cache_control: str, expected: bool, header: str
) -> None:
    assert request(ACCEPT=accept, **{header: cache_control}).is_event_source is expected


@pytest.mark.parametrize("method", ["POST", "DELETE", "HEAD", "OPTIONS", "get", ""])
def test_an_event_source_sends_get(method: str) -> None:
    assert not Request(environ_of({**EVENT_SOURCE, "REQUEST_METHOD": method}), accepts_event_stream).is_event_source


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (ANNOUNCED, True),
        ({"HTTP_ACCEPT": " Text/Event-Stream ; q=0.9"}, True),
        ({**ANNOUNCED, "REQUEST_METHOD": "POST"}, True),
        (MCP, False),
        (DATASTAR, False),
        ({"HTTP_ACCEPT": "*/*"}, False),
        ({"HTTP_ACCEPT": "text/event-stream;q=0"}, False),
    ],
    ids=["announced", "with parameters", "POST", "MCP", "Datastar", "anything", "refused by q=0"],
)
def test_some_requests_accept_only_an_event_stream(given: dict[str, str], expected: bool) -> None:
    assert Request(environ_of(given), accepts_event_stream).takes_only_event_stream is expected


def test_a_request_that_its_path_announces_may_be_answered_with_anything() -> None:
    asked = request(True, ACCEPT="*/*")
    assert (asked.is_announced, asked.takes_only_event_stream) == (True, False)


def test_a_preflight_request_announces_nothing() -> None:
    assert not request(True, REQUEST_METHOD="OPTIONS", ACCEPT="text/event-stream").is_announced


@pytest.mark.parametrize(("given", "expected"), [(1, True), ("", False), ([0], True)])
def test_whether_a_request_is_announced_may_be_anything_that_is_true_or_not(given: object, expected: bool) -> None:
    assert request(given).is_announced is expected


@pytest.mark.parametrize(
    ("method", "is_safe", "has_body"),
    [("GET", True, True), ("HEAD", True, False), ("POST", False, True), ("DELETE", False, True)],
)
def test_what_may_be_answered_depends_on_the_method(method: str, is_safe: bool, has_body: bool) -> None:
    asked = request(REQUEST_METHOD=method)
    assert (asked.is_safe, asked.has_body) == (is_safe, has_body)


def test_the_path_has_its_mount_in_front() -> None:
    assert request(SCRIPT_NAME="/shop", PATH_INFO="/news").path == "/shop/news"
    assert Request({}, accepts_event_stream).path == ""


def test_the_origin_is_that_of_the_page() -> None:
    assert request(ORIGIN="https://page.example").origin == "https://page.example"
    assert request().origin is None


QUERIES = {
    "none": ("", ""),
    "another parameter": ("lastEventID=7&x=lastEventId", ""),
    "one of several": ("channel=news&lastEventId=7&x=8", "7"),
    "empty": ("lastEventId=", ""),
    "without a value": ("lastEventId", ""),
    "twice, the last added by a polyfill": ("lastEventId=7&lastEventId=8", "8"),
    "of encodeURIComponent": ("lastEventId=a%26b%20%2B%20%C3%A4", "a&b + ä"),
    "of URLSearchParams": ("lastEventId=a+b", "a b"),
    "bytes as they are": ("lastEventId=\xc3\xa4", "ä"),
    "not UTF-8": ("lastEventId=%FF", "\ufffd"),
    "with a line feed": ("lastEventId=7%0Adata:x", ""),
    "with NUL": ("lastEventId=7%00", ""),
}


@pytest.mark.parametrize(("query", "expected"), QUERIES.values(), ids=QUERIES)
def test_a_last_event_id_may_be_in_the_query(query: str, expected: str) -> None:
    found = last_event_id_in_query(environ_of({"QUERY_STRING": query}), "lastEventId")
    assert Stream(found).last_event_id == expected


def test_a_parameter_may_have_any_name() -> None:
    assert last_event_id_in_query(environ_of({"QUERY_STRING": "zuletzt-geh%C3%B6rt=7"}), "zuletzt-gehört") == "7"
    assert last_event_id_in_query({}, "lastEventId") == ""


def test_a_long_query_costs_little() -> None:
    def read(size: int) -> Callable[[], object]:
        environ = environ_of({"QUERY_STRING": "a=%41&" * size})
        return lambda: last_event_id_in_query(environ, "lastEventId")

    assert is_linear(read, 10_000)
