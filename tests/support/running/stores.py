"""A service manager's store of descriptors, which outlives the daemons that it starts (sd_notify(3))."""

import contextlib
import os
import pathlib
from collections.abc import Iterator, Sequence

from support.running import daemons


@contextlib.contextmanager
def store() -> Iterator[dict[str, list[int]]]:
    """An empty store: descriptors by name, closed at the end."""
    found: dict[str, list[int]] = {}
    try:
        yield found
    finally:
        for fds in found.values():
            for fd in fds:
                os.close(fd)


def activated(
    folder: pathlib.Path, text: str, stored: dict[str, list[int]], before: Sequence[str] = ()
) -> daemons.Daemon:
    """A daemon that a service manager starts with what is in its store."""
    folder.mkdir()
    fds = [fd for each in stored.values() for fd in each]
    names = ":".join(name for name, each in stored.items() for _ in each)
    moved = " ".join(f"{3 + index}<&{fd}-" for index, fd in enumerate(fds))
    opened = f"exec {moved}; " if fds else ""
    start = f'{opened}export LISTEN_FDS={len(fds)}; LISTEN_PID=$$ exec "$@"'
    for fd in fds:
        os.set_inheritable(fd, True)
    return daemons.Daemon(
        folder,
        text,
        environment={"LISTEN_FDNAMES": names},
        before=["/bin/bash", "-c", start, "bash", *before],
        pass_fds=fds,
        stored=stored,
    )
