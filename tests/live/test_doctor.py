"""The doctor finds the faults of real proxies and small servers, and finds nothing on healthy streams."""

from __future__ import annotations

import json
import os
import pty
import signal
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from ssemiddleware.oversized import LONG_LINE

from ..test_documents import rows_of
from .conftest import Pool, Start
from .doctored import Part, configured, head, serve_parts
from .proxies import nginx
from .proxies.configuration import Configuration, require, start_proxy
from .proxies.every import CONFIGURATIONS
from .serving import GTHREAD, Server, play_target, uvicorn
from .steps import event, pause, repeat

pytestmark = pytest.mark.live

EVENT = b"retry: 3000\ndata: hello\n\n"
TICKS: list[Part] = [EVENT, 0.3] * 5


def doctor(*arguments: str, status: int | None = None) -> dict[str, Any]:
    """Return the doctor's JSON. *status*: the exit status that it must have."""
    command = [sys.executable, "-m", "ssemiddleware", "doctor", "--json", *arguments]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=110, check=False)
    assert ended.stderr == ""
    assert status is None or ended.returncode == status, ended.stdout
    report: dict[str, Any] = json.loads(ended.stdout)
    return report


def faults(report: dict[str, Any]) -> list[str]:
    """Return the names of the findings, without notes."""
    return [finding["name"] for finding in report["findings"] if finding["severity"] != "note"]


def found(report: dict[str, Any], name: str) -> dict[str, Any]:
    [finding] = [finding for finding in report["findings"] if finding["name"] == name]
    return dict(finding)


# -- Small servers


def canary(*numbers: int, each: float = 1.0) -> bytes:
    """Return events with these numbers, *each* made so many seconds after the one before."""
    times = [time.time() + each * number for number in numbers]
    events = (b'event: canary\ndata: {"sequence":%d,"time":%f}\n\n' % event for event in zip(numbers, times, strict=True))
    return b"".join(events)


SMALL: dict[str, tuple[list[Part], str]] = {
    "late headers": ([2.5, head(), *TICKS], "headers-late"),
    "cut inside an event": ([head(more=b"Transfer-Encoding: chunked\r\n"), b"19\r\n" + EVENT + b"\r\n2\r\nda\r\n", 0.5], "cut"),
    "cut after 3 s of silence": ([head(more=b"Transfer-Encoding: chunked\r\n"), b"19\r\n" + EVENT + b"\r\n", 3.0], "cut"),
    "a wrong type": ([head(without=b"Content-Type", more=b"Content-Type: text/html\r\n"), *TICKS], "type"),
    "no type": ([head(without=b"Content-Type"), *TICKS], "type"),
    "another charset": (
        [head(without=b"Content-Type", more=b"Content-Type: text/event-stream; charset=latin-1\r\n"), *TICKS],
        "charset",
    ),
    "a cache may keep it": ([head(without=b"Cache-Control"), *TICKS], "caching"),
    "a hop-by-hop header": ([head(more=b"Upgrade: h2c\r\n"), *TICKS], "hop-by-hop"),
    "Connection twice": ([head(more=b"Connection: keep-alive\r\n"), *TICKS], "hop-by-hop"),
    "a length": ([head(more=b"Content-Length: 25\r\n"), EVENT], "content-length"),
    "torn events": ([head(), EVENT, b"data: 1", 1.0, b"\n\ndata: 2", 1.0, b"\n\n"], "torn"),
    "events that never end": ([head(), b"data: 1\n", 0.3, b"data: 2\n", 0.3, b"data: 3\n"], "never-ended"),
    "a line over 64 KiB": ([head(), b"retry: 1\ndata: " + b"x" * LONG_LINE + b"\n\n"], "long-line"),
    "no retry": ([head(), b"data: 1\n\n", 0.3, b"data: 2\n\n"], "no-retry"),
    "no answer for other origins": ([head(without=b"Access"), *TICKS], "cors"),
    "six connections": ([head(), *TICKS], "six-connections"),
    "another status": ([b"HTTP/1.1 503 Busy\r\nContent-Length: 0\r\n\r\n"], "status"),
    "all at the end": ([head(), 2.0, EVENT * 5], "buffered"),
    "compressed and never flushed": (
        [head(more=b"Content-Encoding: gzip\r\n"), bytes.fromhex("1f8b0800000000000003"), 9.0],
        "compressed",
    ),
    "no answer at all": ([], "no-answer"),
    "events of a canary that are lost": ([head(), canary(1, 2), 0.3, canary(5)], "lost"),
    "a server that stood still": ([head(), canary(1, 2, each=3.5)], "stalled"),
    "a canary out of a cache": ([head(), canary(7, 8)], "cached"),
}


@pytest.mark.parametrize("fault", SMALL)
def test_a_small_server_s_fault_is_named(fault: str) -> None:
    parts, name = SMALL[fault]
    with serve_parts(parts) as url:
        report = doctor(url, "--for", "5")
    assert found(report, name)
    assert report["healthy"] == (faults(report) == [])


def test_events_that_wait_are_found_by_the_server_s_time_in_them() -> None:
    stamps = [time.time() + 3 + index / 2 for index in range(8)]  # the doctor has begun by then
    batches = [b"".join(b"data: %f\n\n" % stamp for stamp in some) for some in (stamps[:4], stamps[4:])]
    with serve_parts([5.0, head(), batches[0], 2.0, batches[1]]) as url:
        report = doctor(url, "--for", "9", status=1)
    assert "some events took 1.5 s longer than others; up to 4 of them arrived at once" in found(report, "buffered")["evidence"]


def test_head_that_hangs_is_named() -> None:
    with serve_parts([head(), *TICKS], answers_head=False) as url:
        assert faults(doctor(url, "--for", "1", status=1)) == ["head"]


def test_each_finding_of_the_document_is_made_by_a_small_server_or_a_real_proxy() -> None:
    named = {name for cell, _ in rows_of("docs/doctor.md", "finding | is") for name in cell.replace("`", "").split(", ")}
    made = {name for _, name in SMALL.values()} | {name for *_, name, _ in PROXIED.values()}
    assert named <= made | {"head", "no-heartbeat"}  # which have tests of their own


def test_nothing_is_found_on_a_healthy_stream() -> None:
    with serve_parts([head(), *TICKS]) as url:
        assert faults(doctor(url, "--for", "5", status=0)) == []
        assert faults(doctor(url, "--for", "1", "--origin", "https://shop.example", status=0)) == []


def test_an_origin_that_may_not_read_is_a_fault_if_it_was_asked_for() -> None:
    with serve_parts([head(without=b"Access"), *TICKS]) as url:
        report = doctor(url, "--for", "1", "--origin", "https://shop.example", status=1)
    assert found(report, "cors")["remedy"]["line"] == "Access-Control-Allow-Origin: https://shop.example"


def test_without_a_connection_it_exits_with_2() -> None:
    assert "no connection to http://127.0.0.1:9/" in doctor("http://127.0.0.1:9/", status=2)["error"]
    assert "error" in doctor("events", status=2)


def test_ctrl_c_reports_what_is_known() -> None:
    all_sent = threading.Event()
    with serve_parts([head(), *TICKS, all_sent, 60.0]) as url:
        command = [sys.executable, "-m", "ssemiddleware", "doctor", url]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        assert all_sent.wait(60)
        time.sleep(1)
        process.send_signal(signal.SIGINT)
        output, errors = process.communicate(timeout=20)
    assert errors == ""
    assert "5 events, 125 bytes, still open after" in output
    assert "Nothing is wrong with this stream." in output
    assert process.returncode == 0


def test_a_terminal_shows_what_arrives_while_it_is_watched() -> None:
    master, slave = pty.openpty()
    with serve_parts([head(), *TICKS]) as url:
        command = [sys.executable, "-m", "ssemiddleware", "doctor", url, "--for", "5"]
        subprocess.run(command, stdout=subprocess.DEVNULL, stderr=slave, timeout=60, check=True)
    os.close(slave)
    shown = b""
    with suppress(OSError):  # all is read, and the server writes no more
        while block := os.read(master, 65536):
            shown += block
    os.close(master)
    assert b"Ctrl-C" in shown
    assert b"last byte" in shown


# -- Real proxies

SMALL_EVENTS = play_target(repeat(event("hello"), pause(0.3), times=8))
KILOBYTES = play_target(repeat(event("x" * 1000), pause(0.3), times=40))
SILENCE = play_target(event("one"), pause(30))
ENDLESS = play_target(repeat(event("hello"), pause(0.3)))
BARE, CANARY, TRANSFORMED = "live.applications:play", "live.doctored_application:app", "live.doctored_application:transformed"

NGINX_GZIP = "gzip on; gzip_types text/event-stream; gzip_proxied any; gzip_min_length 0;"
HAPROXY_GZIP = "option http-no-delay\n    compression algo gzip\n    compression type text/event-stream"
PROXIED = {
    "nginx buffers small events to the end": ("nginx", "", BARE, SMALL_EVENTS, 10, "buffered", "nginx"),
    "nginx buffers events of 1 KB in pages": ("nginx", "", BARE, KILOBYTES, 10, "buffered", "nginx"),
    "nginx compresses": ("nginx", NGINX_GZIP, BARE, SMALL_EVENTS, 10, "compressed", "nginx"),
    "nginx cuts": ("nginx", "proxy_buffering off; proxy_read_timeout 3s;", BARE, SILENCE, 10, "cut", "nginx"),
    "Caddy compresses": ("caddy", "encode gzip", BARE, KILOBYTES, 20, "compressed", "Caddy"),
    "HAProxy cuts": ("haproxy", "timeout server 3s", BARE, SILENCE, 10, "cut", "HAProxy"),
    "nginx holds even the headers": ("nginx", "", BARE, ENDLESS, 4, "headers-late", "the server of the application, or nginx"),
    "HAProxy compresses, an event late": ("haproxy", HAPROXY_GZIP, TRANSFORMED, "/canary", 6, "compressed", "HAProxy"),
    "HAProxy waits for more to send": ("haproxy", "", CANARY, "/canary", 5, "late", "HAProxy, which waits"),
    "Varnish compresses": ("varnishd", "set beresp.do_gzip = true;", BARE, SMALL_EVENTS, 10, "compressed", "Varnish"),
    "lighttpd buffers": ("lighttpd", "", BARE, SMALL_EVENTS, 10, "buffered", "lighttpd"),
    "Envoy cuts a stream that is not silent": ("envoy", "", BARE, ENDLESS, 20, "cut", "Envoy"),
    "Apache cuts": ("apache2", "ProxyTimeout 3", BARE, SILENCE, 10, "cut", "Apache"),
}


# Where the line to paste goes in the configuration.
CURED = {
    "nginx buffers small events to the end": "{line}",
    "nginx buffers events of 1 KB in pages": "{line}",
    "nginx compresses": NGINX_GZIP + "{line}",
    "nginx cuts": "proxy_buffering off; {line}",
    "nginx holds even the headers": "{line}",
    "Caddy compresses": "{line}",
    "HAProxy cuts": "{line}",
    "HAProxy waits for more to send": "{line}",
    "Varnish compresses": "set beresp.do_gzip = true; }} sub vcl_recv {{ {line}",
    "lighttpd buffers": "{line}",
    "Envoy cuts a stream that is not silent": "{line}",
    "Apache cuts": "{line}",
}


Before = Callable[[Server, Configuration], AbstractContextManager[str]]


@pytest.fixture
def before(folder: Path, trust: ssl.SSLContext) -> Before:
    """Return a function that starts a proxy before a server, and returns its URL."""

    @contextmanager
    def started(upstream: Server, configuration: Configuration) -> Iterator[str]:
        require(configuration)
        proxy = start_proxy(configuration, upstream, folder, trust, idle=configuration.program.own_idle)
        try:
            yield f"http://127.0.0.1:{proxy.port}"
        finally:
            proxy.end()
            sys.stdout.write(proxy.output())

    return started


@pytest.mark.parametrize("what", PROXIED)
def test_what_a_proxy_does_is_named_with_the_culprit(what: str, pool: Pool, before: Before) -> None:
    program, more, application, target, seconds, name, culprit = PROXIED[what]
    with before(pool.get(GTHREAD, application), configured(program, more)) as url:
        report = doctor(url + target, "--for", str(seconds), status=1)
    finding = found(report, name)
    assert (finding["culprit"] or "").startswith(culprit or ""), finding
    assert bool(finding["culprit"]) == bool(culprit)
    if what not in CURED:
        return
    with before(
        pool.get(GTHREAD, application),
        configured(program, CURED[what].format(**finding["remedy"])),
    ) as url:
        assert name not in faults(doctor(url + target, "--for", str(seconds)))


def test_varnish_replays_the_stream_to_the_next_client(pool: Pool, before: Before) -> None:
    with before(pool.get(GTHREAD, BARE), configured("varnishd", "")) as url:
        doctor(url + SMALL_EVENTS, "--for", "2")
        finding = found(doctor(url + SMALL_EVENTS, "--for", "1"), "cached")
    assert finding["culprit"] == "Varnish"
    with before(
        pool.get(GTHREAD, BARE),
        configured("varnishd", f"}} sub vcl_recv {{ {finding['remedy']['line']}"),
    ) as url:
        doctor(url + SMALL_EVENTS, "--for", "2")
        assert "cached" not in faults(doctor(url + SMALL_EVENTS, "--for", "1"))


# Those that would compress, the files of examples/proxies, and one of each other proxy.
HEALTHY = [
    configured("caddy", "encode gzip"),
    configured("haproxy", HAPROXY_GZIP),
    configured("apache2", "AddOutputFilterByType DEFLATE text/event-stream"),
    *{each.program: each for each in reversed(CONFIGURATIONS) if not (each.red or each.varies or each.http2)}.values(),
    *(each for each in CONFIGURATIONS if each.example),
]


@pytest.mark.parametrize("configuration", {str(each): each for each in HEALTHY}.values(), ids=str)
def test_nothing_is_found_on_a_wrapped_stream_through_a_proxy(configuration: Configuration, pool: Pool, before: Before) -> None:
    with before(pool.get(GTHREAD, CANARY), configuration) as url:
        report = doctor(url + "/canary", "--for", "5", status=0)
    assert faults(report) == []
    assert "delay" in report["summary"]


def test_nothing_is_found_on_a_wrapped_stream_nor_on_an_asgi_one(pool: Pool, serve: Start) -> None:
    server = pool.get(GTHREAD)
    for steps in ([repeat(event("hello"), pause(0.3))], [pause(60)]):
        assert faults(doctor(f"http://127.0.0.1:{server.port}{play_target(*steps)}", "--for", "4", status=0)) == []
    asgi = serve(uvicorn(), "live.doctored_application:asgi")
    assert faults(doctor(f"http://127.0.0.1:{asgi.port}/", "--for", "4", status=0)) == []


def test_two_ways_are_compared_and_the_proxy_is_named(pool: Pool, before: Before) -> None:
    upstream = pool.get(GTHREAD, BARE)
    with before(upstream, configured("nginx", "")) as url:
        direct = f"http://127.0.0.1:{upstream.port}{SMALL_EVENTS}"
        report = doctor(direct, "--through", url + SMALL_EVENTS, "--for", "10", status=1)
    comparison = report["comparison"]
    assert comparison["hop"] == "nginx"
    assert [finding["name"] for finding in comparison["added"]] == ["buffered"]
    assert comparison["first_byte_later"] > 1
    assert any(header.startswith("server: gunicorn -> nginx") for header in comparison["changed_headers"])


def test_over_http_2_there_is_no_limit_of_connections(
    pool: Pool, before: Before, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(folder / "authority.pem"))
    with before(pool.get(GTHREAD), Configuration("TLS", nginx.DEBIAN, nginx.TLS, http2=True)) as url:
        report = doctor(url.replace("http://127.0.0.1", "https://localhost") + ENDLESS, "--for", "3", status=0)
    assert [finding["name"] for finding in report["findings"]] == ["cors", "no-retry"]
    assert report["summary"].startswith("HTTP/2, 200")


@pytest.mark.timeout(150)
def test_sixty_seconds_without_a_heartbeat_are_found_and_what_cuts_then_is_named(pool: Pool, before: Before) -> None:
    with before(pool.get(GTHREAD, BARE), configured("nginx", "proxy_buffering off;")) as url:
        report = doctor(url + play_target(event("one"), pause(90)), status=1)
    assert faults(report)[:2] == ["no-heartbeat", "cut"]
    assert found(report, "cut")["what"] == "The stream was cut after 60 s of silence."


# -- Lint


def lint(*arguments: str, given: bytes = b"") -> tuple[int, str]:
    command = [sys.executable, "-m", "ssemiddleware", "lint", *arguments]
    ended = subprocess.run(command, capture_output=True, input=given, timeout=60, check=False)
    return ended.returncode, (ended.stdout + ended.stderr).decode()


def test_lint_reads_a_file_standard_input_and_a_url(tmp_path: Path) -> None:
    wrong = b"Data: 1\n\n" * 5 + b"data: 2\n"
    (tmp_path / "events").write_bytes(wrong)
    status, output = lint(str(tmp_path / "events"))
    assert status == 1
    assert f"{tmp_path}/events:1: event 1: 'Data: 1'\n" in output
    assert "2 more: field-name\n" in output
    assert output.endswith("6 mistakes\n")
    assert lint("-", given=wrong) == (1, output.replace(f"{tmp_path}/events", "-"))
    with serve_parts([head(), wrong]) as url:
        assert lint(url) == (1, output.replace(f"{tmp_path}/events", url))
    assert lint("-", given=EVENT) == (0, "No mistakes.\n")
    assert lint(str(tmp_path / "missing"))[0] == 2
    assert lint("http://127.0.0.1:9/")[0] == 2
