"""Keeps account of a worker's running programs: those that it has started, and those that it has adopted.

The pid alone identifies a program that this worker has started: it stays reserved until the worker has waited
for it. Other processes report the exits of adopted programs, late and in any order. Meanwhile the kernel may
have given the pid to another program of the same service. Therefore pid and time, of the start or of the
record, identify an adopted program, so that a late report affects no other program.
"""

import contextlib
import os
import signal
from collections.abc import Callable, Iterator
from typing import NamedTuple

from tcpdconf.daemon.process import log, procfs, signals
from tcpdconf.daemon.worker.ledger import Books, Held, boot_time
from tcpdconf.policy.connection import Endpoint


class AdoptedProgram(NamedTuple):
    """Identifies a program of an earlier worker.

    `start` is in clock ticks since boot, as in /proc. `proven` is True if /proc shows that a worker of this
    service has started it.
    """

    held: Held
    start: int
    proven: bool


class Children:
    """Keeps the running programs of one worker, and records them in `books`.

    `ended` is called with the client of each program that has ended, whose slot is free then.
    """

    def __init__(self, name: str, books: Books, ended: Callable[[Endpoint], None]) -> None:
        self.books = books
        self._name = name
        self._ended = ended
        self._running: dict[int, Held] = {}
        self._adopted: dict[int, list[AdoptedProgram]] = {}

    def started(self, pid: int, peer: Endpoint) -> None:
        """Record a program that this worker has just started."""
        self._running[pid] = self.books.hold(pid, peer)

    @property
    def running(self) -> list[Held]:
        """Return the running programs that this worker has started itself."""
        return list(self._running.values())

    def reap(self) -> None:
        """Wait for every child that has ended, and free the slot of each program among them."""
        with contextlib.suppress(ChildProcessError):
            while (ended := os.waitpid(-1, os.WNOHANG))[0]:
                pid, status = ended
                if pid in self._running:
                    self._over(self._running.pop(pid), status)

    def terminate(self) -> None:
        """Send SIGTERM to this worker's process group, and to the adopted programs that are proven."""
        for each in self._all_adopted():
            if each.proven:
                procfs.send(each.held.pid, each.start, signal.SIGTERM)
        os.killpg(0, signal.SIGTERM)

    def adopt(self, program: AdoptedProgram) -> None:
        """Keep a program of an earlier worker from now on."""
        self._adopted.setdefault(program.held.pid, []).append(program)

    def has_adopted(self, pid: int, start: int) -> bool:
        """Return whether this program has been adopted already."""
        return any(each.start == start for each in self._adopted.get(pid, ()))

    def adopted_ended(self, pid: int, start: int, status: int) -> None:
        """Handle the exit of a process that the supervisor has waited for, if it is an adopted program."""
        self._take(pid, lambda each: each.start == start, status)

    def adopted_released(self, pid: int, started: float) -> None:
        """Handle the exit of an adopted program that the worker which recorded it has waited for and logged.

        `started` is the time at which that worker recorded it.
        """
        self._take(pid, lambda each: each.held.started == started)

    def recount(self) -> None:
        """Release adopted programs that have ended unreported, because their worker has ended as well."""
        for each in [one for one in self._all_adopted() if not _exists(one)]:
            self.adopted_released(each.held.pid, each.held.started)

    def give_up_adopted(self) -> list[Endpoint]:
        """Forget all adopted programs, and return their clients."""
        clients = [each.held.peer for each in self._all_adopted()]
        self._adopted.clear()
        return clients

    def _all_adopted(self) -> Iterator[AdoptedProgram]:
        for programs in self._adopted.values():
            yield from programs

    def _take(self, pid: int, is_meant: Callable[[AdoptedProgram], bool], status: int | None = None) -> None:
        for each in filter(is_meant, self._adopted.get(pid, ())):
            self._adopted[pid].remove(each)
            if not self._adopted[pid]:
                del self._adopted[pid]
            self._over(each.held, status)
            return

    def _over(self, held: Held, status: int | None) -> None:
        """Free the slot of a program; log its exit unless the status is None, when another worker logs it."""
        self.books.release(held)
        self._ended(held.peer)
        if status is not None and log.enabled("info"):
            seconds = f"{boot_time() - held.started:.1f}"
            ends = {"peer": held.peer, "pid": held.pid}
            log.info("end", service=self._name, **ends, **signals.ending(status), seconds=seconds)


def _exists(program: AdoptedProgram) -> bool:
    found = procfs.look(program.held.pid)
    return found is not None and found.start == program.start
