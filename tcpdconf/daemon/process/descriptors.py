"""Opens the files that a service reads and writes; its worker reads them.

A file is opened with the rights of the service's user. If those do not suffice, or the service runs as root,
this process uses its own rights, but only along a path that nobody else can have changed (`paths`). A process
with no more rights than its user opens files in the ordinary way.

Opening never waits for a file, and reads nothing but directories.
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
"""Stands for the identity of this process."""

Opened = TypeVar("Opened")

_MODE: Final = 0o660  # mode of a new log file, before the umask, as for couriertcpd
_PLAIN: Final = os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY
_APPEND: Final = _PLAIN | os.O_WRONLY | os.O_APPEND
_PIECE: Final = 65536  # least bytes of one read
ENTRIES: Final = 10_000  # most entries of a directory of access files
_TRIES: Final = 3  # attempts to open or create a file that others create and remove


def access(source: tables.AccessSource, who: host.Identity = OWN) -> Iterator[tuple[str, int]]:
    """Yield (path, descriptor) of an access file, or of each file in a directory of them.

    Files in a directory are in byte order of their names.

    Raises:
        OSError: a file cannot be opened; `filename` is its path.
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
    """Return whether a name in a directory of access files is read; backup files of editors are not."""
    return not name.startswith((".", "#")) and not name.endswith("~")


def readings(read: Iterable[tuple[str, Signature]]) -> dict[str, Signature]:
    """Return the signature of each path that was read; an empty one if it was read in two states."""
    found: dict[str, Signature] = {}
    for path, signature in read:
        found[path] = signature if found.get(path, signature) == signature else ()
    return found


def regular(path: str, who: host.Identity = OWN) -> int:
    """Open a regular file for reading; return its descriptor.

    Raises:
        UntrustedError: others may have put it there.
        OSError: it cannot be opened, or is not a regular file.
    """
    fd = _readable(path, who)
    if _is_directory(fd):
        os.close(fd)
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), path)
    return fd


def log(path: str, who: host.Identity = OWN) -> int:
    """Open a log file for appending, creating it if it is missing; return its descriptor.

    Raises:
        UntrustedError: others may have put it there.
        OSError: it cannot be opened (a FIFO without a reader gives ENXIO instead of a wait).
    """
    for left in reversed(range(_TRIES)):
        try:
            fd = _reached(path, who, _appended, lambda: os.open(path, _APPEND | os.O_CREAT, _MODE))
            break
        except FileExistsError:  # another process has created it since
            if not left:
                raise
    os.set_blocking(fd, True)
    return fd


def judge_log(path: str, who: host.Identity) -> None:
    """Raise the error that `log` would raise, as far as it shows without opening or creating a file."""
    _reached(path, who, _judged, lambda: None)


def content(fd: int, most: int) -> bytes:
    """Return the content of a file from its beginning.

    Raises:
        OSError: it cannot be read, or is larger than `most` bytes (EFBIG).
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
    """Apply `reach` to the end of a path that is followed with the right identity.

    A process with no more rights than its user calls `plain` instead.
    """
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
    # this process may run as the service's user, whose other processes lack its capabilities
    with paths.follow(path, trusted={0} | ({os.geteuid()} - {user})) as end:
        return reach(end)


def _readable(path: str, who: host.Identity) -> int:
    """Open a regular file or a directory for reading."""
    fd = _reached(path, who, _read, lambda: os.open(path, os.O_RDONLY | _PLAIN))
    if stat.S_ISREG(os.fstat(fd).st_mode) or _is_directory(fd):
        return fd
    os.close(fd)
    raise _not_regular(path)


def _read(end: paths.End) -> int:
    mode = end.status().st_mode
    if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):  # opening a device can have side effects
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
    """Refuse to append to a file that another user has put into a directory like /tmp.

    The kernel does the same (proc(5), protected_regular).
    """
    if end.planted:
        raise paths.UntrustedError(
            errno.EPERM, "it belongs to another user, and others may write to its directory"
        )


def _is_directory(fd: int) -> bool:
    return stat.S_ISDIR(os.fstat(fd).st_mode)


def _names(path: str, fd: int) -> list[str]:
    """Return the names in a directory that count, in byte order; close its descriptor."""
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
