"""What all tests share."""

from collections.abc import Iterator

import pytest
from hypothesis import settings

from ssemiddleware import relay

from .applications import DEADLINE, wait_for_relays

settings.register_profile("default", deadline=None, print_blob=True)
settings.load_profile("default")


@pytest.fixture(autouse=True)
def _no_relay_thread_is_in_a_hurry_or_stays(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Let `close` wait for as long as tests wait, since a busy machine may let a thread stand for more than a second."""
    monkeypatch.setattr(relay, "_CLOSE_WITHIN", DEADLINE)
    yield
    wait_for_relays()
