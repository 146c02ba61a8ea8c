"""What the supervisor holds for one service: its worker, its logger, its ledger, and what it is served with.

A setup changes in two steps: `prepare` does all that can fail, then `commit` lets it count or `discard` drops
it. A worker is kept where that is possible; another identity needs another process.
"""

import os
import socket
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from tcpdconf.config import host, model
from tcpdconf.daemon import assignment, child, handover, ledger, log, logger, loop, relay, remote
from tcpdconf.policy import dialect

Sockets = Sequence[tuple[int, socket.socket]]
"""Listening sockets, each with the place of its listener in the configuration."""


class Surroundings(NamedTuple):
    """What all services share; `environment` is the one that the daemon was started with."""

    loop: loop.Loop
    environment: dict[str, str]
    ways: dialect.Dialect = dialect.TOML


class Process(NamedTuple):
    """What a worker is once and for all."""

    identity: host.Identity
    directory: str
    umask: int | None


class Setup(NamedTuple):
    """What a service is served with: `roles` are those of its files, as they were when they were opened."""

    config: model.Config
    process: Process
    sockets: Sockets
    logger: logger.Logger | None
    roles: tuple[assignment.Role, ...] = ()


class CannotPrepareError(Exception):
    """The service cannot be served like this; `failures` say why."""

    def __init__(self, failures: list[assignment.Failure]) -> None:
        super().__init__(*(failure.text for failure in failures))
        self.failures = failures


class Service:
    """One service. Sockets, ledger and the logger's pipe outlive every worker.

    `heard` is called with what its worker says: prepared, failed, serving (`first`: or still), tried,
    report.
    """

    def __init__(
        self, name: str, around: Surroundings, heard: Callable[["Service", dict[str, Any]], None]
    ) -> None:
        self.name = name
        self.process = child.Child(around.loop, f"worker of {name}", self._restart)
        self.ledger = ledger.create()
        self.setup: Setup | None = None
        self._around = around
        self._heard = heard
        self._number = 0  # of the latest preparation
        self._next: Setup | None = None
        self._worker: remote.Worker | None = None
        self._coming: remote.Worker | None = None  # takes over from the worker at `commit`
        self._succeeds = False  # it waits for its predecessor to retire
        self._serving = False
        self._elders: list[remote.Worker] = []

    @property
    def pids(self) -> list[int]:
        """The workers that have not ended; the first one is the one that accepts."""
        return [each.pid for each in (self._worker, self._coming, *self._elders) if each is not None]

    @property
    def answered(self) -> int:
        """Number of the last ping that the worker has answered."""
        return 0 if self._worker is None else self._worker.answered

    def prepare(self, config: model.Config, sockets: Sockets, *, again: bool) -> bool:
        """Prepare to serve with `config` (a `changes.part`); False when that is what is done already.

        `again` reads shell files again though they are the same. The worker will say prepared or failed.

        Raises:
            CannotPrepareError: what it needs cannot be had.
        """
        setup = self._setup(config, sockets)
        given = self._open(setup)
        try:
            if given.failures:
                raise CannotPrepareError(given.failures)
            setup = setup._replace(roles=tuple(role for role in given.roles if role.path))
            if setup == self.setup and self._worker is not None and not (again and self._reads_shell_files):
                return False
            worker = self._worker
            if worker is None or self.setup is None or self.setup.process != setup.process:
                worker = self._coming = self._fork(setup)
            self._assign(worker, setup, given)
            self._next = setup
        except OSError as error:
            text = f"cannot start its worker: {error.strerror}"
            raise CannotPrepareError([assignment.Failure((), text)]) from None
        finally:
            given.close()
            if self._next is None and setup.logger is not self._own_logger:
                _close(setup.logger)
        return True

    def commit(self) -> None:
        """Serve with what was prepared; the worker will say `serving`."""
        before, self.setup, self._next = self._own_logger, self._next, None
        if before is not self._own_logger:
            _close(before)
            if self._own_logger is not None:
                self._own_logger.process.start()
        if self._coming is None:
            self.tell("commit")  # a worker that has died meanwhile is started again with this setup
            return
        elder, self._worker, self._coming = self._worker, self._coming, None
        self.process.replace(self._worker.pid)
        self._serving = False
        if elder is None:
            self.tell("commit")
        else:
            self._elders.append(elder)
            self._succeeds = True
            elder.tell("retire")

    def discard(self) -> None:
        """Forget what was prepared."""
        if self._next is not None and self._next.logger is not self._own_logger:
            _close(self._next.logger)
        self._next = None
        if self._coming is not None:
            self._coming.kill()
        elif self._worker is not None and self._serving:
            self._worker.tell("discard")
        elif self._worker is not None:  # it was being started again, and this was all that it knew
            self._worker.kill()

    def try_out(self, config: model.Config) -> None:
        """Let a worker say only whether the service could be served, as `tried`.

        Raises:
            CannotPrepareError: what it needs cannot be had.
        """
        setup = self._setup(config, ())
        given = handover.Handover()
        given.open(config.services[self.name], config.dns_chains)
        try:
            if given.failures:
                raise CannotPrepareError(given.failures)
            self._worker = self._fork(setup)
            self._assign(self._worker, setup, given, "try")
        finally:
            given.close()
            _close(setup.logger)

    def tell(self, kind: str, **content: object) -> None:
        """Send the worker a message; without a worker nobody needs it."""
        if self._worker is not None:
            self._worker.tell(kind, (), **content)

    def stop(self, drain: float, seconds: float) -> None:
        """Accept no more; after `drain` seconds end the programs, which have so many `seconds` for it."""
        self.process.finish()
        if self._coming is not None:
            self._coming.kill()
        for each in (self._worker, *self._elders):
            if each is not None:
                each.tell("stop", drain=drain, seconds=seconds)

    def kill(self) -> None:
        """End the workers at once; their programs live on."""
        for each in (self._worker, self._coming, *self._elders):
            if each is not None:
                each.kill()

    def close(self) -> None:
        """Let go of the rest. The logger ends when the last program has."""
        _close(self._own_logger)
        os.close(self.ledger)

    def ended(self, pid: int, status: int) -> bool:
        """Take note of the end of a process, if it is one of this service's."""
        for elder in [each for each in self._elders if each.pid == pid]:
            elder.ended()
            self._elders.remove(elder)
            self._succeed()
            return True
        if self._coming is not None and self._coming.pid == pid:
            self._coming.ended()
            self._coming = None
            self._fail()
        elif self._worker is not None and self._worker.pid == pid:
            self._worker.ended()
            self._worker, self._serving = None, False
            self.process.ended(status)
            if self._coming is None:
                self._fail()
        elif self._own_logger is not None and self._own_logger.process.pid == pid:
            self._own_logger.process.ended(status)
        else:
            return False
        return True

    @property
    def _own_logger(self) -> logger.Logger | None:
        return None if self.setup is None else self.setup.logger

    @property
    def _reads_shell_files(self) -> bool:
        """Whether it has files that may read other ones, of which nobody knows whether they have changed."""
        assert self.setup is not None  # noqa: S101 (asked of what has served)
        return any(file.shell for file in self.setup.config.services[self.name].environment_files)

    def _setup(self, config: model.Config, sockets: Sockets) -> Setup:
        """A setup for a configuration, with the logger there is when it is the same."""
        service = config.services[self.name]
        try:
            process = Process(host.identity(service), service.directory, service.umask)
        except host.UnknownNameError as error:
            raise CannotPrepareError([assignment.Failure((error.key,), str(error))]) from None
        order = logger.order(service, self._around.environment)
        if order is None or (self._own_logger is not None and self._own_logger.order == order):
            return Setup(config, process, sockets, None if order is None else self._own_logger)
        made = logger.Logger(self._around.loop, self.name, order)
        if self._around.ways.shares_logger:
            log.redirect(made.write)
        return Setup(config, process, sockets, made)

    def _open(self, setup: Setup) -> handover.Handover:
        service = setup.config.services[self.name]
        given = handover.Handover()
        given.lend("ledger", self.ledger)
        for place, each in setup.sockets:
            given.lend("listener", each.fileno(), place)
        if setup.logger is not None:
            given.lend("stderr", setup.logger.write)
            given.lend("overflow", setup.logger.peek)
        given.open(service, setup.config.dns_chains)
        given.open_log(service)
        return given

    def _fork(self, setup: Setup) -> remote.Worker:
        return remote.Worker(self._around.loop, self.process.name, setup.process.identity, self._hear)

    def _assign(
        self, worker: remote.Worker, setup: Setup, given: handover.Handover, kind: str = "prepare"
    ) -> None:
        self._number += 1
        task = assignment.Assignment(
            self.name, setup.config, self._around.environment, tuple(given.roles), self._around.ways
        )
        memory = assignment.write(task)
        worker.tell(kind, [memory, *given.fds], number=self._number)
        os.close(memory)

    def _restart(self) -> int:
        """Start a worker in place of one that has ended."""
        assert self.setup is not None  # noqa: S101 (only what has served is started again)
        given = self._open(self.setup)
        try:
            if given.failures:
                self._heard(self, {"kind": "failed", "failures": given.failures})
                raise child.CannotStartError("what it needs cannot be opened")
            self._worker = self._fork(self.setup)
            self._assign(self._worker, self.setup, given)
        finally:
            given.close()
        return self._worker.pid

    def _hear(self, worker: remote.Worker, message: dict[str, Any]) -> None:
        if worker in self._elders:
            self._hear_elder(message)
            return
        match message["kind"]:
            case "prepared" if message.get("number") == self._number:
                if self._next is None:
                    worker.tell("commit")
                else:
                    self._heard(self, message)
            case "failed" | "serving" | "tried" if message.get("number") == self._number:
                first = not self._serving
                self._serving = self._serving or message["kind"] == "serving"
                self._heard(self, {**message, "first": first})
            case "report":
                self._heard(self, message)

    def _hear_elder(self, message: dict[str, Any]) -> None:
        if message["kind"] == "retired":
            self._succeed()
        elif (entry := relay.checked(message)) is not None:
            self.tell(entry.pop("kind"), **entry)

    def _succeed(self) -> None:
        """Let the worker begin, now that its predecessor does not accept any more."""
        if self._succeeds:
            self._succeeds = False
            self.tell("commit")

    def _fail(self) -> None:
        """The worker has ended before it could say whether it can serve."""
        if self._next is not None:
            text = "the worker ended before it was ready; see the log"
            self._heard(
                self, {"kind": "failed", "failures": [assignment.Failure((), text)], "number": self._number}
            )


def _close(one: logger.Logger | None) -> None:
    if one is not None:
        one.close()
