"""Compares served and refused connections with those of couriertcpd and tcpserver."""

import contextlib
import functools
import pathlib
import subprocess
from collections.abc import Callable, Mapping, Sequence
from typing import Final, NamedTuple

from bench import clients, figures, servers

AT_ONCE: Final = 50
REFUSALS: Final = 4  # refused connections for each served one of other cases, since they cost little
MAKEDAT: Final = "/usr/lib/courier/makedat"
STARTS: Final[Mapping[str, servers.Start]] = {
    "tcpdconf": servers.tcpdconf,
    "couriertcpd": servers.couriertcpd,
    "tcpserver": servers.tcpserver,
    "tcpserver -v": servers.logging_tcpserver,
}
Once = Callable[[servers.Server], Sequence[float]]


def latency(tools: clients.Tools, service: servers.Service, count: int) -> Once:
    """Return a function that measures the microseconds of a connection, one client at a time."""

    def once(server: servers.Server) -> Sequence[float]:
        return (_run(tools, server.port(service), count // 4, 1, served=True).median * 1e6,)

    return once


def rate(tools: clients.Tools, service: servers.Service, count: int) -> Once:
    """Return a function that measures served connections a second, and processor seconds for 10,000."""

    def once(server: servers.Server) -> Sequence[float]:
        before = servers.spent(server)
        seconds = _run(tools, server.port(service), count, AT_ONCE, served=True).seconds
        return count / seconds, servers.since(before, server) * 10_000 / count

    return once


def refusals(tools: clients.Tools, service: servers.Service, count: int, source: str = "127.0.0.1") -> Once:
    """Return a function that measures refused connections a second, with many clients at once."""

    def once(server: servers.Server) -> Sequence[float]:
        port = server.port(service)
        return (count / _run(tools, port, count, AT_ONCE, served=False, source=source).seconds,)

    return once


def _run(
    tools: clients.Tools, port: int, count: int, at_once: int, *, served: bool, source: str = "127.0.0.1"
) -> clients.Load:
    found = tools.run(port, count, at_once, source=source)
    if found.served != count * served:
        raise RuntimeError(f"port {port} has served {found.served} of {count}")
    return found


def compare(
    metrics: Sequence[figures.Metric], once: Once, running: Mapping[str, servers.Server]
) -> figures.Case:
    """Return the case that measures the same on each of these servers."""
    return figures.Case(
        tuple(metrics), {name: functools.partial(once, server) for name, server in running.items()}
    )


def measure(tools: clients.Tools, folder: pathlib.Path, *, count: int, rounds: int) -> list[figures.Figure]:
    """Measure all cases, with `count` connections in one round of each."""
    gdbm, cdb = databases(folder)
    static, dynamic = servers.Service(0, tools.static), servers.Service(1, tools.dynamic)
    bare = servers.Service(2, tools.bare)
    denied = servers.Service(3, tools.static, gdbm, cdb)
    single = servers.Service(4, tools.static, max_per_ip=1)
    limited = servers.Service(5, tools.bare, limited=True)
    every = [static, dynamic, bare, denied, single]
    with contextlib.ExitStack() as stack:
        running = {
            name: stack.enter_context(start([*every, limited] if name == figures.SUBJECT else every))
            for name, start in STARTS.items()
        }
        limiting = {name: running[name] for name in ("tcpdconf", "couriertcpd")}
        for server in limiting.values():
            stack.enter_context(clients.hold(server.port(single)))
        refused = count * REFUSALS
        cases = [
            *served(tools, static, count, running, STATIC),
            *served(tools, dynamic, count, running, DYNAMIC),
            *served(tools, bare, count, running, BARE),
            rlimits(tools, limited, bare, count, running[figures.SUBJECT]),
            compare([REFUSED_BY_RULE], refusals(tools, denied, refused), running),
            compare([REFUSED_BY_LIMIT], refusals(tools, single, refused, clients.HOLDING), limiting),
            ceiling(tools, stack, refused),
        ]
        return figures.measure(cases, rounds)


def served(
    tools: clients.Tools,
    service: servers.Service,
    count: int,
    running: Mapping[str, servers.Server],
    program: "Program",
) -> list[figures.Case]:
    """Return the cases of a program."""
    alone = figures.Metric(f"admitted, one at a time, {program.name}", "us", "less", program.alone)
    many = figures.Metric(f"admitted, {AT_ONCE} at once, {program.name}", "1/s", "more", program.many)
    spent = figures.Metric(f"processor for 10,000 admitted, {program.name}", "s", "less", program.spent)
    return [
        compare([alone], latency(tools, service, count), running),
        compare([many, spent], rate(tools, service, count), running),
    ]


def rlimits(
    tools: clients.Tools, limited: servers.Service, free: servers.Service, count: int, server: servers.Server
) -> figures.Case:
    """Return the case that measures the time that resource limits add to a connection, one at a time."""
    targets = {figures.SUBJECT: 30}
    metric = figures.Metric("what rlimits add, one at a time", "us", "less", targets, difference=True)

    def added() -> Sequence[float]:
        with_, without = (latency(tools, service, count)(server)[0] for service in (limited, free))
        return (with_ - without,)

    return figures.Case((metric,), {figures.SUBJECT: added})


def ceiling(tools: clients.Tools, stack: contextlib.ExitStack, count: int) -> figures.Case:
    """Return the case that measures the clients' own ceiling."""
    pid = stack.enter_context(servers.running([tools.accept, "7000"]))
    clients.await_port(7000)
    once = rate(tools, servers.Service(0, ""), count)

    def reached() -> Sequence[float]:
        return once(servers.Server(7000, (pid,)))[:1]

    metric = figures.Metric("the clients' own ceiling: accept and write in C", "1/s", "more")
    return figures.Case((metric,), {"C": reached})


def databases(folder: pathlib.Path) -> tuple[pathlib.Path, pathlib.Path]:
    """Write a rule that denies all clients; return the database of couriertcpd and that of tcpserver."""
    source, gdbm, cdb = folder / "access", folder / "access.dat", folder / "access.cdb"
    source.write_text("127\tdeny\n")
    subprocess.run(
        [MAKEDAT, f"-src={source}", f"-file={gdbm}", f"-tmp={folder / 'tmp'}", "-cidr"], check=True
    )
    subprocess.run(["tcprules", str(cdb), str(folder / "tmp")], input=b"127.:deny\n", check=True)
    return gdbm, cdb


class Program(NamedTuple):
    """Holds a program's name and targets: one connection at a time, many at once, processor time."""

    name: str
    alone: Mapping[str, float]
    many: Mapping[str, float]
    spent: Mapping[str, float]


STATIC: Final = Program(
    "static program",
    {"couriertcpd": 0.70, "tcpserver": 0.90},
    {"couriertcpd": 1.35, "tcpserver": 1.12},
    {"couriertcpd": 0.70, "tcpserver": 0.90},
)
DYNAMIC: Final = Program(
    "dynamic program",
    {"couriertcpd": 0.75, "tcpserver": 0.92},
    {"couriertcpd": 1.30, "tcpserver": 1.08},
    {"couriertcpd": 0.80},
)
BARE: Final = Program(
    "static program without a C library",
    {"couriertcpd": 0.50, "tcpserver": 0.85},
    {"couriertcpd": 1.9, "tcpserver": 1.35},
    {"couriertcpd": 0.50, "tcpserver": 0.72},
)
REFUSED_BY_RULE: Final = figures.Metric(
    f"refused by access rule, {AT_ONCE} at once", "1/s", "more", {"couriertcpd": 4.0, "tcpserver": 2.5}
)
REFUSED_BY_LIMIT: Final = figures.Metric(
    f"refused by limit per address, {AT_ONCE} at once", "1/s", "more", {"couriertcpd": 4.0}
)
