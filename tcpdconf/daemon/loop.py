"""The loop of every process of the daemon: descriptors and timers, one thread, callbacks.

Not asyncio, for two reasons. The supervisor forks, and a child must not inherit a running event loop. And
a worker with asyncio's loop has a megabyte more of its own: all that it touches of what it was forked with.
"""

import collections
import heapq
import itertools
import select
import time
from collections.abc import Callable
from typing import Final, Protocol

now = time.monotonic
_CANCELLED: Final = 100  # timers that may wait beside as many as are alive


class Watchable(Protocol):
    """Anything with a descriptor."""

    def fileno(self) -> int:
        """The descriptor."""


class Loop:
    """Calls back when descriptors are ready and when timers are due.

    A callback finds a descriptor ready as a rule, not always: what it watches does not block.
    """

    def __init__(self) -> None:
        self._epoll = select.epoll()
        self._callbacks: dict[int, Callable[[], None]] = {}
        self._timers: dict[int, Callable[[], None]] = {}
        self._due: list[tuple[float, int]] = []  # a heap of times and timers, with those that were cancelled
        self._numbers = itertools.count()
        self._soon: collections.deque[Callable[[], object]] = collections.deque()
        self._running = False

    def watch(self, source: Watchable, callback: Callable[[], None], *, writing: bool = False) -> None:
        """Call back whenever `source` can be read (or written); forget it before it is closed."""
        fd = source.fileno()
        self._epoll.register(fd, select.EPOLLOUT if writing else select.EPOLLIN)
        self._callbacks[fd] = callback

    def forget(self, source: Watchable) -> None:
        """Watch `source` no longer."""
        fd = source.fileno()
        self._epoll.unregister(fd)
        del self._callbacks[fd]

    def after(self, seconds: float, callback: Callable[[], None]) -> int:
        """Call back once, so many seconds from now; returns the timer's number."""
        number = next(self._numbers)
        self._timers[number] = callback
        heapq.heappush(self._due, (now() + seconds, number))
        return number

    def soon(self, callback: Callable[[], object]) -> None:
        """Call back once, when all that is ready and due has been: before the next wait.

        For what costs less when it is done for several connections at once.
        """
        self._soon.append(callback)

    def cancel(self, timer: int) -> None:
        """Do not call back; nothing happens when that was done already."""
        self._timers.pop(timer, None)
        if len(self._due) > 2 * len(self._timers) + _CANCELLED:
            self._due = [entry for entry in self._due if entry[1] in self._timers]
            heapq.heapify(self._due)

    def run(self) -> None:
        """Go on until `stop`."""
        self._running = True
        while self._running:
            while self._soon:
                self._soon.popleft()()
            for fd, _ in self._epoll.poll(self._until_next()):
                callback = self._callbacks.get(fd)  # one that was called before may have forgotten it
                if callback is not None:
                    callback()
            while self._due and self._due[0][0] <= now():
                callback = self._timers.pop(heapq.heappop(self._due)[1], None)
                if callback is not None:
                    callback()

    def stop(self) -> None:
        """Let `run` return."""
        self._running = False

    def _until_next(self) -> float | None:
        while self._due and self._due[0][1] not in self._timers:
            heapq.heappop(self._due)
        return max(0.0, self._due[0][0] - now()) if self._due else None
