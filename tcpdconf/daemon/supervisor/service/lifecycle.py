"""Defines the transition table of the workers in one place: next state and actions for each event. Pure.

    the worker   accepts once it has prepared and no elder may still accept; it is restarted when it ends
    coming       a new process that prepares the next setup, and replaces the worker at the commit
    elders       replaced workers, and coming ones that were dropped, until they have ended

`step` returns the next state and the actions, which `place` carries out.
"""

from dataclasses import dataclass, replace
from typing import Final, Literal, NamedTuple

from tcpdconf.daemon.messages import worker as messages
from tcpdconf.daemon.messages.assignment import Failure

Said = Literal["prepared", "failed", "serves", "serves again", "stopped", "broken"]

UNREADY: Final = Failure((), "the worker ended before it was ready; see the log")


class Worker(NamedTuple):
    """Names a worker together with its latest assignment; assignments of a worker are numbered from 1."""

    pid: int
    number: int


@dataclass(frozen=True, slots=True)
class Workers:
    """Describes the workers of a service that have not ended.

    Attributes:
        serves: True once the worker has served.
        prepares: True while the worker itself prepares the next setup, or has prepared it.
        coming: a new worker that prepares the next setup in its stead.
        retiring: the elders that may still accept; the worker waits for them.
    """

    worker: Worker | None = None
    serves: bool = False
    prepares: bool = False
    coming: Worker | None = None
    elders: tuple[int, ...] = ()
    retiring: frozenset[int] = frozenset()

    @property
    def pids(self) -> list[int]:
        """Return the pids of the worker, of the one that is coming, and of the elders."""
        return [*(each.pid for each in (self.worker, self.coming) if each is not None), *self.elders]


@dataclass(frozen=True, slots=True)
class Started:
    """Reports that the place was empty and a worker was forked, for the current setup or for a trial."""

    worker: Worker


@dataclass(frozen=True, slots=True)
class Asked:
    """Reports that the worker, or a new one, was asked to prepare the next setup."""

    worker: Worker


@dataclass(frozen=True, slots=True)
class Prepared:
    """Reports that a worker has prepared."""

    worker: Worker


@dataclass(frozen=True, slots=True)
class Failed:
    """Reports that a worker cannot prepare, and why."""

    worker: Worker
    failures: tuple[Failure, ...]


@dataclass(frozen=True, slots=True)
class Committed:
    """Reports that a worker serves with the prepared setup."""

    worker: Worker


@dataclass(frozen=True, slots=True)
class Retired:
    """Reports that a worker leaves new connections to its successor."""

    pid: int


@dataclass(frozen=True, slots=True)
class Stopped:
    """Reports that a worker no longer accepts because it was stopped."""

    pid: int


@dataclass(frozen=True, slots=True)
class Ended:
    """Reports that a worker has ended; `status` is that of waitpid(2)."""

    pid: int
    status: int


@dataclass(frozen=True, slots=True)
class Commit:
    """Puts the prepared setup into effect."""


@dataclass(frozen=True, slots=True)
class Discard:
    """Drops the next setup."""


@dataclass(frozen=True, slots=True)
class Stop:
    """Stops the service; programs may run for `drain` seconds, and then have `seconds` to end."""

    drain: float
    seconds: float


Event = Started | Asked | Prepared | Failed | Committed | Retired | Stopped | Ended | Commit | Discard | Stop


@dataclass(frozen=True, slots=True)
class Tell:
    """Send a worker a message."""

    pid: int
    message: messages.Discard | messages.Retell | messages.Stop


@dataclass(frozen=True, slots=True)
class Serve:
    """Tell a worker to serve with the prepared setup; it also counts the programs of the elders."""

    pid: int
    elders: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Retire:
    """Tell a worker to leave new connections to its successor."""

    pid: int


@dataclass(frozen=True, slots=True)
class Kill:
    """Kill a worker."""

    pid: int


@dataclass(frozen=True, slots=True)
class Keep:
    """Restart this worker, instead of its predecessor, when it ends."""

    pid: int


@dataclass(frozen=True, slots=True)
class Restart:
    """Start a worker in place of one that has ended with this status."""

    status: int


@dataclass(frozen=True, slots=True)
class LeaveBehind:
    """Remember the process group of a worker that has ended: its programs may still run."""

    pid: int


@dataclass(frozen=True, slots=True)
class Recount:
    """Have the worker look for the programs of an elder that has ended."""


@dataclass(frozen=True, slots=True)
class Report:
    """Report an event of the service to its observer, with the reasons for a failure."""

    said: Said
    failures: tuple[Failure, ...] = ()


Action = Tell | Serve | Retire | Kill | Keep | Restart | LeaveBehind | Recount | Report


def step(now: Workers, event: Event) -> tuple[Workers, list[Action]]:  # noqa: C901, PLR0911, PLR0912 (a table)
    """Return the state after an event, and the actions to carry out.

    A worker's answer counts only if it is for its latest assignment. An event that does not fit the state
    changes nothing.
    """
    match event:
        case Started(worker):
            return replace(now, worker=worker), []
        case Asked(worker) if worker.pid == _pid(now.worker):
            after, actions = _discarded(replace(now, prepares=False))  # it replaces its own assignment
            return replace(after, worker=worker, prepares=True), actions
        case Asked(worker):
            after, actions = _discarded(now)
            return replace(after, coming=worker), actions
        case Prepared(worker) if _prepares(now, worker):
            return now, [Report("prepared")]
        case Prepared(worker) if worker == now.worker and not now.serves:
            return now, _serve(now)  # a restarted worker need not wait for a reload
        case Failed(worker, failures) if _prepares(now, worker):
            return now, [Report("failed", failures)]
        case Failed(worker, failures) if worker == now.worker:
            return now, [Report("broken", failures)]
        case Committed(worker) if worker == now.worker:
            return replace(now, serves=True), [Report("serves again" if now.serves else "serves")]
        case Commit() if now.coming is not None:
            return _succeeded(now, now.coming)
        case Commit() if now.prepares:
            after = replace(now, prepares=False)
            return after, _serve(after)
        case Discard():
            return _discarded(now)
        case Stop(drain, seconds):
            dropped = _pid(now.coming)
            stop = messages.Stop(drain, seconds)
            return now, [Kill(pid) if pid == dropped else Tell(pid, stop) for pid in now.pids]
        case Retired(pid) if pid in now.retiring:
            after = replace(now, retiring=now.retiring - {pid})
            return after, _serve(after, retired=pid)
        case Stopped(pid) if pid not in now.elders:
            return now, [Report("stopped")]
        case Ended(pid) if pid in now.elders:
            elders = tuple(each for each in now.elders if each != pid)
            after = replace(now, elders=elders, retiring=now.retiring - {pid})
            begin = _serve(after) if pid in now.retiring else []
            return after, [LeaveBehind(pid), Recount(), *begin]
        case Ended(pid) if pid == _pid(now.coming):
            return replace(now, coming=None), [Report("failed", (UNREADY,))]
        case Ended(pid, status) if pid == _pid(now.worker):
            failed = [Report("failed", (UNREADY,))] if now.prepares else []
            after = replace(now, worker=None, serves=False, prepares=False)
            return after, [LeaveBehind(pid), Restart(status), Report("stopped"), *failed]
        case _:
            return now, []


def _pid(worker: Worker | None) -> int | None:
    return None if worker is None else worker.pid


def _prepares(now: Workers, worker: Worker) -> bool:
    """Return whether a worker prepares the next setup, rather than the current one."""
    return worker == now.coming or (worker == now.worker and now.prepares)


def _succeeded(now: Workers, successor: Worker) -> tuple[Workers, list[Action]]:
    """Replace the worker; its successor serves once the worker no longer accepts."""
    elder = _pid(now.worker)
    after = replace(now, worker=successor, serves=False, coming=None)
    keep = Keep(successor.pid)
    if elder is None:
        return after, [keep, *_serve(after)]
    after = replace(after, elders=(*now.elders, elder), retiring=now.retiring | {elder})
    return after, [keep, Retire(elder)]


def _discarded(now: Workers) -> tuple[Workers, list[Action]]:
    """Drop the next setup; a coming worker becomes an elder until it has ended."""
    if now.coming is not None:
        dropped = now.coming.pid
        return replace(now, coming=None, elders=(*now.elders, dropped)), [Kill(dropped)]
    if now.worker is not None and now.prepares:
        pid = now.worker.pid
        # A worker that has not served was being restarted, and has no other setup.
        end: Action = Tell(pid, messages.Discard()) if now.serves else Kill(pid)
        return replace(now, prepares=False), [end]
    return now, []


def _serve(now: Workers, retired: int | None = None) -> list[Action]:
    """Let the worker serve, unless an elder may still accept or the worker has prepared the next setup.

    A new worker finds the programs of `retired` in the ledger. It may have missed programs that older workers
    have started since they were replaced, so these report their programs again.
    """
    if now.worker is None or now.retiring or now.prepares:
        return []
    missed = () if now.serves else now.elders
    retold = [Tell(pid, messages.Retell()) for pid in missed if pid != retired]
    return [Serve(now.worker.pid, now.elders), *retold]
