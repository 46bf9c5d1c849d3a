"""``max_streams_per``: the streams of one key are limited, however they end, and requests of other keys are not refused."""

from __future__ import annotations

import gc
import logging
import os
from collections import Counter
from collections.abc import Hashable, Iterable
from itertools import repeat
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ssemiddleware import SSEMiddleware, Stream
from ssemiddleware.admission import Admission, Place
from ssemiddleware.per_key import PlacesPerKey

from .applications import ANNOUNCED, EVENT_SOURCE, EVENT_STREAM, MCP, Response, application_of, environ_of

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIEnvironment

EVENT = b"data: 1\n\n"
UNANNOUNCED = {"HTTP_ACCEPT": "*/*"}
CLIENTS = pytest.mark.parametrize("client", [EVENT_SOURCE, ANNOUNCED, UNANNOUNCED], ids=["EventSource", "fetch", "unannounced"])


def by_address(environ: WSGIEnvironment) -> str | None:
    address: str = environ["REMOTE_ADDR"]
    return None if address == "monitor" else address


def middleware_of(limit: int = 2, **options: Any) -> SSEMiddleware:
    return SSEMiddleware(application_of(repeat(EVENT), EVENT_STREAM), max_streams_per=(limit, by_address), **options)


def ask(middleware: SSEMiddleware, address: str, client: dict[str, str] = EVENT_SOURCE) -> Response:
    """Return a response whose first block has been read."""
    response = Response(middleware, environ_of({**client, "REMOTE_ADDR": address}))
    response.first = next(iter(response.iterable), b"")  # type: ignore[attr-defined]
    return response


def is_served(response: Response) -> bool:
    return bool(response.first == EVENT)  # type: ignore[attr-defined]


# -- which requests are refused


@CLIENTS
def test_one_stream_more_of_the_same_key_is_refused_and_other_keys_are_not(client: dict[str, str]) -> None:
    middleware = middleware_of()
    first, second = ask(middleware, "a", client), ask(middleware, "a", client)
    refused = ask(middleware, "a", client)
    assert [is_served(each) for each in (first, second, refused)] == [True, True, False]
    assert refused.status[:3] == ("200" if client is EVENT_SOURCE else "503")
    other = ask(middleware, "b", client)
    assert is_served(other)
    first.close()
    again = ask(middleware, "a", client)
    assert is_served(again)
    assert not is_served(ask(middleware, "a", client))
    stats = middleware.stats()
    assert (stats.open, stats.refused) == (3, 2)
    assert stats.refused_by == {"max_streams": 0, "max_streams_per": 2}
    for each in (second, other, again):
        each.close()


def test_an_announced_request_that_is_refused_does_not_reach_the_application() -> None:
    called: list[str] = []

    def application(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        called.append(environ["REMOTE_ADDR"])
        start_response("200 OK", [EVENT_STREAM])
        return repeat(EVENT)

    middleware = SSEMiddleware(application, max_streams_per=(1, by_address))
    streams = [ask(middleware, "a") for _ in range(3)]
    assert called == ["a"]
    for each in streams:
        each.close()


def test_without_a_key_a_stream_is_not_limited() -> None:
    middleware = middleware_of(1)
    streams = [ask(middleware, "monitor") for _ in range(5)]
    assert all(map(is_served, streams))
    for each in streams:
        each.close()


def test_a_post_whose_application_has_run_is_never_refused_and_counts() -> None:
    middleware = middleware_of(1)
    streams = [ask(middleware, "a", MCP) for _ in range(3)]
    assert all(map(is_served, streams))
    assert not is_served(ask(middleware, "a"))
    for each in streams:
        each.close()
    last = ask(middleware, "a")
    assert is_served(last)
    last.close()


def test_a_response_that_is_no_stream_does_not_count() -> None:
    middleware = SSEMiddleware(application_of([b"{}"], ("Content-Type", "application/json")), max_streams_per=(1, by_address))
    for _ in range(3):
        assert Response(middleware, environ_of({**EVENT_SOURCE, "REMOTE_ADDR": "a"})).body() == b"{}"


def test_two_middlewares_count_by_themselves() -> None:
    streams = [ask(middleware_of(1), "a") for _ in range(2)]
    assert all(map(is_served, streams))
    for each in streams:
        each.close()


@pytest.mark.parametrize("key", [lambda environ: environ["HTTP_X_USER"], lambda environ: [1]], ids=["raises", "unhashable"])
def test_a_callable_that_fails_is_logged_once_and_sets_no_limit(key: Any, caplog: pytest.LogCaptureFixture) -> None:
    middleware = SSEMiddleware(application_of(repeat(EVENT), EVENT_STREAM), max_streams_per=(1, key))
    with caplog.at_level(logging.WARNING, "ssemiddleware"):
        streams = [ask(middleware, "a") for _ in range(3)]
    assert all(map(is_served, streams))
    [record] = caplog.records
    assert "max_streams_per" in record.getMessage()
    assert record.exc_info
    for each in streams:
        each.close()


def test_each_reason_is_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    middleware = middleware_of(1, max_streams=2)
    with caplog.at_level(logging.WARNING, "ssemiddleware"):
        streams = [ask(middleware, address) for address in ("a", "a", "a", "b", "c", "c")]
    assert [is_served(each) for each in streams] == [True, False, False, True, False, False]
    assert [record.getMessage().partition(": ")[2] for record in caplog.records] == [
        "1 event streams are open for one key (max_streams_per); further refusals are counted in stats().refused_by",
        "2 event streams are open (max_streams); further refusals are counted in stats().refused_by",
    ]
    for each in streams:
        each.close()


def test_the_refusals_of_one_key_do_not_make_other_clients_wait_longer() -> None:
    places = Admission(limit=lambda: None, per_key=1)
    assert places.maybe_admit(Stream(), key="a")
    for _ in range(100):
        assert places.maybe_admit(Stream(), key="a") is None
    assert places.next_retry() <= 3000 * 1.5


# -- how a stream ends


def admit(places: Admission, key: Hashable) -> Place | None:
    return places.maybe_admit(Stream(), key=key)


@pytest.mark.parametrize("end", ["release", "lend", "abandon", "cancel"])
def test_however_a_stream_ends_its_place_is_given_back_once(end: str) -> None:
    places = Admission(limit=lambda: None, per_key=2)
    first, second = admit(places, "a"), admit(places, "a")
    assert first
    assert second
    assert admit(places, "a") is None
    getattr(first, end)()
    first.release()
    assert admit(places, "a")
    assert admit(places, "a") is None


def test_a_stream_that_its_server_drops_gives_its_place_back() -> None:
    middleware = middleware_of(1)
    forgotten = middleware(environ_of({**EVENT_SOURCE, "REMOTE_ADDR": "a"}), lambda *_: lambda _block: None)
    next(iter(forgotten))
    assert not is_served(ask(middleware, "a"))
    del forgotten
    gc.collect()
    last = ask(middleware, "a")
    assert is_served(last)
    last.close()


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")  # of CPython 3.15, with threads
def test_after_a_fork_nothing_is_open_and_the_parent_s_streams_may_end() -> None:
    places = Admission(limit=lambda: None, per_key=1)
    of_parent = admit(places, "a")
    assert of_parent
    child = os.fork()
    if not child:
        first, second = admit(places, "a"), admit(places, "a")
        of_parent.release()
        os._exit(0 if first and second is None and admit(places, "a") is None else 1)
    assert os.waitpid(child, 0)[1] == 0


@given(st.lists(st.tuples(st.sampled_from("abcd"), st.integers(0, 9), st.sampled_from(["open", "release", "lend", "abandon"]))))
def test_the_count_is_exact_in_every_order_of_opens_and_ends(steps: list[tuple[str, int, str]]) -> None:
    limit, places = 3, Admission(limit=lambda: None, per_key=3)
    open_: list[tuple[str, Place]] = []
    for key, number, act in steps:
        counted = Counter(each for each, _ in open_)
        if act == "open":
            place = admit(places, key)
            assert (place is not None) == (counted[key] < limit)
            if place is not None:
                open_.append((key, place))
        elif open_:
            getattr(open_.pop(number % len(open_))[1], act)()
    assert places._keys is not None
    by_key = {key: len(found) for key, found in places._keys._by_key.items() if found}
    assert by_key == Counter(each for each, _ in open_)


def test_keys_without_open_streams_do_not_pile_up() -> None:
    keys: PlacesPerKey[object] = PlacesPerKey(1)
    stays = object()
    keys.add("stays", stays)
    for number in range(10_000):
        place = object()
        keys.add(number, place).discard(place)
    assert len(keys._by_key) <= 130
    assert keys.is_full("stays")
