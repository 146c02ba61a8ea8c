"""Finds workers that do not answer and kills them; each is restarted, and its programs continue.

It counts missed pings, not seconds: after a suspend of the host or a stop of the supervisor, one round is
late instead of many. A late round counts against no worker, since the workers may have been stopped too.
"""

import math
from collections.abc import Callable, Iterable
from typing import Final, Protocol

from tcpdconf.daemon.process import log, loop

_ROUNDS: Final = 3  # pings in a row without an answer; on a busy host a worker may miss one
_PAUSE: Final = 10.0  # seconds between two pings; follows from WatchdogSec=30 of the shipped unit
_SHORTEST: Final = 1.0  # least seconds between two pings, even with a short watchdog limit
_PREPARE: Final = 120.0  # seconds for a worker to read its files, twice those of a reload


class Pinged(Protocol):
    """Describes a worker as the heartbeat sees it; `missed` counts pings in a row without an answer."""

    name: str
    pid: int
    serves: bool
    missed: int

    def ping(self) -> None:
        """Send a ping."""

    def forgive(self) -> None:
        """Reset the count of missed pings."""

    def kill(self) -> None:
        """Kill the worker."""


class Heartbeat:
    """Pings the `workers` of a daemon three times within the service manager's `watchdog` limit (seconds).

    It kills a worker that has missed three pings, if it had the time to answer the last one. A worker that
    does not serve yet answers only after it has read its files, and has two minutes for that.
    """

    def __init__(
        self, events: loop.Loop, watchdog: float | None, workers: Callable[[], Iterable[Pinged]]
    ) -> None:
        self._loop = events
        self._pause = _PAUSE if watchdog is None else max(_SHORTEST, watchdog / _ROUNDS)
        self._preparing = max(_ROUNDS, math.ceil(_PREPARE / self._pause))
        self._workers = workers
        self._due = 0.0

    def start(self) -> None:
        """Start to ping at intervals."""
        self._wait()

    def _wait(self) -> None:
        self._due = loop.now() + self._pause
        self._loop.after(self._pause, self._round)

    def _round(self) -> None:
        late = loop.now() - self._due > self._pause / 2
        for each in self._workers():
            if late:
                each.forgive()
            elif each.missed >= (_ROUNDS if each.serves else self._preparing):
                log.error(f"{each.name} does not answer", pid=each.pid, pings=each.missed)
                each.kill()
                each.forgive()
            each.ping()
        self._wait()
