"""A daemon follows another one, and no client is refused: with a service manager's store, and without one."""

import contextlib
import os
import pathlib
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from typing import Any

import pytest
from support import loglines, networks
from support.running import controls, daemons, processes, stores

import tcpdconf
from tcpdconf.daemon.control import client as control_client
from tcpdconf.daemon.control import server as control_server
from tcpdconf.daemon.control.client import ControlError

GREET = 'program = ["/bin/sh", "-c", "echo here; read line; echo $line"]'


def service(port: int, program: str = 'program = ["/bin/echo", "in"]', *, address: str = "127.0.0.1") -> str:
    return f"""
        [services.test]
        {program}
        listeners = [{{ address = "{address}", port = {port} }}]
        [services.test.limits]
        max_connections = 1000
        """


class Clients:
    """One client after the other until told to stop; `answers` are what they have read, or why not."""

    def __init__(self, port: int) -> None:
        self.answers: list[bytes | str] = []
        self._port = port
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._come)
        self._thread.start()

    def stop(self) -> None:
        """Let no more come."""
        self._over.set()
        self._thread.join(daemons.SECONDS)

    def await_more(self) -> None:
        """Wait for twenty more answers."""
        wanted = len(self.answers) + 20
        daemons.until(lambda: len(self.answers) > wanted, "clients")

    def _come(self) -> None:
        while not self._over.is_set():
            try:
                self.answers.append(daemons.talk(self._port))
            except OSError as error:
                self.answers.append(str(error))


@contextlib.contextmanager
def clients(port: int) -> Iterator[Clients]:
    """Clients who come all the time."""
    made = Clients(port)
    try:
        yield made
    finally:
        made.stop()


def successor(folder: pathlib.Path, first: daemons.Daemon) -> pathlib.Path:
    """A folder for a second daemon that shares the runtime directory of the first."""
    second = folder / "second"
    second.mkdir()
    (second / "run").symlink_to(first.folder / "run")
    return second


def test_a_second_daemon_takes_over_and_no_client_is_refused(tmp_path: pathlib.Path) -> None:
    port = daemons.free_port()
    with daemons.Daemon(tmp_path, service(port)) as first, clients(port) as some:
        some.await_more()
        folder = successor(tmp_path, first)
        with daemons.Daemon(folder, service(port), arguments=["--take-over"]) as second:
            assert first.process.wait(daemons.SECONDS) == 0
            served = len(second.log)
            daemons.until(lambda: len(second.log) > served + 20, "clients of the second daemon")
            some.stop()

    assert set(some.answers) == {b"in\n"}
    assert f"taken over pid={first.process.pid}" in second.log


def test_connections_of_the_first_daemon_go_on(tmp_path: pathlib.Path) -> None:
    port = daemons.free_port()
    with daemons.Daemon(tmp_path, service(port, GREET)) as first, daemons.connect(port) as client:
        assert daemons.line(client) == b"here\n"
        with daemons.Daemon(
            successor(tmp_path, first), service(port, GREET), arguments=["--take-over"]
        ) as second:
            first.await_log("^stopping drain=300s")
            client.sendall(b"still there\n")
            assert daemons.read(client) == b"still there\n"
            assert first.process.wait(daemons.SECONDS) == 0
            with daemons.connect(port) as other:
                assert daemons.line(other) == b"here\n"
        assert second.process.returncode == 0


def refused_successor(folder: pathlib.Path, first: daemons.Daemon, text: str) -> str:
    """Return the output of a successor that never serves."""
    folder.mkdir()
    command = [sys.executable, "-m", "tcpdconf", "run", str(daemons.configure(folder, text))]
    command += ["--take-over", "--runtime-dir", first.runtime]
    found = subprocess.run(command, capture_output=True, text=True, timeout=daemons.SECONDS, check=False)
    assert found.returncode != 0
    return found.stderr


def test_a_second_daemon_that_cannot_start_leaves_the_first_alone(tmp_path: pathlib.Path) -> None:
    port = daemons.free_port()
    with daemons.Daemon(tmp_path, service(port)) as first:
        broken = service(port, 'program = ["/bin/echo"]\numask = "8"')
        assert "umask" in refused_successor(tmp_path / "broken", first, broken)
        assert daemons.talk(port) == b"in\n"
        assert not any(line.startswith("stopping") for line in first.log)
        with daemons.Daemon(successor(tmp_path, first), service(port), arguments=["--take-over"]):
            assert first.process.wait(daemons.SECONDS) == 0


def test_without_a_daemon_there_is_nothing_to_take_over(tmp_path: pathlib.Path) -> None:
    conf = daemons.configure(tmp_path, service(daemons.free_port()))
    command = [sys.executable, "-m", "tcpdconf", "run", str(conf), "--take-over"]
    command += ["--runtime-dir", str(tmp_path / "run")]
    found = subprocess.run(command, capture_output=True, text=True, timeout=daemons.SECONDS, check=False)

    assert found.returncode == 1
    assert loglines.without_times(found.stderr).startswith("error: no daemon runs: ")


def test_no_queued_connection_is_lost_when_the_daemon_is_killed(tmp_path: pathlib.Path) -> None:
    port = daemons.free_port()
    with contextlib.ExitStack() as stack:
        stored = stack.enter_context(stores.store())
        first = stack.enter_context(daemons.Daemon(tmp_path, service(port), stored=stored))
        daemons.until(lambda: stored, "the store")
        worker = first.worker("test")
        first.process.send_signal(signal.SIGKILL)
        first.process.wait(daemons.SECONDS)
        daemons.until(lambda: processes.over(worker), "the end of the worker")
        waiting = [stack.enter_context(daemons.connect(port)) for _ in range(50)]
        second = stack.enter_context(stores.activated(tmp_path / "second", service(port), stored))
        answers = [daemons.read(client) for client in waiting]

    assert answers == [b"in\n"] * 50
    assert not any("FDSTORE" in line for line in second.notified)


def test_clients_who_come_while_a_daemon_is_killed_again_and_again(tmp_path: pathlib.Path) -> None:
    """Those of whom nobody has heard yet; one that was accepted is lost with the worker that had it."""
    port = daemons.free_port()
    with contextlib.ExitStack() as stack:
        stored = stack.enter_context(stores.store())
        daemon = stack.enter_context(daemons.Daemon(tmp_path, service(port), stored=stored))
        daemons.until(lambda: stored, "the store")
        some = stack.enter_context(clients(port))
        for number in range(3):
            some.await_more()
            daemon.process.send_signal(signal.SIGKILL)
            daemon.process.wait(daemons.SECONDS)
            daemon = stack.enter_context(stores.activated(tmp_path / str(number), service(port), stored))
        some.await_more()
        some.stop()

    assert set(some.answers) <= {b"in\n", b""}
    assert some.answers.count(b"") <= 3


def test_a_stored_socket_that_is_not_wanted_any_more_is_let_go(tmp_path: pathlib.Path) -> None:
    ports = daemons.free_port(), daemons.free_port()
    with stores.store() as stored:
        with daemons.Daemon(tmp_path, service(ports[0]), stored=stored):
            daemons.until(lambda: stored, "the store")
        (name,) = stored
        with stores.activated(tmp_path / "second", service(ports[1]), stored):
            daemons.until(lambda: name not in stored, "that it is let go")
            with socket.socket() as client:
                assert client.connect_ex(("127.0.0.1", ports[0])) != 0
            assert daemons.talk(ports[1]) == b"in\n"


def test_a_second_successor_is_told_so_and_the_first_one_takes_over(tmp_path: pathlib.Path) -> None:
    port = daemons.free_port()
    with daemons.Daemon(tmp_path, service(port)) as first:
        gate = tmp_path / "gate"
        os.mkfifo(gate)
        slow = (
            service(port)
            + f"""
            [[services.test.environment_files]]
            path = "{tmp_path}/slow"
            shell = true
            """
        )
        (tmp_path / "slow").write_text(f"read line <{gate}\n")
        folder = successor(tmp_path, first)
        with daemons.Daemon(folder, slow, arguments=["--take-over"], ready=False) as second:
            first.await_log("^handing over ")
            third = refused_successor(tmp_path / "third", first, service(port))
            assert third.endswith(f" says: pid {second.process.pid} is already taking over\n")
            gate.write_text("go\n")
            second.await_notice("READY=1")
            assert first.process.wait(daemons.SECONDS) == 0
            assert daemons.talk(port) == b"in\n"


def test_a_newer_successor_is_refused_and_the_daemon_goes_on(tmp_path: pathlib.Path) -> None:
    port = daemons.free_port()
    with daemons.Daemon(tmp_path, service(port)) as first:
        with pytest.raises(
            ControlError, match=r"the new daemon takes over by protocol 2, and tcpdconf \S+ knows 1"
        ):
            control_client.ask(first.runtime, {"command": "hand-over", "protocol": 2})
        assert not any(line.startswith("handing over") for line in first.log)
        assert daemons.talk(port) == b"in\n"
        with daemons.Daemon(successor(tmp_path, first), service(port), arguments=["--take-over"]):
            assert first.process.wait(daemons.SECONDS) == 0


def test_a_newer_daemon_is_not_taken_over_and_gets_its_sockets_back(tmp_path: pathlib.Path) -> None:
    """The successor hangs up, and never says stop."""
    asked: list[str] = []
    gone = threading.Event()

    def hand_over(request: dict[str, Any], reply: control_server.Reply) -> None:
        asked.append(request["command"])
        reply.keep(gone.set)
        reply({"ok": True, "protocol": 2, "sockets": 1}, [listener.fileno()])

    with (
        socket.create_server(("127.0.0.1", 0)) as listener,
        controls.Server(tmp_path / "run", {"hand-over": hand_over, "stop": hand_over}),
    ):
        conf = daemons.configure(tmp_path, service(daemons.free_port()))
        command = [sys.executable, "-m", "tcpdconf", "run", str(conf), "--take-over"]
        command += ["--runtime-dir", str(tmp_path / "run")]
        found = subprocess.run(command, capture_output=True, text=True, timeout=daemons.SECONDS, check=False)
        assert gone.wait(daemons.SECONDS)
        with socket.create_connection(listener.getsockname()):
            listener.accept()[0].close()

    assert (found.returncode, asked) == (1, ["hand-over"])
    own = f"tcpdconf {tcpdconf.__version__} knows 1"
    assert f"(pid {os.getpid()}) hands over by protocol 2, and {own}: stop one daemon" in found.stderr


@pytest.mark.peer
def test_a_successor_that_fails_leaves_every_address_served(tmp_path: pathlib.Path) -> None:
    """It has bound another address of the same port, and then finds that it cannot have another port."""
    port, taken = daemons.free_port("127.0.0.2"), daemons.free_port()
    with (
        networks.new(),
        daemons.Daemon(tmp_path, service(port, address="*")) as first,
        socket.create_server(("127.0.0.1", taken)),
    ):
        both = service(port) + service(taken).replace("services.test", "services.other")
        said = refused_successor(tmp_path / "second", first, both)
        assert f"cannot bind 127.0.0.1:{taken}: Address already in use" in said
        for address in ("127.0.0.1", "127.0.0.2", "::1"):
            with daemons.connect(port, address) as client:
                assert daemons.read(client) == b"in\n"
