"""A pid that is given to another program before everybody knows that the one before it has ended.

The daemon runs in a pid namespace of its own, where the next pid can be chosen (proc_sys_kernel(5)).
"""

import contextlib
import os
import pathlib
import signal
import socket
import subprocess
from collections.abc import Iterator

import pytest
from support import peers
from support.running import daemons, reloads

from tcpdconf.daemon.control.client import ControlError

pytestmark = pytest.mark.peer
NAMESPACE = ["unshare", "--pid", "--fork", "--kill-child", "--mount-proc"]


class Daemon(reloads.Daemon):
    """A daemon that is the first process of its namespace; pids are those in there."""

    def __init__(self, folder: pathlib.Path, text: str) -> None:
        peers.need_root()
        peers.need("unshare", "nsenter")
        super().__init__(folder, text, before=NAMESPACE)

    @property
    def supervisor(self) -> int:
        """Its pid outside."""
        (pid,) = daemons.children(self.process.pid)
        return pid

    def stop(self, number: int = signal.SIGTERM) -> int:
        """Stop it on command: what has made the namespace passes no signal on."""
        if self.process.poll() is None:
            with contextlib.suppress(ControlError):
                self.ask("stop")
        return super().stop(number)

    def run(self, command: str) -> None:
        """Run a shell command in there."""
        enter = ["nsenter", f"--target={self.supervisor}", "--pid", "--mount", "sh", "-c", command]
        subprocess.run(enter, check=True)

    def exists(self, pid: int) -> bool:
        """Return whether there is such a process, or nobody has waited for it."""
        inside = pathlib.Path("/proc", str(self.supervisor), "root")
        return (inside / "proc" / str(pid)).exists()

    def program(self, client: socket.socket) -> int:
        """The pid of a client's program."""
        port = client.getsockname()[1]
        (said,) = self.await_log(rf"^accept .*peer=127.0.0.1:{port} ")
        return int(said.partition(" pid=")[2].split()[0])

    def give_next(self, pid: int) -> None:
        """Let the next process have this pid."""
        assert not self.exists(pid)
        self.run(f"echo {pid - 1} > /proc/sys/kernel/ns_last_pid")

    def clients(self) -> list[str]:
        """The clients that hold slots."""
        return [each["peer"] for each in self.ask("connections")["connections"]]

    @contextlib.contextmanager
    def held_up(self) -> Iterator[None]:
        """Stop the supervisor, so that what workers tell it waits."""
        pid = self.supervisor
        os.kill(pid, signal.SIGSTOP)
        try:
            yield
        finally:
            os.kill(pid, signal.SIGCONT)


def peer(client: socket.socket) -> str:
    return f"127.0.0.1:{client.getsockname()[1]}"


@pytest.fixture
def port() -> int:
    return daemons.free_port()


def follow(daemon: Daemon, first: socket.socket, port: int) -> socket.socket:
    """End the program of a client; return another client, whose program has the same pid."""
    pid = daemon.program(first)
    assert reloads.lives(first)
    daemons.until(lambda: not daemon.exists(pid), "its end")
    daemon.give_next(pid)
    second = daemons.connect(port)
    assert daemons.line(second) == b"\n"
    assert daemon.program(second) == pid
    return second


def test_a_replaced_worker_tells_late_that_its_program_has_ended(tmp_path: pathlib.Path, port: int) -> None:
    limits = "max_connections = 2"
    with Daemon(tmp_path, reloads.service(port, limits=limits)) as daemon, reloads.held(port) as first:
        elder = daemon.uses()["pid"]
        text = reloads.service(port, f'{reloads.HOLD}\numask = "027"', limits=limits)
        assert daemon.change(text) == ["test"]
        with daemon.held_up():
            second = follow(daemon, first, port)
        daemons.until(lambda: not daemon.exists(elder), "the end of the first worker")
        with second:
            daemons.until(lambda: daemon.clients() == [peer(second)], "that the first slot is free")
            assert daemon.uses()["connections"] == 1
            with reloads.held(port) as third:
                assert daemon.uses()["connections"] == 2
                assert reloads.lives(third)
            daemons.until(lambda: daemon.uses()["connections"] == 1, "that the third slot is free")
            assert reloads.lives(second)
        daemons.until(lambda: daemon.uses()["connections"] == 0, "that the second slot is free")


def test_a_worker_that_was_killed_has_recorded_a_pid_that_is_another_programs(
    tmp_path: pathlib.Path, port: int
) -> None:
    """The record of a program of a replaced worker, whose end that has told too late."""
    with Daemon(tmp_path, reloads.service(port)) as daemon, reloads.held(port) as first:
        text = reloads.service(port, f'{reloads.HOLD}\numask = "027"')
        assert daemon.change(text) == ["test"]
        worker = daemon.uses()["pid"]
        with daemon.held_up():
            second = follow(daemon, first, port)
            daemon.run(f"kill -KILL {worker}")
        with second:
            daemon.await_log("^ready service=test ", 3)
            daemons.until(lambda: daemon.clients() == [peer(second)], "that the first slot is free")
            assert daemon.uses()["connections"] == 1
            assert reloads.lives(second)
        daemons.until(lambda: daemon.uses()["connections"] == 0, "that the second slot is free")
