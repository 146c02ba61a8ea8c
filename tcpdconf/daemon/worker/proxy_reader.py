"""Reads the PROXY headers of one listener's connections, many at once, each with the same time.

A peer that is not trusted is refused before a byte of it is read. From the others exactly the header is read:
what follows is the program's. Nobody here holds a slot of the service.
"""

import functools
import socket
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Final, NamedTuple

from tcpdconf.config.model import tables
from tcpdconf.daemon.process import loop
from tcpdconf.policy import connection
from tcpdconf.policy.proxy import header as proxy_header
from tcpdconf.policy.proxy import trust
from tcpdconf.policy.proxy.header import Header, HeaderError, Options

_LATE: Final = (
    "no whole PROXY header in time; a proxy that sends it only with the client's first data (an AWS target"
    " group with on_first_ack_with_payload) deadlocks protocols in which the server speaks first"
)
_LEFT: Final = "left without a byte"

Passed = Callable[[socket.socket, connection.Link, Mapping[str, str]], None]
Refused = Callable[[socket.socket, connection.Link, connection.Refused], None]
Left = Callable[[socket.socket, connection.Link], None]


class _Pending(NamedTuple):
    """A connection whose header has not come yet, or only in part."""

    client: socket.socket
    link: connection.Link
    data: bytearray
    until: float


class ProxyReader:
    """The headers of one listener.

    `passed` is called with each connection that may go on, what its header says, and the variables from it;
    `refused` with each that may not; `left` with each that closed without a byte, as health checks do.
    """

    def __init__(
        self,
        events: loop.Loop,
        settings: tables.HAProxy,
        *,
        passed: Passed,
        refused: Refused,
        left: Left,
        lenient: bool = False,
    ) -> None:
        self._loop = events
        self._settings = settings
        self._passed = passed
        self._refused = refused
        self._left = left
        self._options = Options(frozenset(settings.versions), lenient)
        self._terms = trust.Terms(settings)
        self._pending: dict[int, _Pending] = {}  # by descriptor, the oldest first
        self._peers: Counter[str] = Counter()
        self._armed = False

    def enter(self, client: socket.socket, link: connection.Link) -> None:
        """Take a connection; `link` has the socket's own ends."""
        standing = self._terms.standing(link)
        if standing in {"elsewhere", "exempt"}:
            self._passed(client, link, {})
        elif standing == "stranger":
            self._refused(client, link, trust.STRANGER)
        elif len(self._pending) >= self._settings.max_pending:
            self._refuse(client, link, f"{self._settings.max_pending} PROXY headers are awaited already")
        elif self._peers[link.peer.text] >= self._settings.max_pending_per_peer:
            most = self._settings.max_pending_per_peer
            self._refuse(client, link, f"{most} PROXY headers of this proxy are awaited already")
        else:
            self._await(client, link)

    @property
    def pending(self) -> int:
        """Headers that are awaited."""
        return len(self._pending)

    def close(self) -> None:
        """Refuse those whose header is still awaited."""
        for pending in list(self._pending.values()):
            self._forget(pending)
            self._refuse(pending.client, pending.link, "stopping")

    def _await(self, client: socket.socket, link: connection.Link) -> None:
        client.setblocking(False)
        pending = _Pending(client, link, bytearray(), loop.now() + self._settings.timeout)
        outcome = self._advance(pending)
        if outcome is not None:  # most headers come with the connection
            self._settle(pending, outcome)
            return
        self._pending[client.fileno()] = pending
        self._peers[link.peer.text] += 1
        self._loop.watch(client, functools.partial(self._readable, pending))
        self._arm()

    def _readable(self, pending: _Pending) -> None:
        outcome = self._advance(pending)
        if outcome is not None:
            self._forget(pending)
            self._settle(pending, outcome)

    def _advance(self, pending: _Pending) -> Header | str | None:
        """Read on: the header when it is complete, what is wrong with it, or None while more is to come."""
        data = pending.data
        try:
            while wanted := proxy_header.wanted(data, self._options):
                received = pending.client.recv(wanted)
                if not received:
                    return "closed within the PROXY header" if data else _LEFT
                data += received
            return proxy_header.parse(data, self._options)
        except BlockingIOError:
            return None
        except HeaderError as error:
            return str(error)
        except OSError as error:
            return f"{error.strerror} within the PROXY header" if data else _LEFT

    def _settle(self, pending: _Pending, outcome: Header | str) -> None:
        client, link, _, _ = pending
        if outcome is _LEFT:
            self._left(client, link)
        elif isinstance(outcome, str):
            self._refuse(client, link, outcome)
        elif isinstance(taken := self._terms.take(link, outcome), connection.Refused):
            self._refused(client, link, taken)
        else:
            client.setblocking(True)
            self._passed(client, taken, proxy_header.variables(outcome))

    def _refuse(self, client: socket.socket, link: connection.Link, error: str) -> None:
        self._refused(client, link, trust.refused(error))

    def _forget(self, pending: _Pending) -> None:
        self._loop.forget(pending.client)
        del self._pending[pending.client.fileno()]
        peer = pending.link.peer.text
        self._peers[peer] -= 1
        if not self._peers[peer]:
            del self._peers[peer]

    def _arm(self) -> None:
        """Look again when the oldest header is late; all have the same time."""
        if self._pending and not self._armed:
            self._armed = True
            oldest = next(iter(self._pending.values()))
            self._loop.after(oldest.until - loop.now(), self._expire)

    def _expire(self) -> None:
        self._armed = False
        now = loop.now()
        while self._pending and (oldest := next(iter(self._pending.values()))).until <= now:
            self._forget(oldest)
            self._refuse(oldest.client, oldest.link, f"{_LATE} ({self._settings.timeout:g} s)")
        self._arm()
