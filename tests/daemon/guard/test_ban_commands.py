"""Bans, and the end of programs by command, before a running daemon."""

import contextlib
import functools
import itertools
import json
import os
import pathlib
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support import peers
from support.running import daemons, processes, reloads

from tcpdconf.daemon.control import client as control_client
from tcpdconf.daemon.worker import ledger
from tcpdconf.policy import connection

STAY = 'program = ["/bin/sh", "-c", "echo here; read line; echo $line"]'
PROXY = ', haproxy = { trusted = ["127.0.0.1"] }'


def command(daemon: daemons.Daemon, *words: str, said: str = "") -> subprocess.CompletedProcess[str]:
    """Run a command for this daemon."""
    words = (words[0], "--runtime-dir", daemon.runtime, *words[1:])
    return subprocess.run(
        [sys.executable, "-m", "tcpdconf", *words], input=said, capture_output=True, text=True, check=False
    )


def ask(daemon: daemons.Daemon, name: str, **request: Any) -> dict[str, Any]:  # noqa: ANN401 (as JSON)
    return control_client.ask(daemon.runtime, {"command": name, **request}, daemons.SECONDS)


def bans(daemon: daemons.Daemon) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(command(daemon, "bans", "--format", "json").stdout)["bans"]
    return found


def refused(port: int, source: str | None = None) -> bool:
    """Return whether no program greets a client."""
    with daemons.connect(port, source=source) as client:
        return client.recv(1) == b""


def greeted(port: int, header: bytes) -> bool:
    """Return whether a program greets the client that a PROXY header names."""
    with daemons.connect(port) as client:
        client.sendall(header)
        return client.recv(1) != b""


@contextlib.contextmanager
def running(folder: pathlib.Path, count: int = 1, own: str = "", more: str = "") -> Iterator[Any]:
    """A daemon with services s0, s1, ...; loopback addresses stand for clients, so bans are forced."""
    ports = [daemons.free_port() for _ in range(count)]
    text = "".join(reloads.service(port, STAY, name=f"s{n}", more=more) for n, port in enumerate(ports))
    with reloads.Daemon(folder, own + text) as daemon:
        yield daemon, *ports


def test_a_ban_counts_in_every_service_when_it_is_answered(tmp_path: pathlib.Path) -> None:
    with running(tmp_path, 6) as (daemon, *ports):
        for round_ in range(5):
            client = f"127.0.0.{10 + round_}"
            assert not any(refused(port, client) for port in ports)
            ask(daemon, "ban", networks=[client], force=True)
            assert all(refused(port, client) for port in ports)
            assert not any(refused(port, "127.0.0.2") for port in ports)
        daemon.await_log(r"^refuse service=s5 reason=banned peer=127\.0\.0\.14:\d+ network=127\.0\.0\.14$")
        assert daemon.uses("s0")["refused"]["banned"] == 5
        assert ask(daemon, "status")["bans"] == 5
        assert "bans           5\n" in command(daemon, "status").stdout


def test_without_bans_nothing_is_made_or_said(tmp_path: pathlib.Path) -> None:
    state = tmp_path / "state"
    with running(tmp_path) as (daemon, _):
        assert bans(daemon) == []
        assert not state.exists()
        assert [line for line in daemon.log if line.startswith("warning: ")] == []
        ask(daemon, "ban", networks=["192.0.2.7"])
        assert state.stat().st_mode & 0o777 == 0o700


def test_without_a_place_for_bans_only_ban_complains(tmp_path: pathlib.Path) -> None:
    port = daemons.free_port()
    missing = str(tmp_path / "missing" / "state")
    with reloads.Daemon(
        tmp_path, reloads.service(port, STAY), environment={"STATE_DIRECTORY": missing}
    ) as daemon:
        assert bans(daemon) == []
        failed = command(daemon, "ban", "192.0.2.7")
        assert failed.returncode == 1
        assert f"{missing}/bans: No such file or directory" in failed.stderr
        assert [line for line in daemon.log if line.startswith("warning: bans")] == []


def test_the_first_ban_counts_within_50_ms(tmp_path: pathlib.Path) -> None:
    """Workers get the first table by a message, and a larger one when it is full."""
    with running(tmp_path, 3) as (daemon, *ports):
        many = [f"10.{n >> 8}.{n & 255}.1" for n in range(511)]
        for name, others in (("127.0.0.9", many), ("127.0.0.10", [])):
            ask(daemon, "ban", networks=[name], force=True)
            time.sleep(0.05)
            assert all(refused(port, name) for port in ports)
            if others:
                ask(daemon, "ban", networks=others)
        assert refused(ports[0], "127.0.0.9")


def test_networks_of_any_prefix(tmp_path: pathlib.Path) -> None:
    with running(tmp_path) as (daemon, port):
        for network in ("127.0.16.0/20", "127.0.8.0/31", "::ffff:127.0.9.1", "::ffff:127.0.10.0/120"):
            assert command(daemon, "ban", network, "--force").returncode == 0
        inside = ("127.0.16.1", "127.0.31.254", "127.0.8.1", "127.0.9.1", "127.0.10.77")
        assert all(refused(port, each) for each in inside)
        assert not any(refused(port, each) for each in ("127.0.32.1", "127.0.8.2", "127.0.9.2", "127.0.11.1"))
        listed = [each["network"] for each in bans(daemon)]
        assert listed == ["127.0.16.0/20", "127.0.8.0/31", "127.0.9.1", "127.0.10.0/24"]
        daemon.await_log("^refuse .*reason=banned .*network=127.0.16.0/20")


def test_ipv6(tmp_path: pathlib.Path) -> None:
    port = daemons.free_port("::1")
    text = reloads.service(port, STAY).replace("127.0.0.1", "::1")
    with reloads.Daemon(tmp_path, text) as daemon:
        with daemons.connect(port, "::1") as client:
            assert client.recv(1) == b"h"
        command(daemon, "ban", "::/64", "--force")
        with daemons.connect(port, "::1") as client:
            assert client.recv(1) == b""
        daemon.await_log("^refuse .*network=::/64")


def test_a_ban_ends(tmp_path: pathlib.Path) -> None:
    with running(tmp_path) as (daemon, port):
        ask(daemon, "ban", networks=["127.0.0.9"], force=True, **{"for": 1.0})
        assert refused(port, "127.0.0.9")
        daemons.until(lambda: not refused(port, "127.0.0.9"), "the end of the ban")
        assert bans(daemon) == []


def test_a_ban_of_the_same_network_replaces_it(tmp_path: pathlib.Path) -> None:
    with running(tmp_path) as (daemon, port):
        command(daemon, "ban", "127.0.0.9", "--force", "--for", "1h", "--reason", "first")
        command(daemon, "ban", "127.0.0.9/32", "--force", "--reason", "s\u00e9cond\n\x1b[2J")
        (found,) = bans(daemon)
        assert found["until"] is None
        assert found["reason"] == "s\u00e9cond\ufffd\ufffd[2J"
        assert found["by"].startswith(f"uid {os.getuid()} (")
        assert refused(port, "127.0.0.9")
        table = command(daemon, "bans").stdout.splitlines()
        assert table[0].split() == ["network", "service", "ends", "in", "since", "by", "reason"]
        assert table[1].startswith("127.0.0.9  all      never    ")


def test_a_ban_for_one_service(tmp_path: pathlib.Path) -> None:
    with running(tmp_path, 2) as (daemon, one, other):
        command(daemon, "ban", "127.0.0.9", "--force", "--service", "s1")
        assert (refused(one, "127.0.0.9"), refused(other, "127.0.0.9")) == (False, True)
        wrong = command(daemon, "ban", "127.0.0.9", "--force", "--service", "s2")
        assert wrong.returncode == 1
        assert 'there is no service "s2"; there are: s0, s1' in wrong.stderr
        lifted = command(daemon, "unban", "127.0.0.9")
        assert lifted.returncode == 1
        assert lifted.stderr == "error: 127.0.0.9 is not banned itself, but 127.0.0.9 for s1 is\n"
        assert command(daemon, "unban", "127.0.0.9", "--service", "s1").returncode == 0
        assert not refused(other, "127.0.0.9")


def test_unban(tmp_path: pathlib.Path) -> None:
    with running(tmp_path) as (daemon, port):
        command(daemon, "ban", "127.0.0.8/31", "127.0.0.7", "--force")
        wrong = command(daemon, "unban", "127.0.0.9", "127.0.0.1")
        assert (wrong.returncode, wrong.stdout) == (1, "0 no longer banned\n")
        assert wrong.stderr.splitlines() == [
            "error: 127.0.0.9 is not banned itself, but 127.0.0.8/31 is",
            "error: 127.0.0.1 is not banned",
        ]
        assert command(daemon, "unban", "-", said="127.0.0.8/31\n# more\n\n127.0.0.7 # it\n").returncode == 0
        assert bans(daemon) == []
        assert not refused(port, "127.0.0.9")
        assert command(daemon, "bans").stdout == "no bans\n"
        daemon.await_log(r"^unban network=127\.0\.0\.8/31 by=")


def test_reload_and_the_end_of_a_worker_keep_bans(tmp_path: pathlib.Path) -> None:
    port, other = daemons.free_port(), daemons.free_port()
    text = reloads.service(port, STAY, name="s0")
    with reloads.Daemon(tmp_path, text) as daemon:
        command(daemon, "ban", "127.0.0.9", "--force")
        daemon.change(reloads.service(port, STAY + '\numask = "027"', name="s0"))  # another worker
        assert refused(port, "127.0.0.9")
        os.kill(daemon.uses("s0")["pid"], signal.SIGKILL)
        daemon.await_log("^ready service=s0 ", 2)
        assert refused(port, "127.0.0.9")
        daemon.change(text + reloads.service(other, STAY, name="s1"))
        assert refused(other, "127.0.0.9")


def test_a_worker_that_was_forked_after_a_ban_cannot_write_to_the_table(tmp_path: pathlib.Path) -> None:
    """The supervisor's own map of the table, which it can write, stays its own."""
    port, other = daemons.free_port(), daemons.free_port()
    text = reloads.service(port, STAY, name="s0")
    with reloads.Daemon(tmp_path, text) as daemon:
        command(daemon, "ban", "127.0.0.9", "--force")
        daemon.change(text + reloads.service(other, STAY, name="s1"))
        maps = pathlib.Path(f"/proc/{daemon.uses('s1')['pid']}/maps").read_text().splitlines()
        rights = [line.split()[1] for line in maps if "tcpdconf-bans" in line]

        assert rights == ["r--s"]
        assert refused(other, "127.0.0.9")


def test_restart_and_kill_keep_bans(tmp_path: pathlib.Path) -> None:
    port, environment = daemons.free_port(), {"STATE_DIRECTORY": f"{tmp_path}/state:/elsewhere"}
    for number, end in enumerate((signal.SIGKILL, signal.SIGTERM, signal.SIGTERM)):
        folder = tmp_path / str(number)
        folder.mkdir()
        with reloads.Daemon(folder, reloads.service(port, STAY), environment=environment) as daemon:
            if number == 0:
                command(daemon, "ban", "127.0.0.9", "--force", "--reason", "why")
            assert refused(port, "127.0.0.9")
            assert not refused(port, "127.0.0.8")
            assert [each["reason"] for each in bans(daemon)] == ["why"]
            worker = daemon.worker("test")
            daemon.process.send_signal(end)
            daemon.process.wait(daemons.SECONDS)
        daemons.until(functools.partial(processes.over, worker), "the end of the worker")


def test_a_daemon_that_takes_over_has_the_bans(tmp_path: pathlib.Path) -> None:
    port = daemons.free_port()
    with reloads.Daemon(tmp_path, reloads.service(port, STAY)) as before:
        command(before, "ban", "127.0.0.9", "--force")
        (tmp_path / "next").mkdir()
        text = reloads.service(port, STAY)
        environment = {"STATE_DIRECTORY": str(tmp_path / "state")}
        after = reloads.Daemon(tmp_path / "next", text, environment=environment, arguments=["--take-over"])
        after._command[-1] = before.runtime
        after.runtime = before.runtime
        with after:
            before.process.wait(daemons.SECONDS)
            assert refused(port, "127.0.0.9")
            command(after, "ban", "127.0.0.10", "--force")
            assert refused(port, "127.0.0.10")
            assert len(bans(after)) == 2


class Banning:
    """Bans one address after the other, each by its own connection; `done` are those that were answered."""

    def __init__(self, runtime: str) -> None:
        self.done: list[str] = []
        self._runtime = runtime
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._ban)
        self._thread.start()

    def await_more(self, count: int = 20) -> None:
        """Wait until so many more are banned."""
        wanted = len(self.done) + count
        daemons.until(lambda: len(self.done) >= wanted, "bans")

    def stop(self) -> set[str]:
        """Ban no more; what is banned."""
        self._over.set()
        self._thread.join()
        return set(self.done)

    def _ban(self) -> None:
        for number in itertools.count():
            name = f"10.0.{number >> 8}.{number & 255}"
            request = {"command": "ban", "networks": [name]}
            with contextlib.suppress(control_client.ControlError):
                control_client.ask(self._runtime, request)
                self.done.append(name)
            if self._over.is_set():
                return


def test_a_daemon_that_is_killed_has_kept_every_ban_that_it_answered(tmp_path: pathlib.Path) -> None:
    port, environment = daemons.free_port(), {"STATE_DIRECTORY": f"{tmp_path}/state"}
    folders = [tmp_path / str(number) for number in range(2)]
    for folder in folders:
        folder.mkdir()
    with reloads.Daemon(folders[0], reloads.service(port, STAY), environment=environment) as daemon:
        banning = Banning(daemon.runtime)
        banning.await_more(50)
        daemon.process.kill()
        daemon.process.wait(daemons.SECONDS)
        answered = banning.stop()
        daemons.until(functools.partial(processes.over, daemon.worker("test")), "the end of the worker")
    with reloads.Daemon(folders[1], reloads.service(port, STAY), environment=environment) as daemon:
        listed = {each["network"] for each in bans(daemon)}
        assert answered <= listed
        assert len(listed) <= len(answered) + 1
        assert ask(daemon, "status")["bans"] == len(listed)


def test_no_ban_is_lost_during_a_take_over(tmp_path: pathlib.Path) -> None:
    """The successor has the bans that its predecessor accepts meanwhile; a stopping daemon accepts none."""
    text = reloads.service(daemons.free_port(), STAY)
    with reloads.Daemon(tmp_path, text) as before:
        held = control_client.ControlConnection(before.runtime)
        banning = Banning(before.runtime)
        banning.await_more()
        (tmp_path / "next").mkdir()
        environment = {"STATE_DIRECTORY": str(tmp_path / "state")}
        after = reloads.Daemon(tmp_path / "next", text, environment=environment, arguments=["--take-over"])
        after._command[-1] = after.runtime = before.runtime
        with after:
            banning.await_more()
            with held, contextlib.suppress(control_client.ControlError):
                held.ask({"command": "ban", "networks": ["192.0.2.77"]})
                pytest.fail("a daemon that stops bans")
            answered = banning.stop()
            listed = [each["network"] for each in bans(after)]
            assert answered <= set(listed)
            assert len(listed) == len(set(listed))
            assert ask(after, "status")["bans"] == len(listed)


def test_the_client_behind_a_proxy_counts(tmp_path: pathlib.Path) -> None:
    with running(tmp_path, more=PROXY) as (daemon, port):
        ask(daemon, "ban", networks=["203.0.113.7", "2001:db8::/32"])
        answers = {
            peer: greeted(port, f"PROXY {family} {peer} {local} 1 25\r\n".encode())
            for peer, family, local in (
                ("203.0.113.7", "TCP4", "203.0.113.1"),
                ("203.0.113.8", "TCP4", "203.0.113.1"),
                ("2001:db8:5::1", "TCP6", "2001:db9::1"),
                ("2001:db9:5::1", "TCP6", "2001:db9::1"),
            )
        }
        assert [peer for peer, found in answers.items() if not found] == ["203.0.113.7", "2001:db8:5::1"]
        daemon.await_log(r"^refuse .*reason=banned peer=203\.0\.113\.7:1 via=127\.0\.0\.1:\d+ network=")


@pytest.mark.parametrize(
    ("network", "why"),
    [
        ("127.0.0.1", "127.0.0.1 is in 127.0.0.0/8, this host's loopback"),
        ("::1", "::1 is this host's loopback"),
        ("126.0.0.0/8", None),
        ("126.0.0.0/7", "126.0.0.0/7 is wider than /8"),
        ("0.0.0.0/0", "0.0.0.0/0 is wider than /8"),
        ("2001:db8::/31", "2001:db8::/31 is wider than /32"),
        ("::/32", "::/32 contains ::1, this host's loopback"),
        ("203.0.113.7", "203.0.113.7 is a trusted proxy of s0"),
        ("203.0.113.0/28", "203.0.113.0/28 contains 203.0.113.7, a trusted proxy of s0"),
        ("198.51.100.9", "198.51.100.9 is in 198.51.100.0/24, in daemon.never_ban"),
        ("198.51.0.0/16", "198.51.0.0/16 contains 198.51.100.0/24, in daemon.never_ban"),
        ("::ffff:127.0.0.1", "::ffff:127.0.0.1 is in 127.0.0.0/8, this host's loopback"),
    ],
)  # fmt: skip
def test_nobody_locks_himself_out(network: str, why: str | None, guarded: daemons.Daemon) -> None:
    found = command(guarded, "ban", network)
    if why is None:
        assert (found.returncode, found.stderr) == (0, "")
    else:
        assert found.returncode == 1
        assert found.stderr == f"error: {why}; --force bans it all the same\n"
        assert network not in {each["network"] for each in bans(guarded)}


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[daemons.Daemon]:
    folder = tmp_path_factory.mktemp("guarded")
    port = daemons.free_port()
    text = reloads.service(port, STAY, name="s0", more=', haproxy = { trusted = ["203.0.113.7"] }')
    with reloads.Daemon(folder, f'never_ban = ["198.51.100.0/24"]\n{text}') as daemon:
        yield daemon


def test_own_addresses_cannot_be_banned(guarded: daemons.Daemon) -> None:
    peers.need("ip")
    shown = subprocess.run(["ip", "-j", "address"], capture_output=True, text=True, check=True).stdout
    own = [
        each["local"]
        for interface in json.loads(shown)
        for each in interface["addr_info"]
        if interface["ifname"] != "lo"
    ]
    for address in own:
        found = command(guarded, "ban", address)
        assert found.returncode == 1
        assert f"{address} is an address of this host" in found.stderr


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("192.0.2.5/24", "192.0.2.5/24 has bits beyond its prefix length: did you mean 192.0.2.0/24?"),
        ("2001:db8::1/32", "did you mean 2001:db8::/32?"),
        ("host.example", "host.example is no address or network"),
        ("*", "* is no address or network"),
        ("192.0.2", "192.0.2 is no address or network"),
        ("192.0.2.0/33", "192.0.2.0/33 is no address or network"),
        ("fe80::1%eth0", "has a zone, which a ban cannot have"),
        ("\x1b[2J", "\\x1b[2J is no address or network"),
        ("", " is no address or network"),
    ],
)
def test_wrong_addresses(text: str, error: str, guarded: daemons.Daemon) -> None:
    found = command(guarded, "ban", text)
    assert found.returncode == 1
    assert error in found.stderr
    assert len(found.stderr.splitlines()) == 1


@pytest.mark.parametrize(
    ("request_", "error"),
    [
        ({}, "networks must be an array of texts"),
        ({"networks": "192.0.2.1"}, "networks must be an array of texts"),
        ({"networks": [1]}, "networks must be an array of texts"),
        ({"networks": []}, "networks must have 1 to 1000 elements"),
        ({"networks": ["192.0.2.1"] * 1001}, "networks must have 1 to 1000 elements"),
        ({"networks": ["192.0.2.1"], "for": 0}, "for must be a number of seconds"),
        ({"networks": ["192.0.2.1"], "for": True}, "for must be a number of seconds"),
        ({"networks": ["192.0.2.1"], "for": 1e300}, "for must be a number of seconds"),
        ({"networks": ["192.0.2.1"], "reason": "x" * 201}, "reason must be a text of at most 200"),
        ({"networks": ["192.0.2.1"], "reason": 7}, "reason must be a text of at most 200"),
        ({"networks": ["192.0.2.1"], "service": ["s0"]}, "there is no service"),
        ({"networks": ["192.0.2.1"], "service": ""}, "there is no service"),
    ],
)
def test_wrong_requests(request_: dict[str, Any], error: str, guarded: daemons.Daemon) -> None:
    with pytest.raises(control_client.ControlError, match=error):
        ask(guarded, "ban", **request_)


def test_many_from_standard_input(tmp_path: pathlib.Path) -> None:
    with running(tmp_path) as (daemon, port):
        good = [f"10.{n >> 8}.{n & 255}.1" for n in range(2500)]
        lines = [
            *good[:1200],
            "",
            "# comment",
            "bad",
            "192.0.2.5/24",
            "\xff" * 5000,
            *good[1200:],
            "bad",
            "127.0.0.1",
        ]
        found = command(daemon, "ban", "-", "--reason", "from a file", said="\n".join(lines))
        assert found.returncode == 1
        assert found.stdout == "2500 banned\n"
        said = found.stderr.splitlines()
        assert [line.partition(": ")[2].partition(":")[0] for line in said] == [
            "line 1203", "line 1204", "line 1205", "line 2506", "line 2507",
        ]  # fmt: skip
        listed = bans(daemon)
        assert [each["network"] for each in listed] == good
        assert {each["reason"] for each in listed} == {"from a file"}
        assert not refused(port)
        daemon.await_log(
            r'^ban networks=\d+ first=10\.0\.0\.1 for="for ever" by="uid .*" reason="from a file"$'
        )
        garbage = command(daemon, "ban", "-", said="\u20ac\x01" * 40_000 + "\n" + "\u20ac\n" * 3000)
        assert garbage.returncode == 1
        assert len(garbage.stderr.splitlines()) == 3001
        assert command(daemon, "ban", "-", said="").returncode == 0


def test_no_state_directory_is_an_error_that_names_it(tmp_path: pathlib.Path) -> None:
    environment = {"STATE_DIRECTORY": "/proc/tcpdconf"}
    port = daemons.free_port()
    with reloads.Daemon(tmp_path, reloads.service(port, STAY), environment=environment) as daemon:
        found = command(daemon, "ban", "192.0.2.1")
        assert found.returncode == 1
        assert "/proc/tcpdconf/bans: " in found.stderr
        assert not refused(port)


def test_disconnect(tmp_path: pathlib.Path) -> None:
    with running(tmp_path, 2) as (daemon, one, other):
        with (
            reloads.held(one, "here", "127.0.0.5") as first,
            reloads.held(other, "here", "127.0.0.5") as second,
            reloads.held(one, "here", "127.0.0.6") as third,
            reloads.held(one, "here", "127.0.1.1") as fourth,
        ):
            found = command(daemon, "disconnect", "127.0.0.5", "--service", "s1")
            assert (found.returncode, found.stdout) == (0, "s1: 1 program told to end\n")
            assert daemons.read(second) == b""
            found = command(daemon, "disconnect", "127.0.0.4/30")
            assert (found.returncode, found.stdout) == (0, "s0: 2 programs told to end\n")
            assert daemons.read(first) == daemons.read(third) == b""
            daemon.await_log(r"^end service=s0 peer=127\.0\.0\.5:\d+ .*signal=", 1)
            found = command(daemon, "disconnect", "127.0.0.5")
            assert (found.returncode, found.stdout) == (1, "no such connection\n")
            (left,) = ask(daemon, "connections")["connections"]
            found = command(daemon, "disconnect", "--pid", str(left["pid"]))
            assert found.returncode == 0
            assert daemons.read(fourth) == b""
        for words in (["--pid", str(os.getpid())], ["--pid", "1"], ["127.0.0.0/8"]):
            assert command(daemon, "disconnect", *words).returncode == 1
        assert command(daemon, "disconnect").returncode == 2
        assert command(daemon, "disconnect", "127.0.0.1", "--pid", "5").returncode == 2
        daemon.await_log(r"^disconnect service=s0 pid=\d+ programs=1 by=")


def test_disconnect_is_no_offence(tmp_path: pathlib.Path) -> None:
    port = daemons.free_port()
    text = reloads.service(port, f"{STAY}\npenalties = {{ killed = 30, exempt = [] }}")
    with reloads.Daemon(tmp_path, text) as daemon, reloads.held(port, "here", "127.0.0.5") as client:
        assert command(daemon, "disconnect", "127.0.0.5").returncode == 0
        assert daemons.read(client) == b""
        daemons.until(lambda: daemon.uses()["connections"] == 0, "the end of the program")
        assert daemon.uses()["penalties"]["sources"] == []


def test_disconnect_ends_adopted_programs(tmp_path: pathlib.Path) -> None:
    with running(tmp_path) as (daemon, port), reloads.held(port, "here", "127.0.0.5") as client:
        os.kill(daemon.uses("s0")["pid"], signal.SIGKILL)
        daemon.await_log("^ready service=s0 ", 2)
        assert command(daemon, "disconnect", "127.0.0.5").returncode == 0
        assert daemons.read(client) == b""


def test_a_forged_ledger_ends_no_stranger(tmp_path: pathlib.Path) -> None:
    """A worker can name any process as its program; the supervisor asks /proc."""
    with running(tmp_path) as (daemon, _), subprocess.Popen(["sleep", "60"]) as victim:
        try:
            books = ledger.Ledger(_ledger(daemon.process.pid), 10)
            peer = connection.endpoint(4, 0x7F000005, 1)
            for pid in (victim.pid, os.getpid()):
                books.hold(pid, peer)
            for words in (("127.0.0.5",), ("--pid", str(victim.pid))):
                found = command(daemon, "disconnect", *words)
                assert (found.returncode, found.stdout) == (1, "no such connection\n")
                assert found.stderr == "s0: 1 program not ended: /proc does not show whose\n"
            assert victim.poll() is None
        finally:
            victim.kill()


def _ledger(pid: int) -> int:
    """Open the only ledger of a supervisor."""
    for each in pathlib.Path(f"/proc/{pid}/fd").iterdir():
        if "tcpdconf-ledger" in os.readlink(each):
            return os.open(each, os.O_RDWR)
    raise AssertionError("no ledger")


def test_five_failed_logins_of_webmail_ban_nobody(tmp_path: pathlib.Path) -> None:
    """fail2ban bans no address of this host when a web server here has passed on failed logins."""
    with running(tmp_path) as (daemon, port):
        for _ in range(5):
            found = command(daemon, "ban", "127.0.0.1", "--for", "10min", "--reason", "fail2ban: courier")
            assert found.returncode == 1
            assert "this host's loopback" in found.stderr
        assert not refused(port)


def test_many_single_bans_take_linear_time(tmp_path: pathlib.Path) -> None:
    """The second half costs what the first one does."""
    with running(tmp_path) as (daemon, _):
        took = []
        with control_client.ControlConnection(daemon.runtime) as end:
            for part in range(4):
                began = time.monotonic()
                for n in range(250):
                    end.ask({"command": "ban", "networks": [f"10.0.{part}.{n}"]})
                took.append(time.monotonic() - began)
        assert took[3] < 3 * took[0] + 1
        assert len(bans(daemon)) == 1000


def test_explain_shows_the_ban(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def explained(client: str) -> subprocess.CompletedProcess[str]:
        words = ("s0", client, "--conf", str(daemon.conf), "--no-dns")
        return command(daemon, "explain", *words)

    monkeypatch.setenv("STATE_DIRECTORY", str(tmp_path / "state"))
    with running(tmp_path, 2) as (daemon, *_):
        command(daemon, "ban", "192.0.2.128/25", "--reason", "scanned", "--for", "2h")
        command(daemon, "ban", "198.51.100.1", "--service", "s1")
        assert explained("192.0.2.1").returncode == explained("198.51.100.1").returncode == 0
        asked = explained("192.0.2.129")
        daemon.stop()
        read = explained("192.0.2.129")  # from the file
    for found in (asked, read):
        assert found.returncode == 1
        assert found.stdout.splitlines()[0].endswith("refused (banned)")
        assert re.search(r"^ban +192\.0\.2\.128/25 +is banned until 20", found.stdout, re.MULTILINE)
        assert ": scanned\n" in found.stdout


def test_check_warns_of_bans_that_should_not_be(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STATE_DIRECTORY", str(tmp_path / "state"))
    more = ', haproxy = { trusted = ["203.0.113.7"] }'
    with running(tmp_path, 2, 'never_ban = ["198.51.100.0/24"]\n', more) as (daemon, *_):
        for network, service in (("203.0.113.0/24", "s1"), ("198.51.100.7", "s0"), ("192.0.2.1", "s0")):
            command(daemon, "ban", network, "--service", service, "--force")
        found = json.loads(command_of_check(daemon.conf, "--format", "json").stdout)
        found = [each for each in found if each["code"] == "banned-address"]
        assert [(each["key"], each["message"], each["hint"]) for each in found] == [
            (
                "services.s1.listeners[0].haproxy.trusted",
                "203.0.113.0/24 is banned, but 203.0.113.7 should not be",
                "lift the ban: tcpdconf unban 203.0.113.0/24 --service s1",
            ),
            (
                "daemon.never_ban",
                "198.51.100.7 is banned, but 198.51.100.0/24 should not be",
                "lift the ban: tcpdconf unban 198.51.100.7 --service s0",
            ),
        ]  # fmt: skip
        (tmp_path / "state/bans").write_text("nonsense\n")
        said = command_of_check(daemon.conf).stdout
        assert f"warning: daemon: {tmp_path}/state/bans: line 1: it is no ban" in said
        assert command_of_check(daemon.conf).returncode == 0


def command_of_check(conf: pathlib.Path, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "tcpdconf", "check", str(conf), *words],
        capture_output=True,
        text=True,
        check=False,
    )


_VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text()
    | st.sampled_from(("s0", "10.0.0.1", "::/0")),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=2),
    max_leaves=4,
)
_REQUESTS = st.fixed_dictionaries(
    {},
    optional=dict.fromkeys(
        ("networks", "service", "for", "reason", "force", "start", "address", "pid"), _VALUES
    ),
)


@pytest.mark.slow
@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(name=st.sampled_from(("ban", "unban", "bans", "disconnect")), request_=_REQUESTS)
def test_no_request_meets_a_defect(name: str, request_: dict[str, Any], guarded: daemons.Daemon) -> None:
    said = ""
    try:
        ask(guarded, name, **request_)
    except control_client.ControlError as error:
        said = str(error)
    assert "defect" not in said, request_


def test_a_banned_client_is_told_what_the_service_says(tmp_path: pathlib.Path) -> None:
    port = daemons.free_port()
    more = '[services.test.messages]\nbanned = "554 5.7.1 Access denied"\n'
    with reloads.Daemon(tmp_path, reloads.service(port, STAY) + more) as daemon:
        ask(daemon, "ban", networks=["127.0.0.9"], force=True)
        with daemons.connect(port, source="127.0.0.9") as client:
            assert daemons.read(client) == b"554 5.7.1 Access denied\r\n"
        shown = command(daemon, "status", "--format", "prometheus").stdout
        assert "\ntcpdconf_bans 1.0\n" in shown
        assert 'tcpdconf_refused_total{reason="banned",service="test"} 1.0\n' in shown


def test_a_reload_changes_what_cannot_be_banned(tmp_path: pathlib.Path) -> None:
    text = reloads.service(daemons.free_port(), STAY)
    with reloads.Daemon(tmp_path, text) as daemon:
        assert command(daemon, "ban", "192.0.2.250").returncode == 0
        daemon.change(text, own=f'{reloads.ALONE}never_ban = ["192.0.2.240/28", "*"]\n')
        found = command(daemon, "ban", "192.0.2.251")
        assert found.stderr.startswith("error: 192.0.2.251 is in 192.0.2.240/28, in daemon.never_ban; ")
        assert command(daemon, "ban", "10.0.0.1").returncode == 1
        assert command(daemon, "unban", "192.0.2.250").returncode == 0


def test_a_banned_client_that_waits_for_a_slot_is_refused(tmp_path: pathlib.Path) -> None:
    port = daemons.free_port()
    with (
        reloads.Daemon(tmp_path, reloads.service(port, STAY, limits="max_connections = 1")) as daemon,
        reloads.held(port, "here") as first,
        daemons.connect(port, source="127.0.0.9") as waiting,
    ):
        ask(daemon, "ban", networks=["127.0.0.9"], force=True)
        assert reloads.lives(first)
        assert waiting.recv(1) == b""
