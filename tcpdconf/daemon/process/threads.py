"""Threads that take little room, for the processes that have any: they never fork."""

import contextlib
import ctypes
import threading
from collections.abc import Callable
from typing import Final

_M_ARENA_MAX: Final = -8  # mallopt(3)
_STACK: Final = 256 * 1024  # bytes; what threads do here is not deep


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
