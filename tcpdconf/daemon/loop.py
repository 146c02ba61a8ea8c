"""The loop of every process of the daemon: descriptors and timers, one thread, callbacks.

Not asyncio, for two reasons. The supervisor forks, and a child must not inherit a running event loop. And
a worker with asyncio's loop has a megabyte more of its own: all that it touches of what it was forked with.
"""

import heapq
import itertools
import select
import time
from collections.abc import Callable
from typing import Protocol

now = time.monotonic


class Readable(Protocol):
    """Anything with a descriptor."""

    def fileno(self) -> int:
        """The descriptor."""


class Loop:
    """Calls back when descriptors are readable and when timers are due."""

    def __init__(self) -> None:
        self._epoll = select.epoll()
        self._callbacks: dict[int, Callable[[], None]] = {}
        self._timers: list[tuple[float, int, Callable[[], None]]] = []
        self._order = itertools.count()
        self._running = False

    def watch(self, source: Readable, callback: Callable[[], None]) -> None:
        """Call back whenever `source` is readable, until it is forgotten (to be done before it is closed)."""
        fd = source.fileno()
        self._epoll.register(fd, select.EPOLLIN)
        self._callbacks[fd] = callback

    def forget(self, source: Readable) -> None:
        """Watch `source` no longer."""
        fd = source.fileno()
        self._epoll.unregister(fd)
        del self._callbacks[fd]

    def after(self, seconds: float, callback: Callable[[], None]) -> None:
        """Call back once, so many seconds from now."""
        heapq.heappush(self._timers, (now() + seconds, next(self._order), callback))

    def run(self) -> None:
        """Go on until `stop`."""
        self._running = True
        while self._running:
            for fd, _ in self._epoll.poll(self._until_next()):
                callback = self._callbacks.get(fd)  # one that was called before may have forgotten it
                if callback is not None:
                    callback()
            while self._timers and self._timers[0][0] <= now():
                heapq.heappop(self._timers)[2]()

    def stop(self) -> None:
        """Let `run` return."""
        self._running = False

    def _until_next(self) -> float | None:
        return max(0.0, self._timers[0][0] - now()) if self._timers else None
