"""Keeps a child process of the supervisor running: restarts it when it exits, with a growing pause."""

import collections
import os
import time
from collections.abc import Callable
from typing import Final, NoReturn

from tcpdconf.daemon.process import log, loop, procfs, signals

_LONGEST: Final = 10.0  # seconds between two starts, at most
_FIRST: Final = 0.1
_STEADY: Final = 10.0  # seconds of running after which the pause is reset
_LATELY: Final = 300.0  # seconds within which a second exit means that it does not stay up


class CannotStartError(Exception):
    """Reports why the process cannot be started now."""


class Child:
    """Keeps one process running.

    `start` forks it and returns its pid; if it fails, it is called again later.
    """

    def __init__(self, events: loop.Loop, name: str, start: Callable[[], int]) -> None:
        self._loop = events
        self.name = name
        self._start = start
        self._pause = 0.0
        self._started = 0.0
        self._ends: collections.deque[float] = collections.deque(maxlen=2)  # latest exits or failed starts
        self.wanted = True
        self.failures = 0  # exits and failed starts
        self.pid: int | None = None

    @property
    def stays_up(self) -> bool:
        """True unless the process has exited or failed to start twice within the last five minutes."""
        return len(self._ends) < 2 or time.monotonic() - self._ends[0] > _LATELY

    @property
    def running(self) -> float:
        """The seconds since the latest start."""
        return time.monotonic() - self._started

    def start(self) -> None:
        """Start the process now, unless it is running or no longer wanted."""
        if not self.wanted or self.pid is not None:
            return
        self._started = time.monotonic()
        try:
            self.pid = self._start()
        except (OSError, CannotStartError) as error:
            reason = error.strerror if isinstance(error, OSError) else error
            log.error(f"cannot start {self.name}: {reason}", retry=f"{self._pause:g}s")
            self._again()
        except Exception:  # noqa: BLE001 (a defect must not be the end of a service)
            log.crash(f"cannot start {self.name}")
            self._again()

    def replace(self, pid: int) -> None:
        """Adopt a process that was started elsewhere in place of the one before."""
        self.pid = pid
        self._started = time.monotonic()
        self._pause = 0.0
        self._ends.clear()

    def finish(self) -> None:
        """Let the process exit without starting it again."""
        self.wanted = False

    def ended(self, status: int) -> None:
        """Record that the process has exited, and restart it if it is wanted."""
        pid, self.pid = self.pid, None
        if self.wanted:
            code = os.waitstatus_to_exitcode(status)
            how = f"signal {-code}" if code < 0 else f"status {code}"
            log.error(
                f"{self.name} ended with {how}", pid=pid, seconds=round(time.monotonic() - self._started, 1)
            )
            self._again()

    def _again(self) -> None:
        self.failures += 1
        self._ends.append(time.monotonic())
        if time.monotonic() - self._started >= _STEADY:
            self._pause = 0.0
        self._loop.after(self._pause, self.start)
        self._pause = min(_LONGEST, max(_FIRST, self._pause * 2))


def fork(run: Callable[[], int], keep: set[int]) -> int:
    """Fork a process that calls `run` and exits with its result.

    The descriptors in `keep`, 0, 1, 2 and inheritable ones stay open in it; all others are closed.

    Raises:
        OSError: no process can be created.
    """
    pid = os.fork()
    if pid == 0:
        _run(run, keep)
    return pid


def _run(run: Callable[[], int], keep: set[int]) -> NoReturn:
    status = 1
    try:
        signals.restore()
        log.forget_lost()
        null = os.open(os.devnull, os.O_RDWR)
        os.dup2(null, 0)
        _close_others(keep | {0, 1, 2})
        status = run()
    except BaseException:  # noqa: BLE001 (nothing may return into the supervisor's code)
        log.crash("a process of the daemon failed")
    finally:
        os._exit(status)


def _close_others(keep: set[int]) -> None:
    """Close the supervisor's descriptors; the objects that own them are never finalised here.

    Inheritable descriptors stay open: they are meant for programs.
    """
    for fd in procfs.descriptors():
        try:
            if fd not in keep and not os.get_inheritable(fd):
                os.close(fd)
        except OSError:
            continue  # the descriptor of the listing itself
