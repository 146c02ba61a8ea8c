"""Real partitions: hosts and engine have a network each, a bridge joins them, and the link of one is cut."""

import contextlib
import pathlib
import subprocess
import time
from collections.abc import Iterator, Mapping
from typing import Final, Self

import pytest
from support import engines, networks, peers
from support.running import clusterdaemons, daemons
from support.running.clusterdaemons import REFUSED

pytestmark = [pytest.mark.peer, pytest.mark.slow, pytest.mark.timeout(240)]

ADDRESSES: Final = {"engine": "198.18.0.1", "mx1": "198.18.0.2", "mx2": "198.18.0.3", "mx3": "198.18.0.4"}
PORT: Final = 6379
LIMIT: Final = 4
DEADLINE: Final = 1.0
AT_ONCE: Final = 0.5  # seconds that a connection takes on a busy machine while nobody waits for the engine
CLIENT, STRANGER = "127.0.0.9", "127.0.0.8"
IN, OUT = "in\n", f"{REFUSED}\r\n"

# How the link of a host is cut, and mended: its own end goes down, which it notices; or packets vanish, at
# the host or on the way, which it does not.
CUTS: Final[Mapping[str, tuple[str, str, bool]]] = {
    "down": ("ip link set uplink down", "ip link set uplink up", True),
    "dropped": ("iptables -A INPUT -i uplink -j DROP", "iptables -F INPUT", True),
    "unplugged": ("ip link set mx2 nomaster", "ip link set mx2 master bridge", False),
}


class Host(clusterdaemons.Host):
    """A daemon in a network of its own, with clients on its loopback."""

    def __init__(self, folder: pathlib.Path, name: str, network: int) -> None:
        url = f"redis://{ADDRESSES['engine']}:{PORT}"
        limits = f"max_connections = 200\nmax_per_ip = {LIMIT}"
        super().__init__(folder, url, name, limits=limits, deadline=f"{DEADLINE * 1000:.0f}ms", workers=3)
        self.name = name
        self.network = network

    def __enter__(self) -> Self:
        with networks.of(self.network):
            super().__enter__()
        return self

    def line(self, source: str | None = CLIENT, port: int | None = None) -> str:
        """The first line that a new connection reads; one that is served stays open."""
        with networks.of(self.network):
            return super().line(source, port)

    def waits(self, count: int, network: str) -> list[float]:
        """Let so many strangers be served; the seconds that each has waited."""
        found = []
        for number in range(count):
            begun = time.monotonic()
            assert self.line(f"{network}.{number + 1}") == IN
            found.append(time.monotonic() - begun)
        return found

    def sees(self, name: str) -> bool:
        """Return whether the lease of another host has not ended, so that its connections count."""
        return any(each["name"] == name and each["alive"] for each in self.status()["hosts"])


class Lan:
    """Three hosts and an engine."""

    def __init__(self, folder: pathlib.Path, pids: dict[str, int]) -> None:
        self._engine = pids["engine"]
        options = ("--protected-mode", "no")
        self.engine = engines.Engine(folder, *options, port=PORT, address=ADDRESSES["engine"])
        self.hosts = [Host(folder, name, pids[name]) for name in ("mx1", "mx2", "mx3")]

    @contextlib.contextmanager
    def up(self) -> Iterator[Self]:
        """Have them all run, and count together."""
        with contextlib.ExitStack() as stack:
            with networks.of(self._engine):
                stack.enter_context(self.engine)
            for host in self.hosts:
                stack.enter_context(host)
            for host in self.hosts:
                host.asks()
            yield self

    def counted(self) -> int:
        """The connections of the client on all hosts, as the engine has them."""
        return clusterdaemons.field(self.engine, CLIENT)


@pytest.fixture
def lan() -> Iterator[Lan]:
    """A network of networks."""
    with contextlib.ExitStack() as stack:
        stack.enter_context(networks.new())
        folder = stack.enter_context(daemons.public_folder())
        pids = stack.enter_context(networks.bridged(ADDRESSES))
        yield stack.enter_context(Lan(folder, pids).up())


def run(command: str, network: int | None) -> None:
    """Run a command in the network of a process, or in that of the bridge."""
    with contextlib.nullcontext() if network is None else networks.of(network):
        done = subprocess.run(command.split(), capture_output=True, text=True, check=False)
    if done.returncode:
        peers.without(f"{command}: {done.stderr.strip()}")


@pytest.mark.parametrize("cut", CUTS)
def test_a_link_that_is_cut(lan: Lan, cut: str) -> None:
    """Each side limits by itself, nobody waits longer than the deadline, and afterwards all adds up."""
    if cut == "dropped":
        peers.need("iptables")
    near, far, third = lan.hosts
    off, on, own = CUTS[cut]
    network = far.network if own else None
    assert [each.line() for each in (near, far, third)] == [IN] * 3

    run(off, network)
    waits = far.waits(12, "127.0.1")
    late = [each for each in waits if each > AT_ONCE]
    assert max(waits) < DEADLINE + AT_ONCE, waits
    assert len(late) <= 3, waits
    assert late == [each for each in waits[: len(late)] if each > AT_ONCE], waits
    far.daemon.await_log("^warning: the engine does not answer: limits hold on this host alone")
    assert [far.line() for _ in range(LIMIT)] == [IN] * (LIMIT - 1) + [OUT]  # its own limit holds

    # the hosts that reach the engine count together, and for the far one until its lease has ended
    assert max(near.waits(6, "127.0.2")) < AT_ONCE
    assert [each.line() for each in (third, near, third)] == [IN, OUT, OUT]
    daemons.until(lambda: not near.sees("mx2") and not third.sees("mx2"), "the end of the lease")
    assert [each.line() for each in (near, third, near)] == [IN, OUT, OUT]
    assert max(far.waits(6, "127.0.3")) < AT_ONCE  # nobody has waited since

    run(on, network)
    far.asks(2)
    daemons.until(lambda: lan.counted() == 2 * LIMIT, "all connections of both sides")
    daemons.until(lambda: near.sees("mx2"), "another lease")
    assert [each.line() for each in lan.hosts] == [OUT] * 3
    assert [line for line in near.daemon.log + third.daemon.log if "does not answer" in line] == []
    _end(far, CLIENT, LIMIT)
    daemons.until(lambda: lan.counted() == LIMIT, "the ends of connections")
    assert [each.line() for each in lan.hosts] == [OUT] * 3
    _end(near, CLIENT, 1)
    daemons.until(lambda: lan.counted() == LIMIT - 1, "the end of a connection")
    assert [each.line() for each in (far, near, third)] == [IN, OUT, OUT]
    # no request that was on its way when the link was cut comes late, and changes the counts
    time.sleep(2)
    assert lan.counted() == LIMIT
    for host in lan.hosts:
        while host.clients:
            host.end()
    daemons.until(lambda: not lan.engine.counted(), "no connection")


def _end(host: Host, source: str, count: int) -> None:
    """Close so many connections of an address."""
    for client in [each for each in host.clients if each.getsockname()[0] == source][:count]:
        host.clients.remove(client)
        client.close()


def test_a_link_that_flaps(lan: Lan) -> None:
    """A link that goes and comes again and again leaves nothing behind, in the engine or in a process."""
    near, far, _ = lan.hosts
    pid = far.status()["pid"]
    before = _descriptors(pid)
    assert [each.line() for each in (near, far)] == [IN] * 2
    for _ in range(5):
        run(CUTS["down"][0], far.network)
        assert far.line(STRANGER) == IN
        _end(far, STRANGER, 1)
        time.sleep(1)
        run(CUTS["down"][1], far.network)
        time.sleep(1)
    daemons.until(lambda: far.status()["state"] == "up", "the engine")
    daemons.until(lambda: lan.counted() == 2, "both connections")
    assert [each.line() for each in (near, far, near)] == [IN, IN, OUT]
    for host in lan.hosts:
        while host.clients:
            host.end()
    daemons.until(lambda: not lan.engine.counted(), "no connection")
    assert far.status()["pid"] == pid
    daemons.until(lambda: _descriptors(pid) == before, "as many descriptors as before")


def _descriptors(pid: int) -> int:
    return sum(1 for _ in pathlib.Path(f"/proc/{pid}/fd").iterdir())
