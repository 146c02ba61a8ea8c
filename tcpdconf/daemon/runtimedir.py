"""The runtime directory: where a daemon has its control socket, and where a command looks for it."""

import contextlib
import os
from typing import Final

SOCKET: Final = "control.sock"


def find(argument: str | None = None) -> str | None:
    """The directory: as given, or RUNTIME_DIRECTORY (systemd.exec(5)), or the usual place of this user.

    None where a user has no such place. Nothing says that it exists.
    """
    named = os.environ.get("RUNTIME_DIRECTORY", "").partition(":")[0]
    if argument or named:
        return argument or named
    if os.geteuid() == 0:
        return "/run/tcpdconf"
    own = os.environ.get("XDG_RUNTIME_DIR")
    return os.path.join(own, "tcpdconf") if own else None


def open_(directory: str) -> int:
    """The directory's descriptor; it is created where only itself is missing.

    Raises:
        OSError: it cannot be created or opened.
    """
    with contextlib.suppress(FileExistsError):
        os.mkdir(directory, 0o755 if os.geteuid() == 0 else 0o700)
    return os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)


def address(directory: int, name: str = SOCKET) -> str:
    """An address for a socket in an open directory, however long its path is (unix(7) has 108 bytes)."""
    return f"/proc/self/fd/{directory}/{name}"
