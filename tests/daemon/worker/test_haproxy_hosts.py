"""Tests two hosts that share clients: HAProxy and tcpdconf on each, one limit for a source over both.

The configuration is that of docs/how-to/several-hosts.md, on other ports.
"""

import contextlib
import pathlib
import re
import socket
import subprocess
from collections.abc import Iterator
from typing import NamedTuple

import pytest
from support import markdown, peers
from support.running import daemons

pytestmark = [pytest.mark.peer, pytest.mark.slow]

PAGE = pathlib.Path(__file__).parents[3] / "docs/how-to/several-hosts.md"
HOSTS = {"a": "127.0.0.1", "b": "127.0.0.2"}
LIMIT = 5  # new connections of a source in a minute, as the page says


class Host(NamedTuple):
    """One host: its daemon, where clients connect, and the socket on which its HAProxy answers."""

    daemon: daemons.Daemon
    front: tuple[str, int]
    admin: pathlib.Path

    def said(self, command: str) -> str:
        """Return HAProxy's answer to a command."""
        with socket.socket(socket.AF_UNIX) as admin:
            admin.connect(str(self.admin))
            admin.sendall(f"{command}\n".encode())
            return daemons.read(admin).decode()

    def answers(self) -> bool:
        """Return whether its HAProxy answers; its socket is there a moment before."""
        with contextlib.suppress(OSError):
            return bool(self.said("show info"))
        return False

    def has_company(self) -> bool:
        """Return whether its HAProxy has a connection to the other one that lasts."""
        return re.search(r"rx_hbt=[1-9]", self.said("show peers")) is not None

    def knows(self, name: str, source: str) -> int:
        """Return the number of connections of a source that it counts at a host."""
        (rate,) = re.findall(
            rf"key=::ffff:{source} .* conn_rate\(60000\)=(\d+)", self.said(f"show table hosts/{name}")
        ) or ["0"]
        return int(rate)


@pytest.fixture(scope="module")
def hosts(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Host]]:
    """Both hosts, from when they have found each other."""
    peers.need("haproxy")
    peers.need_root()  # the page's service has a user
    folder = tmp_path_factory.mktemp("hosts")
    ports = {port: daemons.free_port() for port in ("4030", "4031", "4032")}

    def moved(text: str) -> str:
        return re.sub(r"\b(40\d\d)\b", lambda found: str(ports[found[1]]), text)

    (service,) = (block.text for block in markdown.blocks(PAGE, "toml"))
    (haproxy,) = (block.text for block in markdown.blocks(PAGE, "cfg"))
    (folder / "haproxy.cfg").write_text(moved(haproxy))
    with contextlib.ExitStack() as stack:
        found = {}
        for name, address in HOSTS.items():
            (folder / name).mkdir()
            text = moved(service).replace(f'address = "{HOSTS["a"]}"', f'address = "{address}"')
            daemon = stack.enter_context(daemons.Daemon(folder / name, text))
            found[name] = Host(daemon, (address, int(ports["4031"])), folder / f"{name}.sock")
        for name, address in HOSTS.items():  # only now: each proxy is to find both services at its first look
            process = subprocess.Popen(
                ["haproxy", "-db", "-q", "-L", name, "-f", "haproxy.cfg"],
                cwd=folder,
                env={"ADDRESS": address, "PATH": "/usr/sbin:/usr/bin"},
            )
            stack.callback(process.wait, daemons.SECONDS)
            stack.callback(process.terminate)
        for host in found.values():
            daemons.until(host.answers, "haproxy")
            daemons.until(host.has_company, "the other host")
        yield found


def answer(host: Host, source: str) -> bytes:
    """Return the output for a client; HAProxy resets clients that it rejects."""
    address, port = host.front
    with contextlib.suppress(ConnectionResetError):
        return daemons.talk(port, address, source)
    return b""


def served(hosts: dict[str, Host], through: str, source: str) -> bool:
    """Return whether a client is served; returns when both hosts know of it."""
    other = next(name for name in hosts if name != through)
    before = hosts[through].knows(through, source)
    found = answer(hosts[through], source)
    daemons.until(lambda: hosts[other].knows(through, source) == before + 1, "the other host's count")
    assert found in {b"", f"served ::ffff:{source}\n".encode()}
    return found != b""


@pytest.mark.parametrize(
    ("source", "way"),
    [
        ("127.0.0.11", "aaaaaaaa"),
        ("127.0.0.12", "bbbbbbbb"),
        ("127.0.0.13", "abababab"),
        ("127.0.0.14", "aaabbbaa"),
    ],
)
def test_the_limit_holds_over_both_hosts_whichever_way_a_client_comes(
    hosts: dict[str, Host], source: str, way: str
) -> None:
    assert [served(hosts, through, source) for through in way] == [True] * LIMIT + [False] * (
        len(way) - LIMIT
    )


def test_both_daemons_have_served_and_knew_the_client(hosts: dict[str, Host]) -> None:
    for _ in range(4):
        assert served(hosts, "a", "127.0.0.20")
    for host in hosts.values():
        assert host.daemon.await_log(r"^accept service=show peer=127\.0\.0\.20:\d+ via=", 1)


def test_a_host_that_comes_back_learns_what_the_other_knows(hosts: dict[str, Host]) -> None:
    """Its table is empty, but no source begins anew."""
    for _ in range(LIMIT):
        assert served(hosts, "a", "127.0.0.30")
    hosts["b"].said("clear table hosts/a")
    assert hosts["b"].knows("a", "127.0.0.30") == 0
    assert not served(hosts, "a", "127.0.0.30")

    assert answer(hosts["b"], "127.0.0.30") == b""
