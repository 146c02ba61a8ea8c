"""Penalties from outside: who is charged for what, who is refused, and what is shown of it."""

import json
import os
import pathlib
import re
import signal
import subprocess
import sys
from typing import Any

import pytest
from support.dns import dnsservers
from support.running import daemons, reloads

DENY = '[[services.test.access]]\nrules = [{ network = "127.0.0.0/25", action = "deny" }]\n'
HELLO = 'program = ["/bin/echo", "hello"]'


def service(port: int, penalties: str, program: str = HELLO, more: str = "", listener: str = "") -> str:
    return f"""
        [services.test]
        {program}
        user = "nobody"
        listeners = [{{ address = "127.0.0.1", port = {port}{listener} }}]
        penalties = {{ exempt = ["127.0.0.99"], {penalties} }}
        messages = {{ penalty = "421 later", access = "550 no", dropped = "550 dropped" }}
        {more}
    """


def charged(daemon: daemons.Daemon, count: int = 1) -> list[dict[str, str]]:
    """The fields of the lines about penalties, as soon as there are so many."""
    lines = daemon.await_log(r"^penalty service=test ", count)
    return [
        {name: quoted or value for name, quoted, value in re.findall(r'(\w+)=(?:"([^"]*)"|(\S*))', line)}
        for line in lines
    ]


def ended(daemon: daemons.Daemon, count: int) -> None:
    """Wait until so many programs have ended; their clients have been charged by then."""
    daemon.await_log(r"^end service=test ", count)


def explained(daemon: daemons.Daemon, address: str, *options: str) -> subprocess.CompletedProcess[str]:
    words = [sys.executable, "-m", "tcpdconf", "explain", "test", address, *options]
    words += ["--conf", str(daemon.conf), "--runtime-dir", daemon.runtime]
    return subprocess.run(words, capture_output=True, text=True, timeout=daemons.SECONDS, check=False)


def test_who_was_denied_is_refused_for_a_time(tmp_path: pathlib.Path) -> None:
    port = daemons.free_port()
    with reloads.Daemon(tmp_path, service(port, 'refused = "50s", min = "90s"', more=DENY)) as daemon:
        answers = [daemons.talk(port, source="127.0.0.2") for _ in range(5)]
        others = [daemons.talk(port, source=f"127.0.0.{n}") for n in (3, 200)]
        found = charged(daemon, 3)
        (refused, *_) = daemon.await_log(r"^refuse service=test reason=penalty ")
        uses = daemon.uses()
        page = subprocess.run(
            [sys.executable, "-m", "tcpdconf", "status", "--runtime-dir", daemon.runtime],
            capture_output=True, text=True, timeout=daemons.SECONDS, check=False,
        ).stdout  # fmt: skip
        said = explained(daemon, "127.0.0.2")
        other = explained(daemon, "127.0.0.200")

    assert answers == [b"550 no\r\n", b"550 no\r\n", *[b"421 later\r\n"] * 3]
    assert others == [b"550 no\r\n", b"hello\n"]
    assert [(each["network"], each["offence"], each["active"]) for each in found] == [
        ("127.0.0.2", "refused", "no"), ("127.0.0.2", "refused", "yes"), ("127.0.0.3", "refused", "no")
    ]  # fmt: skip
    assert float(found[0]["seconds"]) == 50.0
    assert 99 < float(found[1]["seconds"]) <= 100
    assert re.search(r" peer=127\.0\.0\.2:\d+ offence=refused seconds=\d+\.\d$", refused)
    assert (uses["refused"]["access"], uses["refused"]["penalty"]) == (3, 3)
    assert (uses["penalties"]["charged"], uses["penalties"]["active"]) == (3, 1)
    rows = {(row["network"], row["offence"], row["active"]) for row in uses["penalties"]["sources"]}
    assert rows == {("127.0.0.2", "refused", True), ("127.0.0.3", "refused", False)}
    assert re.search(r"^127\.0\.0\.2 +test +refused +\d+", page, re.MULTILINE)
    assert said.returncode == 1
    assert re.search(r"penalty +127\.0\.0\.2 +refused: \d+ s left, the last offence: refused", said.stdout)
    assert "The client reads: 421 later" in said.stdout
    assert (other.returncode, "has no penalty" in other.stdout) == (0, True)


def test_a_rate_is_an_offence_and_a_limit_is_none(tmp_path: pathlib.Path) -> None:
    port = daemons.free_port()
    limits = '[services.test.limits]\nmax_per_ip = 1\nrate = "2/min"\n'
    hold = 'program = ["/bin/sh", "-c", "echo here; read line"]'
    with reloads.Daemon(tmp_path, service(port, "refused = 30", hold, limits)) as daemon:
        with daemons.connect(port, source="127.0.0.2") as held:
            assert daemons.line(held) == b"here\n"
            assert [daemons.talk(port, source="127.0.0.2") for _ in range(3)] == [b""] * 3
        ended(daemon, 1)
        assert daemons.talk(port, source="127.0.0.2", say=b"\n") == b"here\n"
        ended(daemon, 2)
        assert [daemons.talk(port, source="127.0.0.2") for _ in range(2)] == [b"", b"421 later\r\n"]
        refused = daemon.uses()["refused"]

    assert (refused["per_ip"], refused["rate"], refused["penalty"]) == (3, 1, 1)


@pytest.mark.parametrize(
    ("program", "offence"),
    [
        ("kill -SEGV $$", "killed"),
        ("kill -KILL $$", "killed"),
        ("exit 75", "status 75"),
        ("kill -PIPE $$", None),
        ("exit 1", None),
        ("exit 0", None),
    ],
)
def test_the_end_of_a_program_may_be_an_offence(
    tmp_path: pathlib.Path, program: str, offence: str | None
) -> None:
    port = daemons.free_port()
    argv = f'program = ["/bin/sh", "-c", "echo hello; {program}"]'
    text = service(port, "killed = 30, status = { 75 = '20s' }, min = 0", argv)
    with reloads.Daemon(tmp_path, text) as daemon:
        assert daemons.talk(port) == b"hello\n"
        ended(daemon, 1)
        assert daemons.talk(port) == (b"hello\n" if offence is None else b"421 later\r\n")
        rows = daemon.uses()["penalties"]["sources"]

    assert [row["offence"] for row in rows] == ([] if offence is None else [offence])


def test_who_is_exempt_is_never_charged(tmp_path: pathlib.Path) -> None:
    port = daemons.free_port()
    with reloads.Daemon(tmp_path, service(port, "refused = 30", more=DENY)) as daemon:
        assert [daemons.talk(port, source="127.0.0.99") for _ in range(3)] == [b"550 no\r\n"] * 3
        assert daemon.uses()["penalties"] == {"charged": 0, "active": 0, "sources": []}


def test_a_variable_of_a_rule_is_an_offence(tmp_path: pathlib.Path) -> None:
    port = daemons.free_port()
    more = """drop = ["BLOCK"]
        access = [{ rules = [{ network = "*", action = "allow", environment = { BLOCK = "x" } }] }]"""
    with daemons.Daemon(tmp_path, service(port, "refused = 30", more=more)):
        assert [daemons.talk(port) for _ in range(2)] == [b"550 dropped\r\n", b"421 later\r\n"]


def test_a_dns_list_is_no_offence(tmp_path: pathlib.Path) -> None:
    port = daemons.free_port()
    with dnsservers.Server() as server:
        for address in ("2.0.0.127", "3.0.0.127"):  # a test point, and the client
            server.says(f"{address}.bl.example", "A", dnsservers.Reply(records=("A 127.0.0.2",)))
        more = """drop = ["BLOCK"]
            dns_lists = [{ zone = "bl.example" }]
            [dns]
            servers = ["ADDRESS"]""".replace("ADDRESS", str(server.address))
        with reloads.Daemon(tmp_path, service(port, "refused = 30", more=more)) as daemon:
            answers = [daemons.talk(port, source="127.0.0.3") for _ in range(3)]
            uses = daemon.uses()

    assert answers == [b"550 dropped\r\n"] * 3
    assert (uses["refused"]["dropped"], uses["penalties"]["charged"]) == (3, 0)


def test_an_ipv6_client_is_charged_with_its_network(tmp_path: pathlib.Path) -> None:
    port = daemons.free_port("::1")
    text = service(port, "refused = 30", more=DENY).replace("127.0.0.0/25", "::1").replace("127.0.0.1", "::1")
    with reloads.Daemon(tmp_path, text) as daemon:
        assert [daemons.talk(port, "::1") for _ in range(2)] == [b"550 no\r\n", b"421 later\r\n"]
        (found,) = charged(daemon)
        (row,) = daemon.uses()["penalties"]["sources"]

    assert found["network"] == row["network"] == "::/64"


def test_an_unknown_exec_is_no_offence(tmp_path: pathlib.Path) -> None:
    port = daemons.free_port()
    text = service(port, "killed = 30, status = { 127 = 30, 1 = 30 }", 'program = ["/nonexistent"]')
    with reloads.Daemon(tmp_path, text) as daemon:
        for _ in range(3):
            daemons.talk(port)
        daemon.await_log("^refuse service=test reason=spawn ", 3)
        assert daemon.uses()["penalties"]["charged"] == 0


PROXIED = ', haproxy = { trusted = ["127.0.0.5"], timeout = "2s" }'


def test_a_stranger_is_charged_and_its_proxy_never(tmp_path: pathlib.Path) -> None:
    port = daemons.free_port()
    text = service(port, "proxy = 30, refused = 30, status = { 7 = 30 }", more=DENY, listener=PROXIED)
    client = b"PROXY TCP4 127.0.0.7 127.0.0.1 4321 25\r\n"
    with reloads.Daemon(tmp_path, text) as daemon:
        strangers = [daemons.talk(port, source="127.0.0.6") for _ in range(4)]
        refused = daemon.uses()["refused"]
        for words in (b"GET / HTTP/1.0\r\n", b"PROXY TCP4 127.0.0.6", b"PROXY UNKNOWN\r\n", b""):
            daemons.talk(port, source="127.0.0.5", say=words)
        with daemons.connect(port, source="127.0.0.5") as silent:
            daemons.read(silent)
        denied = [daemons.talk(port, source="127.0.0.5", say=client) for _ in range(2)]
        found = {row["network"]: row["offence"] for row in daemon.uses()["penalties"]["sources"]}
        said = explained(daemon, "127.0.0.7", "--proxied-by", "127.0.0.6").stdout

    assert strangers == [b"", *[b"421 later\r\n"] * 3]
    assert (refused["proxy"], refused["penalty"]) == (1, 3)
    assert denied == [b"550 no\r\n", b"421 later\r\n"]
    assert found == {"127.0.0.6": "proxy", "127.0.0.7": "refused"}
    assert "refused (penalty)" in said


def test_signals_of_the_daemon_are_no_offence(tmp_path: pathlib.Path) -> None:
    """Of a removed service, the last program is ended by the daemon; the log would tell of a penalty."""
    port = daemons.free_port()
    hold = 'program = ["/bin/sh", "-c", "echo here; read line"]'
    text = "[daemon]\nstop_timeout = 10\n" + service(port, "killed = 30, status = { 143 = 30 }", hold)
    with daemons.Daemon(tmp_path, text) as daemon, daemons.connect(port) as client:
        assert daemons.line(client) == b"here\n"
        daemon.stop()

    assert any(re.match(r"end service=test .* signal=SIGTERM", line) for line in daemon.log)
    assert not any(line.startswith("penalty ") for line in daemon.log)


def test_a_reload_keeps_penalties_unless_their_settings_change(tmp_path: pathlib.Path) -> None:
    port = daemons.free_port()
    text = service(port, "refused = 30", more=DENY)
    with reloads.Daemon(tmp_path, text) as daemon:
        assert daemons.talk(port, source="127.0.0.2") == b"550 no\r\n"
        assert daemon.change(text.replace("hello", "hallo").replace("127.0.0.0/25", "127.0.0.9"))
        assert daemons.talk(port, source="127.0.0.2") == b"421 later\r\n"
        assert daemons.talk(port, source="127.0.0.3") == b"hallo\n"
        assert daemon.change(
            text.replace("refused = 30", "refused = 31").replace("127.0.0.0/25", "127.0.0.9")
        )
        assert daemons.talk(port, source="127.0.0.2") == b"hello\n"
        assert daemon.change(re.sub("penalties = .*", "", text))
        assert [daemons.talk(port, source="127.0.0.2") for _ in range(2)] == [b"550 no\r\n"] * 2
        assert daemon.uses()["penalties"] is None


def test_a_program_of_a_killed_worker_is_charged_to_its_client(tmp_path: pathlib.Path) -> None:
    """The new worker knows no penalties of the old one, but its programs."""
    port = daemons.free_port()
    hold = 'program = ["/bin/sh", "-c", "echo here; read line; exit 75"]'
    with reloads.Daemon(tmp_path, service(port, "status = { 75 = 30 }", hold)) as daemon:
        with daemons.connect(port, source="127.0.0.2") as client, daemons.connect(port) as other:
            assert daemons.line(client) == daemons.line(other) == b"here\n"
            other.sendall(b"bye\n")
            charged(daemon)
            os.kill(daemon.worker("test"), signal.SIGKILL)
            daemon.await_log("^ready service=test ", 2)
            assert daemon.uses()["penalties"]["active"] == 0
            client.sendall(b"bye\n")
            charged(daemon, 2)
        assert daemons.talk(port, source="127.0.0.2") == b"421 later\r\n"


def test_many_penalties_are_counted_and_some_are_listed(tmp_path: pathlib.Path) -> None:
    """An address that the request names is listed in any case."""
    port = daemons.free_port()
    with reloads.Daemon(tmp_path, service(port, "refused = 30", more=DENY)) as daemon:
        for last in range(1, 121):
            assert daemons.talk(port, source=f"127.0.0.{last}") == b"550 no\r\n"
        found: dict[str, Any] = daemon.uses()["penalties"]
        said = explained(daemon, "127.0.0.1").stdout
        lines = daemon.await_log("^penalty ", 20)

    assert (found["active"], len(found["sources"])) == (119, 100)
    assert "127.0.0.1" not in {row["network"] for row in found["sources"]}
    assert "refused (penalty)" in said
    assert len(lines) < 119  # throttled as refusals are


def test_an_early_talker_is_charged(tmp_path: pathlib.Path) -> None:
    port = daemons.free_port()
    early = 'early_talker = { wait = "10s" }'
    with reloads.Daemon(tmp_path, service(port, 'early_talker = "50s", min = "50s"', more=early)) as daemon:
        assert daemons.talk(port, say=b"EHLO\r\n") == b"hello\n"
        (found,) = charged(daemon)
        assert (found["offence"], found["active"]) == ("early_talker", "yes")
        assert daemons.talk(port) == b"421 later\r\n"


def test_penalties_that_observe_refuse_nobody(tmp_path: pathlib.Path) -> None:
    port = daemons.free_port()
    rule = '[[services.test.access]]\nrules = [{ network = "127.0.0.3", action = "deny" }]\n'
    settings = 'refused = "50s", min = "50s", enforce = false'

    with reloads.Daemon(tmp_path, service(port, settings, more=rule)) as daemon:
        assert daemons.talk(port, source="127.0.0.3") == b"550 no\r\n"
        charged(daemon)
        daemon.change(service(port, settings))
        assert daemons.talk(port, source="127.0.0.3") == b"hello\n"
        (line,) = daemon.await_log("^would-refuse service=test ")
        said = explained(daemon, "127.0.0.3")
        uses = daemon.uses()
        daemon.change(service(port, settings.replace("false", "true")))
        assert daemons.talk(port, source="127.0.0.3") == b"421 later\r\n"

    assert " reason=penalty peer=127.0.0.3:" in line
    assert " offence=refused seconds=" in line
    assert (uses["would_refuse"]["penalty"], uses["refused"]["penalty"]) == (1, 0)
    assert uses["observes"] == ["penalties"]
    assert said.returncode == 0
    assert "would be refused if enforced" in said.stdout


def test_bans_shows_the_penalties_that_are_enforced(tmp_path: pathlib.Path) -> None:
    port = daemons.free_port()
    with reloads.Daemon(tmp_path, service(port, 'refused = "50s", min = "90s"', more=DENY)) as daemon:
        command = [sys.executable, "-m", "tcpdconf", "bans", "--runtime-dir", daemon.runtime]

        def shown(*options: str) -> str:
            return subprocess.run(
                [*command, *options], capture_output=True, text=True, timeout=daemons.SECONDS, check=True
            ).stdout

        daemons.talk(port, source="127.0.0.2")
        charged(daemon)
        assert shown() == "no bans\n"  # it is remembered, and not enforced yet
        daemons.talk(port, source="127.0.0.2")
        charged(daemon, 2)
        lines = shown().splitlines()
        assert lines[:2] == ["no bans", ""]
        header, line = (re.split(" {2,}", each) for each in lines[2:])
        assert header == ["penalty", "service", "ends in", "offence"]
        assert (line[0], line[1], line[3]) == ("127.0.0.2", "test", "refused")
        (row,) = json.loads(shown("--format", "json"))["penalties"]
        assert (row["service"], row["network"], row["offence"]) == ("test", "127.0.0.2", "refused")
        assert 90 < row["seconds"] <= 100
