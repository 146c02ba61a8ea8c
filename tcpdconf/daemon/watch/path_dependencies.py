"""Where paths lead: the directory entries that they depend on, and the contents of the files at their ends.

It reads files only to hash them, and opens them by the rule of `descriptors`: none through a link that others
than root may replace. Of those, and of large ones, it takes what stat(2) says. Nothing here waits: a FIFO, a
file of another type or one that may not be read counts as content of its own.
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

_LINKS: Final = 40  # followed in one path, as the kernel does (path_resolution(7))
_LARGEST: Final = 1 << 24  # bytes of a file that is hashed
_GONE: Final = frozenset({errno.ENOENT, errno.ENOTDIR})


class Wanted(NamedTuple):
    """Absolute paths: directories of configuration files; other files, or directories of access files."""

    directories: tuple[str, ...] = ()
    files: tuple[str, ...] = ()


class Entries:
    """The directory entries that matter; directories are named without symbolic links."""

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
        """The directories to be watched, and whether more matters in them than what comes and goes."""
        holding = self._holding | self._configuration | self._access
        return {path: path in holding for path in sorted(self._named.keys() | holding)}

    def matter(self, path: str) -> bool:
        """Whether the entry with this path does."""
        directory, name = os.path.split(path)
        return (
            name in self._named.get(directory, ())
            or (directory in self._configuration and config_files.counts(name))
            or (directory in self._access and descriptors.counts(name))
        )

    def _add(self, path: str) -> str:
        """Note every step of a path; returns where it ends."""
        last = "/"
        for directory, name in steps(path):
            self._named.setdefault(directory, set()).add(name)
            last = os.path.join(directory, name)
        if not os.path.isdir(last):
            self._holding.add(os.path.dirname(last))
        return last


def steps(path: str) -> Iterator[tuple[str, str]]:
    """(directory, name) of every entry that is looked up on the way to the end of an absolute path.

    It ends early where an entry is missing.
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
            if error.errno != errno.EINVAL:  # what no link is gives EINVAL
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
    """What the wanted files held: a hash by path. A directory's is that of its list of files."""

    contents: dict[str, str]
    being_written: bool  # one of them is open for writing


def look(wanted: Wanted) -> Look:
    """Read and hash everything. Every wanted path has an entry, and every file in a wanted directory."""
    contents: dict[str, str] = {}
    being_written = False
    for path in [*wanted.files, *_listed(wanted)]:
        contents[path], open_elsewhere = _content(path)
        being_written |= open_elsewhere
    for path in wanted.directories:
        contents[path] = _listing(path, config_files.counts)
    return Look(contents, being_written)


def signatures(wanted: Wanted) -> dict[str, Signature]:
    """What the file system says of the same paths: it differs whenever one has changed, at little cost."""
    return {path: signature(path) for path in [*wanted.directories, *wanted.files, *_listed(wanted)]}


def signature(path: str) -> Signature:
    """Return what the file system says of the end of a path (`load.files.signature`), or the error number."""
    try:
        return file_signature.signature(os.stat(path))
    except OSError as error:
        return (error.errno or 0,)


def state(path: str) -> tuple[float, ...]:
    """Return what is different when a path has changed, or leads elsewhere."""
    found = signature(path)[:5]
    return found if len(found) > 1 else (*found, touched(path))


def touched(path: str) -> float:
    """When the end of a path, or a symbolic link on its way, last changed: seconds since the epoch.

    Of a path that leads nowhere, when the directory did in which it ends.
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
    """The files in wanted directories."""
    for path in wanted.directories:
        yield from (os.path.join(path, name) for name in _names(path, config_files.counts))
    for path in wanted.files:
        yield from (os.path.join(path, name) for name in _names(path, descriptors.counts))


def _names(directory: str, counts: Callable[[str], bool]) -> list[str]:
    """The names in a directory that count; none in what is no directory."""
    try:
        with os.scandir(directory) as entries:
            counting = (entry.name for entry in entries if counts(entry.name))
            return sorted(itertools.islice(counting, descriptors.ENTRIES + 1))
    except OSError:
        return []


def _content(path: str) -> tuple[str, bool]:
    """The hash of a file, or what it is instead; whether it is open for writing."""
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
    """The hash of a file; of a large one, which may be endless, its signature."""
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
    """Whether anybody has the file open for writing: then there is no read lease to be had (fcntl(2)).

    Some file systems have no leases, and only its owner and root may ask.
    """
    try:
        fcntl.fcntl(fd, fcntl.F_SETLEASE, fcntl.F_RDLCK)
        fcntl.fcntl(fd, fcntl.F_SETLEASE, fcntl.F_UNLCK)
    except OSError as error:
        return error.errno == errno.EAGAIN
    return False
