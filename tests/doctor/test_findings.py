"""Each fault is found, with its evidence and its remedy. Nothing is found on a healthy stream."""

from __future__ import annotations

from datetime import datetime, timezone

import pytest

from ssemiddleware.doctor import CLEANLY, CUT, OPEN, REFUSAL, Observation, Severity, diagnose, is_healthy, summary
from ssemiddleware.lint import MISTAKES
from ssemiddleware.oversized import LONG_LINE

from ..test_documents import rows_of
from .observations import BEGAN, EVENT, names, seen, stamped

EACH_SECOND = [(0.1 + second, EVENT) for second in range(9)]
HELD = [(3.5, EVENT * 8)]
LARGE = b"data: " + b"x" * 90 + b"\n\n"
# 16 KiB of events, in buffers of 4 KiB
IN_BUFFERS = [(4.0 * index, (LARGE * 200)[4096 * index : 4096 * index + 4096]) for index in range(5)]

FAULTS = {
    "buffered to its end": (seen(HELD, ended=CLEANLY, headers_at=3.5), "buffered", "all 8 events came at once, 3.5 s after"),
    "buffered by the server's clock": (
        seen(stamped(8, every=0.5, arrives=[2.0] * 4 + [4.0] * 4)),
        "buffered",
        "some events took 1.5 s longer than others; up to 4 of them arrived at once",
    ),
    "buffered in pages": (seen(IN_BUFFERS), "buffered", "4 bursts of 4096, 4096, 4096 bytes, multiples of 4096, ended inside"),
    "compressed without a flush, to its end": (
        seen(HELD, ("Content-Encoding", "gzip"), ended=CLEANLY),
        "compressed",
        "Content-Encoding: gzip; all 8 events came at once",
    ),
    "compressed without a flush, in parts": (
        seen([(0.0, LARGE + b"da"), (2.0, b"ta: x\n\nda"), (4.0, b"ta: x\n\n")], ("Content-Encoding", "br")),
        "compressed",
        "2 bursts ended inside an event",
    ),
    "late headers": (seen(EACH_SECOND, headers_at=4.0), "headers-late", "the headers came after 4.0 s"),
    "no headers": (seen(status=None, headers_at=None, at=75.0), "headers-late", "no header within 75 s"),
    "no headers, as long as it was watched": (
        seen(status=None, headers_at=None, at=0.3),
        "headers-late",
        "no header within 0.3 s",
    ),
    "no heartbeat": (seen([(0.2, EVENT), (70.0, EVENT)]), "no-heartbeat", "nothing came for 70 s"),
    "no heartbeat until a proxy cuts, seen a little early": (
        seen([(0.2, EVENT)], ended=CUT, at=60.15),
        "no-heartbeat",
        "nothing came for 60 s",
    ),
    "no heartbeat as long as it was watched": (seen(at=75.0), "no-heartbeat", "nothing came for 75 s"),
    "cut after 60 s of silence": (seen([(0.2, EVENT)], ended=CUT, at=60.2), "cut", "the last byte came after 0.2 s"),
    "cut inside an event": (seen([(0.2, EVENT), (1.2, b"data: x")], ended=CUT), "cut", "after 1.2 s, inside an event"),
    "cut while it was not silent": (seen(EACH_SECOND, ended=CUT), "cut", "after 8.1 s, after a whole event"),
    "ended cleanly after a silence": (seen([(0.2, EVENT)], ended=CLEANLY, at=50.2), "cut", "the end, a clean one, after 50.2"),
    "six connections": (seen(EACH_SECOND, http_version="HTTP/1.1"), "six-connections", "HTTP/1.1"),
    "another status": (seen(status=503), "status", "status 503"),
    "no content": (seen(status=204), "status", "status 204"),
    "a wrong type": (seen(EACH_SECOND, ("Content-Type", "text/html")), "type", "Content-Type: text/html"),
    "no type": (seen(EACH_SECOND, ("Content-Type", "")), "type", "no Content-Type"),
    "another charset": (
        seen(EACH_SECOND, ("Content-Type", 'Text/Event-Stream; Charset="latin-1"')),
        "charset",
        'Content-Type: Text/Event-Stream; Charset="latin-1"',
    ),
    "no charset": (seen(EACH_SECOND, ("Content-Type", "text/event-stream")), "charset", "Content-Type: text/event-stream"),
    "no header for caches": (seen(EACH_SECOND, ("Cache-Control", "")), "caching", "no Cache-Control"),
    "a cache is allowed": (seen(EACH_SECOND, ("Cache-Control", "max-age=60")), "caching", "Cache-Control: max-age=60"),
    "out of a cache": (seen(EACH_SECOND, ("Age", "7")), "cached", "Age: 7"),
    "a hit of a cache": (seen(EACH_SECOND, ("X-Cache", "HIT from x")), "cached", "X-Cache: HIT from x"),
    "a hop-by-hop header": (seen(EACH_SECOND, ("Upgrade", "h2c")), "hop-by-hop", "Upgrade: h2c"),
    "Connection over HTTP/2": (seen(EACH_SECOND, ("Connection", "keep-alive")), "hop-by-hop", "Connection: keep-alive"),
    "Connection twice": (
        seen(EACH_SECOND, ("Connection", "close"), ("Connection", "keep-alive"), http_version="HTTP/1.1"),
        "hop-by-hop",
        "Connection: close; Connection: keep-alive",
    ),
    "a length": (seen(EACH_SECOND, ("Content-Length", "1000")), "content-length", "Content-Length: 1000"),
    "torn events": (
        seen([(0.0, b"data: 1"), (1.0, b"\n\ndata: 2"), (2.0, b"\n\ndata: 3\n\n")]),
        "torn",
        "2 times, for up to 1.0 s",
    ),
    "an event that never ends": (seen([(0.0, EVENT), (1.0, b"data: 2\n")], at=9.0), "torn", "1 time, for up to 8.0 s"),
    "no blank line at the end": (
        seen([(0.0, EVENT + b"data: 2\n")], ended=CLEANLY),
        "unfinished",
        "event 2, line 4: 'data: 2'",
    ),
    "no event ever ends": (
        seen([(second, b"data: 1\n") for second in range(9)]),
        "never-ended",
        "event 1, line 9: 'data: 1'",
    ),
    "mistakes in the bytes": (seen([(0.0, b"Data: 1\n\n" * 3)]), "field-name", "event 1, line 1: 'Data: 1', and 2 times more"),
    "a line over 64 KiB": (seen([(0.0, b"data: " + b"x" * LONG_LINE + b"\n\n")]), "long-line", "event 1, line 1: 'data: xxx"),
    "no retry": (seen([(0.0, b"data: 1\n\n")]), "no-retry", "none in 1 events"),
    "closed without an answer": (seen(status=None, headers_at=None, ended=CUT, at=0.5), "no-answer", "closed after 0.5 s"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_is_named_with_its_evidence_and_a_remedy(fault: str) -> None:
    observation, name, evidence = FAULTS[fault]
    [finding] = [finding for finding in diagnose(observation) if finding.name == name]
    assert evidence in finding.evidence
    assert finding.what.endswith((".", "compress", "together"))
    assert finding.remedy.line
    assert finding.remedy.where


def test_the_table_in_the_document_has_each_finding() -> None:
    named = {name for cell, _ in rows_of("docs/doctor.md", "finding | is") for name in cell.replace("`", "").split(", ")}
    of_bytes = {mistake.name for mistake in MISTAKES}
    assert named == {name for _, name, _ in FAULTS.values()} - of_bytes | {"head", "cors", "late", "lost", "stalled"}


def test_head_and_other_origins_are_findings_only_if_they_were_asked_for() -> None:
    observation = seen(EACH_SECOND)
    observation.answers_head, observation.allows_origin = False, False
    assert names(observation) == ["head", "cors"]
    assert not is_healthy(diagnose(observation))
    observation.answers_head = True
    assert is_healthy(diagnose(observation))
    observation.origin = "https://shop.example"
    [cors] = diagnose(observation)
    assert (cors.severity, cors.remedy.line) == (Severity.FATAL, "Access-Control-Allow-Origin: https://shop.example")


TIMES = [(0, 1), (1, -2), (2, 3), (3, -1), (4, 5)]
BATCHES = [(float(second), EVENT * 5) for second in range(9)]
HEALTHY = {
    "an event a second": seen(EACH_SECOND),
    "batches of events": seen(BATCHES),
    "a short answer": seen([(0.1, EVENT * 20)], ended=CLEANLY),
    "one event late, and the end": seen([(30.0, EVENT)], ended=CLEANLY, headers_at=0.1),
    "only heartbeats": seen([(0.5, b"retry: 3000\n"), *((15.0 * beat, b":\n") for beat in range(1, 6))], at=75.0),
    "events with heartbeats between": seen([(0.5, b"retry: 1\n"), (15.5, b":\n"), (30.0, EVENT), (45.0, b":\n")], at=55.0),
    "many events after a while, and no end": seen([(2.0, EVENT * 5)], at=2.1),
    "many events after a while, and later the end": seen([(2.0, EVENT * 5)], ended=CLEANLY, at=5.0),
    "many events that are made at once": seen(
        [
            (
                3.0,
                b"".join(block for _, block in stamped(5, every=0.01, arrives=[3.0] * 5)).replace(b"1767225600", b"1767225602"),
            )
        ],
        ended=CLEANLY,
    ),
    "two times are too few": seen(stamped(2, every=1, arrives=[0.1, 9.0])),
    "times in no order": seen([(5.0 + at, f"retry: 1\ndata: {BEGAN + 4 + stamp}\n\n".encode()) for at, stamp in TIMES]),
    "times to come that grow": seen([(at, f"retry: 1\ndata: {BEGAN + 900 + 3 * at}\n\n".encode()) for at in range(5)]),
    "UTF-8 in capitals": seen(EACH_SECOND, ("Content-Type", "text/event-stream;charset=UTF-8")),
    "compressed and flushed": seen(EACH_SECOND, ("Content-Encoding", "gzip")),
    "stamped, and at once": seen(stamped(5, every=1, arrives=[0.1, 1.1, 2.1, 3.1, 4.1])),
    "with an old time in each event": seen([(float(second), b"retry: 1\ndata: 1767220000\n\n") for second in range(5)]),
    "with times to come": seen([(second, f"retry: 1\ndata: {BEGAN + 900 - second}\n\n".encode()) for second in range(5)]),
    "a large event that comes in many parts": seen([(0, EVENT), *((0.1 * part, b"data: x\n") for part in range(50))]),
    "a last event that is not finished": seen([*EACH_SECOND, (9.0, b"data: x")], at=9.4),
    "a private stream": seen(EACH_SECOND, ("Cache-Control", "private, max-age=0")),
    "kept alive over HTTP/1.1": seen(EACH_SECOND, ("Connection", "keep-alive")),
}
HEALTHY["kept alive over HTTP/1.1"].http_version = "HTTP/1.1"


@pytest.mark.parametrize("stream", HEALTHY)
def test_nothing_is_found_on_a_healthy_stream(stream: str) -> None:
    found = [finding for finding in diagnose(HEALTHY[stream]) if finding.name != "six-connections"]
    assert found == []
    assert is_healthy(diagnose(HEALTHY[stream]))


def test_the_worst_comes_first_and_notes_last() -> None:
    observation = seen(
        [(0.0, b"Data: 1\n\ndata: 2\n\n")], ("Content-Type", "text/event-stream; charset=latin-1"), ("Cache-Control", "")
    )
    assert names(observation) == ["charset", "field-name", "caching", "no-retry"]
    assert [finding.severity for finding in diagnose(observation)] == sorted(Severity, reverse=True)


def test_a_response_that_is_no_event_stream_has_one_finding_only() -> None:
    assert names(seen([(9.0, b"<html>")], ("Content-Type", "text/html"), headers_at=9.0)) == ["type"]


CULPRITS = {
    "nginx buffers": (HELD, [("Server", "nginx/1.22.1")], "buffered", "nginx", "proxy_buffering off;"),
    "lighttpd buffers": (HELD, [("Server", "lighttpd/1.4")], "buffered", "lighttpd", "server.stream-response-body = 2"),
    "Varnish before nginx": (
        HELD,
        [("Server", "nginx"), ("Via", "1.1 varnish (Varnish/7.1)")],
        "buffered",
        "Varnish or nginx",
        "if (req.",
    ),
    "Caddy compresses": (
        HELD,
        [("Server", "Caddy"), ("Content-Encoding", "gzip")],
        "compressed",
        "Caddy",
        "encode gzip {",
    ),
    "Apache compresses": (HELD, [("Server", "Apache"), ("Content-Encoding", "br")], "compressed", "Apache", "SetEnvIf Accept"),
    "Express compresses": (
        HELD,
        [("X-Powered-By", "Express"), ("Content-Encoding", "br")],
        "compressed",
        "Express",
        "Cache-Control: no-cache, no-transform",
    ),
    "lighttpd in front of a server that gives its name": (
        HELD,
        [("Server", "gunicorn")],
        "buffered",
        "lighttpd",
        "server.stream-response-body = 2",
    ),
    "no proxy gives a name": (HELD, [], "buffered", None, "X-Accel-Buffering: no"),
    "Varnish caches": (
        EACH_SECOND,
        [("X-Varnish", "32770 3"), ("Age", "0")],
        "cached",
        "Varnish",
        'if (req.http.Accept ~ "text',
    ),
}


@pytest.mark.parametrize("case", CULPRITS)
def test_the_culprit_is_known_by_its_headers_and_has_its_own_remedy(case: str) -> None:
    arrivals, headers, name, culprit, remedy = CULPRITS[case]
    observation = seen(arrivals, *headers, ended=CLEANLY)
    if culprit == "lighttpd":
        observation.other_headers = [("Server", "lighttpd/1.4.69"), (REFUSAL, "400 Bad Request")]
    [finding] = [finding for finding in diagnose(observation) if finding.name == name]
    assert finding.culprit == culprit
    assert finding.remedy.line.startswith(remedy)


@pytest.mark.parametrize(
    ("seconds", "headers", "culprit", "remedy"),
    [
        (60.0, [], "nginx, Varnish, nghttpx or AWS' load balancer", ":"),
        (50.0, [], "HAProxy (as Debian configures it)", "timeout server 1h"),
        (100.3, [], "Cloudflare", ":"),
        (3.0, [("Server", "nginx")], "nginx", "proxy_read_timeout 1h;"),
        (60.0, [("Server", "Apache/2.4")], "Apache", "ProxyTimeout 3600"),
        (15.0, [("Server", "envoy")], "Envoy", "timeout: 0s"),
        (22.0, [], None, ":"),
        (3.0, [(REFUSAL, "<h1>400 Bad request</h1>\nYour browser sent an invalid request.")], "HAProxy", "timeout server 1h"),
    ],
)
def test_the_culprit_of_a_cut_is_known_by_the_headers_or_the_time(
    seconds: float, headers: list[tuple[str, str]], culprit: str | None, remedy: str
) -> None:
    [cut] = [
        finding for finding in diagnose(seen([(0.5, EVENT)], *headers, ended=CUT, at=seconds + 0.5)) if finding.name == "cut"
    ]
    assert (cut.culprit, cut.remedy.line) == (culprit, remedy)
    assert cut.what == f"The stream was cut after {seconds:.0f} s of silence."


@pytest.mark.parametrize(
    ("seconds", "culprit", "remedy"),
    [(16.0, "Envoy", "timeout: 0s"), (30.9, "the server", "--worker-class gthread"), (8.0, "", "journalctl")],
)
def test_the_culprit_of_a_cut_without_silence_is_known_by_the_stream_s_age(seconds: float, culprit: str, remedy: str) -> None:
    alive = [(0.1 + second, EVENT) for second in range(int(seconds) + 1)]
    [cut] = [finding for finding in diagnose(seen(alive, ended=CUT, at=seconds + 0.2)) if finding.name == "cut"]
    assert (cut.culprit or "").startswith(culprit)
    assert bool(cut.culprit) == bool(culprit)
    assert cut.remedy.line.startswith(remedy)


def test_a_time_may_be_written_in_seconds_milliseconds_or_iso_8601() -> None:
    iso = datetime.fromtimestamp(BEGAN + 1.5, timezone.utc).isoformat()
    for written in (
        f"{BEGAN + 1.5}",
        f'{{"at":{int(BEGAN * 1000) + 1500}}}',
        f"it is {iso}",
        f"of 1500000000 at {iso}",
        iso.replace("+00:00", "Z"),
    ):
        observation = seen([(2.0, f"data: {written}\n\n".encode())] * 3)
        assert observation.delays == pytest.approx([0.4] * 3), written  # `Date` was written as the headers came, at 0.1 s


def test_times_are_ignored_if_an_event_has_none_or_an_impossible_one() -> None:
    for data in (b"data: 20\n\n", b"data: 2026-13-01T00:00:00Z\n\n", b"data: 1767225599999999\n\n"):
        assert seen([*stamped(3, every=1, arrives=[0, 1, 2]), (9.0, data)]).delays == []


def canary(numbers: list[int], *, delay: float, clock_ahead: float = 0.0) -> Observation:
    events = [
        (n - 1 + delay, f'retry: 1\nevent: canary\ndata: {{"sequence":{n},"time":{BEGAN + clock_ahead + n - 1}}}\n\n'.encode())
        for n in numbers
    ]
    observation = seen(sorted(events), ("Date", ""))
    observation.clock_ahead = clock_ahead
    return observation


def test_a_canary_shows_delay_loss_and_replay() -> None:
    assert names(canary([1, 2, 3, 4, 5], delay=0.01, clock_ahead=700.0)) == []
    assert "delay 10 ms (median), 10 ms (largest)" in summary(canary([1, 2, 3], delay=0.01, clock_ahead=-9.0))
    assert names(canary([1, 2, 5, 6], delay=0.01)) == ["lost"]
    [lost] = diagnose(canary([1, 2, 5, 6], delay=0.01))
    assert lost.evidence == "2 of 6 are missing; 0 came again"
    assert names(canary([1, 2, 2, 3], delay=0.01)) == ["lost"]
    assert names(canary([4, 5, 6, 7], delay=0.01)) == ["cached"]


def test_a_canary_shows_the_cadence() -> None:
    assert "an event each 1.00 s (median), 1.00 s at most" in summary(canary([1, 2, 3], delay=0.01))
    assert "an event each 1.00 s (median), 3.00 s at most" in summary(canary([1, 2, 3, 6], delay=0.01))
    assert "an event each" not in summary(seen(EACH_SECOND))


def test_a_canary_shows_that_the_server_stalled_which_no_proxy_can_have_done() -> None:
    def made(*times: float) -> Observation:
        events = [b'retry: 1\nevent: canary\ndata: {"sequence":%d,"time":%f}\n\n' % each for each in enumerate(times, 1)]
        return seen([(at - BEGAN, event) for at, event in zip(times, events, strict=True)], ("Date", ""))

    assert names(made(*(BEGAN + at for at in (0, 1, 3.9)))) == []
    observation = made(BEGAN, BEGAN + 1, BEGAN + 4.5, BEGAN + 5.5)
    [stalled] = [finding for finding in diagnose(observation) if finding.name == "stalled"]
    assert stalled.evidence == "events 2 and 3 were made 3.5 s apart by the server's clock, instead of 1 s"
    assert stalled.culprit == "the server's process or its machine"


def test_a_canary_that_is_always_late_shows_who_waits() -> None:
    [late] = diagnose(canary([1, 2, 3, 4], delay=0.207, clock_ahead=70))
    assert (late.name, late.remedy.line) == ("late", "option http-no-delay")
    assert "0.21 s" in late.evidence
    [late] = diagnose(canary([1, 2, 3, 4], delay=1.0))
    assert late.culprit is not None
    assert "HAProxy's compression" in late.culprit


def test_a_compressed_canary_whose_events_are_all_late_shows_the_compression() -> None:
    observation = canary([1, 2, 3, 4], delay=1.0)
    observation.headers.append(("Content-Encoding", "gzip"))
    [compressed] = diagnose(observation)
    assert (compressed.name, compressed.remedy.line) == ("compressed", "Cache-Control: no-cache, no-transform")
    assert "every event came late, by 1.00 s (median)" in compressed.evidence


def test_events_without_a_number_are_no_canary() -> None:
    for data in ("[]", "x", "{}", '{"sequence":null}'):
        assert seen([(0.0, f"event: canary\ndata: {data}\n\n".encode())]).events[0].sequence is None


def test_the_summary_says_what_arrived() -> None:
    assert summary(seen([(0.2, EVENT)], ended=CLEANLY, at=1.0)) == (
        "HTTP/2, 200, headers after 0.10 s, first byte after 0.20 s, first event after 0.20 s, 1 event, 25 bytes, "
        "ended cleanly after 1.0 s"
    )
    assert summary(seen(status=None, headers_at=None, at=9.0)) == "no headers, 0 events, 0 bytes, still open after 9.0 s"


def test_a_stream_that_cannot_be_decompressed_is_compressed_without_a_flush() -> None:
    observation = seen(headers_at=0.1, at=30.0, ended=OPEN)
    observation.headers.append(("Content-Encoding", "gzip"))
    observation.received = 10
    assert names(observation) == ["compressed"]
