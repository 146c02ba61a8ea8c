"""deploy/fail2ban with Debian's fail2ban: what its filter finds, and what its action does with tcpdconf."""

import configparser
import contextlib
import pathlib
import socket
import subprocess
import sys
import tomllib
from typing import Final

import pytest
import tomli_w
from support import peers
from support.courier import courierhost
from support.running import daemons, jails

pytestmark = pytest.mark.peer

TOP: Final = pathlib.Path(__file__).parents[2]

LINES: Final = [
    line.split("\t")
    for line in (TOP / "tests/vectors/courier-logins.txt").read_text().splitlines()
    if line and not line.startswith("#")
]


def test_the_filter_finds_failures_and_believes_no_name(tmp_path: pathlib.Path) -> None:
    peers.need("fail2ban-regex")
    log = tmp_path / "mail.log"
    log.write_text("".join(jails.stamped(line) for _, line in LINES))
    command = ["fail2ban-regex", "--out", "ip", str(log), str(jails.SHIPPED / f"filter.d/{jails.JAIL}.conf")]
    found = subprocess.run(
        command, capture_output=True, text=True, timeout=daemons.SECONDS, check=False
    ).stdout.split()

    assert found == [address for address, _ in LINES if address != "-"]


def test_debians_own_filter_believes_them(tmp_path: pathlib.Path) -> None:
    """So there is a filter of our own. Whenever this fails, it may not be needed any more."""
    peers.need("fail2ban-regex")
    log = tmp_path / "mail.log"
    log.write_text("".join(jails.stamped(line) for _, line in LINES))
    command = ["fail2ban-regex", "--out", "ip", str(log), str(jails.DEBIANS / "filter.d/courier-auth.conf")]
    found = subprocess.run(
        command, capture_output=True, text=True, timeout=daemons.SECONDS, check=False
    ).stdout.split()

    assert "192.0.2.99" in found


class Recorded:
    """A command in the place of `tcpdconf` that notes how it is called, and fails while `broken` exists."""

    def __init__(self, folder: pathlib.Path) -> None:
        self._calls = folder / "calls"
        self.broken = folder / "broken"
        self.path = folder / "command"
        self.path.write_text(
            f'#!/bin/sh\nwords=\nfor word; do words="$words$word|"; done\necho "$words" >>{self._calls}\n'
            f"test ! -e {self.broken}\n"
        )
        self.path.chmod(0o755)

    @property
    def calls(self) -> list[str]:
        """The calls so far."""
        return self._calls.read_text().splitlines() if self._calls.exists() else []


BAN: Final = f"ban|192.0.2.66|--for|{jails.BANTIME}|--reason|fail2ban {jails.JAIL}|--runtime-dir|/x|"
UNBAN: Final = "unban|192.0.2.66|--runtime-dir|/x|"


@pytest.mark.slow
def test_what_the_action_calls(tmp_path: pathlib.Path) -> None:
    """Four failures are forgiven; a ban that fails while the daemon is away is made up for."""
    command = Recorded(tmp_path)
    with jails.Fail2ban(tmp_path, str(command.path), "--runtime-dir /x") as jail:
        jail.fails("192.0.2.65", 4)
        jail.fails("192.0.2.66")
        daemons.until(lambda: BAN in command.calls, "the ban")
        daemons.until(lambda: UNBAN in command.calls, "its end")
        assert not any("192.0.2.65" in call for call in command.calls)

        command.broken.touch()
        jail.fails("192.0.2.67")
        daemons.until(lambda: "bans|--runtime-dir|/x|" in command.calls, "the check")
        command.broken.unlink()
        again = BAN.replace("66", "67")
        daemons.until(lambda: command.calls.count(again) == 2, "another try")
    assert "Unable to restore environment" not in jail.said


@pytest.mark.slow
def test_a_ban_without_end_and_one_that_outlives_a_restart(tmp_path: pathlib.Path) -> None:
    command = Recorded(tmp_path)
    ban = f"ban|192.0.2.66|--reason|fail2ban {jails.JAIL}|--runtime-dir|/x|"
    with jails.Fail2ban(tmp_path, str(command.path), "--runtime-dir /x", bantime="-1") as jail:
        jail.fails("192.0.2.66")
        daemons.until(lambda: ban in command.calls, "the ban")
    # a pipe joins the two, which run at once
    assert sorted(command.calls[-2:]) == ["bans|--runtime-dir|/x|", "unban|-|--runtime-dir|/x|"]
    with jail:
        daemons.until(lambda: command.calls.count(ban) == 2, "the ban after the restart")


@pytest.mark.slow
def test_tcpdconf_may_keep_the_bans_over_a_restart(tmp_path: pathlib.Path) -> None:
    command = Recorded(tmp_path)
    action = f"tcpdconf[name={jails.JAIL}, norestored=1, actionflush=true]"
    with jails.Fail2ban(tmp_path, str(command.path), "--runtime-dir /x", bantime="1h", action=action) as jail:
        jail.fails("192.0.2.66")
        daemons.until(lambda: len(command.calls) == 1, "the ban")
    with jail:
        daemons.until(lambda: "Restore Ban 192.0.2.66" in jail.said, "fail2ban's own memory")
    assert len(command.calls) == 1


def test_the_jail_is_the_one_that_is_documented() -> None:
    read = configparser.ConfigParser(interpolation=None)
    read.read(jails.SHIPPED / "jail.d/tcpdconf.conf")

    assert read.sections() == [jails.JAIL]
    settings = dict(read[jails.JAIL])
    assert (settings["maxretry"], settings["findtime"], settings["bantime"]) == ("5", "10m", "1h")


class MailHost:
    """Courier's imaplogin behind tcpdconf, with clients whose addresses a PROXY header names."""

    def __init__(self, host: courierhost.Host, folder: pathlib.Path) -> None:
        (shipped,) = TOP.glob("conf.d/*-imap.toml")
        service = tomllib.loads(shipped.read_text())["services"]["imap"]
        self.proxied, self.plain = daemons.free_port(), daemons.free_port()
        here = {"address": "127.0.0.1"}
        service |= {"enabled": True, "access": []}
        service["listeners"] = [
            {**here, "port": self.proxied, "haproxy": {"trusted": ["127.0.0.1"]}},
            {**here, "port": self.plain},
        ]
        self.daemon = daemons.Daemon(
            folder,
            tomli_w.dumps({"services": {"imap": service}}),
            before=host.inside,
            environment={"STATE_DIRECTORY": str(folder / "state")},
        )

    def greets(self, address: str) -> bool:
        """Return whether a client is served at all."""
        with self._connected(address) as client:
            return daemons.line(client).startswith(b"* OK")

    def refuses(self, address: str) -> None:
        """Be refused a login, as often as makes a ban; all at once, because each takes five seconds."""
        with contextlib.ExitStack() as stack:
            clients = [stack.enter_context(self._connected(address)) for _ in range(5)]
            for client in clients:
                assert daemons.line(client).startswith(b"* OK")
                client.sendall(b"1 LOGIN alice guess\r\n")
            for client in clients:
                assert daemons.line(client) == b"1 NO Login failed.\r\n"

    def _connected(self, address: str) -> socket.socket:
        """A client from this address; from 127.0.0.1 without a proxy, as a webmail on the same host."""
        if address == "127.0.0.1":
            return daemons.connect(self.plain)
        client = daemons.connect(self.proxied)
        client.sendall(f"PROXY TCP4 {address} 192.0.2.25 40000 143\r\n".encode())
        return client


@pytest.mark.slow
def test_who_fails_five_times_is_refused_and_let_in_after_the_time(tmp_path: pathlib.Path) -> None:
    courierhost.need("/usr/lib/courier/courier/imaplogin", "courierlogger")
    command = f"{sys.executable} -m tcpdconf"
    with courierhost.Host(tmp_path) as host:
        mail = MailHost(host, tmp_path)
        options = f"--runtime-dir {mail.daemon.runtime}"
        bantime = "15s"  # from the failure, of which Courier tells after five seconds
        with mail.daemon as daemon, jails.Fail2ban(tmp_path, command, options, bantime=bantime) as jail:

            def banned(address: str) -> bool:
                host.copy_syslog(jail.log)
                return f"Ban {address}" in jail.said

            assert mail.greets("192.0.2.66")
            mail.refuses("192.0.2.66")
            daemons.until(lambda: banned("192.0.2.66"), "the ban")
            daemons.until(lambda: not mail.greets("192.0.2.66"), "its effect")
            daemon.await_log(r"^refuse service=imap reason=\w+ peer=192\.0\.2\.66:40000 ")
            assert mail.greets("192.0.2.67")
            daemons.until(lambda: mail.greets("192.0.2.66"), "the end of the ban")
            daemons.until(lambda: "Unban 192.0.2.66" in jail.said, "fail2ban's own end of it")

            jail.order("banip", "192.0.2.68")
            daemons.until(lambda: not mail.greets("192.0.2.68"), "the ban by hand")

            mail.refuses("127.0.0.1")
            daemons.until(lambda: banned("127.0.0.1"), "that fail2ban tries")
            daemons.until(lambda: "Failed to execute ban jail" in jail.said, "that it may not")
            assert mail.greets("127.0.0.1")
            jail.order("banip", "192.0.2.69", "192.0.2.70")
            daemons.until(lambda: not mail.greets("192.0.2.70"), "two more")
            jail.stop()
            assert mail.greets("192.0.2.69")
            assert mail.greets("192.0.2.70")
        assert "Failed to execute unban" not in jail.said
