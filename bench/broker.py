"""Measures the cost of the broker, the process that counts for services of a group with several users.

`wait` is what a connection waits for, from a worker's request to its answer. The services are the same with
counts of a worker's own, with counts in the memory that services of one user share, and with the broker, in
turn. Nobody connects to the other service of the group.

Run as a module, this is a tcpdconf whose broker counts the requests that it answers.
"""

import functools
import mmap
import os
import pathlib
import statistics
import sys
import time
from typing import Final

from bench import clients, cluster, figures, servers
from tcpdconf.daemon.broker.decisions import Broker
from tcpdconf.daemon.cluster.members import Take
from tcpdconf.daemon.cluster.records import Answer
from tcpdconf.daemon.process import channel, loop

_COUNTED: Final = "BENCH_COUNTED"  # names the file with the number of requests
_AT_ONCE: Final = 50
_MILLI: Final = 1e3
_USERS: Final = {"own counts": None, "shared memory": ("nobody", "nobody"), "broker": ("nobody", "daemon")}
_WAIT: Final = tuple(
    figures.Metric(f"wait for the broker, {how}, {part}", "ms", "less", targets)
    for how, part, targets in (
        ("one at a time", "p50", {figures.SUBJECT: 0.5}),
        ("one at a time", "p99", {figures.SUBJECT: 2.0}),
        ("64 at once", "p50", {}),
        ("64 at once", "p99", {}),
    )
)
_SERVED: Final = tuple(
    metric
    for name in _USERS
    for metric in (
        figures.Metric(f"connection, one at a time, p50, {name}", "ms", "less"),
        figures.Metric(f"connection, one at a time, p99, {name}", "ms", "less"),
        figures.Metric(f"admitted, {_AT_ONCE} at once, {name}", "1/s", "more"),
    )
)
_ASKED: Final = figures.Metric("requests awaited per connection, broker", "", "less")


def measure(tools: clients.Tools, folder: pathlib.Path, *, count: int, rounds: int) -> list[figures.Figure]:
    """All figures."""
    served = functools.partial(_served, tools, folder / "counted", count)
    cases = [
        figures.Case(_WAIT, {figures.SUBJECT: functools.partial(_waits, count / 1000)}),
        figures.Case((*_SERVED, _ASKED), {figures.SUBJECT: served}),
    ]
    return figures.measure(cases, rounds)


def _waits(seconds: float) -> list[float]:
    """Milliseconds."""
    asker = cluster.Asker(_serve)
    try:
        return [part for at_once in (1, 64) for part in _quantiles(asker.times(seconds, at_once))]
    finally:
        asker.close()


def _serve(theirs: channel.Channel) -> None:
    events = loop.Loop()
    Broker(events).members.add("bench", "@bench", theirs, Answer("serving"))
    events.run()


def _quantiles(times: list[float]) -> tuple[float, float]:
    cuts = statistics.quantiles(times, n=100)
    return cuts[49] * _MILLI, cuts[98] * _MILLI


def _served(tools: clients.Tools, counted: pathlib.Path, count: int) -> list[float]:
    found: list[float] = []
    asked = 0.0
    for users in _USERS.values():
        counted.write_bytes(bytes(8))
        with servers.daemon(_configuration(tools.bare, users), "bench.broker", more={_COUNTED: str(counted)}):
            clients.await_port(4000)
            tools.run(4000, count // 4, _AT_ONCE)  # the worker has its channel to the broker by then
            times = [clients.connect_to_eof(4000) for _ in range(count // 4)]
            before = int.from_bytes(counted.read_bytes(), sys.byteorder)
            began = time.perf_counter()
            served = tools.run(4000, count, _AT_ONCE).served
            found += [*_quantiles(times), served / (time.perf_counter() - began)]
            asked = (int.from_bytes(counted.read_bytes(), sys.byteorder) - before) / served
    return [*found, asked]


def _configuration(program: str, users: tuple[str, str] | None) -> str:
    """Two services, in a group if they have `users`."""
    group = "" if users is None else ', group = "bench"'
    limits = (
        f"max_connections = {servers.MOST}, max_per_ip = {servers.MOST}, max_per_network = {servers.MOST}"
    )
    return "".join(
        f"""
        [services.s{number}]
        program = ["{program}"]
        user = "{user}"
        listeners = [{{ address = "127.0.0.1", port = {4000 + number} }}]
        limits = {{ {limits}{group} }}
        """
        for number, user in enumerate(users or ("nobody", "nobody"))
    )


def main() -> int:
    """Run tcpdconf; the broker counts in a file that it has mapped before it became its own user."""
    from tcpdconf.cli import main as command  # noqa: PLC0415 (a measurement needs no command line)

    decide = Broker._decide  # noqa: SLF001 (this is a measurement of it)
    with open(os.environ[_COUNTED], "r+b") as file:
        number = memoryview(mmap.mmap(file.fileno(), 8)).cast("Q")

    def counting(self: Broker, take: Take) -> None:
        number[0] += 1
        decide(self, take)

    Broker._decide = counting  # type: ignore[method-assign] # noqa: SLF001 (as any method is replaced)
    return command.main()


if __name__ == "__main__":
    sys.exit(main())
