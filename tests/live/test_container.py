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
    """Skip, and say why, if no memory cgroup can be made."""
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
    ("kind", "announced", "workers", "clients"),
    [
        pytest.param("gthread", True, 1, CLIENTS, id="gthread, announced"),
        pytest.param("gthread", False, 1, CLIENTS, id="gthread, unannounced"),
        pytest.param("gthread", True, 4, CLIENTS, id="gthread, four workers"),
        pytest.param("gthread", True, 1, 100, id="gthread, 100 clients"),
        pytest.param("gevent", True, 1, CLIENTS, id="gevent"),
        pytest.param("gevent", True, 1, 100, id="gevent, 100 clients"),
    ],
)
def test_a_wrapped_server_lives_and_serves_every_client(kind: str, announced: bool, workers: int, clients: int) -> None:
    course = run("wrapped", kind=kind, announced=announced, workers=workers, clients=clients, within=WITHIN)
    assert not course.kills, summary(course)
    assert course.served == clients, summary(course)
    if workers == 1:  # the kernel's own count includes memory that it reclaims before it kills
        assert course.most_used < LIMIT, summary(course)
    assert not course.breaks, summary(course)


def summary(course: Course) -> str:
    """Return the result, and every tenth sample."""
    samples = ", ".join(f"{second:.0f} s: {used // 2**20}" for second, used in course.samples[::10])
    return f"{course._replace(samples=[])}\nMiB at {samples}"
