"""The file resolv.conf, which changes while a worker runs: with every network of a laptop, or of a VPN.

What is in it is `resolvconf`'s business.
"""

import os
from typing import Final

from tcpdconf.config import file_signature
from tcpdconf.config.file_signature import Signature

PATH: Final = "/etc/resolv.conf"
_LONGEST: Final = 65536  # characters that are read


class File:
    """The file, and whether it is another one than was read. One that is missing is as good as empty."""

    def __init__(self, path: str = PATH) -> None:
        self._path = path
        self._mark: Signature = ()

    def read(self) -> str:
        """What it holds now."""
        self._mark = self._look()  # before it is read: what is written meanwhile is then noticed
        try:
            with open(self._path, encoding="utf-8", errors="replace", opener=_open) as file:
                return file.read(_LONGEST)
        except OSError:
            return ""

    @property
    def changed(self) -> bool:
        """Whether it was written or replaced since. Gone it has not changed: somebody is replacing it."""
        mark = self._look()
        return bool(mark) and mark != self._mark

    def _look(self) -> Signature:
        try:
            return file_signature.signature(os.stat(self._path))
        except OSError:
            return ()


def _open(path: str, flags: int) -> int:
    """Open without waiting, whatever is there."""
    return os.open(path, flags | os.O_NONBLOCK | os.O_NOCTTY)
