"""Makes what a worker serves with, from its assignment and its descriptors.

It runs in the worker, with the service's rights; what it reads was opened by the supervisor.
"""

import socket

from tcpdconf.daemon import (
    assignment,
    ledger,
    log,
    lookups,
    loop,
    material,
    overflow,
    program,
    resolver,
    server,
)


class Equipment:
    """What a service needs to be served, from an assignment and its descriptors; notes all failures."""

    def __init__(self, task: assignment.Assignment, fds: list[int]) -> None:
        log.set_level(task.config.daemon.log_level)
        self.lookups: lookups.Lookups | None = None  # made with the server
        self._task = task
        self._service = task.service
        self._fds: dict[str, list[tuple[assignment.Role, int]]] = {}
        for role, fd in zip(task.roles, fds, strict=True):
            self._fds.setdefault(role.kind, []).append((role, fd))
        self._material = material.Material(task, zip(task.roles, fds, strict=True))
        self.failures = self._material.failures

    def server(self, events: loop.Loop) -> server.Server | None:
        """The server, or None when there are failures. Descriptors that only had to be read are closed."""
        service, files = self._service, self._material
        files.enter_directory()
        sources, chain, base = files.sources(), files.chain(), files.base()
        files.close()
        if self.failures or chain is None:
            return None
        if service.lookup_names or service.dns_lists:
            asked = resolver.Resolver(events, files.name_servers())
            self.lookups = lookups.Lookups(events, self._task.name, service, chain=chain, asked=asked)
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
            text = f"cannot run {path}: {error.strerror}"
            self.failures.append(assignment.Failure(("program", 0), text))

    def overflow(self, events: loop.Loop) -> overflow.Overflow | None:
        """What keeps the logger's pipe from filling up, when there is a logger."""
        found = self._fds.get("overflow")
        return overflow.Overflow(events, self._task.name, found[0][1]) if found else None

    def _stderr(self) -> int | None:
        """The descriptor that is the program's standard error; None when that is the connection."""
        if self._service.stderr == "socket":
            return None
        return self._fds["stderr"][0][1] if "stderr" in self._fds else 2
