"""Manages a daemon's pid file and its lock file; the lock is held while the daemon is alive.

The lock is the one that couriertcpd uses: a POSIX lock on all of FILE.lock, held by the daemon itself. So
each of the two can detect, stop and restart the other. Both files remain after the daemon's exit.

The number in the file is for people and scripts. The process to signal is the one that the kernel names in
its answer to F_GETLK (fcntl(2)). Nothing here follows a link in the last part of a path, since others may be
able to write the directory. The module imports nothing slow: -stop and -restart have to respond at once.
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

_PATIENCE: Final = 10.0  # seconds that a daemon has to exit before it is killed
_KILLED: Final = 2.0  # seconds to wait for its end after SIGKILL
_TRIES: Final = 100  # daemons that may exit and be replaced during one search
_MODE: Final = 0o644  # of the pid file
_LOCK: Final = struct.Struct("hhqqi4x")  # struct flock: type, whence, start, length, pid (fcntl(2))


class _Holder(NamedTuple):
    """Identifies the process that holds the lock.

    The descriptor refers to it even if its pid is reused.
    """

    pid: int
    pidfd: int


class PidFile:
    """Manages the pid file of one daemon."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._directory, self._name = os.path.split(path)
        self._folder: int | None = None  # opened when the lock was taken, as its path may change later
        self._lock: int | None = None

    def take(self) -> bool:
        """Lock the file for this process until it exits, and write its pid; False if another has the lock.

        No other descriptor of the lock file may ever be closed in this process: that would release the lock
        (fcntl(2)).

        Raises:
            OSError: the lock cannot be made, or the file cannot be written.
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
        """Remove the pid file of a daemon that could not start; the lock file remains."""
        with contextlib.suppress(OSError):
            os.unlink(self._name, dir_fd=self._folder)

    def send(self, number: signal.Signals) -> bool:
        """Signal the daemon; return False if there is none.

        Raises:
            OSError: the lock cannot be opened, or the signal cannot be sent.
        """
        found = self._find(number)
        if found is None:
            return False
        os.close(found.pidfd)
        return True

    def stop(self) -> None:
        """Terminate the daemon, if there is one, and wait until it has exited.

        Raises:
            OSError: the lock cannot be opened, or the daemon does not exit.
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
        """Signal the process that holds the lock, and return it, or None if there is no holder.

        The kernel is asked twice for the holder, before and after its pid is opened as a descriptor. If both
        answers agree, the descriptor refers to the holder, or to a process that has exited and gets no
        signal.
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
        raise self._error(errno.EAGAIN, "the process that holds the lock changes too often: try again")

    def _holder(self, lock: int) -> int | None:
        """Return the pid of the process that holds the lock, or None if there is none.

        Raises:
            OSError: the holder is not visible to this process.
        """
        asked = _LOCK.pack(fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0)
        kind, *_, pid = _LOCK.unpack(fcntl.fcntl(lock, fcntl.F_GETLK, asked))
        if kind == fcntl.F_UNLCK:
            return None
        if pid <= 0:
            raise self._error(
                errno.ESRCH,
                "a process that is not visible here holds the lock: signal it on its own host and in its own"
                " PID namespace",
            )
        return int(pid)

    def _write(self, folder: int) -> None:
        """Replace the pid file by a new one, so that it is complete at any time."""
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
    """Return whether a process exits within so many seconds; its locks are then released."""
    poll = select.poll()
    poll.register(pidfd, select.POLLIN)
    return bool(poll.poll(seconds * 1000))
