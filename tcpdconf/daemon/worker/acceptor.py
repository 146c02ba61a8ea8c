"""Accepts a service's connections; those that need a PROXY header go through a gate.

The listeners are polled only while a connection could be served; otherwise clients wait in the kernel.
"""

import errno
import functools
import os
import socket
from collections.abc import Callable, Collection, Sequence
from typing import Final, NamedTuple

from tcpdconf.config.model import tables
from tcpdconf.daemon.process import log, loop, throttle
from tcpdconf.daemon.worker import client, proxy_reader
from tcpdconf.policy import connection

_AT_ONCE: Final = 32  # connections accepted before other events get their turn
_QUEUED: Final = 4096  # connections taken over from the queue of a listener that is given up
# The client was gone before it was accepted, or the network was (accept(2), ERRORS).
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


Listener = tuple[socket.socket, tables.HAProxy | None]


class _Door(NamedTuple):
    """A listening socket; its local end where that is fixed, its gate where headers are expected."""

    listener: socket.socket
    end: connection.Endpoint | None
    gate: proxy_reader.ProxyReader | None


class Acceptor:
    """The listeners of one service.

    `arrived` is called with each connection that is to be decided and the variables of its PROXY header;
    `settle` when descriptors have run out: it lets go of connections, or says that there are none.
    `refused`, `left` and `lenient` are a gate's.
    """

    def __init__(
        self,
        events: loop.Loop,
        name: str,
        listeners: Sequence[Listener],
        *,
        arrived: proxy_reader.Passed,
        settle: Callable[[], bool],
        refused: proxy_reader.Refused,
        left: proxy_reader.Left,
        lenient: bool = False,
    ) -> None:
        self._loop = events
        self._name = name
        self._arrived = arrived
        self._settle = settle
        self._doors = [
            _Door(
                listener,
                client.fixed_end(listener),
                None
                if haproxy is None
                else proxy_reader.ProxyReader(
                    events, haproxy, passed=arrived, refused=refused, left=left, lenient=lenient
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
        """Accept connections, or leave them in the kernel's queue."""
        self._wanted = wanted
        polling = wanted and not self._resting and not self._retired
        if polling == self._polling:
            return
        self._polling = polling
        for door in self._doors:
            if polling:
                self._loop.watch(door.listener, functools.partial(self._accept, door))
            else:
                self._loop.forget(door.listener)

    def retire(self, kept: Collection[int]) -> None:
        """Leave the listeners to a successor that has those in `kept` (inodes); still await headers.

        Who waits at a listener that nobody has any more is accepted: its end would be a reset for them.
        """
        self.poll(wanted=False)
        self._retired = True
        for door in self._doors:
            if os.fstat(door.listener.fileno()).st_ino not in kept:
                self._empty(door)
            door.listener.close()

    def close(self) -> None:
        """Accept no more, and refuse those whose header is still awaited."""
        self.poll(wanted=False)
        for door in self._doors:
            door.listener.close()
            if door.gate is not None:
                door.gate.close()
        self._doors.clear()

    @property
    def pending(self) -> int:
        """Headers that are awaited."""
        return sum(door.gate.pending for door in self._doors if door.gate is not None)

    def _accept(self, door: _Door) -> None:
        for _ in range(_AT_ONCE):
            if not self._polling:
                return
            try:
                accepted, address = door.listener.accept()
            except BlockingIOError:
                return
            except OSError as error:
                if error.errno not in _GONE and not self._settle():
                    self._rest(error)
                continue
            self._enter(door, accepted, address)

    def _enter(self, door: _Door, accepted: socket.socket, address: client.Address) -> None:
        local = door.end or client.endpoint(accepted.getsockname())
        link = connection.Link(client.endpoint(address), local)
        if door.gate is None:
            self._arrived(accepted, link, {})
        else:
            door.gate.enter(accepted, link)

    def _empty(self, door: _Door) -> None:
        """Accept whom the kernel has queued, as far as that goes."""
        for _ in range(_QUEUED):
            try:
                accepted, address = door.listener.accept()
            except BlockingIOError:
                return
            except OSError as error:
                if error.errno not in _GONE and not self._settle():
                    return
                continue
            self._enter(door, accepted, address)

    def _rest(self, error: OSError) -> None:
        """Leave the listeners alone for a moment: descriptors or memory have run out."""
        if self._seldom.due("accept", loop.now()):
            log.error(f"cannot accept: {error.strerror}", service=self._name, retry=f"{_REST}s")
        self._resting = True
        self._loop.after(_REST, self._wake)
        self.poll(self._wanted)

    def _wake(self) -> None:
        self._resting = False
        self.poll(self._wanted)
