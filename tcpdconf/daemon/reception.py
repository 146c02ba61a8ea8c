"""Accepts a service's connections; those that need a PROXY header go through a gate.

The listeners are polled only while a connection could be served; otherwise clients wait in the kernel.
"""

import errno
import functools
import socket
from typing import Final, NamedTuple

from tcpdconf.config import tables
from tcpdconf.daemon import client, gate, log, loop, throttle
from tcpdconf.policy import connection

_AT_ONCE: Final = 32  # connections accepted before other events get their turn
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


class _Door(NamedTuple):
    """A listening socket; its local end where that is fixed, its gate where headers are expected."""

    listener: socket.socket
    end: connection.Endpoint | None
    gate: gate.Gate | None


class Reception:
    """The listeners of one service.

    `arrived` is called with each connection that is to be decided and the variables of its PROXY header;
    `refused` and `left` are a gate's.
    """

    def __init__(
        self,
        events: loop.Loop,
        name: str,
        listeners: list[tuple[socket.socket, tables.HAProxy | None]],
        *,
        arrived: gate.Passed,
        refused: gate.Refused,
        left: gate.Left,
    ) -> None:
        self._loop = events
        self._name = name
        self._arrived = arrived
        self._doors = [
            _Door(
                listener,
                client.fixed_end(listener),
                None
                if haproxy is None
                else gate.Gate(events, haproxy, passed=arrived, refused=refused, left=left),
            )
            for listener, haproxy in listeners
        ]
        self._wanted = False
        self._resting = False
        self._polling = False
        self._seldom = throttle.Seldom()

    def poll(self, wanted: bool) -> None:
        """Accept connections, or leave them in the kernel's queue."""
        self._wanted = wanted
        polling = wanted and not self._resting
        if polling == self._polling:
            return
        self._polling = polling
        for door in self._doors:
            if polling:
                self._loop.watch(door.listener, functools.partial(self._accept, door))
            else:
                self._loop.forget(door.listener)

    def close(self) -> None:
        """Accept no more."""
        self.poll(wanted=False)
        for door in self._doors:
            door.listener.close()
            if door.gate is not None:
                door.gate.close()
        self._doors.clear()

    def _accept(self, door: _Door) -> None:
        for _ in range(_AT_ONCE):
            if not self._polling:
                return
            try:
                accepted, address = door.listener.accept()
            except BlockingIOError:
                return
            except OSError as error:
                if error.errno not in _GONE:
                    self._rest(error)
                continue
            local = door.end or client.endpoint(accepted.getsockname())
            link = connection.Connection(client.endpoint(address), local)
            if door.gate is None:
                self._arrived(accepted, link, {})
            else:
                door.gate.enter(accepted, link)

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
