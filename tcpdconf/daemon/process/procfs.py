"""Tells from /proc which process a number belongs to, and which descriptors this one has.

After the end of a process its number is given to another one.
"""

import contextlib
import os
import signal
from collections.abc import Collection
from typing import Final, NamedTuple

_TICKS: Final = os.sysconf("SC_CLK_TCK")
_NOTED: Final = 1.0  # seconds between a program's start and the note of it, generously


class Process(NamedTuple):
    """A process (proc_pid_stat(5)): `start` in clock ticks since boot; `ended`: a parent has yet to wait."""

    pid: int
    ended: bool
    parent: int
    group: int
    start: int

    def fits(self, noted: float) -> bool:
        """Whether it may be a program whose start was noted then (seconds since boot), right after it."""
        return 0 <= noted - self.start / _TICKS < _NOTED


def descriptors() -> list[int]:
    """Return the open descriptors of this process; one that the listing itself has used is closed again."""
    return [int(name) for name in os.listdir("/proc/self/fd")]


def look(pid: int) -> Process | None:
    """Read which process has this number now; None where there is none, or it is hidden from this user."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            fields = file.read().rpartition(b") ")[2].split()
    except OSError:
        return None
    return Process(pid, fields[0] in b"ZX", int(fields[1]), int(fields[2]), int(fields[19]))


class Lineage(NamedTuple):
    """The processes that can be parents of a service's programs: its earlier workers, and the supervisor.

    `workers` are pids: of those that live, or have processes left in their group, which keeps a number from
    being given to others.
    """

    supervisor: int
    workers: Collection[int]

    def counts(self, found: Process) -> bool:
        """Whether such a worker may have started it: a program may have left its worker's group since."""
        return self.proves(found) or (found.parent == self.supervisor and found.group == found.pid)

    def proves(self, found: Process) -> bool:
        """Whether such a worker has started it for certain: then it may be sent a signal."""
        return found.parent in self.workers or (
            found.parent == self.supervisor and found.group in self.workers
        )


def send(pid: int, start: int, number: signal.Signals) -> None:
    """Signal the process with this number if it is the one that started then; else nothing happens."""
    with contextlib.suppress(OSError):
        handle = os.pidfd_open(pid)
        try:
            found = look(pid)  # the handle is for the process that had the number before this look
            if found is not None and found.start == start:
                signal.pidfd_send_signal(handle, number)
        finally:
            os.close(handle)


def group_is_empty(group: int) -> bool:
    """Whether no process is left in a process group."""
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return True
    except PermissionError:  # they have become other users
        return False
    return False
