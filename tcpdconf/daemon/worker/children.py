"""Keeps account of a worker's running programs: those that it has started, and those that it has adopted.

The pid alone identifies a program that this worker has started: it stays reserved until the worker has waited
for it. Other processes report the exits of adopted programs, late and in any order. Meanwhile the kernel may
have given the pid to another program of the same service. Therefore pid and time, of the start or of the
record, identify an adopted program, so that a late report affects no other program.

A program whose time is over (`max_duration`) gets SIGTERM, and later SIGKILL. There is one timer, for the
program whose time is over first. When it has run out, all programs are looked at, at most once a second.
"""

import contextlib
import functools
import os
import signal
from collections.abc import Callable, Iterator, Sequence
from typing import Final, NamedTuple

from tcpdconf.daemon.process import log, loop, procfs, signals, throttle
from tcpdconf.daemon.worker.ledger import NEVER, Books, Held, boot_time
from tcpdconf.policy.connection import Endpoint

_REPORTED: Final = 1.0  # seconds in which the supervisor has reported a program that it has waited for
_PAUSE: Final = 1.0  # seconds between two looks for programs whose time is over, at least
_LONGEST: Final = 3600.0  # and at most: timers stand still while the host is suspended, and have a limit


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

    Attributes:
        patience: the seconds that a program has between SIGTERM and SIGKILL when its time is over.

    Args:
        ended: called with the client of each program that has ended, whose slot is free then, and its wait
            status. That is None if the client did not cause the end: the daemon has sent a signal. It is also
            None if another worker has waited for the program.
        reaped: called with the pid of each process that has been waited for, before its exit is handled.
    """

    def __init__(
        self,
        name: str,
        events: loop.Loop,
        books: Books,
        *,
        ended: Callable[[Endpoint, int | None], None],
        reaped: Callable[[int], None],
    ) -> None:
        self.books = books
        self.patience = 0.0
        self._name = name
        self._loop = events
        self._ended = ended
        self._reaped = reaped
        self._running: dict[int, Held] = {}
        self._adopted: dict[int, list[AdoptedProgram]] = {}
        self._expired: dict[tuple[int, float], float] = {}  # by pid and record's time: when SIGKILL is due
        self._seldom = throttle.Seldom()
        self._timer = -1  # none
        self._look_at = NEVER  # when the timer runs out, in seconds since boot
        self._terminating = False

    def started(self, pid: int, peer: Endpoint, lasts: float | None = None) -> None:
        """Record a program that this worker has just started; it may run for `lasts` seconds, or for ever."""
        held = self._running[pid] = self.books.hold(pid, peer, lasts)
        if lasts is not None:
            self._look(held.until)

    def never_ran(self, pid: int) -> None:
        """Forget a program that could not be executed; its exit is not logged, and its slot stays taken."""
        held = self._running.pop(pid)
        self.books.release(held)
        self._expired.pop((pid, held.started), None)

    @property
    def running(self) -> list[Held]:
        """Return the running programs that this worker has started itself."""
        return list(self._running.values())

    def clients(self) -> Iterator[Endpoint]:
        """Yield the client of each program, started or adopted."""
        yield from (held.peer for held in self._running.values())
        yield from (each.held.peer for each in self._all_adopted())

    def reap(self) -> None:
        """Wait for every child that has ended, and free the slot of each program among them."""
        with contextlib.suppress(ChildProcessError):
            while (ended := os.waitpid(-1, os.WNOHANG))[0]:
                pid, status = ended
                self._reaped(pid)
                if pid in self._running:
                    self._over(self._running.pop(pid), status)

    def terminate(self) -> None:
        """Send SIGTERM to this worker's process group, and to the adopted programs that are proven."""
        self._terminating = True
        for each in self._all_adopted():
            if each.proven:
                procfs.send(each.held.pid, each.start, signal.SIGTERM)
        os.killpg(0, signal.SIGTERM)

    def adopt(self, program: AdoptedProgram) -> None:
        """Keep a program of an earlier worker from now on."""
        self._adopted.setdefault(program.held.pid, []).append(program)
        self._look(program.held.until)

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
        """Release adopted programs that have ended unreported, because their worker has ended as well.

        The supervisor may have waited for one just now, and be about to report it. So they are released a
        moment later.
        """
        missing = [each.held for each in self._all_adopted() if not _exists(each)]
        if missing:
            self._loop.after(_REPORTED, functools.partial(self._release, missing))

    def _release(self, ended: Sequence[Held]) -> None:
        """Release the programs among these that nobody has reported."""
        for held in ended:
            self.adopted_released(held.pid, held.started)

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
        expired = bool(self._expired) and self._expired.pop((held.pid, held.started), None) is not None
        self._ended(held.peer, None if expired or self._terminating else status)
        if status is None:
            return
        lasted = boot_time() - held.started
        self.books.observe("connection", lasted)
        if log.enabled("info"):
            seconds = round(lasted, 1)
            ends = {"peer": held.peer, "pid": held.pid}
            why = {"ended": "max-duration"} if expired else {}
            log.info("end", service=self._name, **ends, **signals.ending(status), seconds=seconds, **why)

    def _look(self, at: float) -> None:
        """Look for programs whose time is over at this moment, or earlier if that is planned."""
        if at < self._look_at:
            seconds = min(at - boot_time(), _LONGEST)
            self._loop.cancel(self._timer)
            self._look_at = boot_time() + seconds
            self._timer = self._loop.after(seconds, self._expire)

    def _expire(self) -> None:
        """End the programs whose time is over, and plan the next look."""
        now, later = boot_time(), NEVER
        for held in self._running.values():
            later = min(later, held.until if held.until > now else self._end(held, None, now))
        for each in self._all_adopted():
            until = each.held.until
            later = min(later, until if until > now else self._end(each.held, each, now))
        self._look_at = NEVER
        self._look(max(later, now + _PAUSE))

    def _end(self, held: Held, adopted: AdoptedProgram | None, now: float) -> float:
        """Send a program whose time is over the signal that is due; return when to look at it again."""
        key = held.pid, held.started
        kill_at = self._expired.get(key)
        if kill_at is not None and now < kill_at:
            return kill_at
        if adopted is not None and _has_worker(adopted):
            return now  # which ends it
        if not _signal(held, adopted, signal.SIGTERM if kill_at is None else signal.SIGKILL):
            if self._seldom.due("end", loop.now()):
                log.warning("cannot end a program", service=self._name, peer=held.peer, pid=held.pid)
            return NEVER
        if kill_at is None:
            self.books.count("expired")
        self._expired[key] = now + self.patience if kill_at is None else NEVER
        return self._expired[key]


def _has_worker(program: AdoptedProgram) -> bool:
    """Return whether the worker that has started a program is still there, or the program is not."""
    found = procfs.look(program.held.pid)
    return found is None or found.parent != os.getppid()


def _signal(held: Held, adopted: AdoptedProgram | None, number: signal.Signals) -> bool:
    """Signal a program; return False if this worker may not, because it has changed its user or group."""
    if adopted is not None:
        if adopted.proven:
            procfs.send(held.pid, adopted.start, number)
        return adopted.proven
    try:
        os.kill(held.pid, number)
    except PermissionError:
        return False
    return True


def _exists(program: AdoptedProgram) -> bool:
    found = procfs.look(program.held.pid)
    return found is not None and found.start == program.start
