"""Tests that reloads affect the next connection only; open ones continue, and are counted."""

import contextlib
import os
import pathlib
import signal
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest
from support import peers
from support.dns import dnsservers, lookedup
from support.running import daemons, processes, reloads

if TYPE_CHECKING:
    import socket

SHOW = r"""program = ["/bin/sh", "-c", "echo \"$WORD $(pwd) $(umask)\"; read line; echo $line"]
"""
SHOW_ALL = 'program = ["/usr/bin/env", "-0"]\n'
RULE = '{{ network = "127.0.0.0/8", action = "allow", environment = {{ WORD = "{word}" }} }}'

# Settings of a service, with `old` before and `new` after a reload, and the fate of the worker.
KINDS = {
    "program": ('program = ["/bin/sh", "-c", "echo {word}; read line; echo $line"]', "kept"),
    "environment": (SHOW + 'environment = {{ WORD = "{word}" }}', "kept"),
    "environment file": (SHOW + 'environment_files = ["{folder}/{word}"]', "kept"),
    "shell file": (SHOW + 'environment_files = [{{ path = "{folder}/{word}", shell = true }}]', "kept"),
    "access rules": (SHOW + f"access = [{{{{ rules = [{RULE}] }}}}]", "kept"),
    "access file": (SHOW + 'access = [{{ file = "{folder}/{word}.access" }}]', "kept"),
    "directory": (SHOW + 'directory = "{folder}/{word}.d"', "replaced"),
    "umask": (SHOW + 'umask = "{umask}"', "replaced"),
}


def prepare(folder: pathlib.Path) -> None:
    for word in ("old", "new"):
        (folder / word).write_text(f"WORD={word}\n")
        (folder / f"{word}.access").write_text(f"127\tallow,WORD={word}\n")
        (folder / f"{word}.d").mkdir()


@pytest.mark.parametrize("kind", KINDS)
def test_what_changes_counts_for_the_next_connection(kind: str, tmp_path: pathlib.Path) -> None:
    prepare(tmp_path)
    written, worker = KINDS[kind]
    port = daemons.free_port()

    def text(word: str) -> str:
        umask = "022" if word == "old" else "027"
        settings = written.format(word=word, folder=tmp_path, umask=umask)
        return reloads.service(port, settings, limits="max_connections = 9\nmax_per_ip = 3")

    with reloads.Daemon(tmp_path, text("old")) as daemon, contextlib.ExitStack() as clients:
        first = clients.enter_context(daemons.connect(port))
        old = daemons.line(first)
        pid = daemon.uses()["pid"]
        assert daemon.change(text("new")) == ["test"]
        second = clients.enter_context(daemons.connect(port))
        new = daemons.line(second)

        changed = old.replace(b"0022", b"0027") if kind == "umask" else old.replace(b"old", b"new")
        assert new == changed != old
        assert (daemon.uses()["pid"] == pid) == (worker == "kept")
        daemons.line(clients.enter_context(daemons.connect(port)))
        assert daemons.talk(port) == b""
        assert daemon.uses()["refused"]["per_ip"] == 1
        assert reloads.lives(first)
        assert reloads.lives(second)


def test_nothing_has_changed(tmp_path: pathlib.Path) -> None:
    prepare(tmp_path)
    port = daemons.free_port()
    settings = f"""{SHOW}
        environment_files = ["{tmp_path}/old"]
        access = [{{ file = "{tmp_path}/old.access" }}]"""
    with reloads.Daemon(tmp_path, reloads.service(port, settings)) as daemon:
        before = daemons.children(daemon.process.pid)
        (tmp_path / "conf.d/test.toml").touch()
        said = subprocess.run(
            [sys.executable, "-m", "tcpdconf", "reload", "--runtime-dir", str(tmp_path / "run")],
            check=True, capture_output=True, text=True, timeout=daemons.SECONDS,
        )  # fmt: skip

        assert said.stdout == "nothing has changed\n"
        assert daemon.reload() == []
        assert daemons.children(daemon.process.pid) == before
        assert daemon.await_log("^reloaded changed=nothing$", 2)


def test_a_lower_limit_ends_nobody_and_a_higher_one_counts_at_once(tmp_path: pathlib.Path) -> None:
    port = daemons.free_port()

    def text(most: int, per_ip: int) -> str:
        settings = reloads.HOLD + '\nmessages = { per_ip = "too many" }'
        return reloads.service(port, settings, limits=f"max_connections = {most}\nmax_per_ip = {per_ip}")

    with reloads.Daemon(tmp_path, text(5, 5)) as daemon, contextlib.ExitStack() as clients:
        held = [clients.enter_context(reloads.held(port)) for _ in range(3)]
        assert daemon.change(text(5, 2)) == ["test"]
        assert daemons.talk(port) == b"too many\r\n"
        assert reloads.lives(held.pop())
        daemons.until(lambda: daemon.uses()["connections"] == 2, "the end")
        assert daemons.talk(port) == b"too many\r\n"

        assert daemon.change(text(2, 5)) == ["test"]  # all slots are taken: who comes waits
        waiting = clients.enter_context(daemons.connect(port))
        daemons.until(lambda: daemon.uses()["max_connections"] == 2, "the limit")
        assert daemon.change(text(3, 5)) == ["test"]
        assert daemons.line(waiting) == b"\n"
        assert [reloads.lives(each) for each in (*held, waiting)] == [True] * 3


def test_a_rate_keeps_its_tokens(tmp_path: pathlib.Path) -> None:
    port = daemons.free_port()

    def text(word: str) -> str:
        settings = f'program = ["/bin/echo", "{word}"]\nmessages = {{ rate = "too fast" }}'
        return reloads.service(port, settings, limits='rate = "3/1h"')

    with reloads.Daemon(tmp_path, text("old")) as daemon:
        assert [daemons.talk(port) for _ in range(2)] == [b"old\n"] * 2
        daemon.change(text("new"))
        assert [daemons.talk(port) for _ in range(2)] == [b"new\n", b"too fast\r\n"]


def test_lists_keep_their_health_unless_they_change(tmp_path: pathlib.Path) -> None:
    port = daemons.free_port()
    with dnsservers.Server() as server:
        lookedup.healthy(server, "list.example", "second.example")
        server.says("5.0.0.127.list.example", "A", lookedup.A)

        def text(word: str, variable: str = "BLOCK", zone: str = "list.example") -> str:
            return f"""
                {reloads.service(port, SHOW_ALL + f'environment = {{ WORD = "{word}" }}')}
                [[services.test.dns_lists]]
                zone = "{zone}"
                action = "block"
                variable = "{variable}"
                [dns]
                servers = ["127.0.0.1:{server.address.port}"]
            """

        def tests() -> int:
            return sum(question.name.startswith("2.0.0.127.") for question in server.asked)

        with reloads.Daemon(tmp_path, text("old")) as daemon:
            assert "BLOCK" in lookedup.answer(port)
            asked = tests()
            assert daemon.change(text("new")) == ["test"]
            assert lookedup.answer(port)["WORD"] == "new"
            assert tests() == asked
            assert daemon.uses()["dns_lists"]["list.example"]["asked"] == 1  # the second time from the cache
            assert daemon.change(text("new", "LISTED")) == ["test"]
            assert "LISTED" in lookedup.answer(port)
            assert daemon.change(text("new", "LISTED", "second.example")) == ["test"]
            assert "LISTED" not in lookedup.answer(port)
            assert tests() > asked
            assert list(daemon.uses()["dns_lists"]) == ["second.example"]


def test_haproxy_settings_of_a_listener(tmp_path: pathlib.Path) -> None:
    port = daemons.free_port()
    program = 'program = ["/bin/sh", "-c", "echo $TCPREMOTEIP"]'
    header = b"PROXY TCP4 192.0.2.7 127.0.0.1 1 2\r\n"
    trusted = ', haproxy = { trusted = ["127.0.0.1"], timeout = 60 }'
    stranger = ', haproxy = { trusted = ["127.0.0.9"], timeout = 60 }'
    with reloads.Daemon(tmp_path, reloads.service(port, program)) as daemon:
        assert daemons.talk(port) == b"::ffff:127.0.0.1\n"
        daemon.change(reloads.service(port, program, more=trusted))
        assert daemons.talk(port, say=header) == b"::ffff:192.0.2.7\n"
        with daemons.connect(port) as early:
            early.sendall(header[:10])
            assert daemons.talk(port, say=header) == b"::ffff:192.0.2.7\n"  # then the other has arrived too
            daemon.change(reloads.service(port, program, more=stranger))
            assert daemons.talk(port) == b""
            daemon.change(reloads.service(port, program))
            assert daemons.talk(port) == b"::ffff:127.0.0.1\n"
            early.sendall(header[10:])  # it goes on as it has begun
            assert daemons.read(early) == b"::ffff:192.0.2.7\n"


def refused(port: int, address: str = "127.0.0.1") -> bool:
    try:
        daemons.connect(port, address).close()
    except ConnectionRefusedError:
        return True
    return False


def listening(*services: tuple[str, list[tuple[str, int]]], backlog: int = 10) -> str:
    """Services that say their name, each with its listeners."""
    text = ""
    for name, ends in services:
        listeners = ", ".join(
            f'{{ address = "{address}", port = {port}, backlog = {backlog} }}' for address, port in ends
        )
        text += f"[services.{name}]\n"
        text += (
            f'program = ["/bin/sh", "-c", "echo {name}; read line; echo $line"]\nlisteners = [{listeners}]\n'
        )
    return text


def test_listeners_come_go_and_move_between_services(tmp_path: pathlib.Path) -> None:
    ports = [("127.0.0.1", daemons.free_port()) for _ in range(3)]
    first, second, third = ports
    with (
        reloads.Daemon(tmp_path, listening(("one", [first, second]), ("two", [third]))) as daemon,
        reloads.held(first[1], "one") as in_one,
        reloads.held(second[1], "one") as in_second,
    ):
        assert daemon.change(listening(("one", [first]), ("two", [third]))) == ["one"]
        assert refused(second[1])
        assert daemon.change(listening(("one", [first]), ("two", [third, second]))) == ["two"]
        assert daemon.change(listening(("one", [first, third]), ("two", [second]))) == ["one", "two"]
        words = []
        for _, port in ports:
            with daemons.connect(port) as client:
                words.append(daemons.line(client))
        assert words == [b"one\n", b"two\n", b"one\n"]
        assert daemon.uses("one")["listeners"] == [f"127.0.0.1:{first[1]}", f"127.0.0.1:{third[1]}"]
        assert reloads.lives(in_one)
        assert reloads.lives(in_second)


def test_every_address_and_one_address_on_the_same_port(tmp_path: pathlib.Path) -> None:
    port = daemons.free_port()
    everywhere, one = listening(("test", [("*", port)])), listening(("test", [("127.0.0.1", port)]))
    with reloads.Daemon(tmp_path, everywhere) as daemon:
        for text, elsewhere in ((one, True), (everywhere, False), (one, True), (everywhere, False)):
            with reloads.held(port, "test") as client:
                assert daemon.change(text) == ["test"]
                with reloads.held(port, "test"):
                    assert refused(port, "127.0.0.2") == elsewhere
                assert reloads.lives(client)


def test_a_backlog(tmp_path: pathlib.Path) -> None:
    peers.need("ss")
    end = ("127.0.0.1", daemons.free_port())

    def shown() -> str:
        said = subprocess.run(
            ["ss", "-Hltn", f"sport = :{end[1]}"], capture_output=True, text=True, check=True
        )
        return said.stdout.split()[2]

    with reloads.Daemon(tmp_path, listening(("test", [end]), backlog=10)) as daemon:
        assert shown() == "10"
        assert daemon.change(listening(("test", [end]), backlog=20)) == ["test"]
        assert shown() == "20"


@pytest.mark.peer
def test_another_user_gets_another_worker(tmp_path: pathlib.Path) -> None:
    """Its predecessor's programs go on, are counted, and are told to end at a stop."""
    peers.need_root()
    port = daemons.free_port()
    program = """program = ["/bin/sh", "-c", "id -u; read line; echo $line"]"""

    def text(user: int) -> str:
        settings = f'{program}\nuser = {user}\ngroup = {user}\nmessages = {{ per_ip = "too many" }}'
        return reloads.service(port, settings, limits="max_connections = 9\nmax_per_ip = 3")

    with reloads.Daemon(tmp_path, text(54321)) as daemon, contextlib.ExitStack() as clients:
        workers: list[int] = []
        held: list[socket.socket] = []
        for user in (54321, 54322, 54323):
            if held:
                assert daemon.change(text(user)) == ["test"]
            held.append(clients.enter_context(reloads.held(port, str(user))))
            workers.append(daemon.uses()["pid"])
        assert len(set(workers)) == 3
        assert daemon.uses()["connections"] == 3
        assert daemons.talk(port) == b"too many\r\n"

        assert reloads.lives(held.pop(0))
        daemons.until(lambda: daemon.uses()["connections"] == 2, "that its end is known")
        daemons.until(lambda: processes.over(workers[0]), "the end of its worker")
        assert not processes.over(workers[1])
        held.append(clients.enter_context(reloads.held(port, "54323")))
        assert daemons.talk(port) == b"too many\r\n"

        assert daemon.stop() == 0
        assert [daemons.read(each) for each in held] == [b""] * 3


@pytest.mark.peer
def test_a_replaced_worker_ends_though_it_had_adopted_a_program(tmp_path: pathlib.Path) -> None:
    peers.need_root()
    port = daemons.free_port()

    def text(user: int) -> str:
        return reloads.service(port, f"{reloads.HOLD}\nuser = {user}\ngroup = {user}")

    with reloads.Daemon(tmp_path, text(54321)) as daemon, reloads.held(port) as client:
        daemon.await_log("^accept ")  # then it is recorded
        os.kill(daemon.uses()["pid"], signal.SIGKILL)
        daemon.await_log("^ready service=test ", 2)
        adopter = daemon.uses()["pid"]
        assert daemon.change(text(54322)) == ["test"]
        daemons.until(lambda: processes.over(adopter), "the end of its worker")
        assert daemon.uses()["connections"] == 1
        assert reloads.lives(client)
        daemons.until(lambda: daemon.uses()["connections"] == 0, "that its end is known")
