"""Reads the credentials of the process at the other end of a Unix socket."""

import socket
import struct
from typing import Final, NamedTuple

_FORM: Final = struct.Struct("3i")


class Credentials(NamedTuple):
    """Identifies the process at the other end of a socket (unix(7), SO_PEERCRED)."""

    pid: int
    uid: int
    gid: int


def of(end: socket.socket) -> Credentials:
    """Return the credentials of the peer: of the client to a server, of the listener to a client.

    Raises:
        OSError: the socket is not connected.
    """
    return Credentials(*_FORM.unpack(end.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _FORM.size)))
