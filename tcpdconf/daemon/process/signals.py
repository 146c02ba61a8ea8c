"""Queues signals on a readable descriptor.

A handler may interrupt any code. So these handlers only queue the signal, and the process reads the queue
when it is ready. Install them before slow imports, so that no early SIGHUP or SIGTERM is lost.
"""

import os
import signal
from collections.abc import Iterable
from typing import Final

SUPERVISOR: Final = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGCHLD)


class Signals:
    """Queues the signals of these numbers in the order of arrival."""

    def __init__(self, numbers: Iterable[int]) -> None:
        self._read, self._write = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        signal.set_wakeup_fd(self._write, warn_on_full_buffer=False)
        for number in numbers:
            signal.signal(number, _queued)

    def fileno(self) -> int:
        """Return the descriptor, which is readable when signals are queued."""
        return self._read

    def take(self) -> bytes:
        """Return the queued signals, one number in each byte; empty if there are none."""
        try:
            return os.read(self._read, 4096)
        except BlockingIOError:
            return b""


def _queued(_number: int, _frame: object) -> None:
    """Do nothing: the interpreter has written the number to the wake-up descriptor."""


def restore() -> None:
    """Undo the effects of the supervisor's `Signals` in a process forked from it."""
    signal.set_wakeup_fd(-1)
    for number in SUPERVISOR:
        signal.signal(number, signal.SIG_DFL)


def dispositions() -> tuple[int, int]:
    """Return the masks of the signals that this process ignores and of those that it catches.

    Bit 0 stands for signal 1 (proc(5), status: SigIgn, SigCgt).
    """
    with open("/proc/self/status", "rb") as file:
        found = dict(line.split(b":", 1) for line in file)
    return int(found[b"SigIgn"], 16), int(found[b"SigCgt"], 16)


def mask(numbers: Iterable[int]) -> int:
    """Return signals as a mask, in which bit 0 stands for signal 1."""
    return sum(1 << number - 1 for number in set(numbers))


def name(number: int) -> str:
    """Return the name of a signal (SIGTERM), or its number if it has no name."""
    try:
        return signal.Signals(number).name
    except ValueError:
        return str(number)


def ending(status: int) -> dict[str, object]:
    """Return log fields for a wait status: the exit `status`, or the `signal` that ended the process."""
    code = os.waitstatus_to_exitcode(status)
    return {"status": code} if code >= 0 else {"signal": name(-code)}
