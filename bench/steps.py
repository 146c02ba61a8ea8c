"""Measures the steps of one admitted connection, from the client's connect to its end.

When run as a program, this module is tcpdconf with a clock: a worker logs the time of each step.
"""

import functools
import itertools
import json
import os
import socket
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from typing import Final, ParamSpec, TypeVar

from bench import clients, figures, servers
from tcpdconf.cli import main as cli
from tcpdconf.daemon.worker import acceptor, program
from tcpdconf.daemon.worker.connections import Connections
from tcpdconf.policy import decision

_P = ParamSpec("_P")
_R = TypeVar("_R")
_MARK: Final = "steps "
_WARM: Final = 50  # connections before the measured ones
WORKER: Final = (
    "the worker wakes up and calls accept",
    "accept",
    "who is at the ends",
    "rules, limits",
    "the program's environment",
    "clone: a process that shares our memory",
    "ledger, counters",
    "close",
)
CLIENT: Final = ("connect to its first byte", "connect to its end")


def measure(tools: clients.Tools, *, count: int, rounds: int) -> list[figures.Figure]:
    """Measure the microseconds of each step, one client at a time."""
    names = [*WORKER, *CLIENT]
    metrics = tuple(figures.Metric(f"{index}. {name}", "us", "less") for index, name in enumerate(names, 1))
    once = functools.partial(_once, tools, count)
    return figures.measure([figures.Case(metrics, {figures.SUBJECT: once})], rounds)


def _once(tools: clients.Tools, count: int) -> list[float]:
    service = servers.Service(0, tools.bare)
    with tempfile.TemporaryFile("w+") as file:
        with servers.daemon(servers.toml(service), "bench.steps", file.fileno()):
            seen = [_connect(4000) for _ in range(_WARM + count)][_WARM:]
        file.seek(0)
        reached = [json.loads(line.removeprefix(_MARK)) for line in file if line.startswith(_MARK)][_WARM:]
    steps = [
        [after - before for before, after in itertools.pairwise([began, *marks])]
        + [first - began, end - began]
        for (began, first, end), marks in zip(seen, reached, strict=True)
    ]
    return [statistics.median(column) / 1000 for column in zip(*steps, strict=True)]


def _connect(port: int) -> tuple[int, int, int]:
    """Return a client's times of connect, first byte and end, in nanoseconds (CLOCK_MONOTONIC)."""
    began = time.monotonic_ns()
    with socket.create_connection(("127.0.0.1", port), clients.SECONDS) as client:
        client.recv(4096)
        first = time.monotonic_ns()
        client.recv(4096)
        end = time.monotonic_ns()
    time.sleep(0.001)  # the worker comes to rest
    return began, first, end


class Clock:
    """Records the times of the steps of a connection."""

    def __init__(self) -> None:
        self._marks: list[int] = []

    def around(self, step: Callable[_P, _R]) -> Callable[_P, _R]:
        """Return `step` with a record of its begin and of its end, unless it fails."""

        def marked(*args: _P.args, **kwargs: _P.kwargs) -> _R:
            began = time.monotonic_ns()
            result = step(*args, **kwargs)
            self._marks += (began, time.monotonic_ns())
            return result

        return marked

    def last(self, step: Callable[_P, _R]) -> Callable[_P, _R]:
        """Return `step` with such records, after which all steps of the connection are logged."""

        def marked(*args: _P.args, **kwargs: _P.kwargs) -> _R:
            result = self.around(step)(*args, **kwargs)
            os.write(2, f"{_MARK}{json.dumps(self._marks)}\n".encode())
            self._marks.clear()
            return result

        return marked


def main() -> None:
    """Run tcpdconf with a clock."""
    clock = Clock()
    for place, name in ((acceptor, "accept"), (decision, "admit"), (program.NativeProgram, "start")):
        setattr(place, name, clock.around(getattr(place, name)))
    let_go = "_let_go"  # closes a connection that has its program
    setattr(Connections, let_go, clock.last(getattr(Connections, let_go)))
    sys.exit(cli.main())


if __name__ == "__main__":
    main()
