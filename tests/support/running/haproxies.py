"""A real HAProxy, ended by its own pid, and what its stats socket says."""

import contextlib
import pathlib
import socket
import subprocess
from collections.abc import Iterator

from support.running import daemons

GLOBAL = """
global
    stats socket {folder}/admin level admin
defaults
    mode tcp
    timeout connect 5s
    timeout client 20s
    timeout server 20s
"""


class Admin:
    """The stats socket of a HAProxy."""

    def __init__(self, folder: pathlib.Path) -> None:
        self.path = folder / "admin"

    def say(self, command: str) -> str:
        """Return its answer to a command."""
        with socket.socket(socket.AF_UNIX) as admin:
            admin.connect(str(self.path))
            admin.sendall(command.encode() + b"\n")
            return daemons.read(admin).decode()

    def servers(self) -> dict[tuple[str, str], dict[str, str]]:
        """Return `show stat` for each server, by backend and name."""
        lines = self.say("show stat -1 4 -1").splitlines()
        names = lines[0].lstrip("# ").split(",")
        rows = [dict(zip(names, line.split(","), strict=False)) for line in lines[1:] if line]
        return {(row["pxname"], row["svname"]): row for row in rows}


@contextlib.contextmanager
def running(folder: pathlib.Path, text: str) -> Iterator[Admin]:
    """Run it with this configuration below GLOBAL until the caller is done."""
    file, admin = folder / "haproxy.cfg", Admin(folder)
    file.write_text(GLOBAL.format(folder=folder) + text)
    process = subprocess.Popen(["haproxy", "-db", "-q", "-f", str(file)])
    try:
        daemons.until(lambda: process.poll() is not None or admin.path.exists(), "haproxy")
        assert process.poll() is None
        yield admin
    finally:
        process.terminate()
        process.wait(daemons.SECONDS)
