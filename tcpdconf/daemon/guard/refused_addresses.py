"""Counts refusals by address in bounded memory, to show which clients are refused most. Pure."""

import collections
from typing import Final

WIDTH: Final = 128  # addresses counted in one minute
MINUTE: Final = 60.0  # seconds
MINUTES: Final = 10

Address = tuple[int, int]  # IP version, and the address as a number


class RefusedAddresses:
    """Counts the refusals of the last ten minutes by address, minute by minute.

    Each minute has at most `WIDTH` counters (J. Misra, D. Gries: Finding repeated elements, 1982). A count is
    never too large. It lacks at most 1/(WIDTH + 1) of the refusals of all addresses, so an address with more
    than that is found for certain. A refusal takes constant time on average, because a counter can be
    decremented only as often as it was incremented. Nothing is allocated before the first refusal.
    """

    def __init__(self) -> None:
        self._counts: dict[Address, int] = {}  # counts of the current minute
        self._ends = float("-inf")  # end of the current minute
        self._earlier: list[tuple[float, dict[Address, int]]] = []  # past minutes (end, counts)

    def count(self, address: Address, now: float) -> None:
        """Add a refusal; `now` is seconds of a monotonic clock."""
        if now >= self._ends:
            self._begin(now)
        counts = self._counts
        if address in counts:
            counts[address] += 1
        elif len(counts) < WIDTH:
            counts[address] = 1
        else:
            self._counts = {each: count - 1 for each, count in counts.items() if count > 1}

    def most(self, now: float, number: int) -> list[tuple[Address, int]]:
        """Return up to `number` addresses with the largest counts, the largest first.

        All refusals of the last nine minutes count, and none that is older than ten minutes.
        """
        self._forget(now)
        found: collections.Counter[Address] = collections.Counter()
        for _, counts in self._earlier:
            found.update(counts)
        if now < self._ends + (MINUTES - 1) * MINUTE:
            found.update(self._counts)
        return found.most_common(number)

    def _begin(self, now: float) -> None:
        """Begin another minute."""
        if self._counts:
            self._earlier.append((self._ends, self._counts))
            self._counts = {}
        self._ends = now + MINUTE
        self._forget(now)

    def _forget(self, now: float) -> None:
        """Forget the minutes that began more than ten minutes ago."""
        oldest = now - (MINUTES - 1) * MINUTE
        self._earlier = [each for each in self._earlier if each[0] > oldest]
