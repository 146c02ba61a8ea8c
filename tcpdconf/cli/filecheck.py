"""Reads a service's files as its worker would, in a process with the service's rights.

Nothing is executed: a file for a shell is not sourced. The process's output is validated, since that process
has read files that others may have written.
"""

import functools
import json
import os
import select
import sys
from collections.abc import Iterator, Sequence
from typing import Final, NamedTuple

import pydantic

from tcpdconf.config import codes, host, problems
from tcpdconf.config.load.loaded import Loaded
from tcpdconf.config.model.service import ServiceSettings
from tcpdconf.daemon.descriptors import WorkerDescriptors
from tcpdconf.daemon.messages.assignment import Role
from tcpdconf.daemon.process import child, privileges
from tcpdconf.daemon.worker import environment_files
from tcpdconf.daemon.worker import files as service_files
from tcpdconf.policy.access import file as access_file
from tcpdconf.policy.access.file import AccessFileError
from tcpdconf.policy.access.table import AccessTable

_PATIENCE: Final = 1.0  # seconds before a user at a terminal is told what takes so long
_MOST: Final = 1 << 20  # bytes of a process's output
_EXAMPLES: Final = 3

File = tuple[Role, int]


class FileFinding(NamedTuple):
    """Describes one problem of a file: the key that names the file, and the place in the file if known.

    `line` and `column` count from 1; both are 0 if the value of the key is meant.
    """

    key: tuple[str | int, ...]
    text: str
    code: codes.Code
    severity: problems.Severity = "error"
    file: str = ""
    line: int = 0
    column: int = 0
    source: str = ""


def read(
    loaded: Loaded,
    name: str,
    settings: ServiceSettings,
    who: host.Identity,
    given: WorkerDescriptors,
) -> Iterator[problems.Problem]:
    """Yield the problems of a service's opened files, and warnings about strange records."""
    files = [
        (role, fd)
        for role, fd in zip(given.roles, given.fds, strict=True)
        if role.kind == "access"
        or (role.kind == "environment" and not settings.environment_files[role.place].shell)
    ]
    if not files:
        return
    for found in _in_a_process(name, settings, who, files):
        key = ("services", name, *found.key)
        problem = loaded.problem(key, found.text, found.code, found.severity)
        if found.line:
            yield problems.Problem(
                found.file, found.line, found.column, problem.key, found.text, found.code, found.severity,
                source=found.source,
            )  # fmt: skip
        else:
            yield problem


def _in_a_process(
    name: str, settings: ServiceSettings, who: host.Identity, files: Sequence[File]
) -> list[FileFinding]:
    """Read the files in a forked process; return its findings."""
    ours, theirs = os.pipe()
    try:
        work = functools.partial(_read_files, theirs, settings, who, files)
        pid = child.fork(work, {theirs, *(fd for _, fd in files)})
    except OSError as error:
        os.close(ours)
        return [FileFinding((), f"cannot read its files: {error.strerror}", "cannot-use")]
    finally:
        os.close(theirs)
    try:
        said = _output(ours, name)
    finally:
        os.close(ours)
        _, status = os.waitpid(pid, 0)
    found = _parsed(said)
    if found is None or status:
        how = os.waitstatus_to_exitcode(status)
        text = f"cannot read its files: the process that reads them fails (status {how})"
        return [FileFinding((), text, "cannot-use")]
    return found


def _output(end: int, name: str) -> bytes:
    """Return all output of the process; tell a user at a terminal if that takes long."""
    said = b""
    told = not sys.stderr.isatty()
    while len(said) <= _MOST:
        if not told and not select.select([end], [], [], _PATIENCE)[0]:
            sys.stderr.write(f"reading the files of {name} ...\n")
            told = True
        data = os.read(end, 65536)
        if not data:
            break
        said += data
    return said


def _read_files(end: int, settings: ServiceSettings, who: host.Identity, files: Sequence[File]) -> int:
    """Read the files, and write the findings as JSON."""
    if privileges.may_become(who):
        privileges.become(who)
    found = [*_access(settings, files), *_variables(settings, files)]
    with open(end, "wb") as file:
        file.write(
            json.dumps(found, ensure_ascii=False).encode(errors="replace")
        )  # names may contain any bytes
    return 0


def _parsed(said: bytes) -> list[FileFinding] | None:
    """Return the findings, or None if the output is not a list of them."""
    try:
        return pydantic.TypeAdapter(list[FileFinding]).validate_json(said)
    except pydantic.ValidationError:
        return None


def _access(settings: ServiceSettings, files: Sequence[File]) -> Iterator[FileFinding]:
    for index, source in enumerate(settings.access):
        opened = [(role.path, fd) for role, fd in files if role.kind == "access" and role.place == index]
        if not opened:
            continue
        key = ("access", index, "file")
        contents: list[tuple[str, bytes]] = []
        try:
            contents = service_files.contents(opened)
            table = access_file.read(contents, source)
        except AccessFileError as error:
            yield _wrong(key, error, contents)
        else:
            yield from _odd(key, source.file or "", table)


def _wrong(
    key: tuple[str | int, ...], error: AccessFileError, read: Sequence[tuple[str, bytes]]
) -> FileFinding:
    """Return a finding for an error, at its place in the file if it has one."""
    place = service_files.place(error, read, _MOST // 16)
    if place is None:
        return FileFinding(key, f"cannot load access rules: {error}", "wrong-access-file")
    return FileFinding(
        key, place.text, "wrong-access-file", "error", error.path, place.line, place.column, place.source
    )


def _odd(key: tuple[str | int, ...], path: str, table: AccessTable) -> Iterator[FileFinding]:
    if table.dead:
        some = ", ".join(table.dead[:_EXAMPLES])
        text = f"{path} has records that match no address: {len(table.dead)}, such as {some}"
        yield FileFinding(key, text, "odd-records", "warning")
    for doubt in table.doubts[:_EXAMPLES]:
        yield FileFinding(
            key, f"{path} has a record with a doubtful value: {doubt}", "odd-records", "warning"
        )


def _variables(settings: ServiceSettings, files: Sequence[File]) -> Iterator[FileFinding]:
    for role, fd in files:
        if role.kind != "environment":
            continue
        try:
            environment_files.read(settings.environment_files[role.place], fd, {})
        except environment_files.EnvironmentFileError as error:
            yield FileFinding(("environment_files", role.place, "path"), str(error), "wrong-environment-file")
