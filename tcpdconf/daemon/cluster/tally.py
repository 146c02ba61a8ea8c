"""Counts this host's connections by network, for the workers of one daemon, and decides by them. Pure.

A key is (space, IP version, prefix length, prefix as a number).
"""

from collections.abc import Iterable, Iterator

from tcpdconf.config.model import values
from tcpdconf.daemon.cluster.records import Answer
from tcpdconf.daemon.messages.cluster import Limit
from tcpdconf.policy import limits
from tcpdconf.policy.access import table as access_table
from tcpdconf.policy.connection import Endpoint, endpoint

Key = tuple[str, int, int, int]
Address = tuple[int, int]


class Tally:
    """Holds the counts of one daemon; `changed` has the keys whose counts the engine does not know."""

    def __init__(self) -> None:
        self.counts: dict[Key, int] = {}
        self.changed: dict[Key, None] = {}
        self._ahead: Iterator[Key] = iter(())

    def add(self, keys: Iterable[Key], change: int, *, told: bool = False) -> None:
        """Add `change` to these counts; with `told`, the engine knows the change already."""
        for key in keys:
            count = self.counts.get(key, 0) + change
            if count > 0:
                self.counts[key] = count
            else:
                self.counts.pop(key, None)
            if not told:
                self.changed[key] = None

    def change_all(self) -> None:
        """Mark all counts as changed, because the engine has or may have lost them."""
        self.changed.update(dict.fromkeys(self.counts))

    def refresh(self, share: float) -> None:
        """Mark a fraction of the counts as changed, in rotation, so that they do not expire in the engine."""
        for _ in range(int(len(self.counts) * share) + 1):
            key = next(self._ahead, None)
            if key is None:
                self._ahead = iter(list(self.counts))
                return
            if key in self.counts:
                self.changed[key] = None


class Holder:
    """Holds the connections of one worker by address, and counts them in the tally of its daemon."""

    def __init__(self, tally: Tally, space: str) -> None:
        self._tally = tally
        self.space = space
        self.limits: tuple[Limit, ...] = ()
        self.held: dict[Address, int] = {}

    def lay_out(self, limits: tuple[Limit, ...]) -> None:
        """Count for these limits from now on."""
        for address, count in self.held.items():
            self._tally.add(self.keys(address), -count)
        self.limits = limits
        for address, count in self.held.items():
            self._tally.add(self.keys(address), count)

    def keys(self, address: Address) -> dict[Key, None]:
        """Return the distinct keys that a connection of this address counts for; the values are None."""
        found: dict[Key, None] = {}
        for limit in self.limits:
            key = None if limit.seconds is not None else self.key(limit, address)
            if key is not None:
                found[key] = None
        return found

    def key(self, limit: Limit, address: Address) -> Key | None:
        """Return the key of a limit for an address, or None if its family is not limited."""
        version, value = address
        prefix = limit.prefix(version)
        if prefix is None:
            return None
        return self.space, version, prefix, value >> access_table.BITS[version] - prefix

    def add(self, address: Address, change: int, *, told: bool = False) -> int:
        """Add `change` connections of an address, never below zero in total; return the actual change."""
        held = self.held.get(address, 0)
        change = max(change, -held)
        if change:
            if held + change:
                self.held[address] = held + change
            else:
                del self.held[address]
            self._tally.add(self.keys(address), change, told=told)
        return change

    def clear(self) -> None:
        """Forget all connections."""
        for address, count in list(self.held.items()):
            self.add(address, -count)


class Decisions:
    """Decides by the counts of one daemon whether one more connection fits into the limits of its worker.

    A rate is common to the services of a space that have the same one.
    """

    def __init__(self, tally: Tally) -> None:
        self._tally = tally
        self._rates: dict[tuple[str, int, int, int, float], limits.RateLimiter] = {}

    def answer(self, holder: Holder, address: Address, most: int, number: int, now: float) -> Answer:
        """Return the verdict of all limits on the request `number`; only an admission spends tokens.

        `most`, unless it is 0, replaces the first limit.
        """
        peer = endpoint(*address, 0)
        spent: list[limits.RateLimiter] = []
        observed = Answer("admitted", number)
        for index, limit in enumerate(holder.limits):
            held, full = 0, False
            if limit.seconds is None:
                allowed = most if index == 0 and most else limit.most
                key = holder.key(limit, address)
                held = 0 if key is None else self._tally.counts.get(key, 0)
                full = bool(allowed) and key is not None and held >= allowed
            elif limit.prefix(peer.version) is not None:
                rate = self._rate(holder.space, limit, peer)
                full = rate.refusal(peer, now) is not None
                if not full:
                    spent.append(rate)
            if full and limit.enforced:
                return Answer("refused", number, index, held)
            if full and not observed.limit:
                observed = Answer("admitted", number, index + 1, held)
        for rate in spent:
            rate.spend(peer, now)
        return observed

    def _rate(self, space: str, limit: Limit, peer: Endpoint) -> limits.RateLimiter:
        """Return the limiter of a rate, in which other services of the space have their connections too."""
        prefix = limit.prefix(peer.version)
        assert prefix is not None  # noqa: S101 (the caller has looked)
        assert limit.seconds is not None  # noqa: S101 (it is a rate)
        key = space, peer.version, prefix, limit.most, limit.seconds
        found = self._rates.get(key)
        if found is None:
            shift = access_table.BITS[peer.version] - prefix
            networks = limits.Grouping({peer.version: shift})
            rate = values.Rate(limit.most, limit.seconds)
            found = self._rates[key] = limits.RateLimiter("rate", networks, rate)
        return found
