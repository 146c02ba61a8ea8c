"""Describes the limits of a service for the engine, and turns its answers into refusals."""

from collections.abc import Iterable, Iterator
from typing import NamedTuple

from tcpdconf.config.model import tables, values
from tcpdconf.daemon.cluster.records import Answer
from tcpdconf.daemon.messages.cluster import MOST_LIMITS, Limit
from tcpdconf.policy.access import table as access_table
from tcpdconf.policy.connection import Reason, Refused
from tcpdconf.policy.shared_limits import Shape


class Described(NamedTuple):
    """Holds a limit with its key in the configuration and the reason for which it refuses.

    `scope` is the set of connections that it counts: those of the cluster, or of a group on this host.
    """

    limit: Limit
    name: str
    reason: Reason
    scope: str = "cluster"

    def refusal(self, answer: Answer, most: int | None) -> Refused:
        """Return the refusal that an answer stands for; `most`, if given, replaces the configured maximum."""
        if self.limit.seconds is not None:
            value = str(values.Rate(self.limit.most, self.limit.seconds))
            return Refused(self.reason, (("limit", self.name), ("value", value), ("scope", self.scope)))
        counts = (("held", answer.held), ("elsewhere", answer.elsewhere))
        return Refused(self.reason, (("limit", self.name), ("value", most or self.limit.most), *counts))


def of(limits: tables.Limits, group: Iterable[Shape] = ()) -> list[Described]:
    """Return the limits that are counted together; the limit per address is the first, and always present.

    The last ones are counts that only other services of the group need. They limit nobody in this service.
    """
    found = [Described(_count(32, 128, limits.max_per_ip, limits.enforce), "max_per_ip", "per_ip")]
    if limits.max_per_network is not None:
        count = _count(limits.network.ipv4, limits.network.ipv6, limits.max_per_network, limits.enforce)
        found.append(Described(count, "max_per_network", "per_network"))
    for index, level in enumerate(limits.levels):
        if level.max_connections is not None:
            count = _count(level.ipv4, level.ipv6, level.max_connections, limits.enforces(level))
            found.append(Described(count, f"levels[{index}].max_connections", "per_network"))
    if limits.rate is not None:
        found.append(Described(_rate(32, 128, limits.rate, limits.enforce), "rate", "rate"))
    for index, level in enumerate(limits.levels):
        if level.rate is not None:
            rate = _rate(level.ipv4, level.ipv6, level.rate, limits.enforces(level))
            found.append(Described(rate, f"levels[{index}].rate", "rate"))
    found += _counted_by_others(group, found)
    scope = "cluster" if limits.scope == "cluster" else "group"
    return [each._replace(scope=scope) for each in found[:MOST_LIMITS]]


def _counted_by_others(group: Iterable[Shape], known: Iterable[Described]) -> Iterator[Described]:
    """Yield the counts that other services of a group need besides the known limits, without a maximum."""
    counts = [each.limit for each in known if each.limit.seconds is None]
    for version, shift in sorted({(each.version, each.shift) for each in group if each.rate is None}):
        prefix = access_table.BITS[version] - shift
        if all(each.prefix(version) != prefix for each in counts):
            ipv4, ipv6 = (prefix, None) if version == 4 else (None, prefix)
            yield Described(Limit(ipv4, ipv6, 0, None, False), "group", "per_network")


def space(name: str, limits: tables.Limits) -> str:
    """Return the name of the space in which a service counts; services with the same name count together."""
    return name if limits.group is None else f"@{limits.group}"


def _count(ipv4: int | None, ipv6: int | None, most: int | None, enforced: bool) -> Limit:
    return Limit(ipv4, ipv6, most or 0, None, enforced)


def _rate(ipv4: int | None, ipv6: int | None, rate: values.Rate, enforced: bool) -> Limit:
    return Limit(ipv4, ipv6, rate.connections, rate.seconds, enforced)
