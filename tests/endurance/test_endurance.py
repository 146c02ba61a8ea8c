"""Everything at once, and afterwards as if nothing had been.

The short form takes about a minute; `.ci/run` has its command, which is the long one with
ENDURANCE_SECONDS=3600 before it. It prints a report.
"""

import collections
import contextlib
import itertools
import os
import pathlib
import random
import re
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from typing import Any, Final

import pytest
from endurance import abuse, crowd, observer, watched, world
from support import engines, loglines, peers
from support.running import daemons

from tcpdconf.daemon.worker import ledger

SECONDS: Final = float(os.environ.get("ENDURANCE_SECONDS", "30"))
BURST: Final = 10_000  # connections at a service with 50 slots
VISITORS: Final = 300  # at once, beside a burst
# Of a burst. The kernel queues 4096 (net.core.somaxconn), visitors among them; those that find no place try
# again later and later, which on a slow machine takes longer than their patience.
AT_ONCE: Final = 4000 - VISITORS
ANSWERS: Final = 10_000  # that a resolver keeps
KEPT: Final = pathlib.Path(tempfile.gettempdir())  # where logs of a run that has failed are left
pytestmark = [pytest.mark.endurance, pytest.mark.peer, pytest.mark.timeout(SECONDS + 300)]

_UNLOGGED: Final = re.compile(r" unlogged=(\d+)")
_REASON: Final = re.compile(r" reason=(\S+)")
# what must not be in a log, and a line that begins within another
_WRONG: Final = re.compile(r"lost=| failed: |cannot serve|.(accept|refuse|end) service=")
Place = tuple[str, str]  # a host and a service
_OTHER: Final = {"TCPREMOTEPORT", "TCPLOCALPORT", "TCPREMOTEINFO", "BLOCK", "BLOCK_IP", "BLOCK_ZONE"}
_OF_THE_SHELL: Final = {"PWD", "OLDPWD", "SHLVL", "_"}


class Books:
    """Holds the answers to clients by host and service; `wrong` has the faults."""

    def __init__(self, generations: set[str]) -> None:
        self.seen: dict[Place, collections.Counter[str]] = collections.defaultdict(collections.Counter)
        self.slowest: collections.Counter[Place] = collections.Counter()
        self.wrong: list[str] = []
        self._generations = generations

    def note(self, outcome: crowd.Outcome) -> None:
        """Write down what became of a client."""
        place = outcome.visit.host, outcome.visit.service
        self.seen[place][outcome.what] += 1
        self.slowest[place] = max(self.slowest[place], round(outcome.seconds * 1000))
        if outcome.what == "served":
            self._check(outcome.visit.service, outcome)

    def _check(self, name: str, outcome: crowd.Outcome) -> None:
        found = crowd.environment(outcome)
        source = outcome.visit.source
        if name == "proxied":
            source = outcome.visit.says.split()[2].decode()
        elif found.get("TCPREMOTEPORT") != str(outcome.port):
            self.wrong.append(f"{name}: another client's port: {found}")
        generation = found.get("GENERATION", "")
        rest = {key: value for key, value in found.items() if key not in _OTHER | _OF_THE_SHELL}
        if generation not in self._generations or rest != world.expected(name, generation, source):
            self.wrong.append(f"{name}: {source}: {found}")
        if source.startswith(f"{world.DENIED}."):
            self.wrong.append(f"{name}: {source} was served")
        if "BLOCK" in found and not source.startswith(f"{world.LISTED}."):
            self.wrong.append(f"{name}: {source} was listed")


def visitors(hosts: Sequence[abuse.Host], chance: random.Random) -> Iterator[crowd.Visit]:
    """All kinds of clients, without end. Few addresses visit the group, so that each often has its limit."""
    networks = [world.PLAIN, world.PLAIN, world.RULED, world.DENIED, world.LISTED]
    while True:
        host = chance.choice(hosts)
        name = chance.choice(["steady", "steady", "victim", "twin", "listed", "proxied", "left", "right"])
        source = crowd.someone(chance, chance.choice(networks), 6 if name in world.GROUP else 20)
        says, ends = b"", True
        if name == "proxied":
            says = f"PROXY TCP4 {source} 127.0.0.1 {chance.randrange(65536)} 25\r\n".encode()
            source = crowd.someone(chance, world.PLAIN, 200)
            match chance.randrange(6):
                case 0:
                    says = chance.randbytes(chance.randrange(1, 200))
                case 1:
                    says, ends = says[: chance.randrange(len(says))], False  # a half-open peer
        yield crowd.Visit(host.name, name, host.ports[name], source, says, ends)


def burst(host: abuse.Host, chance: random.Random, count: int) -> Iterator[crowd.Visit]:
    """So many clients of one service, few for each address."""
    for _ in range(count):
        source = crowd.someone(chance, world.PLAIN, 5000)
        yield crowd.Visit(host.name, "steady", host.ports["steady"], source, ends=False)


class Scene(contextlib.ExitStack):
    """The hosts, their engine, what is done to them, and who looks."""

    def __init__(self, folder: pathlib.Path) -> None:
        super().__init__()
        self.chance = random.Random(7)  # noqa: S311 (no secret)
        self.told = folder / "told"
        self.told.mkdir()
        self.told.chmod(0o777)
        logged = folder / "logged"  # by loggers of all users
        logged.touch()
        logged.chmod(0o666)
        self.logs = {name: folder / f"{name}.log" for name in world.HOSTS}
        self.push(self._keep_logs)
        self.engine = self.enter_context(engines.Engine(folder))
        self.hosts = [self._host(folder / name, self.logs[name]) for name in world.HOSTS]
        self.abuse = abuse.Abuse(self.hosts, self.chance, self.engine)
        self.abuse.start_server()
        self.callback(self.abuse.close)
        for host in self.hosts:
            (host.daemon.conf / "test.toml").write_text(self.abuse.configuration(host))
            self.enter_context(host.daemon)
        self.supervisors = {host.name: host.daemon.process.pid for host in self.hosts}
        self.books = Books(self.abuse.generations)

    def _host(self, folder: pathlib.Path, log: pathlib.Path) -> abuse.Host:
        folder.mkdir()
        before = [sys.executable, watched.__file__, str(self.told)]
        written = self.enter_context(log.open("ab"))
        daemon = daemons.Daemon(folder, "", before=before, stderr=written.fileno())
        return abuse.Host(folder.name, daemon, log)

    def _keep_logs(self, failure: type[BaseException] | None, *_: object) -> None:
        if failure is not None:
            for log in self.logs.values():
                shutil.copy(log, KEPT / f"tcpdconf-endurance-{log.name}")

    def send(self, visits: Iterator[crowd.Visit], at_once: int, every: float = 0.0) -> crowd.Crowd:
        """Let visitors come."""
        made = crowd.Crowd(lambda: next(visits, None), self.books.note, at_once=at_once, every=every)
        made.start()
        return made

    def services(self) -> dict[Place, dict[str, Any]]:
        """Return the services of all hosts from `status`."""
        return {
            (host.name, name): each
            for host in self.hosts
            for name, each in host.ask("status")["services"].items()
        }

    def lines(self, host: str) -> list[str]:
        """The log of a host."""
        return loglines.without_times(self.logs[host].read_text()).splitlines()

    def processes(self) -> dict[str, int]:
        """The supervisors, the cluster processes, the brokers, and the workers of each service."""
        found = {f"{name} supervisor": pid for name, pid in self.supervisors.items()}
        for host in self.hosts:
            status = host.ask("status")
            found[f"{host.name} cluster"] = status["cluster"]["pid"]
            found[f"{host.name} broker"] = host.brokers()[-1]
            for name, each in status["services"].items():
                found |= {f"{host.name} {name} {n}": pid for n, pid in enumerate(each["pids"])}
        return found

    def at_rest(self) -> tuple[dict[str, observer.Holdings], dict[str, int]]:
        """Return the resources of each idle process, and the numbers of processes and connections."""
        observer.settle(self.idle, 10)
        time.sleep(3)
        found = self.processes()
        time.sleep(0.5)  # for the client that has asked to be gone
        numbers = {f"{name} processes": len(daemons.children(pid)) for name, pid in self.supervisors.items()}
        numbers["engine connections"] = len(self.engine.ask("CLIENT", "LIST").splitlines())
        return {name: observer.holdings(pid, self.told) for name, pid in found.items()}, numbers

    def idle(self) -> bool:
        """Return whether nobody holds a slot."""
        return not any(each["connections"] for each in self.services().values())

    def forgotten(self) -> bool:
        """Return whether neither the engine nor a cluster process counts a connection."""
        held = [host.ask("status")["cluster"]["connections"] for host in self.hosts]
        return not any(held) and not self.engine.counted()

    def agree(self) -> bool:
        """Return whether status and log agree about the services whose workers live."""
        services = self.services()
        told = {host.name: self.lines(host.name) for host in self.hosts}
        return all(
            _counted(services[host.name, name]) == _logged(told[host.name], name)
            for host in self.hosts
            for name in world.SLOTS
            if not host.slack[name]
        )


def _logged(lines: list[str], name: str) -> collections.Counter[str]:
    """Return by kind of log line the number of connections of a service, those in `unlogged=` included."""
    found: collections.Counter[str] = collections.Counter()
    for line in lines:
        kind, _, rest = line.partition(f" service={name} ")
        if kind == "accept":
            found["served"] += 1
        elif kind in {"refuse", "suppressed"}:
            reason = _REASON.search(f" {rest}")
            unlogged = _UNLOGGED.search(rest)
            assert reason is not None, line
            found[reason[1].replace("-", "_")] += (kind == "refuse") + (int(unlogged[1]) if unlogged else 0)
    return found


def _report(scene: Scene, rows: dict[str, object]) -> None:
    print(f"\nendurance, {SECONDS:g} s")
    for (host, name), seen in sorted(scene.books.seen.items()):
        slowest = scene.books.slowest[host, name]
        print(f"  clients of {host} {name}: {dict(sorted(seen.items()))}, slowest {slowest} ms")
    for title, value in rows.items():
        print(f"  {title}: {value}")


def _abused(scene: Scene, watch: observer.Watch) -> int:
    """All of it at once; how many bursts there were."""
    watch.start()
    scene.abuse.watch(watch.over)
    traffic = scene.send(visitors(scene.hosts, scene.chance), VISITORS, 0.004)
    end = time.monotonic() + SECONDS
    bursts = 0
    while bursts == 0 or time.monotonic() < end:
        began = time.monotonic()
        scene.send(burst(scene.hosts[bursts % 2], scene.chance, BURST), AT_ONCE).join()
        bursts += 1
        time.sleep(max(0.0, min(end, began + 60) - time.monotonic()))
    scene.abuse.finish()
    traffic.finish()
    watch.finish()
    return bursts


def _everybody(hosts: Sequence[abuse.Host], network: str) -> Iterator[crowd.Visit]:
    """One client of each service."""
    for host in hosts:
        for name, port in host.ports.items():
            says = f"PROXY TCP4 {network}.9.9 127.0.0.1 1 25\r\n".encode() if name == "proxied" else b""
            source = f"{network}.9.9" if name != "proxied" else f"{world.PLAIN}.9.9"
            yield crowd.Visit(host.name, name, port, source, says)


def _refused(hosts: Sequence[abuse.Host]) -> Iterator[crowd.Visit]:
    """Clients refused for each reason: a refusal that was only counted is told of with the next one."""
    for _ in range(3):  # more than there are workers
        yield from _everybody(hosts, world.DENIED)
    for host in hosts:
        yield crowd.Visit(host.name, "proxied", host.ports["proxied"], f"{world.PLAIN}.9.9", b"garbage")
        for name in ("victim", "twin", "listed", "left", "right"):
            for _ in range(8):
                yield crowd.Visit(host.name, name, host.ports[name], f"{world.RULED}.9.9")


def _limit_over_all(scene: Scene) -> list[tuple[str, int]]:
    """How one address fares that connects to all hosts in turn and stays: each outcome with its number."""
    found: collections.Counter[str] = collections.Counter()
    with contextlib.ExitStack() as stay:
        for _ in range(world.PER_IP["steady"]):
            for host in scene.hosts:
                visit = crowd.Visit(host.name, "steady", host.ports["steady"], f"{world.PLAIN}.9.8")
                client = stay.enter_context(daemons.connect(visit.port, source=visit.source))
                outcome = crowd.Outcome(visit, client.getsockname()[1], client.recv(65536), 0)
                scene.books.seen[host.name, "steady"][outcome.what] += 1
                found[outcome.what] += 1
    return sorted(found.items())


def test_everything_at_once() -> None:
    peers.need_root()
    with daemons.public_folder() as folder, Scene(folder) as scene:
        watch = observer.Watch(scene.supervisors, scene.abuse.slack, lambda: scene.abuse.in_order)
        # what is imported or grows once does so now
        for host in scene.hosts:
            scene.send(burst(host, scene.chance, BURST // 4), AT_ONCE).join()
        traffic = scene.send(itertools.islice(visitors(scene.hosts, scene.chance), 1500), VISITORS)
        scene.abuse.everything()
        traffic.join()
        before, numbers = scene.at_rest()

        bursts = _abused(scene, watch)
        began = time.monotonic()
        scene.send(_everybody(scene.hosts, world.PLAIN), 10).join()
        again = time.monotonic() - began
        idle = observer.settle(scene.idle, 10)
        forgotten = observer.settle(scene.forgotten, 10)
        counts = scene.engine.counted()
        after, numbers_after = scene.at_rest()
        limit = _limit_over_all(scene)
        for _ in range(20):
            scene.send(_refused(scene.hosts), 20).join()
            observer.settle(scene.idle, 10)
            if scene.agree():
                break
        status, lines = scene.services(), {name: scene.lines(name) for name in world.HOSTS}
        told = {(host, name): _logged(lines[host], name) for host, name in status}
        abused = scene.abuse
        _report(
            scene,
            {
                "abuse": dict(abused.done),
                "bursts": bursts,
                "troubles": abused.troubles,
                "most programs on a host": f"{dict(watch.most)} of {world.SLOTS}, in {watch.samples} samples",
                "most of a client on all hosts": f"{dict(watch.most_of_one)} of {world.PER_IP}, "
                f"in {watch.ordered} samples, limit reached {watch.full} times",
                "rounds": f"{abused.rounds}, and {abused.lapsed} with an engine too slow",
                "an address at all hosts": limit,
                "served again": f"after {again:.2f} s, idle after {idle:.2f} s",
                "engine": f"empty after {forgotten:.2f} s: {[each.lapses() for each in scene.hosts]}",
                "numbers": f"{numbers}, afterwards {numbers_after}",
                **{name: f"{each}, afterwards {after.get(name)}" for name, each in before.items()},
                "status": {place: _counted(each) for place, each in status.items()},
                "log": {place: dict(found) for place, found in told.items()},
            },
        )
        assert (watch.broken[:5], scene.books.wrong[:5], abused.troubles[:5]) == ([], [], [])
        assert abused.over[:5] == []
        assert watch.full > 0
        assert [line for some in lines.values() for line in some if _WRONG.search(line)] == []
        for place, each in status.items():
            _agree(place, scene, _counted(each), told[place])
        for some in lines.values():
            assert [line for line in some if line.startswith("alert: all slots are taken service=steady ")]
        assert again < 2
        assert idle < 2
        assert forgotten < 10, counts
        assert limit == [("per_ip", world.PER_IP["steady"]), ("served", world.PER_IP["steady"])]
        assert [pid for each in scene.supervisors.values() for pid in observer.zombies(each)] == []
        assert numbers_after == numbers
        assert after.keys() == before.keys()
        for name, held in after.items():
            assert held.fds == before[name].fds, name
            assert held.kept["timers"] <= before[name].kept["timers"], name
            assert held.kept["watched"] == before[name].kept["watched"], name
            assert held.kept["answers"] <= ANSWERS, name
            assert held.memory < before[name].memory * 1.1, name


def _counted(status: dict[str, Any]) -> dict[str, int]:
    """Return the counters of a service, by the clients' names for results."""
    return {"served": status["accepted"], **{key: count for key, count in status["refused"].items() if count}}


def _agree(place: Place, scene: Scene, counted: dict[str, int], logged: "collections.Counter[str]") -> None:
    """See that clients, counters and log tell the same, but for those that a killed worker had in hand."""
    host, name = place
    seen = dict(scene.books.seen[place])
    if name == "proxied":  # what is no header has no answer
        seen["proxy"] = seen.pop("nothing", 0)
    slack = next(each.slack[name] for each in scene.hosts if each.name == host)
    for what in {*seen, *counted, *logged} - {"nothing"}:
        told = [seen.get(what, 0), counted.get(what, 0), logged.get(what, 0)]
        assert abs(told[0] - told[1]) <= slack, f"{place}: {what}: clients, status, log: {told}"
        # refusals that were yet to be told of die with their worker
        assert abs(told[1] - told[2]) <= 10 * slack, f"{place}: {what}: clients, status, log: {told}"
    assert seen.get("nothing", 0) <= slack, place
    assert set(seen) <= {"served", "nothing", *ledger.REASONS}, place
