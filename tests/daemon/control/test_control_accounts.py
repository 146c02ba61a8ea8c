"""Tests that failed commands release their descriptors and places."""

import contextlib
import os
import pathlib
import resource
import signal
import socket

import pytest
from support.running import daemons, reloads

from tcpdconf.daemon.control import server as control_server
from tcpdconf.daemon.control.client import ControlConnection, ControlError

pytestmark = pytest.mark.slow

ECHO = 'program = ["/bin/echo", "in"]'
LIST = 'dns_lists = [{ zone = "bl.test", action = "block", probe = false }]'
DNS = '[dns]\nservers = ["127.0.0.1:9"]\n'


def clients(daemon: daemons.Daemon) -> int:
    """The connections that it has accepted: they have the name of the listener (proc(5), net/unix)."""
    connected = {
        fields[6]
        for line in pathlib.Path("/proc/net/unix").read_text().splitlines()[1:]
        if "control.sock" in line and (fields := line.split())[5] == "03"
    }
    return sum(name.removeprefix("socket:[").rstrip("]") in connected for name in opened(daemon))


def opened(daemon: daemons.Daemon) -> list[str]:
    """Return the targets of its descriptors."""
    folder = f"/proc/{daemon.process.pid}/fd"
    found = []
    for name in os.listdir(folder):
        with contextlib.suppress(OSError):
            found.append(os.readlink(f"{folder}/{name}"))
    return found


def descriptors(daemon: daemons.Daemon) -> int:
    """Return the number of its descriptors without a client."""
    daemons.until(lambda: not clients(daemon), "the end of all clients")
    return len(opened(daemon))


def await_descriptors(daemon: daemons.Daemon, before: int) -> None:
    """Wait until it has as many as before: for an answer it opens others for a moment (proc(5))."""
    daemons.until(lambda: descriptors(daemon) == before, f"{before} descriptors")


def accounts_agree(daemon: daemons.Daemon, before: int) -> None:
    """As many descriptors as before, and every place free."""
    await_descriptors(daemon, before)
    with contextlib.ExitStack() as stack:
        for _ in range(control_server.CLIENTS):
            end = stack.enter_context(ControlConnection(daemon.runtime))
            end.ask({"command": "status"})
        assert clients(daemon) == control_server.CLIENTS
    await_descriptors(daemon, before)


@pytest.mark.parametrize("command", ["status", "connections", "hand-over", "reload", "stop"])
def test_without_descriptors_a_command_fails_and_leaves_nothing(command: str, tmp_path: pathlib.Path) -> None:
    """They run out at each step in its turn; a reload has files, pipes, sockets and memfds to open."""
    port, ports = daemons.free_port(), [daemons.free_port() for _ in range(3)]
    logger = f'stderr = {{ logger = ["/bin/cat"] }}\naccess = [{{ file = "{tmp_path}/access" }}]'
    (tmp_path / "access").write_text("192.0.2.1\n")
    logger = logger.replace('access" }', 'access", format = "cidr", action = "deny" }')
    more = "".join(
        reloads.service(each, f"{ECHO}\n{logger}", name=f"more{each}", limits="max_per_ip = 3")
        for each in ports
    )
    base = reloads.service(port, ECHO)
    with reloads.Daemon(tmp_path, base if command == "reload" else base + more) as daemon:
        pid = daemon.process.pid
        if command == "reload":
            daemon.change(base)
        daemons.until(lambda: not daemon.uses()["connections"], "quiet")
        before = descriptors(daemon)
        limits = resource.prlimit(pid, resource.RLIMIT_NOFILE)
        succeeded = 0
        for room in range(40):
            if command == "reload":
                daemon.write(base + more)
            used = {int(name) for name in os.listdir(f"/proc/{pid}/fd")}
            free = [number for number in range(1000) if number not in used]
            resource.prlimit(pid, resource.RLIMIT_NOFILE, (free[room], limits[1]))
            request = {"command": command, **({"drain": -1} if command == "stop" else {})}
            try:
                succeeded += asked(daemon, request, 0.2 if room == 0 else daemons.SECONDS)
            finally:
                resource.prlimit(pid, resource.RLIMIT_NOFILE, limits)
            if command == "reload":
                daemon.change(base)
            await_descriptors(daemon, before)
            if succeeded or (command == "stop" and room > 2):
                break
        assert succeeded == (command != "stop")
        accounts_agree(daemon, before)
        assert daemons.talk(port) == b"in\n"


def asked(daemon: reloads.Daemon, request: dict[str, object], seconds: float) -> bool:
    """Return whether it was answered, and not with an error."""
    with ControlConnection(daemon.runtime) as end:
        try:
            answer = end.ask(request, seconds)
        except ControlError:
            return False
        finally:
            for fd in end.fds:
                os.close(fd)
        return bool(answer.get("ok", True))


def test_clients_that_do_not_wait_for_status_leave_their_places(tmp_path: pathlib.Path) -> None:
    """The worker says nothing of its lists; the answer comes a second later."""
    port = daemons.free_port()
    with reloads.Daemon(tmp_path, DNS + reloads.service(port, f"{ECHO}\n{LIST}")) as daemon:
        worker = daemon.worker("test")
        before = descriptors(daemon)
        os.kill(worker, signal.SIGSTOP)
        try:
            for _ in range(2 * control_server.CLIENTS):
                with socket.socket(socket.AF_UNIX) as end:
                    end.connect(f"{daemon.runtime}/control.sock")
                    end.sendall(b'{"command": "status"}\n')
                    daemons.until(lambda: clients(daemon), "the request")
                await_descriptors(daemon, before)
        finally:
            os.kill(worker, signal.SIGCONT)
        accounts_agree(daemon, before)


def test_nothing_is_said_of_the_lists_of_a_service_that_was_removed(tmp_path: pathlib.Path) -> None:
    """Another one may have its name; its own worker has not said anything yet."""
    port, other = daemons.free_port(), daemons.free_port()
    lists = f"{ECHO}\n{LIST}"
    keeps = DNS + reloads.service(other, ECHO, name="keeps")
    with reloads.Daemon(tmp_path, keeps + reloads.service(port, lists)) as daemon:
        assert set(daemon.uses()["dns_lists"]) == {"bl.test"}
        assert daemon.change(keeps) == ["test"]
        assert daemon.change(keeps + reloads.service(port, lists.replace("bl.test", "new.test"))) == ["test"]
        daemon.await_log("^ready service=test ", 2)
        worker = daemon.worker("test")
        os.kill(worker, signal.SIGSTOP)
        try:
            assert daemon.uses()["dns_lists"] == {}
        finally:
            os.kill(worker, signal.SIGCONT)
        assert set(daemon.uses()["dns_lists"]) == {"new.test"}
