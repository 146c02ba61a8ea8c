"""Opens listening sockets, or adopts sockets that a service manager or another daemon passes on."""

import contextlib
import errno
import os
import socket
import struct
from collections.abc import Iterable, Iterator, Mapping
from typing import Final, NamedTuple

from tcpdconf.config import collisions, host, socket_address
from tcpdconf.config.model import tables
from tcpdconf.config.model.service import ServiceSettings
from tcpdconf.daemon.supervisor import socket_options
from tcpdconf.daemon.supervisor.socket_options import Options

STORED: Final = "tcpdconf listen "  # prefix of the names of our sockets in the store
_FIRST_FD: Final = 3  # SD_LISTEN_FDS_START
_IP_FREEBIND: Final = 15  # linux/in.h
_QUEUED: Final = struct.Struct("=24xI")  # tcpi_unacked in struct tcp_info (linux/tcp.h)
_NO_IPV6: Final = frozenset({errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL})


class ListenerKey(NamedTuple):
    """Identifies a listener by its address, as configured, and its port number."""

    address: str
    port: int

    def __str__(self) -> str:
        """Return address and port as messages show them."""
        return socket_address.shown(self.address, self.port)


def key(listener: tables.Listener) -> ListenerKey:
    """Return the address and port that a listener binds."""
    return ListenerKey(listener.address, host.port_number(listener.port))


def key_of(sock: socket.socket) -> ListenerKey:
    """Return the key of the listener that would bind exactly this socket.

    It depends on family, address, port and IPV6_V6ONLY. A socket on IPv6's any address has the address "*" if
    it takes both families, else "::".
    """
    address, port = sock.getsockname()[:2]
    if address == "::" and not sock.getsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY):
        address = "*"
    return ListenerKey(address, port)


class CannotBindError(Exception):
    """Reports that a listener's socket cannot be opened; the text names the listener and the reason."""

    def __init__(self, which: ListenerKey, why: str) -> None:
        super().__init__(f"cannot bind {which}: {why}")
        self.which = which


class Opening:
    """Collects the sockets that a configuration listens on: already open ones and new ones.

    It does not touch an open socket before `commit`, except to set SO_REUSEPORT briefly. `undo` closes the
    new sockets. An open socket gets the options of its service without being bound again.
    """

    def __init__(self, have: Mapping[ListenerKey, list[socket.socket]], activated: "Activated") -> None:
        self._have = have
        self._all = frozenset(each for open_ in have.values() for each in open_)
        self._bound = {key_of(each): each for each in self._all}
        self._activated = activated
        self._opened: list[socket.socket] = []
        self._silent: list[tuple[socket.socket, tables.Listener, Options]] = []  # listen at `commit`
        self.wanted: dict[ListenerKey, list[socket.socket]] = {}

    def sockets(self, listener: tables.Listener, service: ServiceSettings) -> list[socket.socket]:
        """Return the sockets of one more listener of a service, opened if necessary.

        Raises:
            CannotBindError: the kernel refuses, or a socket unit has bound an overlapping address.
            RefusedError: the kernel refuses an option of the service.
        """
        which = key(listener)
        sockets = self._known(which)
        options = socket_options.of(service, lent=any(map(self._activated.lent, sockets)))
        try:
            socket_options.require(sockets, options)
            claimed = [] if sockets else self._activated.claim(listener, which.port, service)
        except OSError as error:
            raise CannotBindError(which, str(error.strerror)) from None
        self._silent += [(each, listener, options) for each in sockets]  # options or backlog may differ
        sockets = sockets or claimed or [self._open(listener, which, options)]
        self.wanted[which] = sockets
        return sockets

    def unwanted(self) -> frozenset[socket.socket]:
        """Return the open sockets that no listener of the new configuration uses."""
        wanted = {each for sockets in self.wanted.values() for each in sockets}
        return self._all - wanted

    def inherited(self, listener: tables.Listener) -> list[socket.socket]:
        """Return the unwanted sockets on this listener's port that come from another daemon or the store.

        Clients may wait in their queues.
        """
        which = key(listener)
        return [
            each
            for each in self.unwanted() & self._activated.inherited
            if each.getsockname()[1] == which.port and not self._activated.lent(each)
        ]

    def commit(self) -> frozenset[socket.socket]:
        """Listen on all wanted sockets; return the unwanted ones, for the caller to close.

        Raises:
            CannotBindError: the kernel refuses; the sockets have their old options.
        """
        unwanted = self.unwanted()
        before = []
        for each, listener, options in self._silent:
            try:
                before.append((each, socket_options.read(each)))
                socket_options.apply(each, options)
                # the kernel checks again whether the port is free, and others may have bound it since
                with _shared([each, *unwanted]):
                    _listen(each, listener)
            except OSError as error:
                for changed, had in before:
                    with contextlib.suppress(OSError):
                        socket_options.apply(changed, had)
                raise CannotBindError(key(listener), str(error.strerror)) from None
        return unwanted

    def undo(self) -> None:
        """Close the new sockets."""
        for each in self._opened:
            each.close()

    def _known(self, which: ListenerKey) -> list[socket.socket]:
        """Return the open sockets of a listener, or none; for "*" one socket for each family also counts."""
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

    def _open(self, listener: tables.Listener, which: ListenerKey, options: Options) -> socket.socket:
        unit = self._activated.overlapping(which)
        if unit is not None:
            raise CannotBindError(which, f"it overlaps {unit}")
        try:
            sock = _bound(listener, which, options)
            self._opened.append(sock)
            _listen(sock, listener)
        except OSError as error:
            in_the_way = [each for each in self._all if key_of(each).port == which.port]
            if error.errno != errno.EADDRINUSE or not in_the_way:
                raise CannotBindError(which, str(error.strerror)) from None
            sock = self._open_beside(listener, which, options, in_the_way)
        return sock

    def _open_beside(
        self, listener: tables.Listener, which: ListenerKey, options: Options, others: list[socket.socket]
    ) -> socket.socket:
        """Bind a port on which other sockets are open, for example when "*" replaces an address.

        SO_REUSEPORT is set only during bind(2): otherwise another process of the same user could bind too.
        The new socket listens at `commit`. Until then the other sockets get all clients.
        """
        try:
            with _shared(others):
                sock = _bound(listener, which, options, beside=True)
        except OSError as error:
            raise CannotBindError(which, str(error.strerror)) from None
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 0)
        self._opened.append(sock)
        self._silent.append((sock, listener, options))
        return sock


@contextlib.contextmanager
def _shared(sockets: list[socket.socket]) -> Iterator[None]:
    """Set SO_REUSEPORT on these sockets, so that others with this option can bind their ports meanwhile."""
    for each in sockets:
        each.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    try:
        yield
    finally:
        for each in sockets:
            each.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 0)


def _bound(
    listener: tables.Listener, which: ListenerKey, options: Options, *, beside: bool = False
) -> socket.socket:
    """Return a socket bound as configured; for "*" it takes both families if the host has IPv6."""
    if listener.address != "*":
        family = socket.AF_INET6 if ":" in listener.address else socket.AF_INET
        return _bind(listener, options, family, which, v6only=True, beside=beside)
    try:
        return _bind(listener, options, socket.AF_INET6, ("::", which.port), v6only=False, beside=beside)
    except OSError as error:
        if error.errno not in _NO_IPV6:
            raise
        any_ipv4 = ("0.0.0.0", which.port)  # noqa: S104 (configured)
        return _bind(listener, options, socket.AF_INET, any_ipv4, v6only=True, beside=beside)


def _bind(
    listener: tables.Listener,
    options: Options,
    family: socket.AddressFamily,
    address: tuple[str, int],
    *,
    v6only: bool,
    beside: bool,
) -> socket.socket:
    with contextlib.ExitStack() as undo:
        sock = undo.enter_context(socket.socket(family, socket.SOCK_STREAM))
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if beside:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, v6only)
        if listener.freebind:
            sock.setsockopt(socket.SOL_IP, _IP_FREEBIND, 1)
        socket_options.apply(sock, options)  # before bind: the port may be in use on another interface
        sock.bind(address)
        undo.pop_all()
    return sock


def _listen(sock: socket.socket, listener: tables.Listener) -> None:
    sock.setblocking(False)
    sock.listen(listener.backlog or socket.SOMAXCONN)


class Passed(NamedTuple):
    """Describes a socket that was open before this process; `unit` is the unit that has bound it, or None."""

    socket: socket.socket
    unit: str | None = None


class Activated:
    """Keeps the sockets that were open before this process started.

    They come from a socket unit, from the service manager's file descriptor store, or from the daemon that
    this one replaces. A listener must claim each socket of a unit, since the unit's copy keeps listening.
    """

    def __init__(self, environment: Mapping[str, str], taken: Iterable[Passed] = ()) -> None:
        """Take the sockets that the start `environment` names, and those `taken` from another daemon."""
        self._units: dict[socket.socket, str] = {}  # names of units by socket
        self._unclaimed: list[socket.socket] = []
        self._spare: list[socket.socket] = []  # sockets of units without a listener
        self.stored: dict[str, list[socket.socket]] = {}  # by name in the store
        others = []
        for sock, unit in taken:
            if unit is None:
                others.append(sock)
            else:
                self._add(unit, sock)
        for name, sock in _received(environment):
            if name.startswith(STORED):
                self.stored.setdefault(name, []).append(sock)
                others.append(sock)
            else:
                self._add(name, sock)
        # sockets of an earlier daemon, until this one serves
        self.inherited = frozenset(each for each in others if _is_tcp(each))
        for each in self.inherited:
            each.setblocking(False)

    def open(self) -> dict[ListenerKey, list[socket.socket]]:
        """Return the inherited sockets by listener; they are open before the first configuration."""
        found: dict[ListenerKey, list[socket.socket]] = {}
        for each in self.inherited:
            found.setdefault(key_of(each), []).append(each)
        return found

    def claim(self, listener: tables.Listener, port: int, service: ServiceSettings) -> list[socket.socket]:
        """Return the units' sockets for a listener, which now listen; for "*", those of both families.

        Raises:
            RefusedError: the kernel refuses an option of the service.
        """
        options = socket_options.of(service, lent=True)
        for source in (self._unclaimed, self._spare):
            found = [each for each in source if _is_for(each, listener.address, port)]
            socket_options.require(found, options)
            for each in found:
                source.remove(each)
                socket_options.apply(each, options)
                _listen(each, listener)
            if found:
                return found
        return []

    def overlapping(self, which: ListenerKey) -> str | None:
        """Return a text with a unit and its socket that overlaps with this address, or None."""
        for each, unit in self._units.items():
            if _is_tcp(each):
                bound = key_of(each)
                if bound.port == which.port and collisions.overlap(bound.address, which.address):
                    return f"{bound}, which {unit} has bound"
        return None

    def let_go(self, sock: socket.socket) -> None:
        """Close a socket that no listener uses; keep a unit's socket, which could not be bound again."""
        if self.lent(sock):
            self._spare.append(sock)
        else:
            sock.close()

    def lent(self, sock: socket.socket) -> bool:
        """Return whether a socket belongs to a socket unit, which keeps it open and passes it on again."""
        return sock in self._units

    def unit(self, sock: socket.socket) -> str | None:
        """Return the name of a socket's unit, or None."""
        return self._units.get(sock)

    def unclaimed(self) -> list[str]:
        """Return descriptions of the sockets of socket units that no listener has claimed."""
        return [f"descriptor {each.fileno()} ({described(each)})" for each in self._unclaimed]

    def settled(self) -> None:
        """Treat inherited sockets as this daemon's own from now on, because it serves."""
        self.inherited = frozenset()

    def _add(self, unit: str, sock: socket.socket) -> None:
        self._units[sock] = unit or "a socket unit"
        self._unclaimed.append(sock)


def _received(environment: Mapping[str, str]) -> Iterator[tuple[str, socket.socket]]:
    """Yield each passed-on socket with its name, usually a unit's (sd_listen_fds(3))."""
    count = environment.get("LISTEN_FDS", "")
    if environment.get("LISTEN_PID") != str(os.getpid()) or not (count.isascii() and count.isdigit()):
        return
    names = environment.get("LISTEN_FDNAMES", "").split(":")
    for number in range(int(count)):
        os.set_inheritable(_FIRST_FD + number, False)
        sock = socket.socket(fileno=_FIRST_FD + number)
        yield names[number] if number < len(names) else "", sock


def _is_tcp(sock: socket.socket) -> bool:
    return sock.family in {socket.AF_INET, socket.AF_INET6} and sock.type == socket.SOCK_STREAM


def _is_for(sock: socket.socket, address: str, port: int) -> bool:
    if not _is_tcp(sock):
        return False
    host, its_port = sock.getsockname()[:2]
    wildcard = host in {"::", "0.0.0.0"}  # noqa: S104 (compared, not bound)
    return its_port == port and (host == address or (address == "*" and wildcard))


def _has_ipv6() -> bool:
    """Return whether this host binds IPv6 addresses."""
    try:
        with socket.socket(socket.AF_INET6, socket.SOCK_STREAM) as probe:
            probe.bind(("::", 0))
    except OSError as error:
        return error.errno not in _NO_IPV6
    return True


def waiting(sock: socket.socket) -> int:
    """Return the number of clients in the accept queue of a listening socket; 0 if the kernel does not tell.

    For a listening socket, the kernel reports it as tcpi_unacked.
    """
    try:
        found = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _QUEUED.size)
    except OSError:
        return 0
    return int(_QUEUED.unpack(found)[0]) if len(found) == _QUEUED.size else 0


def described(sock: socket.socket) -> str:
    """Return the address of a socket as text: `0.0.0.0:25`, `[::]:25`."""
    address = sock.getsockname()
    if sock.family in {socket.AF_INET, socket.AF_INET6}:
        return socket_address.shown(address[0], address[1])
    return repr(address)
