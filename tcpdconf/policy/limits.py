"""Applies the connection limits of one service: slots in total, per address, per network, and rates.

A connection is counted at admission and released when its program has exited. Nothing here reads a clock:
callers pass `now` in seconds of a monotonic clock.
"""

import ipaddress
from collections.abc import Sequence
from typing import Final, NamedTuple

from tcpdconf.config.model import tables, values
from tcpdconf.policy import connection
from tcpdconf.policy.access import table as access_table

_BUCKETS: Final = 65536  # token buckets remembered per generation; under a flood the oldest are dropped
_ROUNDING: Final = 1 + 1e-9  # tolerance for rounding when intervals are summed


class Grouping(NamedTuple):
    """Groups addresses into networks of one size.

    `shifts` maps an IP version to the number of host bits of its networks. A missing version is not limited.
    """

    shifts: dict[int, int]

    def of(self, peer: connection.Endpoint) -> tuple[int, int] | None:
        """Return a key for the network of an address, or None if its family is not limited."""
        shift = self.shifts.get(peer.version)
        return None if shift is None else (peer.version, peer.value >> shift)

    def shown(self, peer: connection.Endpoint) -> str:
        """Return the network of an address in text form; its family must be limited."""
        bits, shift = access_table.BITS[peer.version], self.shifts[peer.version]
        first = ipaddress.ip_address((peer.value >> shift << shift).to_bytes(bits // 8))
        return f"{first}/{bits - shift}" if shift else str(first)


class Use(NamedTuple):
    """Holds the current use of one limit by one network: `held` connections of at most `most`.

    For a limit on a rate, `rate` is that rate and `held` is None.
    """

    limit: str
    network: str
    held: int | None
    most: int
    rate: values.Rate | None = None
    enforced: bool = True


class Count:
    """Counts the connections that each network of one size holds at once.

    A limit that is not `enforced` refuses nobody, but still counts connections.
    """

    def __init__(
        self,
        name: str,
        reason: connection.Reason,
        networks: Grouping,
        most: int | None,
        *,
        enforced: bool = True,
    ) -> None:
        self.name = name
        self.reason = reason
        self.networks = networks
        self.most = most
        self.enforced = enforced
        self.held: dict[tuple[int, int], int] = {}

    def refusal(self, peer: connection.Endpoint, most: int | None) -> connection.Refused | None:
        """Return a refusal if one more connection from this peer exceeds the limit.

        `most`, if given, replaces the configured maximum.
        """
        most = most or self.most
        key = self.networks.of(peer)
        if most is None or key is None or (held := self.held.get(key, 0)) < most:
            return None
        return connection.Refused(self.reason, (("limit", self.name), ("value", most), ("held", held)))

    def use(self, peer: connection.Endpoint, most: int | None) -> Use | None:
        """Return the current use of the limit by this peer's network, or None if the limit does not apply."""
        most = most or self.most
        key = self.networks.of(peer)
        if most is None or key is None:
            return None
        return Use(self.name, self.networks.shown(peer), self.held.get(key, 0), most, enforced=self.enforced)

    def add(self, peer: connection.Endpoint, change: int) -> None:
        """Add `change` (1 or -1) to the count of the peer's network; drop a count that becomes zero."""
        key = self.networks.of(peer)
        if key is not None:
            held = self.held.get(key, 0) + change
            if held:
                self.held[key] = held
            else:
                del self.held[key]


class RateLimiter:
    """Limits the connection rate of each network of one size with token buckets.

    A bucket is one number, the time at which it is full again, as in the generic cell rate algorithm (ITU-T
    I.371). A bucket that was not used for a whole period is full, so two generations of that age suffice.

    A connection that others decide about as well reserves a token (`reserve`). Once they have decided, it
    spends the token or gives it back (`settle`). A token that was spent cannot be given back exactly: how
    much of it has been refilled meanwhile depends on all later connections.
    """

    def __init__(self, name: str, networks: Grouping, rate: values.Rate, *, enforced: bool = True) -> None:
        self.name = name
        self.networks = networks
        self.rate = rate
        self.enforced = enforced
        self._refused = connection.Refused("rate", (("limit", name), ("value", str(rate))))
        self._most = rate.seconds * _ROUNDING
        self._interval = rate.seconds / rate.connections
        self._young: dict[tuple[int, int], float] = {}
        self._old: dict[tuple[int, int], float] = {}
        self._reserved: dict[tuple[int, int], int] = {}
        self._turn = 0.0  # time at which the young generation gets old

    def is_like(self, other: "RateLimiter") -> bool:
        """Return whether the other limiter has the same name, networks and rate."""
        return (self.name, self.networks, self.rate) == (other.name, other.networks, other.rate)

    def take_over(self, other: "RateLimiter") -> None:
        """Adopt the buckets of a limiter for which `is_like` is True, and which is not used afterwards."""
        self._young, self._old, self._turn = other._young, other._old, other._turn  # noqa: SLF001 (its own kind)
        self._reserved = other._reserved  # noqa: SLF001

    def buckets(self) -> dict[tuple[int, int], float]:
        """Return the remembered buckets: by (IP version, network) the time at which each is full again."""
        return {**self._old, **self._young}

    def refusal(self, peer: connection.Endpoint, now: float) -> connection.Refused | None:
        """Return a refusal if a further connection would exceed the rate; take no token."""
        key = self.networks.of(peer)
        if key is None:
            return None
        full_at = self._full_at(key, now) + self._interval
        if self._reserved:
            full_at += self._reserved.get(key, 0) * self._interval
        return None if full_at - now <= self._most else self._refused

    def spend(self, peer: connection.Endpoint, now: float) -> None:
        """Take one token from the bucket of the peer's network."""
        key = self.networks.of(peer)
        if key is None:
            return
        full_at = self._full_at(key, now) + self._interval
        if now >= self._turn or len(self._young) >= _BUCKETS:
            self._old, self._young = self._young, {}
            self._turn = now + self.rate.seconds
        self._young[key] = full_at

    def reserve(self, peer: connection.Endpoint) -> None:
        """Keep one token of the peer's network from others, until `settle`."""
        key = self.networks.of(peer)
        if key is not None:
            self._reserved[key] = self._reserved.get(key, 0) + 1

    def settle(self, peer: connection.Endpoint, now: float, *, spent: bool) -> None:
        """Spend a token that was reserved, or give it back."""
        if spent:
            self.spend(peer, now)
        key = self.networks.of(peer)
        if key is None:
            return
        left = self._reserved.pop(key, 0) - 1
        if left > 0:
            self._reserved[key] = left

    def _full_at(self, key: tuple[int, int], now: float) -> float:
        full_at = self._young.get(key)
        if full_at is None:
            full_at = self._old.get(key, now)
        return full_at if full_at > now else now  # noqa: FURB136 (a third of the time of max)


class Slots:
    """Holds the slots of one service and counts which networks use them.

    `observes` is True if some limits are not enforced; `would_refuse` then returns their refusals.
    """

    def __init__(self, limits: tables.Limits) -> None:
        self.most = limits.max_connections
        self.warn_at = limits.warn_at or max(1, limits.max_connections * 9 // 10)
        self.total = 0
        self.observes = not all([limits.enforce, *map(limits.enforces, limits.levels)])
        self._apply(counts(limits), rates(limits))

    def _apply(self, counts: Sequence[Count], rates: Sequence[RateLimiter]) -> None:
        """Apply these limits; the first of `counts` is the limit per address."""
        self._addresses, *networks = self._counts = counts
        self._networks = [count for count in networks if count.enforced]
        self._all_rates = rates
        self._rates = [rate for rate in rates if rate.enforced]
        self._accounts = rates

    @property
    def full(self) -> bool:
        """True while every slot is taken; the listeners then pause, and clients wait in the backlog."""
        return self.total >= self.most

    @property
    def taken(self) -> int:
        """The slots that all workers have taken; here `total`, those of this worker, are all of them."""
        return self.total

    def take(
        self,
        peer: connection.Endpoint,
        max_per_ip: int | None,
        now: float,
        reserved: list[RateLimiter] | None = None,
    ) -> connection.Refused | None:
        """Take a slot for a connection from `peer`, or return the refusal of the first limit it exceeds.

        `max_per_ip` comes from an access rule and replaces the configured limit. A refusal spends neither a
        slot nor a token. With `reserved`, tokens are only reserved, and the rates are added to it for
        `settle`.
        """
        refused = self._addresses.refusal(peer, max_per_ip) if self._addresses.enforced else None
        for count in self._networks:
            refused = refused or count.refusal(peer, None)
        for rate in self._rates:
            refused = refused or rate.refusal(peer, now)
        if refused is None:
            self.hold(peer)
            if self._rates:
                spend(self._rates, peer, now, reserved)
        return refused

    def settle(
        self, peer: connection.Endpoint, now: float, reserved: Sequence[RateLimiter], *, spent: bool
    ) -> None:
        """Spend the tokens that a connection has reserved, or give them back.

        A rate that the service has no more is left out.
        """
        for rate in self._accounts:
            if any(rate.is_like(each) for each in reserved):
                rate.settle(peer, now, spent=spent)

    def would_refuse(
        self,
        peer: connection.Endpoint,
        max_per_ip: int | None,
        now: float,
        reserved: list[RateLimiter] | None = None,
    ) -> connection.Refused | None:
        """Return the refusal that a connection, which has just taken a slot, would get from all limits.

        `max_per_ip` is that of the rules which would apply if all sources were enforced. As with `take`, a
        refusal spends no token of a rate that only observes; `reserved` is as for `take`.
        """
        refused = None
        for count in self._counts:
            count.add(peer, -1)  # the counts without this connection
            refused = refused or count.refusal(peer, max_per_ip if count is self._addresses else None)
            count.add(peer, 1)
        observing = [rate for rate in self._all_rates if not rate.enforced]
        for rate in observing:
            refused = refused or rate.refusal(peer, now)
        if refused is None:
            spend(observing, peer, now, reserved)
        return refused

    def uses(self, peer: connection.Endpoint, max_per_ip: int | None) -> list[Use]:
        """Return the use of each limit that applies to a peer, in checking order, without the total."""
        counts = [self._addresses.use(peer, max_per_ip), *(count.use(peer, None) for count in self._networks)]
        rates = [
            Use(
                rate.name,
                rate.networks.shown(peer),
                None,
                rate.rate.connections,
                rate.rate,
                rate.enforced,
            )
            for rate in self._all_rates
            if rate.networks.of(peer) is not None
        ]
        return [use for use in counts if use is not None] + rates

    def resized(self, limits: tables.Limits) -> "Slots":
        """Return slots with the same connections and other limits; an unchanged rate keeps its buckets."""
        found = Slots(limits)
        found.take_over(self)
        return found

    def take_over(self, other: "Slots") -> None:
        """Adopt the connections and rates of slots that are not used afterwards."""
        self.total = other.total
        for count in self._counts:
            for (version, value), held in other._addresses.held.items():  # noqa: SLF001 (its own kind)
                count.add(connection.endpoint(version, value, 0), held)
        for rate in self._accounts:
            for old in other._accounts:  # noqa: SLF001
                if old.is_like(rate):
                    rate.take_over(old)

    def hold(self, peer: connection.Endpoint) -> None:
        """Count an existing connection, even beyond the limits."""
        self.total += 1
        for count in self._counts:
            count.add(peer, 1)

    def release(self, peer: connection.Endpoint) -> None:
        """Release the slot of a connection that `take` or `hold` counted."""
        self.total -= 1
        for count in self._counts:
            count.add(peer, -1)


def spend(
    rates: Sequence[RateLimiter],
    peer: connection.Endpoint,
    now: float,
    reserved: list[RateLimiter] | None,
) -> None:
    """Spend a token of each rate, or reserve it if `reserved` is a list, to which the rate is added."""
    for rate in rates:
        if reserved is None:
            rate.spend(peer, now)
        else:
            rate.reserve(peer)
            reserved.append(rate)


def counts(limits: tables.Limits) -> list[Count]:
    """Return the limits on simultaneous connections; the limit per address is the first."""
    own = limits.enforce
    found = [Count("max_per_ip", "per_ip", ADDRESSES, limits.max_per_ip, enforced=own)]
    if limits.max_per_network is not None:
        size = _networks(limits.network.ipv4, limits.network.ipv6)
        found.append(Count("max_per_network", "per_network", size, limits.max_per_network, enforced=own))
    for index, level in enumerate(limits.levels):
        if level.max_connections is not None:
            size = _networks(level.ipv4, level.ipv6)
            name, most = f"levels[{index}].max_connections", level.max_connections
            found.append(Count(name, "per_network", size, most, enforced=limits.enforces(level)))
    return found


def rates(limits: tables.Limits) -> list[RateLimiter]:
    """Return the limits on rates."""
    found = []
    if limits.rate is not None:
        found.append(RateLimiter("rate", ADDRESSES, limits.rate, enforced=limits.enforce))
    for index, level in enumerate(limits.levels):
        if level.rate is not None:
            size = _networks(level.ipv4, level.ipv6)
            name = f"levels[{index}].rate"
            found.append(RateLimiter(name, size, level.rate, enforced=limits.enforces(level)))
    return found


def _networks(ipv4: int | None, ipv6: int | None) -> Grouping:
    lengths = ((4, ipv4), (6, ipv6))
    return Grouping(
        {version: access_table.BITS[version] - length for version, length in lengths if length is not None}
    )


ADDRESSES: Final = _networks(32, 128)
