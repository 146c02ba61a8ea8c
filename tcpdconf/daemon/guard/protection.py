"""Finds the networks that must not be banned without force, so that nobody locks himself out."""

import ipaddress
from collections.abc import Iterable, Iterator
from typing import Final, NamedTuple

from tcpdconf.config.model.service import Config
from tcpdconf.config.model.values import IPNetwork
from tcpdconf.daemon.guard import bans, own_addresses
from tcpdconf.daemon.guard.own_addresses import covers

_WIDEST: Final = {4: 8, 6: 32}  # prefix lengths of the widest networks that are banned without force


class Protected(NamedTuple):
    """Holds a network that should not be banned, the reason, and the key that protects it, if any."""

    network: IPNetwork
    what: str
    key: tuple[str | int, ...] = ()


def networks(config: Config) -> Iterator[Protected]:
    """Yield the networks that must not be banned without force, with their reasons."""
    yield from (Protected(each, "this host's loopback") for each in own_addresses.LOOPBACK)
    yield from (Protected(each, "an address of this host") for each in own_addresses.find())
    yield from configured(config)


def configured(config: Config) -> Iterator[Protected]:
    """Yield the networks that the configuration protects from bans."""
    for network in config.daemon.never_ban:
        key: tuple[str | int, ...] = ("daemon", "never_ban")
        yield from (Protected(each, "in daemon.never_ban", key) for each in _both(network))
    for name, service in config.enabled().items():
        for index, listener in enumerate(service.listeners):
            trusted = () if listener.haproxy is None else listener.haproxy.trusted
            key = ("services", name, "listeners", index, "haproxy", "trusted")
            for network in () if trusted == "any" else trusted:
                yield from (Protected(each, f"a trusted proxy of {name}", key) for each in _both(network))


def forbidden(network: IPNetwork, protected: Iterable[Protected]) -> str | None:
    """Return why a network must not be banned without force, or None if it may be banned."""
    if network.prefixlen < _WIDEST[network.version]:
        return f"is wider than /{_WIDEST[network.version]}"
    for each, what, _ in protected:
        if covers(each, network):
            return f"is {what}" if each.num_addresses == 1 else f"is in {each}, {what}"
        if covers(network, each):
            return f"contains {bans.shown(each)}, {what}"
    return None


def overlap(one: IPNetwork, other: IPNetwork) -> bool:
    """Return whether two networks have addresses in common."""
    return covers(one, other) or covers(other, one)


def _both(network: IPNetwork | str) -> tuple[IPNetwork, ...]:
    """Return a configured network as a tuple; "*" becomes the whole of both families."""
    if isinstance(network, str):
        return ipaddress.IPv4Network("0.0.0.0/0"), ipaddress.IPv6Network("::/0")
    return (network,)
