"""The programs of a worker's connections: those that it has started, and those that it has adopted.

A program that this worker has started is known by its pid, which is its own until the worker has waited for
it. News of the ends of others comes from other processes, late and in any order: meanwhile the number may
belong to another program of the same service. So of adopted programs a number alone says nothing, and what
another process says touches no other program.
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
    """A program of an earlier worker: `start` in clock ticks since boot, as in /proc.

    `proven`: a worker of this service has started it.
    """

    held: Held
    start: int
    proven: bool


class Children:
    """The running programs of one worker.

    `ended` is called with the client of each whose end has become known: its slot is free. Programs are
    recorded in `books`.
    """

    def __init__(self, name: str, books: Books, ended: Callable[[Endpoint], None]) -> None:
        self.books = books
        self._name = name
        self._ended = ended
        self._running: dict[int, Held] = {}
        self._adopted: dict[int, list[AdoptedProgram]] = {}

    def started(self, pid: int, peer: Endpoint) -> None:
        """Record a program that this worker has started just now."""
        self._running[pid] = self.books.hold(pid, peer)

    @property
    def running(self) -> list[Held]:
        """The running programs that this worker has started itself."""
        return list(self._running.values())

    def reap(self) -> None:
        """Wait for every program of its own that has ended."""
        with contextlib.suppress(ChildProcessError):
            while (ended := os.waitpid(-1, os.WNOHANG))[0]:
                pid, status = ended
                if pid in self._running:
                    self._over(self._running.pop(pid), status)

    def terminate(self) -> None:
        """Send SIGTERM to the programs.

        Those are the processes of this worker's group, and adopted programs that are proven to be this
        service's.
        """
        for each in self._all_adopted():
            if each.proven:
                procfs.send(each.held.pid, each.start, signal.SIGTERM)
        os.killpg(0, signal.SIGTERM)

    def adopt(self, program: AdoptedProgram) -> None:
        """Count a program of an earlier worker from now on."""
        self._adopted.setdefault(program.held.pid, []).append(program)

    def has_adopted(self, pid: int, start: int) -> bool:
        """Return whether it is counted already."""
        return any(each.start == start for each in self._adopted.get(pid, ()))

    def adopted_ended(self, pid: int, start: int, status: int) -> None:
        """Take note that the supervisor has waited for a process, which may be an adopted program."""
        self._take(pid, lambda each: each.start == start, status)

    def adopted_released(self, pid: int, started: float) -> None:
        """Take note that the worker that recorded one at this time has waited for it, and logged its end."""
        self._take(pid, lambda each: each.held.started == started)

    def recount(self) -> None:
        """Let go of adopted programs that have ended without a word: their worker has ended as well."""
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
        """Free the place of a program; log its end with the status, if nobody has logged it yet."""
        self.books.release(held)
        self._ended(held.peer)
        if status is not None and log.enabled("info"):
            seconds = f"{boot_time() - held.started:.1f}"
            ends = {"peer": held.peer, "pid": held.pid}
            log.info("end", service=self._name, **ends, **signals.ending(status), seconds=seconds)


def _exists(program: AdoptedProgram) -> bool:
    found = procfs.look(program.held.pid)
    return found is not None and found.start == program.start
