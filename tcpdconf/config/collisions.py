"""Finds listeners that cannot be bound at the same time, and compares addresses.

Pure: port names are resolved already.
"""

import ipaddress
from collections.abc import Collection, Iterable, Iterator
from typing import NamedTuple

from tcpdconf.config import socket_address

Network = ipaddress.IPv4Network | ipaddress.IPv6Network


class Bound(NamedTuple):
    """Describes what one listener of a service binds, or its agent if `listener` is None.

    `address` is unmapped, or "*" for both families.
    """

    service: str
    listener: int | None
    address: str
    port: int

    def __str__(self) -> str:
        """Return `192.0.2.1:25`, `[::1]:25` or `*:25`."""
        return socket_address.shown(self.address, self.port)


def pairs(listeners: Iterable[Bound]) -> Iterator[tuple[Bound, Bound]]:
    """Yield each listener that cannot be bound, with the first one that conflicts with it."""
    first: dict[tuple[int, str], tuple[int, Bound]] = {}  # by port and each group that the address belongs to
    for number, bound in enumerate(listeners):
        groups, others = _groups(bound.address)
        known = [first[bound.port, group] for group in others if (bound.port, group) in first]
        for group in groups:
            first.setdefault((bound.port, group), (number, bound))
        if known:
            yield bound, min(known)[1]


def unmapped(address: str) -> str:
    """Return the IPv4 address of an IPv4-mapped IPv6 address; others unchanged."""
    if ":" not in address:
        return address
    return str(ipaddress.IPv6Address(address).ipv4_mapped or address)


def is_loopback(address: str) -> bool:
    """Return whether an address is reachable from this host only."""
    return address != "*" and ipaddress.ip_address(unmapped(address)).is_loopback


def is_within(address: str, networks: Collection[Network | str]) -> bool:
    """Return whether the address of a peer, perhaps with a scope, is in one of the networks; "*" has all."""
    found = ipaddress.ip_address(unmapped(address.partition("%")[0]))
    return any(each == "*" if isinstance(each, str) else found in each for each in networks)


def _groups(address: str) -> tuple[list[str], list[str]]:
    """Return the groups that an address belongs to, and those whose members conflict with it.

    A group is an address itself, or all of a family; "::" is bound for IPv6 only, "*" for both families.
    """
    if address == "*":
        return ["*", "all of IPv4", "all of IPv6"], ["all of IPv4", "all of IPv6"]
    family, whole = ("all of IPv6", "::") if ":" in address else ("all of IPv4", "0.0.0.0")  # noqa: S104
    return [address, family], [family] if address == whole else [address, whole, "*"]


def overlap(one: str, other: str) -> bool:
    """Return whether two addresses cannot share a port."""
    return not set(_groups(one)[0]).isdisjoint(_groups(other)[1])
