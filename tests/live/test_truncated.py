"""An application that raises in mid-answer: where the server can show it, no client takes what it has for the whole."""

from __future__ import annotations

import re
import socket

import pytest

from .client import PATIENCE, Headers
from .conftest import Pool
from .every_server import ROUTER, each_server
from .serving import EVENT_SOURCE, UNANNOUNCED, Kind, play_target
from .steps import event, fail, pause

pytestmark = pytest.mark.live

# docs/servers.md says so. Some show it now and then: a FIN may leave before the RST.
CANNOT_SHOW_IT = {"1.1": {ROUTER.name, "Django runserver"}}
CANNOT_SHOW_IT["1.0"] = CANNOT_SHOW_IT["1.1"] | {"waitress", "cheroot", "granian", "hypercorn"}


@each_server()
@pytest.mark.parametrize("headers", [EVENT_SOURCE, UNANNOUNCED], ids=["EventSource", "unannounced"])
@pytest.mark.parametrize("version", ["1.1", "1.0"])
def test_a_truncated_answer_looks_truncated(kind: Kind, application: str, headers: Headers, version: str, pool: Pool) -> None:
    server = pool.get(kind, application)
    with socket.create_connection(("127.0.0.1", server.port), timeout=PATIENCE) as client:
        target = play_target(event("hello"), pause(0.3), fail("in mid-answer"))
        lines = [f"GET {target} HTTP/{version}", "Host: localhost", *(f"{name}: {value}" for name, value in headers)]
        client.sendall("\r\n".join([*lines, "", ""]).encode())
        received, is_reset = b"", False
        try:
            while (some := client.recv(65536)) and not received.endswith(b"\r\n0\r\n\r\n"):
                received += some
        except ConnectionResetError:
            is_reset = True
    is_chunked = re.search(rb"transfer-encoding: chunked\r\n", received, re.IGNORECASE) is not None
    assert b"data: hello\n\n" in received
    looks_truncated = is_reset or (is_chunked and not received.endswith(b"\r\n0\r\n\r\n"))
    assert looks_truncated or kind.name in CANNOT_SHOW_IT[version], received[-100:]
