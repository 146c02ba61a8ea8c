"""Opens what a service reads and writes, with the supervisor's rights; its worker reads it with its own."""

import os
import stat
from collections.abc import Iterable, Iterator
from typing import Final

from tcpdconf.config import sources, tables

_MODE: Final = 0o660  # of a new log file, less the umask, as couriertcpd's


def access(source: tables.AccessSource) -> Iterator[tuple[str, int]]:
    """(path, descriptor) of an access file, or of each file in a directory of them, in byte order of names.

    Raises:
        OSError: one cannot be opened; its `filename` says which.
    """
    if source.file is None:
        return
    if not os.path.isdir(source.file):
        yield source.file, regular(source.file)
        return
    for name in sorted(os.listdir(source.file), key=os.fsencode):
        path = os.path.join(source.file, name)
        if counts(name) and not os.path.isdir(path):
            yield path, regular(path)


def counts(name: str) -> bool:
    """Whether a file of this name in a directory of access files is one: not what editors leave behind."""
    return not name.startswith((".", "#")) and not name.endswith("~")


def readings(read: Iterable[tuple[str, sources.Signature]]) -> dict[str, sources.Signature]:
    """Return the signature of each path that was read; an empty one where it was read in two states."""
    found: dict[str, sources.Signature] = {}
    for path, signature in read:
        found[path] = signature if found.get(path, signature) == signature else ()
    return found


def regular(path: str) -> int:
    """A regular file, open for reading.

    Raises:
        OSError: it cannot be opened, or is none.
    """
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY)
    if stat.S_ISREG(os.fstat(fd).st_mode):
        return fd
    os.close(fd)
    raise OSError(22, "not a regular file", path)


def log(path: str) -> int:
    """A log file, open for appending; created where it is missing.

    Raises:
        OSError: it cannot be opened (a FIFO without a reader is ENXIO instead of a wait).
    """
    flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NOCTTY | os.O_NONBLOCK
    fd = os.open(path, flags, _MODE)
    os.set_blocking(fd, True)
    return fd
