"""Tests the remaining capabilities of a service's processes, from /proc/self/status."""

import os
import pathlib
import re
import subprocess
import sys
from collections.abc import Iterator, Sequence

import pytest
from support import peers
from support.running import daemons

DAEMON = 1  # the number of the user and the group `daemon` wherever there is one
USER = 54321
SETS = ("CapInh", "CapPrm", "CapEff", "CapAmb")
NONE = dict.fromkeys(SETS, 0)
SOME = "+setuid,+setgid,+net_bind_service,+kill"
CAPABLE = (
    "setpriv", f"--reuid={DAEMON}", f"--regid={DAEMON}", "--clear-groups", f"--inh-caps={SOME}",
    f"--ambient-caps={SOME}",
)  # fmt: skip
INHERITABLE = ("setpriv", f"--inh-caps={SOME}")
STATUS = 'program = ["/bin/cat", "/proc/self/status"]'
AS_USER = f"user = {USER}\ngroup = {USER}\n"
pytestmark = pytest.mark.peer


@pytest.fixture
def folder() -> Iterator[pathlib.Path]:
    """A folder of the user `daemon`."""
    peers.need_other_users()
    with daemons.public_folder() as made:
        os.chown(made, DAEMON, DAEMON)
        yield made


def service(settings: str, port: int) -> str:
    return f"""
        [services.test]
        listeners = [{{ address = "127.0.0.1", port = {port} }}]
        {settings}
    """


def sets(status: str) -> dict[str, int]:
    """The capability sets of a process's status."""
    return {name: int(re.findall(rf"^{name}:\s+(\w+)$", status, re.MULTILINE)[0], 16) for name in SETS}


def status_of(pid: int) -> str:
    return pathlib.Path(f"/proc/{pid}/status").read_text()


def user_of(status: str) -> set[str]:
    """The real, effective, saved and file system's user of a process's status."""
    return set(re.findall(r"^Uid:\s+(.*)$", status, re.MULTILINE)[0].split())


@pytest.mark.parametrize(
    ("before", "settings", "user"),
    [
        (CAPABLE, AS_USER, USER),
        (CAPABLE, "", DAEMON),
        (INHERITABLE, AS_USER, USER),
    ],
)
def test_a_program_has_no_capability(
    folder: pathlib.Path, before: Sequence[str], settings: str, user: int
) -> None:
    port = daemons.free_port()
    with daemons.Daemon(folder, service(settings + STATUS, port), before=before) as daemon:
        status = daemons.talk(port).decode()
        worker = status_of(daemon.worker("test"))

    assert (sets(status), user_of(status)) == (NONE, {str(user)})
    assert (sets(worker), user_of(worker)) == (NONE, {str(user)})


def test_a_program_cannot_become_root(folder: pathlib.Path) -> None:
    port = daemons.free_port()
    become = '["/usr/bin/python3", "-c", "import os; os.setuid(0); print(os.getuid())"]'
    text = service(f'program = {become}\nstderr = "socket"', port)
    with daemons.Daemon(folder, text, before=CAPABLE):
        assert b"PermissionError" in daemons.talk(port)


def test_only_root_makes_a_service_of_root(folder: pathlib.Path) -> None:
    conf = daemons.configure(folder, service(f'user = "root"\n{STATUS}', daemons.free_port()))
    command = [*CAPABLE, sys.executable, "-m", "tcpdconf", "run", str(conf)]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=daemons.SECONDS, check=False)

    assert ended.returncode == 78
    assert "services.test.user: running as another user needs root" in ended.stderr


@pytest.mark.parametrize("settings", ["", 'user = "root"\n'])
def test_a_program_of_root_has_what_root_has(folder: pathlib.Path, settings: str) -> None:
    """Courier's imaplogin needs it, to become whoever has logged in."""
    port = daemons.free_port()
    with daemons.Daemon(folder, service(settings + STATUS, port)) as daemon:
        status = daemons.talk(port).decode()
        supervisor = status_of(daemon.process.pid)

    assert user_of(status) == {"0"}
    assert sets(status)["CapEff"] == sets(supervisor)["CapEff"] != 0


def test_the_supervisor_and_its_watcher_keep_theirs(folder: pathlib.Path) -> None:
    with daemons.Daemon(folder, service(STATUS, daemons.free_port()), before=CAPABLE) as daemon:
        supervisor = sets(status_of(daemon.process.pid))
        worker = daemon.worker("test")
        daemons.until(lambda: len(daemons.children(daemon.process.pid)) == 2, "the watcher")
        (watcher,) = set(daemons.children(daemon.process.pid)) - {worker}

        assert sets(status_of(watcher)) == supervisor
        assert supervisor["CapEff"] != 0


@pytest.mark.parametrize("settings", [AS_USER, ""])
def test_a_logger_has_no_capability(folder: pathlib.Path, settings: str) -> None:
    written = folder / "written"
    written.mkdir()
    written.chmod(0o777)
    script = f"cat /proc/self/status > {written}/new; mv {written}/new {written}/status; exec cat"
    logger = f'stderr = {{ logger = ["/bin/sh", "-c", "{script}"] }}\n'
    with daemons.Daemon(folder, service(settings + logger + STATUS, daemons.free_port()), before=CAPABLE):
        daemons.until((written / "status").exists, "the logger")

    assert sets((written / "status").read_text()) == NONE


@pytest.mark.parametrize("settings", [AS_USER, ""])
def test_the_shell_of_an_environment_file_has_no_capability(folder: pathlib.Path, settings: str) -> None:
    port = daemons.free_port()
    (folder / "shell").write_text("STATUS=$(cat /proc/self/status)\n")
    (folder / "shell").chmod(0o644)
    file = f'environment_files = [{{ path = "{folder}/shell", shell = true }}]\n'
    env = 'program = ["/usr/bin/env", "-0"]'
    with daemons.Daemon(folder, service(settings + file + env, port), before=CAPABLE):
        assert sets(daemons.environment(daemons.talk(port))["STATUS"]) == NONE


@pytest.mark.parametrize("settings", [AS_USER, ""])
def test_the_probe_of_a_check_has_no_capability(folder: pathlib.Path, settings: str) -> None:
    (folder / "shell").write_text("cat /proc/self/status >&2; exit 1\n")
    (folder / "shell").chmod(0o644)
    file = f'environment_files = [{{ path = "{folder}/shell", shell = true }}]\n'
    conf = daemons.configure(folder, service(settings + file + STATUS, daemons.free_port()))
    command = [*CAPABLE, sys.executable, "-m", "tcpdconf", "check", "--probe", str(conf)]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=daemons.SECONDS, check=False)

    found = re.findall(r"\b(Cap(?:Inh|Prm|Eff|Amb)): (\w+)", ended.stdout)
    assert {name: int(value, 16) for name, value in found} == NONE
