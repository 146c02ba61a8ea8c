"""A service whose clients are looked up, at a name server that does what a test says."""

import contextlib
import pathlib
import subprocess
import sys
from collections.abc import Iterator

from support.dns import dnsservers
from support.running import daemons

A = dnsservers.Reply(records=("A 127.0.0.2",))
# Seconds for an answer. A list that does not answer in time does not count, and its client is admitted: with
# less a test's name server, which waits for a processor as all do on a busy machine, would be such a list.
PATIENCE = 5.0


def healthy(server: dnsservers.Server, *zones: str) -> None:
    """Give the lists their test points (RFC 5782, 5)."""
    for zone in zones:
        server.says(f"2.0.0.127.{zone}", "A", A)


@contextlib.contextmanager
def running(
    folder: pathlib.Path, server: dnsservers.Server, settings: str, timeout: float = PATIENCE
) -> Iterator[tuple[daemons.Daemon, int]]:
    """The service and its port; its program prints its environment."""
    port = daemons.free_port()
    text = f"""
        [services.test]
        program = ["/usr/bin/env", "-0"]
        listeners = [{{ address = "127.0.0.1", port = {port} }}]
        {settings}
        [dns]
        servers = ["127.0.0.1:{server.address.port}"]
        timeout = {timeout}
        attempts = 1
    """
    with daemons.Daemon(folder, text) as daemon:
        yield daemon, port


def answer(port: int, source: str = "127.0.0.5") -> dict[str, str]:
    """The variables that were looked up for a client."""
    found = daemons.environment(daemons.talk(port, source=source))
    return {name: value for name, value in found.items() if not name.endswith(("IP", "PORT", "PROTO"))}


def probed(conf: pathlib.Path) -> subprocess.CompletedProcess[str]:
    """Return the output of `check --probe` for a configuration."""
    command = [sys.executable, "-m", "tcpdconf", "check", "--probe", str(conf)]
    return subprocess.run(command, capture_output=True, text=True, timeout=daemons.SECONDS, check=False)
