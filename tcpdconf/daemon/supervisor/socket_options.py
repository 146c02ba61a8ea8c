"""Sets the options of listening sockets that accepted connections inherit (tcp(7), socket(7)).

The kernel copies all of them to each connection, so no connection costs a system call.
"""

import contextlib
import errno
import os
import socket
import struct
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any, Final

from tcpdconf.config import codes, problems
from tcpdconf.config.load.loaded import Loaded
from tcpdconf.config.model import tables
from tcpdconf.config.model.service import ServiceSettings

_MARK: Final = 36  # SO_MARK, which the module `socket` has from Python 3.13 on
_LONGEST: Final = 16  # IFNAMSIZ: the name of an interface with its NUL
_NUMBERS: Final = {
    "keepalive": (socket.SOL_SOCKET, socket.SO_KEEPALIVE),
    "idle": (socket.IPPROTO_TCP, socket.TCP_KEEPIDLE),
    "interval": (socket.IPPROTO_TCP, socket.TCP_KEEPINTVL),
    "probes": (socket.IPPROTO_TCP, socket.TCP_KEEPCNT),
    "user_timeout": (socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT),
    "nodelay": (socket.IPPROTO_TCP, socket.TCP_NODELAY),
    "fastopen": (socket.IPPROTO_TCP, socket.TCP_FASTOPEN),
    "mark": (socket.SOL_SOCKET, _MARK),
}
_DROP_IN: Final = "a drop-in for the unit gives it: share/tcpdconf/systemd/net-raw.conf"

_NEW_SOCKET: Final = "or stop the daemon and start it, which binds a new socket"


@dataclass(frozen=True)
class Options:
    """Holds the options of a socket; `apply` does not change an option that is None.

    `idle` and `interval` are in seconds, `user_timeout` is in milliseconds. An `interface` of "" means all.
    """

    keepalive: int | None = None
    idle: int | None = None
    interval: int | None = None
    probes: int | None = None
    user_timeout: int | None = None
    nodelay: int | None = None
    fastopen: int | None = None
    mark: int | None = None
    interface: str | None = None


_NEW: Final = Options(mark=0, interface="")


class RefusedError(Exception):
    """Reports an option that this process cannot set; `key` is its key below the service."""

    def __init__(self, key: tuple[str, str], text: str, code: codes.Code, hint: str | None = None) -> None:
        super().__init__(text)
        self._key = key
        self._code = code
        self._hint = hint

    def problem(self, loaded: Loaded, name: str) -> problems.Problem:
        """Return the problem of the service with this name."""
        return loaded.problem(("services", name, *self._key), str(self), self._code, hint=self._hint)


def of(service: ServiceSettings, *, lent: bool) -> Options:
    """Return the options of a service's sockets.

    With `lent` they are for a socket of a socket unit, which keeps its unit's value of every option that the
    service does not set.
    """
    keepalive, tcp = service.keepalive, service.tcp
    timeout = service.user_timeout or 0
    times = Options()
    if isinstance(keepalive, tables.Keepalive):
        times = Options(idle=int(keepalive.time), interval=int(keepalive.interval), probes=keepalive.count)
        timeout = keepalive.lasts if service.user_timeout is None else timeout
    elif keepalive == "kernel":
        times = _of_the_kernel()
    return replace(
        times,
        keepalive=int(keepalive is not False),
        user_timeout=round(timeout * 1000),
        nodelay=1 if tcp.nodelay else None if lent else 0,
        fastopen=tcp.fastopen or (None if lent else 0),
        mark=tcp.mark or (None if lent else 0),
        interface=tcp.interface or (None if lent else ""),
    )


def read(sock: socket.socket) -> Options:
    """Return the current options of a socket."""
    found: dict[str, Any] = {name: sock.getsockopt(*option) for name, option in _NUMBERS.items()}
    found["mark"] &= 0xFFFFFFFF
    interface = sock.getsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, _LONGEST)
    return Options(**found, interface=os.fsdecode(interface.rstrip(b"\0")))


def apply(sock: socket.socket, options: Options) -> None:
    """Set the options that differ; open connections keep theirs.

    Raises:
        OSError: the kernel refuses one of them.
    """
    before = read(sock)
    for name, option in _NUMBERS.items():
        value = getattr(options, name)
        if value is not None and value != getattr(before, name):
            sock.setsockopt(*option, struct.pack("=I", value))
    if options.interface is not None and options.interface != before.interface:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, os.fsencode(options.interface))


def require(sockets: Iterable[socket.socket], options: Options) -> None:
    """Check that mark and interface could be set on these sockets, and on a new one; use test sockets.

    Raises:
        RefusedError: the kernel refuses mark or interface.
        OSError: no descriptor is available for a test socket.
    """
    for before in [read(sock) for sock in sockets] or [_NEW]:
        wanted = Options(
            mark=None if options.mark == before.mark else options.mark,
            interface=None if options.interface == before.interface else options.interface,
        )
        if wanted == Options():
            continue
        with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as trial:
            if before.interface:
                with contextlib.suppress(OSError):  # it no longer exists
                    apply(trial, Options(interface=before.interface))
            _try(trial, Options(interface=wanted.interface), "interface")
            _try(trial, Options(mark=wanted.mark), "mark")


def _try(trial: socket.socket, options: Options, name: str) -> None:
    try:
        apply(trial, options)
    except OSError as error:
        key = ("tcp", name)
        if error.errno == errno.EPERM:
            hint = _DROP_IN if name == "mark" and options.mark else f"{_DROP_IN}; {_NEW_SOCKET}"
            raise RefusedError(key, "needs CAP_NET_RAW", "needs-capability", hint) from None
        if error.errno == errno.ENODEV:
            text = f"there is no interface {options.interface}"
            raise RefusedError(key, text, "unknown-interface") from None
        raise RefusedError(key, f"cannot be set: {error.strerror}", "wrong-value") from None


def _of_the_kernel() -> Options:
    """Return the kernel's default keep-alive times; an option is None if its default is unknown."""
    try:
        return Options(idle=_sysctl("time"), interval=_sysctl("intvl"), probes=_sysctl("probes"))
    except (OSError, ValueError):
        return Options()


def _sysctl(name: str) -> int:
    with open(f"/proc/sys/net/ipv4/tcp_keepalive_{name}", "rb") as file:
        return int(file.read())
