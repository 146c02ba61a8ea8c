"""Looks at the daemon from outside: how many programs there are, for whom, and what its processes hold."""

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


class Program(NamedTuple):
    """A program of a service, and who its client is."""

    service: str
    peer: str


def state(pid: int) -> str:
    """The state of a process as proc(5) writes it, empty when there is none."""
    try:
        return (PROC / f"{pid}/stat").read_text().rpartition(") ")[2][:1]
    except OSError:
        return ""


def programs(supervisor: int) -> dict[int, Program]:
    """Return programs that all ran at one moment: each was seen before it and after it."""
    workers = daemons.children(supervisor)
    seen = {}
    for pid in [each for parent in (supervisor, *workers) for each in daemons.children(parent)]:
        with contextlib.suppress(OSError):
            found = daemons.environment((PROC / f"{pid}/environ").read_bytes())
            if "MARK" in found and "TCPREMOTEIP" in found:
                seen[pid] = Program(found["MARK"].partition("-")[0], found["TCPREMOTEIP"])
    return {pid: program for pid, program in seen.items() if state(pid) not in {"", "Z"}}


class Watch(threading.Thread):
    """Looks for too many programs all the time; `slack` is how many more a service may have."""

    def __init__(self, supervisor: int, slack: "collections.Counter[str]") -> None:
        super().__init__(daemon=True)
        self.broken: list[str] = []
        self.most: collections.Counter[str] = collections.Counter()
        self.samples = 0
        self._supervisor = supervisor
        self._slack = slack
        self._over = threading.Event()

    def run(self) -> None:
        """Until told to stop."""
        while not self._over.wait(0.05):
            self.samples += 1
            self._sample(programs(self._supervisor).values())

    def finish(self) -> None:
        """Stop sampling."""
        self._over.set()
        self.join(daemons.SECONDS)

    def _sample(self, found: "collections.abc.Collection[Program]") -> None:
        services = collections.Counter(program.service for program in found)
        for name, count in services.items():
            self.most[name] = max(self.most[name], count)
            if count > world.SLOTS[name] + self._slack[name]:
                self.broken.append(f"{name}: {count} programs")
        for program, count in collections.Counter(found).items():
            if count > world.PER_IP[program.service] + self._slack[program.service]:
                self.broken.append(f"{program.service}: {count} programs for {program.peer}")


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
