"""Listening sockets: opened here, or passed on by a service manager or another daemon."""

import contextlib
import errno
import os
import socket
from collections.abc import Iterable, Iterator, Mapping
from typing import Final, NamedTuple

from tcpdconf.config import collisions, host, socket_address
from tcpdconf.config.model import tables

STORED: Final = "tcpdconf listen "  # how the names of our sockets in the store begin
_FIRST_FD: Final = 3  # SD_LISTEN_FDS_START
_IP_FREEBIND: Final = 15  # linux/in.h
_NO_IPV6: Final = frozenset({errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL})


class ListenerKey(NamedTuple):
    """What listener a socket is for: an address as configured, a port number."""

    address: str
    port: int

    def __str__(self) -> str:
        """As in `name`."""
        return socket_address.shown(self.address, self.port)


def key(listener: tables.Listener) -> ListenerKey:
    """What a listener binds."""
    return ListenerKey(listener.address, host.port_number(listener.port))


def key_of(found: socket.socket) -> ListenerKey:
    """What a socket is bound to: the listener that would bind just this one.

    Family, address, port and IPV6_V6ONLY count: "*" is IPv6's any address for both families, "::" for one.
    """
    address, port = found.getsockname()[:2]
    if address == "::" and not found.getsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY):
        address = "*"
    return ListenerKey(address, port)


class CannotBindError(Exception):
    """A listener's socket cannot be opened; the text says which and why."""

    def __init__(self, which: ListenerKey, why: str) -> None:
        super().__init__(f"cannot bind {which}: {why}")
        self.which = which


class Opening:
    """The listening sockets of a configuration: those that are open already, and those opened for it.

    Nothing that is open is touched before `commit`; `undo` closes what was opened here.
    """

    def __init__(self, have: Mapping[ListenerKey, list[socket.socket]], activated: "Activated") -> None:
        self._have = have
        self._all = frozenset(each for open_ in have.values() for each in open_)
        self._bound = {key_of(each): each for each in self._all}
        self._activated = activated
        self._opened: list[socket.socket] = []
        self._silent: list[tuple[socket.socket, tables.Listener]] = []  # bound, and to listen at `commit`
        self.wanted: dict[ListenerKey, list[socket.socket]] = {}

    def sockets(self, listener: tables.Listener) -> list[socket.socket]:
        """The sockets of one more listener.

        Raises:
            CannotBindError: the kernel refuses, or a socket unit has bound what overlaps.
        """
        which = key(listener)
        found = self._known(which)
        if found:
            self._silent += [(each, listener) for each in found]  # its backlog may be another
        else:
            found = self._activated.claim(listener, which.port) or [self._open(listener, which)]
        self.wanted[which] = found
        return found

    def unwanted(self) -> frozenset[socket.socket]:
        """The open sockets that no listener wants any more."""
        wanted = {each for sockets in self.wanted.values() for each in sockets}
        return self._all - wanted

    def inherited(self, listener: tables.Listener) -> list[socket.socket]:
        """The unwanted sockets of this listener's port in whose queues clients of another daemon may wait."""
        which = key(listener)
        return [
            each
            for each in self.unwanted() & self._activated.inherited
            if each.getsockname()[1] == which.port and not self._activated.lent(each)
        ]

    def commit(self) -> frozenset[socket.socket]:
        """Listen on all that is wanted; returns the unwanted sockets, for the caller to close.

        Raises:
            CannotBindError: the kernel refuses.
        """
        unwanted = self.unwanted()
        for each, listener in self._silent:
            try:
                # the kernel looks once more whether the port is free, and others may have bound it since
                with _shared([each, *unwanted]):
                    _listen(each, listener)
            except OSError as error:
                raise CannotBindError(key(listener), str(error.strerror)) from None
        return unwanted

    def undo(self) -> None:
        """Close what was opened."""
        for each in self._opened:
            each.close()

    def _known(self, which: ListenerKey) -> list[socket.socket]:
        """The open sockets of a listener, if there are; "*" is one for each family as well."""
        if which in self._have:
            return self._have[which]
        if which in self._bound:
            return [self._bound[which]]
        each_family = [ListenerKey(address, which.port) for address in ("0.0.0.0", "::")]  # noqa: S104 (compared)
        if which.address == "*" and not _has_ipv6():
            del each_family[1]
        if which.address == "*" and all(each in self._bound for each in each_family):
            return [self._bound[each] for each in each_family]
        return []

    def _open(self, listener: tables.Listener, which: ListenerKey) -> socket.socket:
        unit = self._activated.overlapping(which)
        if unit is not None:
            raise CannotBindError(which, f"it overlaps {unit}")
        try:
            found = _bound(listener, which)
            self._opened.append(found)
            _listen(found, listener)
        except OSError as error:
            in_the_way = [each for each in self._all if key_of(each).port == which.port]
            if error.errno != errno.EADDRINUSE or not in_the_way:
                raise CannotBindError(which, str(error.strerror)) from None
            found = self._open_beside(listener, which, in_the_way)
        return found

    def _open_beside(
        self, listener: tables.Listener, which: ListenerKey, others: list[socket.socket]
    ) -> socket.socket:
        """Bind beside sockets that this configuration does not want any more ("*" for an address).

        SO_REUSEPORT is set for this moment only: else another process of the same user could bind as well.
        It listens at `commit`: until then the clients are the other socket's.
        """
        try:
            with _shared(others):
                found = _bound(listener, which, beside=True)
        except OSError as error:
            raise CannotBindError(which, str(error.strerror)) from None
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


def _bound(listener: tables.Listener, which: ListenerKey, *, beside: bool = False) -> socket.socket:
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


class Passed(NamedTuple):
    """A socket that was open before this process; `unit` is the socket unit that has bound it, if one has."""

    socket: socket.socket
    unit: str | None = None


class Activated:
    """Sockets that were open before this process.

    They come from a socket unit, from the service manager's file descriptor store, or from a daemon whose
    place is taken. Only those of a unit have to be wanted by a listener: the unit goes on listening.
    """

    def __init__(self, environment: Mapping[str, str], taken: Iterable[Passed] = ()) -> None:
        """`environment` is the one this process was started with; `taken` are another daemon's sockets."""
        self._units: dict[socket.socket, str] = {}  # each with the name of its unit
        self._unclaimed: list[socket.socket] = []
        self._spare: list[socket.socket] = []  # a unit's that a listener had, and none has now
        self.stored: dict[str, list[socket.socket]] = {}  # by name in the store
        others = []
        for found, unit in taken:
            if unit is None:
                others.append(found)
            else:
                self._add(unit, found)
        for name, found in _received(environment):
            if name.startswith(STORED):
                self.stored.setdefault(name, []).append(found)
                others.append(found)
            else:
                self._add(name, found)
        # those of another daemon, until this one serves
        self.inherited = frozenset(each for each in others if _is_tcp(each))
        for each in self.inherited:
            each.setblocking(False)

    def open(self) -> dict[ListenerKey, list[socket.socket]]:
        """The inherited sockets, as what was listened on before the first configuration."""
        found: dict[ListenerKey, list[socket.socket]] = {}
        for each in self.inherited:
            found.setdefault(key_of(each), []).append(each)
        return found

    def claim(self, listener: tables.Listener, port: int) -> list[socket.socket]:
        """The sockets that units have for a listener, ready to accept, or none; "*" takes both families'."""
        for source in (self._unclaimed, self._spare):
            found = [each for each in source if _is_for(each, listener.address, port)]
            for each in found:
                source.remove(each)
                _listen(each, listener)
            if found:
                return found
        return []

    def overlapping(self, which: ListenerKey) -> str | None:
        """The socket of a unit, with the unit's name, beside which nobody can listen on this address."""
        for each, unit in self._units.items():
            if _is_tcp(each):
                bound = key_of(each)
                if bound.port == which.port and collisions.overlap(bound.address, which.address):
                    return f"{bound}, which {unit} has bound"
        return None

    def let_go(self, found: socket.socket) -> None:
        """Close a listener's socket that is not wanted any more; a unit's would be refused if it is again."""
        if self.lent(found):
            self._spare.append(found)
        else:
            found.close()

    def lent(self, found: socket.socket) -> bool:
        """Whether a socket is a socket unit's: it has it, and gives it again."""
        return found in self._units

    def unit(self, found: socket.socket) -> str | None:
        """The name of a socket's unit, if it has one."""
        return self._units.get(found)

    def unclaimed(self) -> list[str]:
        """What the sockets of socket units are that no listener has claimed."""
        return [f"descriptor {each.fileno()} ({described(each)})" for each in self._unclaimed]

    def settled(self) -> None:
        """Note that this daemon serves: no other one's clients wait any more."""
        self.inherited = frozenset()

    def _add(self, unit: str, found: socket.socket) -> None:
        self._units[found] = unit or "a socket unit"
        self._unclaimed.append(found)


def _received(environment: Mapping[str, str]) -> Iterator[tuple[str, socket.socket]]:
    """Each passed-on socket with its name, a unit's as a rule (sd_listen_fds(3))."""
    count = environment.get("LISTEN_FDS", "")
    if environment.get("LISTEN_PID") != str(os.getpid()) or not (count.isascii() and count.isdigit()):
        return
    names = environment.get("LISTEN_FDNAMES", "").split(":")
    for number in range(int(count)):
        os.set_inheritable(_FIRST_FD + number, False)
        found = socket.socket(fileno=_FIRST_FD + number)
        yield names[number] if number < len(names) else "", found


def _is_tcp(found: socket.socket) -> bool:
    return found.family in {socket.AF_INET, socket.AF_INET6} and found.type == socket.SOCK_STREAM


def _is_for(found: socket.socket, address: str, port: int) -> bool:
    if not _is_tcp(found):
        return False
    host, its_port = found.getsockname()[:2]
    wildcard = host in {"::", "0.0.0.0"}  # noqa: S104 (compared, not bound)
    return its_port == port and (host == address or (address == "*" and wildcard))


def _has_ipv6() -> bool:
    """Whether this host binds IPv6 addresses."""
    try:
        with socket.socket(socket.AF_INET6, socket.SOCK_STREAM) as probe:
            probe.bind(("::", 0))
    except OSError as error:
        return error.errno not in _NO_IPV6
    return True


def described(found: socket.socket) -> str:
    """What a socket listens on: `0.0.0.0:25`, `[::]:25`."""
    address = found.getsockname()
    if found.family in {socket.AF_INET, socket.AF_INET6}:
        return socket_address.shown(address[0], address[1])
    return repr(address)
