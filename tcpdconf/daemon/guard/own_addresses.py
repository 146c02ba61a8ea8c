"""Finds the addresses of this host, from /proc/net."""

import ipaddress
import re
from typing import Final

from tcpdconf.config.model.values import IPNetwork

LOOPBACK: Final[tuple[IPNetwork, ...]] = (
    ipaddress.IPv4Network("127.0.0.0/8"),
    ipaddress.IPv6Network("::1"),
)
_LOCAL: Final = re.compile(r"\|-- ([0-9.]+)\n +/32 host LOCAL")


def find() -> tuple[IPNetwork, ...]:
    """Return this host's addresses except loopback; an empty tuple if /proc/net cannot be read."""
    found: set[IPNetwork] = set()
    for address in _LOCAL.findall(_text("/proc/net/fib_trie")):
        found.add(ipaddress.IPv4Network(address))
    for line in _text("/proc/net/if_inet6").splitlines():
        found.add(ipaddress.IPv6Network(int(line.split()[0], 16)))
    return tuple(each for each in found if not any(covers(loop, each) for loop in LOOPBACK))


def covers(wide: IPNetwork, narrow: IPNetwork) -> bool:
    """Return whether `wide` contains `narrow`; False if their families differ."""
    if isinstance(wide, ipaddress.IPv4Network) and isinstance(narrow, ipaddress.IPv4Network):
        return narrow.subnet_of(wide)
    if isinstance(wide, ipaddress.IPv6Network) and isinstance(narrow, ipaddress.IPv6Network):
        return narrow.subnet_of(wide)
    return False


def _text(path: str) -> str:
    try:
        with open(path, encoding="ascii") as file:
            return file.read()
    except OSError:
        return ""
