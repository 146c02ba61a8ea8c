"""Listening sockets that a daemon finds when it starts, keeps in the store, and gives up."""

import contextlib
import os
import pathlib
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator

import pytest
from support import networks
from support.running import daemons, processes, reloads, stores

from tcpdconf.daemon.control import client as control_client

pytestmark = pytest.mark.slow


def service(port: int, address: str = "127.0.0.1", name: str = "test", program: str = "echo in") -> str:
    return f"""
        [services.{name}]
        program = ["/bin/sh", "-c", "{program}"]
        listeners = [{{ address = "{address}", port = {port} }}]
        """


@pytest.fixture
def network() -> Iterator[None]:
    with networks.new():
        yield


@pytest.mark.peer
@pytest.mark.usefixtures("network")
def test_clients_who_wait_at_an_address_that_has_changed_are_served(tmp_path: pathlib.Path) -> None:
    """They came while no daemon ran: their socket is not wanted any more, and its queue is."""
    port = 2525
    with contextlib.ExitStack() as stack:
        stored = stack.enter_context(stores.store())
        with daemons.Daemon(tmp_path, service(port), stored=stored) as first:
            daemons.until(lambda: stored, "the store")
            worker = first.worker("test")
        daemons.until(lambda: processes.over(worker), "the end of the worker")
        waiting = [stack.enter_context(daemons.connect(port, "127.0.0.1")) for _ in range(50)]
        stack.enter_context(stores.activated(tmp_path / "second", service(port, "*"), stored))
        for client in waiting:
            assert daemons.read(client) == b"in\n"
        with daemons.connect(port, "::1") as client:
            assert daemons.read(client) == b"in\n"
        daemons.until(lambda: list(stored) == ["tcpdconf listen * 2525"], "the store")


@pytest.mark.peer
@pytest.mark.usefixtures("network")
def test_two_sockets_of_one_listener_are_both_kept(tmp_path: pathlib.Path) -> None:
    """A listener on all addresses has one for each family where a predecessor had them so."""
    port = 2525
    text = service(port, "0.0.0.0") + service(port, "::", "other")
    with stores.store() as stored:
        with daemons.Daemon(tmp_path, text, stored=stored):
            daemons.until(lambda: len(stored) == 2, "the store")
        for number in range(2):
            folder = tmp_path / str(number)
            with stores.activated(folder, service(port, "*"), stored) as daemon:
                assert daemon.await_log("^running")
                daemons.until(lambda: [len(fds) for fds in stored.values()] == [2], "both in the store")
                for address in ("127.0.0.1", "::1"):
                    with daemons.connect(port, address) as client:
                        assert daemons.read(client) == b"in\n"


def test_a_service_manager_that_does_not_listen_is_told_again(tmp_path: pathlib.Path) -> None:
    first, second = daemons.free_port(), daemons.free_port()
    with stores.store() as stored, reloads.Daemon(tmp_path, service(first), stored=stored) as daemon:
        daemons.until(lambda: stored, "the store")
        with daemon.deaf():
            daemon.change(service(second))
            assert daemons.talk(second) == b"in\n"
            assert list(stored) == [f"tcpdconf listen 127.0.0.1 {first}"]
        daemons.until(lambda: list(stored) == [f"tcpdconf listen 127.0.0.1 {second}"], "the store")
        daemon.await_notice("READY=1", 2)


@pytest.mark.peer
@pytest.mark.usefixtures("network")
def test_a_listener_that_overlaps_a_socket_units(tmp_path: pathlib.Path) -> None:
    """At the start, and at a reload; the unit would go on listening, and nobody accept."""
    port, other = 2525, 2526
    with socket.create_server(("127.0.0.1", port)) as unit:
        start = 'exec 3<&$0; export LISTEN_FDS=1 LISTEN_PID=$$; exec "$@"'
        before = ["/bin/bash", "-c", start, str(unit.fileno())]
        environment = {"LISTEN_FDNAMES": "smtp.socket"}
        problem = f"cannot bind *:{port}: it overlaps 127.0.0.1:{port}, which smtp.socket has bound"

        conf = daemons.configure(tmp_path, service(port, "*"))
        command = [*before, sys.executable, "-m", "tcpdconf", "run", str(conf)]
        found = subprocess.run(
            [*command, "--runtime-dir", str(tmp_path / "run")],
            env={"PATH": os.defpath, **environment},
            pass_fds=[unit.fileno()],
            capture_output=True,
            text=True,
            timeout=daemons.SECONDS,
            check=False,
        )
        assert found.returncode == 1
        assert problem in found.stderr

        folder = tmp_path / "second"
        folder.mkdir()
        with reloads.Daemon(
            folder, service(port), before=before, environment=environment, pass_fds=[unit.fileno()]
        ) as daemon:
            assert daemon.refusal(service(port, "*")) == [problem]
            assert daemon.change(service(port) + service(other, name="other")) == ["other"]
            with daemons.connect(port, "127.0.0.1") as client:
                assert daemons.read(client) == b"in\n"


_FAILING = """
import errno, os, socket
class Socket(socket.socket):
    def listen(self, *backlog):
        if os.path.exists({flag!r}):
            raise OSError(errno.EADDRINUSE, os.strerror(errno.EADDRINUSE))
        super().listen(*backlog)
socket.socket = Socket
"""


@pytest.mark.peer
@pytest.mark.usefixtures("network")
def test_a_listen_that_fails_refuses_the_reload(tmp_path: pathlib.Path) -> None:
    port, flag = 2525, tmp_path / "flag"
    (tmp_path / "sitecustomize.py").write_text(_FAILING.format(flag=str(flag)))
    environment = {"PYTHONPATH": str(tmp_path)}
    with reloads.Daemon(tmp_path, service(port, "*"), environment=environment) as daemon:
        flag.touch()
        said = daemon.refusal(service(port))
        flag.unlink()
        assert said == [f"cannot bind 127.0.0.1:{port}: Address already in use"]
        for address in ("127.0.0.1", "127.0.0.2", "::1"):
            with daemons.connect(port, address) as client:
                assert daemons.read(client) == b"in\n"
        assert daemon.change(service(port)) == ["test"]


@pytest.mark.parametrize("haproxy", [False, True])
def test_a_daemon_that_drains_refuses_clients_at_once(tmp_path: pathlib.Path, haproxy: bool) -> None:
    port, proxied = daemons.free_port(), daemons.free_port()
    text = service(port, program="echo in; read line; echo $line")
    if haproxy:
        text += service(proxied, name="other").replace(" }]", ', haproxy = { trusted = ["127.0.0.1"] } }]')
    with (
        stores.store() as stored,
        daemons.Daemon(tmp_path, text, stored=stored) as daemon,
        daemons.connect(port) as client,
    ):
        daemons.until(lambda: len(stored) == 1 + haproxy, "the store")
        assert daemons.line(client) == b"in\n"
        assert control_client.ask(daemon.runtime, {"command": "stop", "drain": 60})["ok"]
        daemons.until(lambda: not stored, "that the service manager gives the port up")
        daemons.until(lambda: not processes.listening() & {port, proxied}, "that nobody listens")
        for each in (port, proxied):
            with socket.socket() as late:
                assert late.connect_ex(("127.0.0.1", each)) != 0
        status = control_client.ask(daemon.runtime, {"command": "status"})
        assert (status["services"]["test"]["listeners"], status["services"]["test"]["connections"]) == ([], 1)
        client.sendall(b"bye\n")
        assert daemons.read(client) == b"bye\n"
        assert daemon.process.wait(daemons.SECONDS) == 0


def test_a_signal_leaves_the_sockets_in_the_store(tmp_path: pathlib.Path) -> None:
    """A service manager that restarts the daemon sends one, and nobody is to be refused meanwhile."""
    port = daemons.free_port()
    with stores.store() as stored:
        with daemons.Daemon(tmp_path, service(port), stored=stored) as daemon:
            daemons.until(lambda: stored, "the store")
            assert daemon.stop(signal.SIGTERM) == 0
        assert len(stored) == 1
        assert not any(re.match("FDSTOREREMOVE", line) for line in daemon.notified)
