"""Runs the event loop of every process of the daemon: descriptors and timers, one thread, callbacks.

It is not asyncio, for two reasons. The supervisor forks, and a child must not inherit a running event loop.
And a worker with asyncio's loop needs a megabyte more of private memory, since it touches more of the pages
it was forked with.
"""

import collections
import contextlib
import heapq
import itertools
import select
import time
from collections.abc import Callable
from typing import Final, Protocol

from tcpdconf.daemon.process import log, throttle

now = time.monotonic
_CANCELLED: Final = 100  # cancelled timers that may stay in the heap beyond the number of live ones
_REST: Final = 1.0  # seconds for which a descriptor is not watched after its callback has failed


class Watchable(Protocol):
    """Describes any object with a descriptor."""

    def fileno(self) -> int:
        """Return the descriptor."""


class Loop:
    """Calls back when descriptors are ready and when timers are due.

    A callback may be called spuriously: use non-blocking descriptors.
    """

    def __init__(self) -> None:
        self._epoll = select.epoll()
        self._callbacks: dict[int, Callable[[], object]] = {}
        self._masks: dict[int, int] = {}  # events to wait for, by descriptor
        self._resting: set[int] = set()  # descriptors whose callback has failed
        self._current: int | None = None  # the descriptor whose callback runs
        self._timers: dict[int, Callable[[], object]] = {}
        self._due: list[tuple[float, int]] = []  # a heap of (time, timer), cancelled timers included
        self._numbers = itertools.count()
        self._soon: collections.deque[Callable[[], object]] = collections.deque()
        self._running = False
        self._guarded = False
        self._seldom = throttle.Seldom()

    def guard(self) -> None:
        """Survive exceptions in callbacks from now on: each is logged as a defect, and other callbacks run.

        A descriptor whose callback has failed is not watched for a second, since it may be ready again at
        once. A failure that recurs at the same place is logged once a minute.
        """
        self._guarded = True

    def attempt(self, callback: Callable[[], object]) -> bool:
        """Call `callback` now, guarded like a callback of the loop; return whether it succeeded.

        Use it for independent steps, so that a failure of one does not prevent the others. Without `guard`
        its exception is raised here.
        """
        try:
            callback()
        except Exception as error:  # noqa: BLE001 (whatever the defect is)
            self._note(error)
            return False
        return True

    def watch(self, source: Watchable, callback: Callable[[], object], *, writing: bool = False) -> None:
        """Call back whenever `source` can be read (or written); `forget` it before you close it."""
        self._register(source.fileno(), callback, select.EPOLLOUT if writing else select.EPOLLIN)

    def watch_shared(self, source: Watchable, callback: Callable[[], object]) -> None:
        """Call back when `source` can be read; the kernel wakes only one of the processes that watch it so.

        The kernel skips a process that is stopped or busy. But a process that is stopped just after it was
        woken does nothing. So another process should `watch` the same source, and be woken each time.
        """
        self._register(source.fileno(), callback, select.EPOLLIN | select.EPOLLEXCLUSIVE)

    def watch_writes(self, source: Watchable, callback: Callable[[], object]) -> None:
        """Call back after each write to `source`, an eventfd that is never read."""
        self._register(source.fileno(), callback, select.EPOLLIN | select.EPOLLET)

    def watch_end(self, source: Watchable, callback: Callable[[], object]) -> None:
        """Call back when the other side has closed a socket completely, even if there is data to read."""
        self._register(source.fileno(), callback, select.EPOLLHUP)

    def forget(self, source: Watchable) -> None:
        """Stop watching `source`."""
        fd = source.fileno()
        del self._callbacks[fd], self._masks[fd]
        if fd in self._resting:
            self._resting.discard(fd)
        else:
            self._epoll.unregister(fd)

    def after(self, seconds: float, callback: Callable[[], object]) -> int:
        """Call back once, after this number of seconds; return the timer's number."""
        number = next(self._numbers)
        self._timers[number] = callback
        heapq.heappush(self._due, (now() + seconds, number))
        return number

    def soon(self, callback: Callable[[], object]) -> None:
        """Call back once, after all ready descriptors and due timers, before the next wait.

        Use it for work that is cheaper when done for several connections at once.
        """
        self._soon.append(callback)

    def cancel(self, timer: int) -> None:
        """Cancel a timer; does nothing if it has already run."""
        self._timers.pop(timer, None)
        if len(self._due) > 2 * len(self._timers) + _CANCELLED:
            self._due = [entry for entry in self._due if entry[1] in self._timers]
            heapq.heapify(self._due)

    def run(self) -> None:
        """Run the loop until `stop` is called."""
        self._running = True
        while self._running:
            try:
                self._turn()
            except Exception as error:  # noqa: BLE001 (whatever the defect is)
                self._note(error)
                self._leave_alone()

    def stop(self) -> None:
        """Make `run` return."""
        self._running = False

    def _turn(self) -> None:
        """Run the `soon` callbacks, wait, and run callbacks of ready descriptors and due timers.

        An exception leaves the rest for the next turn.
        """
        while self._soon:
            self._soon.popleft()()
        for fd, _ in self._epoll.poll(self._until_next()):
            callback = self._callbacks.get(fd)  # an earlier callback may have forgotten it
            if callback is not None:
                self._current = fd
                callback()
        self._current = None
        while self._due and self._due[0][0] <= now():
            callback = self._timers.pop(heapq.heappop(self._due)[1], None)
            if callback is not None:
                callback()

    def _register(self, fd: int, callback: Callable[[], object], mask: int) -> None:
        self._epoll.register(fd, mask)
        self._resting.discard(fd)
        self._callbacks[fd], self._masks[fd] = callback, mask

    def _note(self, error: Exception) -> None:
        """Log a defect, unless it was logged a moment ago; without `guard`, raise it."""
        if not self._guarded:
            raise error
        if self._seldom.due(_place(error), now()):
            log.crash("a defect of tcpdconf")

    def _leave_alone(self) -> None:
        """Stop watching the descriptor whose callback has just failed, if any, for a second."""
        fd, self._current = self._current, None
        if fd is None or fd not in self._callbacks or fd in self._resting:
            return
        callback = self._callbacks[fd]
        with contextlib.suppress(OSError):  # it may have been closed before it was forgotten
            self._epoll.unregister(fd)
        self._resting.add(fd)
        self.after(_REST, lambda: self._wake(fd, callback))

    def _wake(self, fd: int, callback: Callable[[], object]) -> None:
        """Watch a descriptor again, unless it was forgotten and its number perhaps reused meanwhile."""
        if fd in self._resting and self._callbacks[fd] is callback:
            self._resting.discard(fd)
            self._epoll.register(fd, self._masks[fd])

    def _until_next(self) -> float | None:
        while self._due and self._due[0][1] not in self._timers:
            heapq.heappop(self._due)
        return max(0.0, self._due[0][0] - now()) if self._due else None


def _place(error: Exception) -> str:
    """Return the type of an exception and the place where it was raised."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    where = "" if trace is None else f"{trace.tb_frame.f_code.co_filename}:{trace.tb_lineno}"
    return f"{type(error).__name__} {where}"
