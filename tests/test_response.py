"""`ssemiddleware.response`: what is an event stream, what may be added to it, and which headers are sent."""

from __future__ import annotations

import pytest

from ssemiddleware.response import Headers, amend, has_body, is_encoded, is_event_stream, takes_lines_of_ours

MEDIA_TYPES = {
    "text/event-stream": True,
    "Text/Event-Stream": True,
    "TEXT/EVENT-STREAM; charset=utf-8": True,
    " text/event-stream ;charset=utf-8": True,
    "text/event-stream;": True,
    "text/event-stream-v2": False,
    "text/event-streams; charset=utf-8": False,
    "text/event": False,
    "application/text/event-stream": False,
    "text/html; profile=text/event-stream": False,
    "": False,
}


@pytest.mark.parametrize("value", MEDIA_TYPES, ids=repr)
def test_an_event_stream_is_recognised_by_its_media_type(value: str) -> None:
    assert is_event_stream([("X-Other", "text/event-stream"), ("content-TYPE", value)]) is MEDIA_TYPES[value]


def test_without_a_content_type_there_is_no_event_stream() -> None:
    assert not is_event_stream([])


def amended(*headers: tuple[str, str]) -> dict[str, str]:
    leaving, _ = amend([("Content-Type", "text/event-stream"), *headers])
    assert len({name.lower() for name, _ in leaving}) == len(leaving), "a header is sent twice"
    return {name.lower(): value for name, value in leaving}


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ([], "no-cache, no-transform"),
        (["no-cache"], "no-cache, no-transform"),
        (["no-store"], "no-store, no-transform"),
        (["private, max-age=0"], "private, max-age=0, no-cache, no-transform"),
        (["No-Cache, No-Transform"], "No-Cache, No-Transform"),
        (['no-cache="Set-Cookie"'], 'no-cache="Set-Cookie", no-cache, no-transform'),
        (["private", "max-age=5"], "private, max-age=5, no-cache, no-transform"),
        ([""], "no-cache, no-transform"),
    ],
)
def test_cache_control_keeps_what_the_application_said(given: list[str], expected: str) -> None:
    assert amended(*[("Cache-Control", value) for value in given])["cache-control"] == expected


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("text/event-stream", "text/event-stream; charset=utf-8"),
        ("text/event-stream;", "text/event-stream; charset=utf-8"),
        ("Text/Event-Stream; Charset=UTF-8", "Text/Event-Stream; Charset=UTF-8"),
        ('text/event-stream; charset="utf-8"', 'text/event-stream; charset="utf-8"'),
        ("text/event-stream; charset=iso-8859-1", "text/event-stream; charset=utf-8"),
        ("text/event-stream; charset=utf8", "text/event-stream; charset=utf-8"),
        ("text/event-stream; version=2", "text/event-stream; version=2; charset=utf-8"),
        ("text/event-stream; version=2; charset=latin-1", "text/event-stream; version=2; charset=utf-8"),
    ],
)
def test_the_character_set_is_utf_8(given: str, expected: str) -> None:
    leaving, _ = amend([("Content-Type", given)])
    assert dict(leaving)["Content-Type"] == expected


def test_nginx_must_not_buffer_unless_the_application_says_otherwise() -> None:
    assert amended()["x-accel-buffering"] == "no"
    assert amended(("x-accel-buffering", "yes"))["x-accel-buffering"] == "yes"


@pytest.mark.parametrize(
    "name",
    [
        "Connection", "Keep-Alive", "Proxy-Authenticate", "Proxy-Authorization", "TE", "Trailer", "Trailers",
        "Transfer-Encoding", "Upgrade", "Proxy-Connection", "Content-Length", "ETag", "cOnNeCtIoN",
        "Content-Digest", "Repr-Digest", "Digest", "Content-MD5",
    ],
)  # fmt: skip
def test_hop_by_hop_headers_and_false_ones_are_dropped(name: str) -> None:
    leaving, dropped = amend([("Content-Type", "text/event-stream"), (name, "x"), ("X-Kept", "y")])
    assert dropped == [name]
    assert name not in dict(leaving)
    assert dict(leaving)["X-Kept"] == "y"


def test_the_applications_list_is_not_changed() -> None:
    headers: Headers = [
        ("Content-Type", "text/event-stream"),
        ("Connection", "close"),
        ("Set-Cookie", "a"),
        ("Set-Cookie", "b"),
    ]
    leaving, _ = amend(headers)
    assert headers == [("Content-Type", "text/event-stream"), ("Connection", "close"), ("Set-Cookie", "a"), ("Set-Cookie", "b")]
    assert [value for name, value in leaving if name == "Set-Cookie"] == ["a", "b"]


@pytest.mark.parametrize(("value", "expected"), [("gzip", True), ("BR", True), ("identity", False), ("", False)])
def test_an_encoded_body_is_distinguished_from_a_plain_one(value: str, expected: bool) -> None:
    assert is_encoded([("content-encoding", value)]) is expected
    assert not is_encoded([])


@pytest.mark.parametrize(
    ("status", "expected"),
    [("200 OK", True), ("500 Oops", True), ("204 No Content", False), ("304 Not Modified", False), ("101 Switching", False)],
)
def test_some_statuses_have_no_body(status: str, expected: bool) -> None:
    assert has_body(status) is expected


@pytest.mark.parametrize(
    ("status", "encoding", "expected"),
    [
        ("200 OK", "identity", True),
        ("200", "", True),
        ("200 OK", "gzip", False),
        ("206 Partial Content", "", False),
        ("404 Not Found", "", False),
        ("500 Internal Server Error", "", False),
    ],
)
def test_lines_of_ours_go_into_a_200_that_is_not_encoded_only(status: str, encoding: str, expected: bool) -> None:
    assert takes_lines_of_ours(status, [("Content-Encoding", encoding)]) is expected
