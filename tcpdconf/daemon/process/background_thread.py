"""Runs slow work in a thread while the loop keeps serving.

Only processes that never fork have threads: a worker, which starts programs with posix_spawn, and the
watcher. Their threads take little room.
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

_TURN: Final = 0.0005  # seconds after which a thread lets the other one go on
_M_ARENA_MAX: Final = -8  # mallopt(3)
_STACK: Final = 256 * 1024  # bytes; what threads do here is not deep


def run(events: loop.Loop, work: Callable[[], None], done: Callable[[], None]) -> None:
    """Call `work` in a thread, and `done` from the loop when that has returned or failed.

    Raises:
        OSError, RuntimeError: no descriptor or no thread is to be had.
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
    """Let the threads that are started from now on be small.

    An arena of 64 MiB for each, and a stack of 8, do not fit where a start script limits memory.
    """
    with contextlib.suppress(AttributeError):  # a C library without it has no arenas for threads
        ctypes.CDLL(None).mallopt(_M_ARENA_MAX, 1)
    threading.stack_size(_STACK)


def start(work: Callable[[], None]) -> threading.Thread:
    """Run this in a thread; the process does not wait for its end.

    Raises:
        RuntimeError: no thread is to be had: threads count as processes (RLIMIT_NPROC).
    """
    lean()
    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    return thread


class _Ready:
    """An event with a descriptor (eventfd(2))."""

    def __init__(self) -> None:
        self._fd = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)

    def fileno(self) -> int:
        """Readable once it is set."""
        return self._fd

    def set(self) -> None:
        """Wake who watches it."""
        os.eventfd_write(self._fd, 1)

    def close(self) -> None:
        """Close it."""
        os.close(self._fd)


def _work(work: Callable[[], None], ready: _Ready) -> None:
    try:
        work()
    except BaseException:  # noqa: BLE001 (who waits must be told)
        log.crash("work beside the loop fails")
    finally:
        ready.set()


def _finish(events: loop.Loop, ready: _Ready, thread: threading.Thread, done: Callable[[], None]) -> None:
    thread.join()
    events.forget(ready)
    ready.close()
    done()
