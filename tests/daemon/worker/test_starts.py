"""Programs of a daemon between their start and their exec."""

import contextlib
import fcntl
import os
import pathlib
import signal
import socket
import time
from collections.abc import Iterator
from typing import Final, NamedTuple

import pytest
from support import peers
from support.running import daemons, hungfiles, reloads

from tcpdconf.daemon.process import spawn
from tcpdconf.daemon.worker import launcher

pytestmark = pytest.mark.skipif(
    not spawn.has_native, reason="needs the C extension: install tcpdconf where there is a C compiler"
)

# Two services: the program of one lies on the file system that a test holds up.
SERVICES = """
    [services.held]
    program = ["{path}"]
    listeners = [{{ address = "127.0.0.1", port = {held} }}]
    messages.spawn = "421 try later"
    limits = {{ max_connections = 1000, max_per_ip = 1000, max_per_network = 1000 }}

    [services.other]
    program = ["/bin/echo", "in"]
    listeners = [{{ address = "127.0.0.1", port = {other} }}]
"""
NATIVE: Final = {spawn.WISH: "native"}


@contextlib.contextmanager
def leased(path: pathlib.Path) -> Iterator[int]:
    """Hold up the exec of a file until the lease is given up (fcntl(2), F_SETLEASE)."""
    with path.open() as lease:
        fcntl.fcntl(lease, fcntl.F_SETSIG, signal.SIGURG)  # that it is wanted; of itself it does nothing
        fcntl.fcntl(lease, fcntl.F_SETLEASE, fcntl.F_WRLCK)
        yield lease.fileno()


def many(port: int, count: int, stack: contextlib.ExitStack) -> list[socket.socket]:
    return [stack.enter_context(daemons.connect(port)) for _ in range(count)]


def decided(daemon: reloads.Daemon) -> int:
    """Return the number of clients of that service that have a slot or were refused."""
    status = daemon.ask("status")["services"]["held"]
    return int(status["connections"]) + int(status["refused"]["spawn"])


def connections(daemon: reloads.Daemon) -> int:
    """The slots taken at the service whose program is held up."""
    return int(daemon.ask("status")["services"]["held"]["connections"])


class Crowd(NamedTuple):
    """Twice as many clients as programs may be before their exec, at a service whose program is held up."""

    daemon: reloads.Daemon
    clients: list[socket.socket]
    other: int  # the port of the other service
    lease: int

    def let_go(self) -> None:
        """Let the program be executed."""
        fcntl.fcntl(self.lease, fcntl.F_SETLEASE, fcntl.F_UNLCK)


@contextlib.contextmanager
def crowd(folder: pathlib.Path, script: str) -> Iterator[Crowd]:
    """Let clients come until no further program may be started."""
    held, other = daemons.free_port(), daemons.free_port()
    path = folder / "program"
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    text = SERVICES.format(path=path, held=held, other=other)
    with contextlib.ExitStack() as stack:
        lease = stack.enter_context(leased(path))
        daemon = stack.enter_context(reloads.Daemon(folder, text, environment=NATIVE))
        clients = many(held, 2 * launcher.AT_ONCE, stack)
        daemons.until(lambda: connections(daemon) == launcher.AT_ONCE + 1, "that all have been started")
        yield Crowd(daemon, clients, other, lease)


def test_a_worker_goes_on_while_execs_take_long(tmp_path: pathlib.Path) -> None:
    """The clients without a program wait in the kernel's queue, but for one."""
    with crowd(tmp_path, "echo in") as some:
        assert some.daemon.ask("status")["services"]["held"]["accepted"] == 0
        assert daemons.talk(some.other) == b"in\n"
        assert some.daemon.ask("reload")["ok"]
        assert connections(some.daemon) == launcher.AT_ONCE + 1

        some.let_go()
        assert [daemons.read(client) for client in some.clients] == [b"in\n"] * len(some.clients)
        some.daemon.await_log("^end service=held ", len(some.clients))
        status = some.daemon.ask("status")["services"]["held"]
        assert (status["accepted"], status["connections"]) == (len(some.clients), 0)
        assert not [line for line in some.daemon.log if line.startswith("error")]


def test_a_killed_worker_loses_no_client_that_has_a_process(tmp_path: pathlib.Path) -> None:
    """Its children go on without it; the successor counts them. The one client that had none yet is lost."""
    with crowd(tmp_path, "echo in\nread line") as some:
        os.kill(some.daemon.worker("held"), signal.SIGKILL)
        some.daemon.await_log("^ready service=held ", 2)
        some.let_go()
        answers = []
        for client in some.clients:
            with contextlib.suppress(ConnectionError):
                answers.append(client.recv(100))
        served = len(some.clients) - 1
        assert answers.count(b"in\n") == served
        daemons.until(lambda: connections(some.daemon) == served, "the programs of both workers")


@pytest.mark.peer
@pytest.mark.slow
def test_programs_on_a_hung_file_system_are_given_up(tmp_path: pathlib.Path) -> None:
    """After half a minute their processes are killed, and others are started, though the kernel waits for the
    file system before it ends them.
    """
    peers.need_root()
    held, other = daemons.free_port(), daemons.free_port()
    with contextlib.ExitStack() as stack:
        system = stack.enter_context(hungfiles.mounted(tmp_path / "held"))
        text = SERVICES.format(path=system.folder / "program", held=held, other=other)
        daemon = stack.enter_context(reloads.Daemon(tmp_path, text, environment=NATIVE))
        clients = many(held, launcher.AT_ONCE + 10, stack)
        daemons.until(lambda: connections(daemon) == launcher.AT_ONCE + 1, "that all may start")
        assert daemons.talk(other) == b"in\n"
        end = time.monotonic() + launcher.PATIENCE + daemons.SECONDS
        while decided(daemon) < len(clients) and time.monotonic() < end:
            time.sleep(0.2)
        daemon.await_log(
            "^error: cannot run .*/held/program: its exec takes too long service=held errno=110$"
        )
        assert decided(daemon) == len(clients)  # one has waited for a process just as long

        daemon.change(SERVICES.format(path="/bin/pwd", held=held, other=other))
        assert daemons.talk(held).startswith(b"/")  # by the same worker
        system.let_go()
        daemons.until(lambda: not connections(daemon), "the end of all")
        refused = daemon.ask("status")["services"]["held"]["refused"]
        assert refused["spawn"] == len(clients)
        assert len(daemon.await_log("^ready service=held ")) == 1
