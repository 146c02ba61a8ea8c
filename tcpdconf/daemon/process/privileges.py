"""Reports the rights of this process, and changes to a service's identity, permanently or for a moment.

Capabilities are read and set by capget(2) and capset(2) for the calling thread: processes that change their
rights here have only one.
"""

import contextlib
import ctypes
import errno
import os
import signal
from collections.abc import Callable, Collection, Iterator
from typing import Final, NamedTuple

from tcpdconf.config import host
from tcpdconf.daemon.process import log

_SETGID: Final = 6  # capability numbers (linux/capability.h)
_SETUID: Final = 7
_BIND_SERVICE: Final = 10
_VERSION: Final = 0x20080522  # of capset(2): sets of 64 bits, in two halves
_PR_SET_PDEATHSIG: Final = 1  # prctl(2)
_PR_GET_PDEATHSIG: Final = 2
_PR_GET_DUMPABLE: Final = 3
_PR_SET_DUMPABLE: Final = 4
_PR_SET_NO_NEW_PRIVS: Final = 38
_KEEP: Final = ctypes.c_uint(0xFFFFFFFF)  # no user and no group: setfsuid(2) changes nothing

_C: Final = ctypes.CDLL(None, use_errno=True)


class _Capabilities(NamedTuple):
    """Holds three of a thread's capability sets, one bit for each capability."""

    effective: int
    permitted: int
    inheritable: int


_NONE: Final = _Capabilities(0, 0, 0)


def may_bind(port: int) -> bool:
    """Return whether this process may listen on the port."""
    return port >= _first_free_port() or _has(_BIND_SERVICE)


def may_become(identity: host.Identity) -> bool:
    """Return whether this process may take on the identity, or has it already.

    Only root may assume the identity of root.
    """
    has_user = identity.uid in {None, os.geteuid()} or (identity.uid != 0 and _has(_SETUID))
    has_group = identity.gid in {None, os.getegid()} or _has(_SETGID)
    return has_user and has_group


def may_join(groups: Collection[int]) -> bool:
    """Return whether this process may have these supplementary groups, or has them already."""
    return _has(_SETGID) or {os.getegid(), *os.getgroups()}.issuperset(groups)


def exceed_those_of_the_user() -> bool:
    """Return whether this process has more rights than its user: it is root or has capabilities."""
    return os.geteuid() == 0 or _capabilities().permitted != 0


def become(identity: host.Identity) -> None:
    """Take on the identity for good: supplementary groups, group and user; give up all capabilities.

    Only root that stays root keeps capabilities. A capability of an unprivileged user would survive in the
    ambient set, and an inheritable one would survive even the change of user.

    Raises:
        OSError: the kernel refuses.
    """
    was_root = os.geteuid() == 0
    if identity.gid is not None and _has(_SETGID):
        os.setgroups(identity.groups)
        os.setresgid(identity.gid, identity.gid, identity.gid)
    if identity.uid is not None:
        os.setresuid(identity.uid, identity.uid, identity.uid)
    if not (was_root and os.geteuid() == 0):
        give_up_capabilities()


def set_nice(value: int) -> None:
    """Set the nice value of this process, which new processes inherit.

    Raises:
        OSError: the kernel refuses.
    """
    if value != os.getpriority(os.PRIO_PROCESS, 0):
        os.setpriority(os.PRIO_PROCESS, 0, value)


def set_oom_score_adjust(value: int) -> None:
    """Set how soon this process is killed when memory runs out; new processes inherit it.

    Raises:
        OSError: the kernel refuses.
    """
    with open("/proc/self/oom_score_adj", "r+b", buffering=0) as file:
        if int(file.read()) != value:
            file.write(b"%d" % value)


def forbid_new() -> None:
    """Let no execution give this process more rights, or processes that it starts (PR_SET_NO_NEW_PRIVS(2)).

    Raises:
        OSError: the kernel refuses.
    """
    _check(_C.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0))


def hide_memory() -> None:
    """Keep other processes of the same user from reading this one's memory (PR_SET_DUMPABLE)."""
    _C.prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0)


def dies_with(parent: int) -> bool:
    """Have the kernel kill this process when its parent dies; return False if it has died already.

    A process that changes its rights afterwards loses this (PR_SET_PDEATHSIG(2)).
    """
    _C.prctl(_PR_SET_PDEATHSIG, int(signal.SIGKILL), 0, 0, 0)
    return os.getppid() == parent


def give_up_capabilities() -> None:
    """Empty the permitted, effective and inheritable sets, and so the ambient set (capabilities(7)).

    Raises:
        OSError: the kernel refuses.
    """
    _set_capabilities(_NONE)


def may_give_to(group: int) -> bool:
    """Return whether this process may make files belong to the group."""
    return _has(_SETGID) or group in {os.getegid(), *os.getgroups()}


@contextlib.contextmanager
def in_group(group: int) -> Iterator[None]:
    """Add the group to the supplementary groups for the `with` block, if this process may change them.

    The owner of a file may give it to each of his groups without CAP_CHOWN, which the shipped unit does not
    grant. This process exits if it cannot change back.
    """
    groups = os.getgroups()
    if group in groups or not _has(_SETGID):
        yield
        return
    os.setgroups([*groups, group])
    try:
        yield
    finally:
        try:
            os.setgroups(groups)
        except OSError as error:
            log.error(f"cannot restore the daemon's privileges: {error.strerror}")
            os._exit(1)


@contextlib.contextmanager
def file_rights_of(identity: host.Identity) -> Iterator[None]:
    """Open files with the rights of an identity, which this process `may_become`, and no capability.

    Only the ids for file access are changed (setfsuid(2)). If the effective user were changed, that user
    could alter the priority and the processors of this process meanwhile. This process exits if it cannot
    change back.

    Raises:
        PermissionError: the kernel refuses.
    """
    before, groups = _capabilities(), os.getgroups()
    dumpable = _C.prctl(_PR_GET_DUMPABLE, 0, 0, 0, 0)
    _C.prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0)  # this process's files in /proc belong to root meanwhile
    at_parents_death = ctypes.c_int()  # a signal, which any change of user resets
    _C.prctl(_PR_GET_PDEATHSIG, ctypes.byref(at_parents_death), 0, 0, 0)
    try:
        if identity.gid is not None and _has(_SETGID):
            os.setgroups(identity.groups)
            _set_file_ids(_C.setfsgid, identity.gid)
        if identity.uid is not None:
            _set_file_ids(_C.setfsuid, identity.uid)
        _set_capabilities(before._replace(effective=0))
        yield
    finally:
        try:
            _set_capabilities(before)
            _set_file_ids(_C.setfsuid, os.geteuid())
            _set_capabilities(before)  # with root's id back the effective set is full
            _set_file_ids(_C.setfsgid, os.getegid())
            if os.getgroups() != groups:
                os.setgroups(groups)
        except OSError as error:
            log.error(f"cannot restore the daemon's privileges: {error.strerror}")
            os._exit(1)
        if dumpable == 1:
            _C.prctl(_PR_SET_DUMPABLE, 1, 0, 0, 0)
        _C.prctl(_PR_SET_PDEATHSIG, at_parents_death.value, 0, 0, 0)


def _set_file_ids(change: Callable[[ctypes.c_uint], int], number: int) -> None:
    """Set the user or group id for file access.

    The calls return the previous id and do not report failure, so the new one is read back.
    """
    change(ctypes.c_uint(number))
    if ctypes.c_uint(change(_KEEP)).value != number:
        raise PermissionError(errno.EPERM, os.strerror(errno.EPERM))


def _first_free_port() -> int:
    try:
        with open("/proc/sys/net/ipv4/ip_unprivileged_port_start", "rb") as file:
            return int(file.read())
    except (OSError, ValueError):
        return 1024


def _has(capability: int) -> bool:
    """Return whether a capability is effective."""
    return bool(_capabilities().effective >> capability & 1)


def _capabilities() -> _Capabilities:
    words = (ctypes.c_uint * 6)()
    _check(_C.capget((ctypes.c_uint * 2)(_VERSION, 0), words))
    return _Capabilities(*(words[place] | words[place + 3] << 32 for place in range(3)))


def _set_capabilities(wanted: _Capabilities) -> None:
    halves = [each >> shift & 0xFFFFFFFF for shift in (0, 32) for each in wanted]
    _check(_C.capset((ctypes.c_uint * 2)(_VERSION, 0), (ctypes.c_uint * 6)(*halves)))


def _check(result: int) -> None:
    if result != 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
