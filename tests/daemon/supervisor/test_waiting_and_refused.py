"""Tests the status of clients that wait for a slot, and of refused clients."""

import os
import pathlib
import signal
import socket
import time

import pytest
from support import headers
from support.running import daemons, httpclients, reloads

from tcpdconf.daemon.supervisor import listeners

DENY = """
    [[services.{name}.access]]
    {more}
    rules = [
        {{ network = "127.0.0.2", action = "deny" }},
        {{ network = "127.0.0.3", action = "deny" }},
        {{ network = "127.0.0.0/8", action = "allow" }},
    ]
"""


def waiting(daemon: reloads.Daemon) -> int:
    return int(daemon.uses()["waiting"])


def test_clients_in_the_queue_wait(tmp_path: pathlib.Path) -> None:
    port = daemons.free_port()
    with reloads.Daemon(tmp_path, reloads.service(port, limits="max_connections = 1")) as daemon:
        assert waiting(daemon) == 0
        with reloads.held(port) as first, daemons.connect(port) as second, daemons.connect(port):
            daemons.until(lambda: waiting(daemon) == 2, "both clients in the queue")
            assert reloads.lives(first)
            assert daemons.line(second) == b"\n"
            daemons.until(lambda: waiting(daemon) == 1, "the second one to be served")


def test_clients_wait_after_their_header(tmp_path: pathlib.Path) -> None:
    """The last slot is taken while the headers of others are awaited; so they are in no queue."""
    port = daemons.free_port()
    proxied = ', haproxy = { trusted = ["127.0.0.1"] }'
    text = reloads.service(port, limits="max_connections = 1", more=proxied)
    with reloads.Daemon(tmp_path, text) as daemon:
        clients = [daemons.connect(port) for _ in range(3)]
        daemons.until(lambda: waiting(daemon) == 0, "all to be accepted, since all have connected")
        for each in clients:
            each.sendall(headers.V1)
        daemons.until(lambda: waiting(daemon) == 2, "the others to be parked")
        for each in clients:
            each.shutdown(socket.SHUT_WR)  # each program ends and lets the next one begin
        for each in clients:
            daemons.read(each)
            each.close()
        daemons.until(lambda: waiting(daemon) == 0, "all to be served")


def test_a_socket_that_does_not_listen_has_no_queue() -> None:
    one, other = socket.socketpair()
    with one, other:
        assert listeners.waiting(one) == 0


def test_who_is_refused_most_by_all_services(tmp_path: pathlib.Path) -> None:
    ports = {name: daemons.free_port() for name in ("one", "two", "seen")}
    text = "".join(
        reloads.service(port, 'program = ["/bin/true"]', name=name)
        + DENY.format(name=name, more="enforce = false" if name == "seen" else "")
        for name, port in ports.items()
    )
    http = daemons.free_port()
    heads = f'[daemon.http]\nlisten = "127.0.0.1:{http}"\n'
    with reloads.Daemon(tmp_path, text) as daemon:
        assert daemon.ask("status")["refused_by_address"] == []
        for name, source in [("one", 2), ("two", 2), ("two", 3), ("seen", 3), ("seen", 3), ("two", 1)]:
            with daemons.connect(ports[name], source=f"127.0.0.{source}") as client:
                assert daemons.read(client) == b""
        expected = [{"address": "127.0.0.2", "refused": 2}, {"address": "127.0.0.3", "refused": 1}]
        assert daemon.ask("status")["refused_by_address"] == expected

        daemon.change(text, reloads.ALONE + heads)
        daemons.until(lambda: "127.0.0.2" in httpclients.get(http, "/status.json").text, "a snapshot")
        daemon.change(text, reloads.ALONE + heads + "addresses = false\n")
        daemons.until(
            lambda: '"refused_by_address": []' in httpclients.get(http, "/status.json").text,
            "a snapshot without",
        )
        assert daemon.ask("status")["refused_by_address"] == expected

        os.kill(daemon.worker("two"), signal.SIGKILL)  # the next worker knows nothing
        daemon.await_log("^error: worker of two ended")
        daemons.until(
            lambda: daemon.ask("status")["refused_by_address"] == [{"address": "127.0.0.2", "refused": 1}],
            "the next worker to report",
        )


def test_a_worker_that_does_not_answer_holds_nothing_up(tmp_path: pathlib.Path) -> None:
    with reloads.Daemon(tmp_path, reloads.service(daemons.free_port())) as daemon:
        pid = daemon.worker("test")
        os.kill(pid, signal.SIGSTOP)
        try:
            began = time.monotonic()
            assert daemon.ask("status")["services"]["test"]["pid"] == pid
            assert time.monotonic() - began < 5
        finally:
            os.kill(pid, signal.SIGCONT)


@pytest.mark.slow
def test_asking_often_ends_no_worker(tmp_path: pathlib.Path) -> None:
    """A worker is killed that sends messages without end, but not for those that it was asked for."""
    lists = ", ".join(f'{{ zone = "bl{number}.example", variable = "BLOCK" }}' for number in range(60))
    dns = f'[dns]\nservers = ["127.0.0.1:{daemons.free_port()}"]\n'
    service = reloads.service(daemons.free_port(), f'program = ["/bin/true"]\ndns_lists = [{lists}]')
    with reloads.Daemon(tmp_path, dns + service) as daemon:
        pid = daemon.worker("test")
        for _ in range(400):  # each report has some 20 kB
            found = daemon.ask("status")
        assert found["services"]["test"]["pid"] == pid
        assert found["services"]["test"]["restarts"] == 0
        assert found["started_at"] == found["process"]["started"]
        assert abs(found["started_at"] - found["config"]["loaded_at"]) < 60
