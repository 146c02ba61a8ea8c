"""Looks up users, groups and port names of this host.

For an unknown name it suggests the one that was probably meant.
"""

import grp
import os
import pwd
from typing import Final, Literal, NamedTuple

from tcpdconf.config import codes, ports
from tcpdconf.config.model import fields, notations, values
from tcpdconf.config.model.service import ServiceSettings
from tcpdconf.config.near import near

_UNKNOWN: Final[dict[str, codes.Code]] = {
    "user": "unknown-user",
    "group": "unknown-group",
    "port": "unknown-port",
}
_NOBODY: Final = "nobody"


class Identity(NamedTuple):
    """Names the user and groups of a service; None keeps the daemon's.

    `groups` are the supplementary groups.
    """

    uid: int | None
    gid: int | None
    groups: tuple[int, ...]
    name: str | None


class UnknownNameError(LookupError):
    """Reports a name that the host does not know; `key` is its key below the service, `hint` a suggestion."""

    def __init__(
        self,
        text: str,
        kind: Literal["user", "group", "port"],
        hint: str | None = None,
        meant: str | None = None,
        *,
        key: tuple[str | int, ...] = (),
    ) -> None:
        super().__init__(text)
        self.key = key or (kind,)
        self.code = _UNKNOWN[kind]
        self.hint = f'did you mean "{meant}"?' if meant is not None else hint
        self.meant = None if meant is None else f'"{meant}"'


def identity(service: ServiceSettings) -> Identity:
    """Return the user and groups of a service; its `group`, if set, is the primary one.

    Raises:
        UnknownNameError: the user or a group does not exist (a LookupError).
    """
    gid = None if service.group is None else group_number(service.group, ("group",))
    found, more = _own(service, gid), further_groups(service)
    if not more:
        return found
    if found.gid is None:  # the groups of the daemon
        found = found._replace(gid=os.getegid(), groups=tuple(os.getgroups()))
    return found._replace(groups=tuple(dict.fromkeys((*found.groups, *more))))


def own_identity(user: fields.Account | None) -> Identity:
    """Return the user and groups of a process that belongs to no service; without a user, nobody's.

    Raises:
        UnknownNameError: the user does not exist (a LookupError).
    """
    if user is None:
        if os.geteuid() != 0:
            return Identity(None, None, (), None)
        user = _NOBODY
    account = _account(user)
    if account is None:  # a number that is not in the user database
        return Identity(int(user), int(user), (int(user),), None)
    return Identity(account.pw_uid, account.pw_gid, (account.pw_gid,), account.pw_name)


def further_groups(service: ServiceSettings) -> tuple[int, ...]:
    """Return the numbers of a service's `supplementary_groups`.

    Raises:
        UnknownNameError: a group does not exist (a LookupError).
    """
    return tuple(
        group_number(group, ("supplementary_groups", index))
        for index, group in enumerate(service.supplementary_groups)
    )


def _own(service: ServiceSettings, gid: int | None) -> Identity:
    """Return the user and groups of a service without its `supplementary_groups`."""
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
        meant = _meant(user, [account.pw_name for account in pwd.getpwall()])
        raise UnknownNameError(f"unknown user {values.shown(user)}", "user", _odd(user), meant) from None


def group_number(group: int | str, key: tuple[str | int, ...] = ("group",)) -> int:
    """Return the number of a group; `key` is the one that names it, below the service.

    Raises:
        UnknownNameError: the group does not exist (a LookupError).
    """
    if isinstance(group, int):
        return group
    try:
        return grp.getgrnam(group).gr_gid
    except KeyError:
        meant = _meant(group, [entry.gr_name for entry in grp.getgrall()])
        text = f"unknown group {values.shown(group)}"
        raise UnknownNameError(text, "group", _odd(group), meant, key=key) from None


def port_number(port: int | str) -> int:
    """Return the number of a port: as given, or from the services database or the well-known mail ports.

    Raises:
        UnknownNameError: the name is unknown (a LookupError).
    """
    if isinstance(port, int):
        return port
    try:
        return ports.number(port)
    except LookupError:
        meant = _meant(port, list(ports.MAIL))
        text = f'unknown port name "{port}"'
        raise UnknownNameError(text, "port", "write the number of the port", meant) from None


def _meant(word: str, known: list[str]) -> str | None:
    return None if notations.placeholder(word) else near(word.strip(), known)


def _odd(name: str) -> str | None:
    """Return advice about text that is no name at all, or None."""
    if notations.placeholder(name):
        return "write the name: placeholders are not expanded"
    if name.isdigit():
        return f"write {int(name)} without quotes for a number"
    for sign in ":.":
        user, _, group = name.partition(sign)
        if _is_user(user) and group:
            return f'write user = "{user}" and group = "{group}"'
    return None


def _is_user(name: str) -> bool:
    try:
        pwd.getpwnam(name)
    except (KeyError, ValueError):
        return False
    return True
