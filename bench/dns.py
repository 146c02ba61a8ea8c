"""Compares DNS lists with those of couriertcpd, which asks one after the other. No client is listed."""

import contextlib
import functools
import pathlib
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Final

from bench import alone, clients, figures, servers

AT_ONCE: Final = 4
WANTED: Final = {1: 1.0, 3: 1.2, 8: 1.5}  # ratio to couriertcpd's connections a second, by number of lists
DELAY: Final = 0.05  # seconds until a slow list answers


@contextlib.contextmanager
def rbldnsd(folder: pathlib.Path) -> Iterator[None]:
    """Run rbldnsd on port 53 with eight lists, which have only their test entry."""
    (folder / "list").write_text("127.0.0.2\n")
    zones = [f"l{number}.example:ip4set:list" for number in range(8)]
    address = f"{alone.NAMESERVER}/53"
    with servers.running(
        ["/usr/sbin/rbldnsd", "-n", "-u", "nobody", "-b", address, "-w", str(folder), *zones]
    ):
        _await_answers()
        yield


@contextlib.contextmanager
def slow_server() -> Iterator[None]:
    """Run a name server on port 53 that answers NXDOMAIN after DELAY."""
    server = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    server.bind((alone.NAMESERVER, 53))

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


def _await_answers() -> None:
    question = b"\1\1\0\0\0\1\0\0\0\0\0\0\2l0\7example\0\0\6\0\1"
    for _ in range(500):
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client, contextlib.suppress(OSError):
            client.settimeout(0.02)
            client.connect((alone.NAMESERVER, 53))
            client.send(question)
            if client.recv(512):
                return
        time.sleep(0.02)  # refused: it does not listen yet
    raise TimeoutError("rbldnsd does not answer")


def measure(tools: clients.Tools, folder: pathlib.Path, *, count: int, rounds: int) -> list[figures.Figure]:
    """Measure all cases, with `count` connections in one round of each."""
    services = {number: servers.Service(number, tools.static, lists=number) for number in WANTED}
    every = list(services.values())
    with servers.tcpdconf(every) as own, servers.couriertcpd(every) as other:
        running = {"tcpdconf": own, "couriertcpd": other}
        with rbldnsd(folder):
            cold = [_cold(tools, services[number], count, running) for number in WANTED]
            found = figures.measure(cold, rounds)
        with slow_server():
            return found + figures.measure([_slow(services[8], running)], rounds)


def _cold(
    tools: clients.Tools, service: servers.Service, count: int, running: Mapping[str, servers.Server]
) -> figures.Case:
    def once(server: servers.Server) -> Sequence[float]:
        before = servers.spent(server)
        seconds = tools.run(server.port(service), count, AT_ONCE, fresh=True).seconds
        return count / seconds, servers.since(before, server) * 10_000 / count

    name = f"DNS lists, cold: {service.lists}"
    rate = figures.Metric(name, "1/s", "more", {"couriertcpd": WANTED[service.lists]})
    spent = figures.Metric(f"{name}, processor for 10,000", "s", "less")
    return figures.Case((rate, spent), _on(once, running))


def _slow(service: servers.Service, running: Mapping[str, servers.Server]) -> figures.Case:
    def once(server: servers.Server) -> Sequence[float]:
        return (clients.first_byte(server.port(service), clients.fresh()) * 1000,)

    name = f"{service.lists} lists of {DELAY * 1000:.0f} ms: time to first byte"
    return figures.Case((figures.Metric(name, "ms", "less", {"tcpdconf": 60}),), _on(once, running))


def _on(
    once: Callable[[servers.Server], Sequence[float]], running: Mapping[str, servers.Server]
) -> dict[str, Callable[[], Sequence[float]]]:
    return {name: functools.partial(once, server) for name, server in running.items()}
