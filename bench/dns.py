"""DNS lists beside couriertcpd: connections per second when every client is new, and slow lists.

    python -m bench.dns        (as root: it makes a network and a resolv.conf of its own)

All answers are negative. couriertcpd asks its lists one after another.
"""

import contextlib
import functools
import itertools
import os
import pathlib
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator

from bench import clients

SERVER = "127.0.0.53"
LISTS = (0, 1, 3, 8)
PORT = 4200  # of tcpdconf with no list; the next ones follow, then couriertcpd's
CLIENTS = 300  # in one round
AT_ONCE = 4
ROUNDS = 25
DELAY = 0.05  # seconds that a slow list takes
_sources = itertools.count(0x7F100000, CLIENTS)
_spent: Counter[str] = Counter()


def alone() -> None:
    """Go on in a network and with a resolv.conf of our own."""
    if "TCPDCONF_BENCH" in os.environ:
        return
    script = (
        f'ip link set lo up; echo "nameserver {SERVER}" > "$0"; mount --bind "$0" /etc/resolv.conf; exec "$@"'
    )
    with tempfile.NamedTemporaryFile() as resolv:
        # In a process namespace, so that nothing is left when this is ended in the middle.
        own = ["--net", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc"]
        command = ["unshare", *own, "sh", "-ec", script, resolv.name]
        command += [sys.executable, "-m", "bench.dns"]
        sys.exit(subprocess.run(command, env={**os.environ, "TCPDCONF_BENCH": "1"}, check=False).returncode)


@contextlib.contextmanager
def rbldnsd(folder: pathlib.Path) -> Iterator[None]:
    """Eight lists on port 53 that list nobody but their test point."""
    (folder / "list").write_text("127.0.0.2\n")
    folder.chmod(0o755)  # rbldnsd refuses to be root
    zones = [f"l{number}.example:ip4set:list" for number in range(8)]
    command = ["/usr/sbin/rbldnsd", "-n", "-u", "nobody", "-b", f"{SERVER}/53", "-w", str(folder), *zones]
    with _running(command):
        yield


@contextlib.contextmanager
def slow_server() -> Iterator[None]:
    """A name server on port 53 that says NXDOMAIN after DELAY."""
    server = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    server.bind((SERVER, 53))

    def answer(data: bytes, peer: tuple[str, int]) -> None:
        server.sendto(data[:2] + b"\x81\x83" + data[4:], peer)

    def serve() -> None:
        with contextlib.suppress(OSError):
            while data := server.recvfrom(512):
                threading.Timer(DELAY, answer, data).start()

    threading.Thread(target=serve, daemon=True).start()
    try:
        yield
    finally:
        server.close()


@contextlib.contextmanager
def couriertcpd(port: int, count: int, program: str) -> Iterator[None]:
    """The real one with so many lists."""
    blocks = [f"-block=l{number}.example,BLOCK,no" for number in range(count)]
    options = ["-nodnslookup", "-maxprocs=100", "-maxperip=100", "-address=127.0.0.1", *blocks]
    with _running(["/usr/sbin/couriertcpd", *options, str(port), program]):
        yield


@contextlib.contextmanager
def _running(command: list[str]) -> Iterator[None]:
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        time.sleep(0.5)
        if process.poll() is not None:
            sys.exit(f"{command[0]} does not run")
        yield
    finally:
        process.terminate()
        process.wait(clients.SECONDS)


def service(count: int, program: str) -> str:
    """A tcpdconf service with so many lists."""
    lists = ", ".join(f'{{ zone = "l{number}.example", probe = false }}' for number in range(count))
    return f"""
        [services.lists{count}]
        program = ["{program}"]
        listeners = [{{ address = "127.0.0.1", port = {PORT + count} }}]
        limits = {{ max_connections = 100 }}
        dns_lists = [{lists}]
    """


def load_program(folder: pathlib.Path) -> str:
    """The clients, in C: what they need of the processors is missing to those who are measured."""
    program = folder / "load"
    source = pathlib.Path(__file__).with_name("load.c")
    subprocess.run(["cc", "-O2", "-o", str(program), str(source)], check=True)
    return str(program)


def rate(load: str, name: str, port: int, *, fresh: bool = True) -> float:
    """Seconds per connection with AT_ONCE clients at once, each from an address never seen, or from one."""
    first, after = (next(_sources), 1) if fresh else (0x7F000001, 0)
    command = [load, *map(str, (port, CLIENTS, AT_ONCE, first, after))]
    before = spent()
    took = float(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)
    _spent[name] += spent() - before
    return took / CLIENTS


def spent() -> int:
    """Processor time, in ticks, of all that runs in our own process namespace, or ran there."""
    found = 0
    for path in pathlib.Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            found += sum(map(int, path.read_text().rpartition(") ")[2].split()[11:15]))
    return found


def str_of(address: int) -> str:
    """An IPv4 address in text form."""
    return socket.inet_ntoa(address.to_bytes(4))


def compare(found: dict[str, list[float]], one: str, other: str) -> str:
    """How many times the other's connections per second one has.

    On a machine that others use they slow a daemon that is one process more than one that is many. So the
    fastest rounds are compared as well, and the processor time of all who take part, clients included.
    """
    middle, fastest = (which(found[other]) / which(found[one]) for which in (statistics.median, min))
    processor = _spent[other] / _spent[one]
    return f"{one}: {middle:.2f} times {other}; fastest rounds {fastest:.2f}; processor time {processor:.2f}"


def main() -> None:
    """Measure and print."""
    alone()
    with tempfile.TemporaryDirectory() as name, contextlib.ExitStack() as running:
        folder = pathlib.Path(name)
        program = clients.static_program(folder)
        load = load_program(folder)
        running.enter_context(clients.daemon("".join(service(count, program) for count in LISTS)))
        cases: dict[str, Callable[[], float]] = {}
        for count in LISTS:
            running.enter_context(couriertcpd(PORT + 100 + count, count, program))
            for who, port in (("tcpdconf", PORT), ("couriertcpd", PORT + 100)):
                case = f"{who}, {count} lists"
                cases[case] = functools.partial(rate, load, case, port + count)
        case = "tcpdconf, 3 lists, cached"
        cases[case] = functools.partial(rate, load, case, PORT + 3, fresh=False)
        with rbldnsd(folder):
            found = clients.rounds(cases, times=ROUNDS, each=1)
        clients.report(found, "tcpdconf, 0 lists")
        for count in LISTS:
            print(compare(found, f"tcpdconf, {count} lists", f"couriertcpd, {count} lists"))
        print(compare(found, "tcpdconf, 3 lists, cached", "tcpdconf, 0 lists"))
        with slow_server():
            slow = {
                f"{who}, {count} lists of {DELAY * 1000:.0f} ms": functools.partial(_first_byte, port + count)
                for who, port in (("tcpdconf", PORT), ("couriertcpd", PORT + 100))
                for count in (1, 8)
            }
            clients.report(clients.rounds(slow, times=5, each=5), "tcpdconf, 1 lists of 50 ms")


def _first_byte(port: int) -> float:
    return clients.connect_to_eof(port, source=str_of(next(_sources)))


if __name__ == "__main__":
    main()
