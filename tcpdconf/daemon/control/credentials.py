"""Tells which process is at the other end of a Unix socket."""

import socket
import struct
from typing import Final, NamedTuple

_FORM: Final = struct.Struct("3i")


class Credentials(NamedTuple):
    """The process at the other end of a socket (unix(7), SO_PEERCRED)."""

    pid: int
    uid: int
    gid: int


def of(end: socket.socket) -> Credentials:
    """Return who connected, or for who connected: who listens.

    Raises:
        OSError: the socket is not connected.
    """
    return Credentials(*_FORM.unpack(end.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _FORM.size)))
