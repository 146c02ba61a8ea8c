"""Listening sockets: opened here, or passed on by a service manager or another daemon."""

import contextlib
import errno
import os
import socket
from collections.abc import Iterable, Iterator, Mapping
from typing import Final, NamedTuple

from tcpdconf.config import host, tables

STORED: Final = "tcpdconf listen "  # how the names of our sockets in the store begin
_FIRST_FD: Final = 3  # SD_LISTEN_FDS_START
_IP_FREEBIND: Final = 15  # linux/in.h
_NO_IPV6: Final = frozenset({errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL})


def name(address: str, port: int) -> str:
    """`*:25`, `192.0.2.1:25` or `[2001:db8::1]:25`."""
    return f"[{address}]:{port}" if ":" in address else f"{address}:{port}"


class Key(NamedTuple):
    """What listener a socket is for: an address as configured, a port number."""

    address: str
    port: int

    def __str__(self) -> str:
        """As in `name`."""
        return name(self.address, self.port)


def key(listener: tables.Listener) -> Key:
    """What a listener binds."""
    return Key(listener.address, host.port_number(listener.port))


class CannotBindError(Exception):
    """A socket cannot be had; the text says which and why."""


class Opening:
    """The listening sockets of a configuration: those that are open already, and those opened for it.

    Nothing that is open is touched before `commit`; `undo` closes what was opened here.
    """

    def __init__(self, have: Mapping[Key, list[socket.socket]]) -> None:
        self._have = have
        self._opened: list[socket.socket] = []
        self._silent: list[tuple[socket.socket, tables.Listener]] = []  # bound, and to listen at `commit`
        self.wanted: dict[Key, list[socket.socket]] = {}

    def sockets(self, listener: tables.Listener, activated: "Activated") -> list[socket.socket]:
        """The sockets of one more listener.

        Raises:
            CannotBindError: the kernel refuses.
        """
        which = key(listener)
        if which in self._have:
            self.wanted[which] = self._have[which]
            self._silent += [(each, listener) for each in self._have[which]]  # its backlog may be another
        else:
            self.wanted[which] = activated.claim(listener, which.port) or [self._open(listener, which)]
        return self.wanted[which]

    def commit(self) -> list[socket.socket]:
        """Listen on all that is wanted; the sockets that nobody wants any more, for the caller to close."""
        unwanted = [each for which, open_ in self._have.items() if which not in self.wanted for each in open_]
        for each, listener in self._silent:
            # the kernel looks once more whether the port is free; it was at the bind, under the same terms
            with _shared([each, *unwanted]), contextlib.suppress(OSError):
                _listen(each, listener)
        return unwanted

    def undo(self) -> None:
        """Close what was opened."""
        for each in self._opened:
            each.close()

    def _open(self, listener: tables.Listener, which: Key) -> socket.socket:
        try:
            found = _bound(listener, which)
            self._opened.append(found)
            _listen(found, listener)
        except OSError as error:
            in_the_way = [
                each for key, open_ in self._have.items() if key.port == which.port for each in open_
            ]
            if error.errno != errno.EADDRINUSE or not in_the_way:
                raise CannotBindError(f"cannot bind {which}: {error.strerror}") from None
            found = self._open_beside(listener, which, in_the_way)
        return found

    def _open_beside(
        self, listener: tables.Listener, which: Key, others: list[socket.socket]
    ) -> socket.socket:
        """Bind beside sockets of ours that this configuration does not want any more ("*" for an address).

        SO_REUSEPORT is set for this moment only: else another process of the same user could bind as well.
        It listens at `commit`: until then the clients are the other socket's.
        """
        try:
            with _shared(others):
                found = _bound(listener, which, beside=True)
        except OSError as error:
            raise CannotBindError(f"cannot bind {which}: {error.strerror}") from None
        found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 0)
        self._opened.append(found)
        self._silent.append((found, listener))
        return found


@contextlib.contextmanager
def _shared(sockets: list[socket.socket]) -> Iterator[None]:
    """Let others bind the ports of these sockets meanwhile."""
    for each in sockets:
        each.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    try:
        yield
    finally:
        for each in sockets:
            each.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 0)


def _bound(listener: tables.Listener, which: Key, *, beside: bool = False) -> socket.socket:
    """Bound as configured. "*" is one socket for both families where the host has IPv6."""
    if listener.address != "*":
        family = socket.AF_INET6 if ":" in listener.address else socket.AF_INET
        return _bind(listener, family, which, v6only=True, beside=beside)
    try:
        return _bind(listener, socket.AF_INET6, ("::", which.port), v6only=False, beside=beside)
    except OSError as error:
        if error.errno not in _NO_IPV6:
            raise
        any_ipv4 = ("0.0.0.0", which.port)  # noqa: S104 (configured)
        return _bind(listener, socket.AF_INET, any_ipv4, v6only=True, beside=beside)


def _bind(
    listener: tables.Listener,
    family: socket.AddressFamily,
    address: tuple[str, int],
    *,
    v6only: bool,
    beside: bool,
) -> socket.socket:
    with contextlib.ExitStack() as undo:
        found = undo.enter_context(socket.socket(family, socket.SOCK_STREAM))
        found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if beside:
            found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        if family == socket.AF_INET6:
            found.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, v6only)
        if listener.freebind:
            found.setsockopt(socket.SOL_IP, _IP_FREEBIND, 1)
        found.bind(address)
        undo.pop_all()
    return found


def _listen(found: socket.socket, listener: tables.Listener) -> None:
    """Accepted connections inherit SO_KEEPALIVE on Linux, which saves a call for each."""
    found.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    found.setblocking(False)
    found.listen(listener.backlog or socket.SOMAXCONN)


class Activated:
    """Sockets that were open before this process, until listeners have claimed them.

    They come from a socket unit, from the service manager's file descriptor store, or from a daemon whose
    place is taken; only the first have to be wanted by a listener.
    """

    def __init__(self, environment: Mapping[str, str], taken: Iterable[int] = ()) -> None:
        """`environment` is the one this process was started with; `taken` are another daemon's sockets."""
        self._units: list[socket.socket] = []
        self._others = [socket.socket(fileno=fd) for fd in taken]
        self.stored: dict[str, socket.socket] = {}  # by name in the store
        for which, found in _received(environment):
            if which.startswith(STORED):
                self.stored[which] = found
                self._others.append(found)
            else:
                self._units.append(found)
        self._lent = frozenset(self._units)

    def claim(self, listener: tables.Listener, port: int) -> list[socket.socket]:
        """The sockets for a listener, ready to accept, or none; "*" takes those of both families."""
        claimed: list[socket.socket] = []
        for source in (self._units, self._others):
            found = [s for s in source if _is_for(s, listener.address, port)] if not claimed else []
            for each in found:
                source.remove(each)
                _listen(each, listener)
            claimed += found
        return claimed

    def let_go(self, found: socket.socket) -> None:
        """Close a listener's socket that is not wanted any more; a unit's would be refused if it is again."""
        if self.lent(found):
            self._others.append(found)
        else:
            found.close()

    def lent(self, found: socket.socket) -> bool:
        """Whether a socket is a socket unit's: it has it, and gives it again."""
        return found in self._lent

    def unclaimed(self) -> list[str]:
        """What the sockets of socket units are that no listener has claimed."""
        return [f"descriptor {each.fileno()} ({described(each)})" for each in self._units]

    def close(self) -> None:
        """Close the others that no listener has claimed."""
        for each in self._others:
            each.close()
        self._others.clear()


def _received(environment: Mapping[str, str]) -> Iterator[tuple[str, socket.socket]]:
    """Each passed-on socket with its name (sd_listen_fds(3))."""
    count = environment.get("LISTEN_FDS", "")
    if environment.get("LISTEN_PID") != str(os.getpid()) or not (count.isascii() and count.isdigit()):
        return
    names = environment.get("LISTEN_FDNAMES", "").split(":")
    for number in range(int(count)):
        os.set_inheritable(_FIRST_FD + number, False)
        found = socket.socket(fileno=_FIRST_FD + number)
        yield names[number] if number < len(names) else "", found


def _is_for(found: socket.socket, address: str, port: int) -> bool:
    if found.family not in {socket.AF_INET, socket.AF_INET6} or found.type != socket.SOCK_STREAM:
        return False
    host, its_port = found.getsockname()[:2]
    wildcard = host in {"::", "0.0.0.0"}  # noqa: S104 (compared, not bound)
    return its_port == port and (host == address or (address == "*" and wildcard))


def described(found: socket.socket) -> str:
    """What a socket listens on: `0.0.0.0:25`, `[::]:25`."""
    address = found.getsockname()
    if found.family in {socket.AF_INET, socket.AF_INET6}:
        return name(address[0], address[1])
    return repr(address)
