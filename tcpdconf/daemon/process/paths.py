"""Follows a path entry by entry, so that exactly the file that was checked is opened (path_resolution(7)).

Each entry is held open (O_PATH) while it is checked, and the checked descriptor is the one that is opened at
the end. If others change the path meanwhile, that makes no difference.

There are two modes. With a user's rights for files every symbolic link may be followed, since that user could
follow it as well. With more rights a link is followed only where nobody but trusted users can have made it.
After an entry that others may have put there, neither a link nor `..` is allowed. The file at the end must
then be a regular file with a single hard link.
"""

import contextlib
import errno
import functools
import os
import stat
from collections.abc import Collection, Iterator
from typing import Final, NamedTuple

_ROOT: Final = frozenset({0})
_LINKS: Final = 40  # followed in one path, as by the kernel
_PROC_ROOT: Final = 1  # inode of the top of /proc; links below it are more than their text (proc(5))
_ENTRY: Final = os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC
_WRITABLE: Final = stat.S_IWGRP | stat.S_IWOTH  # with an ACL the group bits are its mask (acl(5))
_SHARED: Final = stat.S_ISVTX | stat.S_IWOTH  # a directory like /tmp


class UntrustedError(PermissionError):
    """Reports that others may have put an entry of the path there; `strerror` says which."""


class End(NamedTuple):
    """Describes the end of a path: a name in a directory, and its entry, open as O_PATH (None if missing).

    `loose`: others may have put the entry there. `planted`: another user has put it into a directory like
    /tmp.
    """

    directory: int
    name: str
    fd: int | None
    loose: bool
    planted: bool

    def status(self) -> os.stat_result:
        """Return the stat(2) result of the entry.

        Raises:
            FileNotFoundError: the entry is missing.
        """
        if self.fd is None:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT))
        return os.fstat(self.fd)

    def open(self, flags: int) -> int:
        """Open the entry and return a new descriptor.

        Raises:
            UntrustedError: others may have put it there, and it is not regular or has another hard link.
            OSError: it cannot be opened.
        """
        found = self.status()
        if self.loose and not stat.S_ISDIR(found.st_mode):
            if not stat.S_ISREG(found.st_mode):
                raise UntrustedError(errno.EPERM, "others may replace it, and it is not a regular file")
            if found.st_nlink != 1:
                raise UntrustedError(errno.EPERM, "others may replace it, and it has more than one hard link")
        return os.open(f"/proc/self/fd/{self.fd}", flags | os.O_CLOEXEC)


@contextlib.contextmanager
def follow(path: str, user: int | None = None, trusted: Collection[int] = _ROOT) -> Iterator[End]:
    """Follow a path, with the file rights of `user`, which this process has taken on, or with its own.

    In the second case, all users that are not `trusted` count as others.

    Raises:
        UntrustedError: the path leads through an entry that others may have put there.
        OSError: the path cannot be followed, or the caller's block fails; `filename` is the path.
    """
    walk = _Walk(path, user, trusted)
    try:
        yield walk.end()
    except OSError as error:
        error.filename = path
        raise
    finally:
        walk.close()


class _Walk:
    """Follows one path.

    `_at` is the directory in which the next entry is looked up, `_here` its status.
    """

    def __init__(self, path: str, user: int | None, trusted: Collection[int]) -> None:
        self._wary = user is None
        self._user = os.geteuid() if user is None else user
        self._trusted = trusted
        self._held: list[int] = []
        self._ahead = _parts(path)
        self._loose = False
        self._links = 0
        self._enter("/" if path.startswith("/") else ".")

    def close(self) -> None:
        """Close every entry."""
        while self._held:
            os.close(self._held.pop())

    def end(self) -> End:
        """Follow the path and return its end."""
        while self._ahead:
            name = self._ahead.pop()
            if name == ".." and self._loose:
                text = 'a ".." comes after a directory that others may replace'
                raise UntrustedError(errno.EPERM, text)
            if name == "..":
                self._enter("..", self._at)
            elif (found := self._step(name)) is not None:
                return found
        return End(self._at, ".", self._at, self._loose, planted=False)

    def _enter(self, directory: str, at: int | None = None) -> None:
        self._at = self._hold(os.open(directory, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=at))
        self._here = os.fstat(self._at)

    def _step(self, name: str) -> End | None:
        """Look up one name; return the end, or None if the path continues."""
        try:
            fd = self._look_up(name)
        except FileNotFoundError:
            if self._ahead:
                raise
            return End(self._at, name, None, self._loose, planted=False)
        here, entry = self._here, os.fstat(fd)
        planted = here.st_mode & _SHARED == _SHARED and entry.st_uid not in {here.st_uid, self._user}
        if self._wary and not self._is_firm(here, entry):
            self._loose = True
        if stat.S_ISLNK(entry.st_mode):
            return self._link(name, fd, here, planted=planted)
        if not self._ahead:
            if entry.st_dev == _proc() and not self._wary:  # in /proc this process may do more than its user
                raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
            return End(self._at, name, fd, self._loose, planted)
        self._at, self._here = fd, entry
        return None

    def _look_up(self, name: str) -> int:
        """Open an entry as O_PATH and hold it.

        A directory that is mounted on demand (autofs) gets mounted.
        """
        if self._ahead:
            with contextlib.suppress(NotADirectoryError):
                return self._hold(os.open(name, _ENTRY | os.O_DIRECTORY, dir_fd=self._at))
        return self._hold(os.open(name, _ENTRY, dir_fd=self._at))

    def _is_firm(self, here: os.stat_result, entry: os.stat_result) -> bool:
        """Return whether only trusted users can have put the entry into this directory."""
        if here.st_uid not in self._trusted:
            return False
        if not here.st_mode & _WRITABLE:
            return True
        if os.fstatvfs(self._at).f_flag & os.ST_RDONLY:  # Kubernetes mounts a ConfigMap with mode 0777
            return True
        # in a directory like /tmp others create their own entries, or hard links to a file
        single = stat.S_ISDIR(entry.st_mode) or entry.st_nlink == 1
        return bool(here.st_mode & stat.S_ISVTX) and entry.st_uid in self._trusted and single

    def _link(self, name: str, fd: int, here: os.stat_result, *, planted: bool) -> End | None:
        """Follow a symbolic link by its text; return the end, or None if the path continues."""
        self._links += 1
        if self._links > _LINKS:
            raise OSError(errno.ELOOP, os.strerror(errno.ELOOP))
        if self._loose:
            raise UntrustedError(errno.EPERM, f"others may replace the symbolic link {_shown(fd, name)}")
        if here.st_dev == _proc() and here.st_ino != _PROC_ROOT:
            return self._magic(name)
        if planted:  # fs.protected_symlinks of proc(5)
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
        target = os.readlink("", dir_fd=fd)
        if target.startswith("/"):
            self._enter("/")
        self._ahead += _parts(target)
        return None

    def _magic(self, name: str) -> End | None:
        """Follow a link such as /dev/stderr to a file that a process has open.

        With a user's rights this is refused. Otherwise the link leads on only from a path that trusted users
        have made.
        """
        if not self._wary:
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
        fd = self._hold(os.open(name, os.O_PATH | os.O_CLOEXEC, dir_fd=self._at))
        if not self._ahead:
            return End(self._at, name, fd, loose=False, planted=False)
        self._at, self._here, self._loose = fd, os.fstat(fd), True  # nothing is known about the path to it
        return None

    def _hold(self, fd: int) -> int:
        self._held.append(fd)
        return fd


@functools.cache
def _proc() -> int:
    """Return the device number of /proc."""
    return os.stat("/proc").st_dev


def _parts(path: str) -> list[str]:
    return [part for part in reversed(path.split("/")) if part not in {"", "."}]


def _shown(fd: int, name: str) -> str:
    """Return the path of an entry as the kernel knows it."""
    try:
        return os.readlink(f"/proc/self/fd/{fd}")
    except OSError:
        return name
