"""Looks at the daemons from outside: how many programs there are, for whom, and what their processes hold."""

import collections
import contextlib
import json
import os
import pathlib
import signal
import threading
import time
from typing import NamedTuple

from endurance import world
from support.running import daemons

PROC = pathlib.Path("/proc")
ALL = ""  # hosts
_TICKS = os.sysconf("SC_CLK_TCK")


class Program(NamedTuple):
    """A program of a service on a host, who its client is, and when it was started (CLOCK_BOOTTIME)."""

    host: str
    service: str
    peer: str
    started: float


def state(pid: int) -> str:
    """The state of a process as proc(5) writes it, empty when there is none."""
    try:
        return (PROC / f"{pid}/stat").read_text().rpartition(") ")[2][:1]
    except OSError:
        return ""


def programs(supervisors: "collections.abc.Mapping[str, int]") -> dict[int, Program]:
    """Programs of all hosts that all ran at one moment: they were there before it and are there after it."""
    seen = {}
    for host, supervisor in supervisors.items():
        workers = daemons.children(supervisor)
        for pid in [each for parent in (supervisor, *workers) for each in daemons.children(parent)]:
            with contextlib.suppress(OSError):
                found = daemons.environment((PROC / f"{pid}/environ").read_bytes())
                if "MARK" in found and "TCPREMOTEIP" in found:
                    service = found["MARK"].partition("-")[0]
                    seen[pid] = Program(host, service, found["TCPREMOTEIP"], _started(pid))
    return {pid: program for pid, program in seen.items() if state(pid) not in {"", "Z"}}


def _started(pid: int) -> float:
    return int((PROC / f"{pid}/stat").read_text().rpartition(") ")[2].split()[19]) / _TICKS


def boottime() -> float:
    """The clock by which the kernel says when a process was started, in seconds."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


class Watch(threading.Thread):
    """Looks for too many programs all the time.

    A host never runs more than its own limits allow. All hosts together run no more than the limit of one
    while the engine is in order: since `in_order()`, on the clock of `boottime`. The group that counts on
    each host alone is left out of that. `slack` is how many more a service, or what counts together, may have
    because of kills: on a host, or on `ALL`.
    """

    def __init__(
        self,
        supervisors: "collections.abc.Mapping[str, int]",
        slack: "collections.abc.Callable[[str, str], int]",
        in_order: "collections.abc.Callable[[], float]",
    ) -> None:
        super().__init__(daemon=True)
        self.broken: list[str] = []
        self.most: collections.Counter[str] = collections.Counter()  # programs of a service on one host
        self.most_of_one: collections.Counter[str] = collections.Counter()  # of one client on all hosts
        self.samples = 0
        self.ordered = 0  # samples while the engine was in order
        self.full = 0  # in these: clients that had all of their connections, on more hosts than one
        self.over: dict[int, str] = {}  # programs that the limits over all hosts did not allow, by pid
        self._supervisors = supervisors
        self._slack = slack
        self._in_order = in_order
        self._over = threading.Event()

    def run(self) -> None:
        """Until told to stop."""
        while not self._over.wait(0.05):
            self.samples += 1
            since = self._in_order()
            found = programs(self._supervisors)
            self._see_hosts(found.values())
            if since == self._in_order() and since < boottime():
                self.ordered += 1
                self._see_all(found, since)

    def finish(self) -> None:
        """Stop sampling."""
        self._over.set()
        self.join(daemons.SECONDS)

    def _see_hosts(self, found: "collections.abc.Collection[Program]") -> None:
        services = collections.Counter((each.host, each.service) for each in found)
        for (host, name), count in services.items():
            self.most[name] = max(self.most[name], count)
            if count > world.SLOTS[name] + self._slack(host, name):
                self.broken.append(f"{host} {name}: {count} programs")
        clients = collections.Counter((each.host, world.counts_as(each.service), each.peer) for each in found)
        for (host, name, peer), count in clients.items():
            if count > world.PER_IP[name] + self._slack(host, name):
                self.broken.append(f"{host} {name}: {count} programs for {peer}")

    def _see_all(self, found: dict[int, Program], since: float) -> None:
        clients = collections.defaultdict(list)
        for pid, each in found.items():
            name = world.counts_as(each.service)
            if name != world.BROKERED:
                clients[name, each.peer].append((each.started, pid, each.host))
        for (name, peer), some in clients.items():
            self.most_of_one[name] = max(self.most_of_one[name], len(some))
            self.full += len(some) >= world.PER_IP[name] and len({host for *_, host in some}) > 1
            extra = len(some) - world.PER_IP[name] - self._slack(ALL, name)
            for started, pid, host in sorted(some)[-extra:] if extra > 0 else ():
                if started > since:  # others were served before all hosts knew of each other
                    self.over[pid] = f"{host} {name}: one of {len(some)} programs for {peer}"


class Holdings(NamedTuple):
    """Holds the resources of a process: descriptors, kB of anonymous memory (RssAnon), its own records."""

    fds: int
    memory: int
    kept: dict[str, int]


def holdings(pid: int, told: pathlib.Path) -> Holdings:
    """Return the resources of a process of a daemon that runs under watched.py."""
    (told / str(pid)).unlink(missing_ok=True)
    os.kill(pid, signal.SIGUSR2)
    daemons.until((told / str(pid)).exists, f"what {pid} keeps")
    lines = (PROC / f"{pid}/status").read_text().splitlines()
    memory = next(int(line.split()[1]) for line in lines if line.startswith("RssAnon:"))
    kept = json.loads((told / str(pid)).read_text())
    return Holdings(len(os.listdir(PROC / f"{pid}/fd")), memory, kept)


def zombies(supervisor: int) -> list[int]:
    """Ended processes that nobody has waited for, among the daemon's children and theirs."""
    workers = daemons.children(supervisor)
    return [pid for parent in (supervisor, *workers) for pid in daemons.children(parent) if state(pid) == "Z"]


def settle(true: "collections.abc.Callable[[], bool]", seconds: float) -> float:
    """Seconds until it is true; `seconds` when it never is."""
    began = time.monotonic()
    while not true() and time.monotonic() - began < seconds:
        time.sleep(0.02)
    return time.monotonic() - began
