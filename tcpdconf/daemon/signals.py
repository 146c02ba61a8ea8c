"""Signals as a readable descriptor.

A handler that does something can interrupt anything; so these only queue, and the process reads the queue
when it is ready to. Installed before anything slow is imported, so that no early SIGHUP or SIGTERM is lost.
"""

import os
import signal
from typing import Final

_HANDLED: Final = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGCHLD)


class Signals:
    """The signals that the supervisor acts on and that have arrived, in order."""

    def __init__(self) -> None:
        self._read, self._write = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        signal.set_wakeup_fd(self._write, warn_on_full_buffer=False)
        for number in _HANDLED:
            signal.signal(number, _queued)

    def fileno(self) -> int:
        """Readable when signals are waiting."""
        return self._read

    def take(self) -> bytes:
        """The signals that wait, one number a byte; none when there are none."""
        try:
            return os.read(self._read, 4096)
        except BlockingIOError:
            return b""


def _queued(_number: int, _frame: object) -> None:
    """Nothing: the interpreter has written the number to the wake-up descriptor."""


def restore() -> None:
    """Default dispositions and no wake-up descriptor: for a process forked from one that has `Signals`."""
    signal.set_wakeup_fd(-1)
    for number in signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP}:
        signal.signal(number, signal.SIG_DFL)
    # A write to a client or a logger that is gone is an error to handle, not a reason to die.
    signal.signal(signal.SIGPIPE, signal.SIG_IGN)
