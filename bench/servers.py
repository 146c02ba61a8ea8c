"""Runs the three servers to compare, with the same program and the same limits; their logs go to /dev/null.

couriertcpd is Debian's (courier-base), and tcpserver is that of ucspi-tcp. Both have one process for each
service; tcpdconf has one daemon for all services.
"""

import contextlib
import os
import pathlib
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Final, NamedTuple

from bench import clients

MOST: Final = 2000  # most simultaneous connections
_TICK: Final = 1 / os.sysconf("SC_CLK_TCK")  # seconds of a clock tick


class Service(NamedTuple):
    """Describes a service to measure; its port follows from `number`, and its files are access databases."""

    number: int
    program: str
    gdbm: pathlib.Path | None = None
    cdb: pathlib.Path | None = None
    max_per_ip: int = MOST
    haproxy: bool = False
    lists: int = 0
    limited: bool = False
    early_talker: bool = False
    workers: int = 1


class Server(NamedTuple):
    """Describes a running server: its processes, without the programs that these have started."""

    first_port: int
    pids: tuple[int, ...]

    def port(self, service: Service) -> int:
        """Return the port of a service."""
        return self.first_port + service.number


Start = Callable[[Sequence[Service]], contextlib.AbstractContextManager[Server]]


def toml(service: Service) -> str:
    """Return the TOML of a service for tcpdconf."""
    haproxy = ', haproxy = { trusted = ["127.0.0.1"], max_pending = 1000, max_pending_per_peer = 1000 }'
    lists = ", ".join(f'{{ zone = "l{number}.example", probe = false }}' for number in range(service.lists))
    access = "" if service.gdbm is None else f'{{ file = "{service.gdbm}" }}'
    return f"""
        [services.s{service.number}]
        program = ["{service.program}"]
        workers = {service.workers}
        listeners = [{{ address = "127.0.0.1", port = {4000 + service.number}{haproxy * service.haproxy} }}]
        limits = {{ max_connections = {MOST}, max_per_ip = {service.max_per_ip}, max_per_network = {MOST} }}
        dns_lists = [{lists}]
        access = [{access}]
        {"rlimits = { nofile = 64, core = 0 }" * service.limited}
        {"early_talker = { wait = '60s' }" * service.early_talker}
    """


@contextlib.contextmanager
def tcpdconf(services: Sequence[Service]) -> Iterator[Server]:
    """Run one tcpdconf with all services."""
    with daemon("".join(map(toml, services))) as running:
        yield Server(4000, (running.pid,))


class Daemon(NamedTuple):
    """Describes a running tcpdconf; `folder` has its `bench.toml` and `run`, the directory of its sockets."""

    pid: int
    folder: pathlib.Path


@contextlib.contextmanager
def daemon(
    text: str,
    module: str = "tcpdconf",
    log: int = subprocess.DEVNULL,
    state: str | None = None,
    more: Mapping[str, str] | None = None,
) -> Iterator[Daemon]:
    """Run a tcpdconf with this configuration, and yield it once it is ready.

    `state` is its state directory; when left out, it has one of its own. `more` are variables for `module`.
    """
    with clients.folder() as name, socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as heard:
        folder = pathlib.Path(name)
        (folder / "bench.toml").write_text(text)
        heard.bind(f"{name}/notify")
        heard.settimeout(clients.SECONDS)
        command = [sys.executable, "-m", module, "run", name, "--runtime-dir", f"{name}/run"]
        variables = {"NOTIFY_SOCKET": f"{name}/notify", "STATE_DIRECTORY": state or f"{name}/state"}
        variables |= more or {}
        with running(command, variables, log) as pid:
            while "READY=1" not in heard.recv(4096).decode().split("\n"):
                pass
            heard.close()
            yield Daemon(pid, folder)


@contextlib.contextmanager
def couriertcpd(services: Sequence[Service]) -> Iterator[Server]:
    """Run one couriertcpd for each service."""
    with _each(5000, services, _couriertcpd) as server:
        yield server


def _couriertcpd(service: Service, port: int) -> list[str]:
    limits = [f"-maxprocs={MOST}", f"-maxperip={service.max_per_ip}", f"-maxperc={MOST}", "-listen=1000"]
    access = [] if service.gdbm is None else [f"-access={service.gdbm}"]
    blocks = [f"-block=l{number}.example,BLOCK,no" for number in range(service.lists)]
    options = ["-nodnslookup", "-address=127.0.0.1", *limits, *access, *blocks]
    return ["/usr/sbin/couriertcpd", *options, str(port), service.program]


@contextlib.contextmanager
def tcpserver(services: Sequence[Service]) -> Iterator[Server]:
    """Run one tcpserver for each service, without limits per address, without DNS lists and without a log."""
    with _each(6000, services, _tcpserver) as server:
        yield server


@contextlib.contextmanager
def logging_tcpserver(services: Sequence[Service]) -> Iterator[Server]:
    """Run tcpservers with -v, which log connections as tcpdconf and couriertcpd do."""
    with _each(8000, services, lambda service, port: _tcpserver(service, port, "-v")) as server:
        yield server


def _tcpserver(service: Service, port: int, *more: str) -> list[str]:
    access = [] if service.cdb is None else ["-x", str(service.cdb)]
    options = [*more, "-RH", "-l0", f"-c{MOST}", "-b1000", *access]
    return ["tcpserver", *options, "127.0.0.1", str(port), service.program]


@contextlib.contextmanager
def _each(
    first_port: int, services: Sequence[Service], command: Callable[[Service, int], list[str]]
) -> Iterator[Server]:
    with contextlib.ExitStack() as stack:
        ports = [first_port + service.number for service in services]
        pids = [
            stack.enter_context(running(command(service, port)))
            for service, port in zip(services, ports, strict=True)
        ]
        for port in ports:
            clients.await_port(port)
        yield Server(first_port, tuple(pids))


@contextlib.contextmanager
def running(
    command: list[str], environment: Mapping[str, str] | None = None, log: int = subprocess.DEVNULL
) -> Iterator[int]:
    """Run a process, yield its pid, and end it afterwards."""
    wanted = {**os.environ, **(environment or {})}
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=log, env=wanted)
    try:
        yield process.pid
    finally:
        process.terminate()
        process.wait(clients.SECONDS)


def children(pid: int) -> list[int]:
    """Return the children of all threads of a process (proc(5)); none if it has ended."""
    found: list[int] = []
    with contextlib.suppress(OSError):
        for thread in os.listdir(f"/proc/{pid}/task"):
            found += map(int, pathlib.Path(f"/proc/{pid}/task/{thread}/children").read_text().split())
    return found


def tree(pids: Sequence[int]) -> list[int]:
    """Return these processes and all of their descendants."""
    found = list(pids)
    for pid in found:
        found += children(pid)
    return found


def spent(server: Server) -> float:
    """Return the processor seconds of a server and of its ended programs (proc(5), stat)."""
    ticks = 0
    for pid in tree(server.pids):
        with contextlib.suppress(OSError):
            fields = pathlib.Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2].split()
            ticks += sum(map(int, fields[11:15]))
    return ticks * _TICK


def since(before: float, server: Server) -> float:
    """Return the seconds spent since `before`, at least one tick: the resolution of the clock."""
    return max(spent(server) - before, _TICK)
