"""Measures the memory of tcpdconf, and its time for other work than connections."""

import contextlib
import functools
import json
import os
import pathlib
import re
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from typing import Final

from bench import clients, figures, servers
from tcpdconf.daemon.control import client

SERVICES: Final = 6

_REQUEST: Final = 1000  # bans in a request
_SINGLE: Final = 1000  # bans one after the other
_REST: Final = 1.0  # seconds after which the work of each process's start is done


def measure(
    tools: clients.Tools, *, networks: int, held: int, bans: int, checked: int, rounds: int
) -> list[figures.Figure]:
    """Measure everything: tables of `networks` and `bans`, `held` connections, `checked` services."""
    cases = [
        _case(_access_metrics(networks), functools.partial(access, networks)),
        _case(_MEMORY, functools.partial(memory, tools)),
        _case((_held(held),), functools.partial(each_held, tools, held)),
        _case((_waiting(held),), functools.partial(waiting, tools, held)),
        _case(_ban_metrics(bans), functools.partial(banned, tools, bans)),
        _case((_START,), functools.partial(start, tools)),
        _case((_check(checked),), functools.partial(check, tools, checked)),
    ]
    return figures.measure(cases, rounds)


def _case(metrics: tuple[figures.Metric, ...], once: "functools.partial[Sequence[float]]") -> figures.Case:
    return figures.Case(metrics, {figures.SUBJECT: once})


def access(networks: int) -> Sequence[float]:
    """Return the seconds to load a table, its megabytes, and the microseconds of a look-up."""
    command = [sys.executable, "-m", "bench.access", str(networks)]
    found = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)
    return found["load"], found["memory"] / 1e6, found["lookup"] * 1e6


def memory(tools: clients.Tools) -> Sequence[float]:
    """Return the PSS of supervisor and workers, of the watcher, of all, and the watcher's private memory.

    All values are in megabytes. PSS is the proportional set size: shared pages are divided among processes.
    """
    with servers.tcpdconf(_services(tools, SERVICES)) as server:
        watcher = _await_watcher(server)
        time.sleep(_REST)
        every = set(servers.tree(server.pids))
        shared = [sum(map(proportional, pids)) / 1e6 for pids in (every - watcher, watcher, every)]
        return [*shared, sum(map(_private, watcher)) / 1e6]


def each_held(tools: clients.Tools, held: int) -> Sequence[float]:
    """Return the bytes of a worker for each of its connections."""
    service = servers.Service(0, tools.static)
    with servers.tcpdconf([service]) as server, contextlib.ExitStack() as stack:
        port = server.port(service)
        tools.run(port, 200, 10)  # makes all allocations that happen only once
        _await_watcher(server)
        time.sleep(_REST)
        daemon = [*server.pids, *servers.children(server.pids[0])]
        before = sum(map(_private, daemon))
        for _ in range(held):
            stack.enter_context(clients.hold(port))
        return ((sum(map(_private, daemon)) - before) / held,)


def waiting(tools: clients.Tools, count: int) -> Sequence[float]:
    """Return the megabytes of a daemon for clients that wait for the greeting, without a program."""
    service = servers.Service(0, tools.static, early_talker=True)
    with servers.tcpdconf([service]) as server, contextlib.ExitStack() as stack:
        port = server.port(service)
        _await_watcher(server)
        time.sleep(_REST)
        daemon = servers.tree(server.pids)
        before = sum(map(_private, daemon))
        for _ in range(count):
            stack.enter_context(socket.create_connection(("127.0.0.1", port), clients.SECONDS))
        time.sleep(_REST)
        if servers.tree(server.pids) != daemon:
            raise RuntimeError("a client that waits has a process")
        return ((sum(map(_private, daemon)) - before) / 1e6,)


def banned(tools: clients.Tools, bans: int) -> Sequence[float]:
    """Return the megabytes that bans add to supervisor and workers, when made and after a restart.

    Then microseconds of a look-up, and milliseconds of each of 1,000 bans in a row.
    """
    text = "".join(map(servers.toml, _services(tools, SERVICES)))
    with clients.folder() as state:
        with servers.daemon(text, state=state) as running:
            before = _at_work(running)
            with client.ControlConnection(f"{running.folder}/run") as control:
                names = [f"10.{n >> 16}.{n >> 8 & 255}.{n & 255}" for n in range(bans)]
                for first in range(0, bans, _REQUEST):
                    control.ask({"command": "ban", "networks": names[first : first + _REQUEST]})
                added = _at_work(running) - before
                began = time.perf_counter()
                for number in range(_SINGLE):
                    control.ask({"command": "ban", "networks": [f"172.16.{number >> 8}.{number & 255}"]})
                single = (time.perf_counter() - began) / _SINGLE
        with servers.daemon(text, state=state) as running:
            read = _at_work(running) - before
    command = [sys.executable, "-m", "bench.bans", str(bans)]
    found = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)
    return added / 1e6, read / 1e6, found["lookup"] * 1e6, single * 1e3


def _at_work(daemon: servers.Daemon) -> int:
    """Return the PSS of supervisor and workers at rest, in bytes."""
    watcher = _await_watcher(servers.Server(4000, (daemon.pid,)))
    time.sleep(_REST)
    return sum(map(proportional, set(servers.tree((daemon.pid,))) - watcher))


def start(tools: clients.Tools) -> Sequence[float]:
    """Return the seconds from the start of a daemon until it reports that it is ready."""
    began = time.perf_counter()
    with servers.tcpdconf(_services(tools, SERVICES)):
        return (time.perf_counter() - began,)


def check(tools: clients.Tools, checked: int) -> Sequence[float]:
    """Return the seconds of `tcpdconf check`."""
    with clients.folder() as folder:
        text = "".join(map(servers.toml, _services(tools, checked)))
        pathlib.Path(folder, "bench.toml").write_text(text)
        began = time.perf_counter()
        command = [sys.executable, "-m", "tcpdconf", "check", folder]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        return (time.perf_counter() - began,)


def proportional(pid: int, field: str = "Pss") -> int:
    """Return a field of smaps_rollup (proc(5)) in bytes; Pss divides shared pages among their processes."""
    text = pathlib.Path(f"/proc/{pid}/smaps_rollup").read_text()
    return 1024 * sum(map(int, re.findall(rf"^{field}: +(\d+) kB$", text, re.MULTILINE)))


def _private(pid: int) -> int:
    return proportional(pid, "Private_(?:Clean|Dirty)")


def _services(tools: clients.Tools, count: int) -> list[servers.Service]:
    return [servers.Service(number, tools.static) for number in range(count)]


def _await_watcher(server: servers.Server) -> set[int]:
    """Wait for the watcher, the only process with threads, which starts last; return its pid in a set."""
    end = time.monotonic() + clients.SECONDS
    while time.monotonic() < end:
        found = {pid for pid in servers.tree(server.pids) if _threads(pid) > 1}
        if found:
            return found
        time.sleep(0.05)
    raise TimeoutError("no watcher")


def _threads(pid: int) -> int:
    """Return the number of a process's threads, or 0 if it has ended."""
    try:
        return len(os.listdir(f"/proc/{pid}/task"))
    except OSError:
        return 0


def _metric(name: str, unit: str, most: float, *, difference: bool = False) -> figures.Metric:
    return figures.Metric(name, unit, "less", {figures.SUBJECT: most}, difference=difference)


def _access_metrics(networks: int) -> tuple[figures.Metric, ...]:
    name = f"access table of {networks:,} networks"
    return (
        _metric(f"{name}: load", "s", 2),
        _metric(f"{name}: memory", "MB", 100, difference=True),
        _metric(f"{name}: look-up", "us", 5),
    )


def _ban_metrics(bans: int) -> tuple[figures.Metric, ...]:
    memory = f"memory of {bans:,} bans"
    return (
        _metric(f"{memory}, supervisor and {SERVICES} workers", "MB", 20, difference=True),
        _metric(f"{memory} after a restart", "MB", 20, difference=True),
        _metric(f"look-up among {bans:,} bans", "us", 1),
        _metric(f"each of {_SINGLE:,} bans in a row", "ms", 10),
    )


def _held(held: int) -> figures.Metric:
    return _metric(f"each of {held:,} held connections", "bytes", 4096, difference=True)


def _waiting(count: int) -> figures.Metric:
    return _metric(f"{count:,} connections that wait for the greeting", "MB", 2, difference=True)


def _check(checked: int) -> figures.Metric:
    return _metric(f"check of {checked} services", "s", 1.0)


_MEMORY: Final = (
    _metric(f"PSS of supervisor and {SERVICES} idle workers", "MB", 60),
    figures.Metric("PSS of the watcher beside them", "MB", "less"),
    _metric("PSS of all of these", "MB", 60),
    figures.Metric("memory that only the watcher has", "MB", "less"),
)
_START: Final = _metric(f"start to READY with {SERVICES} services", "s", 0.5)
