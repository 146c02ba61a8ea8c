"""Names what a worker measures and counts in its ledger's histograms, and their bounds.

The times of DNS lists are not in the ledger, which has a fixed size: the worker reports them.
"""

import bisect
from collections.abc import Mapping
from typing import Final, Literal

Measure = Literal["connection", "start", "slot_wait"]
"""Names a histogram: of the time that a program runs, of the time from accept(2) to the start of the program,
and of the time that a connection whose PROXY header is complete waits for a slot."""

BOUNDS: Final[Mapping[Measure, tuple[float, ...]]] = {
    "connection": (0.1, 0.5, 1.0, 5.0, 15.0, 60.0, 300.0, 1800.0, 7200.0, 43200.0),
    "start": (0.0005, 0.001, 0.0025, 0.01, 0.05, 0.25, 1.0, 2.5, 5.0, 10.0, 30.0),
    "slot_wait": (0.01, 0.1, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0),
}
"""Maps each histogram to the upper bounds of its buckets, in seconds; one more bucket has all above."""

LIST_BOUNDS: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0)
"""Holds the bounds of the buckets for the answer times of DNS lists, in seconds."""

CLUSTER_BOUNDS: Final = (0.0001, 0.00025, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 1.0)
"""Holds the bounds of the buckets for the answer times of the engine of [cluster], in seconds."""


class Times:
    """Counts times in buckets with these upper bounds; `total` is their sum."""

    def __init__(self, bounds: tuple[float, ...]) -> None:
        self.counts = [0] * (len(bounds) + 1)
        self.total = 0.0
        self._bounds = bounds

    def observe(self, seconds: float) -> None:
        """Add a time."""
        self.counts[bisect.bisect_left(self._bounds, seconds)] += 1
        self.total += seconds
