"""What root may and others may not: to bind low ports and to become another user."""

import os
from typing import Final

from tcpdconf.config import host

_SETGID: Final = 6  # capability numbers (linux/capability.h)
_SETUID: Final = 7
_BIND_SERVICE: Final = 10


def may_bind(port: int) -> bool:
    """Whether this process may listen on the port."""
    return port >= _first_free_port() or _has(_BIND_SERVICE)


def may_become(identity: host.Identity) -> bool:
    """Whether this process may take on the identity, or has it already."""
    has_user = identity.uid in {None, os.geteuid()} or _has(_SETUID)
    has_group = identity.gid in {None, os.getegid()} or _has(_SETGID)
    return has_user and has_group


def become(identity: host.Identity) -> None:
    """Take on the identity for good: supplementary groups, group, user.

    Raises:
        OSError: the kernel refuses.
    """
    if identity.gid is not None and _has(_SETGID):
        os.setgroups(identity.groups)
        os.setresgid(identity.gid, identity.gid, identity.gid)
    if identity.uid is not None:
        os.setresuid(identity.uid, identity.uid, identity.uid)


def _first_free_port() -> int:
    try:
        with open("/proc/sys/net/ipv4/ip_unprivileged_port_start", "rb") as file:
            return int(file.read())
    except (OSError, ValueError):
        return 1024


def _has(capability: int) -> bool:
    """Whether a capability is in effect (proc(5), status, CapEff)."""
    try:
        with open("/proc/self/status", "rb") as file:
            line = next(line for line in file if line.startswith(b"CapEff:"))
    except (OSError, StopIteration):
        return os.geteuid() == 0
    return bool(int(line.split()[1], 16) >> capability & 1)
