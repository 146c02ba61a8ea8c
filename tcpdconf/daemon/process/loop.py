"""The loop of every process of the daemon: descriptors and timers, one thread, callbacks.

Not asyncio, for two reasons. The supervisor forks, and a child must not inherit a running event loop. And
a worker with asyncio's loop has a megabyte more of its own: all that it touches of what it was forked with.
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
_CANCELLED: Final = 100  # timers that may wait beside as many as are alive
_REST: Final = 1.0  # seconds for which a descriptor is left alone whose callback has failed


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
        self._masks: dict[int, int] = {}  # events that are waited for, by descriptor
        self._resting: set[int] = set()  # descriptors whose callback has failed
        self._current: int | None = None  # the descriptor whose callback runs
        self._timers: dict[int, Callable[[], None]] = {}
        self._due: list[tuple[float, int]] = []  # a heap of times and timers, with those that were cancelled
        self._numbers = itertools.count()
        self._soon: collections.deque[Callable[[], object]] = collections.deque()
        self._running = False
        self._guarded = False
        self._seldom = throttle.Seldom()

    def guard(self) -> None:
        """From now on outlive what callbacks raise: each is logged as a defect, and costs no other its turn.

        A descriptor whose callback has failed is left alone for a second: it may be ready again at once. What
        fails again at the same place is logged once a minute.
        """
        self._guarded = True

    def attempt(self, callback: Callable[[], object]) -> bool:
        """Call this now, as a callback of its own; whether it has returned.

        For one of several steps that have to be done whatever becomes of the others. Without `guard` what it
        raises is raised here.
        """
        try:
            callback()
        except Exception as error:  # noqa: BLE001 (whatever the defect is)
            self._note(error)
            return False
        return True

    def watch(self, source: Watchable, callback: Callable[[], None], *, writing: bool = False) -> None:
        """Call back whenever `source` can be read (or written); forget it before it is closed."""
        self._register(source.fileno(), callback, select.EPOLLOUT if writing else select.EPOLLIN)

    def watch_end(self, source: Watchable, callback: Callable[[], None]) -> None:
        """Call back when the other side has closed a socket altogether, whatever there is to read from it."""
        self._register(source.fileno(), callback, select.EPOLLHUP)

    def forget(self, source: Watchable) -> None:
        """Watch `source` no longer."""
        fd = source.fileno()
        del self._callbacks[fd], self._masks[fd]
        if fd in self._resting:
            self._resting.discard(fd)
        else:
            self._epoll.unregister(fd)

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
            try:
                self._turn()
            except Exception as error:  # noqa: BLE001 (whatever the defect is)
                self._note(error)
                self._leave_alone()

    def stop(self) -> None:
        """Let `run` return."""
        self._running = False

    def _turn(self) -> None:
        """Do what is to be done soon, wait, do what is ready and due; a failure leaves the rest for later."""
        while self._soon:
            self._soon.popleft()()
        for fd, _ in self._epoll.poll(self._until_next()):
            callback = self._callbacks.get(fd)  # one that was called before may have forgotten it
            if callback is not None:
                self._current = fd
                callback()
        self._current = None
        while self._due and self._due[0][0] <= now():
            callback = self._timers.pop(heapq.heappop(self._due)[1], None)
            if callback is not None:
                callback()

    def _register(self, fd: int, callback: Callable[[], None], mask: int) -> None:
        self._epoll.register(fd, mask)
        self._resting.discard(fd)
        self._callbacks[fd], self._masks[fd] = callback, mask

    def _note(self, error: Exception) -> None:
        """Log a defect, unless that was done a moment ago; raise it where nobody guards."""
        if not self._guarded:
            raise error
        if self._seldom.due(_place(error), now()):
            log.crash("a defect of tcpdconf")

    def _leave_alone(self) -> None:
        """Let the descriptor rest whose callback has failed, if it was one."""
        fd, self._current = self._current, None
        if fd is None or fd not in self._callbacks or fd in self._resting:
            return
        callback = self._callbacks[fd]
        with contextlib.suppress(OSError):  # it may have been closed before it was forgotten
            self._epoll.unregister(fd)
        self._resting.add(fd)
        self.after(_REST, lambda: self._wake(fd, callback))

    def _wake(self, fd: int, callback: Callable[[], None]) -> None:
        """Watch a descriptor again, unless it was forgotten meanwhile and perhaps is another one."""
        if fd in self._resting and self._callbacks[fd] is callback:
            self._resting.discard(fd)
            self._epoll.register(fd, self._masks[fd])

    def _until_next(self) -> float | None:
        while self._due and self._due[0][1] not in self._timers:
            heapq.heappop(self._due)
        return max(0.0, self._due[0][0] - now()) if self._due else None


def _place(error: Exception) -> str:
    """Where it was raised, and its kind."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    where = "" if trace is None else f"{trace.tb_frame.f_code.co_filename}:{trace.tb_lineno}"
    return f"{type(error).__name__} {where}"
