"""mod_wsgi-express ends streams by two of its options, as docs/servers.md says."""

from __future__ import annotations

import pytest

from .conftest import Start
from .serving import EVENT_SOURCE, mod_wsgi_express
from .steps import Step, event, nothing, pause, repeat

pytestmark = pytest.mark.live

APPLICATION = "live.applications:app_with_a_heartbeat_a_second"
TICKS: list[Step] = [repeat(event("tick"), pause(0.2), times=75), event("done")]
SILENT: list[Step] = [event("hello"), pause(6), event("done")]
YIELDING: list[Step] = [event("hello"), repeat(nothing(), pause(0.5), times=12), event("done")]


@pytest.mark.parametrize(
    ("option", "steps", "is_whole"),
    [
        pytest.param("--request-timeout=1", TICKS, False, id="a limit for requests cuts streams"),
        pytest.param("--request-timeout=0", TICKS, True, id="without one they go on"),
        pytest.param("--socket-timeout=2", SILENT, False, id="a limit for silence cuts silent ones"),
        pytest.param("--socket-timeout=2", YIELDING, True, id="heartbeats keep them"),
    ],
)
def test_streams_end_by_an_option_of_mod_wsgi_express(option: str, steps: list[Step], is_whole: bool, serve: Start) -> None:
    stream = serve(mod_wsgi_express(option), APPLICATION).open(*steps, headers=EVENT_SOURCE)
    assert stream.read_to_end(within=40).endswith(b"data: done\n\n") == is_whole
