"""What a configuration means on this host: users, port names, files, addresses that collide.

Nothing is opened, no socket is made, no program started.
"""

import grp
import os
import pwd
import stat
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Final, Literal, NamedTuple

from tcpdconf.config import codes, collisions, model, ports, positions, problems, tables

if TYPE_CHECKING:
    from tcpdconf.config import load

Services = Mapping[str, model.ServiceSettings]

_DENIED: Final = "Permission denied"
_HASTY: Final = 3  # seconds; a lost first packet of a PROXY header is sent again after one


_UNKNOWN: Final[dict[str, codes.Code]] = {
    "user": "unknown-user",
    "group": "unknown-group",
    "port": "unknown-port",
}


class Identity(NamedTuple):
    """Who a service runs as; None leaves what the daemon is. `groups` are the supplementary groups."""

    uid: int | None
    gid: int | None
    groups: tuple[int, ...]
    name: str | None


class UnknownNameError(LookupError):
    """The host does not know a name; `key` of the service has it, `hint` says what was meant."""

    def __init__(self, text: str, key: Literal["user", "group", "port"], hint: str | None = None) -> None:
        super().__init__(text)
        self.key = key
        self.code = _UNKNOWN[key]
        self.hint = hint


def identity(service: model.ServiceSettings) -> Identity:
    """The user and groups of a service: the user's own from the group database, `group` as the first.

    Raises:
        UnknownNameError: the user or the group does not exist (a LookupError).
    """
    gid = None if service.group is None else _group(service.group)
    if service.user is None:
        return Identity(None, gid, (), None)
    account = _account(service.user)
    if account is not None:
        first = account.pw_gid if gid is None else gid
        return Identity(
            account.pw_uid, first, tuple(os.getgrouplist(account.pw_name, first)), account.pw_name
        )
    if gid is None:
        text = f"user {service.user} is not in the user database, so it needs a group"
        raise UnknownNameError(text, "user", 'add group = "..."')
    return Identity(int(service.user), gid, (gid,), None)


def _account(user: int | str) -> pwd.struct_passwd | None:
    try:
        return pwd.getpwuid(user) if isinstance(user, int) else pwd.getpwnam(user)
    except KeyError:
        if isinstance(user, int):
            return None
        hint = _meant(user, [account.pw_name for account in pwd.getpwall()])
        raise UnknownNameError(f'unknown user "{user}"', "user", hint) from None


def _group(group: int | str) -> int:
    if isinstance(group, int):
        return group
    try:
        return grp.getgrnam(group).gr_gid
    except KeyError:
        hint = _meant(group, [entry.gr_name for entry in grp.getgrall()])
        raise UnknownNameError(f'unknown group "{group}"', "group", hint) from None


def port_number(port: int | str) -> int:
    """The number of a port: itself, or what the services database says, or a well-known mail port.

    Raises:
        UnknownNameError: nobody knows the name (a LookupError).
    """
    if isinstance(port, int):
        return port
    try:
        return ports.number(port)
    except LookupError:
        hint = _meant(port, list(ports.MAIL)) or "write the number of the port"
        raise UnknownNameError(f'unknown port name "{port}"', "port", hint) from None


def _meant(word: str, known: list[str]) -> str | None:
    from tcpdconf.config import wording  # noqa: PLC0415 (needed for problems only)

    meant = wording.near(word, known)
    return f'did you mean "{meant}"?' if meant else None


def check(loaded: "load.Loaded", services: Services | None = None) -> list[problems.Problem]:
    """What this host says against the enabled services: errors, and warnings about what is doubtful.

    `services` are those of the configuration when left out. Of one that is not whole, only errors are found:
    what it lacks is no reason for a warning.
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
        whole = isinstance(service, model.Service)
        found += [problem for problem in mine if whole or problem.severity == "error"]
    pairs = collisions.pairs(_bound(enabled))
    return [*found, *(_collision(loaded, bound, other) for bound, other in pairs)]


def _identity(
    loaded: "load.Loaded", key: positions.Key, service: model.ServiceSettings
) -> Iterator[problems.Problem]:
    for error in _unknown_names(service):
        yield loaded.problem((*key, error.key), str(error), error.code, hint=error.hint)
    if service.user is None and os.geteuid() == 0:
        yield loaded.problem(key, "runs as root", "runs-as-root", "warning", hint='set user = "..."')


def _unknown_names(service: model.ServiceSettings) -> Iterator[UnknownNameError]:
    """What `identity` would stop at, in user and group both."""
    only_user = service.model_copy(update={"group": None if service.group is None else 0})
    only_group = service.model_copy(update={"user": None})
    for part in (only_user, only_group):
        try:
            identity(part)
        except UnknownNameError as error:
            yield error


def _files(
    loaded: "load.Loaded", key: positions.Key, service: model.ServiceSettings
) -> Iterator[problems.Problem]:
    if not Path(service.directory).is_dir():
        yield loaded.problem(
            (*key, "directory"), f"there is no directory {service.directory}", "missing-file"
        )
    for index, source in enumerate(service.access):
        if source.file is not None and (reason := _unreadable(source.file, directory=True)):
            yield _missing(loaded, (*key, "access", index, "file"), source.file, reason)
    for index, file in enumerate(service.environment_files):
        where = (*key, "environment_files", index, "path")
        if reason := _unreadable(file.path, directory=False):
            yield _missing(loaded, where, file.path, reason)


def _missing(loaded: "load.Loaded", key: positions.Key, path: str, reason: str) -> problems.Problem:
    """Make a problem of a file that cannot be read; the daemon may read what this process may not."""
    text = f"cannot read {path}: {reason}"
    if reason == _DENIED and os.geteuid() != 0:
        hint = "check as root"
        return loaded.problem(key, f"{text}, so it is not checked", "missing-file", "warning", hint=hint)
    return loaded.problem(key, text, "missing-file")


def _unreadable(path: str, *, directory: bool) -> str | None:
    """Why a file cannot be read by who asks; None when it can."""
    try:
        is_directory = stat.S_ISDIR(os.stat(path).st_mode)
    except OSError as error:
        return error.strerror
    if is_directory and not directory:
        return "Is a directory"
    wanted = os.R_OK | (os.X_OK if is_directory else 0)
    return None if os.access(path, wanted, effective_ids=True) else _DENIED


def _program(
    loaded: "load.Loaded", key: positions.Key, service: model.ServiceSettings
) -> Iterator[problems.Problem]:
    if service.program is None:
        return
    path, where = service.program[0], (*key, "program", 0)
    if not Path(path).exists():
        yield loaded.problem(where, f"there is no program {path}", "missing-program", "warning")
    elif not Path(path).is_file() or not os.access(path, os.X_OK):
        yield loaded.problem(where, f"{path} is not executable", "missing-program", "warning")


def _listeners(
    loaded: "load.Loaded", key: positions.Key, service: model.ServiceSettings
) -> Iterator[problems.Problem]:
    for index, listener in enumerate(service.listeners):
        where = (*key, "listeners", index)
        try:
            port_number(listener.port)
        except UnknownNameError as error:
            yield loaded.problem((*where, "port"), str(error), error.code, hint=error.hint)
        if listener.haproxy is not None:
            yield from _haproxy(loaded, (*where, "haproxy"), listener.haproxy)
    exposed = any(not collisions.is_loopback(listener.address) for listener in service.listeners)
    if exposed and service.limits.max_per_ip is None:
        text = f"one address may take all {service.limits.max_connections} connections"
        yield loaded.problem(
            (*key, "limits"), text, "no-limit-per-address", "warning", hint="set limits.max_per_ip"
        )


def _haproxy(
    loaded: "load.Loaded", key: positions.Key, haproxy: tables.HAProxy
) -> Iterator[problems.Problem]:
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
                port = port_number(listener.port)
            except UnknownNameError:
                continue
            yield collisions.Bound(name, index, collisions.unmapped(listener.address), port)


def _collision(loaded: "load.Loaded", bound: collisions.Bound, other: collisions.Bound) -> problems.Problem:
    first = loaded.problem(
        ("services", other.service, "listeners", other.listener, "port"), "", "duplicate-listener"
    )
    text = (
        f"{bound} is taken by services.{other.service}, which listens on {other} "
        f"at {first.file}:{first.line}:{first.column}"
    )
    key = ("services", bound.service, "listeners", bound.listener, "port")
    return loaded.problem(key, text, "duplicate-listener")
