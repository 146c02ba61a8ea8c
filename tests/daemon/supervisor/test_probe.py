"""Tests the problems that `tcpdconf check` finds outside of the files."""

import errno
import os
import pathlib
import subprocess
import sys
from collections.abc import Iterator

import pytest
from support import peers
from support.running import daemons

from tcpdconf.config.load import load
from tcpdconf.daemon.supervisor import probe
from tcpdconf.daemon.supervisor.service.managed import ManagedService


def check(conf: pathlib.Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "tcpdconf", "check", str(conf), *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=daemons.SECONDS, check=False)


BASE = """
[services.test]
program = ["{program}"]
environment_files = [{{ path = "{shell}", shell = true }}]
listeners = [{{ address = "127.0.0.1", port = 4999 }}]
[[services.test.access]]
file = "{rules}"
"""


@pytest.fixture
def names() -> Iterator[dict[str, pathlib.Path]]:
    with daemons.public_folder() as folder:
        found = {name: folder / name for name in ("program", "shell", "rules")}
        found["program"].write_text("#!/bin/sh\n")
        found["program"].chmod(0o755)
        found["shell"].write_text("A=1\n")
        found["rules"].write_text("192.0.2\tdeny\n")
        yield found


def test_a_good_service_passes_the_probe(tmp_path: pathlib.Path, names: dict[str, pathlib.Path]) -> None:
    found = check(daemons.configure(tmp_path, BASE.format_map(names)), "--probe")

    assert (found.returncode, found.stderr) == (0, "")
    assert "1 enabled: no problems" in found.stdout


def test_the_probe_sources_what_a_worker_would_source(
    tmp_path: pathlib.Path, names: dict[str, pathlib.Path]
) -> None:
    names["shell"].write_text("if\n")
    conf = daemons.configure(tmp_path, BASE.format_map(names))
    found = check(conf, "--probe")

    assert check(conf).returncode == 0
    assert found.returncode == 78
    said = f"services.test.environment_files[0]: cannot read {names['shell']}: /bin/sh ends with status 2"
    assert said in found.stdout


def test_the_probe_tries_programs_as_their_user(
    tmp_path: pathlib.Path, names: dict[str, pathlib.Path]
) -> None:
    names["program"].chmod(0o600)
    conf = daemons.configure(tmp_path, BASE.format_map(names))
    found = check(conf, "--probe")

    assert found.returncode == 78
    assert f"services.test.program[0]: cannot run {names['program']}: Permission denied\n" in found.stdout


@pytest.mark.peer
def test_the_probe_reads_with_the_services_rights(
    tmp_path: pathlib.Path, names: dict[str, pathlib.Path]
) -> None:
    """A file that only root can read is opened for the service; a program only root can run is not."""
    peers.need_root()
    names["rules"].chmod(0o600)
    names["program"].chmod(0o700)
    conf = daemons.configure(tmp_path, BASE.format_map(names).replace("[[", 'user = "nobody"\n[[', 1))
    found = check(conf, "--probe")

    assert found.returncode == 78
    assert "1 problem" in found.stdout
    assert f"cannot run {names['program']}: Permission denied\n" in found.stdout


@pytest.mark.peer
def test_who_is_not_root_tries_with_the_rights_that_there_are(names: dict[str, pathlib.Path]) -> None:
    peers.need_other_users()
    conf = daemons.configure(
        names["rules"].parent, BASE.format_map(names).replace("[[", 'user = "nobody"\n[[', 1)
    )
    names["rules"].write_text("192.0.2 deny\n")
    command = [
        "setpriv",
        "--reuid=daemon",
        "--regid=daemon",
        "--clear-groups",
        sys.executable,
        "-m",
        "tcpdconf",
    ]
    command += ["check", "--probe", str(conf)]
    found = subprocess.run(command, capture_output=True, text=True, timeout=daemons.SECONDS, check=False)

    assert (
        f"{names['rules']}:1:1: error: services.test.access[0].file: cannot load access rules" in found.stdout
    )
    assert ("1 problem" in found.stdout, found.stderr) == (True, "")


def test_two_rules_for_the_same_addresses(tmp_path: pathlib.Path) -> None:
    text = """
[services.test]
program = ["/bin/true"]
listeners = [{ address = "127.0.0.1", port = 4999 }]
[[services.test.access]]
rules = [
  { network = "192.0.2.0/24", action = "deny" },
  { network = "192.0.2.0/24", action = "allow" },
]
"""
    for arguments in ([], ["--probe"]):
        folder = tmp_path / str(len(arguments))
        folder.mkdir()
        found = check(daemons.configure(folder, text), *arguments)

        assert found.returncode == 78
        place = "test.toml:8:3: error: services.test.access[0].rules[1]: a rule for the same network"
        assert found.stdout.count(place) == 1


def test_a_host_without_processes_is_a_problem_of_each_service(
    tmp_path: pathlib.Path, names: dict[str, pathlib.Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    def none_left(*_: object) -> None:
        raise BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN))

    monkeypatch.setattr(ManagedService, "try_out", none_left)
    tried = probe.run(load.load(daemons.configure(tmp_path, BASE.format_map(names))), {})

    assert [(found.key, found.text) for found in tried.problems] == [
        ("services.test", "cannot be tried: Resource temporarily unavailable")
    ]
