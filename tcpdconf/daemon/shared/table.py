"""Gives a worker the counts that it shares with the other workers of its service or group."""

import fcntl
import os
import struct
import time
from collections.abc import Callable
from typing import Final, TypeVar

from tcpdconf.daemon.shared import layout, turns
from tcpdconf.daemon.shared.segment import OwnSegment, Segments

_BRIEF: Final = 20  # pauses that only yield the processor; later ones sleep
_SLEEP: Final = 0.0005  # seconds

_Result = TypeVar("_Result")


class SharedTable:
    """Implements `policy.shared_limits.Table` for the worker in one place.

    It opens the file again for its locks, which belong to an open file description (fcntl(2), F_OFD_SETLK).
    A lock on an inherited description would not exclude other processes that have inherited it.

    Args:
        fd: a descriptor of the file, which this object closes.
        place: the worker's place.
        wake: the service's eventfd, which wakes its paused workers; this object owns it.
    """

    def __init__(self, fd: int, place: int, wake: int) -> None:
        self._fd = os.open(f"/proc/self/fd/{fd}", os.O_RDWR | os.O_CLOEXEC)
        os.close(fd)
        self._wake = wake
        self._place = place
        self._own = OwnSegment(self._fd, place)
        self._relaxed = 0
        self._look()

    def fileno(self) -> int:
        """Return the eventfd, which is readable when a slot may be free."""
        return self._wake

    def close(self) -> None:
        """Close the descriptors; the counts of this worker stay in the file."""
        os.close(self._fd)
        os.close(self._wake)

    def is_at(self, fd: int, place: int) -> bool:
        """Return whether this is the table of a worker with this file and place."""
        return (os.fstat(self._fd).st_ino, self._place) == (os.fstat(fd).st_ino, place)

    # `policy.shared_limits.Table`

    def exclusively(self, act: Callable[[], _Result], undo: Callable[[_Result], object]) -> _Result:
        """Call `act` while no other worker does (`turns.exclusively`)."""
        return turns.exclusively(self, act, undo)

    def others(self, key: bytes) -> int:
        """Return how many connections the other workers hold under a key."""
        return self._segments.held(self._others, key)

    def put(self, key: bytes, count: int) -> None:
        """Set how many connections this worker holds under a key."""
        self._own.put(key, count)

    def full_at(self, key: bytes) -> float:
        """Return the latest time that a worker has set for a key, or 0.0."""
        return self._segments.full_at(self._places, key)

    def spend(self, key: bytes, full_at: float, now: float) -> float:
        """Set the time at which the token bucket of a key is full; return this worker's old time, or 0.0."""
        return self._own.spend(key, full_at, now)

    def taken(self) -> int:
        """Return how many slots the other workers of the service have taken."""
        return sum([self._words[layout.word(place, layout.TAKEN)] for place in self._fellows])

    def take(self, total: int) -> None:
        """Set how many slots this worker has taken."""
        self._own.set(layout.TAKEN, total)

    def replace(self, counts: dict[bytes, int], entries: int) -> None:
        """Replace all counts of this worker; make room for at least `entries` of them.

        No lock is needed: other workers see either the old or the new value of each count.
        """
        self._look()
        self._own.fit(max(entries, len(counts)))
        for key in self._own.counted():
            if key not in counts:
                self._own.put(key, 0)
        for key, count in counts.items():
            self._own.put(key, count)

    # pauses of the worker

    def set_paused(self, paused: bool) -> None:
        """Publish that this worker does not accept because all slots are taken, or that it accepts again."""
        self._own.set(layout.PAUSED, int(paused))

    def wake(self) -> None:
        """Wake the paused workers of the service, after a slot was released."""
        if any(self._words[layout.word(place, layout.PAUSED)] for place in self._fellows):
            os.eventfd_write(self._wake, 1)

    # `turns.Primitives`

    def try_lock(self, number: int) -> bool:
        """Lock a byte, unless another process holds it; return whether this process holds it now."""
        try:
            fcntl.fcntl(self._fd, fcntl.F_OFD_SETLK, _lock(fcntl.F_WRLCK, number))
        except BlockingIOError:
            return False
        return True

    def unlock(self, number: int) -> None:
        """Unlock a byte."""
        self._relaxed = 0
        fcntl.fcntl(self._fd, fcntl.F_OFD_SETLK, _lock(fcntl.F_UNLCK, number))

    def generation(self) -> int:
        """Return the largest generation that any process has declared.

        It reads new places first, since their workers may declare one.
        """
        words = self._words
        if words[layout.VERSION] != self._version:
            self._look()
            words = self._words
        return max([layout.generation(words[at]) for at in self._generations])

    def declare(self, number: int) -> None:
        """Declare a generation whose byte this process holds, before anything else is read."""
        self._own.set(layout.GENERATION, number)
        self.try_lock(number)

    def now(self) -> float:
        """Return the time of a monotonic clock in seconds."""
        return time.monotonic()

    def relax(self) -> None:
        """Yield the processor, or sleep for half a millisecond after many calls."""
        self._relaxed += 1
        if self._relaxed > _BRIEF:
            time.sleep(_SLEEP)
        else:
            os.sched_yield()

    def _look(self) -> None:
        """Read the places and their services from the header."""
        header = Segments(self._fd, 0).words
        self._version = header[layout.VERSION]  # first, so that a later change is noticed
        self._places = range(min(header[layout.COUNT], layout.PLACES))
        services = [header[layout.FIRST + place] for place in self._places]
        self._segments = Segments(self._fd, len(self._places))
        self._words = self._segments.words
        self._generations = [layout.word(place, layout.GENERATION) for place in self._places]
        self._others = [place for place in self._places if services[place] and place != self._place]
        self._fellows = [place for place in self._others if services[place] == services[self._place]]


def _lock(kind: int, number: int) -> bytes:
    """Return the struct flock (fcntl(2)) that locks or unlocks one byte."""
    return struct.pack("@hhqqi4x", kind, os.SEEK_SET, number, 1, 0)
