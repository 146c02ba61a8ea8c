"""Sends entries to journald's socket, without waiting for it.

The protocol is a datagram for each entry (https://systemd.io/JOURNAL_NATIVE_PROTOCOL). An entry that is too
large for a datagram is passed in a sealed memfd. journald learns the sender's pid, and from it the unit, from
the kernel.

The kernel lets a few hundred datagrams wait, and a busy worker sends them faster than journald reads them. So
some more entries are kept here, and are tried again later.
"""

import array
import collections
import errno
import fcntl
import os
import select
import socket
import time
from collections.abc import Iterable
from typing import Final

SOCKET: Final = "/run/systemd/journal/socket"
_ROOM: Final = 8 << 20  # bytes that may wait to be read; the kernel allows less by default
_MOST: Final = 1 << 20  # bytes of entries that are kept in this process
_TOO_LARGE: Final = frozenset({errno.EMSGSIZE, errno.ENOBUFS})
_SEALS: Final = fcntl.F_SEAL_SEAL | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE


class Journal:
    """Holds a connection to journald's socket, and the entries that journald has not taken yet.

    Raises:
        OSError: no process listens there, or this process may not use the socket.
    """

    def __init__(self, path: str = SOCKET) -> None:
        self._path = path
        self._socket = _connected(path)
        self._kept: collections.deque[bytes] = collections.deque()
        self._size = 0

    @property
    def keeps(self) -> bool:
        """True while there are entries to be tried again."""
        return bool(self._kept)

    def put(self, entries: Iterable[bytes]) -> int:
        """Send entries in their order, or keep them; return how many were lost."""
        lost = self.retry()
        for entry in entries:
            try:
                if (self._kept or not self._send(entry)) and not self._keep(entry):
                    lost += 1
            except OSError:
                lost += 1
        return lost

    def retry(self) -> int:
        """Send the entries that are kept, as many as journald takes; return how many were lost."""
        lost = 0
        while self._kept:
            try:
                if not self._send(self._kept[0]):
                    break
            except OSError:
                lost += 1
            self._size -= len(self._kept.popleft())
        return lost

    def close(self, seconds: float = 0) -> int:
        """Wait at most `seconds` for journald to take the kept entries; close, and return the number lost."""
        end = time.monotonic() + seconds
        poll = select.poll()
        poll.register(self._socket, select.POLLOUT)
        lost = self.retry()
        while self._kept and (left := end - time.monotonic()) > 0:
            poll.poll(left * 1000)
            lost += self.retry()
        lost += len(self._kept)
        self.discard()
        return lost

    def discard(self) -> None:
        """Close, and drop the kept entries."""
        self._kept.clear()
        self._socket.close()

    def _keep(self, entry: bytes) -> bool:
        if self._size + len(entry) > _MOST:
            return False
        self._kept.append(entry)
        self._size += len(entry)
        return True

    def _send(self, entry: bytes) -> bool:
        """Send an entry; return False if journald does not take it now.

        Raises:
            OSError: the entry is lost.
        """
        try:
            self._socket.send(entry)
        except BlockingIOError:
            return False
        except OSError as error:
            if error.errno in _TOO_LARGE:
                return self._send_file(entry)
            renewed = _connected(self._path)  # journald has another socket now
            self._socket.close()
            self._socket = renewed
            self._socket.send(entry)
        return True

    def _send_file(self, entry: bytes) -> bool:
        fd = os.memfd_create("log", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        try:
            with open(fd, "wb", buffering=0, closefd=False) as file:
                left = memoryview(entry)
                while left:
                    left = left[file.write(left) :]
            fcntl.fcntl(fd, fcntl.F_ADD_SEALS, _SEALS)
            self._socket.sendmsg([], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [fd]))])
        except BlockingIOError:
            return False
        finally:
            os.close(fd)
        return True


def _connected(path: str) -> socket.socket:
    made = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    try:
        made.setblocking(False)
        made.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _ROOM)
        made.connect(path)
    except OSError:
        made.close()
        raise
    return made
