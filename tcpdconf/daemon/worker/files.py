"""Reads the files of a service: access rules, environment files, zone files.

The reader runs with the service's rights: it is a worker, or a process that checks a configuration. A process
that may have more rights has opened the files.
"""

import os
from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, Final

from tcpdconf.config.courier import databases
from tcpdconf.config.model import tables
from tcpdconf.daemon.dns import resolvconf, resolvfile
from tcpdconf.daemon.messages.assignment import Assignment, Failure, FilePlace, Role
from tcpdconf.daemon.process import channel, descriptors, log
from tcpdconf.daemon.worker import environment_files
from tcpdconf.policy import decision, environ
from tcpdconf.policy.access import file as access_file
from tcpdconf.policy.access import table as access_table
from tcpdconf.policy.access.file import AccessFileError
from tcpdconf.policy.access.table import AccessTable, DuplicateRuleError
from tcpdconf.policy.dns import chain as dns_chain
from tcpdconf.policy.dns.chain import Chain

if TYPE_CHECKING:
    from tcpdconf.config.model.service import Service

READ: Final = ("access", "environment", "zone")
_LARGEST_ACCESS: Final = 1 << 28  # bytes in all files of a source: ten times what a million networks need
_LARGEST_ZONE: Final = 4096
_LONGEST_LINE: Final = 200  # most characters of a line in a worker's message, which has a limit


Origin = tuple[int, str, tuple[Role, ...]]
"""Identifies the input of an access source: its place, its settings, and its files with their signatures."""

Compiled = Mapping[Origin, decision.NamedTable]
_NOTHING: Final[Compiled] = MappingProxyType({})


def contents(opened: Iterable[tuple[str, int]]) -> list[tuple[str, bytes]]:
    """Return path and content of each file of an access source, from its path and descriptor.

    Raises:
        AccessFileError: a file cannot be read, or all together are too large.
    """
    found = []
    left = _LARGEST_ACCESS
    for path, fd in opened:
        try:
            content = descriptors.content(fd, left)
        except OSError as error:
            raise AccessFileError(path, "", str(error.strerror)) from None
        found.append((path, content))
        left -= len(content)
    return found


def place(
    error: AccessFileError, read: Iterable[tuple[str, bytes]], most: int = _LONGEST_LINE
) -> FilePlace | None:
    """Return the place of an error in the files that were read; None if the error has no line.

    The text of a line of more than `most` characters is left out.
    """
    if not error.line:
        return None
    lines = dict(read).get(error.path, b"").split(b"\n")
    line = b"".join(lines[error.line - 1 : error.line]).removesuffix(b"\r").decode(errors="replace")
    text = f"cannot load access rules: {error.text}"
    return FilePlace(error.path, error.line, error.column, line if len(line) <= most else "", text)


class ServiceFiles:
    """Reads the files of one service, each given by its role and descriptor, and collects all failures."""

    def __init__(self, task: Assignment, given: Iterable[tuple[Role, int]]) -> None:
        self.failures: list[Failure] = []
        self._task = task
        self._service: Service = task.service
        self._files = [(role, fd) for role, fd in given if role.kind in READ]
        self._resolv_conf = resolvfile.File()

    def enter_directory(self) -> None:
        """Take on the service's directory and umask, which shell files may look at."""
        if not self._task.ways.enters_directory:
            return
        if self._service.umask is not None:
            os.umask(self._service.umask)
        try:
            os.chdir(self._service.directory)
        except OSError as error:
            self._fail(("directory",), f"cannot enter {self._service.directory}: {error.strerror}")

    def sources(self, known: Compiled = _NOTHING) -> list[decision.NamedTable]:
        """Return the access sources, compiled unless they are in `known`.

        A source that cannot be read yields a failure and an empty table.
        """
        return [
            known.get(origin) or self._source(index, self._service.access[index])
            for index, origin in enumerate(self.origins())
        ]

    def origins(self) -> list[Origin]:
        """Return the origin of each access source."""
        roles = [role for role in self._task.roles if role.kind == "access"]
        return [
            (
                index,
                source.model_dump_json(exclude={"enforce"}),  # which changes no rule
                tuple(role for role in roles if role.place == index),
            )
            for index, source in enumerate(self._service.access)
        ]

    def access(self, index: int) -> list[tuple[str, bytes]]:
        """Return path and content of each file of one access source.

        Raises:
            AccessFileError: a file cannot be read, or all together are too large.
        """
        return contents(
            (role.path, fd) for role, fd in self._files if role.kind == "access" and role.place == index
        )

    def base(self) -> dict[str, str]:
        """Return the environment that every program gets."""
        found: dict[str, str] = {}
        for role, fd in self._files:
            if role.kind == "environment":
                found = self._variables(role, fd, found)
        return environ.base(self._service, self._task.environment, found, self._task.ways)

    def chain(self) -> Chain | None:
        """Return the DNS lists; None, and a failure, if a zone or key file cannot be used."""
        zones = {role.path: self._zone(role, fd) for role, fd in self._files if role.kind == "zone"}
        if None in zones.values():
            return None
        known = {path: zone for path, zone in zones.items() if zone is not None}
        chains = self._task.config.dns_chains
        wrong = dns_chain.wrong_keys(self._service, chains, known)
        for path in wrong:
            self._fail(("dns_lists",), f"cannot use {path}: holds no key of a DNS list")
        return None if wrong else dns_chain.build(self._service, chains, known)

    def name_servers(self) -> resolvconf.ResolverSettings:
        """Return the resolver settings: the servers to ask, and how."""
        return resolvconf.settings(self._task.config.dns, self._resolv_conf.read())

    def new_name_servers(self) -> resolvconf.ResolverSettings | None:
        """Return the new settings if resolv.conf has changed since it was read, else None."""
        return self.name_servers() if self._resolv_conf.changed else None

    def close(self) -> None:
        """Close the files."""
        channel.close_all([fd for _, fd in self._files])
        self._files = []

    def _fail(self, key: tuple[str | int, ...], text: str, place: FilePlace | None = None) -> None:
        self.failures.append(Failure(key, text, place))

    def _source(self, index: int, source: tables.AccessSource) -> decision.NamedTable:
        table = AccessTable()
        read: list[tuple[str, bytes]] = []
        try:
            if source.rules is not None:
                table = access_table.build(source.rules)
            else:
                read = self.access(index)
                if self._task.ways.reads_databases_only and read:
                    form = databases.recognise(read[0][1]) or "gdbm"
                    source = source.model_copy(update={"format": form})
                table = access_file.read(read, source)
        except DuplicateRuleError as error:
            self._fail(("access", index, "rules", error.index), str(error))
        except AccessFileError as error:
            self._fail(("access", index, "file"), f"cannot load access rules: {error}", place(error, read))
        if table.dead:
            some = ", ".join(table.dead[:3])
            log.warning(
                "records that match no address", source=source.file, count=len(table.dead), such_as=some
            )
        if table.doubts:
            log.warning("records with doubtful values", source=source.file, such_as=table.doubts[0])
        return decision.NamedTable(source.file or f"access[{index}]", table)

    def _variables(self, role: Role, fd: int, before: dict[str, str]) -> dict[str, str]:
        try:
            return environment_files.read(self._service.environment_files[role.place], fd, before)
        except environment_files.EnvironmentFileError as error:
            self._fail(("environment_files", role.place), str(error))
        return before

    def _zone(self, role: Role, fd: int) -> str | None:
        try:
            return dns_chain.zone(descriptors.content(fd, _LARGEST_ZONE))
        except ValueError as error:
            self._fail(("dns_lists",), f"cannot use {role.path}: {error}")
        except OSError as error:
            self._fail(("dns_lists",), f"cannot use {role.path}: {error.strerror}")
        return None
