"""Checks a configuration against this host: users, port names, files, programs, colliding addresses.

It opens no file, makes no socket and starts no program.
"""

import itertools
import os
import stat
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final

from tcpdconf.config import collisions, host, positions, problems
from tcpdconf.config.load.loaded import Loaded
from tcpdconf.config.model import notations, tables
from tcpdconf.config.model.service import Service, ServiceSettings
from tcpdconf.config.near import near

Services = Mapping[str, ServiceSettings]

_DENIED: Final = "Permission denied"
_MANY: Final = 20_000  # names in a folder that are compared, at most
_HASTY: Final = 3  # seconds; a lost first packet of a PROXY header is sent again after one
# they start as root and become the user who has logged in
_NEED_ROOT: Final = frozenset({"imaplogin", "pop3login"})
_BINARIES: Final = (
    "/usr/sbin",
    "/usr/bin",
    "/usr/lib/courier",
    "/usr/lib/courier/courier",
    "/usr/local/sbin",
    "/usr/local/bin",
)


def check(loaded: Loaded, services: Services | None = None) -> list[problems.Problem]:
    """Return the problems of the enabled services on this host: errors and warnings.

    `services` defaults to those of the configuration. For an incomplete service only errors are returned: a
    key that is missing so far is no reason for a warning.
    """
    services = dict(loaded.config.services) if services is None else services
    enabled = {name: service for name, service in services.items() if service.enabled}
    found: list[problems.Problem] = []
    for name, service in enabled.items():
        key: positions.Key = ("services", name)
        mine = [
            *_identity(loaded, key, service),
            *_files(loaded, key, service),
            *_listeners(loaded, key, service),
            *_program(loaded, key, service),
        ]
        whole = isinstance(service, Service)
        found += [problem for problem in mine if whole or problem.severity == "error"]
    pairs = collisions.pairs(_bound(enabled))
    return [*found, *(_collision(loaded, bound, other) for bound, other in pairs)]


def _identity(loaded: Loaded, key: positions.Key, service: ServiceSettings) -> Iterator[problems.Problem]:
    for error in _unknown_names(service):
        yield loaded.problem((*key, error.key), str(error), error.code, hint=error.hint, meant=error.meant)
    if service.user is None and os.geteuid() == 0:
        yield loaded.problem(key, "runs as root", "runs-as-root", "warning", hint=_root_hint(service))


def _root_hint(service: ServiceSettings) -> str:
    """Return advice for a service without a user: some programs have to start as root."""
    names = {os.path.basename(word) for word in service.program or ()}
    needing = sorted(names & _NEED_ROOT)
    if needing:
        return f'{needing[0]} needs root to become the user who logs in: write user = "root"'
    return (
        'write user = "NAME", the account that the program was written for; '
        'user = "root" if it becomes another user itself'
    )


def _unknown_names(service: ServiceSettings) -> Iterator[host.UnknownNameError]:
    """Yield the errors that `identity` raises for user and for group, each on its own."""
    only_user = service.model_copy(update={"group": None if service.group is None else 0})
    only_group = service.model_copy(update={"user": None})
    for part in (only_user, only_group):
        try:
            host.identity(part)
        except host.UnknownNameError as error:
            yield error


def _files(loaded: Loaded, key: positions.Key, service: ServiceSettings) -> Iterator[problems.Problem]:
    if not Path(service.directory).is_dir():
        is_there = Path(service.directory).exists()
        text = (
            f"{service.directory} is no directory"
            if is_there
            else f"there is no directory {service.directory}"
        )
        yield _missing(loaded, (*key, "directory"), text, service.directory)
    for index, source in enumerate(service.access):
        if source.file is not None and (reason := _unreadable(source.file, directory=True)):
            yield _unread(loaded, (*key, "access", index, "file"), source.file, reason)
    for index, file in enumerate(service.environment_files):
        where = (*key, "environment_files", index, "path")
        if reason := _unreadable(file.path, directory=False):
            yield _unread(loaded, where, file.path, reason)


def _unread(loaded: Loaded, key: positions.Key, path: str, reason: str) -> problems.Problem:
    """Return a problem of a file that cannot be read; the daemon may be able to read it."""
    text = f"cannot read {path}: {reason}"
    if reason == _DENIED and os.geteuid() != 0:
        hint = "check as root"
        return loaded.problem(key, f"{text}, so it is not checked", "missing-file", "warning", hint=hint)
    return _missing(loaded, key, text, path)


def _missing(loaded: Loaded, key: positions.Key, text: str, path: str) -> problems.Problem:
    """Return a problem of a missing file, with the path that was probably meant."""
    meant = None if Path(path).exists() else _near_path(path)
    if meant is None:
        return loaded.problem(key, text, "missing-file")
    quoted = notations.quoted(meant)
    if key[-1] == "path" and loaded.origin(key) is None:  # written as a bare path
        key = key[:-1]
    return loaded.problem(key, text, "missing-file", hint=f"did you mean {quoted}?", meant=quoted)


def _near_path(path: str, *folders: str) -> str | None:
    """Return an existing path that differs only by a slip in its name or folder, or None."""
    folder, name = os.path.split(path)
    for other in folders:
        if os.path.isfile(f"{other}/{name}"):
            return f"{other}/{name}"
    try:
        with os.scandir(folder) as entries:  # a folder may be huge, and the daemon waits
            names = [entry.name for entry in itertools.islice(entries, _MANY + 1)]
    except OSError:
        return None
    found = near(name, names, 0.8) if len(names) <= _MANY else None
    return None if found is None else os.path.join(folder, found)


def _unreadable(path: str, *, directory: bool) -> str | None:
    """Return why this process cannot read a file, or None if it can."""
    try:
        is_directory = stat.S_ISDIR(os.stat(path).st_mode)
    except OSError as error:
        return error.strerror
    if is_directory and not directory:
        return "Is a directory"
    wanted = os.R_OK | (os.X_OK if is_directory else 0)
    return None if os.access(path, wanted, effective_ids=True) else _DENIED


def _program(loaded: Loaded, key: positions.Key, service: ServiceSettings) -> Iterator[problems.Problem]:
    if service.program is None:
        return
    path, where = service.program[0], (*key, "program", 0)
    if not Path(path).exists():
        found = _near_path(path, *_BINARIES)
        meant = _words(path) if found is None else notations.quoted(found)
        hint = None if meant is None else f"did you mean {meant}?"
        if found is None and meant is not None:
            hint = f"write each word as an element: {meant}"
        text = f"there is no program {path}"
        yield loaded.problem(where, text, "missing-program", "warning", hint=hint, meant=meant)
    elif Path(path).is_dir():
        text = f"{path} is a directory, not a program"
        yield loaded.problem(where, text, "missing-program", hint="write the path of the program itself")
    elif not Path(path).is_file() or not os.access(path, os.X_OK):
        yield loaded.problem(where, f"{path} is not executable", "missing-program", "warning")


def _words(path: str) -> str | None:
    """Return the elements of a command written in one string, as TOML, or None."""
    first, blank, rest = path.partition(" ")
    is_command = bool(blank) and Path(first).is_file()
    return ", ".join(map(notations.quoted, [first, *rest.split()])) if is_command else None


def _listeners(loaded: Loaded, key: positions.Key, service: ServiceSettings) -> Iterator[problems.Problem]:
    for index, listener in enumerate(service.listeners):
        where = (*key, "listeners", index)
        try:
            host.port_number(listener.port)
        except host.UnknownNameError as error:
            yield loaded.problem((*where, "port"), str(error), error.code, hint=error.hint, meant=error.meant)
        if listener.haproxy is not None:
            yield from _haproxy(loaded, (*where, "haproxy"), listener.haproxy)
    limits = service.limits
    for name in ("max_per_ip", "max_per_network"):
        most = getattr(limits, name)
        if most is not None and most > limits.max_connections:
            text = f"{most} is more than max_connections ({limits.max_connections}), so it limits nobody"
            hint = "write a smaller number, or raise max_connections"
            yield loaded.problem((*key, "limits", name), text, "limits-nobody", "warning", hint=hint)
    exposed = any(not collisions.is_loopback(listener.address) for listener in service.listeners)
    if exposed and service.limits.max_per_ip is None:
        text = f"one address may take all {service.limits.max_connections} connections"
        yield loaded.problem(
            (*key, "limits"), text, "no-limit-per-address", "warning", hint="set limits.max_per_ip"
        )


def _haproxy(loaded: Loaded, key: positions.Key, haproxy: tables.HAProxy) -> Iterator[problems.Problem]:
    if haproxy.trusted == "any":
        text = "whoever reaches this port can claim any address"
        hint = "list the addresses of the proxies"
        yield loaded.problem((*key, "trusted"), text, "trusts-everybody", "warning", hint=hint)
    if haproxy.timeout < _HASTY:
        text = f"a header whose packet is lost once comes too late after {haproxy.timeout:g} s"
        yield loaded.problem(
            (*key, "timeout"), text, "short-timeout", "warning", hint=f"set {_HASTY} or more"
        )


def _bound(services: Services) -> Iterator[collisions.Bound]:
    for name, service in services.items():
        for index, listener in enumerate(service.listeners):
            try:
                port = host.port_number(listener.port)
            except host.UnknownNameError:
                continue
            yield collisions.Bound(name, index, collisions.unmapped(listener.address), port)


def _collision(loaded: Loaded, bound: collisions.Bound, other: collisions.Bound) -> problems.Problem:
    first = loaded.problem(
        ("services", other.service, "listeners", other.listener, "port"), "", "duplicate-listener"
    )
    text = (
        f"{bound} is taken by services.{other.service}, which listens on {other} "
        f"at {first.file}:{first.line}:{first.column}"
    )
    key = ("services", bound.service, "listeners", bound.listener, "port")
    return loaded.problem(key, text, "duplicate-listener")
