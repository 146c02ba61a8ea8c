"""A daemon's pid file, and the lock beside it that says whether that daemon lives.

The lock is what couriertcpd uses (a POSIX lock on all of FILE.lock, held by the daemon itself), so that each
of the two can tell, stop and restart the other. Both files stay behind. The number in the file is for people
and scripts: only the kernel's answer to F_GETLK says who is to be signalled (fcntl(2)). Nothing here follows
a link in the last part of a path, since others may be able to write the directory. Imports nothing slow:
-stop and -restart have to answer at once.
"""

import contextlib
import errno
import fcntl
import os
import select
import signal
import stat
import struct
from typing import Final, NamedTuple

_PATIENCE: Final = 10.0  # seconds that a daemon has to end before it is killed
_KILLED: Final = 2.0  # seconds that the kernel may take for that
_TRIES: Final = 100  # daemons that may end and be replaced while one is being looked for
_MODE: Final = 0o644  # of the pid file
_LOCK: Final = struct.Struct("hhqqi4x")  # struct flock: type, whence, start, length, pid (fcntl(2))


class _Holder(NamedTuple):
    """The process that holds the lock; the descriptor stands for it even when its pid is used again."""

    pid: int
    pidfd: int


class PidFile:
    """The pid file of one daemon."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._directory, self._name = os.path.split(path)
        self._folder: int | None = None  # as it was when the lock was taken, whatever its path leads to later
        self._lock: int | None = None

    def take(self) -> bool:
        """Lock it for this process, until its end, and write the process down; False when another one has it.

        No other descriptor of the lock may ever be closed in this process: that would give the lock up
        (fcntl(2)).

        Raises:
            OSError: the lock cannot be made, or the file not be written.
        """
        self._folder = self._open_folder()
        self._lock = self._open_lock(self._folder)
        try:
            fcntl.lockf(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        try:
            self._write(self._folder)
        except OSError as error:
            raise OSError(error.errno, error.strerror, self._path) from None
        return True

    def remove(self) -> None:
        """Remove the file of a daemon that could not start; the lock stays behind."""
        with contextlib.suppress(OSError):
            os.unlink(self._name, dir_fd=self._folder)

    def send(self, number: signal.Signals) -> bool:
        """Signal the daemon; False when there is none.

        Raises:
            OSError: the lock cannot be opened, or the signal not be sent.
        """
        found = self._find(number)
        if found is None:
            return False
        os.close(found.pidfd)
        return True

    def stop(self) -> None:
        """End the daemon, if there is one, and wait until it has ended.

        Raises:
            OSError: the lock cannot be opened, or the daemon not be ended.
        """
        found = self._find(signal.SIGTERM)
        if found is None:
            return
        try:
            if _has_ended(found.pidfd, _PATIENCE):
                return
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(found.pidfd, signal.SIGKILL)
            if not _has_ended(found.pidfd, _KILLED):
                raise self._error(errno.EBUSY, f"pid {found.pid} does not end")
        finally:
            os.close(found.pidfd)

    def _find(self, number: signal.Signals) -> _Holder | None:
        """Signal the process that holds the lock, and return it; None when nobody does.

        The kernel is asked twice who that is, before and after the pid was made a descriptor. When both
        answers agree the descriptor stands for the holder, or for a process that has ended: then nobody gets
        the signal.
        """
        folder = self._open_folder()
        try:
            lock = self._open_lock(folder)
        finally:
            os.close(folder)
        try:
            for _ in range(_TRIES):
                pid = self._holder(lock)
                if pid is None:
                    return None
                try:
                    pidfd = os.pidfd_open(pid)
                except ProcessLookupError:
                    continue
                try:
                    if self._holder(lock) == pid:
                        signal.pidfd_send_signal(pidfd, number)
                        return _Holder(pid, pidfd)
                except ProcessLookupError:
                    pass
                except BaseException:
                    os.close(pidfd)
                    raise
                os.close(pidfd)
        finally:
            os.close(lock)
        raise self._error(errno.EAGAIN, "another process holds the lock at each look")

    def _holder(self, lock: int) -> int | None:
        """The process that holds the lock.

        Raises:
            OSError: this process cannot see it.
        """
        asked = _LOCK.pack(fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0)
        kind, *_, pid = _LOCK.unpack(fcntl.fcntl(lock, fcntl.F_GETLK, asked))
        if kind == fcntl.F_UNLCK:
            return None
        if pid <= 0:
            raise self._error(
                errno.ESRCH,
                "a process that is not visible here holds the lock; signal it on its own host and in its own"
                " PID namespace",
            )
        return int(pid)

    def _write(self, folder: int) -> None:
        """Put a new file in the place of the one that is there: at any time it is whole."""
        fresh = f".couriertcpd.{os.urandom(12).hex()}"
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        fd = os.open(fresh, flags, 0o600, dir_fd=folder)
        try:
            with open(fd, "w", encoding="ascii") as file:
                os.fchmod(fd, _MODE)
                file.write(f"{os.getpid()}\n")
            os.rename(fresh, self._name, src_dir_fd=folder, dst_dir_fd=folder)
        except BaseException:
            os.unlink(fresh, dir_fd=folder)
            raise

    def _open_folder(self) -> int:
        return os.open(self._directory or ".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)

    def _open_lock(self, folder: int) -> int:
        flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY
        try:
            fd = os.open(self._name + ".lock", flags, 0o600, dir_fd=folder)
        except OSError as error:
            if error.errno == errno.ELOOP:
                error.strerror = "it is a symbolic link, and must be a regular file"
            error.filename = self._path + ".lock"
            raise
        if stat.S_ISREG(os.fstat(fd).st_mode):
            return fd
        os.close(fd)
        raise self._error(errno.EINVAL, "it must be a regular file")

    def _error(self, number: int, text: str) -> OSError:
        return OSError(number, text, self._path + ".lock")


def _has_ended(pidfd: int, seconds: float) -> bool:
    """Whether a process ends within so many seconds; its locks are free then."""
    poll = select.poll()
    poll.register(pidfd, select.POLLIN)
    return bool(poll.poll(seconds * 1000))
