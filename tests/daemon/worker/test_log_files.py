"""A log file that `stderr` names: open as long as a program may still be started with it, and no longer."""

import contextlib
import os
import pathlib
import socket
from collections.abc import Iterator

import pytest
from support.running import daemons, reloads

HEADER = b"PROXY TCP4 192.0.2.1 127.0.0.1 40000 25\r\n"
PROXY = ', haproxy = { trusted = ["127.0.0.1"], timeout = 20 }'
SAY = 'program = ["/bin/sh", "-c", "echo said >&2; echo in; read line"]'


def settings(log: pathlib.Path, more: str = "") -> str:
    return f'{SAY}\nstderr = {{ file = "{log}" }}\n{more}'


def opened(pid: int) -> list[str]:
    """Return the targets of a process's descriptors."""
    found = []
    for name in os.listdir(f"/proc/{pid}/fd"):
        with contextlib.suppress(OSError):
            found.append(os.readlink(f"/proc/{pid}/fd/{name}"))
    return sorted(found)


@contextlib.contextmanager
def silent() -> Iterator[tuple[socket.socket, int]]:
    """A name server that does not answer."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as server:
        server.bind(("127.0.0.1", 0))
        server.settimeout(daemons.SECONDS)
        yield server, server.getsockname()[1]


@pytest.mark.parametrize("more", ["", PROXY], ids=["plain", "PROXY"])
def test_many_reloads_leave_no_descriptor(more: str, tmp_path: pathlib.Path) -> None:
    port, logs = daemons.free_port(), [tmp_path / "a", tmp_path / "b"]
    texts = [reloads.service(port, settings(log), more=more) for log in logs]
    with reloads.Daemon(tmp_path, texts[0]) as daemon:
        pid = daemon.uses()["pid"]
        before, supervisor = opened(pid), len(opened(daemon.process.pid))
        for number in range(1, 31):
            daemon.change(texts[number % 2])
            with daemons.connect(port) as client:
                if more:
                    client.sendall(HEADER)
                assert daemons.line(client) == b"in\n"
            assert str(logs[number % 2]) in opened(pid)
            daemons.until(lambda number=number: str(logs[1 - number % 2]) not in opened(pid), "its end")  # type: ignore[misc]
        daemons.until(lambda: not daemon.uses()["connections"], "the end of the programs")
        assert daemon.uses()["pid"] == pid
        daemons.until(lambda: len(opened(pid)) == len(before), "the worker's descriptors")
        daemons.until(lambda: len(opened(daemon.process.pid)) <= supervisor, "the supervisor's")
    assert [log.read_text().count("said") for log in logs] == [15, 15]


@contextlib.contextmanager
def two_from_before(
    tmp_path: pathlib.Path, old: pathlib.Path, new: pathlib.Path
) -> Iterator[tuple[int, socket.socket, socket.socket]]:
    """Yield the worker and two clients without a header, who came before the log file was another."""
    port = daemons.free_port()
    with reloads.Daemon(tmp_path, reloads.service(port, settings(old), more=PROXY)) as daemon:
        pid = daemon.uses()["pid"]
        with daemons.connect(port) as client, daemons.connect(port) as another:
            daemons.until(lambda: sockets(pid) >= 2, "both")
            daemon.change(reloads.service(port, settings(new), more=PROXY))
            yield pid, client, another
            daemons.until(lambda: str(old) not in opened(pid), "the end of the old file")


def test_who_has_not_sent_a_header_yet_keeps_the_file_of_his_configuration(tmp_path: pathlib.Path) -> None:
    old, new = tmp_path / "old", tmp_path / "new"
    with two_from_before(tmp_path, old, new) as (pid, *clients):
        for each in clients:
            assert str(old) in opened(pid)
            each.sendall(HEADER)
            assert daemons.line(each) == b"in\n"
    assert (old.read_text(), new.read_text()) == ("said\n" * 2, "")


def sockets(pid: int) -> int:
    """Return the number of its connections: its internet sockets, without the listener."""
    inodes = {line.split()[9] for line in pathlib.Path("/proc/net/tcp").read_text().splitlines()[1:]}
    return sum(each.removeprefix("socket:[").rstrip("]") in inodes for each in opened(pid)) - 1


def test_who_goes_without_a_header_lets_go_of_it(tmp_path: pathlib.Path) -> None:
    old = tmp_path / "old"
    with two_from_before(tmp_path, old, tmp_path / "new") as (pid, client, another):
        assert str(old) in opened(pid)
        client.close()
        another.sendall(b"none\r\n")


def test_who_waits_for_a_slot_keeps_the_file_of_his_configuration(tmp_path: pathlib.Path) -> None:
    port, old, new = daemons.free_port(), tmp_path / "old", tmp_path / "new"
    one = "max_connections = 1\nmax_per_ip = 1\nmax_per_network = 1"
    before, after = (reloads.service(port, settings(log), more=PROXY, limits=one) for log in (old, new))
    with reloads.Daemon(tmp_path, before) as daemon:
        pid = daemon.uses()["pid"]
        with daemons.connect(port) as second, daemons.connect(port) as first:
            daemons.until(lambda: sockets(pid) >= 2, "both")
            first.sendall(HEADER)
            assert daemons.line(first) == b"in\n"
            second.sendall(HEADER)
            daemon.change(after)
            assert str(old) in opened(pid)
            first.sendall(b"\n")
            assert daemons.line(second) == b"in\n"
            daemons.until(lambda: str(old) not in opened(pid), "its end")
    assert (old.read_text(), new.read_text()) == ("said\n" * 2, "")


def test_who_is_looked_up_keeps_the_file_of_his_configuration(tmp_path: pathlib.Path) -> None:
    port, old, new = daemons.free_port(), tmp_path / "old", tmp_path / "new"
    with silent() as (server, number):
        dns = f'[dns]\nservers = ["127.0.0.1:{number}"]\ntimeout = 1\nattempts = 1\n'
        before, after = (
            dns + reloads.service(port, settings(log, "lookup_names = true")) for log in (old, new)
        )
        with reloads.Daemon(tmp_path, before) as daemon:
            pid = daemon.uses()["pid"]
            with daemons.connect(port) as client:
                server.recv(512)
                daemon.change(after)
                assert str(old) in opened(pid)
                assert daemons.line(client) == b"in\n"
                daemons.until(lambda: str(old) not in opened(pid), "its end")
    assert (old.read_text(), new.read_text()) == ("said\n", "")
