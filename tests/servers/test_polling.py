"""Which sockets are writable, and which clients have disconnected; and what is left of it where a system has no `poll`."""

from __future__ import annotations

import re
import select
import socket
import subprocess
import sys

import pytest

from ssemiddleware.servers.polling import WRITABLE, Poll, PollBySelect, new_poll

from ..applications import DEADLINE


@pytest.mark.parametrize("poll", [new_poll(), PollBySelect()], ids=["the system's", "by select"])
def test_a_socket_is_writable_until_its_buffer_is_full(poll: Poll) -> None:
    one, other = socket.socketpair()
    with one, other:
        one.setblocking(False)
        poll.register(one.fileno(), WRITABLE)
        assert poll.poll(0) == [(one.fileno(), WRITABLE)]
        with pytest.raises(BlockingIOError):
            while True:
                one.send(bytes(65536))
        assert poll.poll(0) == []
        poll.modify(one.fileno(), 0)
        assert poll.poll(0) == []
        poll.unregister(one.fileno())
        assert poll.poll(0) == []


def test_the_system_s_own_poll_is_used_where_there_is_one() -> None:
    assert type(new_poll()) is type(select.poll())


AS_ON_WINDOWS = r"""
import os, select, signal, stat, sys

sys.modules["fcntl"] = None
for name in dir(select):
    if name.lower().startswith(("poll", "epoll")):
        delattr(select, name)
for name in ("setitimer", "SIGALRM", "SIGHUP", "SIGUSR1"):
    delattr(signal, name)
own = os.fstat

def fstat(descriptor):
    found = own(descriptor)
    if stat.S_ISSOCK(found.st_mode):
        raise OSError("a socket's number is no descriptor")
    return found

os.fstat = fstat
del os.fork

import http.client, threading, time
from werkzeug.serving import make_server
from ssemiddleware import SSEMiddleware

closed = threading.Event()

def application(environ, start_response):
    environ["ssemiddleware.stream"].on_close(closed.set)
    start_response("200 OK", [("Content-Type", "text/event-stream")])
    time.sleep(2.2)
    yield b"data: 1\n\n"
    if environ["PATH_INFO"] == "/endless":
        while True:
            yield b"data: again\n\n"
            time.sleep(0.05)

middleware = SSEMiddleware(application, heartbeat=1)
server = make_server("127.0.0.1", 0, middleware, threaded=True)
threading.Thread(target=server.serve_forever, daemon=True).start()
headers = {"Accept": "text/event-stream", "Cache-Control": "no-cache"}
for path in ("/", "/endless"):
    client = http.client.HTTPConnection("127.0.0.1", server.server_port)
    client.request("GET", path, headers=headers)
    response = client.getresponse()
    print(response.read() if path == "/" else response.readline())
    response.close()
    client.close()
    print(closed.wait(10))
    closed.clear()
"""


def test_without_fcntl_and_poll_streams_are_opened_and_go_on_until_a_block_finds_no_client() -> None:
    """As on Windows, as far as that can be played."""
    ran = subprocess.run([sys.executable, "-c", AS_ON_WINDOWS], capture_output=True, text=True, timeout=DEADLINE * 3)
    whole, finite, first, endless = ran.stdout.splitlines() or [ran.stderr] * 4
    assert re.fullmatch(r"b'retry: [0-9]+\\n(:\\n)+data: 1\\n\\n'", whole), ran.stdout + ran.stderr
    assert re.fullmatch(r"b'retry: [0-9]+\\n'", first)
    assert finite == endless == "True"
