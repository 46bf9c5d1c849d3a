"""`Finding`: one thing that is wrong with an event stream, with its evidence, its culprit and the line that cures it."""

from __future__ import annotations

from enum import IntEnum
from typing import NamedTuple

from .culprits import Remedy


class Severity(IntEnum):
    """How serious a finding is. A note is information about a healthy stream."""

    NOTE = 0
    MINOR = 1
    SERIOUS = 2
    FATAL = 3  # a browser gives up


class Finding(NamedTuple):
    """One thing that was found. *what* and *evidence* are sentences, and *name* is for programs."""

    name: str
    severity: Severity
    what: str
    evidence: str
    remedy: Remedy
    culprit: str | None = None
