"""What each option of `SSEMiddleware` may be, and how a wrong one is said."""

from __future__ import annotations

import copy
import inspect
import math
import pickle
from collections.abc import Callable
from typing import Any

import pytest

from ssemiddleware import Compress, Fold, Fragment, MemoryGovernor, SSEMiddleware

from .applications import application_of


@pytest.mark.parametrize(
    ("option", "value", "allowed"),
    [
        *[
            (option, value, "a positive number of seconds or None")
            for option in ("heartbeat", "join", "lease", "send_deadline")
            for value in (0, -1, math.nan, math.inf, "15", True)
        ],
        *[("max_block", value, "a whole number of bytes from 16") for value in (15, 0, 1.5, "1", None, True, math.nan)],
        *[("retry", value, "a positive whole number of milliseconds or None") for value in (0, -1, 1.5, "3000", True)],
        *[
            ("memory", value, r'a MemoryGovernor, such as MemoryGovernor\("512MiB"\), or None')
            for value in (0.8, "80%", MemoryGovernor)
        ],
        *[("max_streams", value, "a positive whole number of streams or None") for value in (0, -1, 1.5, "10", True)],
        *[
            (
                "max_streams_per",
                value,
                r"a positive whole number and a callable on the environ, such as \(6, lambda .*, or None",
            )
            for value in (6, (0, str), (6, "REMOTE_ADDR"), (True, str), (6, str, str), str)
        ],
        *[("canary", value, 'a path, such as "/canary", or None') for value in ("canary", True, 1)],
        *[("lint", value, "True or False") for value in (None, 1, "yes")],
        *[("on_refused", value, r"a WSGI application \(a callable\) or None") for value in (0, "shop:busy")],
        *[("announced", value, "a callable that takes the environ") for value in (None, True, "/chat")],
        *[
            ("last_event_id_parameter", value, 'the name of a query parameter, such as "lastEventId", or None')
            for value in ("", b"lastEventId", True, "\ud800", "a\n")
        ],
        *[("on_open", value, "a callable that takes the environ, or None") for value in (True, "shop:opened")],
        *[("compress", value, r"Compress\(\) or None") for value in (True, "gzip", Compress)],
        *[("application", value, r"a WSGI application \(a callable\)") for value in (None, "shop:app")],
        *[
            ("oversized", value, r"Fold\(...\), Fragment\(...\), a list with one of each, or None")
            for value in (True, "fold", [Fold(), Fold()], [Fragment(), None])
        ],
    ],
)
def test_an_option_that_makes_no_sense_is_refused(option: str, value: object, allowed: str) -> None:
    options: dict[str, Any] = {"application": application_of([]), option: value}
    with pytest.raises(ValueError, match=rf"^{option} must be {allowed}, got ") as raised:
        SSEMiddleware(**options)
    assert str(raised.value).endswith(repr(value))


@pytest.mark.parametrize(
    "option",
    [
        "canary",
        "compress",
        "heartbeat",
        "join",
        "last_event_id_parameter",
        "lease",
        "max_streams",
        "max_streams_per",
        "memory",
        "on_open",
        "on_refused",
        "oversized",
        "retry",
        "send_deadline",
    ],
)
def test_none_turns_an_option_off(option: str) -> None:
    options: dict[str, Any] = {option: None}
    assert getattr(SSEMiddleware(application_of([]), **options).options, option) is None


def test_an_unknown_option_is_refused_with_those_there_are() -> None:
    options: dict[str, Any] = {"hartbeat": 20}
    with pytest.raises(TypeError) as raised:
        SSEMiddleware(application_of([]), **options)
    assert str(raised.value) == (
        "unknown option hartbeat=20; the options are announced, heartbeat, max_block, memory, max_streams, "
        "max_streams_per, on_refused, oversized, send_deadline, lease, retry, last_event_id_parameter, on_open, lint, canary, "
        "compress, join"
    )


def test_every_option_stands_in_the_docstring() -> None:
    for option in inspect.signature(SSEMiddleware).parameters:
        assert option == "unknown" or f"*{option}*" in (SSEMiddleware.__doc__ or "")


def test_fragments_are_made_before_events_are_folded() -> None:
    fold, fragment = Fold(), Fragment()
    ways: list[list[Fold | Fragment]] = [[fold, fragment], [fragment, fold]]
    for given in ways:
        assert SSEMiddleware(application_of([]), oversized=given).options.reshapes == (fragment, fold)


def test_the_middleware_is_immutable() -> None:
    middleware = SSEMiddleware(application_of([]))
    for name in ("heartbeat", "options"):
        with pytest.raises(AttributeError, match="immutable"):
            setattr(middleware, name, 5)


def test_the_middleware_shows_what_was_chosen() -> None:
    def application(environ: object, start_response: object) -> list[bytes]:
        return []

    assert repr(SSEMiddleware(application)).endswith("application at " + hex(id(application)) + ">)")
    assert repr(SSEMiddleware(application, heartbeat=20, retry=None)).endswith(">, heartbeat=20, retry=None)")


def module_level(environ: object, start_response: object) -> list[bytes]:
    return []


@pytest.mark.parametrize("again", [copy.copy, copy.deepcopy, lambda given: pickle.loads(pickle.dumps(given))])
def test_the_middleware_is_copied_and_pickled_as_its_application_and_its_options(
    again: Callable[[SSEMiddleware], SSEMiddleware],
) -> None:
    """A server that starts processes with *spawn* pickles its application."""
    middleware = SSEMiddleware(module_level, heartbeat=20, oversized=Fold(), compress=Compress())
    made = again(middleware)
    assert repr(made) == repr(middleware)
    assert made.options.application is module_level
    assert made._streams.admission is not middleware._streams.admission
