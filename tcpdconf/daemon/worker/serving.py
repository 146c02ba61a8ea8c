"""Builds what a worker needs to serve from its assignment and its descriptors.

It runs in the worker, with the service's rights. The supervisor has opened the files. Reading changes only
the directory and the umask of the process, so that a worker can read while it serves.
"""

import os
import socket
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final, Literal

from tcpdconf.daemon.dns import lookups, resolver
from tcpdconf.daemon.guard import early_talkers, passes
from tcpdconf.daemon.messages.assignment import Assignment, Failure, Kind, Role
from tcpdconf.daemon.process import channel, log, loop, spawn
from tcpdconf.daemon.shared.table import SharedTable
from tcpdconf.daemon.worker import acceptor, connection, log_pipe, program
from tcpdconf.daemon.worker import files as service_files
from tcpdconf.daemon.worker.connection import Asking, Serving
from tcpdconf.daemon.worker.files import Compiled, ServiceFiles
from tcpdconf.policy import decision, environ

if TYPE_CHECKING:
    from tcpdconf.policy.dns.chain import Chain

_BROKER_DEADLINE: Final = 0.25  # seconds; it answers within a millisecond unless the host is overloaded


class ServingBuilder:
    """Builds a `Serving` from an assignment and its descriptors, and collects all failures.

    It takes over compiled access tables and lookups that have not changed since `before`.
    """

    def __init__(self, task: Assignment, fds: Sequence[int], before: "ServingBuilder | None" = None) -> None:
        self.task = task
        self.complete = False  # everything was read without failures
        self._before = before
        self._service = task.service
        self._fds: dict[str, list[tuple[Role, int]]] = {}
        for role, fd in zip(task.roles, fds, strict=True):
            self._fds.setdefault(role.kind, []).append((role, fd))
        read = [given for kind in service_files.READ for given in self._fds.pop(kind, ())]
        self._files = ServiceFiles(task, read)
        self.failures = self._files.failures
        self._sources: list[decision.NamedTable] = []
        self._chain: Chain | None = None
        self._base: dict[str, str] = {}
        self.lookups: lookups.Lookups | None = None
        self._log_pipe: log_pipe.LogPipe | None = None
        self.table: SharedTable | None = None

    def read(self) -> None:
        """Read all files, and close them."""
        found = self._files
        found.enter_directory()
        before = {} if self._before is None else self._before.compiled()
        self._sources = found.sources(before)
        self._chain, self._base = found.chain(), found.base()
        found.close()
        self.complete = not self.failures

    def serving(self, events: loop.Loop) -> Serving:
        """Return the settings for connections; call it only once `complete` is True."""
        service = self._service
        self.lookups = self.asking(events)
        self.table = self._table()
        self._before = None
        messages = connection.messages(service)
        runner = program.make(self._program(messages.get("spawn", b"")))
        log.debug("starts programs", service=self.task.name, way=spawn.way())
        for _, fd in self._fds.pop("log_pipe", ()):
            self._log_pipe = log_pipe.LogPipe(events, self.task.name, fd)
        sources = decision.enforced(self._sources, service.access)
        return Serving(
            service,
            sources,
            self._base,
            runner,
            self.lookups,
            messages,
            self.task.ways,
            self._early_talkers(events),
            observed=self._sources if len(sources) < len(self._sources) else None,
            stop_timeout=self.task.config.daemon.stop_timeout,
            table=self.table,
            group=self.task.group.shapes,
            first=self.task.first,
            asking=self._asking(),
        )

    def _asking(self) -> Asking | None:
        """Return how the process is asked that counts for this service and others, if there is one."""
        cluster = self.task.config.cluster
        if cluster is not None:
            return Asking(cluster.deadline, cluster.on_failure == "refuse")
        return Asking(_BROKER_DEADLINE) if self.task.group.brokered else None

    def _table(self) -> SharedTable | None:
        """Return the table of shared counts, if there is one; that of `before` if it is the same."""
        if "counts" not in self._fds:
            return None
        ((role, fd),), ((_, wake),) = self._fds.pop("counts"), self._fds.pop("wake")
        known = None if self._before is None else self._before.table
        if known is not None and known.is_at(fd, role.place):
            channel.close_all([fd, wake])
            return known
        return SharedTable(fd, role.place, wake)

    def _early_talkers(self, events: loop.Loop) -> early_talkers.EarlyTalkers | None:
        settings = self._service.early_talker
        if settings is None:
            return None
        ((_, fd),) = self._fds.pop("passes")
        try:
            return early_talkers.EarlyTalkers(events, settings, passes.Passes(fd))
        finally:
            os.close(fd)

    def _program(self, message: bytes) -> program.Setting:
        """Return the program's setting; a client is told `message` if the program cannot be executed.

        For couriertcpd with -stderr=socket, it is told the error instead.
        """
        service, stderr = self._service, self._stderr()
        setting = program.Setting(
            service.program, self._base, stderr, service.rlimits, self.task.ways, told=message
        )
        if self.task.ways.tells_exec_error and stderr == "socket":
            told = environ.encoded(f"{service.program[0]}: ")
            return setting._replace(told=told, tells_reason=True)
        return setting

    def asking(self, events: loop.Loop) -> lookups.Lookups | None:
        """Return the lookups for connections, or None if the service wants none.

        Those of `before` are returned if their settings are the same.
        """
        service, chain, before = self._service, self._chain, self._before
        if chain is None or not (service.lookup_names or service.dns_lists):
            return None
        if before is not None and before.lookups is not None and before.asked == self.asked:
            return before.lookups
        questions = resolver.Resolver(
            events, self._files.name_servers(), renewed=self._files.new_name_servers
        )
        return lookups.Lookups(events, self.task.name, service, chain=chain, asked=questions)

    def listeners(self, kind: Kind = "listener") -> list[acceptor.Listener]:
        """Return the sockets of a kind ("listener", "inherited"), each with its PROXY settings."""
        found = self._fds.pop(kind, ())
        return [(socket.socket(fileno=fd), self._service.listeners[role.place].haproxy) for role, fd in found]

    def ledger(self) -> int:
        """Return the descriptor of the service's ledger; call it once."""
        ((_, fd),) = self._fds.pop("ledger")
        return fd

    def compiled(self) -> Compiled:
        """Return the compiled access sources by origin."""
        return dict(zip(self._files.origins(), self._sources, strict=True))

    def close(self) -> None:
        """Close the descriptors that were not used."""
        self._files.close()
        for found in self._fds.values():
            channel.close_all([fd for _, fd in found])
        self._fds.clear()

    def retire(self, successor: "ServingBuilder") -> None:
        """Stop watching the logger's pipe, and stop the lookups unless the successor uses them.

        Pending connections still get their answers and use the `runner`. `Connections` closes it after the
        last of them.
        """
        if self.lookups is not None and self.lookups is not successor.lookups:
            self.lookups.close()
        if self.table is not None and self.table is not successor.table:
            self.table.close()
        if self._log_pipe is not None:
            self._log_pipe.close()

    def try_program(self) -> None:
        """Add a failure if this process could not execute the program."""
        path = self._service.program[0]
        try:
            program.check(path)
        except OSError as error:
            text = f"cannot run {path}: {error.strerror}"
            self.failures.append(Failure(("program", 0), text))

    @property
    def asked(self) -> tuple[object, ...]:
        """Return all settings that lookups depend on."""
        service = self._service
        return self._chain, service.lookup_names, service.drop, service.dns, self.task.config.dns

    def _stderr(self) -> int | Literal["socket", "inherit"]:
        for _, fd in self._fds.pop("stderr", ()):
            return fd
        return "socket" if self._service.stderr == "socket" else "inherit"
