"""Connection limits of one service: slots in all, per address and per network, and rates.

Counts are taken at admission and given back when the program has ended. Nothing here knows the time: callers
pass `now` in seconds of any clock that only goes forward.
"""

import ipaddress
from typing import Final, NamedTuple

from tcpdconf.config.model import tables, values
from tcpdconf.policy import connection
from tcpdconf.policy.access import table as access_table

_BUCKETS: Final = 65536  # token buckets remembered per generation; under a flood the oldest are forgotten
_ROUNDING: Final = 1 + 1e-9  # what sums of intervals may exceed their period by


class Grouping(NamedTuple):
    """Networks of one size: by version, the bits of an address below its network; no version, no limit."""

    shifts: dict[int, int]

    def of(self, peer: connection.Endpoint) -> tuple[int, int] | None:
        """What identifies the network of an address, or None when its family is not limited."""
        shift = self.shifts.get(peer.version)
        return None if shift is None else (peer.version, peer.value >> shift)

    def shown(self, peer: connection.Endpoint) -> str:
        """The network of an address whose family is limited, as people write it."""
        bits, shift = access_table.BITS[peer.version], self.shifts[peer.version]
        first = ipaddress.ip_address((peer.value >> shift << shift).to_bytes(bits // 8))
        return f"{first}/{bits - shift}" if shift else str(first)


class Use(NamedTuple):
    """A limit that applies to somebody: the network that it counts, how many it holds, and the most.

    Of a rate `held` is None and `seconds` its period.
    """

    limit: str
    network: str
    held: int | None
    most: int
    seconds: float | None = None


class Count:
    """Connections held at once by each network of one size."""

    def __init__(self, name: str, reason: connection.Reason, networks: Grouping, most: int | None) -> None:
        self.name = name
        self.reason = reason
        self.networks = networks
        self.most = most
        self.held: dict[tuple[int, int], int] = {}

    def refusal(self, peer: connection.Endpoint, most: int | None) -> connection.Refused | None:
        """Why one more from this peer would be too many; `most` in place of the configured number."""
        most = most or self.most
        key = self.networks.of(peer)
        if most is None or key is None or (held := self.held.get(key, 0)) < most:
            return None
        return connection.Refused(self.reason, (("limit", self.name), ("value", most), ("held", held)))

    def use(self, peer: connection.Endpoint, most: int | None) -> Use | None:
        """How far the limit is used up for this peer; None when it does not apply."""
        most = most or self.most
        key = self.networks.of(peer)
        if most is None or key is None:
            return None
        return Use(self.name, self.networks.shown(peer), self.held.get(key, 0), most)

    def add(self, peer: connection.Endpoint, change: int) -> None:
        """Count one more or one less; a network that holds nothing is forgotten."""
        key = self.networks.of(peer)
        if key is not None:
            held = self.held.get(key, 0) + change
            if held:
                self.held[key] = held
            else:
                del self.held[key]


class RateLimiter:
    """Token buckets of each network of one size, kept as the generic cell rate algorithm (ITU-T I.371) does.

    A bucket is one number: the time at which it will be full again. One that was not used for the rate's
    whole period is full, so that two generations of that age are all that needs remembering.
    """

    def __init__(self, name: str, networks: Grouping, rate: values.Rate) -> None:
        self.name = name
        self.networks = networks
        self.rate = rate
        self._interval = rate.seconds / rate.connections
        self._young: dict[tuple[int, int], float] = {}
        self._old: dict[tuple[int, int], float] = {}
        self._turn = 0.0  # when the young generation becomes the old one

    def is_like(self, other: "RateLimiter") -> bool:
        """Whether the other one limits the same."""
        return (self.name, self.networks, self.rate) == (other.name, other.networks, other.rate)

    def refusal(self, peer: connection.Endpoint, now: float) -> connection.Refused | None:
        """Why a further connection comes too soon; takes no token."""
        key = self.networks.of(peer)
        if key is None or self._full_at(key, now) + self._interval - now <= self.rate.seconds * _ROUNDING:
            return None
        value = f"{self.rate.connections}/{self.rate.seconds:g}s"
        return connection.Refused("rate", (("limit", self.name), ("value", value)))

    def spend(self, peer: connection.Endpoint, now: float) -> None:
        """Take a token."""
        key = self.networks.of(peer)
        if key is None:
            return
        full_at = self._full_at(key, now) + self._interval
        if now >= self._turn or len(self._young) >= _BUCKETS:
            self._old, self._young = self._young, {}
            self._turn = now + self.rate.seconds
        self._young[key] = full_at

    def _full_at(self, key: tuple[int, int], now: float) -> float:
        full_at = self._young.get(key)
        if full_at is None:
            full_at = self._old.get(key, now)
        return max(full_at, now)


class Slots:
    """The slots of one service and who holds them."""

    def __init__(self, limits: tables.Limits) -> None:
        self.most = limits.max_connections
        self.warn_at = limits.warn_at or max(1, limits.max_connections * 9 // 10)
        self.total = 0
        self._addresses, *self._networks = self._counts = _counts(limits)
        self._rates = _rates(limits)

    @property
    def full(self) -> bool:
        """Whether every slot is taken; the listeners are then left alone, and clients wait in the kernel."""
        return self.total >= self.most

    def take(
        self, peer: connection.Endpoint, max_per_ip: int | None, now: float
    ) -> connection.Refused | None:
        """Take a slot for a connection from `peer`, or say which limit stands against it.

        `max_per_ip` is an access rule's, in place of the configured one. A refusal changes nothing: neither a
        slot nor a token is spent on it.
        """
        refused = self._addresses.refusal(peer, max_per_ip)
        for count in self._networks:
            refused = refused or count.refusal(peer, None)
        for rate in self._rates:
            refused = refused or rate.refusal(peer, now)
        if refused is None:
            self.hold(peer)
            for rate in self._rates:
                rate.spend(peer, now)
        return refused

    def uses(self, peer: connection.Endpoint, max_per_ip: int | None) -> list[Use]:
        """The limits that apply to a peer, in the order in which they are looked at, without the total."""
        counts = [self._addresses.use(peer, max_per_ip), *(count.use(peer, None) for count in self._networks)]
        rates = [
            Use(rate.name, rate.networks.shown(peer), None, rate.rate.connections, rate.rate.seconds)
            for rate in self._rates
            if rate.networks.of(peer) is not None
        ]
        return [use for use in counts if use is not None] + rates

    def resized(self, limits: tables.Limits) -> "Slots":
        """The same connections under other limits; a rate that stays keeps its buckets."""
        found = Slots(limits)
        found.total = self.total
        for count in found._counts:
            for (version, value), held in self._addresses.held.items():
                count.add(connection.endpoint(version, value, 0), held)
        for index, rate in enumerate(found._rates):
            same = (old for old in self._rates if old.is_like(rate))
            found._rates[index] = next(same, rate)
        return found

    def hold(self, peer: connection.Endpoint) -> None:
        """Count a connection that is there already, whatever the limits say."""
        self.total += 1
        for count in self._counts:
            count.add(peer, 1)

    def release(self, peer: connection.Endpoint) -> None:
        """Give back the slot of a connection that was taken or held."""
        self.total -= 1
        for count in self._counts:
            count.add(peer, -1)


def _counts(limits: tables.Limits) -> list[Count]:
    found = [Count("max_per_ip", "per_ip", ADDRESSES, limits.max_per_ip)]
    if limits.max_per_network is not None:
        size = _networks(limits.network.ipv4, limits.network.ipv6)
        found.append(Count("max_per_network", "per_network", size, limits.max_per_network))
    for index, level in enumerate(limits.levels):
        if level.max_connections is not None:
            name = f"levels[{index}].max_connections"
            found.append(Count(name, "per_network", _networks(level.ipv4, level.ipv6), level.max_connections))
    return found


def _rates(limits: tables.Limits) -> list[RateLimiter]:
    found = [] if limits.rate is None else [RateLimiter("rate", ADDRESSES, limits.rate)]
    for index, level in enumerate(limits.levels):
        if level.rate is not None:
            found.append(RateLimiter(f"levels[{index}].rate", _networks(level.ipv4, level.ipv6), level.rate))
    return found


def _networks(ipv4: int | None, ipv6: int | None) -> Grouping:
    lengths = ((4, ipv4), (6, ipv6))
    return Grouping(
        {version: access_table.BITS[version] - length for version, length in lengths if length is not None}
    )


ADDRESSES: Final = _networks(32, 128)
