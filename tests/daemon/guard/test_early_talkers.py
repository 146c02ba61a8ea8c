"""Clients that send data before the program has greeted them, before a running service."""

import contextlib
import os
import pathlib
import re
import signal
import socket
import time
from collections.abc import Iterator

import pytest
from support import networks
from support.dns import dnsservers
from support.running import daemons, reloads

from tcpdconf.daemon.guard import passes
from tcpdconf.policy import connection

SHOW = '["/bin/sh", "-c", \'echo "early=$EARLYTALKER"; cat\']'
DROP = 'drop = ["EARLYTALKER"]'


def service(port: int, early: str, rest: str = "", more: str = "") -> str:
    settings = f"program = {SHOW}\nearly_talker = {{ {early} }}\n{rest}"
    return reloads.service(port, settings, limits="max_connections = 2000", more=more)


@contextlib.contextmanager
def running(
    folder: pathlib.Path, early: str, rest: str = "", more: str = ""
) -> Iterator[tuple[reloads.Daemon, int]]:
    port = daemons.free_port()
    with reloads.Daemon(folder, service(port, early, rest, more)) as daemon:
        yield daemon, port


def test_a_client_that_talks_gets_the_variable_at_once(tmp_path: pathlib.Path) -> None:
    with running(tmp_path, 'wait = "15s"') as (daemon, port), daemons.connect(port) as client:
        began = time.monotonic()
        client.sendall(b"EHLO spam\r\n")
        assert daemons.line(client) == b"early=1\n"
        assert time.monotonic() - began < 10
        assert daemons.line(client) == b"EHLO spam\r\n"  # nothing was taken from the program
        assert daemon.uses()["early_talkers"] == 1


def test_a_client_that_waits_is_not_marked(tmp_path: pathlib.Path) -> None:
    with running(tmp_path, 'wait = "200ms"') as (daemon, port):
        began = time.monotonic()
        with daemons.connect(port) as client:
            assert daemons.line(client) == b"early=\n"
        assert time.monotonic() - began > 0.15
        assert daemon.uses()["early_talkers"] == 0


def test_drop_refuses_who_talks(tmp_path: pathlib.Path) -> None:
    rest = f'{DROP}\ndeny_message = "550 wait for the greeting"'
    with running(tmp_path, 'wait = "15s"', rest) as (daemon, port):
        assert daemons.talk(port, say=b"EHLO spam\r\n") == b"550 wait for the greeting\r\n"
        daemon.await_log(r"^refuse .*reason=dropped .*variable=EARLYTALKER value=1")
        found = daemon.uses()
        assert (found["refused"]["dropped"], found["early_talkers"], found["connections"]) == (1, 1, 0)


def test_an_end_without_data_is_no_talk(tmp_path: pathlib.Path) -> None:
    with running(tmp_path, 'wait = "15s"', DROP) as (daemon, port), daemons.connect(port) as client:
        began = time.monotonic()
        client.shutdown(socket.SHUT_WR)
        assert daemons.line(client) == b"early=\n"
        assert time.monotonic() - began < 10
        assert daemon.uses()["early_talkers"] == 0


def test_a_client_that_resets_ends_the_wait(tmp_path: pathlib.Path) -> None:
    with running(tmp_path, 'wait = "15s"') as (daemon, port):
        with daemons.connect(port) as client:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        daemon.await_log("^end service=test ")
        assert daemon.uses()["early_talkers"] == 0


def test_a_client_that_has_waited_does_not_wait_again(tmp_path: pathlib.Path) -> None:
    with running(tmp_path, 'wait = "2s"') as (daemon, port):
        with daemons.connect(port) as client:
            daemons.line(client)
        with daemons.connect(port) as client:
            client.sendall(b"at once\n")  # it has a pass, so nobody listens
            assert daemons.line(client) == b"early=\n"
        with daemons.connect(port, source="127.0.0.9") as client:
            client.sendall(b"at once\n")
            assert daemons.line(client) == b"early=1\n"
        with daemons.connect(port, source="127.0.0.9") as client:
            client.sendall(b"again\n")
            assert daemons.line(client) == b"early=1\n"  # a failure is not remembered
        assert daemon.uses()["early_talkers"] == 2


def test_pass_for_0_remembers_nobody(tmp_path: pathlib.Path) -> None:
    with running(tmp_path, 'wait = "200ms", pass_for = 0') as (_, port):
        for _ in range(2):
            began = time.monotonic()
            with daemons.connect(port) as client:
                daemons.line(client)
                assert time.monotonic() - began > 0.15


def test_a_pass_survives_a_worker_and_a_reload(tmp_path: pathlib.Path) -> None:
    with running(tmp_path, 'wait = "300ms"') as (daemon, port):
        with daemons.connect(port) as client:
            daemons.line(client)
        pid = daemon.uses()["pid"]
        os.kill(pid, signal.SIGKILL)
        daemon.await_log("^ready service=test ", 2)
        with daemons.connect(port) as client:
            client.sendall(b"at once\n")
            assert daemons.line(client) == b"early=\n"
        daemon.change(service(port, 'wait = "10s"', 'umask = "027"'))
        with daemons.connect(port) as client:
            client.sendall(b"at once\n")
            assert daemons.line(client) == b"early=\n"


def test_a_pass_survives_a_restart(tmp_path: pathlib.Path) -> None:
    port, environment = daemons.free_port(), {"STATE_DIRECTORY": str(tmp_path / "state")}
    for number, said in enumerate((b"", b"at once\n")):
        folder = tmp_path / str(number)
        folder.mkdir()
        with (
            reloads.Daemon(folder, service(port, 'wait = "300ms"'), environment=environment),
            daemons.connect(port) as client,
        ):
            client.sendall(said)
            assert daemons.line(client) == b"early=\n"


@pytest.mark.parametrize("kind", ["other text", "too long", "a link", "a directory", "a pipe"])
def test_a_damaged_file_of_passes_is_a_warning(kind: str, tmp_path: pathlib.Path) -> None:
    file = tmp_path / "state" / "passes-test"
    file.parent.mkdir()
    match kind:
        case "other text":
            file.write_bytes(b"something else")
        case "too long":
            file.write_bytes(b"tcpdconf passes, form 1\n" + bytes(passes.SIZE + 1))
        case "a link":
            file.symlink_to("/etc/passwd")
        case "a directory":
            file.mkdir()
        case "a pipe":
            os.mkfifo(file)
    with running(tmp_path, 'wait = "100ms"') as (daemon, port), daemons.connect(port) as client:
        daemon.await_log(rf"^warning: passes are not read: {re.escape(str(file))}: ")
        assert daemons.line(client) == b"early=\n"


def test_without_a_state_directory_passes_are_not_saved(tmp_path: pathlib.Path) -> None:
    port = daemons.free_port()
    environment = {"STATE_DIRECTORY": str(tmp_path / "missing" / "state")}
    with (
        reloads.Daemon(tmp_path, service(port, 'wait = "100ms"'), environment=environment) as daemon,
        daemons.connect(port) as client,
    ):
        assert daemons.line(client) == b"early=\n"
        daemon.await_log("^warning: passes are not read: .*: No such file or directory")
        daemon.stop()
        daemon.await_log("^warning: passes are not saved: .*: No such file or directory")


def test_passes_of_one_set_replace_the_one_that_ends_first() -> None:
    fd = os.memfd_create("passes")
    try:
        table = passes.Passes(fd)
        clients = [connection.endpoint(4, 0xC0000200 + n, 0) for n in range(200)]
        for number, client in enumerate(clients):
            table.grant(client, 1000 + number)
        assert all(table.valid(client, 2000) for client in clients)
        # as many as there are places, and then some: the last ones stay
        many = [connection.endpoint(6, (0x20010DB8 << 96) | (n << 64), 0) for n in range(80_000)]
        for client in many:
            table.grant(client, 5000)
        kept = sum(table.valid(client, 5000) for client in many)
        assert 50_000 < kept <= 65_536
        other = many[-1]._replace(value=many[-1].value + 77)
        assert table.valid(other, 5000)  # its network of 64 bits has a pass
        assert not table.valid(many[-1], 4000)  # it was given under another setting
    finally:
        os.close(fd)


def test_an_access_rule_exempts_a_client(tmp_path: pathlib.Path) -> None:
    rule = '{ network = "127.0.0.5", action = "allow", environment = { EARLYTALKER = "" } }'
    with (
        running(tmp_path, 'wait = "15s"', f"access = [{{ rules = [{rule}] }}]") as (_, port),
        daemons.connect(port, source="127.0.0.5") as client,
    ):
        client.sendall(b"at once\n")
        assert daemons.line(client) == b"early=\n"


def test_only_bytes_after_a_proxy_header_count(tmp_path: pathlib.Path) -> None:
    header = b"PROXY TCP4 192.0.2.%d 198.51.100.9 5555 25\r\n"
    haproxy = ', haproxy = { trusted = ["127.0.0.1"] }'
    with running(tmp_path, 'wait = "300ms"', more=haproxy) as (_, port):
        with daemons.connect(port) as client:
            client.sendall(header % 1)
            assert daemons.line(client) == b"early=\n"
        with daemons.connect(port) as client:
            client.sendall(header % 2 + b"EHLO\r\n")
            assert daemons.line(client) == b"early=1\n"


@contextlib.contextmanager
def listing(
    folder: pathlib.Path, early: str, delay: float, rest: str = ""
) -> Iterator[tuple[reloads.Daemon, int]]:
    """A service with a list that takes its time to answer."""
    reply = dnsservers.Reply(rcode="NXDOMAIN", soa=1, delay=delay)
    lists = f"""
        {rest}
        dns_lists = [{{ zone = "bl.example", variable = "BLOCK", probe = false }}]
        dns.deadline = 15
    """
    with dnsservers.Server() as server:
        server.says("2.0.0.127.bl.example", "A", reply)
        dns = f'[dns]\nservers = ["{server.address.address}:{server.address.port}"]\n'
        port = daemons.free_port()
        with reloads.Daemon(folder, dns + service(port, early, lists)) as daemon:
            yield daemon, port


def test_lookups_take_place_meanwhile(tmp_path: pathlib.Path) -> None:
    with listing(tmp_path, 'wait = "1s"', delay=1.0) as (_, port):
        began = time.monotonic()
        with daemons.connect(port, source="127.0.0.2") as client:
            assert daemons.line(client) == b"early=\n"
        assert 0.9 < time.monotonic() - began < 1.9


def test_who_talks_is_refused_before_the_lists_have_answered(tmp_path: pathlib.Path) -> None:
    with listing(tmp_path, 'wait = "15s"', 10, DROP) as (daemon, port):
        began = time.monotonic()
        assert daemons.talk(port, source="127.0.0.2", say=b"EHLO\r\n") == b""
        assert time.monotonic() - began < 5
        assert daemon.uses()["refused"]["dropped"] == 1


@pytest.mark.peer
def test_data_in_a_syn_is_talk(tmp_path: pathlib.Path) -> None:
    with networks.new():
        pathlib.Path("/proc/sys/net/ipv4/tcp_fastopen").write_text("3\n")
        with running(tmp_path, 'wait = "15s"', "tcp = { fastopen = 256 }") as (_, port):
            for _ in range(2):  # the first client is given the cookie
                with socket.socket() as client:
                    client.sendto(b"EHLO\r\n", socket.MSG_FASTOPEN, ("127.0.0.1", port))
                    client.settimeout(daemons.SECONDS)
                    assert daemons.line(client) == b"early=1\n"


def test_a_stop_ends_those_that_wait(tmp_path: pathlib.Path) -> None:
    with running(tmp_path, 'wait = "60s"') as (daemon, port), daemons.connect(port) as client:
        daemons.until(lambda: daemon.uses()["connections"] == 1, "the client")
        began = time.monotonic()
        daemon.stop()
        assert time.monotonic() - began < 5
        assert client.recv(100) == b""


def test_a_new_wait_counts_for_the_next_client(tmp_path: pathlib.Path) -> None:
    with running(tmp_path, 'wait = "500ms"') as (daemon, port), daemons.connect(port) as first:
        daemons.until(lambda: daemon.uses()["connections"] == 1, "the client")
        daemon.change(service(port, 'wait = "100ms", variable = "OTHER"'))
        assert daemons.line(first) == b"early=\n"


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_ten_thousand_clients_that_wait_are_never_marked(tmp_path: pathlib.Path) -> None:
    with running(tmp_path, 'wait = "100ms", pass_for = 0', DROP) as (daemon, port):
        for _ in range(50):
            with contextlib.ExitStack() as stack:
                clients = [stack.enter_context(daemons.connect(port)) for _ in range(200)]
                for client in clients:
                    assert daemons.line(client) == b"early=\n"
                    client.sendall(b"QUIT\r\n")
        daemons.until(lambda: daemon.uses()["accepted"] == 10_000, "the counter")
        assert daemon.uses()["early_talkers"] == 0
