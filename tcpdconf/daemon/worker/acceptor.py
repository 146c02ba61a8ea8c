"""Accepts a service's connections, and passes those that need a PROXY header to a `proxy_reader`.

It polls the listeners only while a connection could be served. Otherwise clients wait in the kernel's queue.
"""

import errno
import functools
import os
import socket
from collections.abc import Callable, Collection, Sequence
from typing import Final, NamedTuple

from tcpdconf.config.model import tables
from tcpdconf.daemon.process import log, loop, throttle
from tcpdconf.daemon.worker.connection import Address, Connection, Serving, endpoint, fixed_end
from tcpdconf.daemon.worker.proxy_reader import Arrived, ProxyReader, RefusedWith
from tcpdconf.policy.connection import Endpoint, Link

_AT_ONCE: Final = 32  # connections accepted before other events get their turn
_QUEUED: Final = 4096  # most connections accepted from the queue of a listener before it is closed
# The client or its network was gone before the connection was accepted (accept(2), ERRORS).
_GONE: Final = frozenset(
    {
        errno.ECONNABORTED,
        errno.ECONNRESET,
        errno.EHOSTDOWN,
        errno.EHOSTUNREACH,
        errno.ENETDOWN,
        errno.ENETUNREACH,
        errno.ENONET,
        errno.ENOPROTOOPT,
        errno.EOPNOTSUPP,
        errno.EPERM,
        errno.EPROTO,
    }
)
_REST: Final = 0.1  # seconds before another try when descriptors or memory have run out


_STREAM: Final = int(socket.SOCK_STREAM)
_TCP: Final = int(socket.IPPROTO_TCP)
Listener = tuple[socket.socket, tables.HAProxy | None]


class _Door(NamedTuple):
    """Holds a listening socket, its local end if that is fixed, and a reader if it expects headers."""

    listener: socket.socket
    family: int
    end: Endpoint | None
    reader: ProxyReader | None


def accept(listener: socket.socket, family: int) -> tuple[socket.SocketType, Address]:
    """Accept a connection as `socket.accept` does, in two thirds of its time.

    It makes no object of the class `socket.socket`, which has nothing that is needed here.

    Raises:
        OSError: as accept(2).
    """
    fd, address = listener._accept()  # type: ignore[attr-defined] # noqa: SLF001 (`socket.accept` calls it, too)
    return socket.SocketType(family, _STREAM, _TCP, fd), address


class Acceptor:
    """Accepts connections at the listeners of one service.

    `arrived` is called with each connection, after its PROXY header if one is expected. `refused` and `left`
    are passed to each `ProxyReader`. `look`, if given, is called before each accept(2). It calls `poll` if no
    connection may be accepted now, because another worker has taken the last slot.
    """

    def __init__(
        self,
        events: loop.Loop,
        name: str,
        serving: Serving,
        listeners: Sequence[Listener],
        *,
        arrived: Arrived,
        refused: RefusedWith,
        left: Arrived,
        look: Callable[[], object] | None = None,
    ) -> None:
        self._loop = events
        self._look = look
        self._name = name
        self._serving = serving
        self._arrived = arrived
        lenient = serving.ways.lenient_proxy
        self._doors = [
            _Door(
                listener,
                int(listener.family),
                fixed_end(listener),
                None
                if haproxy is None
                else ProxyReader(
                    events, haproxy, arrived=arrived, refused=refused, left=left, lenient=lenient
                ),
            )
            for listener, haproxy in listeners
        ]
        self._wanted = False
        self._resting = False
        self._polling = False
        self._retired = False
        self._seldom = throttle.Seldom()

    def poll(self, wanted: bool) -> None:
        """Accept connections if `wanted`, else leave them in the kernel's queue."""
        self._wanted = wanted
        polling = wanted and not self._resting and not self._retired
        if polling == self._polling:
            return
        self._polling = polling
        for door in self._doors:
            if polling:
                watch = self._loop.watch if self._serving.first else self._loop.watch_shared
                watch(door.listener, functools.partial(self._accept, door))
            else:
                self._loop.forget(door.listener)

    def retire(self, kept: Collection[int]) -> None:
        """Close the listeners, but go on reading headers.

        A successor has the listeners whose inodes are in `kept`. Clients that wait at the others are accepted
        first, since the kernel resets them when the last descriptor of their listener is closed.
        """
        self.poll(wanted=False)
        self._retired = True
        for door in self._doors:
            if os.fstat(door.listener.fileno()).st_ino not in kept:
                self._empty(door)
            door.listener.close()

    def leave(self) -> None:
        """Close the listeners, which other workers have as well, but go on reading headers."""
        self.retire([os.fstat(door.listener.fileno()).st_ino for door in self._doors])

    def close(self) -> None:
        """Stop accepting, and refuse the connections whose header is still awaited."""
        self.poll(wanted=False)
        for door in self._doors:
            door.listener.close()
            if door.reader is not None:
                door.reader.close()
        self._doors.clear()

    @property
    def awaiting(self) -> list[Connection]:
        """Return the connections whose PROXY header is awaited."""
        readers = (door.reader for door in self._doors if door.reader is not None)
        return [connection for reader in readers for connection in reader.awaiting]

    def _accept(self, door: _Door) -> None:
        for _ in range(_AT_ONCE):
            if self._look is not None:
                self._look()
            if not self._polling:
                return
            try:
                accepted, address = accept(door.listener, door.family)
            except BlockingIOError:
                return
            except OSError as error:
                if error.errno not in _GONE:
                    self._rest(error)
                continue
            self._enter(door, accepted, address)

    def _enter(self, door: _Door, accepted: socket.SocketType, address: Address) -> None:
        local = door.end or endpoint(accepted.getsockname())
        connection = Connection(self._serving, accepted, Link(endpoint(address), local), {})
        connection.accepted = loop.now()
        if door.reader is None:
            self._arrived(connection)
        else:
            door.reader.enter(connection)

    def _empty(self, door: _Door) -> None:
        """Accept the clients in the kernel's queue, as far as descriptors allow."""
        for _ in range(_QUEUED):
            try:
                accepted, address = accept(door.listener, door.family)
            except BlockingIOError:
                return
            except OSError as error:
                if error.errno not in _GONE:
                    return
                continue
            self._enter(door, accepted, address)

    def _rest(self, error: OSError) -> None:
        """Stop polling the listeners for a moment, because descriptors or memory have run out."""
        if self._seldom.due("accept", loop.now()):
            log.error(f"cannot accept: {error.strerror}", service=self._name, retry=f"{_REST}s")
        self._resting = True
        self._loop.after(_REST, self._wake)
        self.poll(self._wanted)

    def _wake(self) -> None:
        self._resting = False
        self.poll(self._wanted)
