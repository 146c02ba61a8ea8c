"""Manages one service for the supervisor: its worker, its logger, its ledger, and its setup.

A setup changes in two steps: `prepare` does all that can fail. Then `commit` makes the setup take effect, or
`discard` drops it. The worker stays the same process unless identity, directory or umask change.
"""

import os
import socket
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

from tcpdconf.config import dialect, host
from tcpdconf.config.model.service import Config
from tcpdconf.daemon.descriptors import WorkerDescriptors
from tcpdconf.daemon.messages import wire
from tcpdconf.daemon.messages import worker as messages
from tcpdconf.daemon.messages.assignment import Assignment, Failure, Role
from tcpdconf.daemon.process import child, descriptors, log, loop, privileges, procfs
from tcpdconf.daemon.supervisor import logger, worker_process
from tcpdconf.daemon.supervisor.worker_process import Observer, ProcessSettings
from tcpdconf.daemon.worker import books, ledger

if TYPE_CHECKING:
    from tcpdconf.config.file_signature import Signature

Sockets = Sequence[tuple[int, socket.socket]]
"""Lists listening sockets, each with the place of its listener in the configuration."""


class Surroundings(NamedTuple):
    """Holds what all services share; `environment` is the one that the daemon was started with."""

    loop: loop.Loop
    environment: dict[str, str]
    ways: dialect.Dialect = dialect.TOML


class Setup(NamedTuple):
    """Holds the settings and resources of a service; `roles` describe its files as they were opened."""

    config: Config
    process: ProcessSettings
    sockets: Sockets
    logger: logger.Logger | None
    roles: tuple[Role, ...] = ()


class CannotPrepareError(Exception):
    """Reports that the service cannot be served like this; `failures` say why."""

    def __init__(self, failures: Sequence[Failure]) -> None:
        super().__init__(*(failure.text for failure in failures))
        self.failures = failures


class ManagedService:
    """Manages one service. Sockets, ledger and the logger's pipe outlive every worker."""

    def __init__(self, name: str, around: Surroundings, observer: Observer["ManagedService"]) -> None:
        self.name = name
        self.process = child.Child(around.loop, f"worker of {name}", self._restart)
        self.ledger = ledger.create()
        self.setup: Setup | None = None
        self.report = messages.Reported({}, None)  # the worker's latest, of lists and names
        self.opened: dict[str, Signature] = {}  # files opened for the latest worker or preparation
        self._around = around
        self._observer = observer
        self._next: Setup | None = None
        self._preparing: worker_process.WorkerProcess | None = None  # the worker that prepares `_next`
        self._worker: worker_process.WorkerProcess | None = None
        self._coming: worker_process.WorkerProcess | None = None  # replaces the worker at `commit`
        self._predecessor: worker_process.WorkerProcess | None = None  # the elder that the worker waits for
        self._elders: list[worker_process.WorkerProcess] = []
        self._left: set[int] = set()  # workers that have ended and whose programs live on

    @property
    def pids(self) -> list[int]:
        """Return the pids of the workers that have not ended, in the order of `workers`."""
        return [each.pid for each in self.workers]

    @property
    def workers(self) -> list[worker_process.WorkerProcess]:
        """Return the worker that accepts, the one that will replace it, and those that were replaced."""
        return [each for each in (self._worker, self._coming, *self._elders) if each is not None]

    @property
    def accepts(self) -> bool:
        """True while there is a worker, which may accept until it has reported `Stopped`."""
        return self._worker is not None

    def prepare(self, config: Config, sockets: Sockets, inherited: Sockets, *, again: bool) -> bool:
        """Prepare to serve with `config` (a `changes.part`); return False if nothing would change.

        Otherwise the worker will report `Prepared` or `Failed`. At `commit` it accepts once the clients that
        wait at the `inherited` sockets. With `again` it reads shell files even if they are the same.

        Raises:
            CannotPrepareError: a resource that the service needs is not available.
        """
        self.opened = {}
        try:
            self._next = self._setup(config, sockets)
            return self._prepare_next(inherited, again)
        except OSError as error:
            self.discard()
            text = f"cannot start its worker: {error.strerror}"
            raise CannotPrepareError([Failure((), text)]) from None
        except CannotPrepareError:
            self.discard()
            raise

    def commit(self) -> None:
        """Serve the prepared setup; the worker will report `Committed`."""
        assert self._next is not None  # noqa: S101 (`prepare` comes first)
        before, self.setup, self._next, self._preparing = self._own_logger, self._next, None, None
        if before is not self._own_logger:
            _close(before)
            if self._own_logger is not None:
                self._own_logger.process.start()
        if self._coming is None:
            self._let_serve()  # a worker that has died meanwhile is restarted with this setup
            return
        elder, self._worker, self._coming = self._worker, self._coming, None
        self.process.replace(self._worker.pid)
        if elder is None:
            self._let_serve()
        else:
            self._elders.append(elder)
            self._predecessor = elder
            kept = tuple(os.fstat(each.fileno()).st_ino for _, each in self.setup.sockets)
            elder.tell(messages.Retire(kept))

    def discard(self) -> None:
        """Drop the prepared setup."""
        if self._next is not None and self._next.logger is not self._own_logger:
            _close(self._next.logger)
        worker, self._next, self._preparing = self._preparing, None, None
        if self._coming is not None:
            self._coming.kill()
            self._elders.append(self._coming)  # until it has been waited for
            self._coming = None
        elif worker is not None and worker.serves:
            worker.tell(messages.Discard())
        elif worker is not None:  # it was being restarted, and has no other setup
            worker.kill()

    def try_out(self, config: Config) -> None:
        """Have a worker only report whether the service could be served; the observer's `tried` gets it.

        The worker has the service's rights if this process may take them on, else those of this process.

        Raises:
            CannotPrepareError: a user or group is unknown, or a file cannot be opened.
            OSError: no process or descriptor is available.
        """
        setup = self._setup(config, ())
        if not privileges.may_become(setup.process.identity):
            setup = setup._replace(process=setup.process._replace(identity=descriptors.OWN))
        given = WorkerDescriptors()
        given.open(config.services[self.name], setup.process.identity, config.dns_chains)
        try:
            if given.failures:
                raise CannotPrepareError(given.failures)
            self._worker = self._assign(None, setup, given, messages.Try)
        finally:
            given.close()
            _close(setup.logger)

    def tell(self, message: messages.ToWorker) -> None:
        """Send the worker a message; without a worker drop it."""
        if self._worker is not None:
            self._worker.tell(message)

    def stop(self, drain: float, seconds: float) -> None:
        """Stop accepting; after `drain` seconds terminate the programs, which have `seconds` to end."""
        self.process.finish()
        if self._coming is not None:
            self._coming.kill()
        for each in (self._worker, *self._elders):
            if each is not None:
                each.tell(messages.Stop(drain, seconds))

    def kill(self) -> None:
        """Kill the workers; their programs live on."""
        for each in self.workers:
            each.kill()

    def close(self) -> None:
        """Close the ledger and the logger, which ends when the last program has."""
        _close(self._own_logger)
        os.close(self.ledger)

    def ended(self, pid: int, status: int) -> bool:
        """Handle the exit of a process; return whether it is a worker or the logger of this service."""
        attempt = self._around.loop.attempt  # a worker's last messages may meet a defect
        for elder in [each for each in self._elders if each.pid == pid]:
            attempt(elder.ended)
            self._elders.remove(elder)
            self._leave_behind(pid)
            self._around.loop.after(
                0, lambda: self.tell(messages.Recount())
            )  # after the supervisor's own `Gone`
            self._succeed(elder)
            return True
        if self._coming is not None and self._coming.pid == pid:
            attempt(self._coming.ended)
            self._coming = None
            self._fail()
        elif self._worker is not None and self._worker.pid == pid:
            worker = self._worker
            attempt(worker.ended)
            self._leave_behind(pid)
            self._worker = None
            self.process.ended(status)
            self._observer.stopped(self)
            if worker is self._preparing:
                self._fail()
        elif self._own_logger is not None and self._own_logger.process.pid == pid:
            self._own_logger.process.ended(status)
        else:
            return False
        return True

    def forget_workers(self) -> None:
        """Forget ended workers whose last program has ended: the kernel may reuse their pids."""
        self._left = {pid for pid in self._left if not procfs.group_is_empty(pid)}

    def _leave_behind(self, pid: int) -> None:
        """Remember a worker that has ended, by which its programs are recognised (`procfs.Lineage`)."""
        if not procfs.group_is_empty(pid):
            self._left.add(pid)

    def _let_serve(self, retired: worker_process.WorkerProcess | None = None) -> None:
        """Tell the worker to serve what it has prepared.

        A new worker finds the programs of `retired` in the ledger. It may have missed what older workers have
        started since they were replaced, so they report their programs again.
        """
        self.forget_workers()
        self.tell(messages.Commit((*self._left, *(each.pid for each in self._elders))))
        if self._worker is not None and not self._worker.serves:
            for each in self._elders:
                if each is not retired:
                    each.tell(messages.Retell())

    @property
    def _own_logger(self) -> logger.Logger | None:
        return None if self.setup is None else self.setup.logger

    @property
    def _reads_shell_files(self) -> bool:
        """True if the service has shell files, which may read other files that may have changed."""
        assert self.setup is not None  # noqa: S101 (only a service that has served is asked)
        return any(file.shell for file in self.setup.config.services[self.name].environment_files)

    def _setup(self, config: Config, sockets: Sockets) -> Setup:
        """Return a setup for a configuration; keep the logger if its settings are the same."""
        service = config.services[self.name]
        try:
            process = ProcessSettings(host.identity(service), service.directory, service.umask)
        except host.UnknownNameError as error:
            raise CannotPrepareError([Failure((error.key,), str(error))]) from None
        order = logger.order(service, self._around.environment, self._around.ways)
        if order is None or (self._own_logger is not None and self._own_logger.order == order):
            return Setup(config, process, sockets, None if order is None else self._own_logger)
        made = logger.Logger(self._around.loop, self.name, order)
        if self._around.ways.shares_logger:
            log.redirect(made.write)
        return Setup(config, process, sockets, made)

    def _open(self, setup: Setup) -> WorkerDescriptors:
        service = setup.config.services[self.name]
        given = WorkerDescriptors()
        given.lend("ledger", self.ledger)
        for place, each in setup.sockets:
            given.lend("listener", each.fileno(), place)
        if setup.logger is not None:
            given.lend("stderr", setup.logger.write)
            given.lend("log_pipe", setup.logger.peek)
        given.open(service, setup.process.identity, setup.config.dns_chains)
        given.open_log(service, setup.process.identity)
        self.opened = given.read()
        return given

    def _prepare_next(self, inherited: Sockets, again: bool) -> bool:
        """Have a worker prepare the next setup; return False if it is the same as the present one."""
        assert self._next is not None  # noqa: S101 (just made)
        given = self._open(self._next)
        for place, each in inherited:
            given.lend("inherited", each.fileno(), place)
        try:
            if given.failures:
                raise CannotPrepareError(given.failures)
            self._next = setup = self._next._replace(roles=tuple(role for role in given.roles if role.path))
            if setup == self.setup and self._worker is not None and not (again and self._reads_shell_files):
                self._next = None
                return False
            kept = self._worker if self.setup is not None and self.setup.process == setup.process else None
            self._preparing = self._assign(kept, setup, given)
            self._coming = self._preparing if kept is None else None
        finally:
            given.close()
        return True

    def _assign(
        self,
        known: worker_process.WorkerProcess | None,
        setup: Setup,
        given: WorkerDescriptors,
        order: type[messages.Prepare | messages.Try] = messages.Prepare,
    ) -> worker_process.WorkerProcess:
        """Have the `known` worker, or a new one, prepare a setup; nothing fails once it has been forked.

        Raises:
            OSError: no process or descriptor is available.
        """
        task = Assignment(
            self.name, setup.config, self._around.environment, tuple(given.roles), self._around.ways
        )
        memory = wire.pickled(task)
        try:
            worker = known or worker_process.WorkerProcess(
                self._around.loop, self.process.name, setup.process.identity, self._hear
            )
            worker.number += 1
            worker.tell(order(worker.number), [memory, *given.fds])
        finally:
            os.close(memory)
        return worker

    def _restart(self) -> int:
        """Start a worker in place of one that has ended; return its pid."""
        assert self.setup is not None  # noqa: S101 (only a service that has served is restarted)
        given = self._open(self.setup)
        try:
            if given.failures:
                self._observer.broken(self, given.failures)
                raise child.CannotStartError("what it needs cannot be opened")
            self._worker = self._assign(None, self.setup, given)
        finally:
            given.close()
        return self._worker.pid

    def _hear(self, worker: worker_process.WorkerProcess, message: messages.FromWorker) -> None:
        if worker in self._elders:
            self._hear_elder(worker, message)
            return
        match message:
            case messages.Reported():
                self._observer.reported(self, message)
            case messages.Stopped():
                self._observer.stopped(self)
            case messages.Prepared(number) | messages.Failed(number) if number == worker.number:
                self._hear_of_preparation(worker, message)
            case messages.Committed(number) if number == worker.number and worker is self._worker:
                first, worker.serves = not worker.serves, True
                self._observer.serves(self, first=first)
            case messages.TryResult(number) if number == worker.number:
                self._observer.tried(self, message)

    def _hear_of_preparation(
        self, worker: worker_process.WorkerProcess, message: messages.Prepared | messages.Failed
    ) -> None:
        """Pass the result on to the observer; a restarted worker serves without waiting for a reload."""
        match message:
            case messages.Prepared() if worker is self._preparing:
                self._observer.prepared(self)
            case messages.Prepared() if self._predecessor is None:
                self._let_serve()
            case messages.Failed(_, failures) if worker is self._preparing:
                self._observer.failed(self, failures)
            case messages.Failed(_, failures):
                self._observer.broken(self, failures)

    def _hear_elder(self, elder: worker_process.WorkerProcess, message: messages.FromWorker) -> None:
        match message:
            case messages.Retired():
                self._succeed(elder)
            case messages.Relay(entries):
                claims = sum(isinstance(entry, messages.Claim) for entry in entries)
                elder.charge(claims)  # each costs a look into /proc
                believed = books.verified(entries, procfs.Lineage(os.getpid(), (elder.pid,)))
                for some in books.parts(believed):
                    self.tell(messages.Relayed(tuple(some)))

    def _succeed(self, elder: worker_process.WorkerProcess) -> None:
        """Let the worker serve if it has waited for this elder, which accepts no more."""
        if elder is self._predecessor:
            self._predecessor = None
            self._let_serve(retired=elder)

    def _fail(self) -> None:
        """Report that the worker has ended before its preparation could take effect."""
        self._preparing = None
        text = "the worker ended before it was ready; see the log"
        self._observer.failed(self, [Failure((), text)])


def _close(one: logger.Logger | None) -> None:
    if one is not None:
        one.close()
