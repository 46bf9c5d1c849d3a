"""Streams through real proxies, bare and wrapped: docs/proxies.md has the tables. Wrapped, each fault has a reason."""

from __future__ import annotations

import re
import ssl
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import pytest

from .columns import TRIES, Cell, Route, cell, cells_of, disconnect, idle, times_of
from .conftest import Measure, Start
from .event_source import BROWSER
from .proxied import BARE, COMPRESSED, SOONER, WRAPPED
from .proxies import apache, caddy
from .proxies.configuration import EXAMPLES, Configuration, require, start_proxy
from .proxies.every import CONFIGURATIONS
from .proxy_table import MINUTE, THROUGH, Table, as_line, key_of, row_of
from .restarting import restart
from .serving import ANNOUNCED, UNANNOUNCED, Server, gunicorn, over_unix_socket, start, start_again
from .steps import large_document, pause, repeat, send_time

pytestmark = [pytest.mark.live, pytest.mark.timeout(240)]

UPSTREAM = gunicorn("gthread", "--threads=40")
APPLICATION = "live.proxied:app"

Cells = dict[tuple[str, bool], Cell]  # by the column and whether it is wrapped

# -- all proxies at the same time, with their own idle times, the default heartbeat and the server's own grace

SILENCE = 80.0  # seconds, longer than most idle times
UNTIL_SEEN = 60.0  # seconds until a disconnect counts as never seen
AT_ONCE = 4.0  # seconds, less than a heartbeat, on a busy machine
STARTED_TOGETHER = 4
FOR_ALL = over_unix_socket(gunicorn("gthread", "--threads=400"))

WHILE_SILENT: dict[tuple[str, bool], tuple[Callable[[Route, float], Cell], str, float]] = {
    ("80 s of silence", False): (idle, BARE, SILENCE),
    ("80 s of silence", True): (idle, WRAPPED, SILENCE),
    ("disconnect, heartbeat=15", True): (disconnect, WRAPPED, UNTIL_SEEN),
    ("disconnect, heartbeat=5", True): (disconnect, SOONER, UNTIL_SEEN),
}


@pytest.mark.timeout(420)
def test_with_defaults_each_fault_behind_a_proxy_has_a_reason(
    folder: Path, trust: ssl.SSLContext, print_line: Callable[[str], None], measure: Measure
) -> None:
    """First in this file: the others run beside it."""
    for configuration in CONFIGURATIONS:
        require(configuration)
    with ExitStack() as ending:
        servers = [start(FOR_ALL, APPLICATION, folder)]
        ending.callback(lambda: servers[-1].end())
        proxies = start_all(servers[0], folder, trust, ending)
        cells = while_silent(proxies, servers[0])
        for mount in (WRAPPED, BARE):
            restarted = at_a_restart(proxies, mount, servers, folder, measure)
            for of_one, result in zip(cells, restarted, strict=True):
                of_one["restart", mount == WRAPPED] = result
    print_table(MINUTE, cells, print_line)
    for configuration, of_one in zip(CONFIGURATIONS, cells, strict=True):
        assert wrong_in(of_one) == red_in(MINUTE, configuration), configuration
        is_late = of_one["disconnect, heartbeat=15", True].seconds > AT_ONCE
        assert is_late == (not configuration.disconnects and "disconnect" not in configuration.red), configuration


def start_all(upstream: Server, folder: Path, trust: ssl.SSLContext, ending: ExitStack) -> list[Server]:
    pool = ending.enter_context(ThreadPoolExecutor(STARTED_TOGETHER))

    def started(configuration: Configuration) -> Server:
        proxy = start_proxy(configuration, upstream, folder, trust, idle=configuration.program.own_idle)
        ending.callback(pool.submit, proxy.end)
        return proxy

    return list(pool.map(started, CONFIGURATIONS))


def while_silent(proxies: list[Server], upstream: Server) -> list[Cells]:
    def measured(proxy: Server, act: Callable[[Route, float], Cell], mount: str, seconds: float) -> Cell:
        return cell(lambda route: act(route, seconds), Route(proxy, upstream, mount))

    with ThreadPoolExecutor(len(proxies) * len(WHILE_SILENT)) as pool:
        running = [{key: pool.submit(measured, proxy, *how) for key, how in WHILE_SILENT.items()} for proxy in proxies]
        return [{key: job.result() for key, job in jobs.items()} for jobs in running]


def at_a_restart(proxies: list[Server], mount: str, servers: list[Server], folder: Path, measure: Measure) -> list[Cell]:
    """Restart the last of the servers; wrapped, again if a client died of which it is not said: a machine may be busy."""

    def start_it_again() -> None:
        began_at = time.monotonic()
        servers[-1].process.terminate()
        servers[-1].process.wait(60)
        measure(f"gunicorn stops, {'wrapped' if mount == WRAPPED else 'bare'}", time.monotonic() - began_at)
        servers.append(start_again(servers[0], APPLICATION, folder))

    for _ in range(TRIES):
        cells = restart([Route(proxy, servers[-1], mount) for proxy in proxies], start_it_again)
        as_said = [each.is_right == ("restart" not in which.red) for each, which in zip(cells, CONFIGURATIONS, strict=True)]
        if all(as_said) or mount == BARE:
            break
    return cells


# -- one proxy after the other, with a short idle time


@pytest.mark.parametrize("configuration", CONFIGURATIONS, ids=str)
def test_each_fault_behind_a_proxy_has_a_reason(
    configuration: Configuration, folder: Path, trust: ssl.SSLContext, serve: Start, print_line: Callable[[str], None]
) -> None:
    require(configuration)
    upstream = serve(over_unix_socket(UPSTREAM) if configuration.unix_socket else UPSTREAM, APPLICATION)
    proxy = start_proxy(configuration, upstream, folder, trust)
    try:
        cells = cells_of(proxy, upstream, {*configuration.red, *configuration.varies})
    finally:
        proxy.end()
    print_table(THROUGH, [cells], print_line, [configuration])
    assert wrong_in(cells) - set(configuration.varies) == red_in(THROUGH, configuration)


def print_table(
    table: Table,
    cells: list[Cells],
    print_line: Callable[[str], None],
    configurations: list[Configuration] = CONFIGURATIONS,
) -> None:
    """Print the rows of these configurations, and write them if that was asked for."""
    for configuration, of_one in zip(configurations, cells, strict=True):
        row = row_of(configuration, [bare_and_wrapped(of_one, column) for column in table.columns])
        print_line(as_line(row))
        table.maybe_write(row)


def bare_and_wrapped(cells: Mapping[tuple[str, bool], Cell], column: str) -> str:
    return " → ".join(str(cells[column, is_wrapped]) for is_wrapped in (False, True) if (column, is_wrapped) in cells)


def wrong_in(cells: Cells) -> set[str]:
    return {column for (column, is_wrapped), each in cells.items() if is_wrapped and not each.is_right}


def red_in(table: Table, configuration: Configuration) -> set[str]:
    """Return the columns of a table that have a reason to be wrong."""
    return {column for column in table.columns if column.partition(",")[0] in configuration.red}


@pytest.mark.parametrize(("configuration", "holds"), [(apache.BROTLI, True), (apache.CONFIGURED, False)], ids=str)
def test_brotli_of_apache_holds_the_end_of_an_event_of_100_kb(
    configuration: Configuration, holds: bool, serve: Start, folder: Path, trust: ssl.SSLContext
) -> None:
    require(configuration)
    upstream = serve(UPSTREAM, APPLICATION)
    proxy = start_proxy(configuration, upstream, folder, trust)
    try:
        events = repeat(send_time(), large_document(100_000), pause(2), times=3)
        times = times_of(Route(proxy, upstream, WRAPPED).open(events), end=b"]\n\n")
    finally:
        proxy.end()
    assert len(times) == 3
    assert (max(came_at - sent_at for sent_at, came_at in times) > 1) is holds


BEGINS_WITH_A_KILOBYTE = repeat(send_time(), pause(0.5), times=3)
OF_CLIENTS = [BROWSER, ANNOUNCED, UNANNOUNCED]


@pytest.mark.parametrize(
    ("configuration", "mount", "holds"),
    [
        pytest.param(caddy.ENCODE, BARE, True, id="bare"),
        pytest.param(caddy.ENCODE, COMPRESSED, False, id="with compress"),
        pytest.param(caddy.CONFIGURED, WRAPPED, False, id="configured"),
    ],
)
def test_caddy_2_6_that_encodes_holds_a_stream_that_begins_with_512_bytes(
    configuration: Configuration, mount: str, holds: bool, serve: Start, folder: Path, trust: ssl.SSLContext
) -> None:
    """But not with ``compress=``, nor where its types are named: all of them, whatever the client asks for."""
    require(configuration)
    upstream = serve(UPSTREAM, APPLICATION)
    proxy = start_proxy(configuration, upstream, folder, trust)
    try:
        route = Route(proxy, upstream, mount)
        page = route.open("x" * 1000, type="text/html", headers=UNANNOUNCED)
        opened = [route.open(BEGINS_WITH_A_KILOBYTE, headers=headers) for headers in 4 * OF_CLIENTS]
        with ThreadPoolExecutor(len(opened)) as readers:
            delays = [max(came_at - sent_at for sent_at, came_at in times) for times in readers.map(times_of, opened)]
        assert page.read_to_end() == b"x" * 1000
    finally:
        proxy.end()
    assert {delay > 1 for delay in delays} == {holds}, delays
    assert page.header("Content-Encoding") == "gzip"


# -- what the documents say


@pytest.mark.parametrize("table", [THROUGH, MINUTE], ids=lambda table: table.name)
def test_a_cell_of_a_table_is_bold_only_if_it_has_a_reason(table: Table) -> None:
    document = (EXAMPLES.parents[1] / "docs" / "proxies.md").read_text(encoding="utf-8")
    rows = {", ".join(key_of(row)): row for row in table.rows_in(document)}
    assert set(rows) == {str(each) for each in CONFIGURATIONS}
    for configuration in CONFIGURATIONS:
        cells_of_row = dict(zip(table.columns, rows[str(configuration)][2:], strict=True))
        wrong = {column for column, each in cells_of_row.items() if each.rpartition(" → ")[2].startswith("**")}
        assert wrong - set(configuration.varies) == red_in(table, configuration), configuration


def test_each_file_in_examples_is_run_and_marks_its_line() -> None:
    run = {each.example for each in CONFIGURATIONS if each.example}
    assert run == {path.name for path in EXAMPLES.iterdir()}
    for file in run:
        assert re.search("<- .*this", (EXAMPLES / file).read_text(encoding="utf-8")), file
