"""Reads the file resolv.conf and detects changes, which laptops and VPNs make while a worker runs.

`resolvconf` parses the text.
"""

import os
from typing import Final

from tcpdconf.config import file_signature
from tcpdconf.config.file_signature import Signature

PATH: Final = "/etc/resolv.conf"
_LONGEST: Final = 65536  # characters; the rest is not read


class File:
    """Reads one file and tells whether it has changed since. A missing file counts as empty."""

    def __init__(self, path: str = PATH) -> None:
        self._path = path
        self._mark: Signature = ()

    def read(self) -> str:
        """Return the text of the file now."""
        self._mark = self._signature()  # before the file is read, so that a write meanwhile is noticed
        try:
            with open(self._path, encoding="utf-8", errors="replace", opener=_open) as file:
                return file.read(_LONGEST)
        except OSError:
            return ""

    @property
    def changed(self) -> bool:
        """True if the file was written or replaced since it was read.

        A missing file does not count as changed: somebody is replacing it.
        """
        mark = self._signature()
        return bool(mark) and mark != self._mark

    def _signature(self) -> Signature:
        try:
            return file_signature.signature(os.stat(self._path))
        except OSError:
            return ()


def _open(path: str, flags: int) -> int:
    """Open a file without blocking, whatever its type."""
    return os.open(path, flags | os.O_NONBLOCK | os.O_NOCTTY)
