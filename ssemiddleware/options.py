"""The options of `SSEMiddleware`: which values are allowed, and the error for any other."""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING

from .compression import Compress
from .memory import MemoryGovernor
from .oversized import Fold, Fragment

if TYPE_CHECKING:
    from _typeshed.wsgi import WSGIApplication, WSGIEnvironment

StreamsPer = tuple[int, Callable[["WSGIEnvironment"], Hashable | None]]
Oversized = Fold | Fragment | Sequence[Fold | Fragment]


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """The options of one middleware, each as it was given. Raises `ValueError` for a value that is not allowed."""

    application: WSGIApplication
    announced: Callable[[WSGIEnvironment], bool]
    heartbeat: float | None
    max_block: int
    memory: MemoryGovernor | None
    max_streams: int | None
    max_streams_per: StreamsPer | None
    on_refused: WSGIApplication | None
    oversized: Oversized | None
    send_deadline: float | None
    lease: float | None
    retry: int | None
    last_event_id_parameter: str | None
    on_open: Callable[[WSGIEnvironment], object] | None
    lint: bool
    canary: str | None
    compress: Compress | None
    join: float | None

    def __post_init__(self) -> None:
        for field in fields(self):
            is_right, allowed = _RULES[field.name]
            check(field.name, getattr(self, field.name), is_right, allowed)

    @property
    def reshapes(self) -> tuple[Fold | Fragment, ...]:
        """What is done to oversized events, in the order in which it is done."""
        return _reshapes_of(self.oversized) or ()


def check(name: str, value: object, is_right: Callable[[object], bool], allowed: str) -> None:
    """Raise a `ValueError` that names the parameter, what is allowed and the value, unless *value* is right."""
    if not is_right(value):
        raise ValueError(f"{name} must be {allowed}, got {value!r}")


def _reshapes_of(oversized: object) -> tuple[Fold | Fragment, ...] | None:
    """Return the steps that the option names, in the order in which they are done; None if it is not allowed."""
    given = () if oversized is None else tuple(oversized) if isinstance(oversized, (list, tuple)) else (oversized,)
    if not all(isinstance(reshape, (Fold, Fragment)) for reshape in given) or len(set(map(type, given))) < len(given):
        return None
    return tuple(sorted(given, key=lambda reshape: isinstance(reshape, Fold)))  # fragments first: they name the whole length


def _is_whole(least: int) -> Callable[[object], bool]:
    return lambda value: type(value) is int and value >= least


def _is_positive(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and 0 < value < math.inf


def _is_streams_per(value: object) -> bool:
    return isinstance(value, tuple) and len(value) == 2 and _is_whole(1)(value[0]) and callable(value[1])


def is_seconds_to_wait(value: object) -> bool:
    """Tell whether *value* is a finite number of seconds, 0 or None."""
    return value is None or value == 0 or _is_positive(value)


def _or_none(is_right: Callable[[object], bool]) -> Callable[[object], bool]:
    return lambda value: value is None or is_right(value)


_SECONDS_OR_NONE = _or_none(_is_positive), "a positive number of seconds or None"
_RULES: dict[str, tuple[Callable[[object], bool], str]] = {  # which values are allowed, in code and in words
    "application": (callable, "a WSGI application (a callable)"),
    "announced": (callable, "a callable that takes the environ"),
    "heartbeat": _SECONDS_OR_NONE,
    "max_block": (_is_whole(16), "a whole number of bytes from 16"),
    "memory": (
        _or_none(lambda value: isinstance(value, MemoryGovernor)),
        'a MemoryGovernor, such as MemoryGovernor("512MiB"), or None',
    ),
    "max_streams": (_or_none(_is_whole(1)), "a positive whole number of streams or None"),
    "max_streams_per": (
        _or_none(_is_streams_per),
        'a positive whole number and a callable on the environ, such as (6, lambda environ: environ["REMOTE_ADDR"]), or None',
    ),
    "on_refused": (_or_none(callable), "a WSGI application (a callable) or None"),
    "oversized": (lambda value: _reshapes_of(value) is not None, "Fold(...), Fragment(...), a list with one of each, or None"),
    "send_deadline": _SECONDS_OR_NONE,
    "lease": _SECONDS_OR_NONE,
    "retry": (_or_none(_is_whole(1)), "a positive whole number of milliseconds or None"),
    "last_event_id_parameter": (
        _or_none(lambda value: isinstance(value, str) and value != "" and value.isprintable()),
        'the name of a query parameter, such as "lastEventId", or None',
    ),
    "on_open": (_or_none(callable), "a callable that takes the environ, or None"),
    "canary": (
        _or_none(lambda value: isinstance(value, str) and value.startswith("/")),
        'a path, such as "/canary", or None',
    ),
    "lint": (lambda value: isinstance(value, bool), "True or False"),
    "compress": (_or_none(lambda value: isinstance(value, Compress)), "Compress() or None"),
    "join": _SECONDS_OR_NONE,
}
