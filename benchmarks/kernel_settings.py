"""What the kernel's settings do to event streams: the tables of docs/kernel-settings.md.

``python -m benchmarks.kernel_settings --markdown docs/kernel-settings.md`` measures each setting in a network of its own
(`unshare`), so that the machine's settings stay as they are. About two minutes.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import resource
import select
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from ssemiddleware import SSEMiddleware

from .reading import connect
from .serving import ROOT, gunicorn

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIEnvironment

EVENT_SIZE = 10_000  # bytes
PRODUCED, READ = 2_000_000, 200_000  # bytes a second
RECEIVE_BUFFER = 65536  # bytes, of the client
LOOKED_AT = (3.0, 6.0, 12.0)  # seconds after the start
CLIENTS = 1000
STREAMS = 50
WAITS = 2.0  # seconds for connections


def bare(environ: WSGIEnvironment, start_response: StartResponse) -> Iterator[bytes]:
    """Events with the time at which each was made; one that is due is made as soon as the one before has left."""
    if environ["PATH_INFO"] == "/bare/process":
        answer = b"%d" % os.getpid()
        start_response("200 OK", [("Content-Type", "text/plain"), ("Content-Length", str(len(answer)))])
        yield answer
        return
    start_response("200 OK", [("Content-Type", "text/event-stream")])
    began, size = time.monotonic(), 0
    while True:
        yield b"data: %.3f %s\n\n" % (time.monotonic(), b"." * EVENT_SIZE)
        size += EVENT_SIZE
        time.sleep(max(0.0, began + size / PRODUCED - time.monotonic()))


wrapped = SSEMiddleware(bare, memory=None, max_streams=1000)


# -- what is measured, each in a network of its own


def slow_reader(application: str) -> list[str]:
    """A client that reads a tenth of what is sent: how old is what it reads, and what does the kernel hold for it?"""
    with gunicorn("gthread", application=f"kernel_settings:{application}") as server:
        client = ask(server.port)
        began, size, line = time.monotonic(), 0, b""
        ages: list[float] = []
        for moment in LOOKED_AT:
            while time.monotonic() < began + moment:
                received = client.recv(10_000)
                size += len(received)
                line = line[-50_000:] + received
                time.sleep(max(0.0, began + size / READ - time.monotonic()))
            ages.append(time.monotonic() - float(re.findall(rb"data: ([0-9.]+) ", line)[-1]))
        return [*(f"{age:.1f} s" for age in ages), f"{queued(server.port) / 1000:,.0f} KB"]


def ask(port: int) -> socket.socket:
    client = connect(port, receive_buffer=RECEIVE_BUFFER)
    client.sendall(b"GET / HTTP/1.1\r\nHost: localhost\r\nAccept: text/event-stream\r\n\r\n")
    client.settimeout(30)
    return client


def queued(port: int) -> int:
    """Return the bytes that the kernel holds for the server's clients."""
    rows = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    return sum(int(row[4].split(":")[0], 16) for row in rows if int(row[1].split(":")[1], 16) == port and row[3] == "01")


def largest_buffer(_: str) -> list[str]:
    """What a program gets that asks for a send buffer of 16 MB."""
    with socket.socket() as asking:
        asking.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 16_000_000)
        return [f"{asking.getsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF) / 1_000_000:.1f} MB"]


def waiting(_: str) -> list[str]:
    """How many connections wait for a server that does not accept, with gunicorn's backlog of 2048."""
    with socket.create_server(("127.0.0.1", 0), backlog=2048) as listener:
        clients = [socket.socket() for _ in range(CLIENTS)]
        for client in clients:
            client.setblocking(False)
            client.connect_ex(listener.getsockname())
        time.sleep(WAITS)
        writable = select.select([], clients, [], 0)[1]
        for client in clients:
            client.close()
        return [f"{len(writable):,} of {CLIENTS:,}"]


def files(application: str) -> list[str]:
    """How many descriptors the worker has for each stream, and how many streams it opens with few."""
    with gunicorn("gthread", threads=2 * STREAMS, application=f"kernel_settings:{application}") as server:
        before = server.worker.num_fds()
        clients = [ask(server.port) for _ in range(STREAMS)]
        for client in clients:
            client.recv(1)
        each = (server.worker.num_fds() - before) / STREAMS
        resource.prlimit(server.worker.pid, resource.RLIMIT_NOFILE, (server.worker.num_fds() + STREAMS // 2,) * 2)
        more = [ask(server.port) for _ in range(STREAMS)]
        time.sleep(WAITS)
        answered = select.select(more, [], [], 0)[0]
        return [f"{each:.1f}", f"{len(answered)} of {STREAMS} with {STREAMS // 2} descriptors left"]


MEASURES: dict[str, Callable[[str], list[str]]] = {
    each.__name__: each for each in (slow_reader, largest_buffer, waiting, files)
}


class Case(NamedTuple):
    """A row: the setting and its value as sysctl has them, and the application."""

    settings: Mapping[str, str]
    application: str = "bare"


class Table(NamedTuple):
    """What is measured, and with which settings."""

    measure: str
    columns: tuple[str, ...]
    cases: tuple[Case, ...]


DEFAULT: dict[str, str] = {}
LOWAT, SMALL = {"net.ipv4.tcp_notsent_lowat": "16384"}, {"net.ipv4.tcp_wmem": "4096 16384 262144"}
LARGE = {"net.ipv4.tcp_wmem": "4096 16384 33554432"}  # more than net.core.wmem_max, which cannot be set in a network of its own
TABLES = [
    Table(
        "slow_reader",
        (*(f"age after {moment:.0f} s" for moment in LOOKED_AT), "the kernel holds"),
        (Case(DEFAULT), Case(LOWAT), Case(SMALL), Case(LARGE), Case(DEFAULT, "wrapped"), Case(SMALL, "wrapped")),
    ),
    Table("largest_buffer", ("a buffer of 16 MB becomes",), (Case(DEFAULT),)),
    Table("waiting", ("connections that wait",), (Case({"net.core.somaxconn": "128"}), Case({"net.core.somaxconn": "4096"}))),
    Table("files", ("descriptors a stream", "more streams"), (Case(DEFAULT), Case(DEFAULT, "wrapped"))),
]


def measured(table: Table, case: Case) -> list[str]:
    """Return a row, out of a process in a network of its own."""
    arguments = [sys.executable, "-m", "benchmarks.kernel_settings", "--case", json.dumps([table.measure, *case])]
    command = ["unshare", "--map-root-user", "--net", *arguments]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(done.stderr)
    values: list[str] = json.loads(done.stdout)
    return [label(table, case), *values]


def label(table: Table, case: Case) -> str:
    """Return what a row is of."""
    setting = ", ".join(f"`{name} = {value}`" for name, value in case.settings.items()) or "the default"
    return f"{setting}, {case.application}" if any(each.application == "wrapped" for each in table.cases) else setting


def run_case(measure: str, settings: Mapping[str, str], application: str) -> None:
    """Measure here, with the settings, and print it as JSON."""
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
    for name, value in settings.items():
        Path("/proc/sys", *name.split(".")).write_text(value)
    print(json.dumps(MEASURES[measure](application)))


def markdown(head: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    lines = [list(head), *(list(row) for row in rows)]
    lines.insert(1, ["---"] * len(lines[0]))
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def main() -> None:
    """Measure all, print it, and write it into the document if that was asked for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--markdown", type=Path, help="the document whose tables are written")
    parser.add_argument("--case", type=json.loads, help=argparse.SUPPRESS)
    options: Any = parser.parse_args()
    if options.case:
        run_case(*options.case)
        return
    for table in TABLES:
        text = markdown(("setting", *table.columns), [measured(table, case) for case in table.cases])
        print(text, end="\n\n", flush=True)
        if options.markdown:
            between = re.compile(f"(?<=<!-- {table.measure}: begin -->\n\n).*?(?=\n\n<!-- {table.measure}: end -->)", re.DOTALL)
            document = options.markdown.read_text(encoding="utf-8")
            options.markdown.write_text(between.sub(lambda _, text=text: text, document), encoding="utf-8")  # type: ignore[misc]


if __name__ == "__main__":
    main()
