"""Services of two users beside each other, seen from a program of one of them and from outside."""

import os
import pathlib
import re
from collections.abc import Iterator
from typing import NamedTuple

import pytest
from support import peers
from support.running import daemons

from tcpdconf.daemon.worker import ledger

MINE, OTHER = 54321, 54322
pytestmark = pytest.mark.peer

# Each answer is what a command of the client says to the program's shell.
SHELL = 'program = ["/bin/sh", "-c", "read line; eval \\"$line\\" 2>&1"]'


class Pair(NamedTuple):
    """The daemon with its services `mine` and `other`, each with an access file that only root may read."""

    daemon: daemons.Daemon
    folder: pathlib.Path
    port: int

    def say(self, command: str) -> str:
        """Return the output of a command in a shell of the service `mine`."""
        return daemons.talk(self.port, say=command.encode() + b"\n").decode()


@pytest.fixture
def pair() -> Iterator[Pair]:
    peers.need_root()
    with daemons.public_folder() as folder:
        ports = [daemons.free_port(), daemons.free_port()]
        text = ""
        for name, user, port in zip(("mine", "other"), (MINE, OTHER), ports, strict=True):
            rules = folder / f"{name}.rules"
            rules.write_text(f"127.0.0\tallow,SECRET={name}\n")
            rules.chmod(0o600)
            text += f"""
                [services.{name}]
                {SHELL}
                user = {user}
                group = {user}
                listeners = [{{ address = "127.0.0.1", port = {port} }}]
                access = [{{ file = "{rules}" }}]
            """
        with daemons.Daemon(folder, text) as daemon:
            yield Pair(daemon, folder, ports[0])


def test_files_of_others_cannot_be_read(pair: Pair) -> None:
    """Not even one's own, which the worker was given: it has let go of it."""
    assert pair.say("echo $SECRET $(id -u)") == f"mine {MINE}\n"
    for name in ("mine", "other"):
        assert "Permission denied" in pair.say(f"cat {pair.folder}/{name}.rules")


def test_a_program_has_its_connection_and_standard_error_only(pair: Pair) -> None:
    """`ls` has its own descriptor of the directory."""
    assert pair.say("ls /proc/self/fd").split() == ["0", "1", "2", "3"]
    assert "TCPDCONF" not in pair.say("env")


@pytest.mark.parametrize("file", ["fd/", "mem", "maps", "environ"])
@pytest.mark.parametrize("who", ["worker", "other", "supervisor"])
def test_processes_of_the_daemon_cannot_be_looked_into(pair: Pair, who: str, file: str) -> None:
    """A user who could open a worker's channel could send messages to the supervisor."""
    pids = {"worker": pair.daemon.worker("mine"), "other": pair.daemon.worker("other")}
    pid = pids.get(who, pair.daemon.process.pid)

    assert "ermission denied" in pair.say(f"ls /proc/{pid}/{file} && head -c 1 /proc/{pid}/{file}")


def test_the_control_socket_is_not_for_services(pair: Pair) -> None:
    path = pair.folder / "run/control.sock"
    connect = f"import socket; socket.socket(socket.AF_UNIX).connect('{path}')"
    assert "Permission denied" in pair.say(f'/usr/bin/python3 -c "{connect}"')


def test_a_worker_can_write_its_ledger_and_no_other_file(pair: Pair) -> None:
    """Standard input is /dev/null, standard error the daemon's log."""
    for name in ("mine", "other"):
        folder = pathlib.Path(f"/proc/{pair.daemon.worker(name)}")
        writable = [target for target, flags in files(folder) if flags & os.O_ACCMODE != os.O_RDONLY]
        assert {each for each in writable if each.startswith("/")} == {
            "/dev/null",
            f"/memfd:tcpdconf-ledger-{ledger.LAYOUT} (deleted)",
        }


def test_workers_share_no_descriptor_but_the_log(pair: Pair) -> None:
    mine, other = (_identities(pair.daemon.worker(name)) for name in ("mine", "other"))
    log = os.readlink(f"/proc/{pair.daemon.process.pid}/fd/2")

    assert mine & other <= {log, "/dev/null", "anon_inode:[eventpoll]", "anon_inode:[eventfd]"}
    assert not [each for each in mine if each.endswith(".rules")]


def files(process: pathlib.Path) -> Iterator[tuple[str, int]]:
    """Each descriptor of a process: what it is, and its flags."""
    for entry in sorted(os.listdir(process / "fd"), key=int):
        info = (process / "fdinfo" / entry).read_text()
        found = re.search(r"^flags:\s+([0-7]+)$", info, re.MULTILINE)
        assert found is not None
        yield os.readlink(process / "fd" / entry), int(found[1], 8)


def _identities(pid: int) -> set[str]:
    """Return the targets of its descriptors; memfds by inode, since all have the same name."""
    folder = pathlib.Path(f"/proc/{pid}/fd")
    return {
        f"memfd {each.stat().st_ino}" if (target := os.readlink(each)).startswith("/memfd:") else target
        for each in folder.iterdir()
    }
