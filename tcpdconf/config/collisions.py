"""Which listeners cannot be bound beside one another. Pure: names of ports are numbers by now."""

import ipaddress
from collections.abc import Iterable, Iterator
from typing import NamedTuple


class Bound(NamedTuple):
    """What one listener of a service binds; `address` is unmapped, or "*" for both families."""

    service: str
    listener: int
    address: str
    port: int

    def __str__(self) -> str:
        """`192.0.2.1:25`, `[::1]:25` or `*:25`."""
        return f"[{self.address}]:{self.port}" if ":" in self.address else f"{self.address}:{self.port}"


def pairs(listeners: Iterable[Bound]) -> Iterator[tuple[Bound, Bound]]:
    """Each listener that cannot be bound, with the first that is in its way."""
    by_port: dict[int, list[Bound]] = {}
    for bound in listeners:
        known = by_port.setdefault(bound.port, [])
        other = next((other for other in known if overlap(other.address, bound.address)), None)
        known.append(bound)
        if other is not None:
            yield bound, other


def unmapped(address: str) -> str:
    """An IPv4-mapped IPv6 address as the IPv4 address that it means; others as they are."""
    if address == "*":
        return address
    found = ipaddress.ip_address(address)
    mapped = found.ipv4_mapped if isinstance(found, ipaddress.IPv6Address) else None
    return str(mapped or found)


def is_loopback(address: str) -> bool:
    """Whether only this host reaches an address."""
    return address != "*" and ipaddress.ip_address(unmapped(address)).is_loopback


def overlap(one: str, other: str) -> bool:
    """Whether two addresses cannot share a port; "::" is bound for IPv6 only, "*" for both families."""
    if one == other or "*" in {one, other}:
        return True
    same_family = (":" in one) == (":" in other)
    return same_family and bool({one, other} & {"0.0.0.0", "::"})  # noqa: S104 (nothing is bound here)
