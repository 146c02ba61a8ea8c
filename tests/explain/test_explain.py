"""The steps that explain prints; test_explain_agrees compares them with the daemon."""

import json
import os
import pathlib
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest
from support import peers
from support.courier import gdbmfiles
from support.dns import dnsservers
from support.running import controls, daemons, explaining

from tcpdconf.daemon.control.server import Command
from tcpdconf.explain import process as explain
from tcpdconf.explain.decide import Live
from tcpdconf.policy import connection

SERVICE = """
[services.test]
program = ["/usr/bin/env"]
"""
PLAIN = SERVICE + 'listeners = [{ address = "127.0.0.1", port = 4998 }]\n'
LISTS = 'dns_lists = [{ zone = "bl.example", txt = true }, { zone = "wl.example", variable = "W" }]\n'


def command(conf: pathlib.Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    words = [sys.executable, "-m", "tcpdconf", "explain", *arguments, "--conf", str(conf)]
    return subprocess.run(words, capture_output=True, text=True, timeout=daemons.SECONDS, check=False)


def said(conf: pathlib.Path, **request: Any) -> dict[str, Any]:  # noqa: ANN401 (JSON)
    (found,) = explaining.ask(conf, [{"service": "test", **request}])
    return found


def steps(found: dict[str, Any], kind: str) -> list[tuple[str, str, str]]:
    return [
        (each["subject"], each["effect"], each["text"]) for each in found["steps"] if each["step"] == kind
    ]


def places(found: dict[str, Any], kind: str) -> list[tuple[str, int, str] | None]:
    """Name, line and text of each."""
    return [
        each["place"]
        and (os.path.basename(each["place"]["path"]), each["place"]["line"], each["place"]["text"])
        for each in found["steps"]
        if each["step"] == kind
    ]


@pytest.mark.parametrize(
    ("arguments", "status", "told"),
    [
        (["test", "192.0.2.1"], 0, "test: 192.0.2.1 to 127.0.0.1:4998: admitted\n"),
        (["test", "[::ffff:192.0.2.1]:40000"], 0, "test: 192.0.2.1:40000 to 127.0.0.1:4998: admitted\n"),
        (["test", "198.51.100.1"], 1, "refused (access)\n"),
        (["test", "2001:db8::1"], 1, "refused (listener)\n"),
        (["test", "192.0.2.1", "--local", "127.0.0.1:4997"], 1, "refused (listener)\n"),
        (["tset", "192.0.2.1"], 78, 'there is no service "tset"; there are: test'),
        (["test", "192.0.2.1", "--listed", "x.example=127.0.0.2"], 78, "there is no DNS list 'x.example'"),
        (["test", "192.0.2"], 2, "argument ADDRESS: must be an address, perhaps with a port"),
        (["test", "192.0.2.1", "--local", "127.0.0.1"], 2, "argument --local: must be ADDRESS:PORT"),
        (["test", "192.0.2.1", "--listed", "x.example"], 2, "argument --listed: must be ZONE=ADDRESS"),
    ],
)
def test_the_exit_status_says_how_it_ends(
    tmp_path: pathlib.Path, arguments: list[str], status: int, told: str
) -> None:
    rule = '[[services.test.access]]\nrules = [{ network = "198.51.100.0/24", action = "deny" }]\n'
    found = command(daemons.configure(tmp_path, PLAIN + rule), *arguments)

    assert found.returncode == status
    assert told in (found.stdout if status < 2 else found.stderr)


def test_json_is_what_the_reference_says(tmp_path: pathlib.Path) -> None:
    found = command(daemons.configure(tmp_path, PLAIN), "test", "192.0.2.1", "--format", "json")
    page = (pathlib.Path(__file__).parents[2] / "docs/reference/explain.md").read_text()

    explained = json.loads(found.stdout)
    assert [key for key in explained if f"`{key}`" not in page] == []
    assert [key for step in explained["steps"] for key in step if f"`{key}`" not in page] == []


OBSERVING = """
limits = { max_per_ip = 1, enforce = false, levels = [{ ipv4 = 8, max_connections = 2, enforce = true }] }
access = [
  { rules = [{ network = "198.51.100.0/24", action = "deny" }], enforce = false },
  { rules = [{ network = "192.0.2.0/24", action = "allow", environment = { A = "1" } }], enforce = false },
  { rules = [{ network = "192.0.2.0/24", action = "allow" }, { network = "198.51.100.1", action = "allow"}] },
  { rules = [{ network = "198.51.100.0/24", action = "deny" }] },
]
"""


def test_what_only_observes_is_told_and_decides_nothing(tmp_path: pathlib.Path) -> None:
    conf = daemons.configure(tmp_path, PLAIN + OBSERVING)

    found = said(conf, client="198.51.100.1")
    assert (found["verdict"], found["reason"], found["would_refuse"]) == ("admitted", None, "access")
    assert steps(found, "access") == [
        ("access[0]", "would-refuse", "deny 198.51.100.0/24: would be refused if enforced"),
        ("access[1]", "none", "has no rule for the client"),
        ("access[2]", "allow", "allow 198.51.100.1"),
    ]
    assert steps(found, "limit")[1:] == [
        ("max_per_ip", "free", "at most 1 from 198.51.100.1, not enforced"),
        ("levels[0].max_connections", "free", "at most 2 from 198.0.0.0/8"),
    ]
    found = said(conf, client="192.0.2.1")
    assert found["would_refuse"] is None
    assert "A" not in found["environment"]
    assert steps(found, "access")[0] == ("access[1]", "ignored", "allow 192.0.2.0/24: ignored, not enforced")
    assert said(conf, client="198.51.100.2")["reason"] == "access"


def test_an_exit_status_of_0_for_one_who_would_be_refused(tmp_path: pathlib.Path) -> None:
    found = command(daemons.configure(tmp_path, PLAIN + OBSERVING), "test", "198.51.100.1")

    assert found.returncode == 0
    assert found.stdout.startswith(
        "test: 198.51.100.1 to 127.0.0.1:4998: admitted, would be refused if enforced (access)\n"
    )


TWO = (
    SERVICE
    + """
[[services.test.listeners]]
port = 4998
[[services.test.listeners]]
address = "127.0.0.1"
port = 4999
haproxy = { trusted = ["127.0.0.1", "::1"], exempt = ["127.0.0.5"], local = "close" }
[[services.test.listeners]]
port = 4999
address = "127.0.0.2"
"""
)


@pytest.mark.parametrize(
    ("request_", "listener", "proxy", "ends"),
    [
        ({"client": "192.0.2.1"}, "*:4998", None, ("192.0.2.1", "0.0.0.0:4998", None)),
        ({"client": "2001:db8::1"}, "*:4998", None, ("2001:db8::1", "[::]:4998", None)),
        (
            {"client": "192.0.2.1", "local": "127.0.0.2:4999"},
            "127.0.0.2:4999", None, ("192.0.2.1", "127.0.0.2:4999", None),
        ),
        (
            {"client": "192.0.2.1:5", "proxied_by": "127.0.0.1"},
            "127.0.0.1:4999", "trusted", ("192.0.2.1:5", "127.0.0.1:4999", "127.0.0.1"),
        ),
        (
            {"client": "2001:db8::1", "proxied_by": "127.0.0.1", "proxied_local": "[2001:db8::25]:25"},
            "127.0.0.1:4999", "trusted", ("2001:db8::1", "[2001:db8::25]:25", "127.0.0.1"),
        ),
        (
            {"client": "127.0.0.1", "local": "127.0.0.1:4999"},
            "127.0.0.1:4999", "trusted", ("127.0.0.1", "127.0.0.1:4999", None),
        ),
        (
            {"client": "192.0.2.1", "proxied_by": "127.0.0.5"},
            "127.0.0.1:4999", "exempt", ("127.0.0.5", "127.0.0.1:4999", None),
        ),
        (
            {"client": "192.0.2.1", "proxied_by": "127.0.0.6"},
            "127.0.0.1:4999", "stranger", ("127.0.0.6", "127.0.0.1:4999", None),
        ),
        (
            {"client": "192.0.2.1", "proxied_by": "127.0.0.1", "local": "127.0.0.2:4999"},
            "127.0.0.2:4999", "none", ("127.0.0.1", "127.0.0.2:4999", None),
        ),
    ],
)  # fmt: skip
def test_which_listener_and_whose_addresses(
    tmp_path: pathlib.Path,
    request_: dict[str, str],
    listener: str,
    proxy: str | None,
    ends: tuple[str, str, str | None],
) -> None:
    found = said(daemons.configure(tmp_path, TWO), **request_)

    assert [each[:2] for each in steps(found, "listener")] == [(listener, "accepts")]
    assert [effect for _, effect, _ in steps(found, "proxy")] == ([proxy] if proxy else [])
    assert (found["client"], found["local"], found["proxy"]) == ends


def test_rules_are_shown_where_they_are_written(tmp_path: pathlib.Path) -> None:
    (tmp_path / "text").write_bytes(b"# ours\n198.51.100\tdeny\n")
    (tmp_path / "db").write_bytes(bytes(gdbmfiles.write({b"192.0": b"allow,A=1", b"192": b"deny"})))
    rules = '[{ local = "*:4998", action = "allow", environment = { L = "" } }]'
    sources = "".join(f'[[services.test.access]]\nfile = "{tmp_path}/{name}"\n' for name in ("text", "db"))
    text = f"{PLAIN}{sources}[[services.test.access]]\nrules = {rules}\n"
    found = said(daemons.configure(tmp_path, text), client="192.0.2.7")

    assert [each[1:] for each in steps(found, "access")] == [
        ("allow", "allow local end * at port 4998"),
        ("none", "has no rule for the client"),
        ("allow", "allow 192.0.0.0/16"),
    ]
    assert places(found, "access") == [("test.toml", 10, ""), None, ("db", 0, "192.0")]
    refused = said(tmp_path / "conf.d", client="198.51.100.7")
    assert places(refused, "access")[-1] == ("text", 2, "198.51.100\tdeny")


LIMITS = (
    PLAIN
    + """
[services.test.limits]
max_connections = 3
max_per_ip = 2
max_per_network = 3
rate = "9/min"
"""
)


@pytest.mark.parametrize(
    ("live", "verdict", "shown"),
    [
        (None, "admitted", ["free", "free", "free", "unknown"]),
        ([], "admitted", ["free", "free", "free", "unknown"]),
        (["192.0.2.1:7", "192.0.2.1:8"], "refused", ["free", "over", "free", "unknown"]),
        (["192.0.2.2:7", "192.0.2.2:8", "192.0.2.3:9"], "refused", ["waits", "free", "over", "unknown"]),
        (["192.0.3.2:7", "192.0.3.2:8", "192.0.4.3:9"], "admitted", ["waits", "free", "free", "unknown"]),
    ],
)
def test_limits_with_those_who_are_there(
    tmp_path: pathlib.Path, live: list[str] | None, verdict: str, shown: list[str]
) -> None:
    found = said(daemons.configure(tmp_path, LIMITS), client="192.0.2.1", live=live)

    assert found["verdict"] == verdict
    assert [effect for _, effect, _ in steps(found, "limit")] == shown
    per_ip = steps(found, "limit")[1][2]
    mine = sum(each.startswith("192.0.2.1:") for each in live or ())
    assert per_ip == ("at most 2 from 192.0.2.1" if live is None else f"{mine} of 2 from 192.0.2.1")
    assert steps(found, "limit")[3][2] == "at most 9/min from 192.0.2.1, the recent number is unknown"


@pytest.mark.parametrize(("conf", "known"), [("conf.d", True), ("other", False)])
def test_a_running_daemon_is_asked_whom_it_serves(tmp_path: pathlib.Path, conf: str, known: bool) -> None:
    services = {"test": {"penalties": None, "group": "mail"}}
    status: dict[str, object] = {"config": {"dir": str(tmp_path / "conf.d")}, "services": services}
    there: dict[str, object] = {"connections": [{"service": "test", "peer": "[2001:db8::1]:7"}]}
    answers = {"status": status, "connections": there}
    runtime = tmp_path / "run"
    runtime.mkdir()

    def answer(name: str) -> Command:
        return lambda _, reply: reply(answers[name])

    with controls.Server(runtime, {name: answer(name) for name in answers}):
        found = explain.live(str(runtime), str(tmp_path / conf), ["192.0.2.1"])

    clients = {"test": [connection.endpoint(6, 0x20010DB8 << 96 | 1, 7)]}
    assert found == (Live(clients, {"test": None}, {"test": "mail"}) if known else None)
    assert explain.live(str(tmp_path / "nothing"), str(tmp_path / conf), []) is None


PENALTIES = (
    PLAIN + "penalties = { refused = 30, min = 60, exempt = ['192.0.2.9'], network = { ipv4 = 24 } }\n"
)


def charged(network: str, seconds: float, *, active: bool) -> dict[str, Any]:
    row = {"network": network, "offence": "refused", "seconds": seconds, "active": active}
    return {"charged": 1, "active": int(active), "sources": [row]}


@pytest.mark.parametrize(
    ("known", "verdict", "step"),
    [
        (None, "admitted", ("unknown", "the present penalties are unknown: no daemon was asked")),
        (charged("192.0.3.0/24", 90, active=True), "admitted", ("none", "has no penalty")),
        (charged("192.0.2.7", 90, active=True), "admitted", ("none", "has no penalty")),  # of other settings
        (
            charged("192.0.2.0/24", 30.4, active=False),
            "admitted",
            ("below-min", "30 s left, the last offence: refused; not enforced below 60 s"),
        ),
        (
            charged("192.0.2.0/24", 90, active=True),
            "refused",
            ("enforced", "refused: 90 s left, the last offence: refused"),
        ),
    ],
)
def test_a_penalty_is_a_step(
    tmp_path: pathlib.Path, known: dict[str, Any] | None, verdict: str, step: tuple[str, str]
) -> None:
    found = said(daemons.configure(tmp_path, PENALTIES), client="192.0.2.1", live=[], penalties=known)

    assert (found["verdict"], found["reason"]) == (verdict, "penalty" if verdict == "refused" else None)
    assert steps(found, "penalty") == [("192.0.2.0/24", *step)]


def test_who_is_exempt_has_no_penalty(tmp_path: pathlib.Path) -> None:
    known = charged("192.0.2.0/24", 90, active=True)
    found = said(daemons.configure(tmp_path, PENALTIES), client="192.0.2.9", live=[], penalties=known)

    assert found["verdict"] == "admitted"
    assert steps(found, "penalty") == [("192.0.2.0/24", "exempt", "exempt from penalties")]


def test_a_stranger_among_proxies_has_a_penalty(tmp_path: pathlib.Path) -> None:
    text = PENALTIES.replace("4998 }", "4998, haproxy = { trusted = ['127.0.0.5'] } }")
    known = charged("192.0.2.0/24", 90, active=True)
    conf = daemons.configure(tmp_path, text)
    found = [
        said(conf, client="192.0.2.1", proxied_by=proxy, live=[], penalties=known)
        for proxy in ("192.0.2.2", "192.0.3.2", "127.0.0.5")
    ]

    assert [each["reason"] for each in found] == ["penalty", "proxy", "penalty"]


def test_a_connection_that_is_there_counts(tmp_path: pathlib.Path) -> None:
    port = daemons.free_port()
    text = LIMITS.replace("4998", str(port)).replace("/usr/bin/env", "/bin/cat")
    runtime = str(tmp_path / "run")
    with (
        daemons.Daemon(tmp_path, text, arguments=["--runtime-dir", runtime]) as daemon,
        daemons.connect(port),
    ):
        daemon.await_log("^accept ")
        found = command(daemon.conf, "test", "127.0.0.1", "--runtime-dir", runtime)

    assert found.returncode == 0
    assert "max_connections  1 of 3 (" in found.stdout
    assert "max_per_ip       1 of 2 from 127.0.0.1 (" in found.stdout


def test_lists_that_are_answered_for_are_not_asked(tmp_path: pathlib.Path) -> None:
    text = PLAIN + LISTS + 'drop = ["BLOCK"]\n[dns]\nservers = ["127.0.0.1:9"]\n'
    listed = ["bl.example=127.0.0.2=because of spam", "bl.example=127.0.0.4"]
    found = said(daemons.configure(tmp_path, text), client="192.0.2.1", listed=listed, ask=False)

    asked = '1.2.0.192.bl.example A 127.0.0.2 127.0.0.4, TXT "because of spam"'
    assert steps(found, "list") == [
        ("bl.example", "set", f"{asked}; listed as 127.0.0.2, 127.0.0.4"),
        ("wl.example", "not-asked", "not asked (--no-dns)"),
    ]
    (sets, _) = (step["sets"] for step in found["steps"] if step["step"] == "list")
    assert sets["BLOCK"] == "because of spam"
    assert steps(found, "drop") == [("BLOCK", "drops", "is not empty")]


@pytest.fixture
def server() -> Iterator[dnsservers.Server]:
    with dnsservers.Server() as made:
        for zone in ("bl.example", "secret.example"):
            made.says(f"2.0.0.127.{zone}", "A", dnsservers.Reply(records=("A 127.0.0.2",)))
        yield made


def test_lists_and_names_are_asked_as_a_worker_asks(
    tmp_path: pathlib.Path, server: dnsservers.Server
) -> None:
    """One list has the client, one fails its test, one has a zone that is a secret."""
    server.says("1.2.0.192.bl.example", "A", dnsservers.Reply(records=("A 127.0.0.3",)))
    server.says("1.2.0.192.in-addr.arpa", "PTR", dnsservers.Reply(records=("PTR client.example.",)))
    server.says("client.example", "A", dnsservers.Reply(records=("A 192.0.2.1",)))
    (tmp_path / "zone").write_text("secret.example\n")
    lists = f'["bl", {{ zone_file = "{tmp_path}/zone", display_zone = "ours", variable = "OURS" }}]'
    text = f"""{PLAIN}
        lookup_names = true
        dns_lists = {lists}
        [dns_chains.bl]
        lists = [{{ zone = "bl.example" }}, {{ zone = "wl.example", variable = "W" }}]
        [dns]
        servers = ["127.0.0.1:{server.address.port}"]
    """
    found = said(daemons.configure(tmp_path, text), client="192.0.2.1")

    assert steps(found, "list") == [
        ("bl.example", "set", "1.2.0.192.bl.example A 127.0.0.3; listed as 127.0.0.3"),
        ("wl.example", "none", "suspended: does not list 127.0.0.2"),
        ("ours", "none", "1.2.0.192.<hidden> A no such name; not listed"),
    ]
    assert steps(found, "name")[0] == (
        "TCPREMOTEHOST",
        "found",
        "192.0.2.1: the name resolves to the address",
    )
    assert found["environment"]["TCPREMOTEHOST"] == "client.example"
    assert "secret" not in json.dumps(found)
    assert [place and place[1] for place in places(found, "list")] == [9, 9, 7]


@pytest.mark.parametrize(
    ("lost", "zone"), [(0, "timeout"), (1 << 30, "timeout; no name server answers")], ids=["zone", "server"]
)
def test_a_name_without_an_answer_is_told_from_dead_name_servers(
    tmp_path: pathlib.Path, server: dnsservers.Server, lost: int, zone: str
) -> None:
    server.says("1.2.0.192.in-addr.arpa", "PTR")
    server.lose = lost
    text = f"""{PLAIN}
        lookup_names = true
        dns = {{ deadline = 0.5 }}
        [dns]
        servers = ["127.0.0.1:{server.address.port}"]
    """
    found = said(daemons.configure(tmp_path, text), client="192.0.2.1")

    assert steps(found, "name")[0] == ("TCPREMOTEHOST", "failed", f"192.0.2.1: PTR: {zone}")
    assert found["environment"]["TCPREMOTEHOST"] == "softdnserr"


def test_what_strangers_write_cannot_drive_a_terminal(tmp_path: pathlib.Path) -> None:
    (tmp_path / "env").write_text('A="\x1b[31m\x07"\n')
    text = PLAIN + f'environment_files = ["{tmp_path}/env"]\n'
    found = command(daemons.configure(tmp_path, text), "test", "192.0.2.1")

    assert r"A=\x1b[31m\x07" in found.stdout
    assert "\x1b" not in found.stdout


def test_a_service_that_cannot_be_served_is_a_problem(tmp_path: pathlib.Path) -> None:
    (tmp_path / "rules").write_text("192.0.2 deny\n")
    text = PLAIN + f'[[services.test.access]]\nfile = "{tmp_path}/rules"\nformat = "courier"\n'
    found = command(daemons.configure(tmp_path, text), "test", "192.0.2.1")

    assert (found.returncode, found.stdout) == (78, "")
    assert "services.test.access[0].file: cannot load access rules:" in found.stderr
    assert ":1:1: there must be a TAB" in found.stderr


@pytest.mark.peer
def test_files_are_opened_with_the_callers_rights_and_read_with_the_services() -> None:
    peers.need_root()
    with daemons.public_folder() as folder:
        (folder / "rules").write_text("192.0.2\tallow,R=1\n")
        (folder / "shell").write_text("ID=$(id -u)\nHERE=$(pwd)\n")
        (folder / "program").write_text("#!/bin/sh\n")
        for name in ("rules", "shell", "program"):
            (folder / name).chmod(0o700)
        text = f"""
            [services.test]
            program = ["/usr/bin/env"]
            user = "nobody"
            directory = "/usr"
            environment_files = [{{ path = "{folder}/shell", shell = true }}]
            listeners = [{{ address = "127.0.0.1", port = 4998 }}]
            [[services.test.access]]
            file = "{folder}/rules"
            [services.test.messages]
            spawn = "421 not now"
        """
        conf = daemons.configure(folder, text)
        found = said(conf, client="192.0.2.1")
        assert {name: found["environment"][name] for name in ("R", "ID", "HERE")} == {
            "R": "1", "ID": "65534", "HERE": "/usr",
        }  # fmt: skip

        (conf / "test.toml").write_text(text.replace("/usr/bin/env", f"{folder}/program"))
        found = said(conf, client="192.0.2.1")
        assert (found["reason"], found["message"]) == ("spawn", "421 not now\r\n")
