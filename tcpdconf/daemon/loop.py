"""The supervisor's loop: descriptors and timers in one thread.

Not asyncio: the supervisor forks, and a child must not inherit a running event loop.
"""

import heapq
import itertools
import selectors
import time
from collections.abc import Callable
from typing import Protocol


class Readable(Protocol):
    """Anything with a descriptor."""

    def fileno(self) -> int:
        """The descriptor."""


class Loop:
    """Calls back when descriptors are readable and when timers are due."""

    def __init__(self) -> None:
        self._selector = selectors.DefaultSelector()
        self._timers: list[tuple[float, int, Callable[[], None]]] = []
        self._order = itertools.count()
        self._running = False

    def watch(self, source: Readable, callback: Callable[[], None]) -> None:
        """Call back whenever `source` is readable."""
        self._selector.register(source, selectors.EVENT_READ, callback)

    def forget(self, source: Readable) -> None:
        """Watch `source` no longer."""
        self._selector.unregister(source)

    def after(self, seconds: float, callback: Callable[[], None]) -> None:
        """Call back once, so many seconds from now."""
        heapq.heappush(self._timers, (time.monotonic() + seconds, next(self._order), callback))

    def run(self) -> None:
        """Go on until `stop`."""
        self._running = True
        while self._running:
            for key, _ in self._selector.select(self._until_next()):
                if key.fd in self._selector.get_map():  # a callback before may have forgotten it
                    key.data()
            while self._timers and self._timers[0][0] <= time.monotonic():
                heapq.heappop(self._timers)[2]()

    def stop(self) -> None:
        """Let `run` return."""
        self._running = False

    def _until_next(self) -> float | None:
        return max(0.0, self._timers[0][0] - time.monotonic()) if self._timers else None
