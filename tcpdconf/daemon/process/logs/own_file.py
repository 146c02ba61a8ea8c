"""Opens the file of the daemon's standard error again after it has been rotated."""

import os
import stat
from typing import Final

from tcpdconf.daemon.process import descriptors, log

_STDERR: Final = 2


class OwnFile:
    """Holds the path of standard error if it is a regular file when this object is made."""

    def __init__(self) -> None:
        self._path = _path()

    def reopened(self) -> int | None:
        """Return a descriptor of the file that is at the path now, or None if it is still the same.

        A missing file is created. If the file cannot be opened, this is logged to the previous one.
        """
        if self._path is None or _is_stderr(self._path):
            return None
        try:
            return descriptors.log(self._path)
        except OSError as error:
            log.warning(f"cannot reopen the log: {self._path}: {error.strerror}")
            return None


def _path() -> str | None:
    """Return the absolute path of standard error, if it is a regular file that a path leads to."""
    try:
        path = os.readlink(f"/proc/self/fd/{_STDERR}")
        regular = stat.S_ISREG(os.fstat(_STDERR).st_mode)
    except OSError:
        return None
    return path if regular and _is_stderr(path) else None


def _is_stderr(path: str) -> bool:
    try:
        return os.path.samestat(os.stat(path), os.fstat(_STDERR))
    except OSError:
        return False
