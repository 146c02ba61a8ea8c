"""What a running couriertcpd is started with, read from /proc."""

import os
import resource
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import daemons
import peers
import pytest

from tcpdconf.config import load
from tcpdconf_migrate import running

LIMIT = 256 << 20


@pytest.fixture
def process(tmp_path: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A couriertcpd on a port of 127.0.0.1, with everything unusual around it."""
    peers.need("couriertcpd")
    port = daemons.free_port()
    command = ["couriertcpd", "-address=127.0.0.1", "-nodnslookup", "-maxprocs=7", str(port), "/bin/cat"]
    started = subprocess.Popen(
        command,
        cwd=tmp_path,
        env={"PATH": "/usr/sbin:/usr/bin", "GREETING": "hello\nworld", "INVOCATION_ID": "of systemd"},
        umask=0o027,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_AS, (LIMIT, LIMIT)),  # noqa: PLW1509 (no threads)
    )
    try:
        daemons.until(
            lambda: Path(f"/proc/{started.pid}/cmdline").read_text().startswith("couriertcpd"), "it"
        )
        yield started
    finally:
        started.terminate()
        started.wait(daemons.SECONDS)


@pytest.mark.peer
def test_a_running_couriertcpd_tells_what_it_was_started_with(
    process: subprocess.Popen[bytes], tmp_path: Path
) -> None:
    found, _ = running.read("/proc")
    (command,) = (each for each in found if each.origin == f"process {process.pid}")

    assert list(command.words) == process.args
    assert command.stop == f"kill {process.pid}"
    assert command.settings["directory"] == str(tmp_path)
    assert command.settings["umask"] == "027"
    assert command.settings["rlimits"] == {"as": LIMIT}
    assert command.settings["environment"] == {"PATH": "/usr/sbin:/usr/bin", "GREETING": "hello\nworld"}
    assert command.settings["inherit_environment"] is False
    assert ("user" in command.settings) == (os.geteuid() != 0)


@pytest.mark.peer
def test_what_is_written_of_processes_is_for_nobody_else(
    process: subprocess.Popen[bytes], tmp_path: Path
) -> None:
    conf = tmp_path / "conf.d"
    done = subprocess.run(
        [sys.executable, "-m", "tcpdconf_migrate", "running", "-o", conf],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    services = load.load(conf, to_serve=False).config.services.values()

    assert done.returncode == 0, done.stderr
    assert f"process {process.pid}" in done.stderr
    assert any(service.environment.get("GREETING") == "hello\nworld" for service in services)
    assert {path.stat().st_mode & 0o777 for path in conf.iterdir()} == {0o600}
