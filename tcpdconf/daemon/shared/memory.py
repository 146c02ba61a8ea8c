"""Makes the memory that workers share, and gives each worker a place in it.

This is the supervisor's side. The supervisor maps none of the memory. It writes the header, and clears the
segment of a worker that will have no successor.
"""

import fcntl
import os
import struct
from collections.abc import Collection
from typing import Final

from tcpdconf.daemon.shared import layout

_SEALS: Final = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL  # no SIGBUS for other workers
_WORD: Final = struct.Struct("=Q")


class NoPlaceError(Exception):
    """Reports that all places (`layout.PLACES`) are taken."""


class SharedMemory:
    """Owns the memory of one service, or of one group of services with the same user.

    Raises:
        OSError: no descriptor is available.
    """

    def __init__(self) -> None:
        self.fd = os.memfd_create("tcpdconf-counts", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        os.ftruncate(self.fd, layout.size())
        fcntl.fcntl(self.fd, fcntl.F_ADD_SEALS, _SEALS)
        self._services: dict[int, int] = {}  # by place, the number of its service
        self._version = 0

    @property
    def places(self) -> Collection[int]:
        """The places that are taken."""
        return self._services.keys()

    def add(self, service: int) -> int:
        """Take a free place for a worker and return it; `service` is the service's number, never 0.

        Raises:
            NoPlaceError: all places are taken.
        """
        free = (place for place in range(layout.PLACES) if place not in self._services)
        place = next(free, None)
        if place is None:
            raise NoPlaceError
        self._services[place] = service
        self._write(layout.FIRST + place, service)
        self._write(layout.COUNT, max(self._services) + 1)
        self._announce()
        return place

    def remove(self, place: int) -> None:
        """Clear a place whose worker has ended.

        The rates stay, since they expire. The generation stays, since it must not get smaller.
        """
        del self._services[place]
        self._write(layout.FIRST + place, 0)
        for word in (layout.BITS, layout.TAKEN, layout.PAUSED):
            self._write(layout.word(place, word), 0)
        self._announce()

    def close(self) -> None:
        """Close the memory, once no worker uses it."""
        os.close(self.fd)

    def _announce(self) -> None:
        self._version += 1
        self._write(layout.VERSION, self._version)

    def _write(self, word: int, value: int) -> None:
        os.pwrite(self.fd, _WORD.pack(value), word * layout.WORD)
