"""Applies the limits of a service that has several workers or is in a group.

Each worker counts its own connections as `limits` does, and publishes its counts in a table that it shares
with the others. A limit applies to the sum. Services of a group may have different limits. So each connection
is counted for every network size and every rate of any of them, and each service applies its own numbers.
"""

import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Final, Literal, NamedTuple, Protocol, TypeVar

from tcpdconf.config.model import tables, values
from tcpdconf.policy import connection, limits

_Result = TypeVar("_Result")

ALL_TAKEN: Final = connection.Refused("spawn", (("error", "all slots are taken"),))
"""Says that another worker has taken the last slot meanwhile. It refuses nobody: the client has to wait."""


class Shape(NamedTuple):
    """Describes one kind of count: networks of one family and size, with simultaneous connections or a rate.

    `shift` is the number of host bits of a network.
    """

    version: Literal[4, 6]
    shift: int
    rate: values.Rate | None = None

    @property
    def networks(self) -> limits.Grouping:
        """Return the grouping of addresses into these networks."""
        return limits.Grouping({self.version: self.shift})


class Table(Protocol):
    """Defines the operations of one worker on the shared table."""

    def exclusively(self, act: Callable[[], _Result], undo: Callable[[_Result], object]) -> _Result:
        """Call `act` while no other worker does. If its result does not count, call `undo`, and try again."""

    def others(self, key: bytes) -> int:
        """Return how many connections the other workers hold under a key."""

    def put(self, key: bytes, count: int) -> None:
        """Set how many connections this worker holds under a key."""

    def full_at(self, key: bytes) -> float:
        """Return the latest time that a worker has set for a key, or 0."""

    def spend(self, key: bytes, full_at: float, now: float) -> float:
        """Set the time at which a key's token bucket is full again; return this worker's old time, or 0."""

    def taken(self) -> int:
        """Return how many slots the other workers of the service have taken."""

    def take(self, total: int) -> None:
        """Set how many slots this worker has taken."""

    def replace(self, counts: dict[bytes, int], entries: int) -> None:
        """Replace all counts of this worker; make room for at least `entries` of them."""


def shapes(settings: tables.Limits) -> Iterator[Shape]:
    """Yield the kinds of counts that the limits of a service need."""
    for count in limits.counts(settings):
        yield from (_shape(*each) for each in count.networks.shifts.items())
    for rate in limits.rates(settings):
        yield from (_shape(*each, rate.rate) for each in rate.networks.shifts.items())


def _shape(version: int, shift: int, rate: values.Rate | None = None) -> Shape:
    return Shape(4 if version == 4 else 6, shift, rate)


def renewed(
    before: limits.Slots,
    settings: tables.Limits,
    table: Table | None,
    group: Iterable[Shape] = (),
    *,
    reserves: bool = False,
) -> limits.Slots:
    """Return slots with the same connections and other limits, which share `table` if it is given.

    The result changes nothing in the table before its `publish`. `reserves` is as for `SharedSlots`.
    """
    if table is None:
        return before.resized(settings)
    found = SharedSlots(settings, table, group, reserves=reserves)
    found.take_over(before)
    return found


class SharedSlots(limits.Slots):
    """Holds the slots of one worker, and applies the limits to those of all workers.

    Until `publish` is called the table keeps the counts of this worker or its predecessor. So the counts of
    adopted programs are never missing there.

    Args:
        settings: the limits of the service.
        table: the shared table.
        group: the kinds of counts that the other services of the group need.
        reserves: whether workers that use the table reserve tokens.
    """

    def __init__(
        self, settings: tables.Limits, table: Table, group: Iterable[Shape] = (), *, reserves: bool = False
    ) -> None:
        super().__init__(settings)
        self._table = table
        self._spent: list[tuple[bytes, float]] = []  # keys of rates, and this worker's old times
        self._published = False
        self._reserves = reserves
        further = sorted({*group} - {*shapes(settings)}, key=repr)
        counts = [_SharedCount(each, table) for each in self._counts]
        counts += [_SharedCount(_without_limit(each), table) for each in further if each.rate is None]
        self._shared = counts
        own = [_SharedRate(each, table, self._spent, reserves=reserves) for each in self._all_rates]
        self._foreign = [
            _SharedRate(
                limits.RateLimiter("", each.networks, each.rate), table, self._spent, reserves=reserves
            )
            for each in further
            if each.rate is not None
        ]
        self._apply(counts, own)
        self._accounts = self._every_rate = [*own, *self._foreign]
        # limits for networks of the same size have the same counts, which one of them publishes
        self._writers = {
            version: [
                *{
                    each.networks.shifts[version]: each for each in counts if version in each.networks.shifts
                }.values()
            ]
            for version in (4, 6)
        }

    @property
    def full(self) -> bool:
        """True while all slots of the service are taken."""
        return self.total + self._table.taken() >= self.most

    @property
    def taken(self) -> int:
        """The slots that all workers of the service have taken."""
        return self.total + self._table.taken()

    def take(
        self,
        peer: connection.Endpoint,
        max_per_ip: int | None,
        now: float,
        reserved: list[limits.RateLimiter] | None = None,
    ) -> connection.Refused | None:
        """Take a slot as `Slots.take` does, or return its refusal, or `ALL_TAKEN` if no slot is free."""
        return self._table.exclusively(
            lambda: self._take(peer, max_per_ip, now, reserved),
            lambda refused: self._undo(peer, now, refused, reserved),
        )

    def _take(
        self,
        peer: connection.Endpoint,
        max_per_ip: int | None,
        now: float,
        reserved: list[limits.RateLimiter] | None,
    ) -> connection.Refused | None:
        self._spent.clear()
        if self.full:
            return ALL_TAKEN
        refused = super().take(peer, max_per_ip, now, reserved)
        if refused is None and self._foreign:
            limits.spend(self._foreign, peer, now, reserved)
        return refused

    def _undo(
        self,
        peer: connection.Endpoint,
        now: float,
        refused: connection.Refused | None,
        reserved: list[limits.RateLimiter] | None,
    ) -> None:
        if refused is None:
            self.release(peer)
        self._restore(peer, now, reserved)

    def _restore(
        self, peer: connection.Endpoint, now: float, reserved: list[limits.RateLimiter] | None, kept: int = 0
    ) -> None:
        """Take back the tokens that were spent last, or reserved after the first `kept` ones."""
        for key, before in self._spent:
            self._table.spend(key, before, now)
        while reserved is not None and len(reserved) > kept:
            reserved.pop().settle(peer, now, spent=False)

    def settle(
        self, peer: connection.Endpoint, now: float, reserved: Sequence[limits.RateLimiter], *, spent: bool
    ) -> None:
        """Spend the tokens that a connection has reserved, or give them back (`Slots.settle`).

        They are spent first. So no other worker sees one that is neither spent nor reserved.
        """
        if spent and reserved:
            like = [rate for rate in self._accounts if any(rate.is_like(each) for each in reserved)]
            self._table.exclusively(
                lambda: self._spend(like, peer, now), lambda _: self._restore(peer, now, None)
            )
        super().settle(peer, now, reserved, spent=False)

    def _spend(self, rates: Sequence[limits.RateLimiter], peer: connection.Endpoint, now: float) -> None:
        self._spent.clear()
        limits.spend(rates, peer, now, None)

    def would_refuse(
        self,
        peer: connection.Endpoint,
        max_per_ip: int | None,
        now: float,
        reserved: list[limits.RateLimiter] | None = None,
    ) -> connection.Refused | None:
        """Return the refusal that a connection, which has just taken a slot, would get (`Slots`)."""
        kept = len(reserved or ())
        return self._table.exclusively(
            lambda: self._would_refuse(peer, max_per_ip, now, reserved),
            lambda _: self._restore(peer, now, reserved, kept),
        )

    def _would_refuse(
        self,
        peer: connection.Endpoint,
        max_per_ip: int | None,
        now: float,
        reserved: list[limits.RateLimiter] | None,
    ) -> connection.Refused | None:
        self._spent.clear()
        refused = None
        for count in self._shared:
            most = max_per_ip if count is self._addresses else None
            refused = refused or count.refusal(peer, most, without=1)
        observing = [rate for rate in self._all_rates if not rate.enforced]
        for rate in observing:
            refused = refused or rate.refusal(peer, now)
        if refused is None:
            limits.spend(observing, peer, now, reserved)
        return refused

    def hold(self, peer: connection.Endpoint) -> None:
        """Count an existing connection, even beyond the limits."""
        super().hold(peer)
        self._write(peer)

    def release(self, peer: connection.Endpoint) -> None:
        """Release the slot of a connection that `take` or `hold` counted."""
        super().release(peer)
        self._write(peer)

    def publish(self) -> None:
        """Publish all counts, and every later change."""
        counts = {
            writer.key(version, network): held
            for version, writers in self._writers.items()
            for writer in writers
            for (family, network), held in writer.held.items()
            if family == version
        }
        for rate in self._every_rate:
            counts |= rate.reservations()
        kinds = max(len(writers) for writers in self._writers.values())
        if self._reserves:
            kinds += len(self._every_rate)
        entries = self.most * kinds
        self._table.replace(counts, entries)
        self._table.take(self.total)
        self._published = True

    def _write(self, peer: connection.Endpoint) -> None:
        if self._published:
            self._table.take(self.total)
            for writer in self._writers[peer.version]:
                writer.publish(peer)


class _SharedCount(limits.Count):
    """Counts the connections of this worker, and compares the sum of all workers with the limit."""

    def __init__(self, plain: limits.Count, table: Table) -> None:
        super().__init__(plain.name, plain.reason, plain.networks, plain.most, enforced=plain.enforced)
        self._table = table
        self._tags = _tags(plain.networks)

    def key(self, version: int, network: int) -> bytes:
        """Return the key of a network in the table."""
        return self._tags[version] + network.to_bytes(16)

    def refusal(
        self, peer: connection.Endpoint, most: int | None, without: int = 0
    ) -> connection.Refused | None:
        """Return a refusal if one more connection exceeds the limit; ignore `without` of the held ones."""
        most = most or self.most
        network = self.networks.of(peer)
        if most is None or network is None or (held := self._held_by_all(network) - without) < most:
            return None
        return connection.Refused(self.reason, (("limit", self.name), ("value", most), ("held", held)))

    def use(self, peer: connection.Endpoint, most: int | None) -> limits.Use | None:
        """Return the current use of the limit by this peer's network, or None if the limit does not apply."""
        network = self.networks.of(peer)
        most = most or self.most
        if most is None or network is None:
            return None
        held, shown = self._held_by_all(network), self.networks.shown(peer)
        return limits.Use(self.name, shown, held, most, enforced=self.enforced)

    def publish(self, peer: connection.Endpoint) -> None:
        """Set the count of the peer's network in the table."""
        network = self.networks.of(peer)
        if network is not None:
            self._table.put(self.key(*network), self.held.get(network, 0))

    def _held_by_all(self, network: tuple[int, int]) -> int:
        return self.held.get(network, 0) + self._table.others(self.key(*network))


class _SharedRate(limits.RateLimiter):
    """Limits a rate with token buckets in the table.

    Each worker writes its own time for a network, computed from the latest one of all. So the latest one
    counts. Tokens that are reserved are counts of each worker, as its connections are.
    """

    def __init__(
        self,
        plain: limits.RateLimiter,
        table: Table,
        spent: list[tuple[bytes, float]],
        *,
        reserves: bool,
    ) -> None:
        super().__init__(plain.name, plain.networks, plain.rate, enforced=plain.enforced)
        self._table = table
        self._spent = spent
        self._reserves = reserves
        self._tags = _tags(plain.networks, plain.rate)
        self._reserved_tags = _tags(plain.networks, plain.rate, of="reserved")

    def take_over(self, other: limits.RateLimiter) -> None:
        """Adopt the buckets of a limiter for which `is_like` is True, unless the table has them."""
        for network, full_at in other.buckets().items():
            self._table.spend(self._key(network), full_at, 0.0)
        self._reserved = other._reserved  # noqa: SLF001 (its own kind)

    def refusal(self, peer: connection.Endpoint, now: float) -> connection.Refused | None:
        """Return a refusal if a further connection would exceed the rate, with those of all workers."""
        network = self.networks.of(peer)
        if network is None:
            return None
        tokens = 1
        if self._reserves:
            tokens += self._reserved.get(network, 0) + self._table.others(self._reserved_key(network))
        full_at = self._full_at(network, now) + tokens * self._interval
        return None if full_at - now <= self._most else self._refused

    def reserve(self, peer: connection.Endpoint) -> None:
        """Keep one token of the peer's network from others, until `settle`."""
        super().reserve(peer)
        self._publish(peer)

    def settle(self, peer: connection.Endpoint, now: float, *, spent: bool) -> None:
        """Spend a token that was reserved, or give it back."""
        super().settle(peer, now, spent=spent)
        self._publish(peer)

    def reservations(self) -> dict[bytes, int]:
        """Return how many tokens this worker has reserved, by keys of the table."""
        return {self._reserved_key(network): count for network, count in self._reserved.items()}

    def _publish(self, peer: connection.Endpoint) -> None:
        network = self.networks.of(peer)
        if network is not None:
            self._table.put(self._reserved_key(network), self._reserved.get(network, 0))

    def spend(self, peer: connection.Endpoint, now: float) -> None:
        """Take one token from the bucket of the peer's network, unless an equal limit has taken it.

        A service of the group with a higher rate may admit more; the bucket then stays empty.
        """
        network = self.networks.of(peer)
        key = None if network is None else self._key(network)
        if network is None or key is None or any(key == spent for spent, _ in self._spent):
            return
        full_at = min(self._full_at(network, now) + self._interval, now + self.rate.seconds)
        self._spent.append((key, self._table.spend(key, full_at, now)))

    def _full_at(self, key: tuple[int, int], now: float) -> float:
        return max(min(self._table.full_at(self._key(key)), now + self.rate.seconds), now)

    def _key(self, network: tuple[int, int]) -> bytes:
        version, value = network
        return self._tags[version] + value.to_bytes(16)

    def _reserved_key(self, network: tuple[int, int]) -> bytes:
        version, value = network
        return self._reserved_tags[version] + value.to_bytes(16)


def _tags(networks: limits.Grouping, rate: values.Rate | None = None, of: str = "") -> dict[int, bytes]:
    """Return the first bytes of the keys by IP version; they differ for each network size and each rate."""
    return {
        version: hashlib.blake2b(f"{_shape(version, shift, rate)}{of}".encode(), digest_size=8).digest()
        for version, shift in networks.shifts.items()
    }


def _without_limit(shape: Shape) -> limits.Count:
    return limits.Count("", "per_network", shape.networks, None, enforced=False)
