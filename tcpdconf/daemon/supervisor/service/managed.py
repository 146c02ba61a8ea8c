"""Manages one service for the supervisor: its setup, its logger, and its places with a worker each.

A setup changes in two steps: `prepare` does everything that can fail. Then `commit` puts the setup into
effect, or `discard` drops it. A reload sees the service as a unit: it has prepared when all of its workers
have, and it serves when all of them do.
"""

import itertools
import os
import socket
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

from tcpdconf.config.model.service import Config
from tcpdconf.daemon.descriptors import WorkerDescriptors
from tcpdconf.daemon.guard import passes
from tcpdconf.daemon.messages import worker as messages
from tcpdconf.daemon.messages.assignment import Failure, Group
from tcpdconf.daemon.process import descriptors, log, privileges, procfs
from tcpdconf.daemon.shared.memory import NoPlaceError
from tcpdconf.daemon.supervisor import logger, worker_process
from tcpdconf.daemon.supervisor.service import agent, reports, setups
from tcpdconf.daemon.supervisor.service.place import Place
from tcpdconf.daemon.supervisor.service.setups import CannotPrepareError, Setup, Sockets, Surroundings
from tcpdconf.daemon.supervisor.service.shares import ServiceShares, SharedCounts
from tcpdconf.daemon.supervisor.worker_process import Observer
from tcpdconf.daemon.worker import ledger

if TYPE_CHECKING:
    from tcpdconf.config.file_signature import Signature

_ALONE: Final = Group()


class ManagedService(Observer[Place]):
    """Manages one service. Sockets, ledgers, passes and the logger's pipe outlive every worker.

    Attributes:
        wanted: False once the service was told to stop.
    """

    def __init__(self, name: str, around: Surroundings, observer: Observer["ManagedService"]) -> None:
        self.name = name
        self.passes = passes.Memory(name, around.environment)
        self.setup: Setup | None = None
        self.wanted = True
        self._around = around
        self._observer = observer
        self._shares = ServiceShares(name, around.counts or SharedCounts())
        self._places = [self._place(1)]
        self._past: list[ledger.Snapshot] = []  # counts of closed places
        self._next: Setup | None = None
        self._planned: list[Place] = []  # places of the next setup; new ones are not in `_places` yet
        self._asked: list[Place] = []  # places whose workers prepare the next setup
        self._awaited: set[Place] = set()  # places without an answer: prepared, later serves
        self._begin_after: set[Place] = set()  # places that must serve before those of `_beginning`
        self._beginning: list[Place] = []  # new places
        self._failed = False  # a failure of this preparation was reported
        self._first = False  # one of the workers serves for the first time
        self._announces = False
        self._stopped: set[Place] = set()  # places whose worker no longer accepts
        self._reporting: set[Place] = set()  # places that have not reported yet

    @property
    def places(self) -> Sequence[Place]:
        """Return all places."""
        return (*self._places, *(each for each in self._planned if each not in self._places))

    @property
    def workers(self) -> list[worker_process.WorkerProcess]:
        """Return all workers, place by place; in each place the accepting one first, replaced ones last."""
        return [worker for each in self.places for worker in each.workers]

    @property
    def pids(self) -> list[int]:
        """Return the pids of the workers that have not ended, in the order of `workers`."""
        return [pid for each in self.places for pid in each.pids]

    @property
    def accepting(self) -> list[int]:
        """Return one pid for each place: that of the worker that accepts, or will when it is ready."""
        return [each.pids[0] for each in self._places if each.accepts and not each.leaving]

    @property
    def accepts(self) -> bool:
        """True while there is a worker, which may accept until it has reported `Stopped`."""
        return any(each.accepts for each in self._places)

    @property
    def is_serving(self) -> bool:
        """True while a worker accepts and the service is not to stop."""
        return self.wanted and any(each.serves for each in self._places if not each.leaving)

    @property
    def listening(self) -> list[socket.socket]:
        """Return the listening sockets of the service."""
        return [] if self.setup is None else [each for _, each in self.setup.sockets]

    @property
    def draining(self) -> bool:
        """True once the service is to stop, though it may still accept."""
        return self._announces or not self.wanted

    @property
    def stays_up(self) -> bool:
        """True unless a worker has ended, or failed to start, twice within the last minutes."""
        return all(each.process.stays_up for each in self._places)

    @property
    def restarts(self) -> int:
        """The number of ends and failed starts of workers."""
        return sum(each.process.failures for each in self._places)

    @property
    def opened(self) -> "dict[str, Signature]":
        """Return the files that were opened for the latest workers or preparation, with their signatures."""
        return descriptors.readings(item for each in self.places for item in each.opened.items())

    @property
    def report(self) -> messages.Reported:
        """Return the latest reports of all workers as one."""
        return reports.merged([each.report for each in self._places if each.report is not None])

    def announce(self) -> float:
        """Have the agent announce the end of the service; return the seconds to wait before `stop`."""
        settings = None if self.setup is None else self.setup.config.services[self.name].agent
        if settings is None or not settings.announce:
            return 0
        self._announces = True
        return settings.announce

    def agent_line(self) -> bytes:
        """Return the agent's answer to a client; one serving worker is enough for `up`."""
        assert self.setup is not None  # noqa: S101 (only a service that has served is asked)
        processes = [each.process for each in self._places if not each.leaving]
        now = agent.State(
            draining=self.draining,
            serves=self.is_serving,
            stays_up=any(each.stays_up for each in processes),
            running=max(each.running for each in processes),
            connections=sum(ledger.connections(each.ledger) for each in self._places),
            max_connections=self.setup.config.services[self.name].limits.max_connections,
        )
        return agent.answer(now)

    def snapshot(self) -> ledger.Snapshot:
        """Return the counters and the programs of all workers."""
        return ledger.combined([*(ledger.snapshot(each.ledger) for each in self._places), *self._past])

    def prepare(
        self,
        config: Config,
        sockets: Sockets,
        inherited: Sockets,
        *,
        again: bool,
        group: Group = _ALONE,
    ) -> bool:
        """Prepare to serve with `config` (a `changes.part`); return False if nothing would change.

        Otherwise the service will report `prepared` or `failed`. At `commit` its first worker accepts the
        clients that wait at the `inherited` sockets. With `again` workers read shell files even if they are
        unchanged. `group` describes the group of the service.

        Raises:
            CannotPrepareError: a resource that the service needs is not available.
        """
        self._asked, self._awaited, self._failed = [], set(), False
        try:
            self._next = setups.make(self.name, config, sockets, self._around, self._own_logger, group)
            self._planned = self._plan(config.services[self.name].workers)
            for each in self._planned:
                share = self._shares.of(config.services[self.name], each.share, brokered=group.brokered)
                given = inherited if each is self._planned[0] else ()
                if each.prepare(self._next, share, given, again=again):
                    self._asked.append(each)
        except NoPlaceError:
            self.discard()
            text = "has too many workers together with the other services of its group"
            raise CannotPrepareError([Failure(("limits", "group"), text)]) from None
        except OSError as error:
            self.discard()
            text = f"cannot start its worker: {error.strerror}"
            raise CannotPrepareError([Failure((), text)]) from None
        except CannotPrepareError:
            self.discard()
            raise
        self._awaited = set(self._asked)
        if not self._asked:
            self._next, self._planned = None, []
        return bool(self._asked)

    def commit(self) -> None:
        """Serve with the prepared setup; the service will report `serves`.

        A new worker begins once the others share their counts with it.
        """
        assert self._next is not None  # noqa: S101 (`prepare` comes first)
        before, self.setup, self._next = self._own_logger, self._next, None
        if before is not self._own_logger:
            setups.close(before)
            if self._own_logger is not None:
                self._own_logger.process.start()
        planned, self._planned = self._planned, []
        present = [each for each in self._asked if each in self._places]
        surplus = [each for each in self._places if each not in planned]
        self._places = [*planned, *surplus]
        for each in surplus:
            if not each.leaving:
                each.leave()
        for each in self._asked:
            each.adopt()
        self.setup = self._places[0].setup  # the same, with the signatures of its files
        self._awaited = set(self._asked)
        self._beginning = [each for each in self._asked if each not in present]
        self._begin_after = set(present)
        for each in present:
            each.commit()
        self._begin()

    def discard(self) -> None:
        """Drop the prepared setup."""
        if self._next is not None and self._next.logger is not self._own_logger:
            setups.close(self._next.logger)
        planned, self._planned = self._planned, []
        self._next, self._asked, self._awaited = None, [], set()
        for each in planned:
            each.discard()
        for each in planned:
            if each not in self._places:
                each.finish()
                self._places.append(each)
        self._sweep()

    def try_out(self, config: Config) -> None:
        """Have a worker probe the service without serving; the observer's `tried` gets the result.

        The worker has the service's rights if this process may assume them, else those of this process.

        Raises:
            CannotPrepareError: a user or group is unknown, or a file cannot be opened.
            OSError: no process or descriptor is available.
        """
        setup = setups.make(self.name, config, (), self._around, self._own_logger)
        if not privileges.may_become(setup.process.identity):
            setup = setup._replace(process=setup.process._replace(identity=descriptors.OWN))
        given = WorkerDescriptors()
        given.open(config.services[self.name], setup.process.identity, config.dns_chains)
        try:
            if given.failures:
                raise CannotPrepareError(given.failures)
            self._places[0].try_out(setup, given)
        finally:
            given.close()
            setups.close(setup.logger)

    def tell(self, message: messages.ToWorker) -> None:
        """Send every worker that accepts a message."""
        if isinstance(message, messages.Report):
            self._reporting = {each for each in self._places if each.accepts}
        for each in self._places:
            each.tell(message)

    def renew_bans(self) -> None:
        """Send every worker the current table of banned networks."""
        for each in self.places:
            each.renew_bans()

    def renew_link(self) -> None:
        """Send every serving worker a channel to a new cluster process."""
        for each in self.places:
            each.renew_link()

    def stop(self, drain: float, seconds: float) -> None:
        """Stop accepting; after `drain` seconds terminate the programs, which have `seconds` to end."""
        self.wanted = False
        self._stopped |= {each for each in self._places if not each.accepts}
        for each in self.places:
            each.stop(drain, seconds)

    def kill(self) -> None:
        """Kill the workers; their programs continue."""
        for each in self.places:
            each.kill()

    def close(self) -> None:
        """Close the ledgers, the passes and the logger, which ends when the last program has."""
        setups.close(self._own_logger)
        for each in self.places:
            each.close()
        self._shares.close()
        self.passes.close()

    def ended(self, pid: int, status: int) -> bool:
        """Handle the exit of a process; return whether it is a worker or the logger of this service."""
        if any(each.ended(pid, status) for each in self.places):
            self._sweep()
        elif self._own_logger is not None and self._own_logger.process.pid == pid:
            self._own_logger.process.ended(status)
        else:
            return False
        return True

    def lineage(self) -> procfs.Lineage:
        """Return the processes that may have started programs of this service."""
        return procfs.Lineage(os.getpid(), [pid for each in self._places for pid in each.ancestors()])

    def forget_workers(self) -> None:
        """Forget ended workers whose last program has ended: the kernel may reuse their pids."""
        for each in self._places:
            each.forget_workers()

    def prepared(self, each: Place) -> None:
        """Report that the service has prepared, once all of its workers have."""
        self._awaited.discard(each)
        if not self._awaited:
            self._observer.prepared(self)

    def failed(self, each: Place, failures: Sequence[Failure]) -> None:
        """Report the first failure only: other workers would have the same one."""
        if each in self._beginning:  # it has ended before it could begin
            self._beginning.remove(each)
            each.process.start()
        elif not self._failed:
            self._failed = True
            self._observer.failed(self, failures)

    def serves(self, each: Place, *, first: bool) -> None:
        """Log a worker that serves for the first time; report that the service serves, once all do."""
        if first:
            several = {"worker": each.number} if len(self._places) > 1 else {}
            log.info("ready", service=self.name, **several, pid=each.pids[0])
        self._first = self._first or first
        self._stopped.discard(each)
        self._awaited.discard(each)
        self._begin_after.discard(each)
        self._begin()
        if not self._awaited:
            self._observer.serves(self, first=self._first)
            self._first = False

    def broken(self, each: Place, failures: Sequence[Failure]) -> None:  # noqa: ARG002 (an `Observer`'s)
        """Report that a worker cannot be started again."""
        self._observer.broken(self, failures)

    def stopped(self, each: Place) -> None:
        """Report that the service no longer accepts, once none of its workers does."""
        self._begin_after.discard(each)
        self._begin()
        self._stopped.add(each)
        if self._stopped.issuperset(self._places):
            self._observer.stopped(self)

    def tried(self, each: Place, result: messages.TryResult) -> None:  # noqa: ARG002
        """Pass on the result of the probe."""
        self._observer.tried(self, result)

    def reported(self, each: Place, report: messages.Reported) -> None:  # noqa: ARG002
        """Pass on the reports of all workers as one, once each has reported."""
        self._reporting.discard(each)
        if not self._reporting:
            self._observer.reported(self, self.report)

    @property
    def _own_logger(self) -> logger.Logger | None:
        return None if self.setup is None else self.setup.logger

    def _place(self, number: int) -> Place:
        return Place(self.name, number, self._around, self.passes, self)

    def _plan(self, count: int) -> list[Place]:
        """Return `count` places: places that stay, and new ones if these are too few."""
        staying = [each for each in self._places if not each.leaving][:count]
        used = {each.number for each in self._places}
        numbers = (number for number in itertools.count(1) if number not in used)
        return [*staying, *(self._place(next(numbers)) for _ in range(count - len(staying)))]

    def _begin(self) -> None:
        """Let new workers begin, once every other worker shares its counts with them."""
        if not self._begin_after:
            beginning, self._beginning = self._beginning, []
            for each in beginning:
                each.commit()

    def _sweep(self) -> None:
        """Close leaving places whose last worker has ended."""
        for each in [one for one in self._places if one.leaving and not one.process.wanted and not one.pids]:
            self._places.remove(each)
            past = ledger.history(ledger.snapshot(each.ledger))
            self._past = [ledger.combined([*self._past, past])]
            self._stopped.discard(each)
            each.close()
