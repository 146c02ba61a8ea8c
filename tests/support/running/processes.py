"""Looks at running programs from outside, as root, and at this process: what proc(5) says of them."""

import gc
import os
import pathlib
import re
import socket
from collections.abc import Sequence
from typing import NamedTuple

from support.running import daemons


class Process(NamedTuple):
    """Holds the state that a program was started with; of its status, the masks and the identity."""

    environment: dict[str, str]
    directory: str
    status: list[str]
    limits: str


def of(client: socket.socket, program: Sequence[str]) -> Process:
    """The program that a client talks to, found by the port in its environment."""
    command = "".join(f"{word}\0" for word in program)
    mark = f"TCPREMOTEPORT={client.getsockname()[1]}\0"
    (folder,) = (
        folder
        for folder in pathlib.Path("/proc").glob("[0-9]*")
        if _contents(folder / "cmdline") == command and mark in _contents(folder / "environ")
    )
    status = re.findall(r"^(?:Umask|Uid|Gid|Groups|SigBlk):.*$", _contents(folder / "status"), re.MULTILINE)
    return Process(
        daemons.environment(_contents(folder / "environ").encode()),
        os.readlink(folder / "cwd"),
        status,
        _contents(folder / "limits"),
    )


def own_descriptors() -> int:
    """Return the number of this process's descriptors, after the garbage of other tests is closed."""
    gc.collect()
    return len(os.listdir("/proc/self/fd"))


def over(pid: int) -> bool:
    """Return whether a process has ended, though perhaps nobody has waited for it."""
    status = _contents(pathlib.Path(f"/proc/{pid}/stat"))
    return not status or status.rpartition(") ")[2].startswith("Z")


def stopped(pid: int) -> bool:
    """Return whether a signal has stopped a process."""
    return _contents(pathlib.Path(f"/proc/{pid}/stat")).rpartition(") ")[2].startswith("T")


def listening() -> set[int]:
    """The TCP ports of this host on which somebody listens (proc(5), net/tcp)."""
    lines = [
        line.split()
        for name in ("tcp", "tcp6")
        for line in _contents(pathlib.Path("/proc/net") / name).splitlines()[1:]
    ]
    return {int(fields[1].rpartition(":")[2], 16) for fields in lines if fields[3] == "0A"}


def _contents(file: pathlib.Path) -> str:
    """A process's file; empty when the process has ended, or may not be looked at."""
    try:
        return file.read_text()
    except OSError:
        return ""
