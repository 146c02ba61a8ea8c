"""Runs Courier's own programs with an access file: makedat for the database, couriertcpd for answers.

couriertcpd serves in a network of its own, where every address is local, so clients come from anywhere.
Run as a program, this module is what happens within that network.
"""

import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from support import peers

MAKEDAT = "/usr/lib/courier/makedat"
COURIERTCPD = "/usr/sbin/couriertcpd"

Variables = dict[str, str]
Link = tuple[str, str, int]  # the client's address, the local address and port

_PLENTY = "-maxprocs=1000", "-maxperip=1000", "-maxperc=1000"
_FREEBIND = {
    socket.AF_INET: (socket.IPPROTO_IP, 15),  # IP_FREEBIND
    socket.AF_INET6: (socket.IPPROTO_IPV6, 78),  # IPV6_FREEBIND
}


def need() -> None:
    """Skip the test where these programs cannot run."""
    peers.need_root()
    peers.need("unshare", "ip", "perl", MAKEDAT, COURIERTCPD)


def makedat(text: bytes, folder: Path) -> Path:
    """The database that makedat -cidr makes of a text."""
    source, database = folder / "access", folder / "access.dat"
    source.write_bytes(text)
    subprocess.run(
        [MAKEDAT, f"-src={source}", f"-file={database}", f"-tmp={folder / 'access.tmp'}", "-cidr"], check=True
    )
    return database


def answers(database: Path, links: Sequence[Link], *options: str) -> list[Variables | None]:
    """The variables that the program of each connection sees, without TCP...; None where it is refused."""
    ports = ",".join(str(port) for port in sorted({port for *_, port in links}))
    argv = [
        COURIERTCPD,
        "-nodnslookup",
        *_PLENTY,
        f"-access={database}",
        *options,
        ports,
        "/usr/bin/env",
        "-0",
    ]
    done = subprocess.run(
        ["unshare", "--net", sys.executable, __file__],
        input=json.dumps({"argv": argv, "links": links}),
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        text=True,
        check=True,
        stdout=subprocess.PIPE,
        timeout=60,
    )
    found: list[Variables | None] = json.loads(done.stdout)
    return found


def _main() -> None:
    task = json.load(sys.stdin)
    for command in (
        "ip link set lo up",
        "ip route add local 0.0.0.0/0 dev lo",
        "ip -6 route add local ::/0 dev lo",
    ):
        subprocess.run(command.split(), check=True)
    with _served(task["argv"], task["links"][0]):
        print(json.dumps([_variables(_received(*link)) for link in task["links"]]))


@contextmanager
def _served(argv: list[str], link: Link) -> Iterator[None]:
    with subprocess.Popen(argv, env={}) as daemon:
        try:
            for _ in range(100):
                try:
                    _received(*link)
                    break
                except ConnectionRefusedError:
                    time.sleep(0.05)
            yield
        finally:
            daemon.terminate()


def _received(peer: str, local: str, port: int) -> bytes:
    family = socket.AF_INET6 if ":" in peer else socket.AF_INET
    with socket.socket(family) as client:
        client.settimeout(10)
        client.setsockopt(*_FREEBIND[family], 1)
        client.bind((peer, 0))
        client.connect((local, port))
        return b"".join(iter(lambda: client.recv(65536), b""))


def _variables(environment: bytes) -> Variables | None:
    """Entries without a name are left out: couriertcpd makes them of empty items, nobody can read them."""
    if not environment:
        return None
    pairs = [os.fsdecode(entry).partition("=") for entry in environment.split(b"\0")[:-1]]
    return {name: value for name, _, value in pairs if name and not name.startswith("TCP")}


if __name__ == "__main__":
    _main()
