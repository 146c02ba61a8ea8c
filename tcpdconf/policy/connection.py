"""Defines the values that pass through a decision: endpoints, links and refusals."""

import ipaddress
from typing import Literal, NamedTuple

from tcpdconf.config import socket_address

_MAPPED = 0xFFFF  # the upper 96 bits of ::ffff:0:0/96 (RFC 4291, 2.5.5.2)

Reason = Literal[
    "banned", "access", "per_ip", "per_network", "rate", "dropped", "proxy", "penalty", "spawn", "cluster"
]


class Endpoint(NamedTuple):
    """Holds one end of a TCP connection: address and port.

    An IPv4-mapped IPv6 address is never stored here; `endpoint` turns it into the IPv4 address it stands for.
    """

    version: int  # 4 or 6
    value: int  # the address as a number: 32 or 128 bits
    port: int
    text: str  # the address as its family writes it: 192.0.2.1, 2001:db8::1

    def __str__(self) -> str:
        """Return `192.0.2.1:25` or `[2001:db8::1]:25`."""
        return socket_address.shown(self.text, self.port)


def endpoint(version: int, value: int, port: int) -> Endpoint:
    """Return the endpoint of an address number and a port; an IPv4-mapped address becomes IPv4."""
    if version == 6 and value >> 32 == _MAPPED:
        version, value = 4, value & 0xFFFFFFFF
    address = ipaddress.IPv4Address(value) if version == 4 else ipaddress.IPv6Address(value)
    return Endpoint(version, value, port, str(address))


class Proxy(NamedTuple):
    """Holds the two ends of the socket itself, if a PROXY header named others: the proxy and this host."""

    peer: Endpoint
    local: Endpoint


class Link(NamedTuple):
    """Describes a connection: client and local end, from the PROXY header if the connection has one."""

    peer: Endpoint
    local: Endpoint
    proxy: Proxy | None = None

    @property
    def own_end(self) -> Endpoint:
        """Return this host's end of the socket, whatever the PROXY header says."""
        return self.local if self.proxy is None else self.proxy.local


class Refused(NamedTuple):
    """Refuses a connection, with the reason for the log."""

    reason: Reason
    detail: tuple[tuple[str, object], ...] = ()  # further log fields: the limit, its value, the rule
    local: bool = False  # True when a rule for a local end refused it, not one for the client
