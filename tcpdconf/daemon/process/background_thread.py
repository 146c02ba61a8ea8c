"""Runs slow work in a thread while the loop keeps serving.

Only processes that never fork have threads: a worker, which starts programs with posix_spawn, and the
watcher. Their threads use little memory.
"""

import contextlib
import ctypes
import functools
import os
import sys
import threading
from collections.abc import Callable
from typing import Final

from tcpdconf.daemon.process import log, loop

_TURN: Final = 0.0005  # seconds after which a thread yields to the other one
_M_ARENA_MAX: Final = -8  # mallopt(3)
_STACK: Final = 256 * 1024  # bytes; calls in these threads are not deep


def run(events: loop.Loop, work: Callable[[], None], done: Callable[[], None]) -> None:
    """Call `work` in a thread, and `done` from the loop when `work` has returned or failed.

    Raises:
        OSError, RuntimeError: no descriptor or no thread is available.
    """
    sys.setswitchinterval(_TURN)
    ready = _Ready()
    try:
        thread = start(functools.partial(_work, work, ready))
    except RuntimeError:
        ready.close()
        raise
    events.watch(ready, functools.partial(_finish, events, ready, thread, done))


def lean() -> None:
    """Make threads that are started from now on use little memory.

    By default each has an arena of 64 MiB and a stack of 8 MiB, too much where a start script limits memory.
    """
    with contextlib.suppress(AttributeError):  # a C library without mallopt has no arenas per thread
        ctypes.CDLL(None).mallopt(_M_ARENA_MAX, 1)
    threading.stack_size(_STACK)


def start(work: Callable[[], None]) -> threading.Thread:
    """Call `work` in a daemon thread, for whose end the process does not wait.

    Raises:
        RuntimeError: no thread is available; threads count as processes (RLIMIT_NPROC).
    """
    lean()
    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    return thread


class _Ready:
    """Implements an event with a descriptor (eventfd(2)), which a loop can watch."""

    def __init__(self) -> None:
        self._fd = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)

    def fileno(self) -> int:
        """Return the descriptor, which becomes readable once the event is set."""
        return self._fd

    def set(self) -> None:
        """Set the event, which wakes the loop that watches it."""
        os.eventfd_write(self._fd, 1)

    def close(self) -> None:
        """Close the descriptor."""
        os.close(self._fd)


def _work(work: Callable[[], None], ready: _Ready) -> None:
    try:
        work()
    except BaseException:  # noqa: BLE001 (the waiting loop must be told)
        log.crash("background work failed")
    finally:
        ready.set()


def _finish(events: loop.Loop, ready: _Ready, thread: threading.Thread, done: Callable[[], None]) -> None:
    thread.join()
    events.forget(ready)
    ready.close()
    done()
