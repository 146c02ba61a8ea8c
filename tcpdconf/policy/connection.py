"""The values that travel through a decision: who connected to what, and the verdict."""

import ipaddress
from typing import Literal, NamedTuple

from tcpdconf.config import socket_address

_MAPPED = 0xFFFF  # the upper 96 bits of ::ffff:0:0/96 (RFC 4291, 2.5.5.2)

Reason = Literal["access", "per_ip", "per_network", "rate", "dropped", "proxy", "spawn"]


class Endpoint(NamedTuple):
    """One end of a TCP connection.

    An IPv4-mapped IPv6 address never gets here: it is the IPv4 address that it means.
    """

    version: int  # 4 or 6
    value: int  # the address as a number: 32 or 128 bits
    port: int
    text: str  # the address as its family writes it: 192.0.2.1, 2001:db8::1

    def __str__(self) -> str:
        """`192.0.2.1:25` or `[2001:db8::1]:25`."""
        return socket_address.shown(self.text, self.port)


def endpoint(version: int, value: int, port: int) -> Endpoint:
    """An end from its numbers; an IPv4-mapped address becomes the IPv4 address."""
    if version == 6 and value >> 32 == _MAPPED:
        version, value = 4, value & 0xFFFFFFFF
    address = ipaddress.IPv4Address(value) if version == 4 else ipaddress.IPv6Address(value)
    return Endpoint(version, value, port, str(address))


class Proxy(NamedTuple):
    """The socket's own ends, where a PROXY header told others: the proxy, and this host."""

    peer: Endpoint
    local: Endpoint


class Link(NamedTuple):
    """A connection as policy sees it: the client, and where it connected to, as a PROXY header says them."""

    peer: Endpoint
    local: Endpoint
    proxy: Proxy | None = None

    @property
    def own_end(self) -> Endpoint:
        """This host's end of the socket."""
        return self.local if self.proxy is None else self.proxy.local


class Refused(NamedTuple):
    """A connection that is not served, and why."""

    reason: Reason
    detail: tuple[tuple[str, object], ...] = ()  # what a log line adds: the limit, its value, the rule
    local: bool = False  # by a rule for a local end, not for the client
