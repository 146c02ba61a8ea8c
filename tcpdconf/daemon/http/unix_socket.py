"""Creates the Unix socket of the HTTP process."""

import contextlib
import os
import socket
from typing import Final

from tcpdconf.config import host
from tcpdconf.config.model.http import Http
from tcpdconf.daemon.process import paths, privileges

_BACKLOG: Final = 128


class UnixSocket:
    """Listens on a socket under a temporary name, until `publish` renames it to its path.

    Root follows no symbolic link that others may replace. An existing socket at the path is replaced.

    Raises:
        OSError: the socket cannot be created.
        UnknownNameError: its group does not exist (a LookupError).
    """

    def __init__(self, settings: Http) -> None:
        assert settings.path is not None  # noqa: S101 (the caller has looked)
        directory, self._name = os.path.split(settings.path)
        group = None if settings.group is None else host.group_number(settings.group)
        self._new = f".{self._name}.{os.getpid()}"
        self._inode = 0
        self._directory = _opened(directory)
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        try:
            self._bind(settings.socket_mode, group)
        except BaseException:
            self.close()
            raise
        self._inode = os.stat(self._new, dir_fd=self._directory, follow_symlinks=False).st_ino

    def publish(self) -> None:
        """Rename the socket to its path.

        Raises:
            OSError: it cannot be renamed, for example because its path is a directory.
        """
        os.rename(self._new, self._name, src_dir_fd=self._directory, dst_dir_fd=self._directory)

    def is_there(self) -> bool:
        """Return whether the path leads to this socket."""
        try:
            found = os.stat(self._name, dir_fd=self._directory, follow_symlinks=False)
        except OSError:
            return False
        return found.st_ino == self._inode

    def close(self) -> None:
        """Close the socket, and remove it unless another one has replaced it."""
        with contextlib.suppress(OSError):
            os.unlink(self._new, dir_fd=self._directory)
        with contextlib.suppress(OSError):
            # no other socket can get its inode while it is open
            if self.is_there():
                os.unlink(self._name, dir_fd=self._directory)
        self.socket.close()
        os.close(self._directory)

    def _bind(self, mode: int, group: int | None) -> None:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self._new, dir_fd=self._directory)
        # chmod(2) would resolve the name again, which may be a symbolic link by then
        mask = os.umask(0o777 & ~mode)
        try:
            self.socket.bind(f"/proc/self/fd/{self._directory}/{self._new}")
        finally:
            os.umask(mask)
        if group is not None:
            with privileges.in_group(group):
                os.chown(self._new, -1, group, dir_fd=self._directory, follow_symlinks=False)
        self.socket.listen(_BACKLOG)


def _opened(directory: str) -> int:
    """Return a descriptor of a directory."""
    flags = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
    if os.geteuid() != 0:
        return os.open(directory, flags)
    with paths.follow(directory) as end:
        return end.open(flags)
