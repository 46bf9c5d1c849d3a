"""docs/kernel-settings.md: what it says of the settings that matter, measured again."""

from __future__ import annotations

import pytest

from benchmarks.kernel_settings import DEFAULT, TABLES, Case, measured

pytestmark = [pytest.mark.live, pytest.mark.usefixtures("own_network")]

SLOW_READER, _, WAITING, FILES = TABLES


def held(case: Case) -> float:
    """Return the KB that the kernel holds for a client that reads slowly."""
    return float(measured(SLOW_READER, case)[-1].removesuffix(" KB").replace(",", ""))


def test_the_kernel_holds_little_of_a_stream_of_the_middleware_s() -> None:
    assert held(Case(DEFAULT, "wrapped")) < 200 < 1000 < held(Case(DEFAULT))


def test_somaxconn_limits_the_connections_that_wait() -> None:
    few, all_of_them = (measured(WAITING, case)[1] for case in WAITING.cases)
    assert (few, all_of_them) == ("129 of 1,000", "1,000 of 1,000")


@pytest.mark.parametrize("case", FILES.cases, ids=lambda case: case.application)
def test_each_stream_is_one_file_of_the_worker(case: Case) -> None:
    assert measured(FILES, case)[1] == "1.0"
