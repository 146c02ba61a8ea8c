"""Counts this host's connections by network, for the workers of one daemon. Pure.

A key is (space, version, prefix length, first bits of the address).
"""

from collections.abc import Iterable, Iterator

from tcpdconf.daemon.messages.cluster import Limit
from tcpdconf.policy.access import table as access_table

Key = tuple[str, int, int, int]
Address = tuple[int, int]


class Tally:
    """Holds the counts of one daemon. `changed` are the keys that the engine has not been told of."""

    def __init__(self) -> None:
        self.counts: dict[Key, int] = {}
        self.changed: dict[Key, None] = {}
        self._ahead: Iterator[Key] = iter(())

    def add(self, keys: Iterable[Key], change: int, *, told: bool = False) -> None:
        """Add `change` to these counts; `told` means that the engine knows of it."""
        for key in keys:
            count = self.counts.get(key, 0) + change
            if count > 0:
                self.counts[key] = count
            else:
                self.counts.pop(key, None)
            if not told:
                self.changed[key] = None

    def change_all(self) -> None:
        """Have all counts told again, because the engine has lost them or may have."""
        self.changed.update(dict.fromkeys(self.counts))

    def refresh(self, share: float) -> None:
        """Have a share of the counts told again, in turn, so that the engine does not forget them."""
        for _ in range(int(len(self.counts) * share) + 1):
            key = next(self._ahead, None)
            if key is None:
                self._ahead = iter(list(self.counts))
                return
            if key in self.counts:
                self.changed[key] = None


class Holder:
    """Holds the connections of one worker, by address, and counts them in the tally of its daemon."""

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
        """Return the keys that a connection of this address counts for, each once."""
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
        """Count connections more or less, never below zero; return the change that was made."""
        held = self.held.get(address, 0)
        change = max(change, -held)
        if change:
            if held + change:
                self.held[address] = held + change
            else:
                del self.held[address]
            self._tally.add(self.keys(address), change, told=told)
        return change

    def reached(self, address: Address, most: int) -> tuple[int, int] | None:
        """Return the first enforced limit that this host reaches for an address, and its connections.

        The limit is an index of `limits`. Rates are left out. `most`, if not 0, replaces the first maximum.
        """
        for index, limit in enumerate(self.limits):
            key = None if limit.seconds is not None else self.key(limit, address)
            held = 0 if key is None else self._tally.counts.get(key, 0)
            allowed = most if index == 0 and most else limit.most
            if limit.enforced and key is not None and 0 < allowed <= held:
                return index, held
        return None

    def clear(self) -> None:
        """Forget all connections."""
        for address, count in list(self.held.items()):
            self.add(address, -count)
