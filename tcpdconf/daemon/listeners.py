"""Listening sockets: opened here, or handed over by the service manager (sd_listen_fds(3))."""

import contextlib
import errno
import os
import socket
from collections.abc import Iterator, Mapping
from typing import Final

from tcpdconf.config import tables

_FIRST_FD: Final = 3  # SD_LISTEN_FDS_START
_IP_FREEBIND: Final = 15  # linux/in.h
_NO_IPV6: Final = frozenset({errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL})


def name(address: str, port: int) -> str:
    """`*:25`, `192.0.2.1:25` or `[2001:db8::1]:25`."""
    return f"[{address}]:{port}" if ":" in address else f"{address}:{port}"


def bind(listener: tables.Listener, port: int) -> socket.socket:
    """Listen as configured. "*" is one socket for both families where the host has IPv6.

    Raises:
        OSError: the kernel refuses.
    """
    if listener.address != "*":
        family = socket.AF_INET6 if ":" in listener.address else socket.AF_INET
        return _listen(listener, family, (listener.address, port), v6only=True)
    try:
        return _listen(listener, socket.AF_INET6, ("::", port), v6only=False)
    except OSError as error:
        if error.errno not in _NO_IPV6:
            raise
        return _listen(listener, socket.AF_INET, ("0.0.0.0", port), v6only=True)  # noqa: S104 (configured)


def _listen(
    listener: tables.Listener, family: socket.AddressFamily, address: tuple[str, int], *, v6only: bool
) -> socket.socket:
    with contextlib.ExitStack() as undo:
        found = undo.enter_context(socket.socket(family, socket.SOCK_STREAM))
        found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            found.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, v6only)
        if listener.freebind:
            found.setsockopt(socket.SOL_IP, _IP_FREEBIND, 1)
        found.bind(address)
        _prepare(found, listener)
        undo.pop_all()
    return found


def _prepare(found: socket.socket, listener: tables.Listener) -> None:
    """Accepted connections inherit SO_KEEPALIVE on Linux, which saves a call for each."""
    found.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    found.setblocking(False)
    found.listen(listener.backlog or socket.SOMAXCONN)


class Activated:
    """Sockets from the service manager, until listeners have claimed them."""

    def __init__(self, environment: Mapping[str, str]) -> None:
        self._sockets = list(_received(environment))

    def claim(self, listener: tables.Listener, port: int) -> list[socket.socket]:
        """The sockets for a listener, ready to accept, or none; "*" takes those of both families."""
        found = [s for s in self._sockets if _is_for(s, listener.address, port)]
        for each in found:
            self._sockets.remove(each)
            _prepare(each, listener)
        return found

    def unclaimed(self) -> list[str]:
        """What the sockets are that no listener has claimed."""
        return [_described(each) for each in self._sockets]


def _received(environment: Mapping[str, str]) -> Iterator[socket.socket]:
    count = environment.get("LISTEN_FDS", "")
    if environment.get("LISTEN_PID") != str(os.getpid()) or not (count.isascii() and count.isdigit()):
        return
    for fd in range(_FIRST_FD, _FIRST_FD + int(count)):
        os.set_inheritable(fd, False)
        yield socket.socket(fileno=fd)


def _is_for(found: socket.socket, address: str, port: int) -> bool:
    if found.family not in {socket.AF_INET, socket.AF_INET6} or found.type != socket.SOCK_STREAM:
        return False
    host, its_port = found.getsockname()[:2]
    wildcard = host in {"::", "0.0.0.0"}  # noqa: S104 (compared, not bound)
    return its_port == port and (host == address or (address == "*" and wildcard))


def _described(found: socket.socket) -> str:
    address = found.getsockname()
    if found.family in {socket.AF_INET, socket.AF_INET6}:
        return f"descriptor {found.fileno()} ({name(address[0], address[1])})"
    return f"descriptor {found.fileno()} ({address!r})"
