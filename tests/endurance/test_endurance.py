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
from collections.abc import Iterator
from typing import Any, Final

import pytest
from endurance import abuse, crowd, observer, watched, world
from support import engines, loglines, peers
from support.running import daemons

from tcpdconf.daemon.worker import ledger

SECONDS: Final = float(os.environ.get("ENDURANCE_SECONDS", "30"))
BURST: Final = 10_000  # connections at a service with 50 slots
AT_ONCE: Final = 4000  # of them; the kernel queues 4096 and turns others away (net.core.somaxconn)
ANSWERS: Final = 10_000  # that a resolver keeps
KEPT: Final = pathlib.Path(tempfile.gettempdir(), "tcpdconf-endurance.log")  # of a run that has failed
pytestmark = [pytest.mark.endurance, pytest.mark.peer, pytest.mark.timeout(SECONDS + 300)]

_UNLOGGED: Final = re.compile(r" unlogged=(\d+)")
_MIDDLE: Final = re.compile(r".(accept|refuse|end) service=")  # a line that begins within another
_OTHER: Final = {"TCPREMOTEPORT", "TCPLOCALPORT", "TCPREMOTEINFO", "BLOCK", "BLOCK_IP", "BLOCK_ZONE"}
_OF_THE_SHELL: Final = {"PWD", "OLDPWD", "SHLVL", "_"}


class Books:
    """Holds the observations of clients, by service; `wrong` must stay empty."""

    def __init__(self, generations: set[str]) -> None:
        self.seen: dict[str, collections.Counter[str]] = collections.defaultdict(collections.Counter)
        self.slowest: collections.Counter[str] = collections.Counter()
        self.wrong: list[str] = []
        self._generations = generations

    def note(self, outcome: crowd.Outcome) -> None:
        """Write down what became of a client."""
        name = outcome.visit.service
        self.seen[name][outcome.what] += 1
        self.slowest[name] = max(self.slowest[name], round(outcome.seconds * 1000))
        if outcome.what == "served":
            self._check(name, outcome)

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


def visitors(ports: dict[str, int], chance: random.Random) -> Iterator[crowd.Visit]:
    """All kinds of clients, without end."""
    networks = [world.PLAIN, world.PLAIN, world.RULED, world.DENIED, world.LISTED]
    while True:
        name = chance.choice(["steady", "steady", "victim", "listed", "proxied"])
        source = crowd.someone(chance, chance.choice(networks), 20)
        says, ends = b"", True
        if name == "proxied":
            says = f"PROXY TCP4 {source} 127.0.0.1 {chance.randrange(65536)} 25\r\n".encode()
            source = crowd.someone(chance, world.PLAIN, 200)
            match chance.randrange(6):
                case 0:
                    says = chance.randbytes(chance.randrange(1, 200))
                case 1:
                    says, ends = says[: chance.randrange(len(says))], False  # a half-open peer
        yield crowd.Visit(name, ports[name], source, says, ends)


def burst(ports: dict[str, int], chance: random.Random, count: int) -> Iterator[crowd.Visit]:
    """So many clients of one service, few for each address."""
    for _ in range(count):
        source = crowd.someone(chance, world.PLAIN, 5000)
        yield crowd.Visit("steady", ports["steady"], source, ends=False)


class Scene(contextlib.ExitStack):
    """The daemon, what is done to it, and who looks."""

    def __init__(self, folder: pathlib.Path) -> None:
        super().__init__()
        self.chance = random.Random(7)  # noqa: S311 (no secret)
        self.folder = folder
        self.told = folder / "told"
        self.told.mkdir()
        self.told.chmod(0o777)
        logged = folder / "logged"  # by loggers of all users
        logged.touch()
        logged.chmod(0o666)
        self.ports = {name: daemons.free_port() for name in world.SLOTS}
        before = [sys.executable, watched.__file__, str(self.told)]
        self.log = folder / "log"
        self.push(self._keep_log)
        written = self.enter_context(self.log.open("ab"))
        self.daemon = daemons.Daemon(folder, "", before=before, stderr=written.fileno())
        self.engine = self.enter_context(engines.Engine(folder))
        self.abuse = abuse.Abuse(self.daemon, self.ports, self.chance, self.engine)
        address = self.abuse.start_server()
        self.callback(self.abuse.close)
        text = world.configuration(self.ports, 1, folder, address, world.USERS[0])
        (self.daemon.conf / "test.toml").write_text(text)
        self.enter_context(self.daemon)
        self.books = Books(self.abuse.generations)

    def _keep_log(self, failure: type[BaseException] | None, *_: object) -> None:
        if failure is not None:
            shutil.copy(self.log, KEPT)

    def send(self, visits: Iterator[crowd.Visit], at_once: int, every: float = 0.0) -> crowd.Crowd:
        """Let visitors come."""
        made = crowd.Crowd(lambda: next(visits, None), self.books.note, at_once=at_once, every=every)
        made.start()
        return made

    def services(self) -> dict[str, Any]:
        """Return the services of `status`."""
        found: dict[str, Any] = self.abuse.ask("status")["services"]  # type: ignore[assignment]
        return found

    def processes(self) -> dict[str, int]:
        """The supervisor, and each service's worker."""
        status: dict[str, Any] = self.abuse.ask("status")
        workers = {name: each["pid"] for name, each in status["services"].items()}
        return {"supervisor": self.daemon.process.pid, "cluster": status["cluster"]["pid"], **workers}

    def holdings(self) -> dict[str, observer.Holdings]:
        """Return the resources of each process."""
        found = self.processes()
        time.sleep(0.5)  # for the client that has asked to be gone
        return {name: observer.holdings(pid, self.told) for name, pid in found.items()}

    def at_rest(self) -> dict[str, observer.Holdings]:
        """Return the resources of each process once nothing has happened for a while."""
        observer.settle(self.idle, 10)
        time.sleep(3)
        return self.holdings()

    def idle(self) -> bool:
        """Return whether nobody holds a slot."""
        return not any(each["connections"] for each in self.services().values())


def _logged(lines: list[str], name: str) -> collections.Counter[str]:
    """Return by kind of log line the number of connections of a service, those in `unlogged=` included."""
    found: collections.Counter[str] = collections.Counter()
    for line in lines:
        kind, _, rest = line.partition(f" service={name} ")
        if kind == "accept":
            found["served"] += 1
        elif kind == "refuse":
            reason = rest.split()[0].removeprefix("reason=").replace("-", "_")
            unlogged = _UNLOGGED.search(rest)
            found[reason] += 1 + (int(unlogged[1]) if unlogged else 0)
    return found


def _report(scene: Scene, rows: dict[str, object]) -> None:
    print(f"\nendurance, {SECONDS:g} s")
    for name, seen in sorted(scene.books.seen.items()):
        print(f"  clients of {name}: {dict(sorted(seen.items()))}, slowest {scene.books.slowest[name]} ms")
    for title, value in rows.items():
        print(f"  {title}: {value}")


def _abused(scene: Scene, watch: observer.Watch) -> int:
    """All of it at once; how many bursts there were."""
    watch.start()
    scene.abuse.start()
    traffic = scene.send(visitors(scene.ports, scene.chance), 300, 0.004)
    end = time.monotonic() + SECONDS
    bursts = 0
    while bursts == 0 or time.monotonic() < end:
        began = time.monotonic()
        scene.send(burst(scene.ports, scene.chance, BURST), AT_ONCE).join()
        bursts += 1
        time.sleep(max(0.0, min(end, began + 60) - time.monotonic()))
    scene.abuse.finish()
    traffic.finish()
    watch.finish()
    return bursts


def _everybody(ports: dict[str, int], network: str) -> Iterator[crowd.Visit]:
    """One client of each service."""
    for name, port in ports.items():
        says = f"PROXY TCP4 {network}.9.9 127.0.0.1 1 25\r\n".encode() if name == "proxied" else b""
        source = f"{network}.9.9" if name != "proxied" else f"{world.PLAIN}.9.9"
        yield crowd.Visit(name, port, source, says)


def _refused(ports: dict[str, int]) -> Iterator[crowd.Visit]:
    """Clients refused for each reason: a refusal that was only counted is told of with the next one."""
    yield from _everybody(ports, world.DENIED)
    yield crowd.Visit("proxied", ports["proxied"], f"{world.PLAIN}.9.9", b"garbage")
    for name in ("victim", "listed"):
        for _ in range(world.PER_IP[name] + 2):
            yield crowd.Visit(name, ports[name], f"{world.RULED}.9.9")


def test_everything_at_once() -> None:
    peers.need_root()
    with daemons.public_folder() as folder, Scene(folder) as scene:
        watch = observer.Watch(scene.daemon.process.pid, scene.abuse.slack)
        # what is imported or grows once does so now
        scene.send(burst(scene.ports, scene.chance, BURST // 2), AT_ONCE).join()
        traffic = scene.send(itertools.islice(visitors(scene.ports, scene.chance), 1500), 300)
        scene.abuse.everything()
        traffic.join()
        before = scene.at_rest()

        bursts = _abused(scene, watch)
        began = time.monotonic()
        scene.send(_everybody(scene.ports, world.PLAIN), 10).join()
        again = time.monotonic() - began
        idle = observer.settle(scene.idle, 10)
        forgotten = observer.settle(lambda: not scene.engine.counted(), 10)
        after = scene.at_rest()
        scene.send(_refused(scene.ports), 20).join()
        observer.settle(scene.idle, 10)
        status, lines = scene.services(), loglines.without_times(scene.log.read_text()).splitlines()
        told = {name: _logged(lines, name) for name in world.SLOTS}
        _report(
            scene,
            {
                "abuse": dict(scene.abuse.done),
                "bursts": bursts,
                "troubles": scene.abuse.troubles,
                "most programs": f"{dict(watch.most)} of {world.SLOTS}, in {watch.samples} samples",
                "served again": f"after {again:.2f} s, idle after {idle:.2f} s",
                "engine": f"empty after {forgotten:.2f} s: {scene.abuse.ask('status')['cluster']}",
                **{f"{name} before": each for name, each in before.items()},
                **{f"{name} after": each for name, each in after.items()},
                "status": {name: _counted(each) for name, each in status.items()},
                "log": {name: dict(found) for name, found in told.items()},
            },
        )
        assert (watch.broken[:5], scene.books.wrong[:5], scene.abuse.troubles[:5]) == ([], [], [])
        assert not [
            line for line in lines if "lost=" in line or " failed: " in line or "cannot serve" in line
        ]
        assert not [line for line in lines if _MIDDLE.search(line)]
        for name, each in status.items():
            _agree(name, scene, _counted(each), told[name])
        assert [line for line in lines if line.startswith("alert: all slots are taken service=steady ")]
        assert again < 2
        assert idle < 2
        assert forgotten < 10, scene.engine.counted()
        assert observer.zombies(scene.daemon.process.pid) == []
        for name, held in after.items():
            assert held.fds == before[name].fds, name
            assert held.kept["timers"] <= before[name].kept["timers"], name
            assert held.kept["watched"] == before[name].kept["watched"], name
            assert held.kept["answers"] <= ANSWERS, name
            assert held.memory < before[name].memory * 1.1, name


def _counted(status: dict[str, Any]) -> dict[str, int]:
    """Return the counters of a service, by the clients' names for results."""
    return {"served": status["accepted"], **{key: count for key, count in status["refused"].items() if count}}


def _agree(name: str, scene: Scene, counted: dict[str, int], logged: "collections.Counter[str]") -> None:
    """See that clients, counters and log tell the same, but for those that a killed worker had in hand."""
    seen = dict(scene.books.seen[name])
    if name == "proxied":  # what is no header has no answer
        seen["proxy"] = seen.pop("nothing", 0)
    slack = scene.abuse.slack[name]
    for what in {*seen, *counted, *logged} - {"nothing"}:
        told = [seen.get(what, 0), counted.get(what, 0), logged.get(what, 0)]
        assert abs(told[0] - told[1]) <= slack, f"{name}: {what}: clients, status, log: {told}"
        # refusals that were yet to be told of die with their worker
        assert abs(told[1] - told[2]) <= 10 * slack, f"{name}: {what}: clients, status, log: {told}"
    assert seen.get("nothing", 0) <= slack, name
    assert set(seen) <= {"served", "nothing", *ledger.REASONS}, name
