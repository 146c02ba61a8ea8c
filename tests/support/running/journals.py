"""A stand-in for journald: a socket that takes entries, which are parsed as the protocol says."""

import array
import contextlib
import fcntl
import os
import pathlib
import socket
from types import TracebackType
from typing import Final, Self

from support.running import daemons

_SEALED: Final = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE | fcntl.F_SEAL_SEAL


def fields(entry: bytes) -> dict[str, str]:
    """The fields of one entry; AssertionError if it is malformed or has one twice."""
    found: dict[str, str] = {}
    while entry:
        line, end, rest = entry.partition(b"\n")
        assert end, entry
        name, equals, value = line.partition(b"=")
        if not equals:
            length = int.from_bytes(rest[:8], "little")
            value, rest = rest[8 : 8 + length], rest[8 + length :]
            assert (len(value), rest[:1]) == (length, b"\n")
            rest = rest[1:]
        text = name.decode("ascii")
        assert text not in found
        assert text.replace("_", "A").isalnum()
        assert text.isupper()
        found[text] = value.decode()
        entry = rest
    return found


class Journal:
    """The socket at a path; entries wait in it until they are read."""

    def __init__(self, path: pathlib.Path) -> None:
        self.path = path

    def __enter__(self) -> Self:
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.bind(str(self.path))
        self.socket.settimeout(daemons.SECONDS)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.socket.close()
        self.path.unlink()

    def entry(self) -> dict[str, str]:
        """The next entry; one that comes as a file must be sealed."""
        size = array.array("i").itemsize
        data, received, _, _ = self.socket.recvmsg(1 << 20, socket.CMSG_LEN(size))
        if received:
            assert data == b""
            (fd,) = array.array("i", received[0][2])
            with open(fd, "rb") as file:
                assert fcntl.fcntl(file, fcntl.F_GET_SEALS) & _SEALED == _SEALED
                return fields(os.pread(fd, os.fstat(fd).st_size, 0))
        return fields(data)

    def waiting(self) -> list[dict[str, str]]:
        """The entries that wait."""
        found = []
        self.socket.setblocking(False)
        with contextlib.suppress(BlockingIOError):
            while True:
                found.append(self.entry())
        self.socket.settimeout(daemons.SECONDS)
        return found
