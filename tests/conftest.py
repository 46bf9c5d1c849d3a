"""What all tests share."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator

import pytest
from hypothesis import settings

from .applications import DEADLINE

settings.register_profile("default", deadline=None, print_blob=True)
settings.load_profile("default")

_EXHAUSTIVE_WITHIN = 900  # seconds, on a busy machine too


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Give the tests that try each order of several threads' steps more time."""
    for item in items:
        if item.get_closest_marker("exhaustive"):
            item.add_marker(pytest.mark.timeout(_EXHAUSTIVE_WITHIN))


@pytest.fixture(autouse=True)
def _no_thread_of_a_source_stays() -> Iterator[None]:
    yield
    deadline = time.monotonic() + DEADLINE
    for thread in threading.enumerate():
        if thread.name == "ssemiddleware-source":
            thread.join(max(0.0, deadline - time.monotonic()))
            assert not thread.is_alive()
