"""Prevents a logger that does not read from blocking the programs that write to it.

A program that writes to a full pipe blocks, and its client waits. So the worker checks the pipe once a
second. If it is more than half full, and no emptier than before, the worker discards as much as half the pipe
holds. Then it checks more often.
"""

import fcntl
import os
import struct
import termios
from typing import Final

from tcpdconf.daemon.process import log, loop

_EVERY: Final = 1.0  # seconds between two checks
_OFTEN: Final = 0.02


class LogPipe:
    """Watches the reading end of one logger's pipe; the descriptor must not block."""

    def __init__(self, events: loop.Loop, service: str, fd: int) -> None:
        self._loop = events
        self._service = service
        self._fd = fd
        self._size = fcntl.fcntl(fd, fcntl.F_GETPIPE_SZ)
        self._before = 0
        self._lost = 0
        self._timer = 0
        self._check()

    def close(self) -> None:
        """Stop checking, and close the descriptor."""
        self._loop.cancel(self._timer)
        os.close(self._fd)

    def _check(self) -> None:
        (waiting,) = struct.unpack("i", fcntl.ioctl(self._fd, termios.FIONREAD, bytes(4)))
        stuck = waiting > self._size // 2 and waiting >= self._before
        if stuck:
            try:
                lost = len(os.read(self._fd, self._size // 2))
            except BlockingIOError:  # the logger has read it meanwhile
                lost = 0
            waiting -= lost
            self._lost += lost
        elif self._lost:
            log.warning(
                "the logger reads too slowly, output discarded", service=self._service, lost=f"{self._lost}B"
            )
            self._lost = 0
        self._before = waiting
        self._timer = self._loop.after(_OFTEN if stuck else _EVERY, self._check)
