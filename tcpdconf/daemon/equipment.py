"""Makes what a worker serves with, from its assignment: the files are read, the rules compiled.

It runs in the worker, with the service's rights; what it reads was opened by the supervisor.
"""

import os
import socket

from tcpdconf.config import tables
from tcpdconf.daemon import (
    assignment,
    channel,
    environment,
    ledger,
    log,
    lookups,
    loop,
    overflow,
    program,
    resolvconf,
    resolver,
    server,
)
from tcpdconf.policy import access, accessfile, decision, dnschain, environ


class Equipment:
    """What a service needs to be served, from an assignment and its descriptors; notes all failures."""

    def __init__(self, task: assignment.Assignment, fds: list[int]) -> None:
        log.set_level(task.config.daemon.log_level)
        self.failures: list[assignment.Failure] = []
        self.lookups: lookups.Lookups | None = None  # made with the server
        self._task = task
        self._service = task.service
        self._fds: dict[str, list[tuple[assignment.Role, int]]] = {}
        for role, fd in zip(task.roles, fds, strict=True):
            self._fds.setdefault(role.kind, []).append((role, fd))

    def server(self, events: loop.Loop) -> server.Server | None:
        """The server, or None when there are failures. Descriptors that only had to be read are closed."""
        service = self._service
        self._enter_directory()
        sources = [self._source(index, source) for index, source in enumerate(service.access)]
        zones = {role.path: self._zone(role, fd) for role, fd in self._fds.get("zone", ())}
        files: dict[str, str] = {}
        for role, fd in self._fds.get("environment", ()):
            files = self._variables(role, fd, files)
        channel.close_all(
            [fd for kind in ("access", "environment", "zone") for _, fd in self._fds.get(kind, ())]
        )
        if self.failures:
            return None
        self.lookups = self._asking(events, zones)
        base = environ.base(service, self._task.environment, files)
        return server.Server(
            name=self._task.name,
            service=service,
            listeners=[
                (socket.socket(fileno=fd), service.listeners[role.place].haproxy)
                for role, fd in self._fds.get("listener", ())
            ],
            sources=sources,
            base=base,
            runner=program.Program(service.program, base, self._stderr(), service.rlimits),
            lookups=self.lookups,
            events=events,
            held=ledger.Ledger(self._fds["ledger"][0][1], service.limits.max_connections),
        )

    def try_program(self) -> None:
        """Note a failure when this process could not execute the program."""
        path = self._service.program[0]
        try:
            program.check(path)
        except OSError as error:
            self._fail(("program", 0), f"cannot run {path}: {error.strerror}")

    def overflow(self, events: loop.Loop) -> overflow.Overflow | None:
        """What keeps the logger's pipe from filling up, when there is a logger."""
        found = self._fds.get("overflow")
        return overflow.Overflow(events, self._task.name, found[0][1]) if found else None

    def _fail(self, key: tuple[str | int, ...], text: str) -> None:
        self.failures.append(assignment.Failure(key, text))

    def _enter_directory(self) -> None:
        if self._service.umask is not None:
            os.umask(self._service.umask)
        try:
            os.chdir(self._service.directory)
        except OSError as error:
            self._fail(("directory",), f"cannot enter {self._service.directory}: {error.strerror}")

    def _source(self, index: int, source: tables.AccessSource) -> decision.Source:
        """A compiled access source; an empty one, and a failure, where it cannot be read."""
        table = access.AccessTable()
        try:
            if source.rules is not None:
                table = access.build(source.rules)
            else:
                files = [
                    (role.path, _content(fd))
                    for role, fd in self._fds.get("access", ())
                    if role.place == index
                ]
                table = accessfile.read(files, source)
        except access.DuplicateRuleError as error:
            self._fail(("access", index, "rules", error.index), str(error))
        except (accessfile.AccessFileError, OSError) as error:
            self._fail(("access", index, "file"), f"cannot load access rules: {error}")
        if table.dead:
            some = ", ".join(table.dead[:3])
            log.warning("records that match nobody", source=source.file, count=len(table.dead), such_as=some)
        return decision.Source(source.file or f"access[{index}]", table)

    def _variables(self, role: assignment.Role, fd: int, before: dict[str, str]) -> dict[str, str]:
        try:
            return environment.read(self._service.environment_files[role.place], fd, before)
        except environment.EnvironmentFileError as error:
            self._fail(("environment_files", role.place), f"cannot read {role.path}: {error}")
            return before

    def _zone(self, role: assignment.Role, fd: int) -> str:
        try:
            return dnschain.zone(_content(fd))
        except (ValueError, OSError) as error:
            self._fail(("dns_lists",), f"cannot use {role.path}: {error}")
            return ""

    def _asking(self, events: loop.Loop, zones: dict[str, str]) -> lookups.Lookups | None:
        """What asks about the connections, when anything is wanted."""
        config, service = self._task.config, self._service
        if not service.lookup_names and not service.dns_lists:
            return None
        chain = dnschain.build(service, config.dns_chains, zones)
        settings = resolvconf.settings(config.dns, _resolv_conf())
        return lookups.Lookups(
            events, self._task.name, service, chain=chain, asked=resolver.Resolver(events, settings)
        )

    def _stderr(self) -> int | None:
        """The descriptor that is the program's standard error; None when that is the connection."""
        if self._service.stderr == "socket":
            return None
        return self._fds["stderr"][0][1] if "stderr" in self._fds else 2


def _resolv_conf() -> str:
    try:
        with open("/etc/resolv.conf", encoding="utf-8", errors="replace") as file:
            return file.read(65536)
    except OSError:
        return ""


def _content(fd: int) -> bytes:
    with os.fdopen(os.dup(fd), "rb") as file:
        return file.read()
