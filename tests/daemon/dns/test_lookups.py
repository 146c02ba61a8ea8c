"""Names and DNS lists before a running service, against a name server that does what a test says."""

import json
import pathlib
import re
import subprocess
import sys
import time

import pytest
from support.dns import dnsservers, lookedup
from support.running import daemons

A = lookedup.A
NOT_FOUND = dnsservers.NOT_FOUND


def test_names_of_both_ends(tmp_path: pathlib.Path) -> None:
    with dnsservers.Server() as server:
        for address, name in (("127.0.0.5", "client.example"), ("127.0.0.1", "here.example")):
            reverse = ".".join(address.split(".")[::-1]) + ".in-addr.arpa"
            server.says(reverse, "PTR", dnsservers.Reply(records=(f"PTR {name}.",)))
            server.says(name, "A", dnsservers.Reply(records=(f"A {address}",)))
        with lookedup.running(tmp_path, server, "lookup_names = true") as (_, port):
            assert lookedup.answer(port) == {
                "TCPREMOTEHOST": "client.example",
                "TCPLOCALHOST": "here.example",
            }
            assert lookedup.answer(port, "127.0.0.6") == {"TCPLOCALHOST": "here.example"}


@pytest.mark.parametrize(
    ("pointer", "forward", "expected"),
    [
        (dnsservers.Reply(rcode="SERVFAIL"), NOT_FOUND, "softdnserr"),
        (dnsservers.Reply(records=("PTR client.example.",)), dnsservers.Reply(rcode="REFUSED"), "softdnserr"),
        (dnsservers.Reply(records=("PTR client.example.",)), NOT_FOUND, None),
        (dnsservers.Reply(records=("PTR evil\\010name.example.",)), NOT_FOUND, None),
    ],
    ids=["servfail", "refused", "elsewhere", "newline"],
)
def test_names_that_are_none(
    tmp_path: pathlib.Path, pointer: dnsservers.Reply, forward: dnsservers.Reply, expected: str | None
) -> None:
    with dnsservers.Server() as server:
        server.says("5.0.0.127.in-addr.arpa", "PTR", pointer)
        server.says("client.example", "A", forward)
        with lookedup.running(tmp_path, server, "lookup_names = true") as (_, port):
            assert lookedup.answer(port).get("TCPREMOTEHOST") == expected


def test_a_listed_client_is_dropped_and_others_are_served(tmp_path: pathlib.Path) -> None:
    settings = """drop = ["BLOCK"]
        deny_message = "550 go away"
        dns_lists = [{ zone = "bl.example", message = "Go away @" }]"""
    with dnsservers.Server() as server:
        lookedup.healthy(server, "bl.example")
        server.says("9.0.0.127.bl.example", "A", A)
        with lookedup.running(tmp_path, server, settings) as (daemon, port):
            assert daemons.talk(port, source="127.0.0.9") == b"550 go away\r\n"
            assert lookedup.answer(port) == {}
            daemon.await_log(
                'reason=dropped peer=127.0.0.9:\\d+ variable=BLOCK value="Go away ::ffff:127.0.0.9"'
            )


def test_an_allow_list_goes_before_a_block_list(tmp_path: pathlib.Path) -> None:
    settings = """dns_lists = [
          { zone = "wl.example", action = "allow" },
          { zone = "bl.example", txt = true },
        ]"""
    with dnsservers.Server() as server:
        lookedup.healthy(server, "wl.example", "bl.example")
        for client in ("8", "9"):
            server.says(f"{client}.0.0.127.bl.example", "A", A)
            server.says(
                f"{client}.0.0.127.bl.example", "TXT", dnsservers.Reply(records=('TXT "listed\\010!"',))
            )
        server.says("8.0.0.127.wl.example", "A", A)
        with lookedup.running(tmp_path, server, settings) as (_, port):
            assert lookedup.answer(port, "127.0.0.8") == {
                "ALLOW_0": "BLOCK",
                "BLOCK": "",
                "BLOCK_ZONE": "wl.example",
            }
            found = lookedup.answer(port, "127.0.0.9")

    assert found["BLOCK_ZONE"] == "bl.example"
    assert found["BLOCK"] == found["BLOCK_TXT"]
    assert "\n" not in found["BLOCK"]


def test_lists_are_asked_at_once(tmp_path: pathlib.Path) -> None:
    """Eight lists of 0.5 s each take 0.5 s, not 4."""
    zones = [f"l{number}.example" for number in range(8)]
    lists = ", ".join(f'{{ zone = "{zone}", probe = false }}' for zone in zones)
    with dnsservers.Server() as server:
        for zone in zones:
            server.says(f"5.0.0.127.{zone}", "A", dnsservers.Reply(rcode="NXDOMAIN", soa=60, delay=0.5))
        with lookedup.running(tmp_path, server, f"dns_lists = [{lists}]") as (_, port):
            began = time.monotonic()
            assert lookedup.answer(port) == {}
            assert 0.5 <= time.monotonic() - began < 3.0


@pytest.mark.parametrize(
    ("said", "state"),
    [
        (dnsservers.Reply(records=("A 127.255.255.254",)), "suspended"),
        (dnsservers.Reply(records=("A 203.0.113.1",)), "suspended"),
        (dnsservers.Reply(records=("A 127.0.0.2",)), "suspended"),
        (dnsservers.Reply(rcode="SERVFAIL"), "untested"),
        (dnsservers.Reply(rcode="REFUSED"), "untested"),
    ],
    ids=["error-code", "parked", "wildcard", "servfail", "refused"],
)
def test_a_broken_list_refuses_nobody(tmp_path: pathlib.Path, said: dnsservers.Reply, state: str) -> None:
    """Neither the first connection nor a later one, and it is said once."""
    settings = 'drop = ["BLOCK"]\ndns_lists = [{ zone = "bl.example" }]'
    with dnsservers.Server() as server:
        server.says("*.bl.example", "A", said)
        with lookedup.running(tmp_path, server, settings) as (daemon, port):
            assert [lookedup.answer(port) for _ in range(3)] == [{}] * 3
            found = daemon.await_log("zone=bl.example")

    assert len(found) == 1
    assert found[0].startswith(f"warning: list service=test zone=bl.example state={state} why=")


def test_a_secret_zone_is_shown_to_nobody(tmp_path: pathlib.Path) -> None:
    zone_file = tmp_path / "zone"
    zone_file.write_text("key1234.dq.example\n")
    zone_file.chmod(0o600)
    settings = f"""drop = ["DROPPED"]
        dns_lists = [
          {{ zone_file = "{zone_file}", display_zone = "dq.example" }},
          {{ zone = "key5678.dq.example", display_zone = "parked.example" }},
          {{ zone = "key9.dq.example", display_zone = "dead.example" }},
        ]
        [daemon]
        log_level = "debug"
        """
    with dnsservers.Server() as server:
        lookedup.healthy(server, "key1234.dq.example")
        server.says("9.0.0.127.key1234.dq.example", "A", A)
        server.says("*.key5678.dq.example", "A", dnsservers.Reply(records=("A 203.0.113.1",)))
        server.says("*.key9.dq.example", "A", dnsservers.Reply(rcode="SERVFAIL"))
        with lookedup.running(tmp_path, server, settings) as (daemon, port):
            found = lookedup.answer(port, "127.0.0.9")
            daemon.await_log("zone=parked.example state=suspended")
            daemon.await_log("zone=dead.example state=untested")
            log = "\n".join(daemon.log)
        probe = lookedup.probed(daemon.conf)

    assert (found["BLOCK"], found["BLOCK_ZONE"]) == ("Blacklisted by dq.example", "dq.example")
    assert [row.split()[1] for row in probe.stdout.splitlines() if ".example " in row] == [
        "up", "suspended", "untested",
    ]  # fmt: skip
    assert not re.search(r"key\d", log + probe.stdout + probe.stderr + repr(found))


KEY = "abcdefghijklmnopqrstuvwxyz"
PRESETS = """drop = ["DROPPED"]
    dns_lists = [
      {{ preset = "dnswl" }},
      {{ preset = "spamhaus-zen", variable = "ZEN" }},
      {{ preset = "spamhaus-authbl", key_file = "{}", variable = "AUTHBL" }},
    ]
    [daemon]
    log_level = "debug"
    """


def test_presets_count_the_documented_answers_and_show_no_key(tmp_path: pathlib.Path) -> None:
    """127.0.0.9 has an answer of each list that counts, 127.0.0.10 one that does not."""
    key_file = tmp_path / "key"
    key_file.write_text(f"{KEY}\n")
    key_file.chmod(0o600)
    authbl = f"{KEY}.authbl.dq.spamhaus.net"
    with dnsservers.Server() as server:
        lookedup.healthy(server, "list.dnswl.org", "zen.spamhaus.org", authbl)
        for zone, counts, other in (
            ("zen.spamhaus.org", "127.0.0.4", "127.255.255.254"), (authbl, "127.0.0.20", "127.0.0.21"),
        ):  # fmt: skip
            server.says(f"9.0.0.127.{zone}", "A", dnsservers.Reply(records=(f"A {counts}",)))
            server.says(f"10.0.0.127.{zone}", "A", dnsservers.Reply(records=(f"A {other}",)))
        with lookedup.running(tmp_path, server, PRESETS.format(key_file)) as (daemon, port):
            listed = lookedup.answer(port, "127.0.0.9")
            not_listed = lookedup.answer(port, "127.0.0.10")
            log = "\n".join(daemon.log)
        probe = lookedup.probed(daemon.conf)

    assert listed["ZEN"] == "Blocked by Spamhaus ZEN, see https://www.spamhaus.org/"
    assert listed["AUTHBL_ZONE"] == "authbl.dq.spamhaus.net"
    assert not_listed == {}
    assert KEY not in log + probe.stdout + probe.stderr + repr(listed)


@pytest.mark.parametrize("content", ["two.labels", "a b", "", "x" * 64])
def test_a_file_without_a_key_keeps_the_service_from_starting(tmp_path: pathlib.Path, content: str) -> None:
    key_file = tmp_path / "key"
    key_file.write_text(content)
    text = f"""
        [services.test]
        program = ["/bin/true"]
        listeners = [{{ address = "127.0.0.1", port = 4999 }}]
        dns_lists = [{{ preset = "spamhaus-authbl", key_file = "{key_file}" }}]
    """
    found = lookedup.probed(daemons.configure(tmp_path, text))

    assert found.returncode == 78
    assert f"cannot use {key_file}: holds no" in found.stderr + found.stdout
    assert not content or content not in (found.stderr + found.stdout).replace(str(tmp_path), "")


def test_the_probe_shows_what_each_list_answers(tmp_path: pathlib.Path) -> None:
    with dnsservers.Server() as server:
        lookedup.healthy(server, "good.example")
        server.says("*.parked.example", "A", dnsservers.Reply(records=("A 203.0.113.1",)))
        server.says("*.dead.example", "A", dnsservers.Reply(rcode="SERVFAIL"))
        lists = ", ".join(f'{{ zone = "{name}.example" }}' for name in ("good", "parked", "dead"))
        text = f"""
            [services.test]
            program = ["/bin/true"]
            listeners = [{{ address = "127.0.0.1", port = 4999 }}]
            dns_lists = [{lists}]
            [dns]
            servers = ["127.0.0.1:{server.address.port}"]
        """
        found = lookedup.probed(daemons.configure(tmp_path, text))
    rows = [line.split(maxsplit=7) for line in found.stdout.splitlines() if ".example" in line]

    assert (found.returncode, found.stderr) == (0, "")
    assert [(row[0], row[1], row[4], row[5], row[6]) for row in rows] == [
        ("good.example", "up", "127.0.0.2", "none", "none"),
        ("parked.example", "suspended", "203.0.113.1", "203.0.113.1", "203.0.113.1"),
        ("dead.example", "untested", "servfail", "servfail", "servfail"),
    ]


LISTS = """
[services.{name}]
program = ["/bin/true"]
listeners = [{{ address = "127.0.0.1", port = {port} }}]
dns_lists = [{lists}]
"""
CLOSED = '{ zone = "closed.example" }'
SILENT = '{ zone = "key.silent.example", display_zone = "silent.example" }'
GOOD = '{ zone = "good.example" }'
WHY_CLOSED = "closed.example does not list 127.0.0.2"
WHY_SILENT = "silent.example cannot be tested: servfail"


@pytest.mark.parametrize(
    ("lists", "chain", "warned"),
    [
        ([CLOSED], "", {"services.s0.dns_lists": WHY_CLOSED}),
        ([f"{CLOSED}, {SILENT}"], "", {"services.s0.dns_lists": f"{WHY_CLOSED}; {WHY_SILENT}"}),
        ([f"{CLOSED}, {GOOD}"], "", {}),
        (['"spam"', '"spam"'], CLOSED, {"dns_chains.spam.lists": WHY_CLOSED}),
        ([f'"spam", {GOOD}'], SILENT, {"dns_chains.spam.lists": WHY_SILENT}),
        ([f'"spam", {CLOSED}'], GOOD, {"services.s0.dns_lists": WHY_CLOSED}),
        (["{ zone = 'closed.example', probe = false }"], "", {}),
    ],
)
def test_the_probe_warns_of_lists_that_all_fail(
    tmp_path: pathlib.Path, lists: list[str], chain: str, warned: dict[str, str]
) -> None:
    with dnsservers.Server() as server:
        lookedup.healthy(server, "good.example")
        server.says("*.silent.example", "A", dnsservers.Reply(rcode="SERVFAIL"))
        text = "".join(LISTS.format(name=f"s{n}", port=4990 + n, lists=each) for n, each in enumerate(lists))
        text += f"[dns_chains.spam]\nlists = [{chain}]\n" if chain else ""
        text += f'[dns]\nservers = ["127.0.0.1:{server.address.port}"]\n'
        conf = daemons.configure(tmp_path, text)
        command = [sys.executable, "-m", "tcpdconf", "check", "--probe", str(conf), "--format", "json"]
        found = subprocess.run(command, capture_output=True, text=True, timeout=daemons.SECONDS, check=False)

    assert found.returncode == 0
    said = {each["key"]: each for each in json.loads(found.stdout) if each["code"] == "no-list-answers"}
    start = "none of these DNS lists works, so they have no effect: "
    assert {key: each["message"] for key, each in said.items()} == {
        key: start + why for key, why in warned.items()
    }
    assert all(each["line"] > 0 and each["hint"] for each in said.values())


def test_a_lookup_holds_its_slot_and_delays_nobody_else(tmp_path: pathlib.Path) -> None:
    settings = 'limits = { max_per_ip = 1 }\ndns_lists = [{ zone = "bl.example", probe = false }]'
    with dnsservers.Server() as server:
        server.says("8.0.0.127.bl.example", "A", dnsservers.Reply(rcode="NXDOMAIN", soa=1, delay=1.0))
        with lookedup.running(tmp_path, server, settings) as (daemon, port):
            with daemons.connect(port, source="127.0.0.8") as slow:
                daemons.until(lambda: server.asked, "the question")
                assert daemons.talk(port, source="127.0.0.8") == b""
                assert lookedup.answer(port, "127.0.0.7") == {}
                assert b"PROTO" in daemons.read(slow)
            daemon.await_log("reason=per_ip peer=127.0.0.8")


def test_chains_are_shared_and_exempt_networks_are_not_asked_about(tmp_path: pathlib.Path) -> None:
    settings = """dns_lists = ["mail"]
        [dns_chains.mail]
        exempt = ["127.0.0.6"]
        lists = [{ zone = "bl.example" }]"""
    with dnsservers.Server() as server:
        lookedup.healthy(server, "bl.example")
        server.says("*.bl.example", "A", NOT_FOUND)
        for client in ("6", "7"):
            server.says(f"{client}.0.0.127.bl.example", "A", A)
        with lookedup.running(tmp_path, server, settings) as (_, port):
            assert lookedup.answer(port, "127.0.0.6") == {}
            assert lookedup.answer(port, "127.0.0.7")["BLOCK"] == "Blacklisted by bl.example"
            assert not [asked for asked in server.asked if asked.name == "6.0.0.127.bl.example"]
