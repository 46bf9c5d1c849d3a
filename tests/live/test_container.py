"""A container of 256 MB, large events and slow clients: bare, the kernel kills the server; wrapped, every client is served."""

from __future__ import annotations

import os

import pytest

from benchmarks.container import CLIENTS, LIMIT, Course, run
from benchmarks.memory_group import NoGroup, memory_group

pytestmark = [pytest.mark.live, pytest.mark.timeout(400)]

WITHIN = 240.0  # seconds; it takes 35 on two cores


@pytest.fixture(autouse=True)
def container() -> None:
    """Skip, and say why, where no memory cgroup can be made."""
    try:
        with memory_group(LIMIT):
            pass
    except NoGroup as reason:
        if os.environ.get("SSEMIDDLEWARE_REQUIRE_CGROUP") == "1":
            pytest.fail(f"SSEMIDDLEWARE_REQUIRE_CGROUP=1, but {reason}")
        pytest.skip(str(reason))


def test_a_bare_server_is_killed_by_the_kernel() -> None:
    course = run("bare", within=WITHIN, until_killed=True)
    assert course.kills, summary(course)


@pytest.mark.parametrize(
    ("announced", "workers"),
    [
        pytest.param(True, 1, id="announced"),
        pytest.param(False, 1, id="unannounced"),
        pytest.param(True, 4, id="announced, four workers"),
    ],
)
def test_a_wrapped_server_lives_and_serves_every_client(announced: bool, workers: int) -> None:
    course = run("wrapped", announced=announced, workers=workers, within=WITHIN)
    assert not course.kills, summary(course)
    assert course.served == CLIENTS, summary(course)
    if workers == 1:  # the kernel's own count includes what it takes back before it kills
        assert course.most_used < LIMIT, summary(course)
    assert not course.breaks, summary(course)


def summary(course: Course) -> str:
    """Return what became of it, and each tenth sample."""
    samples = ", ".join(f"{second:.0f} s: {used // 2**20}" for second, used in course.samples[::10])
    return f"{course._replace(samples=[])}\nMiB at {samples}"
