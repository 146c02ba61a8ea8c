"""Keeps the latest status in memory that the supervisor writes and the HTTP process reads, without a lock.

It is a memfd with a header and a text. The reader's descriptor is read-only, and the memfd is sealed
(F_SEAL_FUTURE_WRITE), so the reader cannot write. While a text is replaced, it does not match its checksum in
the header; the reader then tries again.
"""

import fcntl
import mmap
import os
import struct
import time
import zlib
from typing import Final, NamedTuple

LARGEST: Final = 32 * 1024 * 1024  # bytes of a text; pages that were never written use no memory
_HEADER: Final = struct.Struct("=QdII")  # number, time, length, checksum
_F_SEAL_FUTURE_WRITE: Final = 0x10  # fcntl(2), Linux 5.1
_TRIES: Final = 10
_PAUSE: Final = 0.001  # seconds between two attempts to read; a write takes less

now = time.monotonic


class Snapshot(NamedTuple):
    """Holds one text, its number, and the time (time.monotonic) when it was written."""

    number: int
    at: float
    text: bytes


class Writer:
    """Creates the memory and writes snapshots; `fd` is a descriptor of the memory for the reader.

    Raises:
        OSError: no descriptor or memory is available.
    """

    def __init__(self) -> None:
        memory = os.memfd_create("tcpdconf-status", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        try:
            os.fchmod(memory, 0o400)
            os.ftruncate(memory, _HEADER.size + LARGEST)
            self._map = mmap.mmap(memory, 0)
            self._map.madvise(mmap.MADV_DONTFORK)  # else forked processes could write
            seals = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL | _F_SEAL_FUTURE_WRITE
            fcntl.fcntl(memory, fcntl.F_ADD_SEALS, seals)
            self.fd = os.open(f"/proc/self/fd/{memory}", os.O_RDONLY | os.O_CLOEXEC)
        finally:
            os.close(memory)
        self._number = 0

    def write(self, text: bytes) -> None:
        """Replace the snapshot; the text has at most LARGEST bytes."""
        self._number += 1
        self._map[_HEADER.size : _HEADER.size + len(text)] = text
        _HEADER.pack_into(self._map, 0, self._number, now(), len(text), zlib.crc32(text))

    def close(self) -> None:
        """Close memory and descriptor; a reader keeps its own."""
        self._map.close()
        os.close(self.fd)


class Reader:
    """Reads snapshots from a descriptor."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._latest: Snapshot | None = None

    def read(self) -> Snapshot | None:
        """Return the latest complete snapshot, or None before the first one."""
        for _ in range(_TRIES):
            header = os.pread(self._fd, _HEADER.size, 0)
            number, at, length, checksum = _HEADER.unpack(header)
            if number == (0 if self._latest is None else self._latest.number):
                break
            text = os.pread(self._fd, min(length, LARGEST), _HEADER.size)
            if os.pread(self._fd, _HEADER.size, 0) == header and zlib.crc32(text) == checksum:
                self._latest = Snapshot(number, at, text)
                break
            time.sleep(_PAUSE)
        return self._latest
