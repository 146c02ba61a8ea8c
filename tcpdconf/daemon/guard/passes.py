"""Remembers which clients have waited for the greeting (a pass), in memory that outlives a worker.

The supervisor owns this memfd. It copies the bytes to a file and back, and never interprets them, because a
worker writes them and may write anything. The worst effect of a wrong entry is that a client does not wait.
"""

import contextlib
import errno
import mmap
import os
import struct
import time
import zlib
from collections.abc import Iterator, Mapping
from typing import Final

from tcpdconf.daemon.guard import state_directory
from tcpdconf.daemon.process import log
from tcpdconf.policy.connection import Endpoint

_ENTRY: Final = struct.Struct("=16sd")  # address or network, and its end as Unix time
_WAYS: Final = 8  # entries in a set
_SETS: Final = 8192
_SET: Final = _WAYS * _ENTRY.size
SIZE: Final = _SETS * _SET
"""Holds the size of the memory in bytes. Pages that were never written cost nothing."""
_BEGINNING: Final = b"tcpdconf passes, form 1\n"  # first bytes of the file; the memory follows


class Passes:
    """Maps the passes of one service into memory: 65,536 clients at most.

    The address chooses a set of eight entries. A new entry replaces the entry of its set that ends first. The
    clients of an IPv6 /64 network share one pass.
    """

    def __init__(self, fd: int) -> None:
        if os.fstat(fd).st_size < SIZE:
            os.ftruncate(fd, SIZE)
        self._map = mmap.mmap(fd, SIZE)

    def valid(self, peer: Endpoint, longest: float) -> bool:
        """Return whether a client has a pass that ends within `longest` seconds.

        A pass that ends later was given under another setting, or before the clock was set back.
        """
        key, start = _key(peer)
        now = time.time()
        entries = _ENTRY.iter_unpack(self._map[start : start + _SET])
        return any(address == key and now < until <= now + longest for address, until in entries)

    def grant(self, peer: Endpoint, seconds: float) -> None:
        """Give a client a pass for some seconds."""
        key, start = _key(peer)
        ends = {}
        for place, (address, until) in enumerate(_ENTRY.iter_unpack(self._map[start : start + _SET])):
            ends[place] = -1.0 if address == key else until
        first = min(ends, key=lambda place: ends[place])
        _ENTRY.pack_into(self._map, start + first * _ENTRY.size, key, time.time() + seconds)


class Memory:
    """Owns the memory of one service's passes, and copies it to the file `passes-NAME`.

    `environment` names the state directory. An error of the file is only a warning, because without the file
    clients just wait once more.
    """

    def __init__(self, name: str, environment: Mapping[str, str]) -> None:
        self._file = f"passes-{name}"
        self._directory = state_directory.find(environment)
        self._fd: int | None = None

    def use(self) -> int:
        """Return the descriptor of the memory; the first call creates it, from the file if it exists.

        Raises:
            OSError: no descriptor or memory is available.
        """
        if self._fd is None:
            self._fd = os.memfd_create("tcpdconf-passes", os.MFD_CLOEXEC)
            with self._attempt("read"), state_directory.opened(self._directory) as directory:
                self._load(directory)
        return self._fd

    def save(self) -> None:
        """Copy the memory to the file, unless `use` was never called."""
        if self._fd is not None:
            with self._attempt("saved"), state_directory.opened(self._directory) as directory:
                self._write(directory, os.pread(self._fd, SIZE, 0))

    def close(self) -> None:
        """Copy the memory to the file, and release it."""
        self.save()
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None

    @contextlib.contextmanager
    def _attempt(self, done: str) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            where = f"{self._directory}/{self._file}"
            log.warning(f"passes are not {done}: {where}: {error.strerror}")

    def _load(self, directory: int) -> None:
        """Copy the file, if it exists, to the memory.

        Raises:
            OSError: it cannot be read, or has another form or size.
        """
        assert self._fd is not None  # noqa: S101 (just made)
        flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
        try:
            file = os.open(self._file, flags, dir_fd=directory)
        except FileNotFoundError:
            return
        try:
            data = os.read(file, len(_BEGINNING) + SIZE + 1)
        finally:
            os.close(file)
        if data.startswith(_BEGINNING) and len(data) <= len(_BEGINNING) + SIZE:
            os.pwrite(self._fd, data[len(_BEGINNING) :], 0)
        else:
            raise OSError(errno.EINVAL, "it is not a file of passes")

    def _write(self, directory: int, data: bytes) -> None:
        new = f".{self._file}.new"
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC
        with os.fdopen(os.open(new, flags, 0o600, dir_fd=directory), "wb") as file:
            file.write(_BEGINNING + data)
        os.rename(new, self._file, src_dir_fd=directory, dst_dir_fd=directory)


def _key(peer: Endpoint) -> tuple[bytes, int]:
    """Return the address part of a client's entry, and the offset of its set."""
    value = peer.value | 0xFFFF << 32 if peer.version == 4 else peer.value >> 64 << 64
    key = value.to_bytes(16)
    return key, zlib.crc32(key) % _SETS * _SET
