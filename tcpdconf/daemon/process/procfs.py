"""Reads from /proc which process has a pid, and which descriptors this process has open.

A pid is reused after its process has exited.
"""

import contextlib
import functools
import os
import signal
import time
from collections.abc import Collection
from typing import Final, NamedTuple

_TICKS: Final = os.sysconf("SC_CLK_TCK")
_PAGE: Final = os.sysconf("SC_PAGE_SIZE")
_NOTED: Final = 1.0  # most seconds between a program's start and its record


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


class Usage(NamedTuple):
    """Holds what a process uses: processor time in seconds, resident bytes, descriptors.

    `started` is the Unix time at which it was started.
    """

    cpu: float
    resident: int
    descriptors: int
    started: float


def usage() -> Usage:
    """Return what this process uses."""
    with open("/proc/self/stat", "rb") as file:
        fields = file.read().rpartition(b") ")[2].split()
    started = _booted() + int(fields[19]) / _TICKS
    return Usage(time.process_time(), int(fields[21]) * _PAGE, len(descriptors()) - 1, started)


@functools.cache
def _booted() -> int:
    """Return the Unix time at which the host was booted (proc(5), stat: btime)."""
    with open("/proc/stat", "rb") as file:
        return next(int(line.split()[1]) for line in file if line.startswith(b"btime "))


class Lineage(NamedTuple):
    """Names the processes that can be parents of a service's programs: earlier workers and the supervisor.

    `workers` are pids of workers that are alive, or whose process group is not empty, which keeps the pid
    from being reused.
    """

    supervisor: int
    workers: Collection[int]

    def counts(self, found: Process) -> bool:
        """Return whether one of these may have started the process, which may have left its group since."""
        return self.proves(found) or (found.parent == self.supervisor and found.group == found.pid)

    def proves(self, found: Process) -> bool:
        """Return whether one of these has certainly started the process, so that it may be signalled."""
        return found.parent in self.workers or (
            found.parent == self.supervisor and found.group in self.workers
        )


def send(pid: int, start: int, number: signal.Signals) -> bool:
    """Signal the process with this pid if it started at `start`; return whether the signal was sent."""
    with contextlib.suppress(OSError):
        handle = os.pidfd_open(pid)
        try:
            found = look(pid)  # the handle refers to the process that had the pid before this look
            if found is not None and found.start == start:
                signal.pidfd_send_signal(handle, number)
                return True
        finally:
            os.close(handle)
    return False


def group_is_empty(group: int) -> bool:
    """Return whether a process group has no processes left."""
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return True
    except PermissionError:  # its processes have changed their users
        return False
    return False
