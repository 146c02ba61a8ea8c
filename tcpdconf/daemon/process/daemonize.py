"""Puts a daemon into the background; who started it waits for how that went.

Imports nothing slow: it forks before there is much to copy.
"""

import contextlib
import os
import sys
from collections.abc import Callable
from typing import NoReturn

from tcpdconf.daemon.process import procfs

Report = Callable[[int], None]
"""Tells an exit status to who waits for one; only the first counts."""


def start(daemon: Callable[[Report], int]) -> int:
    """Run `daemon` in the background; what it reports, or else returns, is the exit status here.

    It has a session of its own without a terminal, and no descriptor but 0, 1 and 2 (what the daemon's
    starter had open is not the programs' business). Folder, umask and environment stay.

    Raises:
        OSError: no process is to be had.
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
    """Close all descriptors but 0, 1 and 2."""
    for fd in procfs.descriptors():
        if fd > 2:
            with contextlib.suppress(OSError):  # the listing's own
                os.close(fd)


def silence(*descriptors: int) -> None:
    """Make /dev/null of these descriptors."""
    null = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
    for fd in descriptors:
        os.dup2(null, fd)
    os.close(null)


def _detach(daemon: Callable[[Report], int], write: int) -> NoReturn:
    """Leave the terminal, and be no session's leader, so that opening one never makes it ours."""
    os.setsid()
    if os.fork():
        os._exit(0)

    def report(status: int) -> None:
        with contextlib.suppress(OSError):  # nobody waits any more, or it was told before
            os.write(write, bytes([status]))

    status = 1
    try:
        status = daemon(report)
        report(status)
    except BaseException:  # noqa: BLE001 (nothing may return into the code of who started it)
        sys.excepthook(*sys.exc_info())
    finally:
        sys.stderr.flush()
        os._exit(status)
