"""What clients and servers do with connections: half-closed ones, descriptors that are another's a moment later, HTTP/2."""

from __future__ import annotations

import contextlib
import json
import re
import socket
import ssl
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import trustme

from .applications import HEARTBEAT
from .client import PATIENCE
from .conftest import BARE, WITH_HEARTBEATS, Pool, Start
from .serving import ALL_SERVERS, EVENT_SOURCE, Kind, Server, gunicorn, new_key, play_target, uvicorn
from .steps import event, pause, repeat, wait_for_the_end

pytestmark = pytest.mark.live


# -- a client that has said all it has to say


TEN = repeat(pause(0.15), event("one of ten"), times=10)


@pytest.mark.parametrize("application", [BARE, WITH_HEARTBEATS], ids=["bare", "wrapped"])
@pytest.mark.parametrize("kind", [kind for kind in ALL_SERVERS if kind.name != "waitress"], ids=str)
def test_a_client_that_half_closes_gets_all_ten_events(kind: Kind, application: str, pool: Pool) -> None:
    server = pool.get(kind, application)
    with socket.create_connection(("127.0.0.1", server.port), timeout=PATIENCE) as client:
        client.sendall(f"GET {play_target(TEN)} HTTP/1.0\r\nAccept: text/event-stream\r\n\r\n".encode())
        client.shutdown(socket.SHUT_WR)
        received = b""
        while some := client.recv(65536):
            received += some
    assert received.count(b"data: one of ten\n\n") == 10, received


# -- a server that closes connections by itself


def stats_of(server: Server) -> Any:
    return json.loads(server.get("/stats").body)


def test_descriptors_that_are_closed_and_used_again_between_two_looks_are_not_mistaken(serve: Start) -> None:
    """uvicorn closes at once when a client has left, and the next client gets the same descriptor."""
    server = serve(uvicorn(), "live.asgi:bridged")
    for _ in range(3):
        left, stay = [new_key() for _ in range(3)], [new_key() for _ in range(3)]
        streams = [server.open(event("hello"), wait_for_the_end(), headers=EVENT_SOURCE, key=key) for key in left]
        for stream in streams:
            stream.read_until(b"hello")
        for stream in streams:
            stream.disconnect()
        others = [server.open(event("hello"), wait_for_the_end(), headers=EVENT_SOURCE, key=key) for key in stay]
        for other in others:
            other.read_until(b"hello")
        for key in left:
            assert server.life_once(key, lambda life: life.closed).reason == "client gone"
        time.sleep(1)
        for key in stay:
            assert server.life(key).reason is None
        server.disconnect_all()
        for key in stay:
            server.life_once(key, lambda life: life.closed)
    deadline = time.monotonic() + PATIENCE
    while stats_of(server)["open_announced"]:
        assert time.monotonic() < deadline
        time.sleep(0.05)


# -- HTTP/2


def test_over_http2_nothing_is_written_by_another_thread_and_nothing_hangs(folder: Path, serve: Start) -> None:
    """With a window of a few bytes, gunicorn's HTTP/2 response waits for the client: no writer there."""
    h2 = pytest.importorskip("h2.connection")
    with http2_client(folder, serve) as (server, client):
        body = read_over_http2(client, h2, play_target(pause(3 * HEARTBEAT), event("one"), pause(HEARTBEAT), event("two")))
        assert re.fullmatch(rb"(:\n)?data: one\n\ndata: two\n\n", body)
        assert server.get("/ping").body == b"pong"


@contextlib.contextmanager
def http2_client(folder: Path, serve: Start) -> Iterator[tuple[Server, ssl.SSLSocket]]:
    """A server that speaks HTTP/2, and a client that has chosen it; all other connections are HTTP/1.1."""
    authority, trust = trustme.CA(), ssl.create_default_context()
    authority.configure_trust(trust)
    path = folder / "certificate-http2.pem"
    authority.issue_cert("localhost").private_key_and_cert_chain_pem.write_to_path(path)
    options = ("--threads=4", f"--certfile={path}", f"--keyfile={path}", "--http-protocols=h2,h1")
    server = serve(gunicorn("gthread", *options, name="gunicorn gthread with HTTP 2"), WITH_HEARTBEATS, trust=trust)
    trust.set_alpn_protocols(["h2"])
    with trust.wrap_socket(socket.create_connection(("127.0.0.1", server.port)), server_hostname="localhost") as client:
        client.settimeout(PATIENCE)
        if client.selected_alpn_protocol() != "h2":
            pytest.skip("this gunicorn speaks no HTTP/2")
        trust.set_alpn_protocols(["http/1.1"])
        yield server, client


def test_over_http2_a_stream_ends_after_a_few_seconds_since_it_delays_all_others(folder: Path, serve: Start) -> None:
    h2 = pytest.importorskip("h2.connection")
    with http2_client(folder, serve) as (server, client):
        began = time.monotonic()
        body = read_over_http2(client, h2, play_target(repeat(event("tick"), pause(0.5))), window=65535)
        assert 8 < time.monotonic() - began < PATIENCE
        assert re.fullmatch(rb"(:\n)?(data: tick\n\n)+retry: [0-9]+\n\n", body), body[-200:]
        assert "one after another" in server.output()


def read_over_http2(client: ssl.SSLSocket, h2: Any, target: str, window: int = 3) -> bytes:
    """Return what an EventSource gets that lets so many bytes through at a time."""
    import h2.config
    import h2.events
    import h2.exceptions
    import h2.settings

    connection = h2.connection.H2Connection(h2.config.H2Configuration(client_side=True))
    connection.initiate_connection()
    connection.update_settings({h2.settings.SettingCodes.INITIAL_WINDOW_SIZE: window})
    pseudo = [(":method", "GET"), (":path", target), (":scheme", "https"), (":authority", "localhost")]
    connection.send_headers(1, [*pseudo, *((name.lower(), value) for name, value in EVENT_SOURCE)], end_stream=True)
    body, has_ended = b"", False
    while not has_ended:
        client.sendall(connection.data_to_send())
        for each in connection.receive_data(client.recv(65536)):
            if isinstance(each, h2.events.DataReceived):
                body += each.data
                time.sleep(0.01)
                with contextlib.suppress(h2.exceptions.StreamClosedError):
                    connection.increment_flow_control_window(max(1, each.flow_controlled_length), 1)
            has_ended = has_ended or isinstance(each, (h2.events.StreamEnded, h2.events.StreamReset))
    return body
