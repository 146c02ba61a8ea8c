"""Finds the directory entries that paths depend on, and hashes the files at their ends.

It reads files only to hash them, and opens them by the rules of `descriptors`: never through a link that
users other than root may replace. For such files, and for large ones, it uses the result of stat(2). Nothing
here waits: a FIFO, a file of another type, or one that may not be read counts as a distinct content.
"""

import contextlib
import errno
import fcntl
import hashlib
import itertools
import os
import stat
from collections.abc import Callable, Iterator
from typing import Final, NamedTuple

from tcpdconf.config import file_signature
from tcpdconf.config.file_signature import Signature
from tcpdconf.config.load import files as config_files
from tcpdconf.daemon.process import descriptors, paths

_LINKS: Final = 40  # followed in one path, as by the kernel (path_resolution(7))
_LARGEST: Final = 1 << 24  # bytes of a file that is hashed, at most
_GONE: Final = frozenset({errno.ENOENT, errno.ENOTDIR})


class Wanted(NamedTuple):
    """Holds absolute paths: directories of configuration files; other files, or directories of them."""

    directories: tuple[str, ...] = ()
    files: tuple[str, ...] = ()


class Entries:
    """Holds the directory entries that matter; directories are named without symbolic links."""

    def __init__(self, wanted: Wanted) -> None:
        self._named: dict[str, set[str]] = {}
        self._configuration: set[str] = set()  # every entry that is a configuration file matters
        self._access: set[str] = set()  # every entry that is an access file matters
        self._holding: set[str] = set()
        for path in wanted.directories:
            self._configuration.add(self._add(path))
        for path in wanted.files:
            end = self._add(path)
            if os.path.isdir(end):
                self._access.add(end)
        for path in _listed(wanted):
            self._add(path)

    def directories(self) -> dict[str, bool]:
        """Return the directories to watch; True if more matters in one than entries that come and go."""
        holding = self._holding | self._configuration | self._access
        return {path: path in holding for path in sorted(self._named.keys() | holding)}

    def matter(self, path: str) -> bool:
        """Return whether the entry with this path matters."""
        directory, name = os.path.split(path)
        return (
            name in self._named.get(directory, ())
            or (directory in self._configuration and config_files.counts(name))
            or (directory in self._access and descriptors.counts(name))
        )

    def _add(self, path: str) -> str:
        """Add every entry on a path; return where the path ends."""
        last = "/"
        for directory, name in steps(path):
            self._named.setdefault(directory, set()).add(name)
            last = os.path.join(directory, name)
        if not os.path.isdir(last):
            self._holding.add(os.path.dirname(last))
        return last


def steps(path: str) -> Iterator[tuple[str, str]]:
    """Yield (directory, name) of every entry that is looked up on the way along an absolute path.

    It ends early at a missing entry.
    """
    at, links = "/", 0
    ahead = _parts(path)
    while ahead:
        name = ahead.pop()
        if name == "..":
            at = os.path.dirname(at)
            continue
        here = os.path.join(at, name)
        yield at, name
        try:
            target = os.readlink(here)
        except OSError as error:
            if error.errno != errno.EINVAL:  # EINVAL: it is not a link
                return
            at = here
            continue
        links += 1
        if links > _LINKS:
            return
        at = "/" if target.startswith("/") else at
        ahead += _parts(target)


def _parts(path: str) -> list[str]:
    return [part for part in reversed(path.split("/")) if part not in {"", "."}]


class Look(NamedTuple):
    """Holds the contents of the wanted files: a hash by path. A directory's hash covers its list of files."""

    contents: dict[str, str]
    being_written: bool  # True if one of them is open for writing


def look(wanted: Wanted) -> Look:
    """Read and hash all wanted files and directories.

    The result has every wanted path and every file in a wanted directory.
    """
    contents: dict[str, str] = {}
    being_written = False
    for path in [*wanted.files, *_listed(wanted)]:
        contents[path], open_elsewhere = _content(path)
        being_written |= open_elsewhere
    for path in wanted.directories:
        contents[path] = _listing(path, config_files.counts)
    return Look(contents, being_written)


def signatures(wanted: Wanted) -> dict[str, Signature]:
    """Return stat(2) signatures of the same paths; cheap, and different whenever one has changed."""
    return {path: signature(path) for path in [*wanted.directories, *wanted.files, *_listed(wanted)]}


def signature(path: str) -> Signature:
    """Return the stat(2) signature of the end of a path (`config.file_signature`), or (error number,)."""
    try:
        return file_signature.signature(os.stat(path))
    except OSError as error:
        return (error.errno or 0,)


def state(path: str) -> tuple[float, ...]:
    """Return a value that differs when a path has changed or leads elsewhere."""
    found = signature(path)[:5]
    return found if len(found) > 1 else (*found, touched(path))


def touched(path: str) -> float:
    """Return when the end of a path, or a symbolic link on its way, last changed (seconds since the epoch).

    For a missing path: the ctime of its last existing directory.
    """
    newest = 0.0
    for directory, name in steps(path):
        try:
            status = os.lstat(os.path.join(directory, name))
        except OSError:
            with contextlib.suppress(OSError):
                newest = max(newest, os.lstat(directory).st_ctime)
            break
        if stat.S_ISLNK(status.st_mode):
            newest = max(newest, status.st_ctime)
    with contextlib.suppress(OSError):
        newest = max(newest, os.stat(path).st_ctime)
    return newest


def _listed(wanted: Wanted) -> Iterator[str]:
    """Yield the paths of the files in wanted directories."""
    for path in wanted.directories:
        yield from (os.path.join(path, name) for name in _names(path, config_files.counts))
    for path in wanted.files:
        yield from (os.path.join(path, name) for name in _names(path, descriptors.counts))


def _names(directory: str, counts: Callable[[str], bool]) -> list[str]:
    """Return the names in a directory that count, sorted; none if it is not a directory."""
    try:
        with os.scandir(directory) as entries:
            counting = (entry.name for entry in entries if counts(entry.name))
            return sorted(itertools.islice(counting, descriptors.ENTRIES + 1))
    except OSError:
        return []


def _content(path: str) -> tuple[str, bool]:
    """Return the hash of a file, or text that stands for it, and whether it is open for writing."""
    try:
        if stat.S_ISDIR(os.stat(path).st_mode):
            return _listing(path, descriptors.counts), False
        fd = descriptors.regular(path)
    except paths.UntrustedError:
        return str(state(path)), False
    except OSError as error:
        return "missing" if error.errno in _GONE else f"error {error.errno}", False
    try:
        return _hash(fd), _is_being_written(fd)
    except OSError as error:
        return f"error {error.errno}", False
    finally:
        os.close(fd)


def _hash(fd: int) -> str:
    """Return the hash of a file; for a large one, which may be endless, its signature."""
    try:
        return hashlib.blake2b(descriptors.content(fd, _LARGEST)).hexdigest()
    except OSError as error:
        if error.errno != errno.EFBIG:
            raise
        return str(file_signature.signature(os.fstat(fd))[:5])


def _listing(directory: str, counts: Callable[[str], bool]) -> str:
    names = "\0".join(_names(directory, counts))
    return hashlib.blake2b(names.encode(errors="surrogateescape")).hexdigest()


def _is_being_written(fd: int) -> bool:
    """Return whether anybody has the file open for writing: a read lease is then refused (fcntl(2)).

    Some file systems have no leases, and only the file's owner and root may ask; the result is False then.
    """
    try:
        fcntl.fcntl(fd, fcntl.F_SETLEASE, fcntl.F_RDLCK)
        fcntl.fcntl(fd, fcntl.F_SETLEASE, fcntl.F_UNLCK)
    except OSError as error:
        return error.errno == errno.EAGAIN
    return False
