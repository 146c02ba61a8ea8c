"""Finds and opens the runtime directory, which holds a daemon's sockets for commands."""

import contextlib
import os
from typing import Final

from tcpdconf.daemon.process import paths

SOCKET: Final = "control.sock"
GUARD: Final = "guard.sock"  # of daemon.control_group


def find(argument: str | None = None) -> str | None:
    """Return the directory: as given, or RUNTIME_DIRECTORY (systemd.exec(5)), or the default of this user.

    Return None if the user has no default. The directory need not exist.
    """
    named = os.environ.get("RUNTIME_DIRECTORY", "").partition(":")[0]
    if argument or named:
        return argument or named
    if os.geteuid() == 0:
        return "/run/tcpdconf"
    own = os.environ.get("XDG_RUNTIME_DIR")
    return os.path.join(own, "tcpdconf") if own else None


def open_(directory: str) -> int:
    """Return a descriptor of the directory; create the directory if its parent exists.

    Root follows no symbolic link that others may replace.

    Raises:
        OSError: it cannot be created or opened.
    """
    flags = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
    if os.geteuid() != 0:
        with contextlib.suppress(FileExistsError):
            os.mkdir(directory, 0o700)
        return os.open(directory, flags)
    with paths.follow(directory) as end:
        if end.fd is not None:
            return end.open(flags)
        with contextlib.suppress(FileExistsError):
            os.mkdir(end.name, 0o755, dir_fd=end.directory)
        return os.open(end.name, flags | os.O_NOFOLLOW, dir_fd=end.directory)


def address(directory: int, name: str = SOCKET) -> str:
    """Return an address for a socket in an open directory, however long the directory's path is.

    unix(7) limits an address to 108 bytes.
    """
    return f"/proc/self/fd/{directory}/{name}"
