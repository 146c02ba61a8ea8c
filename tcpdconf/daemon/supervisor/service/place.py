"""Keeps one worker of a service running, with its ledger; a service has as many places as `workers` says.

The worker in a place stays the same process unless its `ProcessSettings` change. `lifecycle` decides which
process does what, and this module carries it out.
"""

import os
from typing import TYPE_CHECKING

from tcpdconf.daemon.cluster import layout
from tcpdconf.daemon.descriptors import WorkerDescriptors
from tcpdconf.daemon.guard import passes
from tcpdconf.daemon.messages import wire
from tcpdconf.daemon.messages import worker as messages
from tcpdconf.daemon.messages.assignment import Assignment, Failure
from tcpdconf.daemon.process import child, procfs
from tcpdconf.daemon.supervisor import worker_process
from tcpdconf.daemon.supervisor.service import lifecycle, setups
from tcpdconf.daemon.supervisor.service.lifecycle import Worker
from tcpdconf.daemon.supervisor.service.setups import CannotPrepareError, Setup, Sockets, Surroundings
from tcpdconf.daemon.supervisor.service.shares import Share
from tcpdconf.daemon.supervisor.worker_process import Observer
from tcpdconf.daemon.worker import books, ledger

if TYPE_CHECKING:
    from tcpdconf.config.file_signature import Signature


class Place:
    """Keeps a worker in one place. Its ledger outlives every worker.

    Attributes:
        number: counts the places of a service from 1.
        setup: what its worker serves, or is to serve when it is started again.
        leaving: True once the service has fewer places; the worker ends with its last program.
        share: where its worker publishes its counts, if it shares them with others.
        opened: the signatures of the files that were opened for the latest worker or preparation.
    """

    def __init__(
        self,
        name: str,
        number: int,
        around: Surroundings,
        memory: passes.Memory,
        observer: Observer["Place"],
    ) -> None:
        self.name = name
        self.number = number
        self.setup: Setup | None = None
        self.leaving = False
        self.ledger = ledger.create()
        self.report: messages.Reported | None = None  # the latest of a worker
        self.opened: dict[str, Signature] = {}
        title = f"worker of {name}" if number == 1 else f"worker {number} of {name}"
        self.process = child.Child(around.loop, title, self._restart)
        self._around = around
        self._passes = memory
        self._observer = observer
        self._next: Setup | None = None
        self.share: Share | None = None
        self._next_share: Share | None = None
        self._former: Share | None = None  # has the counts until the worker serves with the new one
        self._now = lifecycle.Workers()
        self._processes: dict[int, worker_process.WorkerProcess] = {}  # by pid, until waited for
        self._left: set[int] = set()  # workers that have ended and whose programs live on
        self._linked: dict[int, tuple[str, bool, int | None]] = {}  # by pid: space, brokered, who counts

    @property
    def pids(self) -> list[int]:
        """Return the pids of the workers that have not ended, in the order of `workers`."""
        return self._now.pids

    @property
    def workers(self) -> list[worker_process.WorkerProcess]:
        """Return the worker that accepts, the one that will replace it, and those that were replaced."""
        return [self._processes[pid] for pid in self.pids]

    @property
    def accepts(self) -> bool:
        """True while there is a worker, which may accept until it has reported `Stopped`."""
        return self._now.worker is not None

    @property
    def serves(self) -> bool:
        """True while there is a worker that has begun to serve."""
        return self.accepts and self.workers[0].serves

    def prepare(self, setup: Setup, share: Share | None, inherited: Sockets, *, again: bool) -> bool:
        """Have a worker prepare a setup; return False if it is the same as the present one.

        With `again` it prepares all the same if it has shell files, which may read others that have changed.

        Raises:
            CannotPrepareError: a file cannot be opened.
            OSError: no process or descriptor is available.
        """
        self._next, self._next_share = setup, share
        given = self._open(setup, share)
        for place, each in inherited:
            given.lend("inherited", each.fileno(), place)
        try:
            if given.failures:
                raise CannotPrepareError(given.failures)
            self._next = setup = setup._replace(roles=tuple(role for role in given.roles if role.path))
            unchanged = setup == self.setup and share == self.share
            if unchanged and self.accepts and not (again and self._reads_shell_files):
                self._next = None
                return False
            same = self.setup is not None and self.setup.process == setup.process
            self._take(lifecycle.Asked(self._assign(self._now.worker if same else None, setup, given)))
        finally:
            given.close()
        return True

    def adopt(self) -> None:
        """Start a worker with the prepared setup from now on if it has to be started."""
        assert self._next is not None  # noqa: S101 (`prepare` comes first)
        self.setup, self._next = self._next, None
        if self._next_share != self.share:
            self._former, self.share = self.share, self._next_share

    def commit(self) -> None:
        """Have the worker serve what it has prepared."""
        self._take(lifecycle.Commit())  # a worker that has died meanwhile is restarted with this setup

    def discard(self) -> None:
        """Drop the prepared setup."""
        if self._next_share is not None and self._next_share != self.share:
            self._next_share.leave()
        self._next, self._next_share = None, self.share
        self._take(lifecycle.Discard())

    def try_out(self, setup: Setup, given: WorkerDescriptors) -> None:
        """Have a new worker try a setup."""
        self._take(lifecycle.Started(self._assign(None, setup, given, messages.Try)))

    def leave(self) -> None:
        """Have the worker accept no more, and end with its last program; other places go on."""
        assert self.setup is not None  # noqa: S101 (only a service that serves has places that leave)
        self.leaving = True
        self.setup = self.setup._replace(sockets=())
        self.tell(messages.Leave())

    def finish(self) -> None:
        """Use this place no more; its workers end by themselves."""
        self.leaving = True
        self.process.finish()

    def tell(self, message: messages.ToWorker) -> None:
        """Send the worker a message; without a worker drop it."""
        if self._now.worker is not None:
            self._processes[self._now.worker.pid].tell(message)

    def renew_bans(self) -> None:
        """Give every worker the table of banned networks."""
        for each in self.workers:
            self._tell_bans(each)

    def renew_link(self) -> None:
        """Give the worker that serves a channel to a new process that counts for it and others."""
        if self._now.worker is not None and self._processes[self._now.worker.pid].serves:
            self._link(self._now.worker.pid)

    def _link(self, pid: int, *, again: bool = False) -> None:
        """Give a worker a channel to the process that counts for it and others, if there is one.

        That is the cluster process if its limits count all hosts. It is the broker if they count a group with
        several users.
        """
        setup = self.setup
        if setup is None:
            return
        limits = setup.config.services[self.name].limits
        broker = self._around.broker if setup.group.brokered else None
        counting = self._around.cluster if limits.scope == "cluster" else broker
        if counting is None:
            self._linked.pop(pid, None)
            return
        space = layout.space(self.name, limits)
        brokered = setup.group.brokered
        if self._linked.get(pid) == (space, brokered, counting.pid) and not again:
            return
        fd = counting.attach(self.name, space, brokered=brokered)
        if fd is None:  # it follows once the process runs
            self._linked.pop(pid, None)
            return
        self._linked[pid] = (space, brokered, counting.pid)
        self._processes[pid].tell(messages.ClusterLink(), [fd])
        os.close(fd)

    def stop(self, drain: float, seconds: float) -> None:
        """Stop accepting; after `drain` seconds terminate the programs, which have `seconds` to end."""
        self.process.finish()
        self._take(lifecycle.Stop(drain, seconds))

    def kill(self) -> None:
        """Kill the workers; their programs live on."""
        for each in self.workers:
            each.kill()

    def close(self) -> None:
        """Close the ledger, and clear what was counted."""
        os.close(self.ledger)
        for each in {self.share, self._former, self._next_share}:
            if each is not None:
                each.leave()

    def ended(self, pid: int, status: int) -> bool:
        """Handle the exit of a process; return whether it is a worker of this place."""
        worker = self._processes.get(pid)
        if worker is None:
            return False
        self._around.loop.attempt(worker.ended)  # its last messages may meet a defect
        del self._processes[pid]
        self._linked.pop(pid, None)
        self._take(lifecycle.Ended(pid, status))
        return True

    def ancestors(self) -> list[int]:
        """Return the pids of workers that may have started programs which still run."""
        self.forget_workers()
        return [*self.pids, *self._left]

    def forget_workers(self) -> None:
        """Forget ended workers whose last program has ended: the kernel may reuse their pids."""
        self._left = {pid for pid in self._left if not procfs.group_is_empty(pid)}

    @property
    def _reads_shell_files(self) -> bool:
        assert self.setup is not None  # noqa: S101 (only a service that has served is asked)
        return any(file.shell for file in self.setup.config.services[self.name].environment_files)

    def _open(self, setup: Setup, share: Share | None) -> WorkerDescriptors:
        given = setups.opened(self.name, setup, self.ledger, self._passes)
        if share is not None:
            given.lend("counts", share.fd, share.place)
            given.lend("wake", share.wake)
        self.opened = given.read()
        return given

    def _tell_bans(self, process: worker_process.WorkerProcess) -> None:
        table = self._around.bans()
        if table is not None:
            process.tell(messages.BanTable(), [table])

    def _assign(
        self,
        known: Worker | None,
        setup: Setup,
        given: WorkerDescriptors,
        order: type[messages.Prepare | messages.Try] = messages.Prepare,
    ) -> Worker:
        """Have the `known` worker, or a new one, prepare a setup; nothing fails once it has been forked.

        Raises:
            OSError: no process or descriptor is available.
        """
        roles, ways = tuple(given.roles), self._around.ways
        environment, first = self._around.environment, self.number == 1
        task = Assignment(self.name, setup.config, environment, roles, ways, setup.group, first)
        memory = wire.pickled(task)
        try:
            if known is None:
                forked = worker_process.WorkerProcess(
                    self._around.loop, self.process.name, setup.process, self._hear
                )
                self._processes[forked.pid] = forked
                self._tell_bans(forked)
                known = Worker(forked.pid, 0)
            asked = known._replace(number=known.number + 1)
            self._processes[asked.pid].tell(order(asked.number), [memory, *given.fds])
        finally:
            os.close(memory)
        return asked

    def _restart(self) -> int:
        """Start a worker in place of one that has ended; return its pid."""
        assert self.setup is not None  # noqa: S101 (only a service that has served is restarted)
        given = self._open(self.setup, self.share)
        try:
            if given.failures:
                self._observer.broken(self, given.failures)
                raise child.CannotStartError("a file that it needs cannot be opened")
            started = self._assign(None, self.setup, given)
            self._take(lifecycle.Started(started))
        finally:
            given.close()
        return started.pid

    def _hear(  # noqa: C901 (a case for each message)
        self, process: worker_process.WorkerProcess, message: messages.FromWorker
    ) -> None:
        """Pass on what a worker says: to `lifecycle`, to the observer, or to the worker after it."""
        pid = process.pid
        match message:
            case messages.Prepared(number):
                self._take(lifecycle.Prepared(Worker(pid, number)))
            case messages.Failed(number, failures):
                self._take(lifecycle.Failed(Worker(pid, number), failures))
            case messages.Committed(number):
                self._take(lifecycle.Committed(Worker(pid, number)))
            case messages.Retired():
                self._take(lifecycle.Retired(pid))
            case messages.Stopped():
                self._take(lifecycle.Stopped(pid))
            case messages.ClusterLost() if pid not in self._now.elders:
                self._link(pid, again=True)
            case messages.Relay(entries) if pid in self._now.elders:
                claims = sum(isinstance(entry, messages.Claim) for entry in entries)
                process.charge(claims)  # each costs a look into /proc
                believed = books.verified(entries, procfs.Lineage(os.getpid(), (pid,)))
                for some in books.parts(believed):
                    self.tell(messages.Relayed(tuple(some)))
            case messages.Reported() if pid not in self._now.elders:
                self.report = message
                self._observer.reported(self, message)
            case messages.TryResult(number) if Worker(pid, number) == self._now.worker:
                self._observer.tried(self, message)

    def _take(self, event: lifecycle.Event) -> None:  # noqa: C901 (a case for each action)
        """Pass an event to `lifecycle`, and carry out the actions."""
        self._now, actions = lifecycle.step(self._now, event)
        for action in actions:
            match action:
                case lifecycle.Tell(pid, message):
                    self._processes[pid].tell(message)
                case lifecycle.Serve(pid, elders):
                    self.forget_workers()
                    self._link(pid)
                    self._processes[pid].tell(messages.Commit((*self._left, *elders)))
                case lifecycle.Retire(pid):
                    assert self.setup is not None  # noqa: S101 (`commit` has set it)
                    kept = tuple(os.fstat(each.fileno()).st_ino for _, each in self.setup.sockets)
                    self._processes[pid].tell(messages.Retire(kept))
                case lifecycle.Kill(pid):
                    self._processes[pid].kill()
                case lifecycle.Keep(pid):
                    self.process.replace(pid)
                case lifecycle.Restart(status) if self.leaving and status == 0:
                    self.process.finish()
                case lifecycle.Restart(status):
                    self.process.ended(status)
                case lifecycle.LeaveBehind(pid):
                    if not procfs.group_is_empty(pid):
                        self._left.add(pid)  # its programs are recognised by it (`procfs.Lineage`)
                case lifecycle.Recount():  # after the supervisor's own `Gone`
                    self._around.loop.after(0, lambda: self.tell(messages.Recount()))
                case lifecycle.Report(said, failures):
                    self._report(said, failures)

    def _report(self, said: lifecycle.Said, failures: tuple[Failure, ...]) -> None:
        match said:
            case "prepared":
                self._observer.prepared(self)
            case "failed":
                self._observer.failed(self, failures)
            case "serves" | "serves again":
                self.workers[0].serves = True  # the heartbeat expects more of it
                if self._former is not None:
                    self._former.leave()
                    self._former = None
                if self.leaving:  # it was started again
                    self.tell(messages.Leave())
                self._observer.serves(self, first=said == "serves")
            case "stopped":
                self._observer.stopped(self)
            case "broken":
                self._observer.broken(self, failures)
