"""Starts many programs natively, and shows whether memory, descriptors or mappings grow.

    python -m bench.starts --count 10000000

One start in twenty fails for each of three reasons: the program is missing, its mode does not allow
execution, or its environment is too long.
"""

import argparse
import collections
import errno
import os
import pathlib
import socket
import subprocess
import tempfile
import time
from collections.abc import Collection, Iterator, Sequence
from typing import Final, NamedTuple

from tcpdconf.config.model import tables
from tcpdconf.daemon.process import spawn
from tcpdconf.daemon.worker import program

AT_ONCE: Final = 8
HELLO: Final = b"hello\n"
TOLD: Final = b"421 try later\n"
ERRORS: Final = (errno.E2BIG, errno.ENOENT, errno.EACCES)
MARKS: Final = (10, 50, 100)  # per cent of the starts after which the resources are printed


class Kind(NamedTuple):
    """Describes a start: the program, the size of a variable, and the error of its exec, or 0."""

    program: program.Program
    size: int
    error: int


class Resources(NamedTuple):
    """Return the kilobytes of memory, the descriptors and the mappings of this process."""

    memory: int
    descriptors: int
    mappings: int


class Mark(NamedTuple):
    """Holds the state after a number of starts."""

    starts: int
    seconds: float
    failed: int
    used: Resources


def measure(count: int, errors: Collection[int] = ERRORS) -> Iterator[Mark]:
    """Start `count` programs, some of which fail with these errors; yield the state at each of `MARKS`.

    Raises:
        RuntimeError: a client has received wrong output, or an exec has failed with another error.
    """
    os.environ[spawn.WISH] = "native"
    with tempfile.TemporaryDirectory() as name:
        kinds = [kind for kind in _kinds(pathlib.Path(name)) if not kind.error or kind.error in errors]
        running: dict[int, tuple[Kind, int, socket.socket]] = {}
        failures: collections.Counter[int] = collections.Counter()
        began, started = time.monotonic(), 0
        for mark in (count * percent // 100 for percent in MARKS):
            while started < mark or running:
                if started < mark and len(running) < AT_ONCE:
                    kind = kinds[started % len(kinds)]
                    ours, theirs = socket.socketpair()
                    with theirs:
                        variables = {"TCPREMOTEIP": "x" * (kind.size or started % 1000)}
                        pid, number = kind.program.start(theirs.fileno(), variables)
                    running[pid] = (kind, number or 0, ours)
                    started += 1
                else:
                    pid, status = os.waitpid(-1, 0)
                    failures[_checked(*running.pop(pid), status)] += 1
            failed = sum(failures[code] for code in failures if code)
            yield Mark(started, time.monotonic() - began, failed, _used())


def _kinds(folder: pathlib.Path) -> Sequence[Kind]:
    source = pathlib.Path(__file__).with_name("bare.c")
    subprocess.run(["cc", "-O2", "-static", "-nostartfiles", "-o", folder / "bare", source], check=True)
    (folder / "plain").touch(0o600)

    def made(name: str, **limits: int) -> program.Program:
        rlimits = tables.Rlimits.model_validate(limits)
        setting = program.Setting([str(folder / name)], {"PATH": "/bin"}, "inherit", rlimits, told=TOLD)
        return program.make(setting)

    bare = made("bare")
    return [
        *[Kind(bare, 0, 0)] * 15,
        Kind(bare, 100_000, 0),
        Kind(made("bare", cpu=60, core=0), 0, 0),
        Kind(bare, 200_000, errno.E2BIG),
        Kind(made("missing"), 0, errno.ENOENT),
        Kind(made("plain"), 0, errno.EACCES),
    ]


def _checked(kind: Kind, number: int, client: socket.socket, status: int) -> int:
    """Return the error of an exec, or 0; the program, or its child before the exec, has ended."""
    outcome = kind.program.outcome(number)
    with client:
        answer = client.recv(100)
    code = outcome.errno or 0 if isinstance(outcome, OSError) else 0
    if outcome == "pending" or code not in {0, kind.error}:
        raise RuntimeError(f"{outcome!r}, where errno {kind.error} was expected")
    if (answer, os.waitstatus_to_exitcode(status)) != ((TOLD, 127) if kind.error else (HELLO, 0)):
        raise RuntimeError(f"errno {kind.error}: the client was told {answer!r}, and the status is {status}")
    return code


def _used() -> Resources:
    pages = int(pathlib.Path("/proc/self/statm").read_text().split()[1])
    mappings = len(pathlib.Path("/proc/self/maps").read_text().splitlines())
    descriptors = len(os.listdir("/proc/self/fd"))
    return Resources(pages * os.sysconf("SC_PAGESIZE") // 1024, descriptors, mappings)


def main() -> None:
    """Print a line for each mark."""
    parser = argparse.ArgumentParser(prog="python -m bench.starts", description=__doc__)
    parser.add_argument("--count", type=int, default=100_000, help="how many programs (default: %(default)s)")
    for starts, seconds, failed, used in measure(parser.parse_args().count):
        print(
            f"{starts} starts, {failed} failed, {starts / seconds:.0f}/s, {used.memory} kB,"
            f" {used.descriptors} descriptors, {used.mappings} mappings",
            flush=True,
        )


if __name__ == "__main__":
    main()
