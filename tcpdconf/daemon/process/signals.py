"""Signals as a readable descriptor.

A handler that does something can interrupt anything; so these only queue, and the process reads the queue
when it is ready to. Installed before anything slow is imported, so that no early SIGHUP or SIGTERM is lost.
"""

import os
import signal
from collections.abc import Iterable
from typing import Final

SUPERVISOR: Final = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGCHLD)


class Signals:
    """Signals of these numbers that have arrived, in order."""

    def __init__(self, numbers: Iterable[int]) -> None:
        self._read, self._write = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        signal.set_wakeup_fd(self._write, warn_on_full_buffer=False)
        for number in numbers:
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
    """Undo what the supervisor's `Signals` did, in a process forked from it."""
    signal.set_wakeup_fd(-1)
    for number in SUPERVISOR:
        signal.signal(number, signal.SIG_DFL)


def name(number: int) -> str:
    """A signal's name (SIGTERM), or its number where it has none."""
    try:
        return signal.Signals(number).name
    except ValueError:
        return str(number)


def ending(status: int) -> dict[str, object]:
    """How a process has ended, for the log: its exit `status`, or the `signal` that has ended it."""
    code = os.waitstatus_to_exitcode(status)
    return {"status": code} if code >= 0 else {"signal": name(-code)}
