"""Compares `tcpdconf status` of six busy services with golden screens, which tmux made of a real daemon.

`PYTHONPATH=tests python tests/cli/test_screens.py` writes them anew; look at the difference before a commit.
"""

import contextlib
import os
import pathlib
import re
import subprocess
import sys
from collections.abc import Iterator

import pytest
from support import networks, peers, terminals
from support.dns import dnsservers
from support.running import daemons, reloads

from tcpdconf.daemon.control import client as control_client

SCREENS = pathlib.Path(__file__).parent / "screens"
WIDTHS = (80, 100, 160)
LINES = 60
ENVIRONMENT = {"TERM": "tmux-256color", "TZ": "UTC"}
PLAIN = {"PATH": os.defpath, "TERM": "xterm"}
HOLD = 'program = ["/bin/sh", "-c", "echo; read line; exit 1"]'
LISTS = 'dns_lists = ["mail"]'
CONFIGURATION = f"""
[dns]
servers = ["{{server}}"]

[[dns_chains.mail.lists]]
zone = "zen.dnsbl.example"
variable = "BLOCK"

[[dns_chains.mail.lists]]
zone = "list.dnswl.example"
action = "allow"
variable = "BLOCK"

[[dns_chains.mail.lists]]
zone = "dead.dnsbl.example"
variable = "BLOCK"

[services.smtp]
{HOLD}
listeners = [{{{{ port = 25 }}}}, {{{{ address = "127.0.0.1", port = 10025 }}}}]
drop = ["BLOCK"]
{LISTS}
limits = {{{{ max_connections = 40, max_per_ip = 4, rate = "20/min" }}}}
penalties = {{{{ refused = "30s", min = "15s", status = {{{{ "1" = "1h" }}}}, max = "2h", exempt = [] }}}}
access = [{{{{ rules = [{{{{ network = "192.0.2.66", action = "deny" }}}}] }}}}]

[services.msa]
{HOLD}
listeners = [{{{{ port = 587 }}}}, {{{{ address = "127.0.0.1", port = 10587 }}}}]
{LISTS}
limits = {{{{ max_connections = 20, max_per_ip = 20, enforce = false, rate = "2/h" }}}}

[services.smtps]
{HOLD}
listeners = [{{{{ port = 465 }}}}]
{LISTS}

[services.imap]
{HOLD}
listeners = [{{{{ address = "0.0.0.0", port = 143 }}}}, {{{{ address = "::", port = 143 }}}},
             {{{{ address = "::1", port = 10143 }}}}]
limits = {{{{ max_connections = 3, max_per_ip = 3 }}}}

[services.imaps]
{HOLD}
listeners = [{{{{ port = 993 }}}}, {{{{ address = "2001:db8:17:a:5054:ff:fe12:3456", port = 10993 }}}}]
limits = {{{{ max_connections = 300, max_per_ip = 20 }}}}

[services.pop3s]
{HOLD}
listeners = [{{{{ port = 995 }}}}]
limits = {{{{ max_per_ip = 2 }}}}
"""
MISTAKES = """
[services.pop3]
program = ["/usr/lib/courier/courier-pop3d", "Maildir"]
user = "courrier"
listeners = [{ port = "pop3" }]
limits = { max_per_ips = 4 }
"""
# what is different with each run; a name of a temporary directory has always the same length
VARYING = [
    (re.compile(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d|\d\d:\d\d:\d\d"), "hh:mm:ss"),
    (re.compile(r"\b\d+ (?:d|h|min|s)\b(?: \d+ (?:h|min|s)\b)?"), "N s"),
    (re.compile(r"\bpid \d+"), "pid N"),
    (re.compile(r"^(tcpdconf +)\S+, ", re.MULTILINE), r"\g<1>V, "),
    (re.compile(r"/tmp/tmp\w{8}\b"), "/tmp/tmpNNNNNNNN"),
]


def steady(text: str) -> str:
    for pattern, by in VARYING:
        text = pattern.sub(by, text)
    return text


class Host:
    """A daemon with six services, its clients, and a terminal."""

    def __init__(self, daemon: reloads.Daemon, tmux: terminals.Tmux) -> None:
        self.daemon = daemon
        self.tmux = tmux

    def command(self, *options: str) -> list[str]:
        """The command line of `status`."""
        return [sys.executable, "-m", "tcpdconf", "status", *options, "--runtime-dir", self.daemon.runtime]

    def screens(self, kind: str) -> dict[str, str]:
        """The screen of each width, by name of file."""
        return {
            f"{kind}-{width}.txt": steady(self.tmux.shown(f"{kind}{width}", width, LINES, self.command()))
            for width in WIDTHS
        }

    def reject(self) -> None:
        """Have a reload rejected."""
        (self.daemon.conf / "pop3.toml").write_text(MISTAKES)
        assert not self.daemon.ask("reload")["ok"]

    def all(self) -> dict[str, str]:
        """Every golden screen."""
        busy = self.screens("busy")
        self.reject()
        return {**busy, **self.screens("rejected")}


def clients(daemon: reloads.Daemon, stack: contextlib.ExitStack) -> None:
    """Connect to the services, until each shows something."""

    def held(port: int, source: str, count: int = 1) -> None:
        for _ in range(count):
            client = stack.enter_context(daemons.connect(port, source=source))
            assert daemons.line(client) == b"\n"

    def refused(port: int, source: str, count: int = 1) -> None:
        for _ in range(count):
            assert daemons.talk(port, source=source) == b""

    held(25, "192.0.2.7", 4)
    refused(25, "192.0.2.7", 9)  # per_ip; then its penalty
    refused(25, "192.0.2.66", 3)  # access
    refused(25, "192.0.2.25", 2)  # listed
    assert daemons.talk(25, source="192.0.2.9", say=b"\n") == b"\n"  # exits with 1, which is an offence
    daemon.await_log('^penalty service=smtp .*offence="status 1"')
    held(587, "192.0.2.30", 3)  # two of them would be refused
    held(465, "192.0.2.31", 1)
    held(143, "192.0.2.40", 3)
    for number in range(5):  # they wait
        stack.enter_context(daemons.connect(143, source=f"192.0.2.{50 + number}"))
    held(993, "192.0.2.40", 12)
    held(995, "192.0.2.60", 2)
    refused(995, "192.0.2.60", 30)
    control_client.ask(daemon.runtime, {"command": "ban", "networks": ["192.0.2.200", "198.51.100.0/24"]})
    daemons.until(lambda: daemon.ask("status")["services"]["imap"]["waiting"] == 5, "the queue")


@contextlib.contextmanager
def host() -> Iterator[Host]:
    peers.need("tmux")
    with networks.new(), dnsservers.Server() as server, daemons.public_folder() as folder:
        networks.ip("route add local 192.0.2.0/24 dev lo")
        networks.ip("address add 2001:db8:17:a:5054:ff:fe12:3456/128 dev lo nodad")
        for zone in ("zen.dnsbl.example", "list.dnswl.example"):
            server.says(f"2.0.0.127.{zone}", "A", dnsservers.Reply(records=("A 127.0.0.2",)))
        server.says("25.2.0.192.zen.dnsbl.example", "A", dnsservers.Reply(records=("A 127.0.0.2",)))
        server.says("*.dead.dnsbl.example", "A", dnsservers.Reply(records=("A 127.0.0.2",)))
        text = CONFIGURATION.format(server=f"127.0.0.1:{server.address.port}")
        with (
            reloads.Daemon(folder, text) as daemon,
            terminals.tmux(folder, ENVIRONMENT) as tmux,
            contextlib.ExitStack() as stack,
        ):
            clients(daemon, stack)
            yield Host(daemon, tmux)


@pytest.mark.peer
def test_screens_are_the_golden_ones() -> None:
    with host() as found:
        screens = found.all()
        assert {name: (SCREENS / name).read_text() for name in screens} == screens

        text = subprocess.run(found.command(), capture_output=True, text=True, check=True, env=PLAIN).stdout
        coloured = found.tmux.shown("colour", 80, LINES, found.command("--color", "always"), "-e")
        watch_it(found)
    assert max(map(len, text.splitlines())) > 100  # nobody wraps lines for a pipe
    assert "[####################] 3/3, 5 waiting" in text
    assert "\x1b" not in text
    assert coloured.startswith("\x1b[1m\x1b[31mRELOAD REJECTED ")
    assert re.search(r"\x1b\[31msuspended", coloured)
    assert re.search(r"\x1b\[33m\[#{10}\] 3/3", coloured)


def watch_it(found: Host) -> None:
    """Watch in a low terminal, then in a larger one: the rejected reload is there, and no line is wrapped."""
    tmux = found.tmux
    tmux.start("watch", 80, 24, found.command("--watch"))
    daemons.until(lambda: "SERVICE" in tmux.screen("watch"), "the first frame")
    lines = tmux.screen("watch").splitlines()
    assert (len(lines), tmux.screen("watch")) == (24, tmux.screen("watch", "-J"))
    assert lines[0].startswith("RELOAD REJECTED ")
    assert lines[-1].startswith("RELOAD REJECTED ")  # where the page is cut

    tmux.run("resize-window", "-t", "watch", "-x", "161", "-y", "50")
    daemons.until(lambda: "PENALTIES" in tmux.screen("watch"), "the other size")
    golden = (SCREENS / "rejected-160.txt").read_text()
    daemons.until(lambda: steady(tmux.screen("watch")) == golden, "the whole page")
    tmux.run("send-keys", "-t", "watch", "C-c")
    daemons.until(lambda: tmux.ended("watch"), "the end")
    assert tmux.screen("watch").strip() == ""  # as it was before


def test_a_golden_screen_is_as_wide_as_its_name_says() -> None:
    found = sorted(SCREENS.iterdir())
    assert len(found) == 2 * len(WIDTHS)
    for path in found:
        width = int(path.stem.rpartition("-")[2])
        assert max(map(len, path.read_text().splitlines())) <= width


if __name__ == "__main__":
    with host() as made:
        for name, screen in made.all().items():
            (SCREENS / name).write_text(screen)
