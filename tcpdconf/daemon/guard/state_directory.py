"""Finds and opens the state directory, which holds the files that outlive the daemon."""

import contextlib
import errno
import os
from collections.abc import Iterator, Mapping

from tcpdconf.daemon.process import paths


def find(environment: Mapping[str, str]) -> str | None:
    """Return STATE_DIRECTORY (systemd.exec(5)), or the default of this user, or None without a default.

    The directory may be missing.
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
    """Yield a descriptor of the directory (`open_`), and close it afterwards.

    Raises:
        OSError: it cannot be created or opened, or `directory` is None.
    """
    if directory is None:
        raise FileNotFoundError(errno.ENOENT, "no state directory: set XDG_STATE_HOME")
    fd = open_(directory)
    try:
        yield fd
    finally:
        os.close(fd)


def open_(directory: str, *, create: bool = True) -> int:
    """Return a descriptor of the directory.

    With `create`, a missing directory is created with mode 0700 (for root only if its parent exists). Root
    follows no symbolic link that others may replace.

    Raises:
        FileNotFoundError: it does not exist, and `create` is False.
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
