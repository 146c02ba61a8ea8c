"""An attack in a box: attackers of six kinds and honest clients, at a service without and with its guards.

The test has a short form. The long one has 200 attackers and 20 honest clients, and takes two minutes for
each of both (docs/explanation/attack.md):
ATTACK_SECONDS=120 .venv/bin/pytest -n 0 -s -m slow tests/security/test_attack.py
"""

import asyncio
import collections
import contextlib
import os
import pathlib
import re
import sys
import tomllib
from collections.abc import Iterator
from typing import Any, Final, NamedTuple

import pytest
import tomli_w
from security import attackers
from security.attackers import Honest, Origin, Tally
from support import markdown, networks, peers
from support.courier import courierhost
from support.running import daemons, jails, reloads

from tcpdconf.daemon.control import client as control_client

SECONDS: Final = float(os.environ.get("ATTACK_SECONDS", "12"))
pytestmark = [pytest.mark.peer, pytest.mark.slow, pytest.mark.timeout(2 * SECONDS + 240)]

TOP: Final = pathlib.Path(__file__).parents[2]
PROXY: Final = "198.18.255.1"
CLIENTS: Final = "198.18.0.0/16"  # each has a /24 of its own, so that no limit of a network counts others
DEAD: Final = "198.19.0.0/16"
LOOPBACK: Final = "127.0.0.1"  # a webmail on the server's host, with a guesser among its users
BEFORE, AFTER = "before", "after"
_TICKS: Final = os.sysconf("SC_CLK_TCK")

# Gives up a silent client with status 1, as courieresmtpd does after ten minutes.
MAIL_SERVER: Final = r"""
printf '220 mail.example.com ESMTP\r\n'
until IFS= read -r -t "$PATIENCE" line || { [ $? -le 128 ]; exit; }; [[ $line = QUIT* ]]; do
  printf '250 Ok\r\n'
done
printf '221 Bye\r\n'
"""


class Scale(NamedTuple):
    """The size of an attack: numbers of clients, slots of each service, and times in seconds."""

    smtp_holders: int
    imap_holders: int
    talkers: int
    liars: int
    guessers: int
    guesses: int  # that each of them makes at once
    dead: int
    honest: int  # of each of the two services
    slots: int
    program_patience: int
    keepalive: tuple[int, int, int]
    early_talker: float
    client_patience: float


LONG: Final = Scale(50, 10, 70, 40, 19, 2, 10, 10, 40, 10, (10, 5, 3), 2, 30)
SHORT: Final = Scale(20, 0, 12, 8, 3, 5, 4, 4, 16, 3, (2, 1, 2), 0.5, 20)
SCALE: Final = LONG if SECONDS >= 60 else SHORT


def services(form: str, scale: Scale) -> dict[str, Any]:
    """SMTP and IMAP as a conversion from couriertcpd makes them, or with all that keeps attackers away."""
    (shipped,) = TOP.glob("conf.d/*-imap.toml")
    imap = tomllib.loads(shipped.read_text())["services"]["imap"]
    imap |= {"enabled": True, "access": [], "listeners": [{"port": attackers.IMAP}]}
    smtp: dict[str, Any] = {
        "program": ["/bin/bash", "-c", MAIL_SERVER],
        "user": "nobody",
        "environment": {"PATIENCE": str(scale.program_patience)},
        "listeners": [
            {"port": attackers.SMTP},
            {"port": attackers.PROXIED, "haproxy": {"trusted": [PROXY]}},
        ],
        "limits": {"max_per_ip": 5, "max_per_network": 5},
    }
    for each in (smtp, imap):
        each["limits"]["max_connections"] = scale.slots
        each["keepalive"] = "kernel"
    if form == AFTER:
        for each in (smtp, imap):
            each["keepalive"] = dict(zip(("time", "interval", "count"), scale.keepalive, strict=True))
            each["penalties"] = {"refused": "30s", "killed": "90s"}
        smtp |= {
            "early_talker": {"wait": scale.early_talker},
            "drop": ["EARLYTALKER"],
            "messages": {
                "dropped": "554 5.5.0 Wait for the greeting",
                "penalty": "421 4.7.0 Try again later",
            },
        }
        smtp["limits"]["rate"] = "90/min"
        smtp["penalties"] |= {"early_talker": "2min", "proxy": "1min", "status": {"1": "1min"}}
    return {"services": {"smtp": smtp, "imap": imap}}


class Cast:
    """All clients: `hostile` by kind with where each is, `honest` by service, and the dead."""

    def __init__(self, scale: Scale, clients: int, dead: int) -> None:
        addresses = (f"198.18.{number}.7" for number in range(1, 255))

        def some(count: int) -> list[Origin]:
            return [Origin(clients, next(addresses)) for _ in range(count)]

        proxy = Origin(clients, PROXY)
        liars = some(scale.liars - 2)
        self.hostile: dict[str, tuple[attackers.Attack, float, list[Origin]]] = {
            "scanners, SMTP": (attackers.hold_smtp, 1, some(scale.smtp_holders)),
            "scanners, IMAP": (attackers.hold_imap, 1, some(scale.imap_holders)),
            "early talkers": (attackers.talk_early, 1, some(scale.talkers)),
            "header liars": (attackers.lie, 1, liars[::2]),
            "wrong headers": (attackers.garble, 1, liars[1::2]),
            "wrong headers through the proxy": (attackers.garble, 1, [proxy] * 2),
            "password guessers": (attackers.guess, 0.3, some(scale.guessers) * scale.guesses),
            "password guesser in a webmail": (attackers.guess, 0.3, [Origin(None, LOOPBACK)]),
        }
        self.dead = [Origin(dead, f"198.19.{number}.7") for number in range(scale.dead)]
        *direct, one, other = some(scale.honest)
        smtp = [Honest(each, attackers.SMTP) for each in direct]
        smtp += [Honest(proxy, attackers.PROXIED, each.address) for each in (one, other)]
        imap = [Honest(each, attackers.IMAP) for each in some(scale.honest - 1)]
        self.honest = {"SMTP": smtp, "IMAP": [*imap, Honest(Origin(None, LOOPBACK), attackers.IMAP)]}

    @property
    def guessers(self) -> set[str]:
        """The addresses of those who guess passwords, but for the webmail's."""
        return {origin.address for origin in self.hostile["password guessers"][2]}

    @property
    def innocent(self) -> list[str]:
        """The addresses that nothing may ever refuse."""
        return [*{each.address for some in self.honest.values() for each in some}, PROXY]

    def kind(self, address: str) -> str:
        """Return what the client with an address is; "" if it is no attacker, or several."""
        if address in {PROXY, LOOPBACK}:
            return ""
        if address in {origin.address for origin in self.dead}:
            return "dead peers"
        return next(
            (
                name
                for name, (_, _, origins) in self.hostile.items()
                if address in {origin.address for origin in origins}
            ),
            "",
        )


class Result(NamedTuple):
    """Holds the result of one form of the attack."""

    hostile: dict[str, Tally]
    honest: dict[str, Tally]
    programs: "collections.Counter[str]"  # by kind of attacker
    refused: "collections.Counter[str]"  # by reason
    dead: int  # slots that they hold at the end
    bans: set[str]
    penalties: int  # in effect at the end
    marked: set[str]  # innocent addresses that have a penalty or a ban
    daemon: float  # seconds of processor time
    programs_time: float
    fail2ban_time: float


class Box:
    """The server with its clients, and fail2ban if the form has it."""

    def __init__(
        self, cast: Cast, host: courierhost.Host, daemon: reloads.Daemon, jail: jails.Fail2ban | None
    ) -> None:
        self._cast = cast
        self._host = host
        self._daemon = daemon
        self._jail = jail

    async def attack(self, seconds: float) -> Result:
        """Let all come at once, and go on until the last honest client has its answer."""
        hostile = {name: Tally() for name in self._cast.hostile}
        honest = {name: Tally() for name in self._cast.honest}
        async with contextlib.AsyncExitStack() as stack:
            await attackers.vanish(stack, self._cast.dead)
            tasks = [
                asyncio.create_task(attackers.again(hostile[name], attack, origin, pause))
                for name, (attack, pause, origins) in self._cast.hostile.items()
                for origin in origins
            ]
            if self._jail is not None:
                tasks.append(asyncio.create_task(self._copy_log(self._jail.log)))
            await asyncio.gather(
                *(
                    attackers.regularly(honest[name], each, seconds, SCALE.client_patience)
                    for name, clients in self._cast.honest.items()
                    for each in clients
                )
            )
            if self._jail is not None:
                await asyncio.to_thread(daemons.until, self._settled, "the bans, and the end of the dead")
            result = self._result(hostile, honest)
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        return result

    async def _copy_log(self, path: pathlib.Path) -> None:
        while True:
            self._host.copy_syslog(path)
            await asyncio.sleep(0.2)

    def _settled(self) -> bool:
        return self._cast.guessers <= self._bans() and self._held_by_dead() == 0

    def _held_by_dead(self) -> int:
        dead = {origin.address for origin in self._cast.dead}
        found = self._daemon.ask("connections")["connections"]
        return sum(each["peer"].rpartition(":")[0] in dead for each in found)

    def _bans(self) -> set[str]:
        return {each["network"] for each in self._daemon.ask("bans")["bans"]}

    def _result(self, hostile: dict[str, Tally], honest: dict[str, Tally]) -> Result:
        refused: collections.Counter[str] = collections.Counter()
        penalties = 0
        for each in self._daemon.ask("status")["services"].values():
            refused.update(each["refused"])
            penalties += (each["penalties"] or {"active": 0})["active"]
        return Result(
            hostile,
            honest,
            collections.Counter(self._cast.kind(peer) for peer in _accepted(self._daemon.log)),
            refused,
            self._held_by_dead(),
            self._bans(),
            penalties,
            self._marked(),
            *_daemon_time(self._daemon.process.pid),
            0.0 if self._jail is None else sum(_times(self._jail.pid)),
        )

    def _marked(self) -> set[str]:
        """Return the innocent addresses that have a ban or a penalty."""
        innocent = [*self._cast.innocent, LOOPBACK]
        found = self._bans()
        for start in range(0, len(innocent), 10):
            request = {"command": "status", "about": innocent[start : start + 10]}
            status = control_client.ask(self._daemon.runtime, request, daemons.SECONDS)
            for each in status["services"].values():
                if each["penalties"] is not None:
                    found |= {source["network"] for source in each["penalties"]["sources"]}
        return found & set(innocent)


def _accepted(log: list[str]) -> Iterator[str]:
    """Yield the client's address for each program that was started."""
    for line in log:
        if found := re.match(r"accept service=\S+ peer=([\d.]+):", line):
            yield found[1]


def _times(pid: int) -> tuple[float, float]:
    """Return the processor time of a process, and that of the children that it has waited for."""
    try:
        fields = pathlib.Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2].split()
    except OSError:
        return 0.0, 0.0
    own, own_system, children, children_system = (int(field) / _TICKS for field in fields[11:15])
    return own + own_system, children + children_system


def _daemon_time(pid: int) -> tuple[float, float]:
    """Return the processor time of the processes of tcpdconf below a process, and that of their programs."""
    own = programs = 0.0
    left = [pid]
    while left:
        each = left.pop()
        left += daemons.children(each)
        with contextlib.suppress(OSError):
            if b"tcpdconf" in pathlib.Path(f"/proc/{each}/cmdline").read_bytes():
                times = _times(each)
                own, programs = own + times[0], programs + times[1]
    return own, programs


@contextlib.contextmanager
def box(folder: pathlib.Path, form: str, scale: Scale) -> Iterator[Box]:
    """Make the networks of the server, of its clients and of the dead, and start what the server runs."""
    with (
        networks.new(),
        networks.linked(attackers.SERVER, "192.0.2.2", beyond=CLIENTS) as clients,
        networks.linked("203.0.113.1", "203.0.113.2", beyond=DEAD, name="other") as dead,
        courierhost.Host(folder) as host,
        reloads.Daemon(folder, tomli_w.dumps(services(form, scale)), before=host.inside) as daemon,
        contextlib.ExitStack() as more,
    ):
        jail = None
        if form == AFTER:
            command, options = f"{sys.executable} -m tcpdconf", f"--runtime-dir {daemon.runtime}"
            jail = more.enter_context(jails.Fail2ban(folder, command, options, bantime="10m"))
        yield Box(Cast(scale, clients, dead), host, daemon, jail)


def _attacked(folder: pathlib.Path, form: str) -> Result:
    folder.mkdir()
    with box(folder, form, SCALE) as made:
        return asyncio.run(made.attack(SECONDS))


def _rows(result: Result) -> dict[str, str]:
    """Return the figures of one form, by what they are."""
    rows = {}
    for name, tally in result.honest.items():
        rows[f"honest {name}: served of tried"] = f"{tally.outcomes['served']} of {tally.tried}"
        rows[f"honest {name}: gave up, refused"] = f"{tally.outcomes['gave up']}, {tally.outcomes['refused']}"
        delays = (tally.median, tally.late, max(tally.delays))
        rows[f"honest {name}: delay: median, 95 %, longest"] = ", ".join(map(_shown, delays))
    for name, tally in result.hostile.items():
        rows[f"{name}: greeted of tried"] = f"{tally.outcomes['greeted']} of {tally.tried}"
    programs = {kind: count for kind, count in result.programs.items() if kind}
    rows["attackers: tried"] = str(sum(tally.tried for tally in result.hostile.values()))
    rows["programs started for attackers"] = str(_for_attackers(result))
    rows["of these"] = ", ".join(f"{kind} {programs[kind]}" for kind in sorted(programs))
    rows["refused, by reason"] = ", ".join(
        f"{reason} {count}" for reason, count in result.refused.items() if count
    )
    rows["slots held by the dead at the end"] = str(result.dead)
    rows["bans, penalties in effect at the end"] = f"{len(result.bans)}, {result.penalties}"
    rows["processor: daemon, its programs, fail2ban"] = (
        f"{result.daemon:.2f} s, {result.programs_time:.2f} s, {result.fail2ban_time:.2f} s"
    )
    return rows


def _shown(seconds: float) -> str:
    return f"{seconds:.1f} s" if seconds >= 1 else f"{1000 * seconds:.0f} ms"


def _report(before: Result, after: Result) -> None:
    print(f"\n| {SECONDS:g} s each | {BEFORE} | {AFTER} |\n|---|---|---|")
    columns = _rows(before), _rows(after)
    for title in columns[0]:
        print(f"| {title} | {columns[0][title]} | {columns[1][title]} |")


def test_the_honest_are_served_and_the_others_get_fewer_programs() -> None:
    courierhost.need("/usr/lib/courier/courier/imaplogin", "courierlogger")
    peers.need("fail2ban-server", "unshare", "bash")
    with daemons.public_folder() as folder:  # whose path is short enough for that of a Unix socket
        before, after = (_attacked(folder / form, form) for form in (BEFORE, AFTER))
    _report(before, after)

    for name, tally in after.honest.items():
        assert tally.outcomes == {"served": tally.tried}, name
    assert after.marked == set()
    assert len(after.bans) == SCALE.guessers
    assert (before.dead, after.dead) == (SCALE.dead, 0)
    assert _for_attackers(after) < _for_attackers(before)


def test_the_page_shows_the_settings() -> None:
    (block,) = markdown.blocks(TOP / "docs/explanation/attack.md", "toml")
    made = services(AFTER, LONG)["services"]
    for name, shown in tomllib.loads(block.text)["services"].items():
        limits = {key: made[name]["limits"][key] for key in shown.get("limits", {})}
        assert shown == {key: made[name][key] for key in shown} | ({"limits": limits} if limits else {})


def _for_attackers(result: Result) -> int:
    return sum(count for kind, count in result.programs.items() if kind)
