"""What an EventSource gets from a wrapped application in Chromium, WebKit and Firefox, and what from the same one bare.

``--log-cli-level=INFO`` shows how long things took.
"""

from __future__ import annotations

import hashlib
import logging
import re
import time
from collections.abc import Callable, Iterable
from contextlib import closing
from http.client import HTTPConnection
from typing import NamedTuple, cast
from urllib.parse import urlencode

import pytest

from ssemiddleware.oversized.fragment import Fragmenting

from .application import RETRY, SILENCE, big_events, small_events
from .conftest import Server
from .driving import Browser
from .page import CLOSED, CONNECTING, Page, Received, Record

pytestmark = [pytest.mark.live, pytest.mark.timeout(300)]  # a browser may be slow to start

_log = logging.getLogger(__name__)

Fields = dict[str, "str | list[bytes]"]  # of a query


def path_of(wrapping: str, name: str, stream: str, **query: str | list[bytes]) -> str:
    """Return where the stream *name* of `application` is, to be called *stream* in the journal."""
    return f"/{wrapping}/{name}?{urlencode({'stream': stream, **query}, doseq=True)}"


# -- The opening


def test_a_silent_stream_opens_at_once(page: Page, stream: str) -> None:
    page.listen(path_of("wrapped", "silent", stream))
    record = page.wait_until("record.opened.length")
    _log.info("%d ms until open", record.opened[0] - record.began)
    assert record.opened[0] - record.began < SILENCE * 1000 / 2


def test_bare_a_silent_stream_does_not_open(page: Page, gunicorn: Server, stream: str) -> None:
    page.listen(path_of("bare", "silent", stream))
    gunicorn.wait_for(stream, "asked_from")
    time.sleep(2)
    record = page.record()
    assert (record.opened, record.failed) == ([], [])


# -- Heartbeats


class Cutting(NamedTuple):
    """Blocks with silence around each, and in how many of the silences a heartbeat may come."""

    blocks: list[bytes]
    places: int


PAUSE = 1.0  # seconds, so that two heartbeats fit in at least, and one comes although the machine is busy
TWO_EVENTS = [Received("message", "1", "one\nmore"), Received("tick", "2", "aé€𝄞")]
TICK = "data: aé€𝄞\n".encode()
CUTTINGS = {
    "between events": Cutting([b"id: 1\ndata: one\ndata: more\n\n", b"", b"event: tick\nid: 2\n" + TICK + b"\n", b""], 5),
    "between lines": Cutting([b"id: 1\ndata: one\n", b"data: more\n", b"\n", b"event: tick\nid: 2\n", TICK, b"\n"], 7),
    "in half lines": Cutting(
        [b"id: 1\nda", b"ta: one\ndata", b": more\n\nevent: ti", b"ck\nid: 2\n", TICK.rstrip(), b"\n\n"], 3
    ),
    "in half characters": Cutting(
        [b"id: 1\ndata: one\ndata: more\n\nevent: tick\nid: 2\n" + TICK[:8], TICK[8:11], TICK[11:14], TICK[14:] + b"\n"], 2
    ),
    "with CR": Cutting(
        [b"id: 1\rdata: one\r", b"data: more\r\r", b"event: tick\r", b"id: 2\r" + TICK.rstrip() + b"\r", b"\r"], 1
    ),
    "between CR and LF": Cutting(
        [b"id: 1\r\ndata: one\r", b"\ndata: more\r\n\r", b"\nevent: tick\r", b"\nid: 2\r\n", TICK.rstrip() + b"\r\n\r\n"], 3
    ),
    "after a byte order mark": Cutting(
        [b"\xef\xbb\xbfid: 1\ndata: one\ndata: more\n\n", b"event: tick\n", b"id: 2\n", TICK + b"\n"], 5
    ),
    "in a byte order mark": Cutting(
        [b"\xef", b"\xbb", b"\xbfid: 1\ndata: one\ndata: more\n\n", b"event: tick\nid: 2\n" + TICK + b"\n"], 5
    ),
}


class Reading(NamedTuple):
    """What a page has read of a stream, and how many comments were in it by themselves."""

    record: Record
    comments: int


@pytest.fixture(scope="module")
def readings(browser: Browser, gunicorn: Server) -> dict[str, Reading]:
    """Return what a page has read of all cuttings; four at a time, since most of it is silence."""
    page = Page(browser, gunicorn.url)
    names = [f"{browser.name} {cutting}" for cutting in CUTTINGS]
    paths = [
        path_of("beating", "paced", name, pause=str(PAUSE), block=cutting.blocks)
        for name, cutting in zip(names, CUTTINGS.values(), strict=True)
    ]
    records = page.read_to_end(paths[:4]) + page.read_to_end(paths[4:])
    comments = [gunicorn.wait_for(name, "comments")[0]["comments"] for name in names]
    return dict(zip(CUTTINGS, map(Reading, records, comments), strict=True))


@pytest.mark.parametrize("cutting", CUTTINGS)
def test_heartbeats_neither_make_nor_change_an_event(readings: dict[str, Reading], cutting: str) -> None:
    record, comments = readings[cutting]
    assert comments > CUTTINGS[cutting].places  # one is the opening
    assert record.events == TWO_EVENTS
    assert record.states == [CONNECTING]


# -- Reloads


WITHOUT_RETRY = 3000  # milliseconds that Chromium and WebKit wait by themselves; Firefox 5000


def test_a_reload_neither_loses_nor_repeats_an_event(page: Page, gunicorn: Server, stream: str) -> None:
    page.listen(path_of("wrapped", "counting", stream))
    for reloads in range(4):
        if reloads:
            gunicorn.reload()
        # Before it gets to the new worker, a browser may ask the old one on a connection that gunicorn keeps for 2 s.
        asked = gunicorn.wait_for(stream, "asked_from", workers=reloads + 1)
        page.wait_until(f"record.events.length > {len(page.record().events) + 50}")
    record, _ = page.close()
    assert record.events == [Received("message", str(number), f"event {number}") for number in range(1, len(record.events) + 1)]
    assert set(record.states) == {CONNECTING}
    ready_at = {line["worker"]: line["at"] for line in gunicorn.lines_of("", "started")}
    gaps, late = [], []
    for failed, line in zip(record.failed, asked[1:], strict=True):
        asked_at, ready = line["at"] * 1000, ready_at[line["worker"]] * 1000  # which may be long after the request came
        gaps.append(round(asked_at - failed))
        late.append(round(asked_at - max(failed + RETRY * 1.5, ready)))
    _log.info("%s ms from an end to the next request, %s ms after the longest jitter or a new worker's start", gaps, late)
    assert all(gap >= RETRY / 2 for gap in gaps), gaps
    assert all(each < WITHOUT_RETRY - RETRY * 1.5 for each in late), (gaps, late)


def test_a_reload_ends_a_stream_to_an_event_source_cleanly_after_an_event(page: Page, gunicorn: Server, stream: str) -> None:
    script = """
        // As an EventSource asks: "no-store" has a browser send Cache-Control and Pragma.
        const response = await fetch(arguments[0], {headers: {Accept: "text/event-stream"}, cache: "no-store"});
        const reader = response.body.getReader();
        const decoder = new TextDecoder();
        let text = "";
        const readOn = async () => {
            for (let part; !(part = await reader.read()).done;)
                text += decoder.decode(part.value, {stream: true});
            return text;
        };
        window.body = readOn().catch(error => `cut: ${error}`);
        await until(() => text.includes("event 10\\n"), 20);
    """
    page.browser.run(script, path_of("wrapped", "counting", stream))
    gunicorn.reload()
    body = page.browser.run("return body;")
    assert isinstance(body, str)
    assert body.startswith("id: 1\ndata: event 1\n\n")
    assert re.search(r"\n\nretry: [0-9]+\n\n\Z", body)
    assert [line["ended"] for line in gunicorn.wait_for(stream, "ended")] == ["drain"]


# -- Streams that are full


def take_the_only_place(holder: HTTPConnection, path: str) -> None:
    """Ask for the stream at *path* until there is room: a stream may report its end before its place is free.

    As a page of another origin does: what its stream allows all of them, a refusal allows as well.
    """
    deadline = time.monotonic() + 30
    status = 0
    while status != 200:
        assert time.monotonic() < deadline, status
        holder.request("GET", path, headers={"Accept": "text/event-stream", "Origin": "http://elsewhere.example"})
        response = holder.getresponse()
        status = response.status
        if status != 200:
            response.read()


@pytest.mark.parametrize("is_of_another_origin", [False, True], ids=["same origin", "another origin"])
def test_a_refused_client_reconnects_by_itself_until_there_is_room(
    page: Page, gunicorn: Server, stream: str, is_of_another_origin: bool
) -> None:
    allowed: list[bytes] = [b"Access-Control-Allow-Origin: *"]
    path = path_of("single", "counting", stream, header=allowed)
    with closing(HTTPConnection(gunicorn.url.split("/")[2], timeout=30)) as holder:
        take_the_only_place(holder, path_of("single", "counting", f"{stream}-holder", header=allowed))
        page.listen((gunicorn.url.replace("127.0.0.1", "localhost").rstrip("/") if is_of_another_origin else "") + path)
        record = page.wait_until("record.failed.length")
        assert record.events == []
        assert set(record.states) == {CONNECTING}
    gunicorn.wait_for(f"{stream}-holder", "ended")
    record = page.wait_until("record.events.length")
    assert record.events[0] == Received("message", "1", "event 1")
    page.close()
    gunicorn.wait_for(stream, "ended")


# -- Many events, big events


@pytest.mark.parametrize(
    ("name", "events"), [pytest.param("small", small_events, id="many small"), pytest.param("big", big_events, id="1 MB each")]
)
def test_all_events_arrive_whole_and_in_order(
    page: Page, stream: str, name: str, events: Callable[[], Iterable[tuple[int, str]]]
) -> None:
    expected = list(events())
    text = "".join(f"{event_id}\n{data}\n" for event_id, data in expected)
    assert page.hash_of(path_of("wrapped", name, stream)) == (len(expected), hashlib.sha256(text.encode()).hexdigest())


# -- The class that joins fragments


def test_onmessage_gets_each_message_once_whether_in_fragments_or_not(page: Page, stream: str) -> None:
    messages = ["small", "in several fragments", "small", "again in several fragments"]
    events = "".join(f"data: {message}\n\n" for message in messages).encode()
    blocks = list(Fragmenting(over=16, size=24).feed(events))
    assert len(blocks) == 6  # two each in fragments
    path = path_of("wrapped", "paced", stream, pause="0.01", block=blocks)
    got = page.browser.run("return readMessages(arguments[0]);", path)
    assert got == {"replaced": [], "onmessage": messages, "listener": messages}


URLS = {  # of no stream: whether a browser has asked before it is closed differs from time to time
    "": "?a=b&sse-fragments=1",
    "#c": "?a=b&sse-fragments=1#c",
    " \n#c\x1f": "?a=b&sse-fragments=1#c",
    "\t/none \0": "none?sse-fragments=1",
    "?c=d?": "?c=d?&sse-fragments=1",
    "/no/a b?c=d#e?f": "no/a%20b?c=d&sse-fragments=1#e?f",
}


@pytest.mark.parametrize("url", URLS, ids=repr)
def test_a_url_is_the_one_that_event_source_resolves_and_asks_for_fragments(
    browser: Browser, gunicorn: Server, url: str
) -> None:
    browser.open(gunicorn.url + "?a=b#top")
    resolved, asking = cast("tuple[str, str]", browser.run("return resolve(arguments[0]);", url))
    assert asking == gunicorn.url + URLS[url]
    assert re.sub("[?&]sse-fragments=1", "", asking) == resolved


# -- Headers that applications set


LATIN: Fields = {"type": "text/event-stream; charset=iso-8859-1", "pause": "0.1", "block": ["data: é\n\n".encode()]}


def test_a_wrong_charset_is_put_right(page: Page, stream: str) -> None:
    [record] = page.read_to_end([path_of("wrapped", "paced", stream, **LATIN)])
    assert (record.events, record.states) == ([Received("message", "", "é")], [CONNECTING])


@pytest.mark.parametrize("browser", ["chromium"], indirect=True)  # the others read it as UTF-8
def test_bare_a_wrong_charset_is_refused(page: Page, stream: str) -> None:
    [record] = page.read_to_end([path_of("bare", "paced", stream, **LATIN)])
    assert (record.events, record.states) == ([], [CLOSED])


KEPT_ALIVE: Fields = {"header": "Connection: keep-alive", "pause": "0.1", "block": [b"data: one\n\n", b"data: two\n\n"]}


@pytest.mark.parametrize("server", ["gunicorn", "waitress"])
def test_the_tutorials_connection_header_is_harmless(
    request: pytest.FixtureRequest, browser: Browser, server: str, stream: str
) -> None:
    page = Page(browser, request.getfixturevalue(server).url)
    [record] = page.read_to_end([path_of("wrapped", "paced", stream, **KEPT_ALIVE)])
    assert [event.data for event in record.events] == ["one", "two"]
    assert record.states == [CONNECTING]


def test_bare_under_waitress_the_tutorials_connection_header_is_fatal(browser: Browser, waitress: Server, stream: str) -> None:
    [record] = Page(browser, waitress.url).read_to_end([path_of("bare", "paced", stream, **KEPT_ALIVE)])
    assert (record.events, record.states) == ([], [CLOSED])


# -- Leaving


@pytest.mark.parametrize("name", ["counting", "silent"])
def test_a_closed_event_source_is_noticed_within_a_second(page: Page, gunicorn: Server, stream: str, name: str) -> None:
    took = [seconds_until_noticed(page, gunicorn, name, f"{stream}-1")]
    while min(took) >= 1 and len(took) < 3:  # the machine may have had other things to do
        took.append(seconds_until_noticed(page, gunicorn, name, f"{stream}-{len(took) + 1}"))
    _log.info("%s s until the application knew", took)
    assert min(took) < 1, took


def seconds_until_noticed(page: Page, gunicorn: Server, name: str, stream: str) -> float:
    page.listen(path_of("wrapped", name, stream))
    page.wait_until("record.opened.length")
    _, closed_at = page.close()
    [end] = gunicorn.wait_for(stream, "ended")
    assert end["ended"] == "client gone"
    took: float = end["at"] - closed_at
    return took
