"""Opens what a service reads and writes; its worker reads it.

A file is opened with the rights of the service's user. Where those do not suffice, or a service runs with the
rights of root, this process opens it with its own, and then only by a path that nobody else can have
changed (`paths`). A process that has no more rights than its user opens files as any other does.

Nothing here waits for a file, and nothing but a directory is read.
"""

import contextlib
import errno
import os
import stat
from collections.abc import Callable, Iterable, Iterator
from typing import Final, TypeVar

from tcpdconf.config import host
from tcpdconf.config.file_signature import Signature
from tcpdconf.config.model import tables
from tcpdconf.daemon.process import paths, privileges

OWN: Final = host.Identity(None, None, (), None)
"""The identity of this process."""

Opened = TypeVar("Opened")

_MODE: Final = 0o660  # of a new log file, less the umask, as couriertcpd's
_PLAIN: Final = os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY
_APPEND: Final = _PLAIN | os.O_WRONLY | os.O_APPEND
_PIECE: Final = 65536  # bytes that are read at once at least
ENTRIES: Final = 10_000  # of a directory of access files
_TRIES: Final = 3  # to open or else create a file that others create and remove


def access(source: tables.AccessSource, who: host.Identity = OWN) -> Iterator[tuple[str, int]]:
    """(path, descriptor) of an access file, or of each file in a directory of them, in byte order of names.

    Raises:
        OSError: one cannot be opened; its `filename` says which.
    """
    if source.file is None:
        return
    fd = _readable(source.file, who)
    if not _is_directory(fd):
        yield source.file, fd
        return
    for name in _names(source.file, fd):
        path = os.path.join(source.file, name)
        fd = _readable(path, who)
        if _is_directory(fd):
            os.close(fd)
        else:
            yield path, fd


def counts(name: str) -> bool:
    """Whether a file of this name in a directory of access files is one: not what editors leave behind."""
    return not name.startswith((".", "#")) and not name.endswith("~")


def readings(read: Iterable[tuple[str, Signature]]) -> dict[str, Signature]:
    """Return the signature of each path that was read; an empty one where it was read in two states."""
    found: dict[str, Signature] = {}
    for path, signature in read:
        found[path] = signature if found.get(path, signature) == signature else ()
    return found


def regular(path: str, who: host.Identity = OWN) -> int:
    """A regular file, open for reading.

    Raises:
        UntrustedError: others may have put it there.
        OSError: it cannot be opened, or is none.
    """
    fd = _readable(path, who)
    if _is_directory(fd):
        os.close(fd)
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), path)
    return fd


def log(path: str, who: host.Identity = OWN) -> int:
    """A log file, open for appending; created where it is missing.

    Raises:
        UntrustedError: others may have put it there.
        OSError: it cannot be opened (a FIFO without a reader is ENXIO instead of a wait).
    """
    for left in reversed(range(_TRIES)):
        try:
            fd = _reached(path, who, _appended, lambda: os.open(path, _APPEND | os.O_CREAT, _MODE))
            break
        except FileExistsError:  # it was not there a moment ago
            if not left:
                raise
    os.set_blocking(fd, True)
    return fd


def judge_log(path: str, who: host.Identity) -> None:
    """Raise what `log` would, as far as can be told without opening or creating anything."""
    _reached(path, who, _judged, lambda: None)


def content(fd: int, most: int) -> bytes:
    """What a file holds, from its beginning.

    Raises:
        OSError: it cannot be read, or is larger than `most` bytes.
    """
    size = os.fstat(fd).st_size
    pieces: list[bytes] = []
    left = most + 1
    with open(os.dup(fd), "rb", buffering=0) as file:
        file.seek(0)
        while size <= most and left and (piece := file.read(min(left, max(size, _PIECE)))):
            pieces.append(piece)
            left -= len(piece)
    if size > most or not left:
        raise OSError(errno.EFBIG, f"larger than {most} bytes")
    return b"".join(pieces)


def _reached(
    path: str, who: host.Identity, reach: Callable[[paths.End], Opened], plain: Callable[[], Opened]
) -> Opened:
    """What is made of the end of a path, or of the path itself by who has no more rights than its user."""
    if not privileges.exceed_those_of_the_user():
        return plain()
    user = os.geteuid() if who.uid is None else who.uid
    if user != 0 and privileges.may_become(who):
        with (
            contextlib.suppress(PermissionError),
            privileges.file_rights_of(who),
            paths.follow(path, user) as end,
        ):
            return reach(end)
    # the user of this process may be the service's, which has none of its capabilities
    with paths.follow(path, trusted={0} | ({os.geteuid()} - {user})) as end:
        return reach(end)


def _readable(path: str, who: host.Identity) -> int:
    """A regular file or a directory, open for reading."""
    fd = _reached(path, who, _read, lambda: os.open(path, os.O_RDONLY | _PLAIN))
    if stat.S_ISREG(os.fstat(fd).st_mode) or _is_directory(fd):
        return fd
    os.close(fd)
    raise _not_regular(path)


def _read(end: paths.End) -> int:
    mode = end.status().st_mode
    if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):  # opening a device can do something to it
        raise _not_regular("")
    return end.open(os.O_RDONLY | _PLAIN)


def _appended(end: paths.End) -> int:
    if end.fd is None:
        flags = _APPEND | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW
        return os.open(end.name, flags, _MODE, dir_fd=end.directory)
    _refuse_planted(end)
    return end.open(_APPEND)


def _judged(end: paths.End) -> None:
    if end.fd is not None:
        _refuse_planted(end)
        os.close(end.open(os.O_PATH))
    there = end.directory if end.fd is None else end.fd
    if not os.access(f"/proc/self/fd/{there}", os.W_OK, effective_ids=True):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))


def _refuse_planted(end: paths.End) -> None:
    """Append to no file that another user has put into a directory like /tmp (proc(5), protected_regular)."""
    if end.planted:
        raise paths.UntrustedError(errno.EPERM, "another user has made it, in a directory for everybody")


def _is_directory(fd: int) -> bool:
    return stat.S_ISDIR(os.fstat(fd).st_mode)


def _names(path: str, fd: int) -> list[str]:
    """The names in a directory that count, in byte order; closes it."""
    names: list[str] = []
    try:
        with os.scandir(fd) as entries:
            for entry in entries:
                if counts(entry.name):
                    names.append(entry.name)
                if len(names) > ENTRIES:
                    raise OSError(errno.E2BIG, f"has more than {ENTRIES} files", path)
    finally:
        os.close(fd)
    return sorted(names, key=os.fsencode)


def _not_regular(path: str) -> OSError:
    return OSError(errno.EINVAL, "not a regular file", path)
