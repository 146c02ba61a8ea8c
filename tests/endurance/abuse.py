"""Disturbs the daemons and their engine at random in many ways."""

import collections
import contextlib
import math
import os
import pathlib
import random
import re
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any, Final

from endurance import observer, world
from support import engines
from support.dns import dnsservers
from support.running import daemons

from tcpdconf.daemon.control import client as control_client
from tcpdconf.daemon.control.client import ControlError

ROUND: Final = 30.0  # seconds, of which the engine is abused in the first ones
ROUGH: Final = 10.0
SETTLED: Final = 6.0  # seconds after which every host has told the engine what it holds
RECENT: Final = 5.0  # seconds in which a kill may have made room for one connection too many
_BROKER: Final = re.compile(rb" broker ready pid=(\d+)")


class Host:
    """One host: a daemon whose configuration changes. `slack` counts the workers killed, by service."""

    def __init__(self, name: str, daemon: daemons.Daemon, log: pathlib.Path) -> None:
        self.name = name
        self._log = log
        self._read = 0  # bytes of the log
        self._brokers: list[int] = []
        self.daemon = daemon
        self.ports = {service: daemons.free_port() for service in world.SLOTS}
        self.slack: collections.Counter[str] = collections.Counter()
        self.user = world.USERS[0]

    def ask(self, command: str) -> dict[str, Any]:
        """Return the answer of the daemon."""
        return control_client.ask(self.daemon.runtime, {"command": command}, 60)

    def write(self, text: str) -> None:
        """Replace the configuration."""
        file = self.daemon.conf / "test.toml"
        new = file.with_suffix(".new")
        new.write_text(text)
        new.rename(file)

    def workers(self, service: str) -> list[int]:
        """The workers of a service that accept."""
        found: list[int] = self.ask("status")["services"][service]["pids"]
        return found

    def brokers(self) -> list[int]:
        """The brokers that have run, the present one last; only new lines of the log are read."""
        with self._log.open("rb") as log:
            log.seek(self._read)
            lines, end, _ = log.read().rpartition(b"\n")
        self._read += len(lines + end)
        self._brokers += map(int, _BROKER.findall(lines))
        return [*self._brokers]

    def lapses(self) -> tuple[object, ...]:
        """Changes whenever a connection may have been decided without the engine."""
        cluster = self.ask("status")["cluster"]
        return cluster["pid"], cluster["state"], cluster.get("unanswered")


class Abuse(threading.Thread):
    """Does one of its deeds every now and then; `done` counts them.

    The engine and the cluster processes are let alone for most of each round, so that limits over all hosts
    are seen to hold. `rounds` counts those in which it always answered, `lapsed` those in which it did not.
    """

    def __init__(self, hosts: Sequence[Host], chance: random.Random, engine: engines.Engine) -> None:
        super().__init__(daemon=True)
        self._engine = engine
        self.done: collections.Counter[str] = collections.Counter()
        self.troubles: list[str] = []
        self.generation = 1
        self.generations = {"1"}
        self.pause = 0.3
        self.in_order = math.inf  # since when, on the clock of `boottime`
        self.rounds = 0
        self.lapsed = 0
        self.over: list[str] = []  # what the watch has seen in rounds without a lapse
        self._hosts = hosts
        self._host = hosts[0]  # of the present deed
        self._chance = chance
        self._ended = threading.Event()
        self._server = dnsservers.Server()
        self._address = ""
        self._kills: list[tuple[float, str, str]] = []

    def start_server(self) -> str:
        """Start the name server; where it is."""
        self._server.__enter__()
        self.tell_truth()
        self._address = f"127.0.0.1:{self._server.address.port}"
        return self._address

    def tell_truth(self) -> None:
        """Let the name server say what is so."""
        self._server.says("*.7.127.bl.example", "A", dnsservers.Reply(records=("A 127.0.0.2",)))
        for network in (world.PLAIN, world.RULED):
            self._server.says(
                f"*.{'.'.join(reversed(network.split('.')))}.bl.example", "A", dnsservers.NOT_FOUND
            )

    def slack(self, host: str, name: str) -> int:
        """How many connections too many a service or group may have, on a host or on all of them."""
        late = observer.boottime() - RECENT
        return sum(
            at > late and host in {where, observer.ALL} and name in {service, world.counts_as(service)}
            for at, where, service in self._kills
        )

    def watch(self, seen: dict[int, str]) -> None:
        """Start. `seen` are the programs that the watch has found to be too many while `in_order`."""
        self._seen = seen
        self.start()

    def run(self) -> None:
        """Until told to stop."""
        while not self._ended.is_set():
            self._some(ROUGH, [*self._deeds, *self._outages])
            before = self._settle()
            self._some(ROUND - ROUGH, self._deeds)
            self._judge(before)

    def _some(self, seconds: float, deeds: Sequence[Callable[[], None]]) -> None:
        end = time.monotonic() + seconds
        while time.monotonic() < end and not self._ended.wait(self.pause):
            self.do(self._chance.choice(deeds))

    def _settle(self) -> list[tuple[object, ...]]:
        """Wait until all hosts ask the engine again; limits over all of them hold from soon after that."""
        if observer.settle(self._all_ask, 10) >= 10:
            self.troubles.append(f"no engine: {[each.lapses() for each in self._hosts]}")
        self.in_order = observer.boottime() + SETTLED
        return [each.lapses() for each in self._hosts]

    def _all_ask(self) -> bool:
        return all(each.ask("status")["cluster"]["state"] == "up" for each in self._hosts)

    def _judge(self, before: list[tuple[object, ...]]) -> None:
        """End a round. A host may have admitted too many without the engine, but in no other case."""
        self.in_order = math.inf
        time.sleep(0.2)  # for the look that the watch is taking
        found, lapsed = dict(self._seen), before != [each.lapses() for each in self._hosts]
        self._seen.clear()
        self.lapsed += lapsed
        self.rounds += not lapsed
        if not lapsed:
            self.over += found.values()

    def everything(self) -> None:
        """Do everything once on each host, and go back to the first user."""
        for deed in [*self._deeds, *self._outages]:
            self.do(deed)
        self.tell_truth()
        self.calm_down()

    def calm_down(self) -> None:
        """Let each host have its first user again, so that its processes can be compared."""
        for host in self._hosts:
            self._host = host
            host.user = world.USERS[0]
            self._reload()

    def do(self, deed: Callable[[], None]) -> None:
        """Do one of the deeds, on one of the hosts."""
        self._host = self._chance.choice(self._hosts)
        try:
            deed()
        except (ControlError, OSError, AssertionError) as error:
            self.troubles.append(f"{deed.__name__}: {error}")
        self.done[deed.__name__.strip("_")] += 1

    @property
    def _deeds(self) -> list[Callable[[], None]]:
        return [
            self._reload, self._reload, self._reload_wrong, self._change_user, self._kill_worker,
            self._stop_worker, self._kill_logger, self._exhaust_descriptors, self._exhaust_processes,
            self._silence, self._lie, self._garble,
        ]  # fmt: skip

    @property
    def _outages(self) -> list[Callable[[], None]]:
        return [
            self._kill_cluster, self._stop_cluster, self._flush_engine, self._stop_engine,
            self._restart_engine, self._cut_engine, self._kill_broker, self._stop_broker,
        ]  # fmt: skip

    def finish(self) -> None:
        """Do no more, and let the name server say the truth again."""
        self._ended.set()
        self.join(60)
        assert not self.is_alive()
        self.tell_truth()
        self.calm_down()

    def close(self) -> None:
        """End the name server."""
        self._server.__exit__(None, None, None)

    def configuration(self, host: Host) -> str:
        """The configuration of a host in the present generation."""
        return world.configuration(
            host.name,
            host.ports,
            self.generation,
            folder=self._engine.socket.parent,
            server=self._address,
            user=host.user,
        )

    def _reload(self) -> None:
        self.generation += 1
        self.generations.add(str(self.generation))
        self._host.write(self.configuration(self._host))
        answer = self._host.ask("reload")
        if not answer["ok"]:
            self.troubles.append(f"reload: {answer['problems']}")

    def _reload_wrong(self) -> None:
        good = (self._host.daemon.conf / "test.toml").read_text()
        self._host.write(good.replace("max_per_ip =", "max_per_ips =", 1))
        if self._host.ask("reload")["ok"]:
            self.troubles.append("a wrong configuration was taken on")
        self._host.write(good)

    def _change_user(self) -> None:
        self._host.user = world.USERS[self._host.user == world.USERS[0]]
        self._reload()

    def _kill_worker(self) -> None:
        if workers := self._host.workers("victim"):
            self._allow("victim", 1)
            self._host.slack["victim"] += 1
            os.kill(self._chance.choice(workers), signal.SIGKILL)

    def _allow(self, name: str, more: int) -> None:
        """Allow so many more connections of a client for a while: a process is killed, or does not answer."""
        now = observer.boottime()
        recent = [each for each in self._kills if each[0] > now - RECENT]
        self._kills = [*recent, *[(now, self._host.name, name)] * more]

    def _kill_broker(self) -> None:
        """Kill the broker: until another one is told of all connections, each service counts alone."""
        before = self._host.brokers()
        self._allow(world.BROKERED, world.PER_IP[world.BROKERED])
        os.kill(before[-1], signal.SIGKILL)
        for _ in range(60):
            waited = observer.settle(lambda: len(self._host.brokers()) > len(before), 1)
            self._allow(world.BROKERED, world.PER_IP[world.BROKERED])
            if waited < 1:
                return
        self.troubles.append(f"no broker on {self._host.name}")

    def _stop_broker(self) -> None:
        """Stop the broker for longer than workers wait for it."""
        self._allow(world.BROKERED, world.PER_IP[world.BROKERED])
        self._halt(self._host.brokers()[-1])
        self._allow(world.BROKERED, world.PER_IP[world.BROKERED])

    def _stop_worker(self) -> None:
        """Stop one of several workers for less than the time after which it is killed."""
        if workers := self._host.workers(self._chance.choice(["steady", "twin"])):
            self._halt(self._chance.choice(workers))

    def _halt(self, pid: int) -> None:
        with contextlib.suppress(ProcessLookupError):  # it was being replaced
            os.kill(pid, signal.SIGSTOP)
            time.sleep(self._chance.random())
            os.kill(pid, signal.SIGCONT)

    def _kill_logger(self) -> None:
        for pid in daemons.children(self._host.daemon.process.pid):
            with contextlib.suppress(OSError):  # it has ended meanwhile
                if b"exec cat" in (observer.PROC / f"{pid}/cmdline").read_bytes():
                    os.kill(pid, signal.SIGKILL)
                    return

    def _cluster(self) -> int | None:
        pid: int | None = self._host.ask("status")["cluster"]["pid"]
        return pid

    def _kill_cluster(self) -> None:
        if pid := self._cluster():
            os.kill(pid, signal.SIGKILL)

    def _stop_cluster(self) -> None:
        if pid := self._cluster():
            self._halt(pid)

    def _flush_engine(self) -> None:
        self._engine.ask("FLUSHALL")

    def _stop_engine(self) -> None:
        self._engine.halt()
        time.sleep(3 * self._chance.random())
        self._engine.go_on()

    def _restart_engine(self) -> None:
        """Kill the engine with all that it knows, and start another one."""
        self._engine.stop()
        time.sleep(3 * self._chance.random())
        self._engine.start()

    def _cut_engine(self) -> None:
        self._engine.ask("CLIENT", "KILL", "TYPE", self._chance.choice(["normal", "pubsub"]))

    def _exhaust_descriptors(self) -> None:
        self._limit("nofile", lambda pid: len(os.listdir(f"/proc/{pid}/fd")), 20000)

    def _exhaust_processes(self) -> None:
        self._limit("nproc", lambda _: 1, 10000)

    def _limit(self, which: str, low: Callable[[int], int], high: int) -> None:
        """Take something away from a worker for a moment, as its user: root may lack the capability."""
        pid = self._chance.choice(self._host.workers("steady"))
        for value in (low(pid), high):
            as_user = ["setpriv", f"--reuid={world.USERS[0]}", f"--regid={world.USERS[0]}", "--clear-groups"]
            subprocess.run([*as_user, "prlimit", f"--pid={pid}", f"--{which}={value}:"], check=True)
            time.sleep(0.3)

    def _silence(self) -> None:
        self._server.lose = 200

    def _lie(self) -> None:
        """Forge answers, and say what is not so of clients that are listed: never that others are."""
        forged = dnsservers.Reply(
            records=("A 127.0.0.2",), forged=self._chance.choice(["id", "port", "question"])
        )
        self._server.says("*.6.127.bl.example", "A", forged, dnsservers.NOT_FOUND)
        self._server.says("*.7.127.bl.example", "A", dnsservers.Reply(rcode="SERVFAIL"))

    def _garble(self) -> None:
        self.tell_truth()
        garbage = self._chance.randbytes(40)
        self._server.says("*.7.127.bl.example", "A", dnsservers.Reply(garbage=garbage))
