"""Two ways to one stream: what is different on the second, and the name of the proxy there."""

from __future__ import annotations

import pytest

from ssemiddleware.canary import CLOCK
from ssemiddleware.doctor import CLEANLY, compare

from .observations import EVENT, HEALTHY, seen, stamped

DIRECT = seen([(float(second), EVENT) for second in range(4)], ended=CLEANLY)
HELD = [(3.0, EVENT * 4)]


def test_the_hop_that_holds_the_stream_back_is_named() -> None:
    date = ("Date", "Thu, 01 Jan 2026 00:00:09 GMT")
    through = seen(HELD, ("Server", "nginx/1.22.1"), date, ended=CLEANLY, headers_at=3.0)
    comparison = compare(DIRECT, through)
    assert comparison.hop == "nginx"
    assert [finding.name for finding in comparison.added] == ["buffered"]
    assert comparison.first_byte_later == 3.0
    assert comparison.changed_headers == ["server: gunicorn -> nginx/1.22.1"]


def test_a_hop_without_a_name_and_headers_that_were_added_or_removed() -> None:
    through = seen(HELD, ("Cache-Control", ""), ("Content-Encoding", "gzip"), ended=CLEANLY)
    comparison = compare(DIRECT, through)
    assert comparison.hop == "a proxy or server that gives no name"
    assert [finding.name for finding in comparison.added] == ["compressed", "caching"]
    assert comparison.changed_headers == [
        "cache-control: no-cache, no-transform -> (none)",
        "content-encoding: (none) -> gzip",
    ]


def test_the_delay_of_each_event_is_compared_by_the_server_s_clock() -> None:
    direct = seen(stamped(4, every=0.5, arrives=[0.0, 0.5, 1.0, 1.5]))
    through = seen(stamped(4, every=0.5, arrives=[0.2, 0.7, 1.2, 1.7]))
    assert compare(direct, through).events_later == pytest.approx(0.2)


def test_the_delay_is_compared_without_the_header_date_which_is_whole_seconds() -> None:
    direct = seen(stamped(4, every=0.5, arrives=[0.0, 0.5, 1.0, 1.5]))
    date = ("Date", "Thu, 01 Jan 2026 00:00:01 GMT")
    through = seen(stamped(4, every=0.5, arrives=[0.2, 0.7, 1.2, 1.7]), date, headers_at=0.2)
    assert compare(direct, through).events_later == pytest.approx(0.2)


def test_the_canary_s_own_time_is_no_header_that_a_hop_has_changed() -> None:
    direct, through = (seen([(0.0, EVENT)], (CLOCK, time)) for time in ("1767225600.1", "1767225600.2"))
    assert compare(direct, through).changed_headers == []


def test_a_hop_that_sends_nothing_is_named_by_another_answer() -> None:
    through = seen(status=None, headers_at=None, at=75.0, headers=[])
    through.other_headers = [("Server", "nginx")]
    comparison = compare(DIRECT, through)
    assert comparison.hop == "nginx"
    [finding] = comparison.added
    assert (finding.name, finding.culprit) == ("headers-late", "the server of the application, or nginx")
    assert finding.remedy.line == "proxy_buffering off;"
    assert comparison.first_byte_later is None
    assert comparison.changed_headers == []


def test_a_hop_that_both_ways_have_is_not_to_blame() -> None:
    nginx = ("Server", "nginx")
    assert compare(seen([(0, EVENT)], nginx), seen(HELD, nginx, ("Via", "1.1 varnish"))).hop == "Varnish"
    assert dict(HEALTHY)["Server"] == "gunicorn"
