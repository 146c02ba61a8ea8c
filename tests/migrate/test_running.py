"""Tests reading the arguments of a running couriertcpd from /proc."""

import os
import resource
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from support import peers
from support.courier import goldencases
from support.running import daemons

from tcpdconf.config.load import load
from tcpdconf_migrate import processes

LIMITS = {
    resource.RLIMIT_AS: 256 << 20, resource.RLIMIT_STACK: 4096 << 10, resource.RLIMIT_NOFILE: 300,
    resource.RLIMIT_CPU: 3000, resource.RLIMIT_FSIZE: 1 << 30,
    resource.RLIMIT_DATA: 128 << 20, resource.RLIMIT_MEMLOCK: 4096,
}  # fmt: skip


def limit() -> None:
    """Set each soft limit to what it is to be, and each hard limit too."""
    for key, value in LIMITS.items():
        resource.setrlimit(key, (value, value))


@pytest.fixture
def process(tmp_path: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A couriertcpd on a port of 127.0.0.1, with everything unusual around it."""
    peers.need("couriertcpd")
    port = daemons.free_port()
    command = ["couriertcpd", "-address=127.0.0.1", "-nodnslookup", "-maxprocs=7", str(port), "/bin/cat"]
    log = os.open(tmp_path / "log", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    started = subprocess.Popen(
        command,
        cwd=tmp_path,
        env={"PATH": "/usr/sbin:/usr/bin", "GREETING": "hello\nworld", "INVOCATION_ID": "of systemd"},
        umask=0o027,
        preexec_fn=limit,  # noqa: PLW1509 (no threads)
        stderr=log,
    )
    os.close(log)
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
    found, _ = processes.read("/proc")
    (command,) = (each for each in found if each.origin == f"process {process.pid}")

    assert list(command.words) == process.args
    assert command.stop == f"kill {process.pid}"
    assert command.settings["directory"] == str(tmp_path)
    assert command.settings["umask"] == "027"
    rlimits = command.settings["rlimits"]
    assert {key: value for key, value in rlimits.items() if key not in {"nproc", "core"}} == {
        "as": 256 << 20, "stack": 4096 << 10, "nofile": 300, "cpu": 3000, "fsize": 1 << 30,
        "data": 128 << 20, "memlock": 4096,
    }  # fmt: skip
    assert command.settings["stderr"] == {"file": str(tmp_path / "log")}
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


def test_all_limits_of_a_process_are_read(tmp_path: Path) -> None:
    """Limits equal to those of init are left out; a limit that a service cannot have is a note."""
    goldencases.process(tmp_path / "1", {"words": ["init"], "limits": {"Max open files": "1024"}})
    limits = {
        "Max processes": "99", "Max open files": "1024", "Max locked memory": "unlimited",
        "Max realtime priority": "5", "Max core file size": "0",
    }  # fmt: skip
    goldencases.process(tmp_path / "9", {"words": ["couriertcpd", "25", "x"], "limits": limits})
    ((command,), _) = processes.read(str(tmp_path))

    assert command.settings["rlimits"] == {"nproc": 99, "core": 0, "memlock": "unlimited"}
    assert [note.what for note in command.notes] == ["Max realtime priority 5"]


@pytest.mark.parametrize(
    ("target", "expected", "noted"),
    [
        ("/var/log/mail.log", {"file": "/var/log/mail.log"}, False),
        ("/dev/null", {"file": "/dev/null"}, False),
        ("/dev/pts/3", None, False),
        ("socket:[1]", None, False),
        ("pipe:[1]", None, True),
        ("/var/log/mail.log.1 (deleted)", None, True),
        ("pipe:[2]", {"logger": ["/usr/sbin/courierlogger"], "name": "imapd"}, False),
    ],
)
def test_standard_error_of_a_process_goes_on(
    tmp_path: Path, target: str, expected: dict[str, object] | None, *, noted: bool
) -> None:
    goldencases.process(tmp_path / "1", {"words": ["init"]})
    logger = ["/usr/sbin/courierlogger", "-pid=/run/x", "-start", "-name=imapd", "couriertcpd", "25", "x"]
    goldencases.process(tmp_path / "8", {"words": logger})
    os.symlink("pipe:[2]", tmp_path / "8/fd/0")
    goldencases.process(tmp_path / "9", {"words": ["couriertcpd", "25", "x"], "stderr": target})
    ((command,), _) = processes.read(str(tmp_path))

    assert command.settings.get("stderr") == expected
    assert [note.what for note in command.notes] == [f"standard error, {target}"] * noted
