"""Programs that a test starts as a worker does, and what they meet."""

import contextlib
import fcntl
import os
import pathlib
import signal
import socket
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from typing import Literal

from support.running import daemons

from tcpdconf.config import dialect
from tcpdconf.daemon.worker import program

SIGNALS = ["/bin/grep", "-E", "^Sig(Blk|Ign):", "/proc/self/status"]


@contextlib.contextmanager
def connected() -> Iterator[tuple[socket.socket, socket.socket]]:
    ours, theirs = socket.socketpair()
    ours.settimeout(daemons.SECONDS)
    with ours, theirs:
        yield ours, theirs


@contextlib.contextmanager
def over_tcp() -> Iterator[tuple[socket.socket, socket.socket]]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        ours = socket.create_connection(listener.getsockname(), daemons.SECONDS)
        theirs, _ = listener.accept()
    with ours, theirs:
        yield ours, theirs


def start(made: program.Program, connection: int, variables: dict[str, str] | None = None) -> int:
    """Start a program, and return its pid once it has been executed.

    Raises:
        OSError: it could not be executed.
    """
    begun = made.start(connection, variables or {})
    pid, number = begun
    if number is not None:
        outcome = settled(made, number)
        if outcome != "executed":
            assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 127
            assert isinstance(outcome, OSError)
            raise outcome
    return pid


def settled(made: program.Program, number: int) -> OSError | str:
    found: list[OSError | str] = []

    def look() -> bool:
        outcome = made.outcome(number)
        if outcome != "pending":
            found.append(outcome)
        return bool(found)

    daemons.until(look, "the exec")
    return found[0]


def said(setting: program.Setting, variables: dict[str, str] | None = None) -> bytes:
    """Run a program to its end, and return what it has written to its connection."""
    made = program.make(setting._replace(stderr="socket"))
    with connected() as (ours, theirs):
        pid = start(made, theirs.fileno(), variables)
        theirs.close()
        found = daemons.read(ours)
        assert os.waitpid(pid, 0) == (pid, 0)
    return found


def plain(*argv: str) -> program.Setting:
    return program.Setting(argv, {}, "inherit")


def masks(text: bytes) -> dict[str, set[int]]:
    """The signals of proc(5), status, by name of the field."""
    found: dict[str, set[int]] = {}
    for line in text.decode().splitlines():
        name, mask = line.split()
        found[name] = {int(number) for number in signal.valid_signals() if int(mask, 16) >> (number - 1) & 1}
    return found


def tell(ways: str) -> None:
    """Show a program's signals."""
    sys.stdout.buffer.write(said(program.Setting(SIGNALS, {}, "socket", ways=getattr(dialect, ways))))


def alone(script: str, *arguments: str) -> bytes:
    """Run a script in a new Python, whose limits and descriptors it may change; return its output."""
    prelude = """
        import os, resource, socket, sys
        from tcpdconf.config.model import tables
        from tcpdconf.daemon.worker import program
        from support.running import daemons, programs
    """
    words = [sys.executable, "-c", textwrap.dedent(prelude) + textwrap.dedent(script), *arguments]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    found = subprocess.run(words, check=True, capture_output=True, env=environment, stdin=subprocess.DEVNULL)
    return found.stdout


def become_standard(connection: int, stderr: int | Literal["socket"]) -> None:
    """Start a program with these descriptors, in a process that ends then with status 0."""
    ours, theirs = socket.socketpair()
    read, write = os.pipe()
    for number, fd in enumerate((ours.fileno(), read, theirs.fileno(), write)):
        os.dup2(fd, 30 + number, inheritable=False)
    os.closerange(3, 30)
    os.dup2(32, connection, inheritable=False)
    if isinstance(stderr, int):
        os.dup2(33, stderr, inheritable=False)
    os.closerange(32, 34)
    words = ["/bin/sh", "-c", "cat; echo to client; echo to log >&2; ls -l /proc/self/fd | wc -l >&2"]
    made = program.make(program.Setting(words, {"PATH": "/bin"}, stderr))
    pid = start(made, connection)
    client = socket.socket(fileno=30)
    client.send(b"from client\n")
    client.shutdown(socket.SHUT_WR)
    assert os.waitpid(pid, 0) == (pid, 0)
    found = client.recv(1000)
    if isinstance(stderr, int):
        found += os.read(31, 1000)
    # the standard three, the directory that `ls` reads, and a line before them
    assert found == b"from client\nto client\nto log\n5\n"
    os._exit(0)


@contextlib.contextmanager
def hung(tmp_path: pathlib.Path, script: str = "true") -> Iterator[tuple[str, int]]:
    """A program whose exec waits until the lease of its file is given up (fcntl(2), F_SETLEASE)."""
    path = tmp_path / "hung"
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o700)
    with path.open() as lease:
        fcntl.fcntl(lease, fcntl.F_SETSIG, signal.SIGURG)  # that it is wanted; of itself it does nothing
        fcntl.fcntl(lease, fcntl.F_SETLEASE, fcntl.F_WRLCK)
        yield str(path), lease.fileno()
