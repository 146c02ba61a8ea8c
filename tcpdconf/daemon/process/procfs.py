"""Reads from /proc which process has a pid, and which descriptors this process has open.

A pid is reused after its process has exited.
"""

import contextlib
import os
import signal
from collections.abc import Collection
from typing import Final, NamedTuple

_TICKS: Final = os.sysconf("SC_CLK_TCK")
_NOTED: Final = 1.0  # seconds between a program's start and its record, at most, generously


class Process(NamedTuple):
    """Identifies a process (proc_pid_stat(5)).

    `start` is in clock ticks since boot. `ended` is True for a zombie.
    """

    pid: int
    ended: bool
    parent: int
    group: int
    start: int

    def fits(self, noted: float) -> bool:
        """Return whether it may be a program whose start was recorded at `noted` (seconds since boot)."""
        return 0 <= noted - self.start / _TICKS < _NOTED


def descriptors() -> list[int]:
    """Return the open descriptors of this process; the one that the listing used is closed again."""
    return [int(name) for name in os.listdir("/proc/self/fd")]


def look(pid: int) -> Process | None:
    """Return the process that has this pid now, or None if there is none or it is hidden from this user."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            fields = file.read().rpartition(b") ")[2].split()
    except OSError:
        return None
    return Process(pid, fields[0] in b"ZX", int(fields[1]), int(fields[2]), int(fields[19]))


class Lineage(NamedTuple):
    """Names the processes that can be parents of a service's programs: earlier workers and the supervisor.

    `workers` are pids of workers that are alive, or whose process group is not empty, which keeps the pid
    from being reused.
    """

    supervisor: int
    workers: Collection[int]

    def counts(self, found: Process) -> bool:
        """Return whether such a worker may have started it; the program may have left its group since."""
        return self.proves(found) or (found.parent == self.supervisor and found.group == found.pid)

    def proves(self, found: Process) -> bool:
        """Return whether such a worker has certainly started it, so that it may be signalled."""
        return found.parent in self.workers or (
            found.parent == self.supervisor and found.group in self.workers
        )


def send(pid: int, start: int, number: signal.Signals) -> None:
    """Signal the process with this pid if it started at `start`; otherwise do nothing."""
    with contextlib.suppress(OSError):
        handle = os.pidfd_open(pid)
        try:
            found = look(pid)  # the handle refers to the process that had the pid before this look
            if found is not None and found.start == start:
                signal.pidfd_send_signal(handle, number)
        finally:
            os.close(handle)


def group_is_empty(group: int) -> bool:
    """Return whether a process group has no processes left."""
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return True
    except PermissionError:  # its processes have changed their users
        return False
    return False
