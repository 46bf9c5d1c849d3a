"""A client that vanishes as a phone does without a network: no FIN, no RST, and nothing is acknowledged any more."""

from __future__ import annotations

import ctypes
import socket
import struct

_SO_ATTACH_FILTER = 26
_DROP_EVERYTHING = struct.pack("=HBBI", 0x06, 0, 0, 0)  # BPF_RET | BPF_K: of each packet keep nothing


def vanish(connection: socket.socket) -> None:
    """Have the kernel drop whatever comes, before TCP sees it. Needs Linux, and not root. To close it would send a FIN."""
    program = ctypes.create_string_buffer(_DROP_EVERYTHING, len(_DROP_EVERYTHING))
    connection.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, struct.pack("HL", 1, ctypes.addressof(program)))
