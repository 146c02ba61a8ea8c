"""The running programs that a worker has not started itself, each known by its pid and its start.

News of their ends comes from other processes, late and in any order: meanwhile the number may belong to
another program of the same service. So a number alone never says which one is meant.
"""

import signal
from collections.abc import Callable, Iterator
from typing import NamedTuple

from tcpdconf.daemon.process import procfs
from tcpdconf.daemon.worker import ledger


class AdoptedProgram(NamedTuple):
    """One of them: `start` in clock ticks since boot; `proven`: a worker of this service has started it."""

    held: ledger.Held
    start: int
    proven: bool


class Adopted:
    """The programs of earlier workers that one worker counts.

    `over` is called when one has ended, with its status if nobody has logged its end yet.
    """

    def __init__(self, over: Callable[[ledger.Held, int | None], None]) -> None:
        self._over = over
        self._programs: dict[int, list[AdoptedProgram]] = {}

    def __iter__(self) -> Iterator[AdoptedProgram]:
        for each in self._programs.values():
            yield from each

    def has(self, pid: int, start: int) -> bool:
        """Whether it is one of them."""
        return any(each.start == start for each in self._programs.get(pid, ()))

    def add(self, program: AdoptedProgram) -> None:
        """Count one from now on."""
        self._programs.setdefault(program.held.pid, []).append(program)

    def ended(self, pid: int, start: int, status: int) -> None:
        """Take note that the supervisor has waited for a process, which may be one of them."""
        self._take(pid, lambda each: each.start == start, status)

    def released(self, pid: int, started: float) -> None:
        """Take note that the worker that recorded one at this time has waited for it, and logged its end."""
        self._take(pid, lambda each: each.held.started == started)

    def recount(self) -> None:
        """Let go of those that have ended without a word: their worker has ended as well."""
        for each in [one for one in self if not _exists(one)]:
            self.released(each.held.pid, each.held.started)

    def clear(self) -> None:
        """Forget all."""
        self._programs.clear()

    def terminate(self) -> None:
        """Send SIGTERM to those of which it is proven that they are this service's."""
        for each in self:
            if each.proven:
                procfs.send(each.held.pid, each.start, signal.SIGTERM)

    def _take(self, pid: int, is_meant: Callable[[AdoptedProgram], bool], status: int | None = None) -> None:
        for each in filter(is_meant, self._programs.get(pid, ())):
            self._programs[pid].remove(each)
            if not self._programs[pid]:
                del self._programs[pid]
            self._over(each.held, status)
            return


def _exists(program: AdoptedProgram) -> bool:
    found = procfs.look(program.held.pid)
    return found is not None and found.start == program.start
