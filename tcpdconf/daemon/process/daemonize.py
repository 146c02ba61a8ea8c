"""Runs a daemon in the background while its starter waits for the result of the start.

Imports nothing slow, so that the fork copies little.
"""

import contextlib
import os
import sys
from collections.abc import Callable
from typing import NoReturn

from tcpdconf.daemon.process import procfs

Report = Callable[[int], None]
"""Reports an exit status to the waiting starter; only the first report counts."""


def start(daemon: Callable[[Report], int]) -> int:
    """Run `daemon` in the background; return the exit status that it reports or, failing that, returns.

    The daemon has its own session without a terminal, and no descriptors but 0, 1 and 2: programs must not
    inherit what its starter had open. Working directory, umask and environment are kept.

    Raises:
        OSError: no process can be created.
    """
    close_inherited()
    read, write = os.pipe2(os.O_CLOEXEC)
    child = os.fork()
    if child == 0:
        os.close(read)
        _detach(daemon, write)
    os.close(write)
    os.waitpid(child, 0)
    with os.fdopen(read, "rb") as pipe:
        return int.from_bytes(pipe.read(1) or b"\1")


def close_inherited() -> None:
    """Close all descriptors except 0, 1 and 2."""
    for fd in procfs.descriptors():
        if fd > 2:
            with contextlib.suppress(OSError):  # the descriptor of the listing itself
                os.close(fd)


def silence(*descriptors: int) -> None:
    """Replace these descriptors by /dev/null."""
    null = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
    for fd in descriptors:
        os.dup2(null, fd)
    os.close(null)


def _detach(daemon: Callable[[Report], int], write: int) -> NoReturn:
    """Leave the terminal without leading the session, so that opening a terminal never adopts one."""
    os.setsid()
    if os.fork():
        os._exit(0)

    def report(status: int) -> None:
        with contextlib.suppress(OSError):  # the starter no longer waits, or has a status already
            os.write(write, bytes([status]))

    status = 1
    try:
        status = daemon(report)
        report(status)
    except BaseException:  # noqa: BLE001 (nothing may return into the starter's code)
        sys.excepthook(*sys.exc_info())
    finally:
        sys.stderr.flush()
        os._exit(status)
