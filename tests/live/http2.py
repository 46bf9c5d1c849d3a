"""One request over HTTP/2, read as if its response had come over HTTP/1.1, so that the tests' client need not know."""

from __future__ import annotations

import socket
import ssl

import h2.config
import h2.connection
import h2.events


def over_http2_if_chosen(encrypted: ssl.SSLSocket) -> socket.socket:
    """Return the socket, or one that speaks HTTP/2 over it where both ends have chosen that."""
    return Http2Socket(encrypted) if encrypted.selected_alpn_protocol() == "h2" else encrypted


class Http2Socket(socket.socket):
    """A connection for one request; each DATA frame is one of HTTP/1.1's chunks."""

    def __init__(self, encrypted: ssl.SSLSocket) -> None:
        self._encrypted = encrypted
        self._http2 = h2.connection.H2Connection(h2.config.H2Configuration(client_side=True))
        self._http2.initiate_connection()
        self._is_cut = False

    def sendall(self, data: object, flags: int = 0) -> None:
        """Send a request, whole as it is given."""
        assert isinstance(data, bytes)
        request, *lines = data.decode("latin-1").rstrip("\r\n").split("\r\n")
        method, target, _ = request.split(" ")
        pseudo = [(":method", method), (":path", target), (":scheme", "https"), (":authority", "localhost")]
        given = [(name.lower(), value.strip()) for name, _, value in (line.partition(":") for line in lines)]
        fields = [field for field in given if field[0] not in ("host", "connection")]
        self._http2.send_headers(1, [*pseudo, *fields], end_stream=True)
        self._encrypted.sendall(self._http2.data_to_send())

    def recv(self, size: int, flags: int = 0) -> bytes:
        """Return what has come of the response, as HTTP/1.1; nothing where it was cut."""
        while not self._is_cut and (received := self._encrypted.recv(size)):
            events = self._http2.receive_data(received)
            readable = b"".join(self._as_http1(event) for event in events)
            self._encrypted.sendall(self._http2.data_to_send())
            self._is_cut = any(isinstance(event, (h2.events.StreamReset, h2.events.ConnectionTerminated)) for event in events)
            if readable:
                return readable
        return b""

    def _as_http1(self, event: h2.events.Event) -> bytes:
        if isinstance(event, h2.events.ResponseReceived):
            (_, status), *fields = event.headers
            lines = [b"HTTP/1.1 %s" % status, *(b"%s: %s" % field for field in fields), b"Transfer-Encoding: chunked"]
            return b"\r\n".join([*lines, b"", b""])
        if isinstance(event, h2.events.DataReceived):
            self._http2.acknowledge_received_data(event.flow_controlled_length, 1)
            return b"%x\r\n%s\r\n" % (len(event.data), event.data) if event.data else b""
        return b"0\r\n\r\n" if isinstance(event, h2.events.StreamEnded) else b""

    def settimeout(self, value: float | None) -> None:
        self._encrypted.settimeout(value)

    def close(self) -> None:
        self._encrypted.close()
