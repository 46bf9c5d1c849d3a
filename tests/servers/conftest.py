"""A connection for the tests of servers' files."""

from __future__ import annotations

import socket
from collections.abc import Iterator

import pytest

from ..applications import DEADLINE

Pair = tuple[socket.socket, socket.socket]


@pytest.fixture
def pair() -> Iterator[Pair]:
    """A connection: the server's side and the client's."""
    server, client = socket.socketpair()
    client.settimeout(DEADLINE)
    with server, client:
        yield server, client


class TlsSocket(socket.socket):
    """A socket that looks like a TLS socket."""

    def cipher(self) -> None:
        pass
