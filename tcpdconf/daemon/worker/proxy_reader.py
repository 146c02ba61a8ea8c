"""Reads the PROXY headers of one listener's connections, many at once, all with the same timeout.

It refuses a peer that is not trusted before it reads a byte. From other peers it reads exactly the header and
leaves the rest to the program. No connection here holds a slot of the service.
"""

import functools
from collections import Counter
from collections.abc import Callable
from typing import Final, NamedTuple

from tcpdconf.config.model import tables
from tcpdconf.daemon.process import loop
from tcpdconf.daemon.worker.connection import Connection
from tcpdconf.policy.connection import Refused
from tcpdconf.policy.proxy import header as proxy_header
from tcpdconf.policy.proxy import trust
from tcpdconf.policy.proxy.header import Header, HeaderError, Options

_LATE: Final = (
    "a proxy must send it at once, not with the client's first data (AWS: on_first_ack, not"
    " on_first_ack_with_payload)"
)
_LEFT: Final = "left without a byte"

Arrived = Callable[[Connection], None]
RefusedWith = Callable[[Connection, Refused], None]


class _Pending(NamedTuple):
    """Holds a connection whose header is not complete yet."""

    connection: Connection
    data: bytearray
    until: float


class ProxyReader:
    """Reads the headers of one listener's connections.

    `arrived` is called with each connection that may go on. Its ends and variables come from its header,
    unless it needs none. `refused` is called with each refused one. `left` is called with each that is a
    health check: the peer closed it without sending a byte, or its header is LOCAL and `local` is "close".
    """

    def __init__(
        self,
        events: loop.Loop,
        settings: tables.HAProxy,
        *,
        arrived: Arrived,
        refused: RefusedWith,
        left: Arrived,
        lenient: bool = False,
    ) -> None:
        self._loop = events
        self._settings = settings
        self._arrived = arrived
        self._refused = refused
        self._left = left
        self._options = Options(frozenset(settings.versions), lenient, settings.max_header)
        self._terms = trust.Terms(settings)
        self._pending: dict[int, _Pending] = {}  # by descriptor, the oldest first
        self._peers: Counter[str] = Counter()
        self._armed = False

    def enter(self, connection: Connection) -> None:
        """Take a connection whose link has the ends of the socket itself."""
        link = connection.link
        standing = self._terms.standing(link)
        if standing in {"elsewhere", "exempt"}:
            self._arrived(connection)
        elif standing == "stranger":
            self._refused(connection, trust.STRANGER)
        elif len(self._pending) >= self._settings.max_pending:
            self._refuse(connection, f"{self._settings.max_pending} PROXY headers are already awaited")
        elif self._peers[link.peer.text] >= self._settings.max_pending_per_peer:
            most = self._settings.max_pending_per_peer
            self._refuse(connection, f"{most} PROXY headers of this proxy are already awaited")
        else:
            self._await(connection)

    @property
    def awaiting(self) -> list[Connection]:
        """Return the connections whose header is awaited."""
        return [each.connection for each in self._pending.values()]

    def close(self) -> None:
        """Refuse the connections whose header is still awaited."""
        for pending in list(self._pending.values()):
            self._forget(pending)
            self._refuse(pending.connection, "stopping")

    def _await(self, connection: Connection) -> None:
        client = connection.socket
        client.setblocking(False)
        pending = _Pending(connection, bytearray(), loop.now() + self._settings.timeout)
        outcome = self._advance(pending)
        if outcome is not None:  # most headers come with the connection
            self._settle(connection, outcome)
            return
        self._pending[client.fileno()] = pending
        self._peers[connection.link.peer.text] += 1
        self._loop.watch(client, functools.partial(self._readable, pending))
        self._arm()

    def _readable(self, pending: _Pending) -> None:
        outcome = self._advance(pending)
        if outcome is not None:
            self._forget(pending)
            self._settle(pending.connection, outcome)

    def _advance(self, pending: _Pending) -> Header | str | None:
        """Read on; return the complete header, the text of an error, or None if more has to arrive."""
        data = pending.data
        try:
            while wanted := proxy_header.wanted(data, self._options):
                received = pending.connection.socket.recv(wanted)
                if not received:
                    return "connection closed within the PROXY header" if data else _LEFT
                data += received
            return proxy_header.parse(data, self._options)
        except BlockingIOError:
            return None
        except HeaderError as error:
            return str(error)
        except OSError as error:
            return f"{error.strerror} within the PROXY header" if data else _LEFT

    def _settle(self, connection: Connection, outcome: Header | str) -> None:
        if outcome is _LEFT:
            self._left(connection)
        elif isinstance(outcome, str):
            self._refuse(connection, outcome)
        elif (taken := self._terms.take(connection.link, outcome)) is trust.OWN:
            self._left(connection)
        elif isinstance(taken, Refused):
            self._refused(connection, taken)
        else:
            connection.socket.setblocking(True)
            connection.link = taken
            connection.variables = proxy_header.variables(outcome)
            self._arrived(connection)

    def _refuse(self, connection: Connection, error: str) -> None:
        self._refused(connection, trust.refused(error))

    def _forget(self, pending: _Pending) -> None:
        client, peer = pending.connection.socket, pending.connection.link.peer.text
        self._loop.forget(client)
        del self._pending[client.fileno()]
        self._peers[peer] -= 1
        if not self._peers[peer]:
            del self._peers[peer]

    def _arm(self) -> None:
        """Set the timer for the oldest header; all have the same timeout."""
        if self._pending and not self._armed:
            self._armed = True
            oldest = next(iter(self._pending.values()))
            self._loop.after(oldest.until - loop.now(), self._expire)

    def _expire(self) -> None:
        self._armed = False
        now = loop.now()
        while self._pending and (oldest := next(iter(self._pending.values()))).until <= now:
            self._forget(oldest)
            self._refuse(
                oldest.connection, f"no complete PROXY header within {self._settings.timeout:g} s: {_LATE}"
            )
        self._arm()
