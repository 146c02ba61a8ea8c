"""Real daemons that count together: each has one service, whose limits count all hosts."""

import os
import pathlib
import subprocess
import sys
from typing import TYPE_CHECKING, Any, Self

from support import engines
from support.running import daemons, reloads

if TYPE_CHECKING:
    import socket


PROGRAM = 'program = ["/bin/sh", "-c", "echo in; exec cat"]'
REFUSED = "421 too many"


def conf(
    url: str,
    port: int,
    name: str = "mx1",
    *,
    limits: str = "max_connections = 600\nmax_per_ip = 3",
    cluster: str = "",
    deadline: str = "1s",
    more: str = "",
    address: str = "127.0.0.1",
    workers: int = 1,
) -> str:
    """A service on a port whose limits count all hosts."""
    user = "" if os.geteuid() else 'user = "nobody"'
    return f"""
        [cluster]
        url = "{url}"
        name = "{name}"
        deadline = "{deadline}"
        {cluster}
        [services.test]
        {PROGRAM}
        {user}
        workers = {workers}
        messages = {{ per_ip = "{REFUSED}", per_network = "{REFUSED}", cluster = "421 no engine" }}
        listeners = [{{ address = "{address}", port = {port}{more} }}]
        [services.test.limits]
        scope = "cluster"
        {limits}
    """


class Host:
    """One daemon, in a folder of its own."""

    def __init__(self, folder: pathlib.Path, url: str, name: str, **more: Any) -> None:  # noqa: ANN401 (as of `conf`)
        (folder / name).mkdir()
        self.port = daemons.free_port(more.get("address", "127.0.0.1"))
        self.daemon = reloads.Daemon(folder / name, conf(url, self.port, name, **more))
        self.clients: list[socket.socket] = []
        self.other = 0  # the port of a second service

    def __enter__(self) -> Self:
        self.daemon.__enter__()
        return self

    def __exit__(self, *error: object) -> None:
        for client in self.clients:
            client.close()
        self.daemon.__exit__(None, None, None)

    def line(self, source: str | None = None, port: int | None = None) -> str:
        """The first line that a new connection reads; one that is served stays open."""
        client = daemons.connect(port or self.port, source=source)
        found = daemons.line(client).decode()
        if found == "in\n":
            self.clients.append(client)
        else:
            client.close()
        return found

    def end(self) -> None:
        """Close the oldest connection."""
        self.clients.pop(0).close()

    def status(self) -> dict[str, Any]:
        """Return the cluster's part of `status`."""
        found: dict[str, Any] = self.daemon.ask("status")["cluster"]
        return found

    def asks(self, count: int = 1) -> None:
        """Wait until it has found the engine so many times."""
        self.daemon.await_log("^the engine answers", count)


def field(engine: engines.Engine, address: str, space: str = "test") -> int:
    """The connections of an address on all hosts, as the engine has them."""
    return sum(map(int, engine.ask("HVALS", f"tcpdconf:c:{space}:{address}/32")))


def command(host: Host, *arguments: str) -> subprocess.CompletedProcess[str]:
    """A command of tcpdconf for a running daemon."""
    runtime = ["--runtime-dir", str(host.daemon.folder / "run")]
    return subprocess.run(
        [sys.executable, "-m", "tcpdconf", *arguments, *runtime],
        capture_output=True, text=True, check=False, timeout=60,
        env={"PATH": os.defpath, "STATE_DIRECTORY": str(host.daemon.folder / "state")},
    )  # fmt: skip
