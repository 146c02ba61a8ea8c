"""Finds and opens the state directory, which holds what outlives the daemon."""

import contextlib
import errno
import os
from collections.abc import Iterator, Mapping

from tcpdconf.daemon.process import paths


def find(environment: Mapping[str, str]) -> str | None:
    """Return STATE_DIRECTORY (systemd.exec(5)), or the default of this user, or None if there is none.

    The directory need not exist.
    """
    named = environment.get("STATE_DIRECTORY", "").partition(":")[0]
    if named:
        return named
    if os.geteuid() == 0:
        return "/var/lib/tcpdconf"
    home = environment.get("HOME")
    base = environment.get("XDG_STATE_HOME") or (os.path.join(home, ".local/state") if home else None)
    return os.path.join(base, "tcpdconf") if base else None


@contextlib.contextmanager
def opened(directory: str | None) -> Iterator[int]:
    """Open the directory for a while, as `open_`; None means that this user has none.

    Raises:
        OSError: it cannot be created or opened.
    """
    if directory is None:
        raise FileNotFoundError(errno.ENOENT, "no state directory: set XDG_STATE_HOME")
    fd = open_(directory)
    try:
        yield fd
    finally:
        os.close(fd)


def open_(directory: str, *, create: bool = True) -> int:
    """Return a descriptor of the directory; perhaps create it, for its owner alone, if its parent exists.

    Root follows no symbolic link that others may replace.

    Raises:
        FileNotFoundError: it does not exist, and is not to be created.
        OSError: it cannot be created or opened.
    """
    flags = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
    if os.geteuid() != 0:
        if create:
            os.makedirs(directory, 0o700, exist_ok=True)
        return os.open(directory, flags)
    with paths.follow(directory) as end:
        if end.fd is not None:
            return end.open(flags)
        if not create:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), directory)
        with contextlib.suppress(FileExistsError):
            os.mkdir(end.name, 0o700, dir_fd=end.directory)
        return os.open(end.name, flags | os.O_NOFOLLOW, dir_fd=end.directory)
