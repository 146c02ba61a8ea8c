"""Keeps the numbers of connections of each service over 15 minutes, for the page's sparklines. Pure."""

from collections import deque
from collections.abc import Mapping
from typing import Final, NamedTuple

SAMPLES: Final = 61  # of each service; at most 4 KiB, less for small numbers, which share memory
INTERVAL: Final = 15.0  # seconds between two samples, which together cover 15 minutes


class Sample(NamedTuple):
    """Holds the number of connections at a time (time.monotonic)."""

    at: float
    connections: int


class History:
    """Keeps the last samples of each service, and drops those of removed services."""

    def __init__(self) -> None:
        self._times: deque[float] = deque(maxlen=SAMPLES)
        self._counts: dict[str, deque[int]] = {}

    def add(self, at: float, connections: Mapping[str, int]) -> None:
        """Add the numbers of all services at a time."""
        self._times.append(at)
        before = self._counts
        self._counts = {name: before.get(name, deque(maxlen=SAMPLES)) for name in connections}
        for name, count in connections.items():
            self._counts[name].append(count)

    def of(self, service: str) -> list[Sample]:
        """Return the samples of a service, the oldest first."""
        counts = self._counts.get(service, ())
        times = [*self._times][len(self._times) - len(counts) :]
        return [Sample(at, count) for at, count in zip(times, counts, strict=True)]
