"""Decides at which listener a hypothetical connection arrives, and whose addresses count."""

import ipaddress
from typing import Final, NamedTuple

from tcpdconf.config import host, socket_address
from tcpdconf.config.model import tables, values
from tcpdconf.config.model.service import Service
from tcpdconf.explain.dns import Listing
from tcpdconf.explain.report import Recorder
from tcpdconf.policy import connection
from tcpdconf.policy.proxy import trust
from tcpdconf.policy.proxy.header import Header

_ANYWHERE: Final = {4: "0.0.0.0", 6: "::"}  # noqa: S104 (for an address that was not given)
_STANDINGS: Final[dict[trust.Standing, str]] = {
    "elsewhere": "no header is expected at this local address",
    "exempt": "exempt: is itself the client, without a header",
    "trusted": "trusted",
    "stranger": "is not a trusted proxy",
}
_OWN: Final = "trusted, and is itself the client (LOCAL or UNKNOWN)"


class Request(NamedTuple):
    """Describes the connection to explain. A port of 0 was not given.

    `local` is this host's end (None: the first listener's), `proxied_local` the one in a PROXY header.
    `listed` are given answers of lists; `ask` tells whether name servers are asked about the others.
    """

    service: str
    client: connection.Endpoint
    local: connection.Endpoint | None = None
    proxied_by: connection.Endpoint | None = None
    proxied_local: connection.Endpoint | None = None
    listed: tuple[tuple[str, Listing], ...] = ()
    ask: bool = True


def end(text: str, default: int | None) -> connection.Endpoint:
    """Parse an end of a connection as people write it; see `values.end`.

    Raises:
        ValueError: the text is not an address with an optional port.
    """
    return _at_port(*values.end(text, default))


class ListenerMatch:
    """Matches one connection to a listener; `link` has its ends as far as they are known."""

    def __init__(self, request: Request, service: Service, recorder: Recorder) -> None:
        self._request = request
        self._service = service
        self._recorder = recorder
        self._peer = request.proxied_by or request.client
        own = request.local or _at_port(_ANYWHERE[self._peer.version], 0)
        self.link = connection.Link(self._peer, own)

    def listener(self) -> tuple[int, tables.Listener] | None:
        """Return the listener that would accept, with its index, or None; `link` gets this host's end."""
        candidates = [
            (index, listener)
            for index, listener in enumerate(self._service.listeners)
            if self._suits(listener)
        ]
        if not candidates:
            self._recorder.step(
                "listener", str(self.link.local), "none", "no listener accepts such a connection"
            )
            return None
        index, listener = min(candidates, key=lambda each: self._preference(each[1]))
        port = host.port_number(listener.port)
        if self._request.local is None:
            address = _ANYWHERE[self._peer.version] if listener.address == "*" else listener.address
            self.link = self.link._replace(local=_at_port(address, port))
        name = socket_address.shown(listener.address, port)
        self._recorder.step(
            "listener", name, "accepts", "accepts", place=self._recorder.place("listeners", index)
        )
        return index, listener

    def _suits(self, listener: tables.Listener) -> bool:
        """Return whether a connection between these ends would reach a listener."""
        wanted = self._request.local
        if wanted is not None and (
            wanted.version != self._peer.version or wanted.port != host.port_number(listener.port)
        ):
            return False
        if listener.address == "*":
            return True
        end = _at_port(listener.address, 0)
        return end.version == self._peer.version and (wanted is None or end.value == wanted.value)

    def _preference(self, listener: tables.Listener) -> tuple[bool, bool]:
        """Return a sort key; of the listeners that suit, the one with the least key gets the connection.

        A proxy's connection belongs to a listener that expects it. The kernel prefers a specific address to
        "*".
        """
        behind = self._request.proxied_by is not None
        told = self._request.local is not None
        return (listener.haproxy is not None) != behind, told and listener.address == "*"

    def proxy(self, index: int, listener: tables.Listener) -> connection.Refused | None:
        """Apply the PROXY settings of the listener to `link`; return a refusal, if any."""
        if listener.haproxy is None:
            if self._request.proxied_by is not None:
                text = "no header is read here: the proxy itself is the client"
                self._recorder.step("proxy", self._peer.text, "none", text)
            return None
        terms = trust.Terms(listener.haproxy)
        standing = terms.standing(self.link)
        refused: connection.Refused | None = None
        text = _STANDINGS[standing]
        if standing == "stranger":
            refused = trust.STRANGER
        elif standing == "trusted":
            taken = terms.take(self.link, self._header())
            if isinstance(taken, connection.Refused):
                refused, text = taken, str(dict(taken.detail)["error"])
            else:
                text = _OWN if taken == self.link else f"trusted: the client is {taken.peer.text}"
                self.link = taken
        place = self._recorder.place("listeners", index, "haproxy")
        self._recorder.step("proxy", self._peer.text, standing, text, place=place)
        return refused

    def _header(self) -> Header:
        """Return the header that the proxy would send: the client's ends, or LOCAL for its own connection."""
        if self._request.proxied_by is None:
            return Header(1, local=True)
        client, own = self._request.client, self.link.local
        same = own if own.version == client.version else _at_port(_ANYWHERE[client.version], own.port)
        return Header(1, local=False, source=client, destination=self._request.proxied_local or same)


def _at_port(address: str, port: int) -> connection.Endpoint:
    found = ipaddress.ip_address(address)
    return connection.endpoint(found.version, int(found), port)
