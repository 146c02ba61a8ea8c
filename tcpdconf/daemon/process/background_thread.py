"""Does what takes long beside the loop, in a thread, so that connections are served meanwhile.

Only a worker uses it: it starts programs with posix_spawn, which no thread disturbs; nothing forks there.
"""

import functools
import os
import sys
import threading
from collections.abc import Callable
from typing import Final

from tcpdconf.daemon.process import log, loop, threads

_TURN: Final = 0.0005  # seconds after which a thread lets the other one go on


def run(events: loop.Loop, work: Callable[[], None], done: Callable[[], None]) -> None:
    """Call `work` in a thread, and `done` from the loop when that has returned or failed.

    Raises:
        OSError, RuntimeError: no descriptor or no thread is to be had.
    """
    sys.setswitchinterval(_TURN)
    ready = _Ready()
    try:
        thread = threads.start(functools.partial(_work, work, ready))
    except RuntimeError:
        ready.close()
        raise
    events.watch(ready, functools.partial(_finish, events, ready, thread, done))


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
